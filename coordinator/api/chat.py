"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.api import body, query
from potluck.coordinator.api.answer import Wish, answer
from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.prompts import parse_messages
from potluck.coordinator.api.query import Prompt, Query
from potluck.coordinator.api.reply import ChatShape
from potluck.coordinator.api.sampling import draws
from potluck.coordinator.api.schema import ChatBody
from potluck.coordinator.api.service import Service
from potluck.coordinator.api.stops import parse_stops
from potluck.coordinator.generation import Generation


def chat_routes(service: Service) -> APIRouter:
    """The endpoint of chats."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await body.read(request, ChatBody, service.options)
        service.check_model(asked.model)
        work = await chat_query(asked, service)
        wish = Wish(
            shape=ChatShape(service.texts.tokenizer, work.logprobs),
            id_prefix="chatcmpl",
            chat=True,
            stream=bool(asked.stream),
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )
        return await answer(request, service, work, wish)

    return router


async def chat_query(asked: ChatBody, service: Service) -> Query:
    """The checked request.

    Raises:
        ApiError: 400 for values that cannot be served.
    """
    max_tokens = _refuse(asked)
    messages = parse_messages(asked.messages)
    count = asked.n or 1
    query.check_choices(count, service.options.max_choices)
    tokenizer = service.texts.tokenizer
    template = Generation(
        prompt=(),
        sampling=draws(asked, tokenizer.vocab_size),
        max_tokens=0,
        end_ids=query.end_tokens(asked, tokenizer.end_ids),
    )
    stops = parse_stops(asked.stop)
    prompt = Prompt(await service.texts.chat(messages))
    length = query.Length(service.engine.context, max_tokens, None)
    generations = query.generations([prompt], count, template, length)
    return Query((prompt,), count, count, generations, stops, bool(asked.logprobs))


def _refuse(asked: ChatBody) -> int | None:
    """The most tokens asked for, after refusing what is not served."""
    query.refuse_unserved(asked)
    if (asked.tools or asked.functions) and asked.tool_choice != "none":
        raise query.unsupported("tools", "calling tools")
    max_tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    if max_tokens == 0:
        raise ApiError("'max_tokens' must be positive", param="max_tokens", code="invalid_value")
    return max_tokens
