"""Runs a checked request on the engine and answers it, at once or as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.api.choice import Choice, Entry, Piece, prompt_entries
from potluck.coordinator.api.errors import json_response
from potluck.coordinator.api.query import Query
from potluck.coordinator.api.reply import Envelope, Shape, usage
from potluck.coordinator.api.service import Service
from potluck.coordinator.api.sse import EventStream, event
from potluck.coordinator.api.streams import Streams, while_connected
from potluck.coordinator.generation import Drawn, Finish


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request wants to be answered."""

    shape: Shape
    id_prefix: str
    chat: bool
    stream: bool
    include_usage: bool


async def answer(request: Request, service: Service, query: Query, wish: Wish) -> Response:
    """Generate, and answer.

    Raises:
        GenerationError: the engine cannot serve it, and nothing has been sent yet.
        ClientGone: the client left first.
    """
    running = Running(service, query, wish)
    if not wish.stream:
        return json_response(await while_connected(request.receive, running.whole()))
    events = running.events()
    # The first event is awaited here, so that an error before it is still a proper HTTP status.
    first = await while_connected(request.receive, anext(events))
    return EventStream(first, events, service.options.write_timeout_s)


class Running:
    """One request while the engine works on it. However `whole` or `events` end, its KV is freed."""

    def __init__(self, service: Service, query: Query, wish: Wish) -> None:
        self._tokenizer = service.texts.tokenizer
        self._query = query
        self._wish = wish
        self._envelope = Envelope(
            f"{wish.id_prefix}-{uuid.uuid4().hex}",
            int(time.time()),
            service.engine.model,
            service.options.fingerprint,
        )
        self._choices = [self._choice(index) for index in range(len(query.generations))]
        self.streams = Streams(service.engine.submit(query.generations))

    async def whole(self) -> dict[str, object]:
        """The complete answer, likeliest sequences first where more are drawn than answered."""
        texts: list[list[str]] = [[] for _ in self._choices]
        entries: list[list[Entry]] = [[] for _ in self._choices]
        finishes: list[Finish | None] = [None for _ in self._choices]
        try:
            async for index, piece in self._pieces():
                texts[index].append(piece.text)
                entries[index].extend(piece.entries)
                finishes[index] = piece.finish
        finally:
            self.streams.cancel()
        shape, kept = self._wish.shape, self._kept()
        choices = [
            shape.whole(place, Piece("".join(texts[index]), tuple(entries[index]), finishes[index]))
            for place, index in enumerate(kept)
        ]
        return {**self._envelope.around(shape.kind, choices), "usage": self._usage()}

    async def events(self) -> AsyncGenerator[bytes]:
        """The answer as events, without the closing [DONE]."""
        opened: set[int] = set()
        try:
            async for index, piece in self._pieces():
                opening = None if index in opened else self._wish.shape.opening(index)
                opened.add(index)
                if opening is not None:
                    yield self._chunk([opening])
                if piece.text or piece.entries:
                    yield self._chunk([self._wish.shape.part(index, Piece(piece.text, piece.entries))])
                if piece.finish:
                    yield self._chunk([self._wish.shape.part(index, Piece(finish=piece.finish))])
            if self._wish.include_usage:
                body = self._envelope.around(self._wish.shape.chunk_kind, [])
                yield event({**body, "usage": self._usage()})
        finally:
            self.streams.cancel()

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """What may be sent, choice by choice as it comes; a prompt that is repeated comes first."""
        begun: set[int] = set()
        async for index, drawn in self.streams.drawn():
            if index not in begun:
                begun.add(index)
                yield index, self._repeated(index, drawn)
            choice = self._choices[index]
            piece = choice.take(drawn)
            if choice.finish and not drawn.finish:
                self.streams.stop(index)
            yield index, piece

    def _repeated(self, index: int, drawn: Drawn) -> Piece:
        prompt = self._query.prompt_of(index)
        scored = self._query.generations[index].score_prompt
        entries = prompt_entries(self._tokenizer, prompt.tokens, drawn.prompt) if scored else []
        return Piece(prompt.echo, tuple(entries))

    def _choice(self, index: int) -> Choice:
        # A completion goes on with its prompt's text; a chat's answer is a text of its own.
        detokenizer = self._tokenizer.detokenizer(continues=not self._wish.chat)
        return Choice(detokenizer, self._query.stops, start=len(self._query.prompt_of(index).echo))

    def _kept(self) -> list[int]:
        per_prompt, kept = self._query.per_prompt, self._query.kept
        chosen: list[int] = []
        for start in range(0, len(self._choices), per_prompt):
            drawn = range(start, start + per_prompt)
            chosen += sorted(drawn, key=self._unlikeliness)[:kept] if kept < per_prompt else drawn
        return chosen

    def _unlikeliness(self, index: int) -> float:
        choice = self._choices[index]
        return -choice.logprob / max(1, choice.tokens)

    def _usage(self) -> dict[str, int]:
        return usage(self._query.prompt_tokens, sum(choice.tokens for choice in self._choices))

    def _chunk(self, choices: list[dict[str, object]]) -> bytes:
        body = self._envelope.around(self._wish.shape.chunk_kind, choices)
        return event({**body, "usage": None} if self._wish.include_usage else body)
