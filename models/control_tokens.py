"""Keeps control tokens out of reach of text that users type.

A tokenizer is built so that its control tokens are not spelled as their authors spelled them but as *marks* that no
text can contain: a Unicode noncharacter, a random number of this process and the token's id. What users typed never
turns into a mark, whole or in pieces, so it can only become ordinary tokens; only literals of the chat template are
respelled as marks (`potluck.models.template_process`). It is the same idea as parameters in SQL: the trusted side is
marked, so nothing has to be found and escaped on the other.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

# Noncharacters: "reserved for internal use", never to be exchanged as text (Unicode 16.0, section 23.7).
MARK_START, MARK_END = "\ufdd0", "\ufdd1"
_NEVER_TEXT = re.compile(f"[{MARK_START}{MARK_END}\ud800-\udfff]")
_REPLACEMENT = "\ufffd"

# Files sometimes store these as ordinary added tokens (`<|fim_prefix|>` of Qwen 2.5, turns of some GGUF conversions).
_LOOKS_LIKE_CONTROL = re.compile(r"<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|<(start|end)_of_\w+>")

END_OF_TURN = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<end_of_turn>",
        "<｜end▁of▁sentence｜>",
        "</s>",
        "<eos>",
    }
)


def looks_like_control(text: str) -> bool:
    """Whether a token is spelled as control tokens are, whatever its file says of it."""
    return _LOOKS_LIKE_CONTROL.fullmatch(text) is not None


def as_text(text: str) -> str:
    """The text without what no text may contain: noncharacters used for marks, and halves of surrogate pairs.

    Both become U+FFFD, as decoders do with bytes that are no text.
    """
    return _NEVER_TEXT.sub(_REPLACEMENT, text)


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one tokenizer.

    Attributes:
        spellings: how the model's authors spelled each control token, by id.
        marks: what stands for it in this process, by id.
    """

    spellings: Mapping[int, str]
    marks: Mapping[int, str]

    @classmethod
    def of(cls, spellings: Mapping[int, str]) -> Marks:
        """Marks with a fresh random number: even a template that decodes escapes cannot be made to write one."""
        number = secrets.token_hex(8)
        return cls(spellings, {token: f"{MARK_START}{number}.{token}{MARK_END}" for token in spellings})

    def by_spelling(self) -> dict[str, str]:
        """The mark for each spelling, for the template's literals."""
        return {spelling: self.marks[token] for token, spelling in self.spellings.items()}

    def readable(self, text: str) -> str:
        """The text with every mark spelled out, for messages."""

        def spelled(found: re.Match[str]) -> str:
            return self.spellings.get(int(found[1]), _REPLACEMENT)

        return re.sub(rf"{MARK_START}[0-9a-f]+\.(\d+){MARK_END}", spelled, text)
