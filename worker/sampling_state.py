"""What the sampler knows of each sequence: how to draw, and the tokens so far, for the penalties.

All of it follows from the sequence's runs (and `Run.history`), so that another node can rebuild it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from potluck.proto.step import Run, Sampling, Step


class SequenceState:
    """One sequence. `tokens[i]` is at position `start + i`."""

    __slots__ = ("_counted", "_generated", "_seen", "sampling", "start", "tokens")

    def __init__(self, start: int) -> None:
        self.sampling: Sampling | None = None
        self.start = start
        self.tokens: list[int] = []
        self._forget_counts()

    def extend(self, position: int, tokens: Iterable[int]) -> None:
        """Set the tokens from `position` on; what was known there and after (a rejected draft) is replaced."""
        kept = position - self.start
        if kept < len(self.tokens):
            del self.tokens[max(kept, 0) :]
            self._forget_counts()
        if kept != len(self.tokens):
            self.start, self.tokens = position, []
            self._forget_counts()
        self.tokens.extend(tokens)

    def set_sampling(self, sampling: Sampling) -> None:
        """Draw so from now on."""
        self.sampling = sampling
        self._forget_counts()

    def seen(self) -> Counter[int]:
        """How often each token occurs, prompt included."""
        self._count()
        return self._seen

    def generated(self) -> Counter[int]:
        """How often each token occurs after the prompt."""
        self._count()
        return self._generated

    def _forget_counts(self) -> None:
        self._counted = 0
        self._seen: Counter[int] = Counter()
        self._generated: Counter[int] = Counter()

    def _count(self) -> None:
        # Counted only where a penalty asks, and then only what came since: no step pays for the whole context.
        prompt = self.sampling.prompt_tokens if self.sampling else 0
        begin = max(self._counted, prompt - self.start)
        self._seen.update(self.tokens[self._counted :])
        self._generated.update(self.tokens[begin:])
        self._counted = len(self.tokens)


class SamplingStates:
    """The state of every sequence; takes each step once, in order."""

    def __init__(self) -> None:
        self._states: dict[int, SequenceState] = {}

    def apply(self, step: Step) -> None:
        """Forget the dropped sequences and take in the runs."""
        for sequence in step.dropped:
            self._states.pop(sequence, None)
        for run in step.runs:
            self._admit(run)

    def __getitem__(self, sequence: int) -> SequenceState:
        return self._states[sequence]

    def __len__(self) -> int:
        return len(self._states)

    def _admit(self, run: Run) -> None:
        state = self._states.get(run.sequence)
        if state is None:
            state = self._states[run.sequence] = SequenceState(run.position - len(run.history))
        if run.history:
            state.extend(run.position - len(run.history), run.history)
        state.extend(run.position, run.tokens)
        if run.sampling is not None:
            state.set_sampling(run.sampling)
