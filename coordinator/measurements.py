"""What nodes measured of themselves, kept in a file while their hardware is the same, and no longer than a month.

A node that is asked again is told the fingerprint that is kept of it. Where it still has it, it tells only what changes
by the minute, and what is kept is put beside that (`refreshed`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from potluck.models.encodings import PACKED
from potluck.planner.fleet import NodeName
from potluck.proto import cluster_pb2 as pb

_VERSION = 2
_MOST_SECONDS = 30 * 24 * 3600.0
# Products of these are the same: `quantized` keeps other weights as bfloat16 does.
_SAME = {"quantized": "bfloat16"}
_PRESENT = ("device", "device_name", "memory_free", "memory_total", "swap_total", "swap_free", "cores")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node measured for a compute type; `age` in seconds."""

    node: NodeName
    dtype: str
    reply: pb.ProbeReply
    age: float


@dataclass(frozen=True, slots=True)
class Question:
    """What nodes are asked to measure.

    Attributes:
        dtype: the compute type whose products are measured.
        measurements: what is known, and where to keep what is new. Nodes whose hardware is that of these only tell what
            changes by the minute.
        anew: all measure, whatever is known.
        formats: of weight formats only these are measured.
    """

    dtype: str
    measurements: Measurements | None = None
    anew: bool = False
    formats: Collection[str] = tuple(PACKED)

    def kept(self, node: NodeName) -> Kept | None:
        """What a node need not measure again if its hardware is still the same."""
        return None if self.measurements is None or self.anew else self.measurements.known(node, self.dtype)


class Measurements:
    """The measurements in one file. What is damaged, or of another version, was never measured."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def known(self, node: NodeName, dtype: str) -> Kept | None:
        """What this node measured for a compute type."""
        wanted = node, _SAME.get(dtype, dtype)
        return next((one for one in self._all() if (one.node, one.dtype) == wanted), None)

    def of_hardware(self, fingerprint: str, dtype: str) -> Kept | None:
        """What a node with this fingerprint measured."""
        wanted = fingerprint, _SAME.get(dtype, dtype)
        return next((one for one in self._all() if (one.reply.fingerprint, one.dtype) == wanted), None)

    def age(self, nodes: Iterable[NodeName], dtype: str) -> float:
        """Seconds since the first of these nodes was measured; 0 where none is kept."""
        wanted = {(node, _SAME.get(dtype, dtype)) for node in nodes}
        return max((one.age for one in self._all() if (one.node, one.dtype) in wanted), default=0.0)

    def keep(self, dtype: str, replies: Mapping[NodeName, pb.ProbeReply]) -> None:
        """Keep what was measured just now.

        Raises:
            OSError: the file cannot be written.
        """
        new = [Kept(node, _SAME.get(dtype, dtype), reply, 0.0) for node, reply in replies.items()]
        replaced = {(one.node, one.dtype) for one in new}
        self._write([*(one for one in self._all() if (one.node, one.dtype) not in replaced), *new])

    def forget(self, *nodes: NodeName) -> None:
        """Have these nodes measured anew when they are asked next, because a run showed that they are not as fast as
        they were; all of them where none is named.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file.exists():
            self._write([one for one in self._all() if nodes and one.node not in nodes])

    def _all(self) -> list[Kept]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, ParseError):
            return list(_read(orjson.loads(self._file.read_bytes())))
        return []

    def _write(self, entries: Iterable[Kept]) -> None:
        now = time.time()
        data = {"version": _VERSION, "nodes": [_written(one, now) for one in entries]}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}")
        draft.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        draft.replace(self._file)


def refreshed(kept: pb.ProbeReply, present: pb.ProbeReply) -> pb.ProbeReply:
    """What was measured once, with what the node tells of itself now."""
    measured, whole = pb.ProbeReply(), pb.ProbeReply()
    measured.CopyFrom(kept)
    for name in _PRESENT:
        measured.ClearField(name)
    whole.CopyFrom(present)
    whole.ClearField("unchanged")
    whole.MergeFrom(measured)
    return whole


def _read(data: Mapping[str, Any]) -> Iterator[Kept]:
    if data["version"] != _VERSION:
        return
    for entry in data["nodes"]:
        age = time.time() - float(str(entry["measured_at"]))
        reply = ParseDict(entry["measured"], pb.ProbeReply(), ignore_unknown_fields=True)
        # What is dated in the future was written by a clock that was wrong.
        if 0 <= age < _MOST_SECONDS and reply.flops > 0 and reply.memory_bandwidth > 0:
            yield Kept(NodeName(str(entry["node"])), str(entry["dtype"]), reply, age)


def _written(one: Kept, now: float) -> dict[str, object]:
    reply = pb.ProbeReply()
    reply.CopyFrom(one.reply)
    return {
        "node": one.node,
        "dtype": one.dtype,
        "measured_at": now - one.age,
        "measured": MessageToDict(reply, preserving_proto_field_name=True),
    }
