"""The fleet as its workers measured it, now or, for as long as their hardware is the same, before."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from potluck.coordinator.calls import CallError, Callers
from potluck.coordinator.measured_fleet import fleet_of, measure_fleet
from potluck.coordinator.measurements import Kept, Measurements, Question, refreshed
from potluck.deploy.console import ERR
from potluck.deploy.prepare import Where, fabric_of, measurements_in
from potluck.planner.fleet import Fleet
from potluck.proto import cluster_pb2 as pb
from potluck.worker.capacity import host_memory_free, host_memory_total, swap_space, usable_cores
from potluck.worker.hardware import node_fingerprint

_HELLO_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured fleet, and how many seconds ago the first of its nodes was: 0 for just now."""

    fleet: Fleet
    age: float


def measured_fleet(where: Where, dtype: str, anew: bool = False) -> Measured:
    """What the nodes measure of themselves and their links; of hardware that was measured before, what is kept.

    This machine alone is not even asked: what changes of it is known here.

    Raises:
        FabricError, CallError: one line each.
    """
    measurements = measurements_in(where.cache)
    fingerprint = node_fingerprint("auto", where.threads)
    known = None if anew or where.address else measurements.of_hardware(fingerprint, dtype)
    # How much of a GPU is free only its driver says, which a worker asks.
    if known and known.reply.device == "cpu":
        return Measured(fleet_of({known.node: _as_it_is_now(known)}, {}, known.node), known.age)
    return _measure(where, dtype, measurements, anew)


def _measure(where: Where, dtype: str, measurements: Measurements, anew: bool) -> Measured:
    """Start a worker on every node, let it measure, and stop it again."""
    fabric, token = fabric_of(where, None), secrets.token_hex(32)
    try:
        with ERR.status("starting a worker on every node"):
            callers = Callers(fabric.start(token), token)
        try:
            with ERR.status("measuring nodes and links"):
                for node, reason in callers.silent(list(callers.addresses), 0, _HELLO_SECONDS).items():
                    raise CallError(node, reason)
                fleet = measure_fleet(callers, Question(dtype, measurements, anew), callers.data_ports)
        finally:
            callers.close()
    finally:
        fabric.stop()
    return Measured(fleet, measurements.age((node.name for node in fleet.nodes), dtype))


def _as_it_is_now(known: Kept) -> pb.ProbeReply:
    swap = swap_space()
    present = pb.ProbeReply(
        device=known.reply.device,
        device_name=known.reply.device_name,
        memory_free=host_memory_free(),
        memory_total=host_memory_total(),
        swap_total=swap.total,
        swap_free=swap.free,
        cores=usable_cores(),
    )
    return refreshed(known.reply, present)
