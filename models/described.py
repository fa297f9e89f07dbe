"""The shape of a model that a person named, from its configuration alone where that is enough: so it is for a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from potluck.models.config_quantization import quantization_of
from potluck.models.json_file import read_json
from potluck.models.locations import ModelNotFound, Progress
from potluck.models.open import read_spec
from potluck.models.shipped import shipped_spec
from potluck.models.source import locate, locate_here
from potluck.models.spec import ModelSpec

_SHIPPED = "a configuration that ships with Potluck, not checked against the hub"


@dataclass(frozen=True, slots=True)
class Described:
    """A model's shape, what to call it, where its shape is known from, and whether its weights are on this machine."""

    name: str
    spec: ModelSpec
    origin: str
    here: bool = False


def describe(reference: str, cache: Path, progress: Progress | None = None, offline: bool = False) -> Described:
    """The shape of the model that a reference names; see `source.locate` for what it may be.

    What is on this machine comes first, then the configuration on the hub, then one that ships with Potluck. Weights
    are downloaded only where they alone tell the shape: GGUF files, and weights of 4 to 8 bits.

    Raises:
        ModelNotFound: none of these; one line with the remedy.
        CheckpointError, UnsupportedModel: it cannot be read, or not be run.
    """
    here = locate_here(reference, cache, progress)
    if here is not None:
        return Described(here.name, read_spec(here.path), str(here.path), True)
    return _from_hub_config(reference, offline) or _shipped(reference) or _with_weights(reference, cache, offline)


def _from_hub_config(reference: str, offline: bool) -> Described | None:
    # Imported here: the hub library takes 0.3 s that a local model need not wait for.
    from potluck.models.hub import fetch_config, parse_reference

    parsed = None if reference.startswith(("/", ".", "~")) else parse_reference(reference)
    folder = fetch_config(parsed, offline) if parsed and parsed.file is None else None
    if parsed is None or folder is None or (_quantized(folder) and not any(folder.glob("*.safetensors"))):
        return None
    return Described(parsed.repository, read_spec(folder), "its configuration on the Hugging Face hub")


def _quantized(folder: Path) -> bool:
    return quantization_of(read_json(folder / "config.json"), f"{folder.name}/config.json") is not None


def _shipped(reference: str) -> Described | None:
    name = reference.partition("@")[0]
    spec = shipped_spec(name)
    return Described(name, spec, _SHIPPED) if spec else None


def _with_weights(reference: str, cache: Path, offline: bool) -> Described:
    try:
        found = locate(reference, cache, None, offline)
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}; `cluster models` lists those that are planned for without a download") from None
    return Described(found.name, read_spec(found.path), str(found.path), True)
