"""One hop: from `Link.send` in one process to a usable torch tensor in the compute thread of another.

8 KiB of hidden rows (2 x 1024 float32) with checksum, queues and threads included, over loopback; both processes read
the same monotonic clock. `paced` sends every 2 ms, `pingpong` sends the next frame when the last was answered.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import subprocess
import sys
import threading
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
from potluck.proto.frames import Frame, Kind, pack_frame, result_frame, unpack_frame
from potluck.proto.link import Link, LinkTarget
from potluck.proto.step import Result
from potluck.worker.tensors import from_payload

_TOKEN = "hop"
_WARMUP = 200
_SHAPE = (2, 1024)


class _Receiver(rpc.WorkerServicer):
    """The receiving half of a worker: reader thread, queue, compute thread."""

    def __init__(self) -> None:
        self.hops: list[int] = []

    def Forward(self, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        """Take frames to the compute thread; answer each with an empty result."""
        inbox: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        answers: queue.SimpleQueue[pb.Frame | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(request_iterator, inbox), daemon=True).start()
        threading.Thread(target=self._compute, args=(inbox, answers), daemon=True).start()
        yield from iter(answers.get, None)

    def _compute(self, inbox: queue.SimpleQueue[Frame | None], answers: queue.SimpleQueue[pb.Frame | None]) -> None:
        while (frame := inbox.get()) is not None:
            x_TD = from_payload(frame)
            self.hops.append(time.monotonic_ns() - int(frame.body))
            if x_TD.shape != _SHAPE:
                raise ValueError("the frame lost its shape")
            for message in pack_frame(result_frame(1, 0, Result(frame.number, [], []))):
                answers.put(message)
        answers.put(None)


def _read(messages: Iterator[pb.Frame], inbox: queue.SimpleQueue[Frame | None]) -> None:
    assembly = Assembly(lambda frame: None)
    for message in messages:
        whole = assembly.add(unpack_frame(message))
        if whole is not None:
            inbox.put(whole)
    inbox.put(None)


def _receive() -> None:
    torch.set_num_threads(1)
    receiver = _Receiver()
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[TokenCheck(_TOKEN)], options=SERVER_OPTIONS)
    rpc.add_WorkerServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.readline()
    print(json.dumps(receiver.hops), flush=True)
    server.stop(0)


def measure_hop(count: int = 2000, pace: float | None = 0.002) -> dict[str, float]:
    """Microseconds of one hop, `p50` and `p99`, over `count` hops; without a pace each waits for the last's answer."""
    command = [sys.executable, __file__, "--receive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as receiver:
        if receiver.stdin is None or receiver.stdout is None:
            raise OSError("the receiver has no pipes")
        answered: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        target = LinkTarget("here", "there", receiver.stdout.readline().strip(), _TOKEN, 1, "coordinator")
        link = Link(target, answered.put, lambda *what: print(*what, file=sys.stderr))
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
    paced, pingpong = measure_hop(flags.count), measure_hop(flags.count, None)
    results = {
        "hop_8k_us_p50": round(paced["p50"], 1),
        "hop_8k_us_p99": round(paced["p99"], 1),
        "hop_8k_pingpong_us_p50": round(pingpong["p50"], 1),
        "hop_8k_pingpong_us_p99": round(pingpong["p99"], 1),
    }
    print(json.dumps(results) if flags.json else "\n".join(f"{key} {value}" for key, value in results.items()))


if __name__ == "__main__":
    main()
