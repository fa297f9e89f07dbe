"""Who takes how many layers, in how many resident, where the ends go and who is left out: as a mixed-integer programme.

For a number of rounds k, with for every place whole numbers `layers` l, `away` o (streamed of them) and `windows` w
(layers that there is room for while they come and go), and binaries `used`, `embedding`, `head`, `both` and `streams`:

    minimise the aim, subject to
    k used <= l <= most used                        a place in the ring has a window in every round
    l <= room(ends) + most streams                  what is not streamed fits, beside the ends that are there
    (l - o) b + w b + l kv + ends <= free           what is streamed comes and goes beside what stays
    w >= o / k, w >= streams, o <= l, o <= most streams
    one embedding, one head, sum of l = L
    serial = sum of busy + hops                     a token's way, nobody waiting for a disk
    cycle >= serial, cycle >= o b / disk            disks read all the time, hidden behind everybody's compute
    busy <= share serial                            of a place that is to be burdened less

This is PRIMA.CPP's layer assignment (arXiv 2504.08791, appendix A.3) without its four sets of devices: what overflows
is a variable whose cost is convex, so that no iteration is needed; and with the cycle in place of the sum of disk
times. `hop_terms` says what the hops are. Seconds are scaled, so that tolerances mean the same for any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from potluck.planner.places import ALL_ENDS, Place
from potluck.planner.problem import Problem
from potluck.planner.programme import Programme, Terms, scaled, total

# Of what costs the same, the one whose tokens are on their way for the shortest time.
_SECOND = 1e-6
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


class RingProgramme:
    """The programme without its hops, which `hop_terms` adds, and without its aim, which `set_aim` adds last."""

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

    def set_aim(self, way: Terms) -> None:
        """Minimise what the goal aims at, given the hops of a token (seconds), and bound it by the limit."""
        busy = [self._busy(place, columns) for place, columns in self._pairs()]
        serial, cycle, next_ = total(way, *busy), self.programme.column(), self.programme.column()
        self.programme.at_most(0.0, scaled(serial, self._scale), {cycle: -1.0})
        for place, columns in self._pairs():
            if place.disk:
                reading = place.holders[0].layer_weights / place.disk * self._scale
                self.programme.at_most(0.0, {columns.away: reading, cycle: -1.0})
        if self.room == "layer":
            self._read_here(serial, busy, cycle)
        self._share(serial, busy)
        if self.problem.request.goal.aim != "latency":
            self._follow(busy, serial, (cycle, next_))
        self._minimise(serial, cycle, next_)

    def seconds(self, cost: float) -> float:
        """A cost of the programme in seconds."""
        return cost / self._scale

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

    def _busy(self, place: Place, columns: Columns) -> Terms:
        return {
            columns.layers: place.layer_seconds,
            columns.embedding: place.embedding_seconds,
            columns.head: place.head_seconds,
        }

    def _read_here(self, serial: Terms, busy: list[Terms], cycle: int) -> None:
        """While others compute, a disk reads no more than there is room for, each time that they do: the rest takes
        its time here, computing or not. Others come between two windows, before the embedding and before the head; in
        all rounds that these stand for."""
        later = [rounds for rounds in rounds_to_try(self.problem.layers) if rounds > self.rounds]
        last = later[0] - 1 if later else self.problem.layers // 2
        for (place, columns), own in zip(self._pairs(), busy, strict=True):
            if self._may_stream(place):
                reading = place.holders[0].layer_weights / place.disk * self._scale
                left = {columns.away: reading, columns.windows: -(last + 2) * reading}
                self.programme.at_most(0.0, scaled(serial, self._scale), scaled(own, -self._scale), left, {cycle: -1.0})

    def _share(self, serial: Terms, busy: list[Terms]) -> None:
        for place, own in zip(self.problem.places, busy, strict=True):
            if place.share < 1.0:
                self.programme.at_most(0.0, scaled(own, self._scale), scaled(serial, -place.share * self._scale))

    def _follow(self, busy: list[Terms], serial: Terms, columns: tuple[int, int]) -> None:
        """How soon a token can follow another: where one streams, when that is there; else one for every node that
        takes part is on its way, and none can pass another in a place or on a link."""
        cycle, next_ = columns
        if self.rounds > 1 or self.room != "none":
            self.programme.at_most(0.0, {cycle: 1.0, next_: -1.0})
            return
        for own in (*map(total, busy, self._visits()), *self.waits):
            self.programme.at_most(0.0, scaled(own, self._scale), {next_: -1.0})
        parts = [self._if_present(one, next_) for one in self.columns]
        self.programme.at_most(0.0, scaled(serial, self._scale), dict.fromkeys(parts, -1.0))

    def _visits(self) -> list[Terms]:
        """Seconds of software for the stages of every place."""
        seconds = self.problem.request.goal.software.stage
        return [
            scaled({one.used: 1.0, one.embedding: 1.0, one.head: 1.0, entered: -1.0, left: -1.0}, seconds)
            for one, (entered, left) in zip(self.columns, self.joined, strict=True)
        ]

    def _if_present(self, one: Columns, column: int) -> int:
        """A column that may be as large as another where a place has something, and is 0 where it has nothing."""
        programme, part = self.programme, self.programme.column()
        programme.at_most(0.0, {part: 1.0, column: -1.0})
        programme.at_most(0.0, {part: 1.0}, dict.fromkeys((one.used, one.embedding, one.head), -2 * _SCALE))
        return part

    def _minimise(self, serial: Terms, cycle: int, next_: int) -> None:
        aim = self.problem.request.goal.aim
        main = {column: 1.0 for column, wanted in ((cycle, aim != "throughput"), (next_, aim != "latency")) if wanted}
        self.programme.at_most(_SCALE * (1 + 1e-6), main)
        for column, cost in total(main, scaled(serial, _SECOND * self._scale)).items():
            self.programme.costs[column] += cost
