"""Measuring all links of a fleet: asks the workers, in the order that `link_rounds` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from potluck.coordinator.calls import CallError, Callers, answered
from potluck.coordinator.link_rounds import (
    Direction,
    Pair,
    Trip,
    alone_seconds,
    both_ways,
    links,
    rounds,
    together_seconds,
)
from potluck.planner.fleet import Link, NodeName
from potluck.proto import cluster_pb2 as pb

_LINK_SECONDS = 60.0  # several times what the longest measurement takes, each of whose steps has a deadline of its own
Reports = dict[Pair, pb.LinkReport]


def probe_links(callers: Callers, data_ports: Mapping[NodeName, int]) -> dict[Pair, Link]:
    """The links between any two workers; one without a data port is measured over gRPC.

    Raises:
        CallError: a worker does not answer, or cannot reach another one.
    """
    probe = _Probe(callers, data_ports)
    return links(probe.all())


class _Probe:
    def __init__(self, callers: Callers, data_ports: Mapping[NodeName, int]) -> None:
        self._callers, self._ports = callers, data_ports
        self._nodes = list(callers.addresses)

    def all(self) -> dict[Pair, Direction]:
        """Every direction: round trips first, which find out who cannot be reached."""
        tournament, count = [both_ways(pairs) for pairs in rounds(self._nodes)], len(self._nodes)
        trips = self._measured(tournament, 0.0)
        alone = self._measured([[pair] for pair in trips], alone_seconds(count))
        loaded = self._measured(tournament, together_seconds(count))
        return {pair: _direction(trips[pair], alone[pair], loaded[pair]) for pair in trips}

    def _measured(self, batches: Iterable[Sequence[Pair]], seconds: float) -> Reports:
        found: Reports = {}
        for batch in batches:
            # Round trips beside a single bulk would take bandwidth from what is measured alone.
            meanwhile = seconds > 0 and len(batch) > 1
            found |= self._at_once({pair: self._request(pair[1], seconds, meanwhile) for pair in batch})
        _check(found)
        return found

    def _at_once(self, requests: Mapping[Pair, pb.LinkRequest]) -> Reports:
        """What the first node of each pair measures of its link to the second."""
        calls = {
            pair: self._callers.submit(
                self._callers.stub(pair[0]).ProbeLink, request, timeout=_LINK_SECONDS, wait_for_ready=True
            )
            for pair, request in requests.items()
        }
        return {pair: answered(pair[0], call) for pair, call in calls.items()}

    def _request(self, node: NodeName, seconds: float, meanwhile: bool) -> pb.LinkRequest:
        peer = pb.Peer(node=node, address=self._callers.addresses[node], data_port=self._ports.get(node, 0))
        return pb.LinkRequest(peer=peer, bulk_seconds=seconds, trips_meanwhile=meanwhile)


def _check(reports: Mapping[Pair, pb.LinkReport]) -> None:
    failures = [(pair, report.failure) for pair, report in reports.items() if report.failure]
    for (source, target), failure in failures[:1]:
        others = f", and {len(failures) - 1} more such links" if len(failures) > 1 else ""
        remedy = "let the workers' ports through the firewalls of both machines"
        raise CallError(source, f"cannot reach node {target!r} ({failure}){others}; {remedy}")


def _direction(trips: pb.LinkReport, alone: pb.LinkReport, loaded: pb.LinkReport) -> Direction:
    return Direction(_trip(trips), alone.bandwidth, _trip(loaded), loaded.bandwidth)


def _trip(report: pb.LinkReport) -> Trip:
    return Trip(report.round_trip, report.trip_bytes)
