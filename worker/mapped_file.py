"""A file mapped read-only. Weights stay the file's pages: they are no memory of the process's own."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from potluck.kernels.native_module import native


class MappedFile:
    """A whole file. What `tensor` gave keeps the mapping alive; `close` only ends its guard."""

    def __init__(self, path: Path) -> None:
        """Map a file that is not empty.

        Raises:
            OSError, ValueError: it cannot be read, or it is empty.
        """
        self.path = path
        self.fd, self._slot = -1, -1
        self.fd = os.open(path, os.O_RDONLY)
        try:
            self._map = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
        except BaseException:
            self.close()
            raise
        self.size, self._stat = len(self._map), _state(self.fd)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self.address: int = self.bytes.ctypes.data
        self._slot = native.guard(self.address, self.size) if native is not None else -1

    def tensor(self, begin: int, nbytes: int) -> torch.Tensor:
        """Bytes of the file, uint8, not copied; never write to them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and says so
            return torch.from_numpy(self.bytes[begin : begin + nbytes])

    @property
    def is_whole(self) -> bool:
        """Whether every page touched so far was there. False for ever once one was not."""
        if self._slot >= 0 and native is not None:
            return not native.was_missed(self._slot)
        return os.fstat(self.fd).st_size >= self.size

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody wrote to the file since it was mapped. What a disk forgets by itself is not noticed."""
        return self.fd < 0 or _state(self.fd) == self._stat

    def close(self) -> None:
        """Nobody computes with it any more."""
        if self.fd >= 0:
            if native is not None:
                native.unguard(self._slot)
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        # A guard that outlived its mapping would watch whatever is mapped there next.
        self.close()


def _state(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns
