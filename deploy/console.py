"""How the command speaks: answers on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from potluck.models.described import Described, describe
from potluck.models.source import ModelPath, locate
from potluck.models.source import Progress as OnBytes

OUT = Console()
ERR = Console(stderr=True)


def show(table: RenderableType, data: object, as_json: bool) -> None:
    """A table for people, or the same facts as JSON for programs."""
    if as_json:
        sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        OUT.print(table)


def hint(text: str) -> None:
    """The one obvious next step, on standard error so that output can be piped."""
    ERR.print(text, style="dim", highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line about what was taken otherwise than it was written."""
    ERR.print(f"[yellow]warning[/yellow]: {_escape(message)}", highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """One line that says what is wrong and what to do."""
    ERR.print(f"[bold red]error[/bold red]: {_escape(' '.join(message.split()))}", highlight=False, soft_wrap=True)


def byte_bars() -> Progress:
    """Bars that count bytes and vanish when they are stopped."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=ERR, transient=True)


def locating(model: str, cache: Path, offline: bool) -> ModelPath:
    """The model a person named, with bars while it is put together.

    Raises:
        ModelNotFound: one line with the remedy.
    """
    with _bars() as report:
        return locate(model, cache, report, offline)


def describing(model: str, cache: Path, offline: bool) -> Described:
    """The shape of the model a person named, without its weights where that is possible; bars as in `locating`.

    Raises:
        ModelNotFound: one line with the remedy.
    """
    with _bars() as report:
        return describe(model, cache, report, offline)


@contextmanager
def _bars() -> Iterator[OnBytes]:
    tasks: dict[str, TaskID] = {}
    bars = byte_bars()

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            # Started only now: most models are there already, and empty bars would leave an empty line.
            bars.start()
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
