"""Which unit was probably meant by a misspelt one. A letter's case is what people get wrong, but bits are no bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches

_SIZES = {
    "": "",
    "k": "k",
    "kilo": "k",
    "m": "M",
    "mega": "M",
    "g": "G",
    "gig": "G",
    "giga": "G",
    "t": "T",
    "tera": "T",
}
_BINARY = {"ki": "Ki", "kibi": "Ki", "mi": "Mi", "mebi": "Mi", "gi": "Gi", "gibi": "Gi", "ti": "Ti", "tebi": "Ti"}
_PARTS = {"": "", "m": "m", "milli": "m", "u": "u", "µ": "u", "μ": "u", "micro": "u", "n": "n", "nano": "n"}


def _pattern(prefixes: Collection[str], rest: str) -> re.Pattern[str]:
    listed = "|".join(sorted(prefixes, key=len, reverse=True))
    return re.compile(f"({listed})({rest})", re.IGNORECASE | re.ASCII)


_DATA = _pattern([*_BINARY, *_SIZES], r"bits?|bytes?|b|(?=/|$))((?:p|/|per)?s(?:ec)?(?:onds?|s)?|")
_WORK = _pattern(_SIZES, r"flops?(?:/?s(?:ec)?(?:onds?)?)?")
_TIME = _pattern(_PARTS, r"s|secs?|seconds?")


def meant(unit: str, known: Collection[str]) -> list[str]:
    """The units of `known` that a misspelt one may stand for, the likeliest first; none where nothing is like it.

    There are two where `b` may be bits or bytes.
    """
    found = [one for one in _spelt(unit) if one in known]
    return list(dict.fromkeys(found)) or get_close_matches(unit, known, n=1)


def _spelt(unit: str) -> Iterator[str]:
    if match := _DATA.fullmatch(unit):
        yield from _data(match[1].lower(), match[2], match[3])
    if match := _WORK.fullmatch(unit):
        yield f"{_SIZES[match[1].lower()]}FLOPS"
    if match := _TIME.fullmatch(unit):
        yield f"{_PARTS[match[1].lower()]}s"


def _data(prefix: str, base: str, per: str) -> Iterator[str]:
    size = _BINARY.get(prefix) or _SIZES[prefix]
    bits, amount = f"{size}bit/s", f"{size}B"
    # `MBPS` was written without thinking of case.
    is_byte = base.lower().startswith("byte") or (base == "B" and not per.isupper())
    if base.lower().startswith("bit"):
        yield bits
    elif is_byte:
        yield from (f"{amount}/s", amount)
    else:
        yield from (bits, f"{amount}/s", amount)
