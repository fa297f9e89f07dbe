"""What a request wants continued: the prompts of a completion, the messages of a chat. Pure checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from potluck.coordinator.api.errors import ApiError

# `developer` is OpenAI's newer name of `system`; no open model's template knows it.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_PASSED_ON = ("name", "tool_calls", "tool_call_id", "reasoning_content")


def parse_prompts(value: object) -> list[str | list[int]]:
    """The prompts of a completion: a text, token ids, or a list of either.

    Raises:
        ApiError: 400 for anything else, and for an empty list.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise _bad_prompt("a text, a list of token ids, or a non-empty list of either")
    if _token_ids(value):
        return [value]
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(isinstance(item, list) and item and _token_ids(item) for item in value):
        return list(value)
    raise _bad_prompt("a text, a list of token ids, or a list of only texts or only non-empty lists of ids")


def check_tokens(tokens: Sequence[int], vocab_size: int, param: str = "prompt") -> None:
    """Raise ApiError 400 unless every id is a token of the model."""
    wrong = [token for token in (min(tokens, default=0), max(tokens, default=0)) if not 0 <= token < vocab_size]
    if wrong:
        problem = f"'{param}': token {wrong[0]} is not in the vocabulary of {vocab_size}"
        raise ApiError(problem, param=param, code="invalid_value")


def parse_messages(messages: Sequence[object]) -> list[dict[str, object]]:
    """The messages of a chat as its template reads them: a role and one text each.

    Raises:
        ApiError: 400 for no messages, an unknown role, or content that is not text.
    """
    if not messages:
        raise ApiError("'messages' must not be empty", param="messages", code="invalid_value")
    return [_message(message, f"messages.{index}") for index, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, object]:
    if not isinstance(message, dict):
        raise ApiError(f"'{where}' must be an object with role and content", param=where, code="invalid_value")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise ApiError(f"'{where}.role' must be one of {known}", param=f"{where}.role", code="invalid_value")
    passed_on = {key: message[key] for key in _PASSED_ON if message.get(key) is not None}
    return {"role": _ROLES[role], "content": _content(message, where), **passed_on}


def _content(message: Mapping[str, object], where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_text_part(part, f"{where}.content.{index}") for index, part in enumerate(content))
    if content is None and message.get("role") == "assistant":
        return ""
    raise ApiError(
        f"'{where}.content' must be a text or a list of text parts",
        param=f"{where}.content",
        code="invalid_value",
    )


def _text_part(part: object, where: str) -> str:
    if not isinstance(part, dict):
        raise ApiError(f"'{where}' must be an object", param=where, code="invalid_value")
    if part.get("type") != "text":
        raise ApiError(
            f"'{where}': only parts of type text are served; this model reads no images, sound or files",
            param=where,
            code="unsupported_content",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise ApiError(f"'{where}.text' must be a text", param=f"{where}.text", code="invalid_value")
    return text


def _token_ids(items: Sequence[object]) -> TypeGuard[list[int]]:
    # A JSON true is an int to Python.
    return all(type(item) is int for item in items)


def _bad_prompt(wanted: str) -> ApiError:
    return ApiError(f"'prompt' must be {wanted}", param="prompt", code="invalid_value")
