"""Finds the model a person named: an alias, a file, a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from potluck.models.aliases import ALIASES, locate_alias
from potluck.models.aliases import known_aliases as list_aliases
from potluck.models.locations import KnownModel, ModelNotFound, ModelPath, Progress

__all__ = [
    "KnownModel",
    "ModelNotFound",
    "ModelPath",
    "Progress",
    "known_aliases",
    "known_models",
    "locate",
    "locate_here",
]


def locate(reference: str, cache: Path, progress: Progress | None = None, offline: bool = False) -> ModelPath:
    """The model that a reference names, downloaded or put together if need be.

    An alias wins over a file of that name (write ./smollm2 for the file), an existing path over the hub.

    Args:
        reference: alias, file, folder, or org/name[/FILE.gguf][@revision].
        cache: folder for models that come in chunks; made when needed.
        progress: told how far putting together is; the hub library draws its own bars.
        offline: never use the network.

    Raises:
        ModelNotFound: one line that says what was tried and what helps.
    """
    return locate_here(reference, cache, progress) or _from_hub(reference, offline)


def locate_here(reference: str, cache: Path, progress: Progress | None = None) -> ModelPath | None:
    """The model of an alias or a path, as `locate` does; None for what could only be on the hub.

    Raises:
        ModelNotFound: the alias' packages are not installed, or damaged.
    """
    if reference in ALIASES:
        return locate_alias(reference, cache, progress)
    return _on_disk(reference)


def known_aliases(cache: Path) -> list[KnownModel]:
    """The aliases, for lists; nothing is written or downloaded."""
    return list_aliases(cache)


def known_models(cache: Path) -> list[KnownModel]:
    """Everything `locate` finds without a download: aliases and the models in the hub library's cache."""
    from potluck.models.hub import cached_models

    return [*list_aliases(cache), *cached_models()]


def _on_disk(reference: str) -> ModelPath | None:
    try:
        path = Path(reference).expanduser()
        if not reference or not path.exists():
            return None
        path = path.resolve()
    except (OSError, RuntimeError, ValueError):
        # Too long, unknown user, or a zero byte: no path, so nothing on disk.
        return None
    return ModelPath(path.name.removesuffix(".gguf"), path)


def _from_hub(reference: str, offline: bool) -> ModelPath:
    # Imported here: the hub library takes 0.3 s that a local model need not wait for.
    from potluck.models.hub import fetch, parse_reference

    parsed = None if reference.startswith(("/", ".", "~")) else parse_reference(reference)
    if parsed is None:
        shown = "".join(letter if letter.isprintable() else "?" for letter in reference[:80])
        raise ModelNotFound(
            f"there is no model {shown!r}: give an alias ({', '.join(ALIASES)}), an existing GGUF file or "
            "model folder, or org/name[@revision] on the Hugging Face hub"
        )
    return fetch(parsed, offline)
