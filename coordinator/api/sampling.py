"""From a request body to how its tokens are drawn. Pure but for the choice of a random seed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.schema import ChatBody, CompletionBody, GenerationBody
from potluck.proto.step import Sampling

MAX_BIASES = 1024
_SEED_BITS = 63


def draws(body: GenerationBody, vocab_size: int) -> Sampling:
    """How the tokens of a request are drawn; each choice only differs in `stream` and `prompt_tokens`.

    Raises:
        ApiError: 400 for a logit bias that is out of range or names no token.
    """
    return Sampling(
        seed=_seed(body.seed),
        temperature=_or(body.temperature, 1.0),
        top_k=max(0, body.top_k or 0),
        top_p=_or(body.top_p, 1.0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=parse_logit_bias(body.logit_bias or {}, vocab_size),
        logprobs=_logprobs(body),
    )


def parse_logit_bias(biases: Mapping[str, object], vocab_size: int) -> dict[int, float]:
    """Token id -> bias from JSON's text keys.

    Raises:
        ApiError: 400 for too many entries, a key that is no token id, or a bias outside -100 to 100.
    """
    if len(biases) > MAX_BIASES:
        raise _bad_bias(f"at most {MAX_BIASES} tokens, not {len(biases)}")
    parsed: dict[int, float] = {}
    for key, bias in biases.items():
        plain = key.isascii() and key.isdecimal() and len(key) <= 10
        if not plain or int(key) >= vocab_size:
            raise _bad_bias(f"{key[:20]!r} is not a token id below {vocab_size}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise _bad_bias(f"the bias of token {key} must be a number between -100 and 100")
        parsed[int(key)] = float(bias)
    return parsed


def _seed(asked: int | None) -> int:
    # -1 asks for a random seed at other open servers too.
    if asked is None or asked == -1:
        return secrets.randbits(_SEED_BITS)
    return asked & ((1 << _SEED_BITS) - 1)


def _logprobs(body: GenerationBody) -> int | None:
    """How many alternatives to report per token: None for no log-probabilities at all."""
    match body:
        case ChatBody(logprobs=True):
            return body.top_logprobs or 0
        case ChatBody(top_logprobs=int(asked)) if asked:
            raise ApiError("'top_logprobs' needs 'logprobs': true", param="top_logprobs", code="invalid_value")
        case CompletionBody():
            choosing = body.best_of is not None and body.best_of > (body.n or 1)
            return 0 if choosing and body.logprobs is None else body.logprobs
    return None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _bad_bias(problem: str) -> ApiError:
    return ApiError(f"'logit_bias': {problem}", param="logit_bias", code="invalid_value")
