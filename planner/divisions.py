"""Divisions of places, by their numbers, into sets: all of them, and those that are one move away."""

from __future__ import annotations

from collections.abc import Iterator

Set = tuple[int, ...]
Division = tuple[Set, ...]


def divisions(places: Set) -> Iterator[Division]:
    """Every way to divide places into sets."""
    if not places:
        yield ()
        return
    first = places[0]
    for division in divisions(places[1:]):
        yield ((first,), *division)
        for number, one in enumerate(division):
            yield (*division[:number], (first, *one), *division[number + 1 :])


def moves_of(division: Division) -> Iterator[Division]:
    """One place of a set to another, from the largest sets to the smallest first."""
    numbers = sorted(range(len(division)), key=lambda number: -len(division[number]))
    for giver in numbers:
        for place in division[giver] if len(division[giver]) > 1 else ():
            for taker in (number for number in reversed(numbers) if number != giver):
                yield _moved(division, place, taker)


def _moved(division: Division, place: int, taker: int) -> Division:
    left = (tuple(one for one in held if one != place) for held in division)
    return tuple((*held, place) if number == taker else held for number, held in enumerate(left))
