"""Renders chat templates in a process that can be killed (`potluck.models.template_process` is its program)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = Path(__file__).with_name("template_process.py")
_START_SECONDS = 30.0
_LONGEST_MESSAGE = 300


class TemplateError(Exception):
    """These messages cannot be rendered: the template refuses them, fails, or takes too much. One line."""


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one rendering may take.

    Attributes:
        seconds: of processor time.
        patience: of wall time, for a machine too busy to give that processor time.
        characters: of output.
        memory: of the whole process, in bytes.
    """

    seconds: float = 1.0
    patience: float = 5.0
    characters: int = 1_000_000
    memory: int = 512 << 20


class TemplateRenderer:
    """Renders templates, one at a time, from any thread. The process starts with the first and ends with `close()`."""

    def __init__(
        self, templates: Mapping[str, str], marks: Mapping[str, str], limits: RenderLimits | None = None
    ) -> None:
        """Prepare, without starting anything.

        Args:
            templates: Jinja sources by name.
            marks: what stands in the output for each spelling of a control token in the templates' literals.
            limits: what one rendering may take.
        """
        self._limits = limits or RenderLimits()
        bounds = {name: getattr(self._limits, name) for name in ("seconds", "characters", "memory")}
        self._opening = json.dumps({"templates": dict(templates), "marks": dict(marks), **bounds}).encode()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], object] = lambda: None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process's id, while it runs."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def render(self, template: str, variables: Mapping[str, object]) -> str:
        """The text of a template.

        Raises:
            TemplateError: the template refuses, fails or exceeds a limit, or a variable is no JSON value.
        """
        try:
            request = json.dumps({"template": template, "variables": dict(variables)}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(f"the messages are not JSON: {error}") from None
        with self._lock:
            answer = self._exchange(self._running(), request, self._limits.patience)
        return _text_of(answer)

    def close(self) -> None:
        """End the process. A renderer that is closed renders no more."""
        with self._lock:
            self._closed = True
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise TemplateError("the tokenizer is closed; the server is shutting down")
        if self._process is not None and self._process.poll() is None:
            return self._process
        process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={} if os.name == "posix" else None,  # no secrets in the environment of somebody else's code
        )
        self._process = process
        self._stop = weakref.finalize(self, _stop, process)
        self._exchange(process, self._opening, _START_SECONDS)
        return process

    def _end(self) -> None:
        self._stop()
        self._process = None

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, seconds: float) -> object:
        """One line out, one line back; a process that does not answer in time is killed, which ends the wait."""
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            answer = _ask(process, request, 12 * self._limits.characters + 4096)
        finally:
            watchdog.cancel()
        if answer is None:
            self._end()
            raise TemplateError(
                f"the chat template took more than {self._limits.seconds:g} s or {self._limits.memory >> 20} MB"
                " for these messages and was stopped"
            )
        return answer


def _ask(process: subprocess.Popen[bytes], request: bytes, longest: int) -> object | None:
    """The process's answer, or None where it died or answered nonsense."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        process.stdin.write(request + b"\n")
        process.stdin.flush()
        line = process.stdout.readline(longest)
        return json.loads(line) if line.endswith(b"\n") else None
    except (OSError, ValueError):
        return None


def _text_of(answer: object) -> str:
    match answer:
        case {"text": str(text)}:
            return text
        case {"refused": str(reason)}:
            raise TemplateError(f"the model's chat template refuses these messages: {_one_line(reason)}")
        case {"broken": str(reason)}:
            raise TemplateError(f"the model's chat template fails on these messages: {_one_line(reason)}")
        case _:
            raise TemplateError("the model's chat template gave no text")


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:_LONGEST_MESSAGE]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not written yet cannot be flushed to a dead process
                continue
    process.wait()
