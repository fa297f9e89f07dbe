"""Comparing, doubting and correcting, without a clock or a network."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.accuracy import Accuracy, Comparison, Figure, LoneRequest, predictor, worth_saying
from potluck.coordinator.drift import Departure, Drift, departures, explains, refreshed, stretched
from potluck.models.shipped import shipped_spec
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.predict import predict
from potluck.planner.solve import solve

SPEC = shipped_spec("Qwen/Qwen3-0.6B")
NODES = (
    Node(NodeName("a"), (Device("cpu", 4e11, 2e10, 8 << 30),), 1e9),
    Node(NodeName("b"), (Device("cpu", 1e11, 1e10, 8 << 30),)),
)
FLEET = Fleet(NODES, NodeName("a"), Link(1e-3, 1e8))
GOAL = Goal("bfloat16", kv_tokens=4096, spread="all", solver="proportional", chunk=256)
PLAN = solve(FLEET, SPEC, GOAL)
PREDICT = predictor(PLAN, FLEET, SPEC, GOAL)


def lone(prompt, drawn, times=1.0):
    """A request that took so many times what is predicted for it."""
    expected = PREDICT(prompt, prompt + drawn // 2)
    stages = {
        (number, stage.node): (one.total - one.transfer - one.software) * times
        for number, (stage, one) in enumerate(zip(PLAN.routes[0].stages, expected.decode.stages, strict=True))
    }
    return LoneRequest(prompt, drawn, expected.time_to_first_token * times, expected.time_per_token * times, stages)


def off(first=0.0, each=0.0, requests=5):
    """A comparison with these deviations."""
    return Comparison(Figure(1.0, 1.0 + first, first, requests), Figure(1.0, 1.0 + each, each, requests))


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 200)), min_size=1, max_size=10), st.floats(0.2, 5.0))
def test_long_and_short_requests_are_each_held_against_their_own_prediction(lengths, times):
    accuracy = Accuracy(PREDICT, requests=[lone(prompt, drawn, times) for prompt, drawn in lengths])
    compared = accuracy.comparison()
    figures = [compared.first, compared.each, *compared.stages.values()]
    assert [figure.deviation for figure in figures] == pytest.approx([times - 1.0] * len(figures))
    assert {figure.requests for figure in figures} == {len(lengths)}
    assert compared.rate.deviation == pytest.approx(1 / times - 1.0)
    assert len(compared.stages) == len(PLAN.routes[0].stages)


def test_medians_are_of_the_latest_and_outliers_do_not_count():
    times = [9.0] * 10 + [1.0] * 7 + [3.0, 1.5, 1.5]
    accuracy = Accuracy(PREDICT, requests=[lone(64, 32, one) for one in times])
    assert accuracy.comparison().each.deviation == pytest.approx(0.0)
    assert len(accuracy.requests) == 10
    assert len(Accuracy(PREDICT, 15, accuracy.requests * 2).requests) == 15, "as many as are asked about"


def test_requests_too_short_for_a_time_per_token_count_for_the_first():
    accuracy = Accuracy(PREDICT, requests=[lone(64, 32), LoneRequest(64, 2, 1.0)])
    assert (accuracy.comparison().first.requests, accuracy.comparison().each.requests) == (2, 1)
    nothing = Accuracy(PREDICT).comparison()
    assert (nothing.figures, nothing.rate, nothing.requests) == ({}, None, 0)


def test_predictions_are_for_one_request_of_that_length():
    asked = replace(GOAL, prompt=300, context=320, batch=1)
    assert predictor(PLAN, FLEET, SPEC, replace(GOAL, batch=8))(300, 310) == predict(PLAN, FLEET, SPEC, asked)


@pytest.mark.parametrize("scale", [1.0, 3.0, 20.0])
def test_stretched_time_stretches_everything_but_software(scale):
    """A token alone: its parts add up, so that the arithmetic can be done by hand."""
    real, there = PREDICT(64, 80).decode.total, predictor(PLAN, stretched(FLEET, scale), SPEC, GOAL)(64, 80)
    assert there.time_per_token == pytest.approx((real.total - real.software) * scale + real.software)
    assert stretched(stretched(FLEET, scale), 1 / scale).link(*"ab").latency == pytest.approx(1e-3)


def test_a_comparison_is_news_when_it_moves_or_knows_more():
    said = off(0.1, 0.1)
    assert worth_saying(None, said)
    assert not worth_saying(said, off(0.2, -0.04, 17))
    assert worth_saying(said, off(0.1, 0.3))
    assert worth_saying(Comparison(said.first), said)


def test_doubt_needs_enough_requests_and_a_third():
    drift = Drift(5)
    assert drift.cause(off(0.9, 0.9, requests=4), 0.0) is None
    assert drift.cause(off(0.29, -0.29), 0.0) is None
    assert drift.cause(off(0.35, -0.4), 0.0) == "time_per_output_token"
    assert drift.cause(off(0.5, -0.4), 0.0) == "time_to_first_token"
    assert Drift(0).cause(off(9.0, 9.0, 100), 0.0) is None


def test_what_measuring_did_not_explain_is_not_asked_about_again():
    drift = Drift(5)
    assert drift.cause(off(each=0.5), 0.0)
    drift.measured(off(each=0.5), False, 0.0)
    assert drift.cause(off(each=0.9), 3599.0) is None  # worse, but too early
    assert drift.cause(off(each=0.7), 3601.0) is None
    assert drift.cause(off(each=0.9), 3601.0)
    drift.measured(off(each=0.0), True, 4000.0)
    assert drift.cause(off(each=0.5), 4599.0) is None
    assert drift.cause(off(each=0.5), 4601.0)


def test_a_deviation_that_went_away_is_new_when_it_returns():
    drift = Drift(5)
    drift.measured(off(each=0.5), False, 0.0)
    assert drift.cause(off(each=0.2), 4000.0) is None  # still above half of the limit: the same one
    assert drift.cause(off(each=0.5), 4000.0) is None
    assert drift.cause(off(each=0.1), 4000.0) is None
    assert drift.cause(off(each=0.5), 4000.0)
    drift.measured(off(each=0.5), False, 5000.0)
    drift.forget()
    assert drift.cause(off(each=0.5), 9000.0)


@given(st.lists(st.floats(-0.9, 5.0), min_size=1, max_size=50), st.booleans())
def test_measuring_never_follows_measuring_within_ten_minutes(deviations, explained):
    drift, asked = Drift(5), []
    for second, deviation in enumerate(deviations):
        if drift.cause(off(each=deviation), 60.0 * second):
            asked.append(60.0 * second)
            drift.measured(off(each=deviation), explained, asked[-1])
    rest = 600.0 if explained else 3600.0
    assert all(later - earlier >= rest for earlier, later in pairwise(asked))


def test_explained_is_what_predicts_every_figure():
    assert explains(off(0.3, -0.3))
    assert not explains(off(0.1, 0.4))


def test_a_node_is_corrected_and_keeps_its_memory():
    slow = Device("cpu", 1e10, 2e10, 1 << 20)
    found = Fleet((Node(NodeName("a"), (slow,)),), NodeName("a"), Link(9.0, 9.0), {})
    fresh = refreshed(FLEET, found)
    assert fresh.node("a").device == replace(NODES[0].device, flops=1e10)
    assert fresh.node("a").disk_bandwidth == 1e9  # unknown now
    assert (fresh.node("b"), fresh.default_link, fresh.engine) == (NODES[1], FLEET.default_link, "a")
    assert departures(FLEET, fresh) == (Departure("node a", "flops", 4e11, 1e10),)


@pytest.mark.parametrize(
    ("link", "told"),
    [
        (Link(5e-3, 1e8), ["latency"]),
        (Link(1.5e-3, 1e8), []),  # half a millisecond more
        (Link(1e-3, 1e7), ["bandwidth"]),
        (Link(1e-3, 9e7), []),
        (Link(9e-3, 1e7), ["latency", "bandwidth"]),
    ],
)
def test_links_are_told_where_it_costs_time(link, told):
    ends = (NodeName("a"), NodeName("b"))
    found = Fleet(NODES, NodeName("a"), FLEET.default_link, {ends: link})
    departed = departures(FLEET, refreshed(FLEET, found))
    assert [one.quantity for one in departed] == told
    assert {one.subject for one in departed} <= {"link a -> b"}
