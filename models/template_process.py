"""The process that renders chat templates: `python -I template_process.py`, requests and answers as lines of JSON.

A template comes with a model, so it is somebody else's code. It runs in Jinja's immutable sandbox, and in a process of
its own that the parent can kill, since no sandbox inside an interpreter bounds time and memory. Imports only Jinja.

First line in: {"templates": {name: source}, "marks": {spelling: mark}, "seconds", "characters", "memory"}.
Then, for each line {"template": name, "variables": {...}}: {"text": ...} or {"refused"|"broken": message}.
Ends when its input does.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.optimizer import optimize
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What these are given is compared with text, never written out, so a literal keeps its spelling there.
_COMPARING = frozenset({"split", "rsplit", "replace", "startswith", "endswith", "removeprefix", "removesuffix", "find"})


_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class RefusedError(TemplateError):
    """The template called `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}`, by which training tools find answers; renders as what it encloses."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> NoReturn:
    raise RefusedError(str(message))


def _tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    """As transformers defines it: Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def environment() -> ImmutableSandboxedEnvironment:
    """The environment templates are written for (`_compile_jinja_template` of transformers)."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    made.filters["tojson"] = _tojson
    del made.filters["striptags"]  # decodes HTML escapes, by which text could turn into other text after all checks
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made


def compile_marked(env: ImmutableSandboxedEnvironment, source: str, marks: dict[str, str]) -> Template:
    """Compile a template with the control tokens in its literals respelled as marks."""
    tree = env.parse(source)
    optimize(tree, env)  # joins literals, in place: '<|' + 'im_end|>'
    compared = {id(literal) for literal in _compared(tree)}
    literals = [node for node in tree.find_all((nodes.TemplateData, nodes.Const)) if id(node) not in compared]
    texts = "\0".join(text for node in literals for text in _texts(_value(node)))
    present = sorted((spelling for spelling in marks if spelling in texts), key=len, reverse=True)
    if present:
        pattern = re.compile("|".join(map(re.escape, present)))
        for node in literals:
            _assign(node, _marked(_value(node), pattern, marks))
    return env.from_string(tree)


def _compared(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Literals whose only use is to be looked for."""
    for comparison in tree.find_all(nodes.Compare):
        yield from _literals(comparison)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _COMPARING and call.args:
            yield from _literals(call.args[0])
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name == "replace" and filtered.args:
            yield from _literals(filtered.args[0])


def _literals(node: nodes.Node) -> Iterator[nodes.Node]:
    if isinstance(node, nodes.Const):
        yield node
    yield from node.find_all(nodes.Const)


def _value(node: nodes.Node) -> object:
    return node.data if isinstance(node, nodes.TemplateData) else getattr(node, "value", None)


def _assign(node: nodes.Node, value: object) -> None:
    setattr(node, "data" if isinstance(node, nodes.TemplateData) else "value", value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        yield from _texts([*value.keys(), *value.values()])


def _marked(value: object, pattern: re.Pattern[str], marks: dict[str, str]) -> object:
    if isinstance(value, str):
        return pattern.sub(lambda found: marks[found[0]], value)
    if isinstance(value, list | tuple):
        return type(value)(_marked(each, pattern, marks) for each in value)
    if isinstance(value, dict):
        return {_marked(key, pattern, marks): _marked(each, pattern, marks) for key, each in value.items()}
    return value


class _Renderer:
    """Answers requests about the templates of the first line."""

    def __init__(self, opening: dict[str, Any]) -> None:
        self.sources: dict[str, str] = opening["templates"]
        self.marks: dict[str, str] = opening["marks"]
        self.characters: int = opening["characters"]
        self.compiled: dict[str, Template] = {}
        self.environment = environment()

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        try:
            return {"text": self._render(request["template"], request["variables"])}
        except RefusedError as error:
            return {"refused": str(error)}
        except (MemoryError, RecursionError) as error:
            return {"broken": f"it needs too much memory or nesting ({type(error).__name__})"}
        except _FAILURES as error:
            return {"broken": f"{type(error).__name__}: {error}"}

    def _render(self, name: str, variables: dict[str, Any]) -> str:
        if name not in self.compiled:
            self.compiled[name] = compile_marked(self.environment, self.sources[name], self.marks)
        pieces, length = [], 0
        for piece in self.compiled[name].generate(**variables):
            length += len(piece)
            if length > self.characters:
                raise ValueError(f"it renders more than {self.characters} characters")
            pieces.append(piece)
        return "".join(pieces)


def _confine(memory: int) -> None:
    """Bound memory and forbid files. Only Linux enforces the memory bound; Windows has neither."""
    try:
        import resource
    except ImportError:
        return
    for limit, value in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, limit), (value, value))
        except (OSError, ValueError):
            continue


def _allow(seconds: float) -> None:
    """End this process once it used that much more processor time; 0 for never. A signal ends even loops in C."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reply(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it may drain for a while
    opening = json.loads(sys.stdin.buffer.readline())
    renderer = _Renderer(opening)
    _confine(opening["memory"])
    _reply({"text": "ready"})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _allow(opening["seconds"])
        answer = renderer.answer(request)
        _allow(0)
        _reply(answer)


if __name__ == "__main__":
    main()
