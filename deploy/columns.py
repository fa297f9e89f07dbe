"""How the command's tables look, so that a terminal 80 columns wide breaks lines between words and never in one."""

from __future__ import annotations

from collections.abc import Collection

from rich import box
from rich.table import Table

# As long as the longest of the catalogue. Longer names give way where there is no room.
_WHOLE_NAME = 24


def titled(title: str, caption: str = "") -> Table:
    """An empty table below its title."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", collapse_padding=True)
    table.caption, table.caption_justify = caption or None, "left"
    return table


def add_names(table: Table, heading: str, names: Collection[str]) -> None:
    """A column of names, each on a line of its own."""
    table.add_column(heading, overflow="fold", no_wrap=max(map(len, names), default=0) <= _WHOLE_NAME)


def add_words(table: Table, *headings: str) -> None:
    """Columns of words, which take the room that is left."""
    for heading in headings:
        table.add_column(heading, overflow="fold")


def add_figures(table: Table, *headings: str) -> None:
    """Columns of figures, one below the other; none is ever cut, nor parted from its unit."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
