"""What every launch needs to know of its device, and how work is cut so that all of its processors are busy.

Kernels run on torch's current CUDA device; where TRITON_INTERPRET is set they run on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import functools

import torch
import triton.language as tl

# Without a GPU (tests) any number does that lets some products be split.
_INTERPRETED_PROCESSORS = 4
# Partial results of one row are merged by one program, which holds them all.
_MOST_SPLITS = 128


def dot_dtype(x: torch.Tensor) -> tl.dtype:
    """The type in which tl.dot multiplies tensors of this one's type.

    The interpreter keeps bfloat16 as 16-bit integers and would multiply those, so there it is widened first.
    """
    if x.device.type == "cpu" or x.dtype == torch.float32:
        return tl.float32
    return tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16


def dot_precision() -> str:
    """How tl.dot multiplies float32: plain tf32 would cost 13 of its 23 bits and with them the same greedy text."""
    return "ieee" if torch.version.hip else "tf32x3"


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type == "cpu":
        return _INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def choose_splits(programs: int, length: int, least: int, count: int) -> int:
    """Into how many pieces a reduction is cut, so that two programs are there for every processor.

    Args:
        programs: programs there are without a cut, at least one.
        length: what each of them walks along (columns, slots), in any unit.
        least: the shortest piece worth a program, in the same unit; a piece's partial result is written and read again.
        count: processors of the device.
    """
    wanted = -(-2 * count // programs)
    return max(1, min(wanted, length // least, _MOST_SPLITS))


def warps(elements: int) -> int:
    """Warps of a program that holds this many elements: eight for each thread, up to sixteen warps."""
    return max(1, min(16, elements // 256))
