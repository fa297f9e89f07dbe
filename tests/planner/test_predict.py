"""Predictions, against sums by hand."""

from dataclasses import replace

import pytest

from potluck.models.costs import Pass, seconds
from potluck.models.spec import Part, PartKind
from potluck.planner.all_reduce import Algorithm, AllReduce, Wire
from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.plan import Route, Share
from potluck.planner.predict import predict
from potluck.planner.software import NONE

GOAL = Goal(context=100, prompt=48, chunk=32, software=NONE)


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
    # The links are so slow that the second chunk, 16 rows, waits for every hop of the first, 32 rows.
    first = sum(compute(spec, ring, home, Pass(32, 0, 16))[:3]) + row * 3 * 32
    last = sum(compute(spec, ring, home, Pass(16, 1, 40))[3:]) + row * (16 + 1)
    prediction = predict(ring, home, spec, GOAL)
    assert prediction.time_to_first_token == pytest.approx(first + last)
    assert prediction.prefill.total.transfer == pytest.approx(row * (3 * 16 + 1)), "the second chunk's own way"
    assert prediction.prefill.total.wait == pytest.approx(row * (3 * 32 - 2 * 16), rel=1e-3)


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


# Groups ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(homes):
    """The embedding and the head on a, the layers on a and b in unequal shares."""
    spec = homes.model(4)
    shares = Share("a", (0, 1), (0, 64)), Share("b", (1, 2), (64, 96))
    layers = replace(homes.stage("a", range(4)), shares=shares)
    return spec, homes.plan(homes.stage("a", homes.EMBEDDING), layers, homes.stage("a", homes.HEAD))


def test_a_group_is_as_slow_as_its_slowest_member_and_waits_for_its_sums(homes, grouped):
    spec, plan = grouped
    home = homes.fleet(homes.node("a", 60), homes.node("b", 30), latency=0.002, bandwidth=1e6)
    ends = (homes.EMBEDDING, homes.HEAD)
    work, (a, b) = Pass(1, 1, 100), [(node.device, "float32") for node in home.nodes]
    members = [(replace(spec, heads=2, kv_heads=1, ffn=ffn), device) for ffn, device in ((64, a), (32, b))]
    layer = [
        max(seconds(s, [Part(kind, 0)], work, c) for s, c in members) for kind in (PartKind.ATTENTION, PartKind.FFN)
    ]
    sums = 8 * (0.002 + 64 * 4 / 1e6)
    hops = 0.002 + 64 * 4 / 1e6
    expected = seconds(spec, ends, work, a) + 4 * sum(layer) + sums + hops
    assert predict(plan, home, spec, GOAL).time_per_token == pytest.approx(expected)
    stage = replace(plan.routes[0].stages[1], all_reduce=AllReduce(Algorithm.STAR, Wire.INT8))
    star = replace(plan, routes=(Route((plan.routes[0].stages[0], stage, plan.routes[0].stages[2])),))
    more = 8 * (2 * (0.002 + 72 / 1e6)) - sums
    assert predict(star, home, spec, GOAL).time_per_token == pytest.approx(expected + more)


def test_chunks_do_not_overlap_where_members_come_round(homes, grouped):
    spec, plan = grouped
    away = {("c", "a"): Link(1.0, 1e9), ("a", "c"): Link(1.0, 1e9)}
    home = homes.fleet(*map(homes.node, "abc"), engine="c", links=away)

    def first(prompt, chunk):
        return predict(
            plan, home, spec, Goal(context=100, prompt=prompt, chunk=chunk, software=NONE)
        ).time_to_first_token

    assert first(64, 32) - first(32, 32) > 2.0, "the second chunk starts when the first is back"
    way = (homes.EMBEDDING, range(2)), (range(2, 4),), (homes.HEAD,)
    ring = homes.plan(*(homes.stage(name, *parts) for name, parts in zip("aba", way, strict=True)))
    goal = replace(GOAL, prompt=64, chunk=32)
    assert predict(ring, home, spec, goal).time_to_first_token < 3.5


def test_logits_are_gathered_by_the_lead(homes):
    spec = homes.model(1)
    home = homes.fleet(homes.node("a"), homes.node("b"), latency=0.0, bandwidth=1e3)
    slow = {("b", "a"): Link(5.0, 1e3)}
    shares = Share("a", (0, 1), (0, 32), (0, 96)), Share("b", (1, 2), (32, 96), (96, 320))
    plan = homes.plan(replace(homes.stage("a", homes.EMBEDDING, range(1), homes.HEAD), shares=shares))
    far = replace(home, links=slow)
    times = [predict(plan, one, spec, GOAL).time_per_token for one in (home, far)]
    assert times[1] - times[0] == pytest.approx(4 * 5.0), "three sums and the gather"
