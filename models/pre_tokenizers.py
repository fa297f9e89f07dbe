"""How byte-level vocabularies cut text before merging, by the name GGUF files give in `tokenizer.ggml.pre`.

The names are llama.cpp's (`llama-vocab.cpp`); the expressions are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from potluck.models.vocabulary import TokenizerError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a byte-level vocabulary does to text before merging.

    Attributes:
        expression: cuts the text; None for GPT-2's own, built into `tokenizers`.
        digits: every digit is cut off on its own first.
        compose: Unicode's composed form (NFC) first.
        ignore_merges: a cut that is a piece of the vocabulary is taken whole.
        add_bos: BOS goes before a plain prompt unless the file says otherwise.
    """

    expression: str | None = None
    digits: bool = False
    compose: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def normalizer(self) -> Mapping[str, object] | None:
        """As a tokenizer.json has it."""
        return {"type": "NFC"} if self.compose else None

    def pre_tokenizer(self) -> Mapping[str, object]:
        """As a tokenizer.json has it."""
        steps: list[Mapping[str, object]] = []
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        if self.expression is not None:
            pattern = {"Regex": self.expression}
            steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        steps.append({**byte_level, "use_regex": self.expression is None})
        return {"type": "Sequence", "pretokenizers": steps}


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_LLAMA3_LIKE = PreTokenizer(_LLAMA3, ignore_merges=True, add_bos=True)
_QWEN2_LIKE = PreTokenizer(_QWEN2, compose=True)

_BY_NAME = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"), _LLAMA3_LIKE),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2_LIKE),
    "tekken": PreTokenizer(_TEKKEN, ignore_merges=True, add_bos=True),
}


def pre_tokenizer_named(name: str) -> PreTokenizer:
    """The pre-tokenizer a GGUF file names.

    Raises:
        TokenizerError: unknown. A guess would cut text otherwise than in training and quietly cost quality.
    """
    if name not in _BY_NAME:
        known = ", ".join(sorted(_BY_NAME))
        raise TokenizerError(f"the pre-tokenizer {name!r} is not supported; supported: {known}")
    return _BY_NAME[name]
