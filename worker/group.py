"""A window's group: sums and gathers among the nodes that run it together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch

from potluck.kernels.decode_layers import SumCall
from potluck.proto.direct_sum import DirectSums
from potluck.proto.exchange import Incoming, Outgoing, exchange
from potluck.proto.member_link import MemberLink
from potluck.worker.cut import Range
from potluck.worker.overlap import FEWEST_ROWS, Apart, Overlap, unpaced
from potluck.worker.residence import Product
from potluck.worker.sums import ALGORITHMS, LEAD, Buffers, Circle
from potluck.worker.wires import BFloat16, Feedback, Float32, wire_of


class Combine(Protocol):
    """What the decoder asks of a group; all members ask for the same, in the same order."""

    @property
    def leads(self) -> bool:
        """Whether this member passes on what comes out."""

    def begin(self) -> None:
        """A step begins."""

    def sum(self, part_TD: torch.Tensor) -> torch.Tensor:
        """The sum of all members' parts: float32 (T, D), the same bits on all; valid until the next."""

    def summed(self, product: Product, x_TI: torch.Tensor) -> torch.Tensor:
        """The sum of what the members' products give; of many rows, some travel while the next are computed."""

    def in_one(self, count: int) -> AbstractContextManager[SumCall] | None:
        """What forms sums of so many numbers where layers go through in one call; None where nothing does."""

    def tell(self, tokens: list[int]) -> list[int]:
        """The tokens of the member that leads; as many are asked for by all."""

    def gather(self, part_RV: torch.Tensor) -> torch.Tensor | None:
        """The members' columns side by side, float32 (R, vocabulary), where it leads; None elsewhere."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The members in the order in which parts are added; how parts travel; how sums are formed, by bytes of a part.

    `reductions`: (most bytes, algorithm), 0 for any; the first that is meant for a size is used. `rows`: each
    member's vocabulary. `pieces`: that a sum of many rows travels in, each while the next is computed.
    """

    nodes: tuple[str, ...]
    wire: str
    reductions: tuple[tuple[int, str], ...]
    rows: tuple[Range, ...]
    pieces: int = 1

    def algorithm(self, nbytes: int) -> str:
        """How a sum of parts of so many bytes is formed."""
        return next(name for most, name in self.reductions if not most or nbytes <= most)


@dataclass(slots=True)
class SumTotals:
    """Sums and gathers since the start, and the seconds in them, waiting for other members included."""

    sums: int = 0
    seconds: float = 0.0


class Group:
    """One member of a group (a `Combine`). Links are opened by the first sum."""

    def __init__(
        self,
        plan: GroupPlan,
        own: str,
        link: Callable[[str], MemberLink],
        totals: SumTotals,
        apart: Apart = unpaced,
    ) -> None:
        """`apart` surrounds what is not this node's computing."""
        self._plan, self._place = plan, plan.nodes.index(own)
        self._wire, self._buffers = wire_of(plan.wire), Buffers()
        self._own, self._link, self._apart, self.totals = own, link, apart, totals
        self._circle: Circle | None = None
        self._in_one: DirectSums | None = None

    @property
    def leads(self) -> bool:
        """See `Combine`."""
        return self._place == LEAD

    def begin(self) -> None:
        """See `Combine`."""
        if isinstance(self._wire, Feedback):
            self._wire.begin()

    def sum(self, part_TD: torch.Tensor) -> torch.Tensor:
        """See `Combine`."""
        if not part_TD.numel():
            return part_TD
        part_N = part_TD.to("cpu", torch.float32).view(-1)
        with self._apart(0.0):
            begun, circle = time.perf_counter(), self._circle or self._opened()
            algorithm = ALGORITHMS[self._plan.algorithm(circle.wire.nbytes(len(part_N)))]
            sum_N = algorithm(circle, part_N, self._buffers)
            self._count(time.perf_counter() - begun)
        return sum_N.view(part_TD.shape).to(part_TD.device)

    def summed(self, product: Product, x_TI: torch.Tensor) -> torch.Tensor:
        """See `Combine`."""
        rows = len(x_TI) // self._plan.pieces
        if self._plan.pieces == 1 or rows < FEWEST_ROWS:
            return self.sum(product(x_TI))
        first, *others = torch.split(x_TI, -(-len(x_TI) // self._plan.pieces))
        part_TD = product(first)
        if self._plan.algorithm(self._wire.nbytes(part_TD.numel())) != "direct":
            return self.sum(torch.cat([part_TD, *(product(x_RI) for x_RI in others)]))
        overlap = Overlap(self._circle or self._opened(), self._buffers, self._apart)
        parts = chain([part_TD], (product(x_RI) for x_RI in others))
        sum_TD = overlap.sum(parts, (len(x_TI), part_TD.shape[1]))
        self._count(overlap.seconds)
        return sum_TD.to(x_TI.device)

    def in_one(self, count: int) -> AbstractContextManager[SumCall] | None:
        """See `Combine`: direct exchange in a type that the extension has, over links that are nothing but sockets."""
        half = isinstance(self._wire, BFloat16)
        takes = self._apart is unpaced and (half or isinstance(self._wire, Float32))
        if not takes or self._plan.algorithm(self._wire.nbytes(count)) != "direct":
            return None
        links = (self._circle or self._opened()).links
        if self._in_one is None and DirectSums.possible(links):
            self._in_one = DirectSums(self._place, links, half)
        return None if self._in_one is None else self._lent(self._in_one, count)

    @contextmanager
    def _lent(self, sums: DirectSums, count: int) -> Iterator[SumCall]:
        before = sums.done
        with sums.lent(count) as call:
            yield SumCall(*call)
        self.totals.sums += sums.done[0] - before[0]
        self.totals.seconds += sums.done[1] - before[1]

    def tell(self, tokens: list[int]) -> list[int]:
        """See `Combine`."""
        with self._apart(0.0):
            circle = self._opened()
            message_B, view = self._buffers.message(LEAD, 8 * len(tokens))
            tokens_R = message_B.view(torch.int64)
            if self.leads:
                tokens_R[:] = torch.tensor(tokens)
                exchange([Outgoing(circle.link(place), view) for place in circle.others], [])
            else:
                exchange([], [Incoming(circle.link(LEAD), view)])
        return list(tokens_R.tolist())

    def gather(self, part_RV: torch.Tensor) -> torch.Tensor | None:
        """See `Combine`."""
        part_RV = part_RV.to("cpu", torch.float32).contiguous()
        with self._apart(0.0):
            begun, circle = time.perf_counter(), self._opened()
            gathered = self._gathered(circle, part_RV) if self.leads else None
            if not self.leads:
                _send(circle, part_RV)
            self._count(time.perf_counter() - begun)
        return gathered

    def _gathered(self, circle: Circle, part_RV: torch.Tensor) -> torch.Tensor:
        rows, ranges = len(part_RV), self._plan.rows
        messages = {place: self._buffers.message(place, 4 * rows * _length(ranges[place])) for place in circle.others}
        exchange([], [Incoming(circle.link(place), view) for place, (_, view) in messages.items()])
        whole_RV = torch.empty(rows, max(end for _, end in ranges))
        for place, (first, end) in enumerate(ranges):
            part = part_RV if place == self._place else messages[place][0].view(torch.float32).view(rows, -1)
            whole_RV[:, first:end] = part
        return whole_RV

    def _opened(self) -> Circle:
        if self._circle is None:
            links = tuple(None if node == self._own else self._link(node) for node in self._plan.nodes)
            self._circle = Circle(self._place, links, self._wire)
        return self._circle

    def _count(self, seconds: float) -> None:
        self.totals.sums += 1
        self.totals.seconds += seconds


def check_group_plan(plan: GroupPlan, vocab: int) -> None:
    """Refuse a group that could not work.

    Raises:
        ValueError: what is wrong with it.
    """
    if len(set(plan.nodes)) != len(plan.nodes) or len(plan.nodes) < 2:
        raise ValueError("a group needs two nodes or more, each once")
    wire_of(plan.wire)
    if not plan.reductions or plan.reductions[-1][0]:
        raise ValueError("a group must know how to form sums of any size")
    if plan.wire == "int8-feedback" and any(name == "ring" for _, name in plan.reductions):
        raise ValueError("int8-feedback and ring do not go together: a ring's messages are parts of sums of others")
    if plan.wire == "int8-feedback" and plan.pieces > 1:
        raise ValueError("int8-feedback and pieces do not go together: one would bring what another's rows lack")
    for _, name in plan.reductions:
        if name not in ALGORITHMS:
            raise ValueError(f"sums cannot be formed by {name[:20]!r}; known: {', '.join(ALGORITHMS)}")
    if len(plan.rows) != len(plan.nodes) or not _tile(plan.rows, vocab):
        raise ValueError("the members' vocabulary rows must be in exactly one share each, or all in every share")


def _tile(rows: Sequence[Range], vocab: int) -> bool:
    """Whether ranges cover the vocabulary once, or each covers all of it (where nothing is split by it)."""
    if all(span == (0, vocab) for span in rows):
        return True
    bounds = sorted(rows)
    ends = [0, *(end for _, end in bounds)]
    return ends[-1] == vocab and all(first == end for (first, _), end in zip(bounds, ends, strict=False))


def _send(circle: Circle, part_RV: torch.Tensor) -> None:
    exchange([Outgoing(circle.link(LEAD), part_RV.view(torch.uint8).numpy().data.cast("B"))], [])


def _length(span: Range) -> int:
    return span[1] - span[0]
