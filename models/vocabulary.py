"""A tokenizer as data, whatever file it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from potluck.models.checkpoint import CheckpointError


class TokenizerError(CheckpointError):
    """The tokenizer is missing, damaged or of an unsupported kind. One line that names file and remedy."""


class Spelling(Enum):
    """How pieces of the vocabulary spell bytes."""

    BYTE_LEVEL = "byte level"  # GPT-2's alphabet: one printable character for each byte
    SENTENCEPIECE = "sentencepiece"  # U+2581 for a space, <0x0A> for a byte


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched whole in text before anything else.

    Attributes:
        control: only the chat template may write it; typed by a user it is text.
        lstrip, rstrip: swallows whitespace before, after it.
        single_word: only between word boundaries.
        normalized: matched in the normalised text.
    """

    id: int
    text: str
    control: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model's authors meant its tokens for.

    Attributes:
        bos_id: begins a text.
        prompt_prefix: ids that go before a plain prompt, such as BOS.
        end_ids: any of these ends an answer.
        variables: names of tokens that templates use (bos_token, eos_token, ...), by name.
        templates: chat templates by name; the usual one is called `default`.
    """

    bos_id: int | None = None
    prompt_prefix: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything a tokenizer is made of.

    Attributes:
        model: the `model` object of a tokenizer.json: BPE (merges as texts or as pairs) or Unigram.
        added: tokens matched whole, by ascending id.
        normalizer, pre_tokenizer: these objects of a tokenizer.json.
        strip_space: decoding drops one space at the very start (SentencePiece put it there).
    """

    model: Mapping[str, object]
    added: tuple[AddedToken, ...]
    normalizer: Mapping[str, object] | None
    pre_tokenizer: Mapping[str, object] | None
    spelling: Spelling
    usage: Usage
    strip_space: bool = False

    def size(self) -> int:
        """One more than the highest id; some files leave ids out."""
        vocab = self.model.get("vocab")
        highest = max((token.id for token in self.added), default=-1)
        if isinstance(vocab, dict):
            highest = max(highest, *vocab.values())
        return 1 + max(highest, len(vocab) - 1 if isinstance(vocab, list) else -1)
