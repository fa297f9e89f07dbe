"""Finding stop strings in text that arrives in pieces, without ever letting a part of one out."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.coordinator.api.errors import ApiError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


class StopBuffer:
    """Lets text through up to the first stop string, holding back what may yet become one.

    The first stop string is the one that ends first, and of those the longest; so the result does not depend on how
    the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Take the next piece and return the text that is now certain. Nothing after a stop string."""
        if self.found:
            return ""
        text = self._held + piece
        start = first_stop(text, self._stops)
        self.found = start is not None
        cut = len(text) - _may_become(text, self._stops) if start is None else start
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """The text still held back: no more is coming."""
        held, self._held = self._held, ""
        return "" if self.found else held


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins in a text, None where there is none."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _may_become(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of the text that is the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


def parse_stops(value: object) -> tuple[str, ...]:
    """The stop strings of a request: null, a string or a list of strings.

    Raises:
        ApiError: 400 for other types, empty strings, and more or longer ones than are served.
    """
    stops = [] if value is None else value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS:
        raise ApiError(f"'stop': at most {MAX_STOPS} strings, not {len(stops)}", param="stop")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            problem = f"'stop' must be strings of 1 to {MAX_STOP_CHARACTERS} characters"
            raise ApiError(problem, param="stop", code="invalid_value")
    return tuple(stops)
