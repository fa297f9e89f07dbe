"""One all-reduce among processes on loopback: what a group's sum takes, over sums' own sockets and over gRPC streams.

    python bench/all_reduce.py [--members N] [--kib SIZE] [--json]

Every member forms the same sums one after the other, as a group's members do between products, with the checksum and
the adding included. `tcp echo` is a bare round trip of as many bytes between two processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

from potluck.proto.member_link import MemberError, MemberLink
from potluck.proto.shaper import Shape
from potluck.proto.tcp import tune
from potluck.worker.sums import ALGORITHMS, Buffers, Circle
from potluck.worker.wires import wire_of

_WARMUP = 200
_GRPC_TOKEN = "sum"


def _gone() -> None:
    raise MemberError("a member", "is silent")


def _connected(place: int, ports: list[int], listener: socket.socket) -> tuple[MemberLink | None, ...]:
    """Links to the others: everybody connects to those before it."""
    links: list[MemberLink | None] = [None] * len(ports)
    for other in range(place):
        sock = socket.create_connection(("127.0.0.1", ports[other]))
        sock.sendall(bytes([place]))
        links[other] = _link(other, sock)
    for _ in range(place + 1, len(ports)):
        sock, _address = listener.accept()
        other = sock.recv(1)[0]
        links[other] = _link(other, sock)
    return tuple(links)


def _link(place: int, sock: socket.socket) -> MemberLink:
    tune(sock)
    return MemberLink(f"member {place}", sock, Shape(), _gone)


def _member(place: int, pipe: Connection, cases: list[tuple[str, str, int]], count: int) -> None:
    torch.set_num_threads(1)
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    links = _connected(place, pipe.recv(), listener)
    for algorithm, wire, nbytes in cases:
        circle, buffers = Circle(place, links, wire_of(wire)), Buffers()
        part_N, one = torch.randn(nbytes // 4), ALGORITHMS[algorithm]
        pipe.send(_timed(lambda: one(circle, part_N, buffers), count))  # noqa: B023
    pipe.recv()


def _timed(once: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each."""
    times = []
    for _ in range(_WARMUP + count):
        begun = time.perf_counter()
        once()
        times.append((time.perf_counter() - begun) * 1e6)
    return times[_WARMUP:]


def measure(members: int, cases: list[tuple[str, str, int]], count: int = 2000) -> list[tuple[float, float]]:
    """p50 and p99 in microseconds, as the first member sees it, of (algorithm, wire, float32 bytes)."""
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(members)]
    processes = [
        context.Process(target=_member, args=(place, far, cases, count)) for place, (_, far) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    ports = [near.recv() for near, _ in pipes]
    for near, _ in pipes:
        near.send(ports)
    results = []
    for _ in cases:
        times, *_ = [near.recv() for near, _ in pipes]
        results.append((statistics.median(times), statistics.quantiles(times, n=100)[98]))
    for near, _ in pipes:
        near.send(None)
    for process in processes:
        process.join()
    return results


def echo(nbytes: int, count: int = 2000) -> float:
    """Microseconds (p50) of a bare round trip of so many bytes between two processes."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = get_context("fork").Process(target=_echo, args=(listener, nbytes))
    process.start()
    with socket.create_connection(listener.getsockname()) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = bytes(nbytes)
        times = _timed(lambda: (sock.sendall(data), sock.recv(nbytes, socket.MSG_WAITALL)), count)
    process.join()
    return statistics.median(times)


def _echo(listener: socket.socket, nbytes: int) -> None:
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(nbytes, socket.MSG_WAITALL):
        sock.sendall(data)
    os._exit(0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--kib", type=int, default=8, help="KiB of float32 a part (default: 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    flags = parser.parse_args()
    nbytes = flags.kib << 10
    cases = [(*case, nbytes) for case in itertools.product(ALGORITHMS, ("float32", "bfloat16", "int8"))]
    found = dict(zip(cases, measure(flags.members, cases), strict=True))
    rows = {f"{algorithm}, {wire}": p50 for (algorithm, wire, _), (p50, _) in found.items()}
    rows["tcp echo"] = echo(nbytes)
    if flags.json:
        print(json.dumps({name: round(value, 1) for name, value in rows.items()}, indent=2))
        return
    print(f"| all-reduce of {flags.kib} KiB, {flags.members} members | us p50 |\n|---|---|")
    print("\n".join(f"| {name} | {value:.1f} |" for name, value in rows.items()))


if __name__ == "__main__":
    main()
