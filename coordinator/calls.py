"""Plain calls to workers: hello, load, release, status. All at once over the fleet, each with a deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from potluck.coordinator.fabric import Worker
from potluck.planner.fleet import NodeName
from potluck.proto import cluster_pb2 as pb
from potluck.proto.channel import PROTOCOL, open_channel, worker_stub
from potluck.proto.cluster_pb2_grpc import WorkerStub

OnLoad = Callable[[NodeName, pb.LoadProgress], None]
Answer = TypeVar("Answer")


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

    def stub(self, node: NodeName) -> WorkerStub:
        """The calls that a node's worker takes."""
        return self._stubs[node]

    def submit(self, function: Callable[..., Any], *given: Any, **options: Any) -> Future[Any]:
        """Call in another thread; `answered` waits for it."""
        try:
            return self._pool.submit(function, *given, **options)
        except RuntimeError:
            # The pool was shut down meanwhile.
            never: Future[Any] = Future()
            never.set_exception(ConnectionError("the deployment is being stopped"))
            return never

    def silent(self, nodes: Sequence[NodeName], epoch: int, seconds: float) -> dict[NodeName, str]:
        """Nodes that do not answer a hello in time, or refuse it, with the reason. The others tell their data port."""
        request = pb.HelloRequest(protocol=PROTOCOL, epoch=epoch)
        asked = {
            node: self.submit(self._stubs[node].Hello, request, timeout=seconds, wait_for_ready=True) for node in nodes
        }
        silent = {node: reason_of(error) for node, call in asked.items() if (error := _error(call)) is not None}
        self.data_ports |= {node: call.result().data_port for node, call in asked.items() if node not in silent}
        return silent

    def load(self, assignments: Mapping[NodeName, pb.Assignment], on_progress: OnLoad) -> None:
        """Load every shard, all nodes at once.

        Raises:
            CallError: the first node that could not.
        """
        loads = {
            node: self.submit(self._load, node, assignment, on_progress) for node, assignment in assignments.items()
        }
        failed = {node: call for node, call in loads.items() if _error(call) is not None}
        for node, call in failed.items():
            answered(node, call)

    def release(self, nodes: Sequence[NodeName], epoch: int) -> None:
        """Free an epoch's shards; nodes that do not answer are passed over."""
        request = pb.ReleaseRequest(epoch=epoch)
        for call in [self.submit(self._stubs[node].Release, request, timeout=5.0) for node in nodes]:
            _error(call)

    def statuses(self, nodes: Sequence[NodeName]) -> list[pb.StatusReply]:
        """Counts of the workers that answer."""
        calls = [self.submit(self._stubs[node].Status, pb.StatusRequest(), timeout=2.0) for node in nodes]
        return [call.result() for call in calls if _error(call) is None]

    def _load(self, node: NodeName, assignment: pb.Assignment, on_progress: OnLoad) -> None:
        ready = False
        for progress in self._stubs[node].Load(assignment):
            ready = progress.ready
            on_progress(node, progress)
        if not ready:
            raise CallError(node, "stopped loading without a reason")


def answered(node: NodeName, call: Future[Answer]) -> Answer:
    """What a call to a node gave, once it is over.

    Raises:
        CallError: it failed.
    """
    error = _error(call)
    if error is None:
        return call.result()
    raise error if isinstance(error, CallError) else CallError(node, reason_of(error))


def reason_of(error: BaseException) -> str:
    """Why a call failed, in the words of whoever was called where they say it; one line."""
    if isinstance(error, grpc.RpcError):
        code, details = "", ""
        with contextlib.suppress(AttributeError):
            code, details = error.code().name.lower().replace("_", " "), error.details() or ""
        return details if details and code not in ("unavailable", "deadline exceeded") else f"{code}: {details}"
    return str(error) or "the call was cancelled"


def _error(call: Future[Any]) -> BaseException | None:
    """What a call failed with, once it is over."""
    try:
        return call.exception()
    except CancelledError as error:
        return error
