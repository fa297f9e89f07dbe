"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.api import body, query
from potluck.coordinator.api.answer import Wish, answer
from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.prompts import check_tokens, parse_prompts
from potluck.coordinator.api.query import Prompt, Query
from potluck.coordinator.api.reply import CompletionShape
from potluck.coordinator.api.sampling import draws
from potluck.coordinator.api.schema import CompletionBody
from potluck.coordinator.api.service import Service
from potluck.coordinator.api.stops import parse_stops
from potluck.coordinator.api.texts import Texts
from potluck.coordinator.generation import Generation


def completion_routes(service: Service) -> APIRouter:
    """The endpoint of completions."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def complete(request: Request) -> Response:
        asked = await body.read(request, CompletionBody, service.options)
        service.check_model(asked.model)
        work = await completion_query(asked, service)
        wish = Wish(
            shape=CompletionShape(service.texts.tokenizer, work.logprobs),
            id_prefix="cmpl",
            chat=False,
            stream=bool(asked.stream),
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )
        return await answer(request, service, work, wish)

    return router


async def completion_query(asked: CompletionBody, service: Service) -> Query:
    """The checked request.

    Raises:
        ApiError: 400 for values that cannot be served.
    """
    _refuse(asked)
    given = parse_prompts(asked.prompt)
    kept = asked.n or 1
    per_prompt = max(kept, asked.best_of or kept)
    query.check_choices(len(given) * per_prompt, service.options.max_choices)
    tokenizer = service.texts.tokenizer
    sampling = draws(asked, tokenizer.vocab_size)
    template = Generation(
        prompt=(),
        sampling=sampling,
        max_tokens=0,
        end_ids=query.end_tokens(asked, tokenizer.end_ids),
        score_prompt=bool(asked.echo) and asked.logprobs is not None,
    )
    stops = parse_stops(asked.stop)
    prompts = [await _prompt(one, service.texts, bool(asked.echo)) for one in given]
    _check_not_empty(prompts)
    length = query.Length(service.engine.context, asked.max_tokens, query.COMPLETION_TOKENS)
    generations = query.generations(prompts, per_prompt, template, length)
    return Query(tuple(prompts), per_prompt, kept, generations, stops, asked.logprobs is not None)


async def _prompt(given: str | list[int], texts: Texts, echo: bool) -> Prompt:
    if isinstance(given, str):
        return Prompt(await texts.prompt(given), given if echo else "")
    check_tokens(given, texts.tokenizer.vocab_size)
    return Prompt(tuple(given), await texts.text(given) if echo else "")


def _check_not_empty(prompts: Sequence[Prompt]) -> None:
    """Raise ApiError 400 where there is nothing to compute: a model continues tokens."""
    for number, prompt in enumerate(prompts):
        if not prompt.tokens:
            which = f"'prompt.{number}'" if len(prompts) > 1 else "'prompt'"
            problem = f"{which} is empty, so there is nothing for this model to continue; write some text"
            raise ApiError(problem, param="prompt", code="invalid_value")


def _refuse(asked: CompletionBody) -> None:
    query.refuse_unserved(asked)
    if asked.suffix:
        raise query.unsupported("suffix", "text after the completion")
    if asked.max_tokens == 0 and not asked.echo:
        raise ApiError("'max_tokens' must be positive (0 needs 'echo')", param="max_tokens", code="invalid_value")
    if asked.best_of is not None and asked.best_of < (asked.n or 1):
        raise ApiError("'best_of' must not be less than 'n'", param="best_of", code="invalid_value")
    if asked.stream and asked.best_of is not None and asked.best_of > (asked.n or 1):
        raise query.unsupported("best_of", "choosing the best of a stream")
