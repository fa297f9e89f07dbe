"""Where in a described fleet or plan something stands: its name, and the line of the file where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class Table(dict[object, object]):
    """A table as a file has it: plain data that knows the line of each of its names, counted from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[object, int] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """A place as messages begin with it: `line 4: node 'a': disk`; `line` is 0 where no file was read."""

    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"line {self.line}: {self.name}" if self.line else self.name

    def under(self, table: object, key: object, name: str) -> Place:
        """The place, called `name`, of what a table at this place has under a key; on the table's line where it has
        none of its own."""
        return Place(name, line_of(table, key) or self.line)

    def at(self, table: object, key: object) -> Place:
        """The same place, on the line of a name of the table at this place."""
        return self.under(table, key, self.name)

    def entry(self, value: object, name: str) -> Place:
        """The place, called `name`, of an entry of the list at this place."""
        return Place(name, min(value.lines.values(), default=self.line) if isinstance(value, Table) else self.line)

    def field(self, table: Mapping[str, object], key: str) -> Place:
        """The place of a field of the table at this place."""
        return self.under(table, key, f"{self.name}: {key}")


def line_of(table: object, key: object) -> int:
    """The line of a name of a table; 0 where the table was not read from a file."""
    return table.lines.get(key, 0) if isinstance(table, Table) else 0


def picked(table: Mapping[str, object], keys: Iterable[str], **others: object) -> Table:
    """Those of a table's fields that it has of these, each on its line, and others, on none."""
    some = Table()
    some.update({key: table[key] for key in keys if key in table} | others)
    some.lines.update({key: line for key in some if (line := line_of(table, key))})
    return some
