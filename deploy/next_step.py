"""The one obvious next command after one that was typed. Pure: words in, words out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

_FLAGS = frozenset({"--fewest"})
# What `plan` takes and `serve` does not: where the plan goes, and what it was chosen for.
_OUTPUT = ("--save", "--html")
_CHOOSING = ("--solver", "--batch", "--prompt")
# What `serve` refuses beside --plan, which says who holds what.
_PLACING = ("--plan", "--goal", "--with", "--without", "--share", "--rounds", "--spread", "--fewest")
_FILE = "plan.yaml"


@dataclass(frozen=True, slots=True)
class Planned:
    """What `cluster plan` did, as far as the next step depends on it.

    Attributes:
        can_serve: the model is here, and so is the fleet, or can be emulated.
        by_default: chosen as `serve` would choose: by the exact solver, for one request of the usual length.
        given, saved, drawn: the plan file that was read, the one that was written, the page that was.
    """

    can_serve: bool
    by_default: bool
    given: Path | None = None
    saved: Path | None = None
    drawn: Path | None = None


def after_plan(typed: Sequence[str], planned: Planned) -> str:
    """What to do after `cluster plan`: where something can be served, exactly the plan that was shown.

    `typed` is what followed the word `plan`.
    """
    if not planned.can_serve:
        if planned.drawn is None:
            return command("plan", [*typed, "--html", "plan.html"])
        return f"open {planned.drawn}; docs/fleet-file.md says how to keep such a fleet in a file"
    file = planned.saved or planned.given
    if file is not None:
        return _serve_file(typed, str(file))
    if not planned.by_default:
        again = command("plan", [*typed, "--save", _FILE], *_OUTPUT[1:])
        return f"{again} && {_serve_file(typed, _FILE)}"
    said = any(word.partition("=")[0] in ("--spread", "--fewest") for word in typed)
    return command("serve", [*typed, *([] if said else ["--spread", "best"])], *_OUTPUT, *_CHOOSING)


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a first request is for: a model, with a chat template or without, behind a key or not."""

    model: str
    chats: bool = True
    wants_key: bool = False


def first_request(url: str, asked: Asked) -> str:
    """A request to paste. Its temperature is 0: OpenAI's default of 1 makes word salad of a small model's answer."""
    path = "chat/completions" if asked.chats else "completions"
    chat = {"messages": [{"role": "user", "content": "Name three fruits."}]}
    said = chat if asked.chats else {"prompt": "Three fruits are", "max_tokens": 32}
    body = orjson.dumps({"model": asked.model, **said, "temperature": 0, "stream": True}).decode()
    key = ["-H", "Authorization: Bearer KEY"] if asked.wants_key else []
    return shlex.join(["curl", "-N", f"{url}/v1/{path}", "-H", "Content-Type: application/json", *key, "-d", body])


def command(name: str, typed: Sequence[str], *left_out: str) -> str:
    """What was typed, for a command, without some options and their values."""
    return shlex.join(["cluster", name, *_without(typed, left_out)])


def _without(typed: Sequence[str], left_out: Sequence[str]) -> Iterator[str]:
    words = iter(typed)
    for word in words:
        option, equals, _ = word.partition("=")
        if option not in left_out:
            yield word
        elif not equals and option not in _FLAGS:
            next(words, None)


def _serve_file(typed: Sequence[str], file: str) -> str:
    kept = list(_without(typed, (*_OUTPUT, *_CHOOSING, *_PLACING)))
    return command("serve", [*kept, "--plan", file])
