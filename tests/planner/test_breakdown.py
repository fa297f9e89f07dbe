"""What predicted times are made of: kinds add up, what prefetch hides is not counted, steps in flight, bottlenecks."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.costs import Pass, activation_bytes, bytes_moved, flops, part_cost
from potluck.planner.all_reduce import Algorithm, AllReduce
from potluck.planner.fields import FieldError
from potluck.planner.fleet import Device, Link
from potluck.planner.goal import Goal
from potluck.planner.group_sums import Setting
from potluck.planner.memory import node_bytes
from potluck.planner.plan import Residency, Share
from potluck.planner.plan_file import plan_from_data, plan_to_data
from potluck.planner.predict import predict
from potluck.planner.prediction import together
from potluck.planner.software import MEASURED, NONE, Software
from potluck.planner.stage_seconds import stage_cost
from potluck.planner.way import course

GOAL = Goal(context=100, prompt=48, chunk=512, software=NONE)


def streamed(stage, **share):
    return replace(stage, shares=(replace(stage.shares[0], residency=Residency.STREAMED, **share),))


def pipeline(homes, names, layers):
    """Layers in equal stages over some nodes, the ends on the first."""
    each = layers // len(names)
    stages = [homes.stage(name, range(place * each, (place + 1) * each)) for place, name in enumerate(names)]
    stages[0] = homes.stage(names[0], homes.EMBEDDING, range(each))
    return homes.plan(*stages, homes.stage(names[0], homes.HEAD))


@pytest.fixture
def group(homes):
    shares = Share("a", (0, 1), (0, 64)), Share("b", (1, 2), (64, 96))
    layers = replace(homes.stage("a", range(4)), shares=shares, all_reduce=AllReduce(Algorithm.DIRECT))
    return homes.plan(homes.stage("a", homes.EMBEDDING), layers, homes.stage("a", homes.HEAD))


@settings(max_examples=30)
@given(data=st.data())
def test_kinds_and_stages_add_up(homes, data):
    spec = homes.model(4)
    names = data.draw(st.sampled_from(["a", "ab", "abab", "abc"]))
    plan = pipeline(homes, names[:1] if len(names) == 3 else names, 4)
    home = homes.fleet(*(homes.node(name, data.draw(st.sampled_from([1.0, 60.0]))) for name in "abc"))
    goal = replace(GOAL, software=MEASURED, prompt=data.draw(st.integers(1, 700)), batch=data.draw(st.integers(1, 20)))
    prediction = predict(plan, home, spec, goal)
    for breakdown, seconds in (
        (prediction.prefill, prediction.time_to_first_token),
        (prediction.decode, prediction.time_per_token),
    ):
        queued = seconds - together(breakdown.stages).total
        assert breakdown.total.total == pytest.approx(seconds)
        assert queued == pytest.approx(breakdown.total.wait - sum(stage.wait for stage in breakdown.stages))
        assert len(breakdown.stages) == len(plan.routes[0].stages) and queued >= -1e-12
    assert prediction.tokens_per_second >= 1 / prediction.time_per_token * 0.999


def test_decoding_is_memory_and_prompts_are_compute(homes, smollm2):
    plan = homes.plan(homes.stage("a", homes.EMBEDDING, range(30), homes.HEAD))
    prediction = predict(plan, homes.fleet(homes.node("a", 60)), smollm2, replace(GOAL, prompt=256))
    assert prediction.decode.total.compute == 0 and prediction.decode.total.memory > 0
    assert prediction.prefill.total.compute > 0.9 * prediction.time_to_first_token
    assert prediction.bottleneck == "node a"


def test_software_is_counted_apart_and_for_what_it_is(homes, group):
    spec, home = homes.model(4), homes.fleet(homes.node("a"), homes.node("b"))
    costs = {"step": (1, 1), "stage": (2, 2), "frame": (3, 3), "sum": (8, 8)}
    for name, (decode, prefill) in costs.items():
        prediction = predict(group, home, spec, replace(GOAL, software=Software(**{name: 1.0})))
        assert prediction.decode.total.software == decode and prediction.prefill.total.software == prefill, name
    with pytest.raises(ValueError, match="software: stage must be seconds, not -1"):
        Software(stage=-1)


def test_a_group_waits_for_its_slowest_member(homes, group):
    spec, uneven = homes.model(4), homes.fleet(homes.node("a", 60), homes.node("b", 1))
    total = predict(group, uneven, spec, GOAL).decode.total
    assert total.wait > 0.5 * total.memory and total.sums == pytest.approx(8 * (0.3e-3 + 256 / 125e6))


def test_what_limits(homes, group):
    spec = homes.model(4)
    far = homes.fleet(homes.node("a"), homes.node("b"), latency=1.0)
    assert predict(group, far, spec, GOAL).bottleneck == "sums of a, b"
    pair = pipeline(homes, "ab", 4)
    slow = homes.fleet(homes.node("a"), homes.node("b"), links={("b", "a"): Link(1.0, 1e9)})
    assert predict(pair, slow, spec, GOAL).bottleneck == "link b -> a"
    narrow = homes.fleet(homes.node("a"), homes.node("b"), links={("a", "b"): Link(0.0, 1e3), ("b", "a"): Link(1, 1e9)})
    crowd = predict(pair, narrow, spec, replace(GOAL, batch=64))
    assert crowd.bottleneck == "link a -> b" and crowd.decode.total.wait > 0
    assert predict(pair, homes.fleet(homes.node("a"), homes.node("b", 1e-3)), spec, GOAL).bottleneck == "node b"


def test_steps_in_flight_share_the_busiest_node(homes, smollm2):
    plan, home = pipeline(homes, "abc", 30), homes.fleet(*(homes.node(name) for name in "abc"), latency=0.0)
    one, three, many = (predict(plan, home, smollm2, replace(GOAL, batch=batch)) for batch in (1, 3, 30))
    assert one.decode.total.wait == 0
    assert three.time_per_token == pytest.approx(3 * _busiest(plan, home, smollm2, 1))
    assert many.decode.stages[0].memory < 3 * one.decode.stages[0].memory, "weights are read once for ten rows"
    assert 2 < one.tokens_per_second * one.time_per_token < 3, "the first node has the ends, too"
    assert many.tokens_per_second > 5 * one.tokens_per_second


def _busiest(plan, home, spec, rows):
    way = course(plan.routes[0], Setting(home, spec, plan.dtype, NONE)).way(Pass(rows, rows, 100, rows))
    return max(way.taken.values())


def test_replicas_add_up(homes):
    spec, home = homes.model(4), homes.fleet(homes.node("a"), homes.node("b"))
    routes = [homes.plan(homes.stage(name, homes.EMBEDDING, range(4), homes.HEAD)).routes[0] for name in "ab"]
    one, both = (predict(replace(homes.plan(), routes=tuple(some)), home, spec, GOAL) for some in (routes[:1], routes))
    assert both.time_per_token == one.time_per_token
    assert one.tokens_per_second < both.tokens_per_second < 2 * one.tokens_per_second, "b is a hop away"


# Streamed layers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ring(homes):
    """b streams windows of two of its four layers while a, much slower, computes."""
    stages = [homes.stage("a", homes.EMBEDDING, range(2)), streamed(homes.stage("b", range(2, 4)), window=2)]
    stages += [homes.stage("a", range(4, 6)), streamed(homes.stage("b", range(6, 8)), window=2)]
    return homes.plan(*stages, homes.stage("a", range(8, 10), homes.HEAD))


def rings_home(homes, disk, **rest):
    return homes.fleet(homes.node("a", 0.1), homes.node("b", 60, disk_bandwidth=disk, **rest), latency=0.0)


def test_what_is_read_while_others_compute_is_not_counted(homes, ring):
    spec = homes.model(10)
    size = node_bytes(ring, spec)["b"].streamed
    fast = predict(ring, rings_home(homes, 0.0), spec, GOAL).time_per_token
    hidden = predict(ring, rings_home(homes, 4 * size / fast), spec, GOAL)
    assert hidden.time_per_token == pytest.approx(fast) and hidden.decode.total.disk < 1e-9
    slow = predict(ring, rings_home(homes, size / fast / 4), spec, GOAL)
    assert slow.time_per_token == pytest.approx(4 * fast, rel=0.01), "the disk alone sets the pace"
    assert slow.decode.total.disk == pytest.approx(slow.time_per_token - fast)
    assert slow.bottleneck == "disk of b"


def test_a_window_of_one_layer_hides_nothing_of_the_second(homes, ring):
    spec, layer = homes.model(10), node_bytes(ring, homes.model(10))["b"].streamed / 4
    narrow = [replace(stage, shares=(replace(stage.shares[0], window=1),)) for stage in ring.routes[0].stages[1::2]]
    stages = list(ring.routes[0].stages)
    stages[1::2] = narrow
    home = rings_home(homes, layer / 1e-6)
    found = predict(homes.plan(*stages), home, spec, GOAL).decode.total.disk
    assert found == pytest.approx(2 * 1e-6), "in either round the second layer is read when the first is done"


def test_one_node_alone_reads_everything_while_it_computes(homes, smollm2):
    plan = homes.plan(streamed(homes.stage("a", homes.EMBEDDING, range(30), homes.HEAD), window=4))
    sizes = node_bytes(plan, smollm2)["a"]
    home = homes.fleet(homes.node("a", disk_bandwidth=1e9, memory=8 << 30))
    prediction = predict(plan, home, smollm2, GOAL)
    assert prediction.time_per_token == pytest.approx(sizes.streamed / 1e9)
    assert prediction.time_to_first_token < sizes.streamed / 1e9 + prediction.prefill.total.compute
    everything = homes.plan(streamed(homes.stage("a", homes.EMBEDDING, range(30), homes.HEAD), window=30))
    assert predict(everything, home, smollm2, GOAL).decode.total.disk == 0, "what fits stays"


# Costs and files ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_a_parts_cost_is_its_bytes_and_operations(homes, data):
    spec = data.draw(homes.models())
    part = data.draw(st.sampled_from(list(spec.parts())))
    rows, context = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 5000))
    work = Pass(rows, data.draw(st.integers(0, rows)), context, data.draw(st.integers(1, 3)))
    device = Device("cpu", 7e9, 3e9, 1)
    operations, memory = part_cost(spec, part, (device, "bfloat16")).seconds(work)
    between = rows * activation_bytes(spec, part) / 3e9
    assert operations == pytest.approx(flops(spec, part, work) / 7e9 + between)
    assert memory == pytest.approx(bytes_moved(spec, part, "bfloat16", work) / 3e9 + between)


def test_what_software_adds_to_a_layer_counts_as_software_once_a_layer(homes):
    spec, goal = homes.model(10), Goal(prompt=64, context=64, software=NONE)
    whole = homes.plan(homes.stage("a", homes.EMBEDDING, range(10), homes.HEAD))
    without, with_it = (
        predict(whole, homes.fleet(homes.node("a", overhead=overhead)), spec, goal) for overhead in (0.0, 3e-4)
    )
    for before, after in ((without.decode, with_it.decode), (without.prefill, with_it.prefill)):
        assert after.total.software - before.total.software == pytest.approx(10 * 3e-4)
        assert after.total.total - before.total.total == pytest.approx(10 * 3e-4)
        assert (after.total.compute, after.total.memory) == (before.total.compute, before.total.memory)


def test_a_group_waits_for_the_member_whose_software_takes_longest(homes, group):
    spec, work = homes.model(4), Pass(1, 1, 64)
    (stage,) = [stage for stage in group.routes[0].stages if stage.is_group]
    quick, slow = (
        stage_cost(stage, Setting(homes.fleet(homes.node("a"), homes.node("b", overhead=one)), spec, "float32", NONE))
        for one in (0.0, 2e-3)
    )
    more = slow.times(work).total - quick.times(work).total
    assert 0.9 * 4 * 2e-3 < more < 1.1 * 4 * 2e-3
    # On average over both members it is half of that; the other half is waited for.
    assert slow.times(work).software == pytest.approx(4 * 1e-3)
    assert slow.computing(work) == pytest.approx(slow.times(work).total - slow.sums(work).total)


def test_a_saved_plan_keeps_its_breakdown_and_an_old_file_needs_none(homes, ring):
    spec = homes.model(10)
    plan = replace(ring, prediction=predict(ring, rings_home(homes, 1e6), spec, Goal()))
    data = json.loads(json.dumps(plan_to_data(plan)))
    assert plan_from_data(data, spec).prediction == plan.prediction
    old = {"time_to_first_token": 1.0, "time_per_token": 0.5, "weight_bytes": {"a": 1}, "kv_bytes": {"a": 2}}
    read = plan_from_data({**data, "predicted": old}, spec).prediction
    assert read.time_per_token == 0.5 and read.decode is None and read.tokens_per_second == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode": {"total": {"computee": 1}, "stages": []}}, "unknown field 'computee'; did you mean 'compute'"),
        ({"decode": {"total": {"disk": -1}, "stages": []}}, "predicted: decode: total: disk must be seconds, not -1"),
        ({"prefill": {"total": {}, "stages": 3}}, "predicted: prefill: stages must be a list, not the number 3"),
        ({"bottleneck": 3}, "predicted: bottleneck must be text, not the number 3"),
        ({"tokens_per_second": "fast"}, "predicted: tokens_per_second must be a rate, not 'fast'"),
    ],
)
def test_a_wrong_breakdown_is_named(homes, ring, change, message):
    spec = homes.model(10)
    data = plan_to_data(replace(ring, prediction=predict(ring, rings_home(homes, 1e6), spec, Goal())))
    with pytest.raises(FieldError, match=message):
        plan_from_data({**data, "predicted": {**data["predicted"], **change}}, spec)
