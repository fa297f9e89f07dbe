"""Pages of mapped files: bring them in, drop them, see which are in memory. Linux and macOS.

One large WILLNEED is cut short by the kernel (Linux 6: at the device's read-ahead, 128 KiB on most distributions), and
read-ahead on a mapping runs past what is wanted and evicts what is needed next. So the mapping is RANDOM, and pages are
asked for in small pieces, some MiB ahead of where they are waited for.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

import numpy as np

from potluck.proto.shaper import wait_until
from potluck.worker.mapped_file import MappedFile

_ASKED = 128 << 10  # bytes of one request to the kernel
_AHEAD = 16 << 20  # bytes asked for before they are waited for
_WAITED = 1 << 20  # bytes waited for at a time
_MADV_RANDOM, _MADV_DONTNEED, _MADV_POPULATE_READ = 1, 4, 22
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
PAGE = os.sysconf("SC_PAGESIZE")


class SlowDisk:
    """A disk of so many bytes per second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate, self._free_at = bytes_per_second, 0.0

    def begin(self, asked: float) -> Callable[[int], None]:
        """A read begins that was possible since `asked`: what waits until so many bytes of it are there. It begins
        where the one before was due to end, so that what is slept or waited for a core does not add up."""
        begun = max(asked, self._free_at)

        def read(nbytes: int) -> None:
            self._free_at = begun + nbytes / self._rate
            wait_until(self._free_at)

        return read


def bring_in(mapping: MappedFile, going: Callable[[], bool], read: Callable[[int], None] | None = None) -> None:
    """Read a whole mapping into memory, as long as `going()` says so; `read` waits for bytes of an imitated disk.

    Raises:
        OSError: a page cannot be read; the file was cut, or its disk fails.
    """
    asked = 0
    for begin in range(0, mapping.size, _WAITED):
        if not going():
            return
        while asked < min(begin + _AHEAD, mapping.size):
            _ask(mapping.fd, asked, min(_ASKED, mapping.size - asked))
            asked += _ASKED
        end = min(begin + _WAITED, mapping.size)
        _wait(mapping, begin, end - begin)
        if read:
            read(end)


def read_only_what_is_touched(mapping: MappedFile) -> None:
    """No read-ahead of the kernel's own on this mapping."""
    _LIBC.madvise(mapping.address, mapping.size, _MADV_RANDOM)


def drop(mapping: MappedFile) -> None:
    """Let go of a mapping's pages; the next touch reads them again."""
    _LIBC.madvise(mapping.address, mapping.size, _MADV_DONTNEED)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(mapping.fd, 0, mapping.size, os.POSIX_FADV_DONTNEED)


def resident(mapping: MappedFile) -> float:
    """The share of a mapping's pages that are in memory.

    Raises:
        OSError: the system does not say.
    """
    pages = -(-mapping.size // PAGE)
    found = np.empty(pages, dtype=np.uint8)
    if _LIBC.mincore(mapping.address, mapping.size, found.ctypes.data) != 0:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((found & 1).mean())


def _ask(fd: int, begin: int, nbytes: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, begin, nbytes, os.POSIX_FADV_WILLNEED)


def _wait(mapping: MappedFile, begin: int, nbytes: int) -> None:
    """Until pages are in memory and in the page tables, so that no product waits for either."""
    if sys.platform == "linux":
        if _LIBC.madvise(mapping.address + begin, nbytes, _MADV_POPULATE_READ) == 0:
            return
        error = ctypes.get_errno()
        if error in (14, 5, 133):  # EFAULT, EIO, EHWPOISON
            raise OSError(error, "a page cannot be read")
    if os.fstat(mapping.fd).st_size < mapping.size:
        raise OSError(5, "the file was cut")
    mapping.bytes[begin : begin + nbytes : PAGE].sum()
