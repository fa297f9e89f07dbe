"""What must hold of every simulation: nothing faster makes it slower, seconds add up, causes come before effects.

That nothing faster makes it slower is a theorem for one request of one step at a time only: where steps queue, one that
comes sooner may hold up one that matters more (Graham's anomalies), in simulations as in reality.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from potluck.models.costs import Pass
from potluck.planner.all_reduce import Algorithm, AllReduce
from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.group_sums import Setting
from potluck.planner.memory import node_bytes
from potluck.planner.plan import Residency, Share
from potluck.planner.predict import predict
from potluck.planner.simulator.clock import Clock
from potluck.planner.simulator.load import Arrival, Load, random_load, together
from potluck.planner.simulator.results import Percentiles, percentiles
from potluck.planner.simulator.simulate import simulate
from potluck.planner.software import NONE
from potluck.planner.way import course

SPEEDS = st.sampled_from([0.5, 1.0, 10.0])
LINKS = st.builds(Link, st.sampled_from([0.0, 1e-4, 5e-3]), st.sampled_from([1e5, 1e7, 125e6]))
DISKS = st.sampled_from([1e6, 1e7, 1e8])
GOAL = Goal(chunk=64)


@st.composite
def plans(draw, homes):
    """a alone, then a and b as a group or in turns, streaming or not."""
    streamed, window = Residency.STREAMED, draw(st.integers(1, 5))
    stages = [homes.stage("a", homes.EMBEDDING, range(2)), homes.stage("b", range(2, 5)), homes.stage("a", range(5, 8))]
    if draw(st.booleans()):
        stages[1:] = [replace(stage, shares=(Share(stage.node, None, None, residency=streamed, window=window),))
                      for stage in stages[1:]]  # fmt: skip
    elif draw(st.booleans()):
        shares = Share("a", (0, 1), (0, 64)), Share("b", (1, 2), (64, 96))
        stages[1:] = [replace(stages[1], parts=stages[1].parts + stages[2].parts, shares=shares)]
        stages[1] = replace(stages[1], all_reduce=AllReduce(draw(st.sampled_from(Algorithm))))
    return homes.plan(*stages, homes.stage("b", homes.HEAD), kv_tokens=2000)


@st.composite
def fleets(draw, homes):
    nodes = [homes.node(name, draw(SPEEDS), disk_bandwidth=draw(DISKS)) for name in "ab"]
    return homes.fleet(*nodes, links={("a", "b"): draw(LINKS), ("b", "a"): draw(LINKS)})


def faster(home, what):
    """The same fleet with one thing twice as fast."""
    first, *rest = home.nodes
    device = first.devices[0]
    if what == "latency":
        return replace(home, links={ends: replace(link, latency=link.latency / 2) for ends, link in home.links.items()})
    if what == "link":
        return replace(
            home, links={ends: replace(link, bandwidth=link.bandwidth * 2) for ends, link in home.links.items()}
        )
    if what == "disk":
        return replace(home, nodes=(replace(first, disk_bandwidth=first.disk_bandwidth * 2), *rest))
    doubled = replace(device, **{what: 2 * getattr(device, what)})
    return replace(home, nodes=(replace(first, devices=(doubled,)), *rest))


@settings(max_examples=120)
@given(data=st.data(), what=st.sampled_from(["latency", "link", "disk", "flops", "memory_bandwidth"]))
def test_nothing_faster_makes_one_request_slower(homes, data, what):
    spec, home, plan = homes.model(8, heads=4, kv_heads=2), data.draw(fleets(homes)), data.draw(plans(homes))
    prompt, better = data.draw(st.integers(1, 64)), faster(home, what)
    before, after = (simulate(plan, one, spec, GOAL, together(1, prompt, 12)).requests[0] for one in (home, better))
    assert all(b <= a * (1 + 1e-9) for a, b in zip(before.tokens_at, after.tokens_at, strict=True))
    goal = replace(GOAL, prompt=prompt)
    was, now = predict(plan, home, spec, goal), predict(plan, better, spec, goal)
    assert now.time_to_first_token <= was.time_to_first_token * (1 + 1e-9)
    assert now.time_per_token <= was.time_per_token * (1 + 1e-9)


@settings(max_examples=60)
@given(data=st.data())
def test_a_larger_window_never_makes_it_slower(homes, data):
    spec, home = homes.model(8, window=1), data.draw(fleets(homes))

    def times(window):
        stages = [homes.stage("a", homes.EMBEDDING, range(3)), homes.stage("b", range(3, 8), homes.HEAD)]
        shares = Share("b", residency=Residency.STREAMED, window=window)
        plan = homes.plan(stages[0], replace(stages[1], shares=(shares,)), kv_tokens=500)
        return predict(plan, home, spec, GOAL).time_per_token

    window = data.draw(st.integers(1, 4))
    assert times(window + 1) <= times(window) * (1 + 1e-9)


@settings(max_examples=60)
@given(data=st.data())
def test_busy_seconds_are_those_of_the_work(homes, data):
    spec, home, plan = homes.model(8), data.draw(fleets(homes)), data.draw(plans(homes))
    assume(not any(stage.is_group for stage in plan.routes[0].stages))
    prompt, tokens = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 9))
    found = simulate(plan, home, spec, GOAL, together(1, prompt, tokens))
    way = course(plan.routes[0], Setting(home, spec, plan.dtype)).way
    works = [Pass(prompt, 1, (prompt + 1) // 2), *(Pass(1, 1, prompt + drawn) for drawn in range(1, tokens))]
    expected = Counter()
    for work in works:
        expected.update(way(work).taken)
    busy = {name: share * found.seconds for name, share in found.busy.items() if not name.startswith("disk")}
    assert busy == pytest.approx({name: seconds for name, seconds in expected.items() if seconds})
    assert all(share <= 1 + 1e-9 for share in found.busy.values())
    for node, size in node_bytes(plan, spec).items():
        read = found.busy.get(f"disk of {node}", 0.0) * found.seconds * home.node(node).disk_bandwidth
        # Of what was read, at most a window is not used yet; of what was used, at most a window was there before.
        assert read <= tokens * size.streamed * (1 + 1e-9)
        assert read >= tokens * size.streamed - 2 * size.most - 1e-6 or size.streamed <= size.most


@settings(max_examples=60)
@given(data=st.data())
def test_a_time_line_runs_forwards_and_a_resource_does_one_thing_at_a_time(homes, data):
    spec, home, plan = homes.model(8), data.draw(fleets(homes)), data.draw(plans(homes))
    found = simulate(plan, home, spec, GOAL, together(1, 5, 4))
    begun, ended = found.requests[0].tokens_at[-2:]
    line = found.timeline
    assert all(span.start <= span.end <= ended for span in line)
    assert all(span.start >= begun for span in line if not span.resource.startswith("disk"))
    assert [span.start for span in line] == sorted(span.start for span in line)
    by_resource = defaultdict(list)
    for span in line:
        by_resource[span.resource].append(span)
    for spans in by_resource.values():
        assert all(two.start >= one.end - 1e-12 for one, two in pairwise(spans))
    if not any(stage.is_group for stage in plan.routes[0].stages):
        own = [span for span in line if not span.resource.startswith("disk")]
        assert all(two.start >= one.end - 1e-12 for one, two in pairwise(own)), "one after the other"
    assert {f"node {node}" for node in plan.nodes} <= by_resource.keys()


@settings(max_examples=40)
@given(data=st.data())
def test_every_request_gets_its_tokens_whatever_the_load(homes, data):
    spec, home, plan = homes.model(8), data.draw(fleets(homes)), data.draw(plans(homes))
    lengths = data.draw(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 6)), min_size=1, max_size=20))
    load = random_load(data.draw(st.sampled_from([1.0, 100.0])), lengths, seed=data.draw(st.integers(0, 99)))
    found = simulate(plan, home, spec, GOAL, load)
    assert found == simulate(plan, home, spec, GOAL, load), "deterministic"
    for served, arrival in zip(found.requests, load.arrivals, strict=True):
        assert len(served.tokens_at) == arrival.tokens and served.at == arrival.at
        assert all(one < two for one, two in pairwise([served.at, *served.tokens_at]))
    assert found.tokens_per_second == pytest.approx(sum(tokens for _, tokens in lengths) / found.seconds)
    assert all(share <= 1 + 1e-9 for name, share in found.busy.items() if not name.startswith("link"))


def test_requests_share_steps_and_wait_for_kv(homes):
    spec, home = homes.model(8), homes.fleet(homes.node("a"))
    plan = homes.plan(homes.stage("a", homes.EMBEDDING, range(8), homes.HEAD), kv_tokens=100)
    alone, both = (simulate(plan, home, spec, GOAL, together(count, 20, 20)) for count in (1, 2))
    assert both.seconds < 1.2 * alone.seconds, "weights are read once for two"
    three = simulate(plan, home, spec, GOAL, together(3, 20, 20))
    assert three.requests[2].tokens_at[0] > both.requests[0].tokens_at[-1] * 0.9, "the third waits for KV"
    with pytest.raises(ValueError, match="a request of 101 tokens never fits: the plan keeps KV for 100"):
        simulate(plan, home, spec, GOAL, together(1, 82, 20))
    with pytest.raises(ValueError, match="no route that serves"):
        simulate(replace(plan, routes=()), home, spec, GOAL, together(1, 1, 1))


def test_replicas_share_the_load(homes):
    spec, home = homes.model(8), homes.fleet(homes.node("a"), homes.node("b"))
    routes = [homes.plan(homes.stage(name, homes.EMBEDDING, range(8), homes.HEAD)).routes[0] for name in "ab"]
    plan = replace(homes.plan(kv_tokens=1000), routes=tuple(routes))
    found = simulate(plan, home, spec, replace(GOAL, software=NONE), together(2, 20, 20))
    assert found.busy["node a"] == pytest.approx(found.busy["node b"])


def test_a_fleet_of_a_thousand(homes):
    spec, names = homes.model(1000), [f"n{number}" for number in range(1000)]
    stages = [homes.stage(name, range(place, place + 1)) for place, name in enumerate(names)]
    stages[0] = homes.stage("n0", homes.EMBEDDING, range(1))
    plan = homes.plan(*stages, homes.stage("n0", homes.HEAD), kv_tokens=1000)
    home = homes.fleet(*map(homes.node, names))
    found = simulate(plan, home, spec, Goal(), together(2, 20, 3))
    predicted = predict(plan, home, spec, Goal(prompt=20, context=22))
    assert found.requests[0].time_to_first_token == pytest.approx(predicted.time_to_first_token)
    assert found.time_per_token.p50 == pytest.approx(predicted.time_per_token, rel=0.01)
    assert len(found.timeline) > 2000


def test_percentiles_by_nearest_rank():
    assert percentiles(range(1, 101)) == Percentiles(50, 90, 99)
    assert percentiles([7.0]) == Percentiles(7, 7, 7) and percentiles([]) == Percentiles()


def test_bad_loads_and_effects_before_causes_are_refused():
    with pytest.raises(ValueError, match="a time, a prompt or tokens are missing"):
        Arrival(0.0, 0, 1)
    with pytest.raises(ValueError, match="a load of 0 requests has none at 0"):
        Load(())
    clock = Clock()
    clock.at(1.0, lambda: clock.at(0.5, print))
    with pytest.raises(ValueError, match=r"an event at 0.5 s that is caused at 1.0 s"):
        clock.run()
