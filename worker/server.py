"""The gRPC server of a worker: answers at once, and lets the torch half catch up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from potluck.models.checkpoint import CheckpointError
from potluck.models.families import UnsupportedModel
from potluck.proto import cluster_pb2 as pb
from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.assembly import Assembly
from potluck.proto.auth import TokenCheck
from potluck.proto.channel import PROTOCOL, SERVER_OPTIONS
from potluck.proto.errors import FrameError, Refusal
from potluck.proto.frames import unpack_frame
from potluck.proto.shaper import Shape, wait_until
from potluck.proto.stream import read_head
from potluck.worker.link_probe import LinkProbe

if TYPE_CHECKING:
    from potluck.worker.answers import GrpcAnswers
    from potluck.worker.epochs import Epoch
    from potluck.worker.node import Node

_READY_SECONDS = 120.0
_THREADS = 96  # every open stream holds one
_SERVICE = "potluck.Worker"
_LOG = logging.getLogger("potluck.worker")
T = TypeVar("T")


class WorkerService(rpc.WorkerServicer):
    """What other processes may ask of this worker."""

    def __init__(self, links: LinkProbe) -> None:
        """`links` knows this node's name and, once they are open, its ports."""
        self.links = links
        self._name, self._link_shape = links.name, links.link_shape
        self._node: Node | None = None
        self._ready = threading.Event()
        self._started = time.monotonic()
        self.health = health.HealthServicer()
        self.health.set(_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)

    def become_ready(self, node: Node) -> None:
        """The torch half is there."""
        self._node = node
        self._ready.set()
        self.health.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)

    def Hello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:
        """Versions and identity."""
        if request.protocol != PROTOCOL:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"node {self._name!r} speaks protocol {PROTOCOL}, the caller {request.protocol}; "
                "install the same version of Potluck on both",
            )
        epochs = [epoch.number for epoch in self._node.epochs.held] if self._node else []
        return pb.HelloReply(
            protocol=PROTOCOL,
            node=self._name,
            epochs=epochs,
            version=version("potluck"),
            data_port=self.links.data_port,
        )

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeReply:
        """Measure this node."""
        return _answered(context, lambda: self._needed(context).probe(request))

    def ProbeLink(self, request: pb.LinkRequest, context: grpc.ServicerContext) -> pb.LinkReport:
        """Measure the link to another node."""
        # Not while torch is being imported: that takes processors which the measurement needs.
        self._needed(context)
        return self.links.measure(request)

    def Load(self, request: pb.Assignment, context: grpc.ServicerContext) -> Iterator[pb.LoadProgress]:
        """Load a shard."""
        from potluck.worker.load_reports import LoadRefused

        try:
            yield from self._needed(context).load(request)
        except LoadRefused as error:
            context.abort(error.refusal.value, str(error))
        except FrameError as error:
            context.abort(error.status, error.reason)

    def Manifest(self, request: pb.ManifestRequest, context: grpc.ServicerContext) -> pb.ManifestReply:
        """How tensors are stored, and their hashes."""
        holder = self._needed(context).holder

        def entries() -> pb.ManifestReply:
            holder.find(request.fingerprint, request.checkpoint)
            return pb.ManifestReply(entries=[holder.entry(request.fingerprint, key) for key in request.keys])

        return _answered(context, entries)

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        """A tensor's raw bytes."""
        holder = self._needed(context).holder
        chunks = holder.chunks(request)
        while (chunk := _answered(context, lambda: next(chunks, None))) is not None:
            yield chunk

    def Forward(self, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        """Frames in; answers out, to a coordinator."""
        try:
            head = read_head(context.invocation_metadata())
            epoch = self._needed(context).epochs.get(head.epoch)
            if head.role == "member":
                raise FrameError("parts of sums travel over TCP only")
            if head.role == "coordinator":
                yield from self._answer(epoch, head.node, request_iterator, context)
            else:
                self._take(epoch, request_iterator)
        except FrameError as error:
            _LOG.warning("a stream was refused: %s", error.reason)
            context.abort(error.status, error.reason)
        except grpc.RpcError:
            _LOG.info("a stream was cut off by its sender")

    def Release(self, request: pb.ReleaseRequest, context: grpc.ServicerContext) -> pb.ReleaseReply:
        """Free an epoch and fence it."""
        self._needed(context).epochs.release(request.epoch)
        return pb.ReleaseReply()

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        """Counts."""
        return self._needed(context).status(time.monotonic() - self._started)

    def node(self, seconds: float) -> Node:
        """The torch half; waits for it.

        Raises:
            FrameError: it is not there after so many seconds.
        """
        if not self._ready.wait(seconds) or self._node is None:
            raise FrameError(f"node {self._name!r} is still starting", Refusal.STARTING)
        return self._node

    def _needed(self, context: grpc.ServicerContext) -> Node:
        return _answered(context, lambda: self.node(_READY_SECONDS))

    def _take(self, epoch: Epoch, messages: Iterator[pb.Frame]) -> None:
        """Compute every whole frame of a stream. What is not read yet is held up by gRPC's flow control."""
        executor, assembly = self.node(_READY_SECONDS).executor, Assembly(epoch.admit)
        for message in messages:
            whole = assembly.add(unpack_frame(message))
            if whole is not None:
                executor.put(epoch, whole)
                executor.run_next()

    def _answer(
        self, epoch: Epoch, coordinator: str, messages: Iterator[pb.Frame], context: grpc.ServicerContext
    ) -> Iterator[pb.Frame]:
        from potluck.worker.answers import GrpcAnswers

        answers = GrpcAnswers(self._link_shape(coordinator) if coordinator != self._name else Shape())
        if not context.add_callback(answers.end):
            return
        epoch.attach(coordinator, answers)
        threading.Thread(target=self._read_for, args=(epoch, messages, answers), daemon=True).start()
        try:
            while (item := answers.get()) is not None:
                if isinstance(item, FrameError):
                    raise item
                wait_until(item[0])
                yield item[1]
        finally:
            epoch.detach(answers)

    def _read_for(self, epoch: Epoch, messages: Iterator[pb.Frame], answers: GrpcAnswers) -> None:
        try:
            self._take(epoch, messages)
            answers.end()
        except FrameError as error:
            answers.end(error)
        except grpc.RpcError:
            answers.end()


def start_server(service: WorkerService, token: str, listen: str) -> tuple[grpc.Server, str]:
    """Listen; the server and its host:port.

    Raises:
        OSError: the address cannot be had.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="rpc")
    server = grpc.server(pool, interceptors=[TokenCheck(token)], options=SERVER_OPTIONS)
    rpc.add_WorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if not port:
        raise OSError(f"cannot listen at {listen}; choose another --listen")
    server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


def _answered(context: grpc.ServicerContext, call: Callable[[], T]) -> T:
    try:
        return call()
    except FrameError as error:
        return _abort(context, error.status, error.reason)
    except KeyError as error:
        return _abort(context, grpc.StatusCode.NOT_FOUND, f"not held by this node: {error.args[0]}")
    except CheckpointError as error:
        return _abort(context, grpc.StatusCode.DATA_LOSS, str(error))
    except UnsupportedModel as error:
        return _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, reason: str) -> NoReturn:
    context.abort(status, reason)
    raise AssertionError("abort returns never")
