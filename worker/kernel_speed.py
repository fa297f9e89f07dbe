"""How fast this node multiplies matrices of one weight format: with one row as in decoding, with many as in prompts.

Over more weights than any cache holds (`sample_products.py`), in the time that passes, with all of a worker's threads.
`core_speed.py` has the time of a thread instead.
"""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from math import prod

import torch

from potluck.kernels import packed
from potluck.models.costs import NARROW, NARROW_COLUMNS, WIDE_COLUMNS, FormatSpeed
from potluck.models.encodings import PACKED, packed_bytes, plain_bytes
from potluck.worker.device import CPU
from potluck.worker.emulation import DescribedDevice
from potluck.worker.residence import Product
from potluck.worker.sample_products import PLAIN, sample_products, stored_bytes
from potluck.worker.timing import Work, seconds, typical

_PLAIN_OF = {"float32": "F32", "float16": "F16"}
_ROUNDS = 3
_COLD = 16  # matrices that prompts take turns over
_NARROW = f" {NARROW}"
_SETTLE = 2  # products that are not counted: threads wake, memory for the result is had


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of what is multiplied.

    Attributes:
        streamed: bytes of weights that are read in turn.
        decode, prefill: (rows, columns) of a matrix.
        rows: packed rows of a prompt's step.
        known_as: the format whose speed a described node has for them; that of the weights where empty.
    """

    streamed: int
    decode: tuple[int, int]
    prefill: tuple[int, int]
    rows: int
    known_as: str = ""


# A layer of 1B has matrices of about this size. On a GPU smaller ones would measure the launch of the kernel.
_HOST = Shapes(256 << 20, (8192, WIDE_COLUMNS), (2048, WIDE_COLUMNS), 128)
_SHORT = replace(_HOST, decode=(8192, NARROW_COLUMNS), prefill=(2048, NARROW_COLUMNS), known_as=NARROW)
_GPU = Shapes(1 << 30, (16384, 8192), (8192, 8192), 512)


@dataclass(frozen=True)
class KernelBench:
    """Measures formats one after the other over the same bytes.

    Attributes:
        pool: bytes to take for weights, as `filled_pool` makes them.
        described: the node that is imitated.
        exact: whether activations stay unrounded, as `weight-only` computes.
        budget: seconds for each kind of product of a format in a round, once it is running.
    """

    pool: torch.Tensor
    described: DescribedDevice | None = None
    device: torch.device = CPU
    exact: bool = False
    budget: float = 0.05

    def speed(self, encoding: str) -> FormatSpeed:
        """Operations per second with many rows, bytes per second with one; of `narrow(encoding)` with short rows.

        Raises:
            ValueError: there are no products of that encoding.
        """
        shapes = _SHORT if encoding.endswith(_NARROW) else shapes_of(self.device)
        encoding = encoding.removesuffix(_NARROW)
        return FormatSpeed(self._flops(encoding, shapes), self._bandwidth(encoding, shapes))

    def _flops(self, encoding: str, shapes: Shapes) -> float:
        x_TI = torch.ones(shapes.rows, shapes.prefill[1], device=self.device)
        # A prompt, too, finds no weights in the cache: a layer's are used once per step.
        products = list(islice(self._products(encoding, shapes.prefill), _COLD))
        # Alone it would take a slow node seconds.
        products[0](x_TI[:_SETTLE])
        flops = 2.0 * prod(shapes.prefill) * shapes.rows
        works = (
            Work(partial(product, x_TI), flops, encoding=shapes.known_as or encoding) for product in cycle(products)
        )
        return flops / typical((seconds(work, self.described, self.device) for work in works), self.budget)

    def _bandwidth(self, encoding: str, shapes: Shapes) -> float:
        nbytes = _bytes(encoding, shapes.decode, self.device)
        x_TI = torch.ones(1, shapes.decode[1], device=self.device)
        products = list(self._products(encoding, shapes.decode))
        works = (Work(partial(product, x_TI), 0.0, nbytes, shapes.known_as or encoding) for product in cycle(products))
        for _ in range(_SETTLE):
            seconds(next(works), self.described, self.device)
        return nbytes / typical((seconds(work, self.described, self.device) for work in works), self.budget)

    def _products(self, encoding: str, shape: tuple[int, int]) -> Iterator[Product]:
        return sample_products(self.pool, encoding, shape, self.device, self.exact)


def narrow(encoding: str) -> str:
    """The name of matrices of plain numbers in this encoding whose rows are short (`models.costs.NARROW`)."""
    return encoding + _NARROW


def shapes_of(device: torch.device) -> Shapes:
    """What is multiplied on a device."""
    return _HOST if device.type == "cpu" else _GPU


def plain_encoding(dtype: str) -> str:
    """The format of weights that become numbers of the compute type; dtype as in `--dtype`."""
    return _PLAIN_OF.get(dtype, "BF16")


def formats_here() -> tuple[str, ...]:
    """Weight formats that are multiplied as they are stored; packing them is the extension's."""
    return tuple(PACKED) if packed.available() else ()


def pool_size(device: torch.device, free: int) -> int:
    """Bytes to measure with where so many are free: no more than a quarter, but a matrix of any format."""
    shapes = shapes_of(device)
    least = max(stored_bytes(encoding, shapes.decode, device) for encoding in ("F32", *formats_here()))
    return max(least, min(shapes.streamed, free // 4)) + mmap.PAGESIZE


def in_turn(
    encodings: Sequence[str], bench: KernelBench, is_over: Callable[[], bool], always: Sequence[str] = ()
) -> dict[str, FormatSpeed]:
    """The speed of each encoding; those that are left when it is over are left out, but for those measured `always`.

    Each is measured in several rounds, so that what slows the machine down for a second does not slow one format down.
    """
    found: dict[str, list[FormatSpeed]] = {}
    for _ in range(_ROUNDS):
        for encoding in encodings:
            if encoding in always or not is_over():
                found.setdefault(encoding, []).append(bench.speed(encoding))
    return {encoding: _middle(speeds) for encoding, speeds in found.items()}


def _middle(speeds: Sequence[FormatSpeed]) -> FormatSpeed:
    flops = statistics.median(speed.flops for speed in speeds)
    return FormatSpeed(flops, statistics.median(speed.bandwidth for speed in speeds))


def _bytes(encoding: str, shape: tuple[int, int], device: torch.device) -> int:
    """Bytes where it is computed with, as plans reckon."""
    on_gpu = device.type == "cuda"
    if encoding in PLAIN:
        return plain_bytes(shape, PLAIN[encoding].itemsize, on_gpu)
    return packed_bytes(encoding, shape, on_gpu)
