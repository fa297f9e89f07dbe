"""How long hidden rows take from one worker to the next: from `Link.send` to a tensor that can be computed with.

    python bench/hop.py [--json] [--pause MS]

Two processes on loopback over the real wire: frame, checksum, gRPC stream, queue to the compute thread. 8 KiB a hop.
Without a pause one hop follows the other as on a busy link; with one, processors have fallen asleep in between, as
they do in a pipeline with a lone request.
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

import grpc
import torch

from potluck.proto import cluster_pb2 as pb
from potluck.proto.frames import Frame, Kind, unpack_frame
from potluck.proto.link import Link, LinkTarget
from potluck.proto.shaper import Shape
from potluck.worker.server import WorkerService, start_server
from potluck.worker.tensors import from_payload, to_payload

TOKEN = "hop"


class Receiver(WorkerService):
    """Takes frames as a worker does: the stream's thread checks them, the compute thread makes tensors of them."""

    def __init__(self) -> None:
        super().__init__("receiver", lambda node: Shape())
        self._inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        threading.Thread(target=self._compute, daemon=True).start()

    def Forward(self, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        """Queue every frame."""
        for message in request_iterator:
            self._inbox.put(unpack_frame(message))
        yield from ()

    def _compute(self) -> None:
        while True:
            frame = self._inbox.get()
            x_TD = from_payload(frame)
            print(frame.number, time.monotonic(), x_TD.shape[0], flush=True)


def receive() -> None:
    """The receiving process: says where it listens, then when each step's tensor was there."""
    _, address = start_server(Receiver(), TOKEN, "127.0.0.1:0")
    print(address, flush=True)
    sys.stdin.read()


def measure_hop(hops: int = 3000, pause: float = 0.0) -> dict[str, float]:
    """Microseconds one way: p50 and p99 of hops that follow each other (after `pause` seconds each)."""
    rows = torch.randn(8, 512).to(torch.bfloat16)
    with subprocess.Popen(
        [sys.executable, __file__, "--receive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as receiver:
        if receiver.stdout is None or receiver.stdin is None:
            raise RuntimeError("no pipes")
        address = receiver.stdout.readline().strip()
        target = LinkTarget("sender", "receiver", address, TOKEN, 1)
        link = Link(target, lambda frame: None, lambda *broken: print(broken, file=sys.stderr))
        times = []
        for number in range(1, hops + 1):
            begun = time.monotonic()
            dtype, payload = to_payload(rows)
            link.send(Frame(1, number, 1, Kind.HIDDEN, dtype=dtype, shape=(8, 512), payload=payload), 5.0)
            arrived = float(receiver.stdout.readline().split()[1])
            times.append((arrived - begun) * 1e6)
            if pause:
                time.sleep(pause)
        link.close()
        receiver.stdin.close()
    times = sorted(times[hops // 10 :])
    return {"p50": statistics.median(times), "p99": times[int(len(times) * 0.99)]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pause", type=float, default=5.0, help="milliseconds of the second series (default: 5)")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.receive:
        receive()
        return
    busy, idle = measure_hop(), measure_hop(400, flags.pause / 1e3)
    figures = {"hop_8k_us_p50": busy["p50"], "hop_8k_us_p99": busy["p99"], "hop_8k_after_pause_us_p50": idle["p50"]}
    if flags.json:
        print(json.dumps({name: round(value, 1) for name, value in figures.items()}))
    else:
        for name, value in figures.items():
            print(f"{name:28} {value:8.1f}")


if __name__ == "__main__":
    main()
