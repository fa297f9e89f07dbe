"""How near each GPU kernel comes to the bandwidth that a plain copy reaches on the same device, and what steps take.

Run: python bench/gpu_kernels.py [--rounds 50] [--layers 8]
Shapes are those of an 8B model (hidden 4096, FFN 14336, 32 heads over 8 KV heads of 128) in bfloat16. Every call finds
a cold cache. Products and attention of many rows are told in TFLOP/s as well: bandwidth does not bound them. Then come
decode steps of some such layers in Q4_0 (`gpu_steps.py`): captured against launched, and streamed from the host's
memory with 1 to all of them held.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from gpu_steps import captured, model, streamed

from potluck.worker.device import DeviceError, choose_device

HIDDEN, FFN, HEADS, KV_HEADS, WIDTH, SLOTS = 4096, 14336, 32, 8, 128, 16
FLUSH_BYTES = 256 << 20  # more than any cache


@dataclass(frozen=True)
class Case:
    """A call, the bytes it must at least move, and its floating-point operations where they bound it."""

    name: str
    call: Callable[[], object]
    bytes: int
    flops: int = 0


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call on the device, the cache emptied before each."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8)
    for _ in range(3):
        call()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for begin, end in pairs:
        flush.zero_()
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs) / 1e3


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second that a copy within the device reads and writes."""
    source, target = torch.empty(FLUSH_BYTES, dtype=torch.uint8), torch.empty(FLUSH_BYTES, dtype=torch.uint8)
    return 2 * FLUSH_BYTES / seconds(lambda: target.copy_(source), rounds)


def row_cases(rows: int) -> Iterator[Case]:
    """Norm, rope and placing, gate."""
    from potluck.kernels.gpu.gated import gated
    from potluck.kernels.gpu.rms_norm import add_rms_norm
    from potluck.kernels.gpu.rotary import place_qkv

    x, added, weight = torch.randn(rows, HIDDEN), torch.randn(rows, HIDDEN).bfloat16(), torch.ones(HIDDEN)
    yield Case(
        f"add + norm, {rows} rows", lambda: add_rms_norm(x, added, weight, 1e-6, torch.bfloat16), rows * HIDDEN * 12
    )
    gate_up = torch.randn(rows, 2 * FFN).bfloat16()
    yield Case(f"gate, {rows} rows", lambda: gated(gate_up, "silu"), rows * FFN * 6)
    qkv = torch.randn(rows, HEADS + 2 * KV_HEADS, WIDTH).bfloat16()
    rotary = (torch.randn(rows, 1, WIDTH), torch.randn(rows, 1, WIDTH))
    pool = torch.zeros(rows, SLOTS, 2, KV_HEADS, WIDTH, dtype=torch.bfloat16)
    slots = torch.randperm(rows * SLOTS)[:rows]
    moved = 2 * qkv.nbytes + 2 * rotary[0].nbytes
    yield Case(f"rope + KV placed, {rows} rows", lambda: place_qkv(qkv, rotary, pool, slots), moved)


def product_cases(bits: int) -> Iterator[Case]:
    """Products with one weight of the FFN."""
    from potluck.kernels.gpu.grouped import pack
    from potluck.kernels.gpu.quantized import multiply

    numbers = torch.randint(0, 2**bits, (2 * FFN, HIDDEN), dtype=torch.uint8)
    scale = torch.rand(2 * FFN, HIDDEN // 32) / 100
    weight = pack(numbers, scale, -8 * scale, bits)
    for rows in (1, 2, 16, 512):
        x = torch.randn(rows, HIDDEN).bfloat16()
        moved = weight.nbytes + x.nbytes + rows * 2 * FFN * 2
        flops = 2 * rows * HIDDEN * 2 * FFN if rows > 16 else 0
        yield Case(f"{bits}-bit product, {rows} rows", lambda x=x: multiply(x, weight), moved, flops)


def attention_case(sequences: int, position: int, count: int) -> Case:
    """So many sequences with KV up to a position, and as many new rows each."""
    from potluck.kernels.attention_plan import Paging, Span
    from potluck.kernels.gpu.attention import paged_attention
    from potluck.kernels.gpu.attention_plan import plan_attention

    blocks = -(-(position + count) // SLOTS)
    order = torch.randperm(sequences * blocks).tolist()
    spans = [Span(i * count, count, position, order[i * blocks : (i + 1) * blocks]) for i in range(sequences)]
    pool = torch.randn(sequences * blocks, SLOTS, 2, KV_HEADS, WIDTH).bfloat16()
    q = torch.randn(sequences * count, HEADS, WIDTH).bfloat16()
    plan = plan_attention(spans, Paging(SLOTS, None, torch.bfloat16, q.device), HEADS // KV_HEADS)
    seen = count * position + count * (count + 1) // 2
    return Case(
        f"attention, {sequences} x {count} rows at {position}",
        lambda: paged_attention(q, pool, plan, WIDTH**-0.5, dtype=torch.bfloat16),
        pool.nbytes + 2 * q.nbytes,
        4 * sequences * seen * HEADS * WIDTH if count > 1 else 0,
    )


def cases() -> Iterator[Case]:
    """Everything that is measured; made one by one, so that memory holds one at a time."""
    for rows in (1, 16, 2048):
        yield from row_cases(rows)
    for bits in (4, 8):
        yield from product_cases(bits)
    for sequences, position, count in ((1, 32767, 1), (1, 2047, 1), (16, 2047, 1), (1, 0, 2048), (1, 8192, 512)):
        yield attention_case(sequences, position, count)


def main() -> None:
    """Print a line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--layers", type=int, default=8, help="layers of the model whose steps are measured")
    flags = parser.parse_args()
    rounds = flags.rounds
    try:
        device = choose_device("cuda")
    except DeviceError as error:
        sys.exit(f"nothing to measure: {str(error).removeprefix('--device cuda: ')}")
    with torch.device("cuda"):
        bandwidth = copy_bandwidth(rounds)
        print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e9:.0f} GB/s")
        for case in cases():
            taken = seconds(case.call, rounds)
            rate = f"{case.bytes / taken / bandwidth:6.1%} of a copy's bandwidth"
            work = f", {case.flops / taken / 1e12:.1f} TFLOP/s" if case.flops else ""
            print(f"{case.name:36} {taken * 1e6:9.1f} us  {rate}{work}")
    spec = model(flags.layers)
    for line in chain(captured(spec, device, (1, 4, 16), rounds), streamed(spec, device, rounds)):
        print(line)


if __name__ == "__main__":
    main()
