"""One hop: from `Link.send` in one process to a usable torch tensor in the thread of another that computes with it.

8 KiB of hidden rows (2 x 1024 float32) with checksum, queues and threads included, over loopback; both processes read
the same monotonic clock. `paced` sends every 2 ms, `pingpong` sends the next frame when the last was answered. Over
both wires: plain TCP, which is the default, and gRPC.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import torch

from potluck.proto import cluster_pb2 as pb
from potluck.proto import cluster_pb2_grpc as rpc
from potluck.proto.assembly import Assembly
from potluck.proto.auth import TokenCheck
from potluck.proto.channel import SERVER_OPTIONS
from potluck.proto.frames import Frame, Kind, result_frame, unpack_frame
from potluck.proto.link import LinkTarget
from potluck.proto.open_link import open_link
from potluck.proto.shaper import Shape
from potluck.proto.step import Result
from potluck.worker.answers import Answers
from potluck.worker.data_port import DataPort
from potluck.worker.tensors import from_payload

_TOKEN = "hop"
_WARMUP = 200
_SHAPE = (2, 1024)


class _Receiver:
    """Stands where a worker's node, epoch and executor do: it takes frames as they are and answers each."""

    def __init__(self) -> None:
        self.hops: list[int] = []
        self.epochs, self.executor = {1: self}, self
        self._frame: Frame | None = None
        self._answers: Answers | None = None

    def admit(self, frame: Frame) -> None:
        """Everything is welcome."""

    def attach(self, coordinator: str, answers: Answers) -> None:
        """Answer there."""
        self._answers = answers

    def detach(self, answers: Answers) -> None:
        """The sender is done."""

    def put(self, epoch: object, frame: Frame) -> None:
        """Keep the frame for `run_next`."""
        self._frame = frame

    def run_next(self) -> None:
        """Note when the tensor was usable, and answer."""
        if self._frame is None or self._answers is None:
            raise ValueError("nothing came")
        x_TD = from_payload(self._frame)
        self.hops.append(time.monotonic_ns() - int(self._frame.body))
        if x_TD.shape != _SHAPE:
            raise ValueError("the frame lost its shape")
        self._answers.put(result_frame(1, 0, Result(self._frame.number, [], [])))


class _Grpc(rpc.WorkerServicer):
    """The same behind a Forward stream, read as a worker reads it."""

    def __init__(self, receiver: _Receiver) -> None:
        self._receiver = receiver

    def Forward(self, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        """Take each frame; answer it."""
        from potluck.worker.answers import GrpcAnswers

        answers, pool = GrpcAnswers(Shape()), ThreadPoolExecutor(1)
        self._receiver.attach("", answers)
        pool.submit(self._read, request_iterator, answers)
        while isinstance(item := answers.get(), tuple):
            yield item[1]

    def _read(self, messages: Iterator[pb.Frame], answers: Answers) -> None:
        assembly = Assembly(self._receiver.admit)
        for message in messages:
            whole = assembly.add(unpack_frame(message))
            if whole is not None:
                self._receiver.put(self._receiver, whole)
                self._receiver.run_next()
        answers.end()


def _receive() -> None:
    torch.set_num_threads(1)
    receiver = _Receiver()
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[TokenCheck(_TOKEN)], options=SERVER_OPTIONS)
    rpc.add_WorkerServicer_to_server(_Grpc(receiver), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    data_port = DataPort("there", _TOKEN, lambda node: Shape(), lambda: receiver)  # type: ignore[arg-type,return-value]
    print(json.dumps([f"127.0.0.1:{port}", data_port.listen("127.0.0.1")]), flush=True)
    sys.stdin.readline()
    print(json.dumps(receiver.hops), flush=True)
    server.stop(0)
    data_port.close()


def measure_hop(count: int = 2000, pace: float | None = 0.002, wire: str = "tcp") -> dict[str, float]:
    """Microseconds of one hop, `p50` and `p99`, over `count` hops; without a pace each waits for the last's answer."""
    command = [sys.executable, __file__, "--receive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as receiver:
        if receiver.stdin is None or receiver.stdout is None:
            raise OSError("the receiver has no pipes")
        answered: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        address, data_port = json.loads(receiver.stdout.readline())
        port = data_port if wire == "tcp" else 0
        target = LinkTarget("here", "there", address, _TOKEN, 1, "coordinator", data_port=port)
        link = open_link(target, answered.put, lambda *what: print(*what, file=sys.stderr))
        payload = torch.randn(_SHAPE).numpy().tobytes()
        for number in range(1, count + _WARMUP + 1):
            body = str(time.monotonic_ns()).encode()
            link.send(Frame(1, number, 1, Kind.HIDDEN, body, (), "float32", _SHAPE, payload), 5.0)
            if pace is None:
                answered.get(timeout=10)
            else:
                time.sleep(pace)
        time.sleep(0.2)
        link.close()
        receiver.stdin.write("\n")
        receiver.stdin.flush()
        hops = [hop / 1e3 for hop in json.loads(receiver.stdout.readline())[_WARMUP:]]
    if len(hops) != count:
        raise OSError(f"{count - len(hops)} frames were lost")
    return {"p50": statistics.median(hops), "p99": statistics.quantiles(hops, n=100)[98]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--count", type=int, default=2000, help="hops of each kind (default: 2000)")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.receive:
        _receive()
        return
    results = {}
    for wire in ("tcp", "grpc"):
        for kind, pace in (("paced", 0.002), ("pingpong", None)):
            hop = measure_hop(flags.count, pace, wire)
            results |= {f"hop_8k_{wire}_{kind}_us_{key}": round(value, 1) for key, value in hop.items()}
    print(json.dumps(results) if flags.json else "\n".join(f"{key} {value}" for key, value in results.items()))


if __name__ == "__main__":
    main()
