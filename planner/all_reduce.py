"""How a plan wants a group to form sums: by which algorithm, and in which type parts travel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

AUTO = "auto"
MOST_PIECES = 64  # each has a message of its own in every sum; steps have few rows to share among more


class Algorithm(StrEnum):
    """How every member of a group gets the sum of all parts; `collectives` says what each costs.

    `star`: the lead adds and sends the sum back; `direct`: everybody sends to everybody; `ring`: reduce-scatter, then
    all-gather.
    """

    STAR = "star"
    DIRECT = "direct"
    RING = "ring"


class Wire(StrEnum):
    """The type in which parts of a sum travel.

    `int8-feedback`: each part brings along what rounding took from the one before in the same step. Not where a norm
    stands between sum and residual stream, and not in a ring, whose messages are parts of others' sums.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT8_FEEDBACK = "int8-feedback"

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """The algorithms that this type can travel by."""
        return tuple(one for one in Algorithm if self is not Wire.INT8_FEEDBACK or one is not Algorithm.RING)


@dataclass(frozen=True, slots=True)
class AllReduce:
    """What a stage asks for; None leaves the choice to `agreement.agreements`.

    `pieces`: that a sum of many rows travels in by direct exchange, each while the next is computed; 1: whole.
    """

    algorithm: Algorithm | None = None
    wire: Wire | None = None
    pieces: int | None = None
