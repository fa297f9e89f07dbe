"""Typed reading of configuration that others wrote: every complaint names the file and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping

from potluck.models.checkpoint import CheckpointError

_MOST = 1 << 31


class Fields:
    """A mapping read field by field. A field that is null counts as absent."""

    def __init__(self, data: Mapping[str, object], source: str) -> None:
        self.data = data
        self.source = source

    def fail(self, key: str, wanted: str) -> CheckpointError:
        """The error for a field that is absent or not what it has to be."""
        value = self.data.get(key)
        found = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return CheckpointError(f"{self.source}: the field {key!r} {found}, it has to be {wanted}; download it again")

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.data.get(key) is not None

    def integer(self, key: str, default: int | None = None, most: int = _MOST) -> int:
        """A whole number from 1 to `most`."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.fail(key, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.fail(key, "a number above zero")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.fail(key, "a text")
        return value

    def inner(self, key: str) -> Fields:
        """An object in the object; empty when absent."""
        value = self.data.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Fields(value, f"{self.source}, {key}")

    def texts(self, key: str, count: int) -> list[str]:
        """A list of exactly `count` texts."""
        value = self.data.get(key)
        if not isinstance(value, list) or len(value) != count or not all(isinstance(item, str) for item in value):
            raise self.fail(key, f"a list of {count} texts")
        return value
