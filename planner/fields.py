"""Strict reading of described data: a typo is named, with the place and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from potluck.planner.place import Place


class FieldError(ValueError):
    """A described fleet or plan is wrong; one line that names the place, the field and the remedy."""


def table(value: object, where: Place | str) -> Mapping[str, object]:
    """A mapping whose keys are text.

    Raises:
        FieldError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise FieldError(f"{where} must be a table of fields, not {kind_of(value)}")
    for key in value:
        if not isinstance(key, str):
            place = _place(where).at(value, key)
            raise FieldError(f"{place}: the name {shown(key)} is {kind_of(key)}; put it in quotes to make it text")
    return value


def fields(
    value: object, where: Place | str, known: Iterable[str], required: Iterable[str] = ()
) -> Mapping[str, object]:
    """A table with only known fields and all required ones.

    Raises:
        FieldError: an unknown field (with what was probably meant), or a missing one.
    """
    data, names = table(value, where), list(known)
    for key in data:
        if key not in names:
            raise FieldError(f"{_place(where).at(data, key)}: unknown field {shown(key)}{suggestion(key, names)}")
    for key in required:
        if key not in data:
            raise FieldError(f"{where}: field {key!r} is missing")
    return data


def items(value: object, where: Place | str) -> list[object]:
    """A list with at least one entry.

    Raises:
        FieldError: it is empty or something else.
    """
    if not isinstance(value, list | tuple):
        raise FieldError(f"{where} must be a list, not {kind_of(value)}")
    if not value:
        raise FieldError(f"{where} is empty")
    return list(value)


def text(value: object, where: Place | str) -> str:
    """Text that is not empty.

    Raises:
        FieldError: it is empty or something else.
    """
    if not isinstance(value, str) or not value:
        raise FieldError(f"{where} must be text, not {kind_of(value)}")
    return value


def whole(value: object, where: Place | str, least: int = 0) -> int:
    """A whole number of at least `least`.

    Raises:
        FieldError: it is smaller or something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FieldError(f"{where} must be a whole number of at least {least}, not {shown(value)}")
    return value


def flag(value: object, where: Place | str) -> bool:
    """True or false.

    Raises:
        FieldError: it is something else.
    """
    if not isinstance(value, bool):
        raise FieldError(f"{where} must be true or false, not {shown(value)}")
    return value


def one_of(value: object, where: Place | str, known: Iterable[str]) -> str:
    """A word from a list.

    Raises:
        FieldError: it is another one; the message says which was probably meant.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        word = value if isinstance(value, str) else ""
        raise FieldError(f"{where}: {shown(value)} is not known{suggestion(word, names)}")
    return value


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'flops'?`, or the list of what there is."""
    names = list(known)
    close = get_close_matches(word.lower(), names, n=1) or get_close_matches(word, names, n=1)
    return f"; did you mean {str(close[0])!r}?" if close else f"; there is: {', '.join(names)}"


def shown(value: object, longest: int = 60) -> str:
    """A value quoted for a one-line message."""
    # Python refuses to print integers of more than 4300 digits.
    quoted = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge number"
    return quoted if len(quoted) <= longest else f"{quoted[:longest]}..."


def kind_of(value: object) -> str:
    """What a value is, in words a reader of YAML knows."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {shown(value)}"
        case str():
            return f"the text {shown(value)}"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return type(value).__name__


def _place(where: Place | str) -> Place:
    return where if isinstance(where, Place) else Place(where)
