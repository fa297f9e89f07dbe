"""Plain calls to workers: hello, probe, load, release, status. All at once over the fleet, each with a deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Literal

import grpc

from potluck.coordinator.fabric import Worker
from potluck.coordinator.link_rounds import Pair
from potluck.planner.fleet import Device, Fleet, Link, Node, NodeName
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub

_PROBE_SECONDS = 90.0
_LINK_SECONDS = 60.0  # several times what the longest measurement takes, each of whose steps has a deadline of its own
_WIRED = Link(1e-3, 1.25e8)  # what nodes that `--add` brings to a measured fleet hang on; it has no other unknown links
OnLoad = Callable[[NodeName, pb.LoadProgress], None]


class CallError(Exception):
    """A worker refused or did not answer; one line with node and reason."""

    def __init__(self, node: NodeName, reason: str) -> None:
        super().__init__(f"node {node!r}: {reason}")
        self.node, self.reason = node, reason


class Callers:
    """A channel to every worker of the fleet."""

    def __init__(self, workers: Sequence[Worker], token: str) -> None:
        self.addresses = {NodeName(worker.node): worker.address for worker in workers}
        self.data_ports: dict[NodeName, int] = {}
        self._channels = {node: open_channel(address, token) for node, address in self.addresses.items()}
        self._stubs = {node: worker_stub(channel) for node, channel in self._channels.items()}
        self._pool = ThreadPoolExecutor(max(4, 2 * len(workers)), thread_name_prefix="calls")

    def close(self) -> None:
        """Close all channels: calls under way fail, later ones too."""
        for channel in self._channels.values():
            channel.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def silent(self, nodes: Sequence[NodeName], epoch: int, seconds: float) -> dict[NodeName, str]:
        """Nodes that do not answer a hello in time, or refuse it, with the reason. The others tell their data port."""
        request = pb.HelloRequest(protocol=PROTOCOL, epoch=epoch)
        asked = {
            node: self._call(self._stubs[node].Hello, request, timeout=seconds, wait_for_ready=True) for node in nodes
        }
        silent = {node: _reason(error) for node, call in asked.items() if (error := _error(call)) is not None}
        self.data_ports |= {node: call.result().data_port for node, call in asked.items() if node not in silent}
        return silent

    def probe(self, dtype: str) -> dict[NodeName, pb.ProbeReply]:
        """What every worker measured of its node.

        Raises:
            CallError: one of them did not answer.
        """
        replies = {}
        # One after the other: probes at the same time would measure each other.
        for node, stub in self._stubs.items():
            request = pb.ProbeRequest(dtype=dtype)
            try:
                replies[node] = stub.Probe(request, timeout=_PROBE_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                raise CallError(node, _reason(error)) from None
        return replies

    def probe_links(self, requests: Mapping[Pair, pb.LinkRequest]) -> dict[Pair, pb.LinkReport]:
        """What the first node of each pair measures of its link to the second, all at the same time.

        Raises:
            CallError: the first one did not answer.
        """
        asked = {
            pair: self._call(self._stubs[pair[0]].ProbeLink, request, timeout=_LINK_SECONDS, wait_for_ready=True)
            for pair, request in requests.items()
        }
        for pair, call in asked.items():
            if (error := _error(call)) is not None:
                raise CallError(pair[0], _reason(error))
        return {pair: call.result() for pair, call in asked.items()}

    def load(self, assignments: Mapping[NodeName, pb.Assignment], on_progress: OnLoad) -> None:
        """Load every shard, all nodes at once.

        Raises:
            CallError: the first node that could not.
        """
        loads = {
            node: self._call(self._load, node, assignment, on_progress) for node, assignment in assignments.items()
        }
        errors = {node: error for node, call in loads.items() if (error := _error(call)) is not None}
        for node, error in errors.items():
            raise CallError(node, _reason(error))

    def release(self, nodes: Sequence[NodeName], epoch: int) -> None:
        """Free an epoch's shards; nodes that do not answer are passed over."""
        request = pb.ReleaseRequest(epoch=epoch)
        for call in [self._call(self._stubs[node].Release, request, timeout=5.0) for node in nodes]:
            _error(call)

    def statuses(self, nodes: Sequence[NodeName]) -> list[pb.StatusReply]:
        """Counts of the workers that answer."""
        calls = [self._call(self._stubs[node].Status, pb.StatusRequest(), timeout=2.0) for node in nodes]
        return [call.result() for call in calls if _error(call) is None]

    def _call(self, function: Callable[..., Any], *given: Any, **options: Any) -> Future[Any]:
        try:
            return self._pool.submit(function, *given, **options)
        except RuntimeError:
            # The pool was shut down meanwhile.
            never: Future[Any] = Future()
            never.set_exception(ConnectionError("the deployment is being stopped"))
            return never

    def _load(self, node: NodeName, assignment: pb.Assignment, on_progress: OnLoad) -> None:
        ready = False
        for progress in self._stubs[node].Load(assignment):
            ready = progress.ready
            on_progress(node, progress)
        if not ready:
            raise CallError(node, "stopped loading without a reason")


def fleet_of(replies: Mapping[NodeName, pb.ProbeReply], links: Mapping[Pair, Link], engine: NodeName) -> Fleet:
    """The fleet as its workers measured it, with the links between any two of them."""
    nodes = tuple(
        Node(
            name,
            (_device(reply),),
            reply.disk_bandwidth,
        )
        for name, reply in replies.items()
    )
    return Fleet(nodes, engine, _WIRED, links, name="as measured")


def _device(reply: pb.ProbeReply) -> Device:
    kind: Literal["cpu", "cuda"] = "cuda" if reply.device == "cuda" else "cpu"
    return Device(kind, reply.flops, reply.memory_bandwidth, reply.memory_free, reply.device_name)


def _error(call: Future[Any]) -> BaseException | None:
    """What a call failed with, once it is over."""
    try:
        return call.exception()
    except CancelledError as error:
        return error


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.RpcError):
        code, details = "", ""
        with contextlib.suppress(AttributeError):
            code, details = error.code().name.lower().replace("_", " "), error.details() or ""
        return details if details and code not in ("unavailable", "deadline exceeded") else f"{code}: {details}"
    return str(error) or "the call was cancelled"
