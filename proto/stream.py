"""Who opened a Forward stream, for what epoch: its metadata, checked when it opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from potluck.proto.channel import PROTOCOL
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.step import LARGEST, MAX_NAME

StreamRole = Literal["coordinator", "worker", "member", "probe"]
_AGREEMENT = "potluck-agreement"


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The opener's node and role, and the one epoch that all frames of the stream belong to; 0 in a probe of the link.

    `agreement`: a member's digest of how it forms sums with the node that it opens the stream to.
    """

    node: str
    role: StreamRole
    epoch: int
    agreement: str = ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As gRPC metadata."""
        agreed = ((_AGREEMENT, self.agreement),) if self.agreement else ()
        return (
            ("potluck-protocol", str(PROTOCOL)),
            ("potluck-node", self.node),
            ("potluck-role", self.role),
            ("potluck-epoch", str(self.epoch)),
            *agreed,
        )


def read_head(metadata: Iterable[tuple[str, str | bytes]]) -> StreamHead:
    """The head in a stream's metadata.

    Raises:
        FrameError: another protocol version, or an entry is missing or malformed.
    """
    entries = dict(metadata)
    protocol = _text(entries, "potluck-protocol")
    if protocol != str(PROTOCOL):
        raise FrameError(f"the stream speaks protocol {protocol:.20}, this node {PROTOCOL}", Refusal.MISMATCH)
    role = _role(_text(entries, "potluck-role"))
    agreement = _text(entries, _AGREEMENT) if _AGREEMENT in entries else ""
    return StreamHead(_text(entries, "potluck-node"), role, _epoch(_text(entries, "potluck-epoch"), role), agreement)


def _epoch(text: str, role: StreamRole) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and (role != "probe") <= int(text) <= LARGEST):
        raise FrameError("potluck-epoch is not a positive number")
    return int(text)


def _role(text: str) -> StreamRole:
    match text:
        case "coordinator" | "worker" | "member" | "probe":
            return text
    raise FrameError("potluck-role is neither coordinator, worker, member nor probe")


def _text(entries: dict[str, str | bytes], key: str) -> str:
    value = entries.get(key)
    if not isinstance(value, str) or not value or len(value) > MAX_NAME:
        raise FrameError(f"the stream's metadata has no usable {key}")
    return value
