"""Models on the Hugging Face hub: choosing files, downloading (the hub library resumes and draws its bars), listing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from potluck.models.locations import KnownModel, ModelNotFound, ModelPath

# Connection errors share a base with the hub's own, under a name that changed between versions of the library.
_NETWORK_ERRORS: tuple[type[Exception], ...] = (
    *cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__),
    OSError,
)
_NOT_THERE: tuple[type[Exception], ...] = (EntryNotFoundError, *_NETWORK_ERRORS)
_TIMEOUT_S = 5.0
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REFERENCE = re.compile(rf"({_NAME}/{_NAME})(?:/({_NAME}\.gguf))?(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")


@dataclass(frozen=True, slots=True)
class HubReference:
    """`org/name[/FILE.gguf][@revision]`, parsed."""

    repository: str
    file: str | None
    revision: str


def parse_reference(text: str) -> HubReference | None:
    """The parts of a hub reference; None if the text is none. Nothing with `..` is one."""
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text or "--" in text or "//" in text:
        return None
    return HubReference(match[1], match[2], match[3] or "main")


def wanted_files(names: Sequence[str], file: str | None) -> list[str]:
    """Which files of a repository to fetch: weights in one format, configuration, tokenizer and chat template.

    Args:
        names: all files of the repository.
        file: the GGUF file asked for, if one was.

    Raises:
        ModelNotFound: it has none, or several GGUF files and none was named, or only pickle.
    """
    plain = [name for name in names if _PLAIN_FILE.fullmatch(name)]
    small = [name for name in plain if name.endswith((".json", ".jinja", ".model"))]
    ggufs = [name for name in plain if name.endswith(".gguf")]
    weights = [name for name in plain if name.startswith("model") and name.endswith(".safetensors")]
    if file is not None:
        if file not in ggufs:
            raise ModelNotFound(f"there is no file {file!r}; the repository has {_some(ggufs)}")
        return [file]
    if weights and "config.json" in small:
        return small + weights
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ModelNotFound(
            f"there are {len(ggufs)} GGUF files: add the one to use, as in org/name/FILE ({_some(ggufs)})"
        )
    pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in plain)
    reason = "only pickle files, which Potluck never loads" if pickled else "no weights"
    raise ModelNotFound(f"the repository has {reason}; take one with safetensors or GGUF files")


def fetch(reference: HubReference, offline: bool) -> ModelPath:
    """Download what is not there yet, or find it in the hub's cache when offline or unreachable.

    Raises:
        ModelNotFound: it does not exist, is not public, or cannot be reached and is not in the cache.
    """
    if offline:
        return _cached(reference, "--offline was given")
    try:
        info = HfApi().model_info(reference.repository, revision=reference.revision, timeout=_TIMEOUT_S)
        files = wanted_files([file.rfilename for file in info.siblings or ()], reference.file)
        folder = snapshot_download(reference.repository, revision=reference.revision, allow_patterns=files)
    except GatedRepoError:
        raise _refused(reference, "needs you to accept its terms on the hub and log in (hf auth login)") from None
    except RevisionNotFoundError:
        raise _refused(reference, f"has no revision {reference.revision!r}") from None
    except RepositoryNotFoundError:
        raise _refused(reference, "does not exist on the Hugging Face hub, or is private (hf auth login)") from None
    except ModelNotFound as error:
        raise _refused(reference, f"cannot be used: {error}") from None
    except _NETWORK_ERRORS as error:
        return _cached(reference, f"fetching it from the Hugging Face hub failed ({_first_line(error)})")
    return _found(reference, Path(folder))


def fetch_config(reference: HubReference, offline: bool) -> Path | None:
    """The folder with a model's `config.json`, which alone is downloaded; None where the hub has no such file, or
    neither hub nor cache can give it."""
    name, revision = reference.repository, reference.revision
    # Asked first: without a network the download itself tries for twenty seconds.
    offline = offline or not _answers(reference)
    try:
        file = hf_hub_download(name, "config.json", revision=revision, local_files_only=offline)
    except _NOT_THERE:
        return None
    return Path(file).parent


def _answers(reference: HubReference) -> bool:
    try:
        HfApi().model_info(reference.repository, revision=reference.revision, timeout=_TIMEOUT_S)
    except _NETWORK_ERRORS:
        return False
    return True


def cached_models() -> list[KnownModel]:
    """Models in the hub library's cache on this machine."""
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    models = [item for item in repositories if item.repo_type == "model"]
    return [
        KnownModel(item.repo_id, True, item.size_on_disk, item.repo_path, "Hugging Face hub, in its cache")
        for item in sorted(models, key=lambda item: item.repo_id)
    ]


def _cached(reference: HubReference, reason: str) -> ModelPath:
    """What an earlier run downloaded. Whether all weights are there shows when the checkpoint is opened."""
    try:
        folder = snapshot_download(
            reference.repository,
            revision=reference.revision,
            allow_patterns=[reference.file] if reference.file else [],
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        raise _refused(
            reference, f"is not on this machine, and {reason}; name a file or folder, or try again when connected"
        ) from None
    return _found(reference, Path(folder))


def _found(reference: HubReference, folder: Path) -> ModelPath:
    if reference.file is None:
        return ModelPath(reference.repository, folder)
    if not (folder / reference.file).is_file():
        raise _refused(reference, f"is in the cache without {reference.file}; try again when connected")
    return ModelPath(f"{reference.repository}/{reference.file}", folder / reference.file)


def _refused(reference: HubReference, reason: str) -> ModelNotFound:
    return ModelNotFound(f"{reference.repository} {reason}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "no GGUF file"
