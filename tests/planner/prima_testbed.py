"""PRIMA.CPP's testbed and its measurements (arXiv 2504.08791 v2): table 3, table 4, the shapes of its models.

Memory that is available, and disks, are as published; memory bandwidths are the makers' for the processors and cards
named, of which GPUs are taken to reach 0.6 and CPUs 0.7, whatever the row. The desktop's i9 of 16 cores is the 12900,
with DDR5: llama.cpp's 202 ms at 30B and 328 at 45B would be 280 and 468 with DDR4. Weights lie as in Q4_K. A machine
with a GPU is two nodes, since a share has one device. 14B, 45B and 60B are community models; their depth is what
makes their size of the shape of 8B or 70B.

What a machine really holds: layers are planned by what is available, but on Linux (D2, D3) that is an estimate of what
can be had without swapping; file pages that are read again and again drive idle pages of other programs out to swap
(mm/workingset.c). Table 4 shows it twice: llama.cpp's 13 GiB beside the card at 45B took 328 ms, which is memory's
speed, where 9.7 GiB were available on D3; and prefetching gained no more per byte at 70B, where D3 has 3 GiB beyond
what is available, than at 60B, where all fit. So two thirds of what other programs have on a Linux machine make way;
the table says no more than that it is 0.57 of it or more. macOS counts Metal's memory as wired and Android kills rather
than swaps: the paper keeps both apart too (appendix A.3), and D1 did thrash at 60B with just what was available.
Total memory is not published; dllama's quarter of 8B, 1.05 GiB, took 13 % of it on D1, D2 and D4: 8 GiB; all of the
model took 56 % of it on D3: 16 GiB.

Nobody is alone on a machine: of what is mapped, 1 % is taken back between a token and the next. Read ahead, that costs
nothing; on demand it costs its time on the disk. The figure was found from this table: prefetching gained 30, 64, 119
and 81 ms at 45B to 70B, where those disks read all that the CPUs had in 1.9, 6.9, 8.9 and 9.5 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from potluck.models.roles import TensorKey, keys_of
from potluck.models.sizes import kv_bytes_per_token, layer_parts, weight_bytes
from potluck.models.spec import LayerSpec, ModelSpec, Part, PartKind, Rope
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.planner.goal import Goal

GIB = 2**30
GOAL = Goal(dtype="quantized", kv_tokens=512, context=128)
# Compute buffers and CUDA's own, such that cards hold what they do in the paper's figure 8.
RESERVE = 0.3 * GIB
GPU_REACHES, CPU_REACHES = 0.6, 0.7
MAKES_WAY, TAKEN_BACK = 2 / 3, 0.01


@dataclass(frozen=True)
class Machine:
    """A device of table 3. Memory in GiB, bandwidths in GB/s."""

    available: float
    total: float
    disk: float
    bandwidth: float
    gflops: float
    linux: bool = False
    vram: float = 0.0
    card: float = 0.0

    @property
    def held(self) -> float:
        """Bytes that can stay in its memory."""
        more = MAKES_WAY * (self.total - self.available) if self.linux else 0.0
        return (self.available + more) * GIB - RESERVE

    def reading(self, nbytes: float) -> float:
        """Seconds that its disk takes."""
        return nbytes / (self.disk * 1e9)


TESTBED = {
    "d1": Machine(2.4, 8, 0.72, 68.3, 200),  # M1, LPDDR4X
    "d2": Machine(4.1, 8, 2.98, 51.2, 300, True, 8, 448),  # i9 laptop, DDR4; RTX 3070
    "d3": Machine(9.7, 16, 3.17, 76.8, 400, True, 11, 616),  # i9 desktop of 16 cores, DDR5; RTX 2080 Ti
    "d4": Machine(1.9, 8, 1.37, 44.0, 80),  # Kirin 9000, LPDDR5
}
# Table 4, ms per token.
TABLE = {
    "8B": {"llama.cpp": 15, "exo": 263, "dllama": 459, "no Halda": 78, "no prefetch": 15, "prima": 15},
    "14B": {"llama.cpp": 20, "no Halda": 131, "no prefetch": 20, "prima": 20},
    "30B": {"llama.cpp": 202, "no Halda": 258, "no prefetch": 79, "prima": 72},
    "45B": {"llama.cpp": 328, "no Halda": 409, "no prefetch": 263, "prima": 233},
    "60B": {"llama.cpp": 7965, "no Halda": 7053, "no prefetch": 532, "prima": 468},
    "65B": {"llama.cpp": 8807, "no Halda": 12253, "no prefetch": 688, "prima": 569},
    "70B": {"llama.cpp": 10120, "no Halda": 20848, "no prefetch": 755, "prima": 674},
}
SMALL = {"hidden": 4096, "ffn": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256}
LARGE = {"hidden": 8192, "ffn": 28672, "heads": 64, "kv_heads": 8, "vocab": 128256}
SHAPES = {
    "8B": (32, SMALL),
    "14B": (59, SMALL),
    "30B": (60, {"hidden": 6656, "ffn": 17920, "heads": 52, "kv_heads": 52, "vocab": 32000}),
    "45B": (50, LARGE),
    "60B": (68, LARGE),
    "65B": (80, {"hidden": 8192, "ffn": 22016, "heads": 64, "kv_heads": 64, "vocab": 32000}),
    "70B": (80, LARGE),
}


def model(size: str) -> ModelSpec:
    """A model of the table."""
    layers, shape = SHAPES[size]
    rest = {"head_dim": 128, "context": 4096, "norm_eps": 1e-5, "attention_scale": 128**-0.5}
    spec = ModelSpec(size, "llama", (LayerSpec(Rope(1e4)),) * layers, **shape, **rest)
    keys: set[TensorKey] = {key for part in spec.parts() for key in keys_of(spec, part)}
    return replace(spec, encodings={str(key): "Q4_K" for key in keys if "norm" not in key.role})


def machines(engine: str) -> Fleet:
    """The testbed; its memory is what is available."""
    nodes, near = [], {}
    for name, machine in TESTBED.items():
        memory = int(machine.available * GIB - RESERVE)
        cpu = Device("cpu", machine.gflops * 1e9, CPU_REACHES * machine.bandwidth * 1e9, memory)
        nodes.append(Node(NodeName(name), (cpu,), machine.disk * 1e9))
        if machine.card:
            # Of kind cpu: the weights of llama.cpp lie the same on both.
            gpu = Device("cpu", 10e12, GPU_REACHES * machine.card * 1e9, int(machine.vram * GIB - RESERVE))
            nodes.append(Node(NodeName(f"{name}.gpu"), (gpu,)))
            pair = NodeName(name), NodeName(f"{name}.gpu")
            near |= {pair: Link(20e-6, 12e9), pair[::-1]: Link(20e-6, 12e9)}
    # Wi-Fi of 320 to 610 Mbit/s, 3 to 7 ms.
    return Fleet(tuple(nodes), NodeName(engine), Link(5e-3, 465e6 / 8), near)


def layer_bytes(spec: ModelSpec) -> int:
    """Bytes of a layer with its KV."""
    kv = GOAL.kv_tokens * kv_bytes_per_token(spec, GOAL.dtype)
    return weight_bytes(spec, layer_parts([0]), GOAL.dtype) + kv


def head_bytes(spec: ModelSpec) -> int:
    """Bytes of the output layer."""
    return weight_bytes(spec, [Part(PartKind.HEAD)], GOAL.dtype)
