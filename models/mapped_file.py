"""A file mapped read-only into memory, that notices when it has been cut."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from potluck.models.checkpoint import CheckpointError


class MappedFile:
    """A whole file as one read-only mapping; pages are read when touched and can be dropped by the system."""

    def __init__(self, path: Path) -> None:
        """Map a file.

        Raises:
            CheckpointError: it is empty, unreadable or not a file.
        """
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        try:
            self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            self._file.close()
            raise CheckpointError(f"{path} is empty or cannot be mapped; download it again") from None
        self.size = len(self.data)

    def view(self, start: int, nbytes: int) -> memoryview:
        """Bytes of the file, mapped, not copied.

        Touching a page beyond the end of a file that shrank kills the process (SIGBUS), so the size is asked first.

        Raises:
            CheckpointError: the file was cut since it was opened.
        """
        size = os.fstat(self._file.fileno()).st_size
        if start + nbytes > size or start + nbytes > self.size:
            raise CheckpointError(f"{self.path} was cut to {size} bytes while in use; download it again")
        return memoryview(self.data)[start : start + nbytes]

    def close(self) -> None:
        """Unmap; only when no view is in use any more."""
        # A view that an error report still holds keeps the mapping until it is collected; that is no second error.
        with contextlib.suppress(BufferError):
            self.data.close()
        self._file.close()
