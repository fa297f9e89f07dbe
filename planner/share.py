"""What one node holds of a stage, and where its weights live."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from potluck.planner.fleet import NodeName

WHOLE = (Fraction(0), Fraction(1))


class Residency(StrEnum):
    """Where the weights of a share live: on the device, in RAM and copied ahead, or in a file mapped ahead."""

    RESIDENT = "resident"
    HOST = "host"
    STREAMED = "streamed"


@dataclass(frozen=True, slots=True)
class Share:
    """What one node holds of a stage, along independent axes; None is all of the axis.

    `kv_heads`, `ffn_columns`, `vocabulary` are half-open ranges of KV-head groups, FFN columns and vocabulary rows;
    `heads` is a range of query heads, instead of `kv_heads`, where nodes share a KV head; `experts` the expert numbers
    held; `sequence` the fraction of positions kept (ring attention). Of streamed layers, at most `window` are in memory
    at once (TPI-LLM's sliding window, arXiv 2410.00531); None leaves that to the node's memory.
    """

    node: NodeName
    kv_heads: tuple[int, int] | None = None
    ffn_columns: tuple[int, int] | None = None
    vocabulary: tuple[int, int] | None = None
    heads: tuple[int, int] | None = None
    experts: tuple[int, ...] | None = None
    sequence: tuple[Fraction, Fraction] = WHOLE
    residency: Residency = Residency.RESIDENT
    window: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this share is the stage itself, so that the group has one node."""
        axes = (self.heads, self.kv_heads, self.ffn_columns, self.vocabulary, self.experts)
        return all(axis is None for axis in axes) and self.sequence == WHOLE
