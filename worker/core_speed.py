"""`python -m potluck.worker.core_speed NAME...`: how fast one core multiplies matrices of some formats, as JSON.

A name is a weight format (`F32`, `BF16`, `Q4_0`, ...), with `UNROUNDED` behind it where activations stay unrounded. The
answer has [floating-point operations per second with many rows, bytes per second with one] for each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from potluck.kernels import packed
from potluck.kernels.packed import has_vectors
from potluck.worker.device import CPU
from potluck.worker.sample_products import filled_pool, sample_products, spaced_bytes, stored_bytes

UNROUNDED = " unrounded"
_SHAPE = (8192, 2048)  # large enough that calls do not count
_STREAMED = 96 << 20  # more than caches hold
_ROWS = 128
_SECONDS, _FEWEST = 0.12, 3


def measure(name: str) -> tuple[float, float]:
    """FLOP/s and bytes/s of a format, in time that this thread computes; waiting for a core does not count."""
    exact, encoding = name.endswith(UNROUNDED), name.removesuffix(UNROUNDED)
    if encoding == "F16" and not has_vectors():
        encoding = "BF16"  # which it is multiplied as
    step = spaced_bytes(encoding, _SHAPE, CPU)
    products = list(sample_products(filled_pool(-(-_STREAMED // step) * step), encoding, _SHAPE, exact=exact))
    one, many = (torch.ones(rows, _SHAPE[1], dtype=products[0].dtype) for rows in (1, _ROWS))
    streamed = _best(lambda: [product(one) for product in products]) / len(products)
    flops = 2.0 * _SHAPE[0] * _SHAPE[1] * _ROWS / _best(lambda: products[0](many))
    return flops, stored_bytes(encoding, _SHAPE, CPU) / streamed


def _best(operation: Callable[[], object]) -> float:
    operation()
    spent: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(spent) < _FEWEST or time.perf_counter() < until:
        begun = time.thread_time()
        operation()
        spent.append(time.thread_time() - begun)
    return min(spent)


def main() -> None:
    """Measure what is asked for."""
    torch.set_num_threads(1)
    packed.set_threads(1)
    with torch.inference_mode():
        print(json.dumps({name: measure(name) for name in sys.argv[1:]}))


if __name__ == "__main__":
    main()
