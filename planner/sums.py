"""What a group's sums put on its links in a step: counted, byte for byte, as the workers' counters have it.

A layer has two sums, after attention and after its FFN; an embedding whose rows are split has one more, and a head
whose rows are split has its logits gathered by the lead. Frames' headers are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from potluck.models.spec import ModelSpec, PartKind
from potluck.planner.agreement import Agreement
from potluck.planner.all_reduce import Algorithm, Wire
from potluck.planner.axes import axis_range
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Stage
from potluck.planner.transfers import PackedStep

Traffic = dict[tuple[NodeName, NodeName], int]
"""Payload bytes from one node to another."""

_ITEMSIZE = {Wire.FLOAT32: 4, Wire.BFLOAT16: 2}
# Numbers of 8 bits travel in blocks that share a scale in float32, the last one filled up.
_INT8_BLOCK, _SCALE_BYTES = 32, 4
_LOGIT_BYTES = 4


def sums_per_step(stage: Stage) -> int:
    """All-reduces that a group forms in a step of one row or more."""
    return sum(part.kind is not PartKind.HEAD for part in stage.parts) if stage.is_group else 0


def message_bytes(numbers: int, wire: Wire) -> int:
    """Bytes of so many numbers of a sum, as they travel together: one member's part, or a chunk of it."""
    if wire not in _ITEMSIZE:
        return -(-numbers // _INT8_BLOCK) * (_INT8_BLOCK + _SCALE_BYTES)
    return numbers * _ITEMSIZE[wire]


def chunk_lengths(elements: int, members: int) -> list[int]:
    """How a ring cuts a part: the first `elements % members` chunks have one number more than the others."""
    return [elements // members + (chunk < elements % members) for chunk in range(members)]


def sum_traffic(algorithm: Algorithm, nodes: Sequence[NodeName], elements: int, wire: Wire) -> Traffic:
    """What one all-reduce of parts of so many numbers puts on the links of a group.

    In a ring, member i of N sends chunk (i - h) mod N in hop h of the reduce-scatter and chunk (i + 1 - h) mod N in hop
    h of the all-gather, h from 0 to N - 2, to member i + 1.
    """
    pairs = {
        Algorithm.STAR: _star,
        Algorithm.DIRECT: _direct,
        Algorithm.RING: _ring,
    }[algorithm](nodes, elements)
    counts: Counter[tuple[NodeName, NodeName]] = Counter()
    for source, target, numbers in pairs:
        counts[source, target] += message_bytes(numbers, wire)
    return dict(counts)


def stage_traffic(stage: Stage, step: PackedStep, spec: ModelSpec, agreement: Agreement) -> Traffic:
    """What a step puts on the links of a stage's group: all its sums, and its gather of logits (float32)."""
    if not stage.is_group:
        return {}
    elements = step.rows * spec.hidden
    algorithm = agreement.algorithm(message_bytes(elements, agreement.wire))
    one = sum_traffic(algorithm, stage.nodes, elements, agreement.wire)
    counts = Counter({link: nbytes * sums_per_step(stage) for link, nbytes in one.items()})
    counts.update(logits_traffic(stage, len(step.sampled_rows()), spec))
    return dict(counts)


def logits_traffic(stage: Stage, sampled: int, spec: ModelSpec) -> Traffic:
    """Logits of the sampled rows that go to the lead; nothing where the group has no head."""
    if not stage.has_head:
        return {}
    held = {share.node: axis_range(spec, PartKind.HEAD, share) for share in stage.shares[1:]}
    return {(node, stage.nodes[0]): sampled * (end - first) * _LOGIT_BYTES for node, (first, end) in held.items()}


def _star(nodes: Sequence[NodeName], elements: int) -> Iterator[tuple[NodeName, NodeName, int]]:
    for node in nodes[1:]:
        yield node, nodes[0], elements
        yield nodes[0], node, elements


def _direct(nodes: Sequence[NodeName], elements: int) -> Iterator[tuple[NodeName, NodeName, int]]:
    for source in nodes:
        yield from ((source, target, elements) for target in nodes if target != source)


def _ring(nodes: Sequence[NodeName], elements: int) -> Iterator[tuple[NodeName, NodeName, int]]:
    count = len(nodes)
    lengths = chunk_lengths(elements, count)
    for member, source in enumerate(nodes):
        for hop in range(count - 1):
            target = nodes[(member + 1) % count]
            yield source, target, lengths[(member - hop) % count]
            yield source, target, lengths[(member + 1 - hop) % count]
