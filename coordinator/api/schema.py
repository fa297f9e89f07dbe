"""The request bodies the API knows. Unknown fields are ignored; known ones must have the right type."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MAX_TOP_LOGPROBS = 20
# JSON's largest exact integers differ between clients; the engine's seed is 63 bits.
_INT64 = 2**63


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ResponseFormat(_Body):
    """The form the text must take; only `text` is served."""

    type: str


class GenerationBody(_Body):
    """What chats and completions have in common. A null means the default, as in OpenAI's API.

    `top_k`, `min_p`, `repetition_penalty`, `ignore_eos` and `stop_token_ids` go beyond OpenAI's API, named as other
    open servers name them.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=0)
    stop: object = None
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, object] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=64, fail_fast=True)
    min_tokens: int | None = Field(None, ge=0)
    response_format: ResponseFormat | None = None
    user: str | None = None


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: object = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = Field(None, ge=1)


class ChatBody(GenerationBody):
    """The body of POST /v1/chat/completions."""

    messages: list[object]
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[object] | None = None
    functions: list[object] | None = None
    tool_choice: object = None


class TokenizeBody(_Body):
    """The body of POST /tokenize: `content` (llama.cpp's name) or `prompt` (vLLM's), or the messages of a chat."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[object] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    add_generation_prompt: bool | None = None


class DetokenizeBody(_Body):
    """The body of POST /detokenize."""

    model: str | None = None
    # Failing fast, as a list of a million wrong ids would otherwise become a million error reports.
    tokens: list[int] = Field(max_length=1 << 20, fail_fast=True)
