"""Log-probabilities in OpenAI's two forms: lists of a completion, token objects of a chat."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.coordinator.api.choice import Entry
from potluck.models.tokenizer import Tokenizer

# JSON has no infinity; OpenAI reports this for a token that cannot be drawn.
_IMPOSSIBLE = -9999.0


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; bytes that are no whole characters are spelled `bytes:\\xe2\\x80`."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def completion_logprobs(tokenizer: Tokenizer, entries: Sequence[Entry]) -> dict[str, list[object]]:
    """The `logprobs` of a completion's choice."""
    return {
        "tokens": [token_name(tokenizer, entry.token) for entry in entries],
        "token_logprobs": [None if entry.score is None else _finite(entry.score.logprob) for entry in entries],
        "top_logprobs": [_alternatives(tokenizer, entry) for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[Entry]) -> dict[str, object]:
    """The `logprobs` of a chat's choice."""
    content: list[dict[str, object]] = []
    for entry in entries:
        if entry.score is None:
            continue
        tops = [_scored(tokenizer, token, logprob) for token, logprob in entry.score.top]
        content.append({**_scored(tokenizer, entry.token, entry.score.logprob), "top_logprobs": tops})
    return {"content": content, "refusal": None}


def _alternatives(tokenizer: Tokenizer, entry: Entry) -> dict[str, float] | None:
    """The likeliest tokens and the drawn one. Where two tokens have one name the likelier stays."""
    if entry.score is None:
        return None
    named: dict[str, float] = {}
    for token, logprob in [*entry.score.top, (entry.token, entry.score.logprob)]:
        named.setdefault(token_name(tokenizer, token), _finite(logprob))
    return named


def _scored(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, object]:
    raw = tokenizer.token_bytes(token)
    return {"token": token_name(tokenizer, token), "logprob": _finite(logprob), "bytes": list(raw)}


def _finite(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)
