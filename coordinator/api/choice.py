"""One choice's text, from the tokens as they are drawn: detokenized, cut at stop strings, with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potluck.coordinator.api.stops import StopBuffer
from potluck.coordinator.generation import Drawn, Finish
from potluck.models.tokenizer import Detokenizer, Tokenizer
from potluck.proto.step import TokenScore


@dataclass(frozen=True, slots=True)
class Entry:
    """A reported token: its score (None for a prompt's first token) and where its text begins, in characters."""

    token: int
    score: TokenScore | None
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What may be sent of a choice now."""

    text: str = ""
    entries: tuple[Entry, ...] = ()
    finish: Finish | None = None


class Choice:
    """Takes what is drawn for one choice and gives the text that is certain.

    An entry is given with the text that its token begins; tokens past a stop string and end tokens are not reported.
    """

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], start: int = 0) -> None:
        self._detokenizer = detokenizer
        self._stops = StopBuffer(stops)
        self._waiting: list[Entry] = []
        self._detokenized = start
        self._sent = start
        self.tokens = 0
        self.logprob = 0.0
        self.finish: Finish | None = None

    def take(self, drawn: Drawn) -> Piece:
        """The next drawn token, or the end. After a stop string `finish` is set: take no more."""
        text = ""
        if drawn.token is not None:
            self.tokens += 1
            self.logprob += drawn.score.logprob if drawn.score else 0.0
            if drawn.finish != "stop":
                text = self._detokenize(drawn.token, drawn.score)
        safe = self._stops.feed(text)
        if drawn.finish:
            safe += self._stops.feed(self._detokenizer.finish()) + self._stops.finish()
        self.finish = "stop" if self._stops.found else drawn.finish
        self._sent += len(safe)
        return Piece(safe, self._release(), self.finish)

    def _detokenize(self, token: int, score: TokenScore | None) -> str:
        text = self._detokenizer.feed(token)
        if score is not None:
            self._waiting.append(Entry(token, score, self._detokenized))
        self._detokenized += len(text)
        return text

    def _release(self) -> tuple[Entry, ...]:
        complete = self.finish is not None and not self._stops.found
        ready = [entry for entry in self._waiting if complete or entry.offset < self._sent]
        self._waiting = self._waiting[len(ready) :]
        return tuple(ready)


def prompt_entries(tokenizer: Tokenizer, prompt: Sequence[int], scores: Sequence[TokenScore]) -> list[Entry]:
    """The prompt's tokens with their scores; the first has none, as nothing comes before it."""
    detokenizer = tokenizer.detokenizer()
    entries, offset = [], 0
    for token, score in zip(prompt, [None, *scores], strict=False):
        entries.append(Entry(token, score, offset))
        offset += len(detokenizer.feed(token))
    return entries
