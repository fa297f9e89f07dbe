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

from potluck.planner.places import Place
from potluck.planner.programme import Terms, scaled, total
from potluck.planner.ring_columns import Columns, RingColumns, rounds_to_try

# Of what costs the same, the one whose tokens are on their way for the shortest time.
_SECOND = 1e-6
_SCALE = 1e3


class RingProgramme(RingColumns):
    """The programme without its hops, which `hop_terms` adds, and without its aim, which `set_aim` adds last."""

    def set_aim(self, way: Terms) -> None:
        """Minimise what the goal aims at, given the hops of a token (seconds), and bound it by the limit."""
        busy = [self._busy(place, columns) for place, columns in self._pairs()]
        serial, cycle, next_ = total(way, *busy), self.programme.column(), self.programme.column()
        waiting = self.programme.column()
        self.programme.equal(0.0, scaled(serial, self._scale), {cycle: -1.0, waiting: 1.0})
        for place, columns in self._pairs():
            if place.disk:
                reading = place.holders[0].layer_weights / place.disk * self._scale
                self.programme.at_most(0.0, {columns.away: reading, cycle: -1.0})
        if self.room == "layer":
            self._read_here(busy, waiting)
        self._share(serial, busy)
        if self.problem.request.goal.aim != "latency":
            self._follow(busy, serial, (cycle, next_))
        self._minimise(serial, cycle, next_)

    def seconds(self, cost: float) -> float:
        """A cost of the programme in seconds."""
        return cost / self._scale

    def _busy(self, place: Place, columns: Columns) -> Terms:
        return {
            columns.layers: place.layer_seconds,
            columns.embedding: place.embedding_seconds,
            columns.head: place.head_seconds,
        }

    def _read_here(self, busy: list[Terms], waiting: int) -> None:
        """While others compute, a disk reads no more than there is room for, each time that they do: the rest takes
        its time here, computing or waiting. Others come between two windows, before the embedding and before the head;
        in all rounds that these stand for."""
        later = [rounds for rounds in rounds_to_try(self.problem.layers) if rounds > self.rounds]
        last = later[0] - 1 if later else self.problem.layers // 2
        for (place, columns), own in zip(self._pairs(), busy, strict=True):
            if self._may_stream(place):
                reading = place.holders[0].layer_weights / place.disk * self._scale
                left = {columns.away: reading, columns.windows: -(last + 2) * reading}
                self.programme.at_most(0.0, left, scaled(own, -self._scale), {waiting: -1.0})

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
