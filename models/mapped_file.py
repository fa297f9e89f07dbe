"""A file mapped read-only into memory, that notices when it has been cut."""

from __future__ import annotations

import contextlib
import mmap
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
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise CheckpointError(f"{path} is empty; download it again") from None
        self.size = len(self.data)

    def view(self, start: int, nbytes: int) -> memoryview:
        """Bytes of the file, mapped, not copied.

        Touching a page beyond the end of a file that shrank kills the process (SIGBUS), so the file's size, which
        `mmap.size` asks the system for, is looked at first.

        Raises:
            CheckpointError: the file was cut since it was opened.
        """
        size = self.data.size()
        if start + nbytes > min(size, self.size):
            raise CheckpointError(f"{self.path} was cut to {size} bytes while in use; download it again")
        return memoryview(self.data)[start : start + nbytes]

    def close(self) -> None:
        """Unmap; only when no view is in use any more."""
        # A view that an error report still holds keeps the mapping until it is collected; that is no second error.
        with contextlib.suppress(BufferError):
            self.data.close()
