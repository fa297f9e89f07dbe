"""Tokenizing on or off the event loop: short texts at once, long ones and chats in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from potluck.coordinator.api.errors import ApiError
from potluck.models.tokenizer import TemplateError, Tokenizer

_Made = TypeVar("_Made")


class Texts:
    """From texts and messages to token ids, without blocking the event loop for long ones."""

    def __init__(self, tokenizer: Tokenizer, inline_text: int) -> None:
        self.tokenizer = tokenizer
        self._inline = inline_text
        # Threads of their own, so that hostile texts cannot starve others, nor hostile chats the texts.
        self._long_texts = ThreadPoolExecutor(2, thread_name_prefix="tokenize")
        self._chats = ThreadPoolExecutor(2, thread_name_prefix="chat")

    async def prompt(self, text: str) -> tuple[int, ...]:
        """Token ids of a completion's prompt: none of an empty one, but for models whose texts begin with a token."""
        return tuple(await self._off_loop(len(text), lambda: self.tokenizer.encode_prompt(text)))

    async def plain(self, text: str) -> list[int]:
        """Token ids of a text, without a token to begin with."""
        return await self._off_loop(len(text), lambda: self.tokenizer.encode(text))

    async def text(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return await self._off_loop(len(tokens), lambda: self.tokenizer.decode(tokens))

    async def chat(
        self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Token ids of a chat, up to where the assistant begins.

        Raises:
            ApiError: 400 where the model has no chat template, or its template refuses the messages.
        """
        if not self.tokenizer.has_chat_template:
            problem = "this model has no chat template; use /v1/completions"
            raise ApiError(problem, param="messages", code="no_chat_template")
        loop = asyncio.get_running_loop()
        try:
            # Never on the loop: the template may take seconds, whatever the size of the messages.
            ids = await loop.run_in_executor(self._chats, self._render, messages, add_generation_prompt)
        except TemplateError as error:
            raise ApiError(
                f"'messages': {' '.join(str(error).split())}", param="messages", code="template_error"
            ) from None
        if not ids:
            problem = "'messages' come to no tokens in this model's chat template; write some text"
            raise ApiError(problem, param="messages", code="invalid_value")
        return tuple(ids)

    def _render(self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool) -> list[int]:
        return self.tokenizer.encode_chat(messages, add_generation_prompt=add_generation_prompt)

    async def _off_loop(self, size: int, work: Callable[[], _Made]) -> _Made:
        if size <= self._inline:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._long_texts, work)
