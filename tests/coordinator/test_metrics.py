"""What Prometheus and the status line are told."""

import math

import pytest

from potluck.coordinator.accuracy import Comparison, Figure
from potluck.coordinator.generation import Drawn, EngineStatus
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.scheduler.scheduler import Delivery
from potluck.coordinator.watch import RequestWatch, StepWatch
from potluck.deploy.progress import status_text
from potluck.proto import cluster_pb2 as pb
from potluck.proto.step import Outcome, Result, StageTime


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_a_request_that_ends_well():
    metrics = Metrics()
    watch = RequestWatch(metrics, 7)
    for drawn in (Drawn(1), Drawn(2), Drawn(3, finish="length")):
        watch.delivered(Delivery(1, drawn))
    assert value(metrics, "potluck_prompt_tokens_total") == 7
    assert value(metrics, "potluck_generation_tokens_total") == 3
    assert value(metrics, "potluck_time_to_first_token_seconds_count") == 1
    assert value(metrics, "potluck_time_per_output_token_seconds_count") == 2
    assert value(metrics, "potluck_sequence_seconds_count") == 1
    assert value(metrics, "potluck_sequences_total", outcome="ok") == 1


def test_a_prompt_that_is_only_scored_counts_its_tokens():
    metrics = Metrics()
    RequestWatch(metrics, 7).delivered(Delivery(1, Drawn(finish="length")))
    assert value(metrics, "potluck_prompt_tokens_total") == 7
    assert value(metrics, "potluck_time_to_first_token_seconds_count") == 0


def test_requests_by_outcome():
    metrics = Metrics()
    RequestWatch(metrics, 1).delivered(Delivery(1, Drawn(), "the node left"))
    RequestWatch(metrics, 1).end("cancelled")
    assert value(metrics, "potluck_sequences_total", outcome="error") == 1
    assert value(metrics, "potluck_sequences_total", outcome="cancelled") == 1


def test_the_page_is_brought_up_to_date_when_it_is_read():
    metrics = Metrics()
    metrics.refreshers.append(lambda: metrics.set_load(3, 2, 0.5))
    metrics.set_links({("attic", "hall"): (4, 400, 40)})
    metrics.set_transfers({"attic": 1.5})
    metrics.set_nodes({"attic": {"stall_seconds": 0.25, "streamed_bytes": 4096.0, "sums": 18.0}})
    metrics.add_stage("attic", 2, 0.25, 0.125)
    page = metrics.render().decode()
    assert "potluck_sequences_running 3.0" in page
    assert "potluck_kv_cache_used_ratio 0.5" in page
    assert 'potluck_link_payload_bytes{source="attic",target="hall"} 400.0' in page
    assert 'potluck_node_transfer_seconds{node="attic"} 1.5' in page
    assert 'potluck_node_stall_seconds{node="attic"} 0.25' in page
    assert 'potluck_node_sums{node="attic"} 18.0' in page
    assert 'potluck_stage_seconds_total{kind="compute",node="attic",stage="2"} 0.25' in page


def test_predictions_are_there_before_anything_is_measured():
    metrics, name = Metrics(), "time_to_first_token"
    metrics.set_accuracy(Comparison(), {name: 0.5, "time_per_output_token": 0.02})
    assert value(metrics, "potluck_predicted_time_to_first_token_seconds") == 0.5
    assert math.isnan(value(metrics, "potluck_measured_time_to_first_token_seconds"))
    assert math.isnan(value(metrics, "potluck_prediction_deviation_ratio", what=name))
    metrics.set_accuracy(Comparison(Figure(0.4, 0.6, 0.45, 3)), {name: 0.5, "time_per_output_token": 0.02})
    assert value(metrics, "potluck_predicted_time_to_first_token_seconds") == 0.4
    assert value(metrics, "potluck_measured_time_to_first_token_seconds") == 0.6
    assert value(metrics, "potluck_prediction_deviation_ratio", what=name) == 0.45
    assert value(metrics, "potluck_predicted_time_per_output_token_seconds") == 0.02


def test_a_request_alone_tells_its_medians_and_no_other():
    watch, shared = RequestWatch(Metrics(), 7, alone=True), RequestWatch(Metrics(), 7)
    for number in range(6):
        for one in (watch, shared):
            one.delivered(Delivery(1, Drawn(number)))
            # The first step is the prompt's.
            one.stepped(step(number + 1, 5, compute=0.5 if number else 9.0))
    lone = watch.lone()
    assert (lone.prompt, lone.drawn, lone.stages) == (7, 6, {(0, "attic"): 0.5, (1, "hall"): 0.25})
    assert 0 < lone.each < lone.first + 1.0
    assert shared.lone() is None
    assert RequestWatch(Metrics(), 7, alone=True).lone() is None


def step(number, *tokens, compute=0.5):
    outcomes = [Outcome(sequence, token) for sequence, token in enumerate(tokens)]
    return Result(number, outcomes, [StageTime("attic", 0, 0.1, compute), StageTime("hall", 1, 0.0, compute / 2)])


def test_nodes_are_shown_by_what_they_did_since_the_last_look():
    watch = StepWatch()
    begun = watch._looked
    watch.stepped(step(1, 4, 5, -1), 1.0)
    watch.node_reported(pb.StatusReply(node="attic", transfer_seconds=0.25))
    rate, (attic, hall) = watch.look(begun + 1.0)
    assert rate == pytest.approx(2.0)
    assert (attic.node, attic.compute, attic.transfer, attic.wait) == ("attic", 0.5, 0.25, 0.25)
    assert (hall.compute, hall.transfer, hall.wait) == (0.25, 0.0, 0.75)
    assert watch.look(begun + 1.2) == (rate, [attic, hall])
    rate, (attic, _) = watch.look(begun + 3.0)
    assert (rate, attic.compute, attic.wait) == (0.0, 0.0, 1.0)


def test_a_group_that_waits_for_a_member_is_seen():
    """Sums are no computing, and the links' share of them no transfer; who does not lead is in no step's times."""
    watch = StepWatch()
    begun = watch._looked
    watch.stepped(step(1, 4), 1.0)
    watch.node_reported(pb.StatusReply(node="attic", compute_seconds=0.5, transfer_seconds=0.375, sum_seconds=0.25))
    watch.node_reported(pb.StatusReply(node="cellar", compute_seconds=0.75, transfer_seconds=0.5, sum_seconds=0.5))
    _, (attic, hall, cellar) = watch.look(begun + 1.0)
    assert (attic.compute, attic.sums, attic.transfer, attic.wait) == (0.25, 0.25, 0.125, 0.375)
    assert (cellar.compute, cellar.sums, cellar.transfer, cellar.wait) == (0.25, 0.5, 0.0, 0.25)
    assert hall.sums == 0.0
    assert watch.node_figures()["cellar"]["sum_seconds"] == 0.5
    line = status_text(EngineStatus(True, "", 1, 0, 0.0, 1.0, [attic, hall, cellar])).plain
    assert "25% transfer 50% sums" not in line and line.count("sums") == 2 and line.endswith("0% transfer 50% sums")


def test_progress_is_what_came_since_it_was_last_asked():
    watch = StepWatch()
    assert not watch.progressed()
    watch.stepped(step(1), 1.0)
    assert watch.progressed()
    assert not watch.progressed()
