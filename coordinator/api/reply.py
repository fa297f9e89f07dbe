"""What a request is answered with, in the forms of chats and completions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from potluck.coordinator.api.choice import Entry, Piece
from potluck.coordinator.api.scores import chat_logprobs, completion_logprobs
from potluck.coordinator.generation import Finish
from potluck.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every part of an answer carries; `created` in seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str

    def around(self, kind: str, choices: Sequence[object]) -> dict[str, object]:
        """An answer, or a chunk of one, with these choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens read and drawn."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Shape(Protocol):
    """The form of an endpoint's answers."""

    @property
    def kind(self) -> str:
        """The `object` of a whole answer."""

    @property
    def chunk_kind(self) -> str:
        """The `object` of a streamed chunk."""

    def opening(self, index: int) -> dict[str, object] | None:
        """The choice of the chunk sent before a choice's first text, if any."""

    def part(self, index: int, piece: Piece) -> dict[str, object]:
        """The choice of a chunk."""

    def whole(self, index: int, piece: Piece) -> dict[str, object]:
        """A complete choice."""


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Answers of /v1/chat/completions."""

    tokenizer: Tokenizer
    logprobs: bool
    kind: str = "chat.completion"
    chunk_kind: str = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, object] | None:
        """The role, which comes once and first."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def part(self, index: int, piece: Piece) -> dict[str, object]:
        """The text that is new."""
        delta: dict[str, object] = {"content": piece.text} if piece.text or piece.entries else {}
        return self._delta(index, delta, self._scores(piece.entries), piece.finish)

    def whole(self, index: int, piece: Piece) -> dict[str, object]:
        """The assistant's message."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": chat_logprobs(self.tokenizer, piece.entries) if self.logprobs else None,
            "finish_reason": piece.finish,
        }

    def _scores(self, entries: Sequence[Entry]) -> object:
        return chat_logprobs(self.tokenizer, entries) if self.logprobs and entries else None

    @staticmethod
    def _delta(index: int, delta: dict[str, object], scores: object, finish: Finish | None) -> dict[str, object]:
        return {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """Answers of /v1/completions."""

    tokenizer: Tokenizer
    logprobs: bool
    kind: str = "text_completion"
    chunk_kind: str = "text_completion"

    def opening(self, index: int) -> dict[str, object] | None:
        """Nothing: a completion's first chunk is text."""
        return None

    def part(self, index: int, piece: Piece) -> dict[str, object]:
        """The text that is new."""
        reported = self.logprobs and bool(piece.entries)
        scores = completion_logprobs(self.tokenizer, piece.entries) if reported else None
        return {"index": index, "text": piece.text, "logprobs": scores, "finish_reason": piece.finish}

    def whole(self, index: int, piece: Piece) -> dict[str, object]:
        """The whole text."""
        scores = completion_logprobs(self.tokenizer, piece.entries) if self.logprobs else None
        return {"index": index, "text": piece.text, "logprobs": scores, "finish_reason": piece.finish}
