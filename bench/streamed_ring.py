"""A ring of windows under a memory limit, as a program: `python streamed_ring.py FOLDER LIMIT_MB prefetch|none`.

Six units of 32 MiB in three windows of two; memory for two windows. Between two windows other nodes are "computing": a
pause. Prints what every step read from the disk and how long it waited.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from potluck.kernels.packed import PackedLinear, PackedMatrix, packed_size
from potluck.worker import pages
from potluck.worker.mapped_weights import MappedWeights
from potluck.worker.pieces import Piece, Unit
from potluck.worker.shard_store import ShardStore

SHAPE, WINDOWS, STEPS, PAUSE = (8192, 4096), ((0, 1), (2, 3), (4, 5)), 5, 0.5
PIECE = Piece("matrix.0", (), "INT8_G128", SHAPE)


def read_bytes() -> int:
    """Bytes that this process made the disk give."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def made(piece: Piece) -> list[torch.Tensor]:
    """Random numbers with small scales."""
    data = torch.randint(0, 256, (packed_size(piece.encoding, SHAPE),), dtype=torch.uint8)
    return [data]


def main() -> None:
    """Build, or run the steps and print them."""
    folder, prefetch = Path(sys.argv[1]), sys.argv[2] == "prefetch"
    store = ShardStore(folder, "0" * 32, "ring")
    units = [Unit("layer", number) for number in range(6)]
    if len(sys.argv) > 3:  # only build
        for unit in units:
            store.build(unit, [PIECE], made, lambda count: None)
        return
    mapped = {unit: store._open(store.path(unit, [PIECE]), unit, None) for unit in units}
    size = next(iter(mapped.values())).mapping.size
    if prefetch:
        weights = MappedWeights(mapped, units, 4 * size)
    else:
        for unit in mapped.values():
            pages.drop(unit.mapping)
        weights = None
    x_TI, report = torch.randn(1, SHAPE[1]), []
    linears = [PackedLinear([PackedMatrix("INT8_G128", SHAPE, mapped[unit].placed()["matrix.0"])]) for unit in units]
    time.sleep(2 * PAUSE)
    for _ in range(STEPS):
        before, busy, resident = read_bytes(), 0.0, []
        stalled = weights.streamer.stall_seconds if weights else 0.0
        loading = weights.streamer.load_seconds if weights else 0.0
        for window in WINDOWS:
            resident.append(min(pages.resident(mapped[units[number]].mapping) for number in window))
            begun = time.perf_counter()
            for number in window:
                if weights:
                    with weights.streamer.here(units[number]):
                        linears[number](x_TI)
                else:
                    linears[number](x_TI)
            busy += time.perf_counter() - begun
            time.sleep(PAUSE)
        step = {"read": (read_bytes() - before) / (6 * size), "busy": busy, "resident": min(resident)}
        if weights:
            step["stall"] = weights.streamer.stall_seconds - stalled
            step["load"] = weights.streamer.load_seconds - loading
        report.append(step)
    print(json.dumps(report), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
