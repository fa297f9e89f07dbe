"""The fleet as its workers measured it, kept in the cache for as long as the hardware is the same."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from potluck.coordinator.calls import CallError, Callers, fleet_of
from potluck.coordinator.links import probe_links
from potluck.deploy.console import ERR
from potluck.deploy.machine import hardware_fingerprint
from potluck.deploy.prepare import Where, fabric_of
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.fleet_file import fleet_from_data, fleet_to_data

_FILE = "measured.json"
_HELLO_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured fleet, and how many seconds ago that was: 0 for just now."""

    fleet: Fleet
    age: float


def measured_fleet(where: Where, dtype: str, anew: bool = False) -> Measured:
    """What the nodes measure of themselves and their links; of this machine alone, what an earlier command measured.

    Of a Ray cluster nothing is kept: what its machines are made of is not known before their workers run.

    Raises:
        FabricError, CallError: one line each.
    """
    fingerprint = _fingerprint(where, dtype)
    known = None if anew or not fingerprint else _known(where.cache, fingerprint)
    if known:
        return known
    fleet = _measure(where, dtype)
    if fingerprint:
        _keep(where.cache, fingerprint, fleet)
    return Measured(fleet, 0.0)


def keeper(where: Where, dtype: str) -> Callable[[Fleet], None] | None:
    """What keeps a fleet that a server measured again, so that later commands know it; None where nothing is kept."""
    fingerprint = _fingerprint(where, dtype)

    def keep(fleet: Fleet) -> None:
        # A disk that is full is no reason to stop serving.
        with contextlib.suppress(OSError):
            _keep(where.cache, fingerprint, fleet)

    return keep if fingerprint and not where.fleet else None


def _fingerprint(where: Where, dtype: str) -> str:
    """What figures hold for; empty where none are kept."""
    return "" if where.address else f"{hardware_fingerprint()}|{dtype}|threads {where.threads}"


def _measure(where: Where, dtype: str) -> Fleet:
    """Start a worker on every node, let it measure, and stop it again."""
    fabric, token = fabric_of(where, None), secrets.token_hex(32)
    try:
        with ERR.status("starting a worker on every node"):
            callers = Callers(fabric.start(token), token)
        try:
            with ERR.status("measuring nodes and links"):
                for node, reason in callers.silent(list(callers.addresses), 0, _HELLO_SECONDS).items():
                    raise CallError(node, reason)
                replies = callers.probe(dtype)
                links = probe_links(callers, callers.data_ports)
        finally:
            callers.close()
    finally:
        fabric.stop()
    return fleet_of(replies, links, NodeName(next(iter(replies))))


def _known(cache: Path, fingerprint: str) -> Measured | None:
    """What was measured before; nothing where the file is gone, damaged, or of other hardware."""
    try:
        kept = orjson.loads((cache / _FILE).read_bytes())
        if kept["fingerprint"] != fingerprint:
            return None
        return Measured(fleet_from_data(kept["fleet"]), max(0.0, time.time() - float(kept["measured_at"])))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _keep(cache: Path, fingerprint: str, fleet: Fleet) -> None:
    kept = {"fingerprint": fingerprint, "measured_at": time.time(), "fleet": fleet_to_data(fleet)}
    cache.mkdir(parents=True, exist_ok=True)
    draft = cache / f"{_FILE}.{secrets.token_hex(4)}"
    draft.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
    draft.replace(cache / _FILE)
