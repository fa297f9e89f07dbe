"""Configurations of well-known models that ship with Potluck: they are planned for with no weights and no network.

`configs/ORG/NAME.json` has the fields of the model's published `config.json` that decide its shape. They are facts of
the models' publishers; `tests/models/test_shipped.py` holds them to the published numbers of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Final

from potluck.models.config_hf import spec_from_config
from potluck.models.json_file import parse_json
from potluck.models.spec import ModelSpec

_LLAMA, _QWEN25, _SMOLLM2 = "meta-llama/Llama-3", "Qwen/Qwen2.5", "HuggingFaceTB/SmolLM2"
# Models of the same shape as a shipped one: bases, and what others trained further.
_SAME: Final[Mapping[str, str]] = {
    **{f"{_LLAMA}.2-{size}": f"{_LLAMA}.2-{size}-Instruct" for size in ("1B", "3B")},
    **{f"{_LLAMA}.1-{size}": f"{_LLAMA}.1-{size}-Instruct" for size in ("8B", "70B")},
    **{f"{_QWEN25}-{size}": f"{_QWEN25}-{size}-Instruct" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")},
    **{f"{_SMOLLM2}-{size}": f"{_SMOLLM2}-{size}-Instruct" for size in ("135M", "360M", "1.7B")},
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": f"{_LLAMA}.1-8B-Instruct",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": f"{_LLAMA}.3-70B-Instruct",
    "mistralai/Mistral-7B-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
}


def shipped_models() -> list[str]:
    """Names on the Hugging Face hub of the models whose configuration ships."""
    root = resources.files("potluck.models") / "configs"
    return sorted(
        f"{owner.name}/{file.name.removesuffix('.json')}"
        for owner in root.iterdir()
        if owner.is_dir()
        for file in owner.iterdir()
        if file.name.endswith(".json")
    )


def shipped_spec(name: str) -> ModelSpec | None:
    """The spec of a model by its hub name, in any case of letters; None where none ships."""
    wanted = {one.lower(): same for one, same in _SAME.items()}.get(name.lower(), name).lower()
    for known in shipped_models():
        if known.lower() == wanted:
            return _read(known, name)
    return None


def _read(known: str, name: str) -> ModelSpec:
    owner, model = known.split("/")
    file = resources.files("potluck.models") / "configs" / owner / f"{model}.json"
    return spec_from_config(parse_json(file.read_bytes(), file.name), file.name, name)
