"""A request as the engine reads it: which sequences to generate and what to report of them. Pure checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.schema import GenerationBody
from potluck.coordinator.generation import Generation
from potluck.proto.step import Sampling

COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its token ids, and its text where the answer repeats it."""

    tokens: tuple[int, ...]
    echo: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """One checked request.

    Attributes:
        prompts: what is continued.
        per_prompt: sequences drawn for each prompt; sequence i continues prompt i // per_prompt.
        kept: how many of a prompt's sequences are answered, the likeliest where fewer than drawn (best_of).
        generations: one for each sequence.
        stops: stop strings.
        logprobs: report log-probabilities.
    """

    prompts: tuple[Prompt, ...]
    per_prompt: int
    kept: int
    generations: tuple[Generation, ...]
    stops: tuple[str, ...]
    logprobs: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    def prompt_of(self, index: int) -> Prompt:
        """The prompt that sequence `index` continues."""
        return self.prompts[index // self.per_prompt]


@dataclass(frozen=True, slots=True)
class Length:
    """How long an answer may be: `asked` by the client, or `default` (None: until the context is full)."""

    context: int
    asked: int | None
    default: int | None

    def max_tokens(self, prompt: int) -> int:
        """Most tokens to draw after a prompt of so many tokens.

        What a client asks for explicitly must fit; a default is cut to what fits.

        Raises:
            ApiError: 400 naming the numbers where the prompt, or prompt and answer, exceed the context.
        """
        room = self.context - prompt
        if room < 0 or (room == 0 and self.asked != 0):
            raise self._exceeded(f"the prompt has {prompt}; shorten it")
        if self.asked is not None and self.asked > room:
            wish = f"the prompt has {prompt} and max_tokens is {self.asked}; ask for at most {room}"
            raise self._exceeded(wish)
        if self.asked is not None:
            return self.asked
        return room if self.default is None else min(room, self.default)

    def _exceeded(self, detail: str) -> ApiError:
        message = f"this model's context is {self.context} tokens; {detail}"
        return ApiError(message, param="max_tokens", code="context_length_exceeded")


def generations(
    prompts: Sequence[Prompt], per_prompt: int, template: Generation, length: Length
) -> tuple[Generation, ...]:
    """One generation per choice, numbered through all prompts; choices differ in the stream of their randomness.

    Raises:
        ApiError: 400 where a prompt does not fit the context.
    """
    made = []
    for number, prompt in enumerate(prompts):
        max_tokens = length.max_tokens(len(prompt.tokens))
        for choice in range(per_prompt):
            sampling = _stream(template.sampling, number * per_prompt + choice, len(prompt.tokens))
            made.append(replace(template, prompt=prompt.tokens, max_tokens=max_tokens, sampling=sampling))
    return tuple(made)


def end_tokens(body: GenerationBody, model_ends: frozenset[int]) -> frozenset[int]:
    """The tokens that end an answer."""
    asked = frozenset(body.stop_token_ids or ())
    return asked if body.ignore_eos else asked | model_ends


def refuse_unserved(body: GenerationBody) -> None:
    """Raise ApiError 400 for what would change the text and is not served: never ignore it silently."""
    form = body.response_format
    if form is not None and form.type != "text":
        raise unsupported("response_format", f"type {form.type[:40]!r}")
    if body.min_tokens:
        raise unsupported("min_tokens", "a lower bound on the length")


def unsupported(param: str, what: str) -> ApiError:
    """The error for a known field whose value is not served."""
    return ApiError(f"'{param}': {what} is not supported yet", param=param, code="unsupported_value")


def check_choices(count: int, limit: int) -> None:
    """Raise ApiError 400 where one request asks for more sequences than are served at once."""
    if count > limit:
        message = f"prompts x n is {count}; at most {limit} sequences per request"
        raise ApiError(message, param="n", code="invalid_value")


def _stream(sampling: Sampling, stream: int, prompt_tokens: int) -> Sampling:
    return structs.replace(sampling, stream=stream, prompt_tokens=prompt_tokens)
