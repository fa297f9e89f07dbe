"""What a token cannot take less than where groups run layers, memory and all sizes of groups together: a programme.

Of all layers that groups of N nodes run, let T_N be the seconds of computing, X_N how many these are, and t_iN how
long node i computes for them. A group is done when its slowest member is, so that no member computes for longer than
the group does, and all N of them together no longer than N times that:

    minimise C, subject to
    t_iN <= T_N,  sum over i of t_iN <= N T_N
    X_N = sum over i of t_iN / s_i,  sum of X_N = L          s_i: seconds of a layer on node i
    sum over N of t_iN / s_i <= room_i + reads_i C           what it holds, or reads while a token comes by
    C = sum of T_N + a_N X_N + the rest                      a_N: sums, and ways to the next stage, of a layer

Sizes are taken together where they are many, with the least of their sums and the most of their members; so are nodes,
with the speed of the quickest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from potluck.planner.capacity import Able
from potluck.planner.programme import Programme

# So many nodes, and sizes, each by itself; of those that come later, ever more together.
_ALONE = 12
# Tolerances of the linear programme.
_SURE = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Beside:
    """What comes on top of computing.

    Attributes:
        layer: by the number of members less one, seconds of sums and ways of a layer.
        rest: of a token.
        scale: seconds of about what a token takes.
    """

    layer: Sequence[float]
    rest: float
    scale: float


def least_token_seconds(able: Sequence[Able], layers: int, beside: Beside) -> float:
    """What no token can take less than; nothing is known (0) where the layers have no room."""
    token = _Token(able, beside)
    for first, last in pairwise(_cuts(len(beside.layer))):
        token.let_groups(last, min(beside.layer[first:last]))
    return token.least(layers)


class _Token:
    """The programme, in units of about what a token takes."""

    def __init__(self, able: Sequence[Able], beside: Beside) -> None:
        self._programme, self._kinds, self._beside = Programme(), list(_kinds(able)), beside
        self._token = self._programme.column(cost=1.0)
        self._passed: dict[int, float] = {self._token: -1.0}
        self._computed: list[dict[int, float]] = [{} for _ in self._kinds]

    def let_groups(self, members: int, added: float) -> None:
        """Let groups of so many members at most run layers, each with so many seconds on top of computing."""
        programme, group = self._programme, self._programme.column()
        times = [programme.column() for _ in self._kinds]
        programme.at_most(0.0, dict.fromkeys(times, 1.0), {group: -float(members)})
        self._passed[group] = 1.0
        for kind, time, computed in zip(self._kinds, times, self._computed, strict=True):
            programme.at_most(0.0, {time: 1.0, group: -float(kind.count)})
            computed[time] = self._beside.scale / kind.seconds
            self._passed[time] = added / kind.seconds

    def least(self, layers: int) -> float:
        """The least seconds in which so many layers are run."""
        programme, scale = self._programme, self._beside.scale
        programme.equal(float(layers), *self._computed)
        programme.at_most(-self._beside.rest / scale, self._passed)
        for kind, computed in zip(self._kinds, self._computed, strict=True):
            programme.at_most(kind.room, computed, {self._token: -kind.reads * scale})
            programme.at_most(kind.most, computed)
        answer = programme.minimise()
        return answer.bound * scale * _SURE if answer else 0.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Nodes taken together."""

    count: int
    seconds: float
    room: float
    most: float
    reads: float


def _kinds(able: Sequence[Able]) -> Iterator[_Kind]:
    by_speed = sorted(able, key=lambda one: one.seconds)
    for first, last in pairwise(_cuts(len(by_speed))):
        some = by_speed[first:last]
        yield _Kind(
            len(some),
            some[0].seconds,
            sum(one.room for one in some),
            sum(one.most for one in some),
            sum(one.reads for one in some),
        )


def _cuts(count: int) -> list[int]:
    """Where so many are cut: one by one at first, then ever more together."""
    cuts = [0]
    while cuts[-1] < count:
        cuts.append(min(count, cuts[-1] + max(1, cuts[-1] // _ALONE)))
    return cuts
