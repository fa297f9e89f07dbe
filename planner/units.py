"""Quantities as people write them: `8 GiB`, `0.3 ms`, `1 Gbit`, `25 GB/s`, `60 GFLOPS`; plain numbers are base units.

Decimal prefixes are powers of 1000, binary ones (KiB, MiB, ...) powers of 1024. Links are sold in bits: `1 Gbit`,
`1 Gbit/s` and `1 Gbps` are the same 125 million bytes per second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from potluck.planner.fields import shown
from potluck.planner.unit_hints import meant

_PATTERN = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)((?:[eE][+-]?[0-9]+)?)\s*([^\s0-9.+-]*)", re.ASCII)
_LONGEST = 64


class UnitError(ValueError):
    """A quantity that cannot be read; the message quotes it and shows a right one."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A kind of quantity: what it is called, its units in base units, and an example for error messages."""

    name: str
    units: Mapping[str, Fraction]
    example: str


_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _units(base: str, prefixes: Mapping[str, int], scale: Fraction | None = None) -> dict[str, Fraction]:
    return {prefix + base: (scale or Fraction(1)) * factor for prefix, factor in prefixes.items()}


_BIT = Fraction(1, 8)
BYTES = Quantity(
    "an amount of memory",
    _units("B", _BINARY) | _units("B", _DECIMAL) | {"KB": Fraction(1000)},
    "8 GiB",
)
SECONDS = Quantity(
    "a time",
    {unit: Fraction(1, 10**power) for unit, power in {"s": 0, "ms": 3, "us": 6, "µs": 6, "μs": 6, "ns": 9}.items()},
    "0.3 ms",
)
BYTES_PER_SECOND = Quantity(
    "a bandwidth",
    _units("B/s", _DECIMAL)
    | _units("B/s", _BINARY)
    | _units("bit", _DECIMAL, _BIT)
    | _units("bit/s", _DECIMAL, _BIT)
    | _units("bps", _DECIMAL, _BIT),
    "1 Gbit or 20 GB/s",
)
FLOPS = Quantity(
    "a speed",
    _units("FLOPS", _DECIMAL) | _units("FLOP/s", _DECIMAL),
    "60 GFLOPS",
)


def parse(value: object, quantity: Quantity) -> float:
    """A quantity in base units: bytes, seconds, bytes per second, floating-point operations per second.

    Args:
        value: a number in base units, or text with a unit.

    Raises:
        UnitError: not a quantity of this kind, negative, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UnitError(f"{shown(value)} is not {quantity.name}; write for example {quantity.example}")
    number = _parse_text(value, quantity) if isinstance(value, str) else _as_float(value)
    if not math.isfinite(number) or number < 0:
        raise UnitError(f"{shown(value)} is out of range for {quantity.name}; write for example {quantity.example}")
    return number


def parse_bytes(value: object) -> int:
    """A whole number of bytes.

    Raises:
        UnitError: not an amount of memory, or not whole.
    """
    number = parse(value, BYTES)
    if number != int(number):
        raise UnitError(f"{shown(value)} is not a whole number of bytes")
    return int(number)


def written(value: float, quantity: Quantity) -> str | float:
    """The shortest way to write a quantity so that `parse` gives back exactly this number."""
    if not math.isfinite(value):
        return value
    texts = (f"{value / float(factor):.6g} {unit}" for unit, factor in _largest_first(quantity) if value >= factor)
    smallest = f"{value / float(_largest_first(quantity)[-1][1]):.6g} {_largest_first(quantity)[-1][0]}"
    exact = [text for text in (*texts, smallest) if "e" not in text.split()[0] and parse(text, quantity) == value]
    return min(exact, key=len) if exact else value


def _largest_first(quantity: Quantity) -> list[tuple[str, Fraction]]:
    """Units in falling size; for units of the same size the first named."""
    distinct: dict[Fraction, str] = {}
    for unit, factor in quantity.units.items():
        distinct.setdefault(factor, unit)
    return [(distinct[factor], factor) for factor in sorted(distinct, reverse=True)]


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _parse_text(text: str, quantity: Quantity) -> float:
    match = _PATTERN.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise UnitError(f"{shown(text)} is not {quantity.name}; write for example {quantity.example}")
    mantissa, exponent, unit = match.groups()
    factor = quantity.units.get(unit, None) if unit else Fraction(1)
    if factor is None:
        raise UnitError(f"{shown(text)}: {unit!r} is not a unit of {quantity.name}{_hint(unit, quantity)}")
    return _scaled(mantissa + exponent, factor)


def _scaled(number: str, factor: Fraction) -> float:
    # An exact product rounds once: 0.3 ms is the float 0.0003, not 0.3 * 1e-3. The first conversion bounds the
    # exponent, which an exact power of ten must not be taken of unseen.
    rough = float(number)
    if rough == 0 or not math.isfinite(rough):
        return rough
    return _as_float_fraction(Fraction(number) * factor)


def _as_float_fraction(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _hint(unit: str, quantity: Quantity) -> str:
    found = meant(unit, quantity.units)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else f"; write for example {quantity.example}"
