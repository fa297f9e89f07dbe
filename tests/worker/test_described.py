"""What an emulated node takes is what is predicted for it: the same roofline, for every window, group and step."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.models.costs import FormatSpeed, Pass
from potluck.models.quantize import with_quantization
from potluck.models.spec import LayerSpec, ModelSpec, Part, PartKind, Rope
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.plan import Share, Stage
from potluck.planner.stage_seconds import Setting, stage_cost
from potluck.proto.step import Outputs, Run, Step
from potluck.worker.cut import Cut
from potluck.worker.described import Described
from potluck.worker.emulation import DescribedDevice
from potluck.worker.windows import Window

LAYERS = tuple(LayerSpec(Rope(1e4), window) for window in (None, 24, None, 24))
SPEC = ModelSpec("m", "llama", LAYERS, 512, 128, 192, 8, 2, 16, 512, norm_eps=1e-5, attention_scale=0.25)
FORMATS = {name: FormatSpeed(7e9, 1e9) for name in with_quantization(SPEC, "int8").encodings.values()}
DTYPES = st.sampled_from([(SPEC, "float32"), (SPEC, "bfloat16"), (with_quantization(SPEC, "int8"), "quantized")])
DEVICES = st.builds(
    lambda flops, memory, formats, overhead: DescribedDevice(
        flops * 1e9, memory * 1e9, formats, layer_overhead=overhead
    ),
    *(st.floats(0.1, 100), st.floats(0.1, 100), st.sampled_from([{}, FORMATS]), st.sampled_from([0.0, 3e-4])),
)


def fleet_of(device):
    rest = {"formats": device.formats, "layer_overhead": device.layer_overhead}
    speeds = Device("cpu", device.flops, device.memory_bandwidth, 2**30, **rest)
    return Fleet((Node(NodeName("a"), (speeds,)),), NodeName("a"), Link(0.0, 1e9))


def parts_of(window):
    kinds = (PartKind.ATTENTION, PartKind.FFN)
    ends = [Part(PartKind.EMBEDDING)] * window.embedding, [Part(PartKind.HEAD)] * window.head
    return (*ends[0], *(Part(kind, layer) for layer in window.layers for kind in kinds), *ends[1])


def decoding(sequences, context):
    return Step(1, [Run(number, context - 1, [1], [], Outputs.LAST) for number in range(sequences)])


@given(
    model=DTYPES,
    device=DEVICES,
    ends=st.tuples(st.booleans(), st.booleans()),
    layers=st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted),
    sequences=st.integers(1, 40),
    context=st.integers(1, 300),
)
def test_a_window_takes_what_is_predicted(model, device, ends, layers, sequences, context):
    spec, dtype = model
    window = Window(3, ends[0], range(*layers), ends[1])
    targets = Described(spec, [window], (device, dtype)).targets(3, decoding(sequences, context))
    work = Pass(sequences, sequences, context, sequences)
    cost = stage_cost(Stage(parts_of(window), (Share(NodeName("a")),)), Setting(fleet_of(device), spec, dtype))
    assert [one.seconds for one in targets] == [members[0].taken(work) for members in cost.parts]
    assert sum(one.seconds for one in targets) == pytest.approx(cost.times(work).total, rel=1e-12)


@given(DTYPES, DEVICES, st.sampled_from([(0, 4), (4, 8), (0, 1), (5, 6)]), st.sampled_from([(0, 32), (32, 192)]))
def test_a_member_takes_what_is_predicted_for_its_share(model, device, heads, columns):
    (spec, dtype), step, work = model, decoding(3, 40), Pass(3, 3, 40, 3)
    window = Window(0, False, range(4), False, cut=Cut(heads, columns, (0, 512)))
    # The other member is so fast that this one is waited for.
    quick = Device("cpu", 1e30, 1e30, 2**30)
    home = fleet_of(device)
    home = dataclasses.replace(home, nodes=(*home.nodes, Node(NodeName("b"), (quick,))))
    shares = (Share(NodeName("a"), heads=heads, ffn_columns=columns), Share(NodeName("b")))
    cost = stage_cost(Stage(parts_of(window), shares), Setting(home, spec, dtype))
    targets = Described(spec, [window], (device, dtype)).targets(0, step)
    assert sum(one.seconds for one in targets) == pytest.approx(cost.computing(work), rel=1e-12)


@given(
    runs=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=5),
    outputs=st.sampled_from(list(Outputs)),
)
def test_every_row_and_every_sequence_counts(runs, outputs):
    device = DescribedDevice(1e9, 1e12)
    step = Step(1, [Run(number, position, [1] * count, [], outputs) for number, (position, count) in enumerate(runs)])
    targets = Described(SPEC, [Window(0, True, range(2), True)], (device, "float32")).targets(0, step)
    full, narrow = targets[1].seconds * 1e9, targets[3].seconds * 1e9
    positions = [position + offset + 1 for position, count in runs for offset in range(count)]
    matrices = 2.0 * 128 * (2 * 128 + 64) * len(positions)
    assert full == pytest.approx(matrices + 4 * 128 * sum(positions), rel=1e-3)
    assert narrow == pytest.approx(matrices + 4 * 128 * sum(min(24, seen) for seen in positions), rel=1e-3)
    assert targets[5].seconds * 1e9 == pytest.approx(2.0 * 512 * 128 * len(step.sampled_rows()), rel=1e-3)
    reading = Described(SPEC, [Window(0, True, range(2), True)], (DescribedDevice(1e15, 1e6), "float32"))
    kv, ends = 64 * 4, [position + count for position, count in runs]
    read = [target.seconds * 1e6 for target in reading.targets(0, step)]
    base = read[1] - kv * sum(ends)
    spans = [min(end, 24 + count - 1) for end, (_, count) in zip(ends, runs, strict=True)]
    assert read[3] - base == pytest.approx(kv * sum(spans), rel=1e-6)


def test_a_step_without_rows_takes_nothing():
    described = Described(SPEC, [Window(0, True, range(4), True)], (DescribedDevice(1e9, 1e9), "float32"))
    assert {target.seconds for target in described.targets(0, Step(1, [], [5]))} == {0.0}
    assert described.targets(7, decoding(1, 1)) == []


def test_the_last_products_share():
    described = Described(SPEC, [Window(0, False, range(1), False)], (DescribedDevice(1e9, 1e15), "float32"))
    attention, ffn = described.targets(0, decoding(1, 1))
    assert ffn.last == pytest.approx(1 / 3)
    assert attention.last == pytest.approx(128 / (2 * 128 + 64 + 2), rel=0.01)
