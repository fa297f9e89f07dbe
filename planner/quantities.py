"""Quantities of a described fleet, with the place in the message where they cannot be read."""

from __future__ import annotations

from potluck.planner.fields import FieldError, shown
from potluck.planner.place import Place
from potluck.planner.units import BYTES, Quantity, UnitError, parse, parse_bytes


def quantity(value: object, where: Place | str, kind: Quantity) -> float:
    """A quantity in base units.

    Raises:
        FieldError: it is none of this kind.
    """
    try:
        return parse(value, kind)
    except UnitError as error:
        raise FieldError(f"{where}: {error}") from error


def positive(value: object, where: Place | str, kind: Quantity) -> float:
    """A quantity above zero, in base units.

    Raises:
        FieldError: it is none of this kind, or zero.
    """
    number = quantity(value, where, kind)
    if number <= 0:
        raise FieldError(f"{where}: must be more than zero; write for example {kind.example}")
    return number


def number(value: object, where: Place | str) -> float:
    """A number of at least zero.

    Raises:
        FieldError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise FieldError(f"{where} must be a number of at least 0, not {shown(value)}")
    return value


def memory(value: object, where: Place | str) -> int:
    """A whole number of bytes above zero.

    Raises:
        FieldError: it is none.
    """
    positive(value, where, BYTES)
    return amount(value, where)


def amount(value: object, where: Place | str) -> int:
    """A whole number of bytes.

    Raises:
        FieldError: it is none.
    """
    try:
        return parse_bytes(value)
    except UnitError as error:
        raise FieldError(f"{where}: {error}") from error
