"""Whether a token meets every part of a model exactly once and in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from potluck.models.spec import ModelSpec, Part
from potluck.planner.part_names import part_names
from potluck.planner.plan import Route
from potluck.planner.plan_error import PlanError, Spot, wrong

_Met = Sequence[tuple[Spot, Part]]


def check_coverage(route: Route, spec: ModelSpec, spot: Spot) -> None:
    """Every part exactly once and in order.

    Raises:
        PlanError: one is strange, missing, there twice, or comes too early.
    """
    stages = [(replace(spot, stage=number, key="parts"), stage.parts) for number, stage in enumerate(route.stages, 1)]
    for at, parts in stages:
        if not parts:
            raise PlanError(f"{at} has no parts; name some, or leave the stage out", at)
    met, wanted = [(at, part) for at, parts in stages for part in parts], list(spec.parts())
    if [part for _, part in met] != wanted:
        _check_known(met, wanted, spec)
        _check_all_there(met, wanted)
        _check_once(met, wanted)
        _check_order(met, wanted)


def _check_known(met: _Met, wanted: Sequence[Part], spec: ModelSpec) -> None:
    strange = [(at, part) for at, part in met if part not in wanted]
    if strange:
        name, last = part_names([part for _, part in strange])[0], len(spec.layers) - 1
        raise wrong(strange[0][0], f"model {spec.name!r} has no {name}; it has layers 0-{last}")


def _check_all_there(met: _Met, wanted: Sequence[Part]) -> None:
    there = {part: at for at, part in reversed(met)}
    first = next((number for number, part in enumerate(wanted) if part not in there), None)
    if first is None:
        return
    names = part_names(list(takewhile(lambda part: part not in there, wanted[first:])))
    at, beside = (there[wanted[first - 1]], "after") if first else (met[0][0], "before")
    remedy = f"add {', '.join(map(repr, names))} to the parts here, or a stage with {_them(names)} {beside} this one"
    raise wrong(at, f"{_are(names)} in no stage; {remedy}")


def _check_once(met: _Met, wanted: Sequence[Part]) -> None:
    spots = {part: tuple(at for at, other in met if other == part) for part in wanted}
    again = next((part for part in wanted if len(spots[part]) > 1), None)
    if again is None:
        return
    first, second = spots[again][:2]
    names = part_names(list(takewhile(lambda part: spots[part] == spots[again], wanted[wanted.index(again) :])))
    if first == second:
        raise wrong(second, f"{_are(names)} in it twice; name {_them(names)} once")
    raise wrong(second, f"{_are(names)} in stages {first.stage} and {second.stage}; leave {_them(names)} in one")


def _check_order(met: _Met, wanted: Sequence[Part]) -> None:
    for number, ((at, part), due) in enumerate(zip(met, wanted, strict=True)):
        if part != due:
            here = part_names([other for spot, other in met[number:] if spot == at])[0]
            comes = "come" if _many([here]) else "comes"
            following = part_names(wanted[number : number + 2])[0]
            raise wrong(at, f"{here} {comes} where {following} is due; a token visits the parts in order")


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'are' if _many(names) else 'is'}"


def _them(names: Sequence[str]) -> str:
    return "them" if _many(names) else "it"


def _many(names: Sequence[str]) -> bool:
    return len(names) > 1 or names[0].startswith("layers")
