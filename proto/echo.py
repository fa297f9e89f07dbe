"""What two workers say to each other to measure the link between them, on a stream of role `probe`.

Every message is one of `proto/tcp.py` with a packed `Ask` as its header. A *trip* is answered at once with as many
bytes. A *bulk* is many messages that the other end takes until it has seen enough, and answers with a `Report`; the
opener then hangs up, so that neither end's buffers can make the measurement of a slow link last.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta

from potluck.proto.codec import Reader, pack
from potluck.proto.step import Message

# Hidden rows of a decode step are 4 to 32 KiB.
TRIP_BYTES = 8 << 10
BULK_BYTES = 256 << 10
MOST_BYTES = BULK_BYTES + 64
MOST_BULK_SECONDS = 2.0
_FIRST_BYTES, _OF_A_SIZE = 16 << 10, 8
# What cannot be compressed on the way.
NOISE = memoryview(os.urandom(BULK_BYTES))


class Ask(Message, frozen=True):
    """What the opener wants: its bytes back, or the rate at which they arrive, watched for so many seconds."""

    kind: Literal["trip", "bulk"]
    seconds: Annotated[float, Meta(ge=0.0, le=MOST_BULK_SECONDS)] = 0.0


class Report(Message, frozen=True):
    """What a bulk came to, in bytes per second at the receiver."""

    rate: Annotated[float, Meta(gt=0.0)]


_asks = Reader(Ask, "probe")
_reports = Reader(Report, "report of a probe")


def pack_message(content: Ask | Report) -> bytes:
    """The header of a message."""
    return pack(content)


def read_ask(header: bytes | bytearray) -> Ask:
    """What the opener wants; raises FrameError where it says nothing of the kind."""
    return _asks.read(header)


def read_report(header: bytes | bytearray) -> Report:
    """What the other end saw; raises FrameError where it says nothing of the kind."""
    return _reports.read(header)


def bulk_size(number: int) -> int:
    """Bytes of a bulk's message: small ones first, of which even a slow link carries several in the time, then larger,
    so that a fast link is not measured by what a message costs."""
    return min(BULK_BYTES, _FIRST_BYTES << min(number // _OF_A_SIZE, 8))
