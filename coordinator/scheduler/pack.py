"""Who goes into the next step, with how many rows. A choice only; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many

from potluck.coordinator.scheduler.limits import Limits
from potluck.coordinator.scheduler.sequence import Sequence

# A chunk with fewer rows costs nearly as much as one with so many: the weights are read once either way.
_SMALLEST_CHUNK = 64


def ahead(line: Many[Sequence], limits: Limits) -> Iterator[tuple[Sequence, int]]:
    """(sequence, rows) of a step that goes out before the one in flight is back: decodes alone.

    None while a prompt is being computed or waits for that: its steps are so long that nothing would be gained, and the
    next one should begin as soon as it can.
    """
    if limits.ahead and not any(sequence.computed <= sequence.prompt_length for sequence in line):
        decodes = [sequence for sequence in line if sequence.ready or sequence.next_is_drawn]
        yield from ((sequence, 1) for sequence in decodes[: limits.max_rows])


def choose(line: Many[Sequence], limits: Limits) -> Iterator[tuple[Sequence, int]]:
    """(sequence, rows) of the next step from the line of admitted sequences, least recently served first.

    Decodes go first, no more than their share of the steps in flight, so that these carry about as many each. Prefill
    chunks fill the rows that are left, but no more than a step's share of the budget: a long prompt goes through the
    stages in several steps, one behind the other.
    """
    quota = -(-len(line) // limits.depth)
    decodes = [sequence for sequence in line if sequence.ready and not sequence.prefilling]
    decodes = decodes[: min(quota, limits.max_rows)]
    yield from ((sequence, 1) for sequence in decodes)
    chunk = limits.max_rows if limits.depth == 1 else max(_SMALLEST_CHUNK, -(-limits.max_rows // limits.depth))
    rows = min(limits.max_rows - len(decodes), chunk)
    for sequence in line:
        if rows and sequence.ready and sequence.prefilling:
            count = min(rows, sequence.prompt_length - sequence.computed)
            yield sequence, count
            rows -= count
