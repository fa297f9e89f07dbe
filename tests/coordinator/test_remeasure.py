"""When nodes are measured again, and what is made of it. The probe with real workers is in test_review.py."""

import itertools
import threading
import time
from dataclasses import replace

import pytest

from potluck.coordinator import remeasure
from potluck.coordinator.accuracy import LoneRequest
from potluck.coordinator.calls import CallError
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric
from potluck.coordinator.in_force import InForce
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.remeasure import MeasureError, Outcome, Remeasure, judge, measure_quietly
from potluck.coordinator.review import Review
from potluck.coordinator.workers import Workers
from potluck.models.shipped import shipped_spec
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal
from potluck.planner.predict import predict
from potluck.planner.solve import solve

SPEC = shipped_spec("Qwen/Qwen3-0.6B")
GOAL = Goal("bfloat16", kv_tokens=4096, spread="all")


def fleet(*bandwidths):
    nodes = tuple(
        Node(NodeName(f"n{number}"), (Device("cpu", bandwidth * 20, bandwidth, 8 << 30),))
        for number, bandwidth in enumerate(bandwidths)
    )
    return Fleet(nodes, NodeName("n0"), Link(1e-3, 1e8))


EVEN, UNEVEN = fleet(2e10, 2e10), fleet(2e10, 2e9)
FORCE = InForce(solve(EVEN, SPEC, GOAL), EVEN, SPEC, GOAL)


def requests_over(real, count=5):
    """What requests measure where the fleet is really this one."""
    expected = predict(FORCE.plan, real, SPEC, replace(GOAL, prompt=64, context=80))
    return [LoneRequest(64, 32, expected.time_to_first_token, expected.time_per_token)] * count


def test_a_node_that_slowed_down_explains_it_and_gets_less():
    outcome = judge(FORCE, requests_over(UNEVEN), UNEVEN)
    assert outcome.explained
    assert {one.subject for one in outcome.departures} == {"node n1"}
    assert outcome.fleet == replace(UNEVEN, links=outcome.fleet.links)
    before, after = (predict(plan, UNEVEN, SPEC, GOAL).time_per_token for plan in (FORCE.plan, outcome.better))
    assert outcome.gain == pytest.approx(1 - after / before)
    assert outcome.gain > 0.1


@pytest.mark.parametrize("kept", [{"described": True}, {"fixed": True}])
def test_descriptions_and_plans_made_by_hand_stay(kept):
    outcome = judge(replace(FORCE, **kept), requests_over(UNEVEN), UNEVEN)
    assert outcome.explained and outcome.departures
    assert (outcome.better, outcome.gain) == (None, 0.0)


def test_figures_that_explain_nothing_change_no_plan():
    """Requests say that the fleet is faster than planned for, the new figures that it is slower."""
    outcome = judge(FORCE, requests_over(fleet(8e10, 8e10)), UNEVEN)
    assert (outcome.explained, outcome.better) == (False, None)


def test_a_plan_that_would_hardly_be_better_is_not_loaded():
    slightly = fleet(1.2e10, 1.1e10)
    outcome = judge(FORCE, requests_over(slightly), slightly)
    assert outcome.explained
    assert (outcome.better, outcome.gain) == (None, 0.0)


def test_emulated_fleets_are_judged_in_their_own_time():
    stretched = [replace(one, first=one.first * 5, each=one.each * 5) for one in requests_over(UNEVEN)]
    assert judge(replace(FORCE, scale=5.0, described=True), stretched, UNEVEN).explained


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(remeasure, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(remeasure, "_ASK_SECONDS", 0.02)
    return ServingEngine("tiny", 64, Metrics())


def test_what_was_measured_beside_a_request_does_not_count(engine):
    found = []

    def measure():
        found.append(len(found))
        engine.arrived += len(found) < 3
        return found[-1]

    assert measure_quietly(engine, measure, threading.Event()) == 2
    assert found == [0, 1, 2]


def test_a_fleet_that_is_never_quiet_is_left_alone(engine, monkeypatch):
    monkeypatch.setattr(remeasure, "_PATIENCE_SECONDS", 0.5)
    requests = itertools.count()
    # Whenever it looks, another one has come.
    monkeypatch.setattr(type(engine), "arrived", property(lambda self: next(requests)), raising=False)
    with pytest.raises(MeasureError, match="no quiet moment"):
        measure_quietly(engine, lambda: pytest.fail("measured beside requests"), threading.Event())


def ended(measuring):
    deadline = time.monotonic() + 10
    while measuring.outcome is None and time.monotonic() < deadline:
        time.sleep(0.01)
    measuring.stop(1.0)
    return measuring.outcome


def test_a_node_that_does_not_answer_ends_it(engine):
    def measure():
        raise CallError(NodeName("n1"), "it is off")

    assert ended(Remeasure(engine, measure, lambda found: Outcome())).failure == "node 'n1': it is off"


def test_who_stops_waits_for_nothing(engine, monkeypatch):
    monkeypatch.setattr(remeasure, "_QUIET_SECONDS", 60.0)
    measuring = Remeasure(engine, lambda: EVEN, lambda found: Outcome())
    begun = time.monotonic()
    measuring.stop(10.0)
    assert time.monotonic() - begun < 5.0
    assert measuring.outcome.failure


class Said:
    """What an observer of a review was told, in order."""

    def __init__(self):
        self.comparisons, self.doubts = [], []

    def compared(self, comparison):
        self.comparisons.append(comparison)

    def remeasuring(self, cause, figure):
        self.doubts.append((cause, figure, self.comparisons[-1]))


@pytest.mark.parametrize("remeasure_after", [3, 5, 30])
def test_the_figure_that_leads_to_measuring_is_the_one_that_was_shown_last(engine, monkeypatch, remeasure_after):
    review, said = Review(engine, Workers(LocalFabric([]), "tcp"), remeasure_after), Said()
    (usual,) = requests_over(EVEN, 1)
    slower = [1.0] * 8 + [1.1, 1.33, 1.3, 1.66, 1.66, 1.4, 1.2, 1.66] + [1.66] * 40
    arrived = iter(replace(usual, each=usual.each * times, first=usual.first * times) for times in slower)
    monkeypatch.setattr(engine, "lone_requests", lambda: [next(arrived)])
    review.begin(FORCE)
    try:
        while not said.doubts:
            review.look(said)
    finally:
        review.stop()
    ((cause, figure, shown),) = said.doubts
    assert shown.figures[cause] == figure == review.comparison.figures[cause] == review.remeasured.figure
    assert figure.deviation > 0.3 and figure.requests >= remeasure_after
