"""Products to measure: those that a shard computes with (`residence.py`), over weights as they lie in mapped files."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod

import torch

from potluck.kernels import packed
from potluck.worker.device import CPU
from potluck.worker.residence import DeviceMemory, HostMemory, Product, Residence

PLAIN = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Whatever it is taken for, a byte of this makes an ordinary number; zeros and denormal ones may be quicker or slower.
_BYTE = 0x3C


def filled_pool(size: int) -> torch.Tensor:
    """So many bytes (uint8), every page of them there: reading pages that nobody wrote reads a single one."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Pages of files are small; with large ones weights would be read quicker than a shard's are.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).fill_(_BYTE)


def stored_bytes(encoding: str, shape: tuple[int, int], device: torch.device) -> int:
    """Bytes of a matrix in a shard file for this device."""
    if encoding in PLAIN and not _is_packed(device):
        return prod(shape) * PLAIN[encoding].itemsize
    return packed.packed_size(encoding, shape)


def spaced_bytes(encoding: str, shape: tuple[int, int], device: torch.device) -> int:
    """Bytes of a pool that a matrix takes: whole pages."""
    return -(-stored_bytes(encoding, shape, device) // mmap.PAGESIZE) * mmap.PAGESIZE


def sample_products(
    pool: torch.Tensor, encoding: str, shape: tuple[int, int], device: torch.device = CPU, exact: bool = False
) -> Iterator[Product]:
    """Products by matrices (rows, columns) that lie in the pool one behind the other: at least one, or all that fit.

    `exact`: activations stay unrounded, as `weight-only` computes.

    Raises:
        ValueError: there are no products of that encoding.
    """
    residence: Residence = HostMemory(exact) if device.type == "cpu" else DeviceMemory(device)
    plain = None if _is_packed(device) else PLAIN.get(encoding)
    step, nbytes = spaced_bytes(encoding, shape, device), stored_bytes(encoding, shape, device)
    for first in range(0, max(1, len(pool) - step + 1), step):
        stored = pool[first : first + nbytes]
        if plain is None:
            yield residence.product([residence.quantized(encoding, shape, stored)], None, [None])
        else:
            yield residence.product([residence.plain(stored.view(plain).view(shape))], None, [None])


def _is_packed(device: torch.device) -> bool:
    return device.type == "cpu" and packed.has_vectors()
