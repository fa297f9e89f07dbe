"""What finding a model gives, and how its work shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ModelNotFound(Exception):
    """No such model, or it cannot be had now. The message is one line with the remedy."""


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A model on disk: what to call it, and its file or folder."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model for the list of models.

    Attributes:
        name: what to give to `cluster serve`.
        installed: whether it can be used without a download.
        nbytes: size on disk; 0 when not installed.
        path: its file or folder; None when not there yet.
        origin: where it comes from or would come from.
    """

    name: str
    installed: bool
    nbytes: int
    path: Path | None
    origin: str


class Progress(Protocol):
    """Told how far a long work is: what, bytes done, bytes in all."""

    def __call__(self, what: str, done: int, total: int) -> None: ...
