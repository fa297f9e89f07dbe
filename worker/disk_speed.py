"""How fast a folder's disk reads, past the page cache: a file from its beginning on, and 64 KiB anywhere in it."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

_FILE = 64 << 20
_LEAST_FREE = 4 * _FILE
_MOST_LOOKED_AT = 10_000  # entries of the folder, in search of a file that is large enough
_PIECE = 4 << 20
RANDOM_PIECE = 64 << 10
_PASSES, _READS = 3, 256
_SECONDS = 0.7  # for each of both
_PAGE = mmap.PAGESIZE


class DiskSpeed(NamedTuple):
    """Bytes per second; 0 where it cannot be measured."""

    sequential: float = 0.0
    random: float = 0.0


def measure_disk(folder: Path) -> DiskSpeed:
    """Read a large file of the folder, or one that is written for this and removed again where there is none.

    Nothing is measured where it cannot be written, or would fill the disk.
    """
    try:
        with _large_file(folder) as path, _uncached(path) as file:
            return DiskSpeed(_sequential(file), _random(file))
    except OSError:
        return DiskSpeed()


class _Uncached:
    """An open file whose reads reach the disk: around the page cache, or once the system forgot its pages."""

    def __init__(self, file: int, direct: bool) -> None:
        self.size = min(os.fstat(file).st_size, _FILE) // _PIECE * _PIECE
        self._file, self._direct = file, direct
        # Such reads want memory that begins where a page does.
        self._into = mmap.mmap(-1, _PIECE)

    def seconds(self, offset: int, size: int) -> float:
        """Seconds of reading so many bytes.

        Raises:
            OSError: they cannot be read.
        """
        if not self._direct:
            os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        with memoryview(self._into)[:size] as into:
            if os.preadv(self._file, [into], offset) != size:
                raise OSError("the file became shorter")
        return time.perf_counter() - begun


@contextmanager
def _uncached(path: Path) -> Iterator[_Uncached]:
    file, direct = _opened(path)
    try:
        yield _Uncached(file, direct)
    finally:
        os.close(file)


def _opened(path: Path) -> tuple[int, bool]:
    """A file descriptor, and whether its reads go around the page cache.

    Raises:
        OSError: this system can neither do that nor forget pages.
    """
    if hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_DIRECT)
            if _can_read(file):
                return file, True
            os.close(file)
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "preadv"):
        raise OSError("reads cannot be kept off the page cache")
    return os.open(path, os.O_RDONLY), False


def _can_read(file: int) -> bool:
    """Some file systems take the flag and refuse the reads."""
    try:
        with mmap.mmap(-1, _PAGE) as into:
            return os.preadv(file, [into], 0) == _PAGE
    except OSError:
        return False


def _sequential(file: _Uncached) -> float:
    rates: list[float] = []
    begun = time.perf_counter()
    while len(rates) < _PASSES and time.perf_counter() - begun < _SECONDS:
        # A slow disk is not waited for to the end of the file.
        read, taken = 0, 0.0
        for offset in range(0, file.size, _PIECE):
            taken += file.seconds(offset, _PIECE)
            read += _PIECE
            if taken >= _SECONDS:
                break
        rates.append(read / max(taken, 1e-9))
    return statistics.median(rates)


def _random(file: _Uncached) -> float:
    places = random.Random(0)
    taken: list[float] = []
    while len(taken) < _READS and sum(taken) < _SECONDS:
        taken.append(file.seconds(places.randrange(file.size // RANDOM_PIECE) * RANDOM_PIECE, RANDOM_PIECE))
    return RANDOM_PIECE / max(statistics.median(taken), 1e-9)


@contextmanager
def _large_file(folder: Path) -> Iterator[Path]:
    known = next((path for path in islice(folder.rglob("*"), _MOST_LOOKED_AT) if _is_large(path)), None)
    if known is not None:
        yield known
        return
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < _LEAST_FREE:
        raise OSError("the disk is nearly full")
    with tempfile.NamedTemporaryFile(dir=folder, prefix="disk-speed-") as draft:
        # A file system that compresses finds nothing to leave out, and one that finds equal blocks no two of them.
        for _ in range(_FILE // _PIECE):
            draft.write(os.urandom(_PIECE))
        draft.flush()
        os.fsync(draft.fileno())
        yield Path(draft.name)


def _is_large(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size >= _FILE
    except OSError:
        return False
