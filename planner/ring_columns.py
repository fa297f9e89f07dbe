"""The columns of `ring_programme`, and the rows that say what fits where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from potluck.planner.places import ALL_ENDS, Place
from potluck.planner.problem import Problem
from potluck.planner.programme import Programme, Terms

_SCALE = 1e3

Room = Literal["none", "window", "layer"]


def rounds_to_try(layers: int) -> list[int]:
    """Numbers of rounds that are tried, of all that there are layers for: each stands for those up to the next."""
    tried = sorted({*range(1, 4), *(factor << power for factor in (2, 3) for power in range(1, layers.bit_length()))})
    return [rounds for rounds in tried if rounds <= layers // 2]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one place; `first` and `last` say whether it begins or ends the ring."""

    layers: int
    used: int
    embedding: int
    head: int
    both: int
    streams: int
    away: int
    windows: int
    first: int
    last: int


class RingColumns:
    """Who may have what: a programme without its hops and without an aim."""

    def __init__(self, problem: Problem, rounds: int, limit: float, room: Room = "none") -> None:
        """`limit`: seconds that are known to be possible; what cannot cost less is not looked for.

        `room` for what is streamed: none, what a window streams, or a single layer, which says what no ring that
        streams can cost less than, but not what it costs.
        """
        self.problem, self.rounds, self.room = problem, rounds, room
        self._scale, self._limit = _SCALE / limit, limit
        self.programme = Programme()
        self.waits: list[Terms] = []
        """Seconds that links are taken for: with a step in flight for every node, the next must wait for each."""
        self.joined: list[tuple[int, int]] = []
        """Columns that say of each place whether it begins with the embedding, and whether it ends with the head."""
        self.columns = [self._columns(place) for place in problem.places]
        for place, columns in zip(problem.places, self.columns, strict=True):
            self._hold(place, columns)
        self._complete()

    def _pairs(self) -> list[tuple[Place, Columns]]:
        return list(zip(self.problem.places, self.columns, strict=True))

    def _columns(self, place: Place) -> Columns:
        programme, streams = self.programme, self._may_stream(place)
        # A place where a single layer takes longer than all is known to take is of no use.
        slow = place.layer_seconds * self.rounds > self._limit
        most = 0 if slow else self._most(place)
        able = most >= self.rounds
        return Columns(
            layers=programme.column(most if able else 0, whole=True),
            used=programme.binary(able),
            embedding=programme.binary(place.room(ALL_ENDS[1]) >= 0),
            head=programme.binary(place.room(ALL_ENDS[2]) >= 0 and place.head_seconds <= self._limit),
            both=programme.binary(place.room(ALL_ENDS[3]) >= 0),
            streams=programme.binary(able and streams),
            away=programme.column(most if streams else 0, whole=True),
            windows=programme.column(most if streams else 0, whole=True),
            first=programme.binary(able),
            last=programme.binary(able),
        )

    def _may_stream(self, place: Place) -> bool:
        return place.disk > 0 and self.room != "none"

    def _most(self, place: Place) -> int:
        most = place.most() if self._may_stream(place) else place.room()
        return max(0, min(most, self.problem.layers))

    def _hold(self, place: Place, columns: Columns) -> None:
        """What a place may take: its memory, its ends, its rounds."""
        programme, most = self.programme, self._most(place)
        programme.at_most(0.0, {columns.layers: 1.0, columns.used: -float(most)})
        programme.at_most(0.0, {columns.used: float(self.rounds), columns.layers: -1.0})
        for end in (columns.embedding, columns.head):
            programme.at_most(0.0, {columns.both: 1.0, end: -1.0})
        programme.at_most(1.0, {columns.embedding: 1.0, columns.head: 1.0, columns.both: -1.0})
        self._fit(place, columns, most)
        if self._may_stream(place):
            self._stream(place, columns, most)

    def _fit(self, place: Place, columns: Columns, most: int) -> None:
        # Whole numbers of layers, so that no tolerance lets in one byte too many.
        for holder in place.holders:
            room = [max(-1, min(holder.room(ends), most)) for ends in ALL_ENDS]
            ends = self._by_ends(columns, [float(room[0] - one) for one in room])
            layers = {columns.layers: 1.0, columns.streams: -float(most)}
            self.programme.at_most(max(0.0, float(room[0])), layers, ends)

    def _stream(self, place: Place, columns: Columns, most: int) -> None:
        holder, rounds = place.holders[0], self.rounds
        unit = float(holder.layer_weights)
        kept = {columns.layers: 1.0 + holder.layer_kv / unit, columns.away: -1.0, columns.windows: 1.0}
        ends = self._by_ends(columns, [holder.ends[ends] / unit for ends in ALL_ENDS])
        self.programme.at_most(holder.free / unit, kept, ends)
        self.programme.at_most(0.0, {columns.away: 1.0, columns.layers: -1.0})
        self.programme.at_most(0.0, {columns.away: 1.0, columns.streams: -float(most)})
        self.programme.at_most(0.0, {columns.streams: 1.0, columns.windows: -1.0})
        if self.room == "window":
            self.programme.at_most(0.0, {columns.away: 1.0, columns.windows: -float(rounds)})

    def _by_ends(self, columns: Columns, values: list[float]) -> Terms:
        """An expression that has the value of the ends that are there: none, the embedding, the head, both."""
        nothing, embedding, head, both = values
        return {
            columns.embedding: embedding - nothing,
            columns.head: head - nothing,
            columns.both: both - embedding - head + nothing,
        }

    def _complete(self) -> None:
        """Everything is somewhere, once, and who must have layers has some."""
        programme, columns = self.programme, self.columns
        programme.equal(float(self.problem.layers), {one.layers: 1.0 for one in columns})
        for name in ("embedding", "head", "first", "last"):
            programme.equal(1.0, {getattr(one, name): 1.0 for one in columns})
        for one in columns:
            programme.at_most(0.0, {one.first: 1.0, one.last: 1.0, one.used: -1.0})
        if self.problem.most is not None:
            programme.at_most(float(self.problem.most), {self._present(one): 1.0 for one in columns})
        for number in self.problem.required(self.rounds):
            programme.equal(1.0, {columns[number].used: 1.0})

    def _present(self, one: Columns) -> int:
        """A column that is 1 where a place has anything."""
        present = self.programme.binary()
        for held in (one.used, one.embedding, one.head):
            self.programme.at_most(0.0, {held: 1.0, present: -1.0})
        return present
