"""Opens a model on disk, whatever its format."""

from __future__ import annotations

from pathlib import Path

from potluck.models.checkpoint import Checkpoint, CheckpointError
from potluck.models.config_hf import spec_from_config
from potluck.models.config_quantization import Quantization, quantization_of
from potluck.models.families import UnsupportedModel
from potluck.models.gguf_checkpoint import open_gguf, read_gguf_spec
from potluck.models.json_file import read_json
from potluck.models.rope import check_ropes
from potluck.models.safetensors_checkpoint import open_safetensors, read_quantized_spec
from potluck.models.safetensors_file import INDEX, SINGLE
from potluck.models.spec import ModelSpec

__all__ = ["UnsupportedModel", "find_gguf", "open_checkpoint", "read_spec"]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_spec(path: Path) -> ModelSpec:
    """The spec of the model in a GGUF file, or in a folder with `config.json` or with one GGUF file.

    Raises:
        CheckpointError: something is missing or damaged.
        UnsupportedModel: Potluck cannot run this model.
    """
    gguf = find_gguf(path)
    spec = read_gguf_spec(gguf) if gguf else _folder_spec(path)
    try:
        check_ropes(spec)
    except ValueError as error:
        raise CheckpointError(f"{(gguf or path).name}: {error}; download it again") from None
    return spec


def open_checkpoint(path: Path) -> Checkpoint:
    """The weights of the model in a GGUF file or in a folder. All shapes are checked against the spec.

    Raises:
        CheckpointError: something is missing or damaged, or there is only pickle.
        UnsupportedModel: Potluck cannot run this model.
    """
    gguf = find_gguf(path)
    if gguf:
        return open_gguf(gguf)
    if not _has_weights(path):
        raise _no_weights(path)
    spec, quantization = _configured(path)
    return open_safetensors(path, spec, quantization)


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder that has no safetensors.

    Raises:
        CheckpointError: there is no such file or folder, or several GGUF files to choose from.
    """
    if path.suffix == ".safetensors" or path.match("*.index.json") or path.name == "config.json":
        raise CheckpointError(f"{path} is one file of a model; name its folder: {path.parent}")
    if any(path.match(pattern) for pattern in _PICKLES):
        raise _pickle(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist")
    if _has_weights(path):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise CheckpointError(f"{path} has {len(found)} GGUF files ({names}, ...); name the one to use")
    return found[0] if found else None


def _folder_spec(folder: Path) -> ModelSpec:
    """The spec of a folder; which matrices are multiplied as stored is known once the weights are there."""
    spec, quantization = _configured(folder)
    return read_quantized_spec(folder, spec, quantization) if quantization and _has_weights(folder) else spec


def _configured(folder: Path) -> tuple[ModelSpec, Quantization | None]:
    """What the configuration of a folder says, without its weights."""
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json and no GGUF file; a model folder needs one of them")
    config, source = read_json(file), f"{folder.name}/config.json"
    return spec_from_config(config, source, _model_name(folder)), quantization_of(config, source)


def _has_weights(folder: Path) -> bool:
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _model_name(folder: Path) -> str:
    """The folder's name; in a Hugging Face cache, where that is a commit, the model's."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def _no_weights(folder: Path) -> CheckpointError:
    pickles = [file for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    if pickles:
        return _pickle(pickles[0])
    return CheckpointError(f"{folder} has no weights: neither {SINGLE}, nor {INDEX}, nor a GGUF file")


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is pickle: Potluck never loads pickle, which can run any code; "
        "convert with transformers' from_pretrained(...).save_pretrained(...), or take a version in safetensors or GGUF"
    )
