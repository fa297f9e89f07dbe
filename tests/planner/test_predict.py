"""Predictions, against sums by hand."""

import pytest

from potluck.planner.costs import Pass, seconds
from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.predict import predict

GOAL = Goal(context=100, prompt=48, chunk=32)


@pytest.fixture
def ring(homes):
    return homes.plan(
        homes.stage("a", homes.EMBEDDING, range(1)),
        homes.stage("b", range(1, 2)),
        homes.stage("a", range(2, 3)),
        homes.stage("b", range(3, 4)),
        homes.stage("a", homes.HEAD),
    )


def compute(spec, plan, fleet, work):
    """Seconds of compute per stage."""
    return [seconds(spec, s.parts, work, (fleet.node(s.node).device, plan.dtype)) for s in plan.routes[0].stages]


def test_a_token_pays_every_stage_and_every_hop(homes, ring):
    spec, home = homes.model(4), homes.fleet(homes.node("a", 60), homes.node("b", 15), latency=0.002, bandwidth=1e6)
    hops = 4 * (0.002 + 64 * 4 / 1e6)
    expected = sum(compute(spec, ring, home, Pass(1, 1, 100))) + hops
    assert predict(ring, home, spec, GOAL).time_per_token == pytest.approx(expected)


def test_a_detour_through_another_engine_costs_two_hops(homes, ring):
    spec, nodes = homes.model(4), (homes.node("a"), homes.node("b"), homes.node("c"))
    away = Link(1.0, 1e9)
    links = {("c", "a"): away, ("a", "c"): away}
    times = [predict(ring, homes.fleet(*nodes, engine=e, links=links), spec, GOAL).time_per_token for e in "ac"]
    assert times[1] - times[0] == pytest.approx(2.0)


def test_the_first_token_waits_for_every_chunk_and_only_sampled_rows_go_to_the_head(homes, ring):
    spec, home = homes.model(4), homes.fleet(homes.node("a"), homes.node("b"), latency=0.0, bandwidth=1e3)
    row = 64 * 4 / 1e3
    last = sum(compute(spec, ring, home, Pass(16, 1, 40))) + row * (3 * 16 + 1)
    # The links are so slow that a hop of the first chunk, 32 rows, is what the second waits for.
    assert predict(ring, home, spec, GOAL).time_to_first_token == pytest.approx(last + row * 32)


def test_one_node_has_no_hops(homes):
    spec, home = homes.model(4), homes.fleet(homes.node("a"), latency=9.0)
    alone = homes.plan(homes.stage("a", homes.EMBEDDING, range(4), homes.HEAD))
    expected = sum(compute(spec, alone, home, Pass(1, 1, 100)))
    assert predict(alone, home, spec, GOAL).time_per_token == pytest.approx(expected)


def test_a_faster_node_a_faster_link_and_a_smaller_type_all_help(homes, ring):
    spec = homes.model(4)

    def time(gflops, latency, dtype="float32"):
        home = homes.fleet(homes.node("a", 60), homes.node("b", gflops), latency=latency)
        plan = homes.plan(*ring.routes[0].stages, dtype=dtype)
        return predict(plan, home, spec, GOAL).time_per_token

    base = time(15, 0.003)
    assert time(30, 0.003) < base and time(15, 0.001) < base and time(15, 0.003, "bfloat16") < base
