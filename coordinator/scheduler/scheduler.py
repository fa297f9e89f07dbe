"""Continuous batching: which runs go into the next step, and what a result means. Pure.

Decodes go first, then prefill chunks fill what is left of the row budget. As many steps are in flight as the route has
nodes; decodes spread evenly over them, so that no stage idles while others work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from potluck.coordinator.generation import Drawn, Finish, Generation
from potluck.coordinator.scheduler.blocks import BlockPool
from potluck.coordinator.scheduler.limits import Limits, NeverFits, QueueFull
from potluck.coordinator.scheduler.pack import ahead, choose
from potluck.coordinator.scheduler.sequence import Sequence
from potluck.proto.step import Outcome, Outputs, Result, Run, Step

__all__ = ["Delivery", "Limits", "NeverFits", "QueueFull", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a result gave one sequence: a drawn token or an end, or the reason why it cannot go on."""

    sequence: int
    drawn: Drawn
    failure: str = ""


class Scheduler:
    """Sequences of one deployment epoch. Call from one thread at a time."""

    def __init__(self, limits: Limits, first_number: int = 1, stride: int = 1) -> None:
        """`first_number` of a sequence and the distance to the next; a new epoch goes on after the one before."""
        self._limits = limits
        self._pool = BlockPool(limits.kv_blocks)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._all: dict[int, Sequence] = {}
        self._flying: dict[int, list[tuple[Sequence, Run]]] = {}
        self._drops: list[int] = []
        self._next_sequence, self._next_step, self._stride = first_number, 1, stride

    @property
    def next_number(self) -> int:
        """The number the next sequence will get."""
        return self._next_sequence

    @property
    def goes_ahead(self) -> bool:
        """See `Limits.ahead`."""
        return self._limits.ahead

    @property
    def running(self) -> int:
        """Admitted sequences."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences not admitted yet."""
        return len(self._all) - len(self._running)

    @property
    def kv_used(self) -> float:
        """Fraction of the KV blocks that hold tokens."""
        return self._pool.used / self._pool.total

    @property
    def steps_in_flight(self) -> int:
        """Steps sent and not answered."""
        return len(self._flying)

    def sequences(self) -> list[int]:
        """Numbers of all sequences that have not ended."""
        return list(self._all)

    @property
    def unfinished(self) -> int:
        """Sequences that have not ended, but for those of which only a token that nobody wants is on its way."""
        return sum(not (one.cancelled and one.computed > one.prompt_length) for one in self._all.values())

    def submit(self, generations: Many[Generation]) -> list[int]:
        """Queue the choices of one request; those with equal prompts share the prompt's full KV blocks.

        Raises:
            NeverFits: one of them exceeds the context or all of the KV.
            QueueFull: too many wait already.
        """
        for generation in generations:
            self._limits.check(generation)
        if self.waiting + len(generations) > self._limits.max_waiting:
            raise QueueFull(f"{self.waiting} requests wait already; try again later")
        # Choices that wait on shared blocks must be no larger than the one whose reservation had room for them.
        leaders: dict[tuple[tuple[int, ...], int], Sequence] = {}
        numbers = []
        for generation in generations:
            sequence = Sequence(self._next_sequence, generation, list(generation.prompt))
            self._next_sequence += self._stride
            self._all[sequence.number] = sequence
            numbers.append(sequence.number)
            kind = (generation.prompt, generation.max_tokens)
            leader = None if generation.score_prompt else leaders.setdefault(kind, sequence)
            (self._waiting if leader in (None, sequence) else leader.followers).append(sequence)
        return numbers

    def cancel(self, number: int) -> None:
        """Forget a sequence: at once, or when the steps that carry it are back. Unknown numbers are ignored."""
        sequence = self._all.get(number)
        if sequence is None or sequence.cancelled:
            return
        self._conclude(sequence)

    def next_step(self) -> Step | None:
        """The next step to send, or None while there is nothing to do or enough is in flight."""
        beyond = len(self._flying) - self._limits.depth
        if beyond > 0 or (beyond == 0 and not self._limits.ahead):
            return None
        self._admit()
        line = list(self._running.values())
        chosen = list(choose(line, self._limits) if beyond < 0 else ahead(line, self._limits))
        packed = [self._fly(sequence, rows) for sequence, rows in chosen]
        if not packed and (not self._drops or beyond == 0):
            return None
        number, drops = self._next_step, self._drops
        self._next_step, self._drops = number + 1, []
        self._flying[number] = packed
        return Step(number, [run for _, run in packed], drops)

    def apply(self, result: Result) -> list[Delivery]:
        """Take the answer to a step.

        Raises:
            KeyError: no such step is in flight.
        """
        outcomes = {outcome.sequence: outcome for outcome in result.outcomes}
        deliveries: list[Delivery] = []
        for sequence, run in self._flying.pop(result.number):
            sequence.flying -= 1
            if not sequence.cancelled:
                deliveries += self._advance(sequence, run, outcomes.get(sequence.number))
            elif sequence.flying == 0:
                self._end(sequence)
        return deliveries

    def _admit(self) -> None:
        """First come, first admitted: a small request does not pass a large one that waits for KV."""
        while self._waiting and len(self._running) < self._limits.max_running:
            sequence = self._waiting[0]
            need = self._limits.blocks_needed(sequence.generation) - len(sequence.blocks)
            if not self._pool.promise(need):
                return
            sequence.promised = need
            self._running[sequence.number] = self._waiting.popleft()

    def _fly(self, sequence: Sequence, rows: int) -> tuple[Sequence, Run]:
        wanted = -(-(sequence.computed + rows) // self._limits.block_size)
        blocks = [self._pool.take() for _ in range(wanted - len(sequence.blocks))]
        # The first run of a sequence that starts on shared blocks names these too.
        given = blocks if sequence.known else [*sequence.blocks, *blocks]
        sequence.promised -= len(blocks)
        sequence.blocks += blocks
        sequence.flying += 1
        if not sequence.prefilling:
            # Served: to the end of the line.
            self._running[sequence.number] = self._running.pop(sequence.number)
        return sequence, sequence.run(rows, given)

    def _advance(self, sequence: Sequence, run: Run, outcome: Outcome | None) -> Iterator[Delivery]:
        if run.outputs == Outputs.NONE:
            return
        last = run.position + len(run.tokens) >= sequence.prompt_length
        if outcome is None or outcome.error or (last and outcome.token < 0):
            reason = outcome.error if outcome else ""
            yield self._fail(sequence, reason or "the node with the output head gave no answer for this request")
            return
        sequence.scores += outcome.prompt
        if not last:
            return
        if sequence.followers:
            self._release_followers(sequence)
        yield self._deliver(sequence, outcome)

    def _fail(self, sequence: Sequence, reason: str) -> Delivery:
        self._conclude(sequence)
        return Delivery(sequence.number, Drawn(), reason)

    def _deliver(self, sequence: Sequence, outcome: Outcome) -> Delivery:
        scores, sequence.scores = sequence.scores, []
        if sequence.generation.max_tokens == 0:
            self._conclude(sequence)
            return Delivery(sequence.number, Drawn(prompt=scores, finish="length"))
        sequence.tokens.append(outcome.token)
        finish = self._finish(sequence, outcome.token)
        if finish:
            self._conclude(sequence)
        return Delivery(sequence.number, Drawn(outcome.token, outcome.score, scores, finish))

    def _finish(self, sequence: Sequence, token: int) -> Finish | None:
        if token in sequence.generation.end_ids:
            return "stop"
        return "length" if sequence.drawn >= sequence.generation.max_tokens else None

    def _conclude(self, sequence: Sequence) -> None:
        """Nothing more is wanted of it; steps that are on their way with it come back first."""
        sequence.cancelled = True
        if sequence.flying == 0:
            self._end(sequence)

    def _release_followers(self, leader: Sequence) -> None:
        """The prompt is in KV: its other choices start on the full blocks, and compute only the last part anew."""
        full = (leader.prompt_length - 1) // self._limits.block_size
        followers = [follower for follower in leader.followers if not follower.cancelled]
        leader.followers = []
        for follower in followers:
            follower.blocks = leader.blocks[:full]
            self._pool.share(follower.blocks)
            follower.computed = full * self._limits.block_size
        self._waiting.extendleft(reversed(followers))

    def _end(self, sequence: Sequence) -> None:
        del self._all[sequence.number]
        if self._running.pop(sequence.number, None) is None and sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.known:
            self._drops.append(sequence.number)
        self._pool.unpromise(sequence.promised)
        self._pool.release(sequence.blocks)
        sequence.promised, sequence.blocks = 0, []
        self._promote_follower(sequence)

    def _promote_follower(self, leader: Sequence) -> None:
        """The prompt was not computed to its end: the next choice leads the others."""
        alive = [follower for follower in leader.followers if not follower.cancelled]
        leader.followers = []
        if alive:
            alive[0].followers = alive[1:]
            self._waiting.appendleft(alive[0])
