"""Which requests go into the next step: as `coordinator/scheduler/pack.py` chooses, with KV counted in tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from potluck.models.costs import Pass
from potluck.planner.first_token import chunk_rows
from potluck.planner.simulator.load import Arrival


@dataclass(slots=True, eq=False)
class Sequence:
    """One request under way: positions whose KV exists or is on its way, steps that carry it, when tokens came."""

    number: int
    arrival: Arrival
    computed: int = 0
    flying: int = 0
    tokens_at: list[float] = field(default_factory=list)

    @property
    def prefilling(self) -> bool:
        """Whether tokens of its prompt are still to be sent."""
        return self.computed < self.arrival.prompt

    @property
    def ready(self) -> bool:
        """Whether a run of it can go into the next step."""
        return self.prefilling or (not self.flying and len(self.tokens_at) < self.arrival.tokens)

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV that it may come to need; the last one drawn is never fed back."""
        return self.arrival.prompt + self.arrival.tokens - 1


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive rows of a sequence in a step, up to position `end`."""

    sequence: Sequence
    rows: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether a token is drawn after it."""
        return self.end >= self.sequence.arrival.prompt

    @property
    def decodes(self) -> bool:
        """Whether it feeds back a token."""
        return self.end > self.sequence.arrival.prompt

    @property
    def draws_last(self) -> bool:
        """Whether that is the sequence's last token."""
        return self.samples and len(self.sequence.tokens_at) + 1 == self.sequence.arrival.tokens


class Packer:
    """The line of a route: who waits for KV, who runs. `pending` tokens are still to be computed."""

    def __init__(self, kv_tokens: int, most_rows: int, depth: int) -> None:
        self._free, self._most, self._depth = kv_tokens, most_rows, depth
        self.pending = 0
        self._waiting: deque[Sequence] = deque()
        self._line: dict[int, Sequence] = {}

    def submit(self, sequence: Sequence) -> None:
        """To the end of the queue."""
        self._waiting.append(sequence)
        self.pending += sequence.kv_tokens

    def returned(self, run: Run, now: float) -> bool:
        """A step that carried a run is back. Whether its sequence has all its tokens, so that its KV is free."""
        sequence = run.sequence
        sequence.flying -= 1
        if not run.samples:
            return False
        sequence.tokens_at.append(now)
        if len(sequence.tokens_at) < sequence.arrival.tokens:
            return False
        del self._line[sequence.number]
        self._free += sequence.kv_tokens
        return True

    def next_step(self) -> list[Run]:
        """The runs of the next step; none where nobody is ready."""
        self._admit()
        return [self._fly(sequence, rows) for sequence, rows in list(self._choose())]

    def _admit(self) -> None:
        while self._waiting and len(self._line) < self._most * self._depth:
            if self._waiting[0].kv_tokens > self._free:
                return
            sequence = self._waiting.popleft()
            self._free -= sequence.kv_tokens
            self._line[sequence.number] = sequence

    def _choose(self) -> Iterator[tuple[Sequence, int]]:
        line = list(self._line.values())
        decodes = [sequence for sequence in line if sequence.ready and not sequence.prefilling]
        decodes = decodes[: min(-(-len(line) // self._depth), self._most)]
        yield from ((sequence, 1) for sequence in decodes)
        rows = min(self._most - len(decodes), chunk_rows(self._most, self._depth))
        for sequence in line:
            if rows and sequence.prefilling:
                count = min(rows, sequence.arrival.prompt - sequence.computed)
                yield sequence, count
                rows -= count

    def _fly(self, sequence: Sequence, rows: int) -> Run:
        if not sequence.prefilling:
            self._line[sequence.number] = self._line.pop(sequence.number)
        sequence.computed += rows
        self.pending -= rows
        sequence.flying += 1
        return Run(sequence, rows, sequence.computed)


def work_of(runs: list[Run]) -> Pass:
    """A step as the cost model sees it: rows attend to as much as they do on average."""
    rows = sum(run.rows for run in runs)
    attended = sum(run.rows * ((2 * run.end - run.rows + 1) // 2) for run in runs)
    return Pass(rows, sum(run.samples for run in runs), round(attended / rows), len(runs))
