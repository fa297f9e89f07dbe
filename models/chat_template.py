"""From the messages of a conversation to the text a model was trained on, control tokens marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from potluck.models.control_tokens import Marks, as_text
from potluck.models.template_renderer import RenderLimits, TemplateError, TemplateRenderer

__all__ = ["ChatTemplate", "TemplateError"]

_DEEPEST = 64
_WITHOUT_TEMPLATE = (
    "this model has no chat template, so it cannot answer messages;"
    " ask /v1/completions, or give the server a template with --chat-template FILE"
)


class ChatTemplate:
    """The chat templates of a model.

    No text of the client reaches a template before it is made free of what could be a mark, so only the template's own
    literals become control tokens, whatever the template does with the text.
    """

    def __init__(self, templates: Mapping[str, str], variables: Mapping[str, str], marks: Marks) -> None:
        """Prepare, without starting anything.

        Args:
            templates: Jinja sources by name; `default` is the usual one, `tool_use` the one for tools if there is one.
            variables: names of tokens, such as bos_token.
            marks: of the tokenizer that encodes the result.
        """
        by_spelling = marks.by_spelling()
        self._names = frozenset(templates)
        self._marks = marks
        self._variables = {name: by_spelling.get(text, text) for name, text in variables.items()}
        self._renderer = TemplateRenderer(templates, by_spelling, RenderLimits())

    @property
    def exists(self) -> bool:
        """Whether the model has a template."""
        return bool(self._names)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None,
        add_generation_prompt: bool,
    ) -> str:
        """The conversation as text, in which marks stand for control tokens.

        Raises:
            TemplateError: there is no template, the messages are not what messages have to be, or the template refuses
                them, fails, or takes too much.
        """
        if not self._names:
            raise TemplateError(_WITHOUT_TEMPLATE)
        variables = {
            **self._variables,
            "messages": plain_messages(messages),
            "tools": _plain(tools, 0) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._renderer.render(self._name(bool(tools)), variables)
        except TemplateError as error:
            raise TemplateError(self._marks.readable(str(error))) from None

    def close(self) -> None:
        """End the process that renders."""
        self._renderer.close()

    def _name(self, tools: bool) -> str:
        if tools and "tool_use" in self._names:
            return "tool_use"
        return "default" if "default" in self._names else min(self._names)


def plain_messages(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The messages as templates expect them: content one text, arguments of tool calls parsed, nothing null.

    Raises:
        TemplateError: there are none, or one is not what a message has to be.
    """
    if not messages:
        raise TemplateError("messages is empty; a conversation needs at least one message")
    return [_plain_message(message, number) for number, message in enumerate(messages)]


def _plain_message(message: object, number: int) -> dict[str, object]:
    if not isinstance(message, Mapping):
        raise TemplateError(f"messages[{number}] is no object")
    role = message.get("role")
    if not isinstance(role, str):
        raise TemplateError(f"messages[{number}] has no role")
    kept = {key: _plain(value, 0) for key, value in message.items() if value is not None and key != "content"}
    calls = kept.get("tool_calls")
    if isinstance(calls, list):
        kept["tool_calls"] = [_plain_call(call) for call in calls]
    return {as_text(str(key)): value for key, value in kept.items()} | {"content": _content(message, number)}


def _content(message: Mapping[str, object], number: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return as_text(content)
    if content is None and message.get("role") == "assistant":
        return ""
    if not isinstance(content, list):
        raise TemplateError(f"messages[{number}].content has to be a text or a list of parts")
    return "".join(_part(part, f"messages[{number}].content[{index}]") for index, part in enumerate(content))


def _part(part: object, place: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind != "text":
        raise TemplateError(f"{place} is of type {str(kind)[:40]!r}; this model reads parts of type 'text' only")
    text = part.get("text")
    if not isinstance(text, str):
        raise TemplateError(f"{place}.text has to be a text")
    return as_text(text)


def _plain_call(call: object) -> object:
    """Clients send arguments as a text of JSON; templates are written for the object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": _plain(arguments, 0)}}


def _plain(value: object, depth: int) -> object:
    """A JSON value in which every text, keys included, is free of marks."""
    if depth > _DEEPEST:
        raise TemplateError(f"the messages are nested deeper than {_DEEPEST} levels")
    if isinstance(value, str):
        return as_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {as_text(str(key)): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(each, depth + 1) for each in value]
    raise TemplateError(f"the messages hold a {type(value).__name__}, which is no JSON value")
