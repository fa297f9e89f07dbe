"""What software adds to a step beside computing and the wire, in seconds. Never scaled with a node's speed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Software:
    """Fixed costs, in seconds.

    Attributes:
        step: the engine takes a result, packs the next step and sends it.
        stage: a worker wakes for a frame of another node, reads it and begins to compute.
        frame: a frame is written, checked and read, beside its bytes on the wire.
        again: all that a step takes which follows the one before without waiting for the engine (`memory.goes_ahead`).
        sum: an all-reduce (or a gather of logits) among the members of a group, beside its bytes on the wire.
    """

    step: float = 0.0
    stage: float = 0.0
    frame: float = 0.0
    sum: float = 0.0
    again: float = 0.0

    def __post_init__(self) -> None:
        """Refuse software that runs backwards.

        Raises:
            ValueError: a cost is negative or not a number.
        """
        for name in ("step", "stage", "frame", "sum", "again"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"software: {name} must be seconds, not {getattr(self, name)}")


# Two cores of a server, loopback. step and stage: bench/results/pipeline.md, where a stage more costs 1.2 ms in all, of
# which a leg (waking on a frame) is 0.4; the rest, caches and clocks of cores shared with others, is mostly that
# machine's, so a stage counts 0.5 and the way back to the engine one leg. frame: hop_8k_us_p50 there, 49 us at best.
# sum: bench/all_reduce.py, two members, 4 KiB. again: 0.2 from a result to the next step's begin, and as much for what
# a step takes whatever the layers.
MEASURED = Software(step=0.4e-3, stage=0.5e-3, frame=0.05e-3, sum=0.04e-3, again=0.4e-3)
NONE = Software()
