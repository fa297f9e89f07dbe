"""What parts cost, and that the planner's bytes are those the worker allocates."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.models.costs import (
    NARROW,
    FormatSpeed,
    Pass,
    activation_bytes,
    bytes_moved,
    flops,
    part_cost,
    plain_speed,
    seconds,
)
from potluck.models.roles import keys_of
from potluck.models.sizes import itemsize, kv_bytes_per_token, layer_parts, step_bytes, weight_bytes
from potluck.models.spec import Part, PartKind
from potluck.planner.fleet import Device
from potluck.planner.memory import NODE_OVERHEAD, node_bytes, worker_bytes
from potluck.worker.shard import ShardConfig, Window
from potluck.worker.shard_memory import ShardMemory

EMBEDDING, HEAD = Part(PartKind.EMBEDDING), Part(PartKind.HEAD)


def test_smollm2_by_hand(smollm2):
    layer = 576 * (2 * 576 + 2 * 192) + 3 * 576 * 1536
    assert weight_bytes(smollm2, layer_parts([0]), "bfloat16") == 2 * layer + 4 * 2 * 576
    assert weight_bytes(smollm2, [EMBEDDING], "float32") == 4 * 49152 * 576
    assert kv_bytes_per_token(smollm2, "bfloat16") == 2 * 2 * 3 * 64
    assert flops(smollm2, Part(PartKind.FFN, 0), Pass(5, 1, 1)) == 2 * 3 * 576 * 1536 * 5
    assert flops(smollm2, HEAD, Pass(5, 2, 1)) == 2 * 49152 * 576 * 2
    decode = Pass(1, 1, 100)
    assert flops(smollm2, Part(PartKind.ATTENTION, 0), decode) == 2 * 576 * (2 * 576 + 2 * 192) + 4 * 576 * 100


def test_tied_ends_cost_once_together_and_fully_apart(homes):
    tied, untied = homes.model(tied_head=True), homes.model()
    both = weight_bytes(tied, [EMBEDDING, HEAD], "float32")
    matrix = 4 * 320 * 64
    assert both == matrix + 4 * 64
    assert weight_bytes(tied, [HEAD], "float32") == both
    assert weight_bytes(untied, [EMBEDDING, HEAD], "float32") == both + matrix


def test_a_window_bounds_what_is_attended_to(homes):
    attention = Part(PartKind.ATTENTION, 0)
    near, far = Pass(1, 1, 8), Pass(1, 1, 1000)
    windowed, full = homes.model(window=8), homes.model()
    assert flops(windowed, attention, far) == flops(windowed, attention, near) < flops(full, attention, far)
    assert bytes_moved(windowed, attention, "float32", far) < bytes_moved(full, attention, "float32", far)


def test_short_rows_take_what_a_row_takes_beside_its_bytes(smollm2):
    device = Device("cpu", 100e9, 20e9, 1, formats={NARROW: FormatSpeed(80e9, 16e9)})
    assert plain_speed(device, 2048) == plain_speed(device, 8192) == FormatSpeed(100e9, 20e9)
    assert plain_speed(device, 512).bandwidth == pytest.approx(16e9)
    assert plain_speed(device, 512).flops == pytest.approx(80e9)
    # So many nanoseconds a row, whatever its length.
    row = {columns: 4 * columns / plain_speed(device, columns).bandwidth for columns in (256, 512, 1024, 2048)}
    bytes_alone = {columns: 4 * columns / 20e9 for columns in row}
    extra = {columns: row[columns] - bytes_alone[columns] * (1 - 1 / 12) for columns in row}
    assert extra == pytest.approx(dict.fromkeys(row, extra[512]))
    # What only noise can say.
    noisy = replace(device, formats={NARROW: FormatSpeed(110e9, 21e9)})
    assert plain_speed(noisy, 512) == FormatSpeed(100e9, 20e9)


def test_weights_in_a_format_know_no_short_rows(smollm2):
    narrow = {NARROW: FormatSpeed(80e9, 10e9), "Q4_0": FormatSpeed(90e9, 9e9)}
    one = Pass(1, 1, 1)

    def taken(spec, formats, dtype):
        device = Device("cpu", 100e9, 20e9, 1, formats=formats)
        return seconds(spec, [Part(PartKind.FFN, 0)], one, (device, dtype))

    known = {str(key): "Q4_0" for key in keys_of(smollm2, Part(PartKind.FFN, 0)) if "norm" not in str(key)}
    quantized = replace(smollm2, encodings=known)
    without = {"Q4_0": narrow["Q4_0"]}
    assert taken(quantized, narrow, "quantized") == pytest.approx(taken(quantized, without, "quantized"))
    # Two of its matrices have rows of 576 columns, the third of 1536.
    assert taken(smollm2, narrow, "float32") > 1.5 * taken(smollm2, {}, "float32")


def test_a_worker_is_given_more_for_the_rows_of_a_wide_model(smollm2, homes):
    assert worker_bytes(smollm2) == NODE_OVERHEAD > step_bytes(smollm2, 512)
    wide = homes.model(4, vocab=128256, hidden=4096, ffn=14336)
    assert step_bytes(wide, 256) == 4 * (256 * (4 * 4096 + 3 * 14336) + 16 * 128256)
    assert worker_bytes(wide) == step_bytes(wide, 256) + (32 << 20)


def test_the_slower_of_streaming_and_multiplying_counts(smollm2):
    ffn = [Part(PartKind.FFN, 0)]
    device = Device("cpu", flops=100e9, memory_bandwidth=20e9, memory=1)
    one, many = Pass(1, 1, 1), Pass(512, 1, 512)
    assert seconds(smollm2, ffn, one, (device, "float32")) == pytest.approx(
        (weight_bytes(smollm2, ffn, "float32") + activation_bytes(smollm2, ffn[0])) / 20e9
    )
    between = 512 * activation_bytes(smollm2, ffn[0]) / 20e9
    multiplying = flops(smollm2, ffn[0], many) / 100e9 + between
    assert seconds(smollm2, ffn, many, (device, "float32")) == pytest.approx(multiplying)


def test_a_head_with_nothing_to_sample_costs_nothing(smollm2):
    device = Device("cpu", 1e9, 1e9, 1)
    assert seconds(smollm2, [HEAD], Pass(512, 0, 512), (device, "float32")) == 0


def test_unknown_dtype_lists_what_there_is():
    with pytest.raises(ValueError, match="'fp8' is not known; use float32 or bfloat16"):
        itemsize("fp8")


@settings(max_examples=50)
@given(data=st.data(), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_bytes_are_those_that_a_worker_allocates(homes, data, dtype):
    spec = data.draw(homes.models())
    layers = len(spec.layers)
    first, end = sorted(data.draw(st.tuples(st.integers(0, layers), st.integers(0, layers))))
    embedding, head = data.draw(st.booleans()), data.draw(st.booleans())
    parts = [EMBEDDING] * embedding + [range(first, end)] + [HEAD] * head
    stage = homes.stage("a", *parts)
    windows = [Window(0, embedding, range(first, end), head)]
    config = ShardConfig(getattr(torch, dtype), 3, 16, 8, torch.device("cpu"))
    planned = node_bytes(homes.plan(stage, dtype=dtype, kv_tokens=48), spec)["a"]
    memory = ShardMemory(spec, tuple(windows), config)
    assert (planned.weights, planned.kv) == (memory.weights, memory.kv)


def test_a_format_whose_speed_is_known_takes_its_own_time(homes):
    spec = replace(homes.model(), encodings={"0.gate": "Q4_0", "0.up": "Q4_0", "0.down": "Q8_0"})
    ffn = Part(PartKind.FFN, 0)
    known = Device("cpu", 100e9, 20e9, 1, formats={"Q4_0": FormatSpeed(400e9, 10e9)})
    cost = part_cost(spec, ffn, (known, "quantized"))
    numbers = spec.hidden * spec.ffn
    rest = weight_bytes(spec, [ffn], "quantized") - 2 * numbers * 18 // 32
    assert cost.weights == pytest.approx(2 * numbers * 18 / 32 / 10e9 + rest / 20e9)
    between = activation_bytes(spec, ffn) / 20e9
    assert cost.row == pytest.approx(2 * 2 * numbers / 400e9 + 2 * numbers / 100e9 + between)
    # Where the format does not stay, its speed says nothing.
    assert part_cost(spec, ffn, (known, "float32")) == part_cost(spec, ffn, (replace(known, formats={}), "float32"))
