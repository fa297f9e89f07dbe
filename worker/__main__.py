"""`python -m potluck.worker`: the process that runs one node's shards.

The first line of standard input is the cluster's token; when standard input ends, so does the worker. One line of JSON
on standard output says where it listens.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from potluck.proto.shaper import sleep_precisely
from potluck.worker.data_port import DataPort
from potluck.worker.emulation import Emulation, read_emulation
from potluck.worker.link_probe import LinkProbe
from potluck.worker.server import WorkerService, start_server

_STOP_SECONDS = 1.0
_READY_SECONDS = 120.0
_DEVICE = "what to compute on (default: auto, a GPU where torch and Triton can use one; with --emulate the CPU)"
_NO_GRAPHS = "on a GPU, launch the kernels of every decode step instead of replaying it as a CUDA graph"
_HELD = (
    "how many of the layers that a GPU's memory does not hold are on it at once, while the others are copied to it "
    "from the host's memory ahead of their turn (default: chosen from the measured speed of copying and computing)"
)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m potluck.worker", description=__doc__)
    parser.add_argument("--node", required=True, help="name of the node")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port to listen at; port 0 takes a free one")
    parser.add_argument("--cache", required=True, type=Path, help="folder for fetched tensors")
    parser.add_argument("--memory", type=int, default=None, help="bytes it may use (default: what is free)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads (default: 0, one per physical core)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=_DEVICE)
    parser.add_argument("--no-graphs", action="store_true", help=_NO_GRAPHS)
    parser.add_argument("--held-layers", type=layer_count, default=None, metavar="N", help=_HELD)
    parser.add_argument(
        "--emulate",
        default=None,
        help='behave like another node, in all or some of these: {"device": {"flops": 6e10, "memory_bandwidth": 2e10, '
        '"formats": {"Q4_0": {"flops": 9e10, "bandwidth": 2e10}}}, "links": {"NODE": [latency_s, bytes_per_s], "": '
        '[...]}, "disk": bytes_per_s}',
    )
    return parser.parse_args()


def layer_count(text: str) -> int:
    """A number of layers; raises ArgumentTypeError where none is left to compute with."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} layers; at least 1 must be there to be computed")
    return number


def main() -> int:
    """Serve until standard input ends or SIGTERM comes."""
    flags = _parse()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {flags.node} %(levelname)s %(message)s")
    token = sys.stdin.readline().strip()
    stop = threading.Event()
    if flags.device == "cuda" and (reason := _without_gpu()):
        logging.error("%s", reason)
        return 2
    try:
        emulation = read_emulation(flags.emulate) if flags.emulate else Emulation()
        if flags.emulate:
            sleep_precisely()
        service = WorkerService(LinkProbe(flags.node, token, emulation.link))
        server, address = start_server(service, token, flags.listen)
        data_port = DataPort(flags.node, token, emulation.link, lambda: service.node(_READY_SECONDS))
        port = data_port.listen(flags.listen.rpartition(":")[0].strip("[]"))
        service.links = replace(service.links, address=address, data_port=port)
    except (ValueError, OSError) as error:
        logging.error("%s", error)
        return 2
    starting = threading.Event()
    starting.set()

    def end(*_: object) -> None:
        stop.set()
        if starting.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(json.dumps({"address": address, "pid": os.getpid()}), flush=True)
    threading.Thread(target=_wait_for_end, args=(end,), daemon=True).start()

    # Imported only now: torch takes seconds, and whoever started this waits for the line above.
    from potluck.worker.node import Node, NodeConfig
    from potluck.worker.windows import GpuOptions

    # An emulated node is a slower one of these processors.
    device = "cpu" if flags.emulate and flags.device == "auto" else flags.device
    gpu = GpuOptions(captured=not flags.no_graphs, held=flags.held_layers)
    node = Node(NodeConfig(flags.node, token, flags.cache, flags.memory, flags.threads, emulation, device, gpu))
    service.become_ready(node)
    starting.clear()
    stop.wait()
    data_port.close()
    server.stop(_STOP_SECONDS)
    node.stop()
    sys.stdout.flush()
    # Threads blocked in gRPC or torch must not hold the process back.
    os._exit(0)


def _without_gpu() -> str:
    """Why there is no GPU to compute on, or nothing. Loads torch: only who insists on one waits for that here."""
    from potluck.worker.device import DeviceError, choose_device

    try:
        choose_device("cuda")
    except DeviceError as error:
        return str(error)
    return ""


def _wait_for_end(end: Callable[[], None]) -> None:
    while sys.stdin.readline():
        pass
    end()


if __name__ == "__main__":
    sys.exit(main())
