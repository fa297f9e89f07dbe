"""The model families Potluck runs, and the error for all others."""

from __future__ import annotations

from typing import Final

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
SUPPORTED: Final = "Llama 2/3, Mistral, Qwen2/2.5, Qwen3 (dense) and Gemma 3 (text)"


class UnsupportedModel(Exception):
    """The model is sound but Potluck cannot run it. The message names what is missing and what is supported."""

    def __init__(self, source: str, feature: str) -> None:
        super().__init__(f"{source}: {feature} is not supported; Potluck runs {SUPPORTED}")
