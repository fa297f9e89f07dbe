"""Workers that answer `Probe` at once, over real gRPC on addresses of the loopback network: what asks them is tested.

Test modules reach it through the fixture `probed_workers` of tests/conftest.py.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from potluck.coordinator.fabric import Worker
from potluck.proto import cluster_pb2 as pb
from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.channel import PROTOCOL

TOKEN = "t" * 32


class ProbedWorker(rpc.WorkerServicer):
    """Measures another speed each time, in `seconds`, and remembers when."""

    def __init__(self, name, fingerprint="a machine", seconds=0.0, refusal=""):
        self.name, self.fingerprint, self.seconds, self.refusal = name, fingerprint, seconds, refusal
        self.asked, self.spans = [], []
        self.free = 1 << 30

    @property
    def measured(self):
        """How often it measured."""
        return len(self.spans)

    def Hello(self, request, context):
        return pb.HelloReply(protocol=PROTOCOL, node=self.name)

    def ProbeLink(self, request, context):
        return pb.LinkReport(bandwidth=1e8 if request.bulk_seconds else 0.0, round_trip=1e-3, trip_bytes=8192)

    def Probe(self, request, context):
        self.asked.append(request)
        if self.refusal:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self.refusal)
        reply = pb.ProbeReply(device="cpu", device_name="CPU", memory_free=self.free, fingerprint=self.fingerprint)
        if request.known == self.fingerprint:
            reply.unchanged = True
            return reply
        begun = time.monotonic()
        time.sleep(self.seconds)
        self.spans.append((begun, time.monotonic()))
        reply.flops, reply.memory_bandwidth, reply.swap_free = 1e9 * len(self.spans), 1e10, 77
        reply.formats.add(format="Q4_0", flops=2e9, bandwidth=3e9)
        return reply


@contextmanager
def listening(*workers, hosts=()):
    """The workers as a fabric tells of them; `hosts` are theirs, 127.0.0.1 for those that are not said."""
    servers, found = [], []
    for worker, host in zip(workers, [*hosts, *["127.0.0.1"] * len(workers)], strict=False):
        server = grpc.server(ThreadPoolExecutor(2))
        rpc.add_WorkerServicer_to_server(worker, server)
        found.append(Worker(worker.name, f"{host}:{server.add_insecure_port(f'{host}:0')}", 1))
        server.start()
        servers.append(server)
    try:
        yield found
    finally:
        for ended in [server.stop(0) for server in servers]:
            assert isinstance(ended, threading.Event) and ended.wait(5)
