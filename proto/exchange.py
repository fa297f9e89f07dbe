"""Messages to and from several members of a group at once, in the thread that computes."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import NamedTuple

from potluck.proto.connection import Buffer
from potluck.proto.member_link import PATIENCE_MS, MemberLink


class Outgoing(NamedTuple):
    """A message to send."""

    link: MemberLink
    payload: Buffer


class Incoming(NamedTuple):
    """A message to receive."""

    link: MemberLink
    into: memoryview


def exchange(outgoing: Sequence[Outgoing], incoming: Sequence[Incoming]) -> None:
    """Send and receive together, so that two members whose messages fill both sockets do not wait for each other.

    Raises:
        MemberError: one of them is gone, or sent something else.
    """
    begin(outgoing, incoming)
    finish(outgoing, incoming)


def begin(outgoing: Sequence[Outgoing], incoming: Sequence[Incoming]) -> None:
    """Hand over what the kernels take; the rest waits for `finish`, and nothing may be changed until then."""
    for link, into in incoming:
        link.expect(into)
    for link, payload in outgoing:
        link.start(payload)


def finish(outgoing: Sequence[Outgoing], incoming: Sequence[Incoming]) -> None:
    """The rest of an `exchange`; errors as there."""
    begun = time.perf_counter()
    while sends := [link for link, _ in outgoing if link.sending]:
        _step(sends, [link for link, _ in incoming if link.receiving])
    for link, _ in incoming:
        while link.receiving:
            if not link.pull(PATIENCE_MS):
                link.suspect()
    _arrive([link for link, _ in incoming], begun)


def _arrive(links: Sequence[MemberLink], begun: float) -> None:
    if links:
        if due := max(link.due for link in links):
            links[0].clock.wait_until(due)
        links[0].waited(time.perf_counter() - begun)


def _step(sends: Sequence[MemberLink], receives: Sequence[MemberLink]) -> None:
    """Wait until some link can go on, and let it: receiving too, because the others cannot send for ever either."""
    poller = select.poll()
    for link in {*sends, *receives}:
        poller.register(link, select.POLLOUT * (link in sends) | select.POLLIN * (link in receives))
    ready = bool(poller.poll(PATIENCE_MS))
    for link in receives:
        link.pull()
    for link in sends:
        link.push() if ready else link.doubt()
