"""All-reduce among the members of a group: three ways to form the same kind of sum (arXiv 2410.00531, section 3.2).

N members, S bytes a part. Star: 2 hops, the lead sends and receives (N - 1) S. Direct: 1 hop, all send (N - 1) S each.
Ring: 2 (N - 1) hops, everybody sends 2 (N - 1) / N of S. Numbers are added in float32 in an order that depends on
nothing but their place, and all members read the same bytes: so they agree bit for bit, and so do runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from potluck.proto.exchange import Incoming, Outgoing, begin, exchange, finish
from potluck.proto.member_link import MemberLink
from potluck.worker.wires import Wire

LEAD = 0


@dataclass(frozen=True, slots=True)
class Circle:
    """A group as one member sees it: its place, and by place the links to the others (its own is never used)."""

    place: int
    links: tuple[MemberLink | None, ...]
    wire: Wire

    @property
    def others(self) -> list[int]:
        """The places of the others."""
        return [place for place in range(len(self.links)) if place != self.place]

    def link(self, place: int) -> MemberLink:
        """The link to another member."""
        if (link := self.links[place % len(self.links)]) is None:
            raise ValueError("a member has no link to itself")
        return link


class Buffers:
    """Memory of messages and sums, kept from one sum to the next and only ever grown."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[torch.Tensor, memoryview]] = {}
        self._sum_N = torch.empty(0)

    def message(self, place: int, nbytes: int) -> tuple[torch.Tensor, memoryview]:
        """Memory for one place's message: as a tensor, and for the socket."""
        if place not in self._held or len(self._held[place][0]) < nbytes:
            fresh_B = torch.empty(nbytes, dtype=torch.uint8)
            self._held[place] = (fresh_B, _view(fresh_B))
        held_B, view = self._held[place]
        return held_B[:nbytes], view[:nbytes]

    def sum(self, count: int) -> torch.Tensor:
        """Memory for a sum of so many numbers; the one before is overwritten."""
        if len(self._sum_N) < count:
            self._sum_N = torch.empty(count)
        return self._sum_N[:count]


class Direct:
    """A direct exchange on its way; nothing of it may be changed until `finish`."""

    def __init__(self, circle: Circle, part_N: torch.Tensor, buffers: Buffers, sum_N: torch.Tensor) -> None:
        """Begin to send a part to everybody; the sum will be in `sum_N`."""
        nbytes = circle.wire.nbytes(len(part_N))
        own_B = circle.wire.encode(part_N, buffers.message(circle.place, nbytes)[0])
        own, messages = _view(own_B), {place: buffers.message(place, nbytes) for place in circle.others}
        self._outgoing = [Outgoing(circle.link(place), own) for place in messages]
        self._incoming = [Incoming(circle.link(place), view) for place, (_, view) in messages.items()]
        begin(self._outgoing, self._incoming)
        parts = [own_B if place == circle.place else messages[place][0] for place in range(len(circle.links))]
        self._parts, self._wire, self._sum_N = parts, circle.wire, sum_N

    def finish(self) -> torch.Tensor:
        """Wait for everybody's part, and add up."""
        finish(self._outgoing, self._incoming)
        return _added([self._wire.read(part_B) for part_B in self._parts], self._sum_N)


def direct(circle: Circle, part_N: torch.Tensor, buffers: Buffers) -> torch.Tensor:
    """Everybody sends its part to everybody and adds up."""
    return Direct(circle, part_N, buffers, buffers.sum(len(part_N))).finish()


def star(circle: Circle, part_N: torch.Tensor, buffers: Buffers) -> torch.Tensor:
    """The lead adds up and sends the sum to the others."""
    nbytes = circle.wire.nbytes(len(part_N))
    own_B, _ = buffers.message(circle.place, nbytes)
    if circle.place != LEAD:
        sum_B, view = buffers.message(LEAD, nbytes)
        lead, own = circle.link(LEAD), _view(circle.wire.encode(part_N, own_B))
        exchange([Outgoing(lead, own)], [Incoming(lead, view)])
        return buffers.sum(len(part_N)).copy_(circle.wire.read(sum_B)[: len(part_N)])
    messages = {place: buffers.message(place, nbytes) for place in circle.others}
    exchange([], [Incoming(circle.link(place), view) for place, (_, view) in messages.items()])
    parts = [part_N, *(circle.wire.read(message_B) for message_B, _ in messages.values())]
    total_N = _added(parts, buffers.sum(len(part_N)))
    sum_B = circle.wire.encode(total_N, own_B)
    exchange([Outgoing(circle.link(place), _view(sum_B)) for place in messages], [])
    return total_N.copy_(circle.wire.read(sum_B)[: len(part_N)])


def ring(circle: Circle, part_N: torch.Tensor, buffers: Buffers) -> torch.Tensor:
    """Reduce-scatter, then all-gather: each chunk goes round, is added to, and goes round again."""
    members, place = len(circle.links), circle.place
    total_N = buffers.sum(len(part_N)).copy_(part_N)
    chunks = torch.split(total_N, chunk_sizes(len(part_N), members))
    for turn in range(members - 1):
        message_B = _pass(circle, chunks, place - turn, buffers)
        arrived = chunks[(place - turn - 1) % members]
        arrived += circle.wire.read(message_B)[: len(arrived)]
    whole = chunks[(place + 1) % members]
    own_B = circle.wire.encode(whole, buffers.message(place, circle.wire.nbytes(len(whole)))[0])
    whole.copy_(circle.wire.read(own_B)[: len(whole)])
    for turn in range(members - 1):
        message_B = _pass(circle, chunks, place + 1 - turn, buffers)
        arrived = chunks[(place - turn) % members]
        arrived.copy_(circle.wire.read(message_B)[: len(arrived)])
    return total_N


def _pass(circle: Circle, chunks: tuple[torch.Tensor, ...], number: int, buffers: Buffers) -> torch.Tensor:
    """Send a chunk to the next member; what came from the one before, the chunk with the number before."""
    chunk, coming = chunks[number % len(chunks)], chunks[(number - 1) % len(chunks)]
    nbytes = circle.wire.nbytes(len(chunk)), circle.wire.nbytes(len(coming))
    sent_B = circle.wire.encode(chunk, buffers.message(circle.place, nbytes[0])[0])
    message_B, view = buffers.message(circle.place - 1, nbytes[1])
    exchange([Outgoing(circle.link(circle.place + 1), _view(sent_B))], [Incoming(circle.link(circle.place - 1), view)])
    return message_B


def chunk_sizes(count: int, members: int) -> list[int]:
    """Numbers in each chunk of a ring: as even as can be, the first ones have one more."""
    return [count // members + (chunk < count % members) for chunk in range(members)]


Algorithm = Callable[[Circle, torch.Tensor, Buffers], torch.Tensor]
ALGORITHMS: dict[str, Algorithm] = {"star": star, "direct": direct, "ring": ring}


def _added(parts: list[torch.Tensor], out_N: torch.Tensor) -> torch.Tensor:
    """The parts' sum in float32, added in their order."""
    first_N, second_N, *others = [part_N[: len(out_N)] for part_N in parts]
    if first_N.dtype == second_N.dtype == torch.float32:
        torch.add(first_N, second_N, out=out_N)
    else:
        out_N.copy_(first_N).add_(second_N)
    for part_N in others:
        out_N.add_(part_N)
    return out_N


def _view(message_B: torch.Tensor) -> memoryview:
    return message_B.numpy().data
