"""The command `plan`: what a model would do on a fleet that is there, described, or only thought of."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from potluck.deploy.answer import Answer, answer_of
from potluck.deploy.console import show
from potluck.deploy.explanation import explained
from potluck.deploy.fleet_files import read_catalogue, read_fleet
from potluck.deploy.given_plan import check_wish, read_plan
from potluck.deploy.measured import measured_fleet
from potluck.deploy.page import page
from potluck.deploy.plan_data import answer_report
from potluck.deploy.prepare import Where
from potluck.deploy.remedies import solved
from potluck.deploy.wish import Wish, goal_of, shares_of, wished_spec
from potluck.models.described import Described
from potluck.planner.fleet import Fleet
from potluck.planner.plan_file import plan_to_data
from potluck.planner.validate import validate
from potluck.planner.what_if import Changes, changed


@dataclass(frozen=True, slots=True)
class Output:
    """A plan to check instead of solving, where to write the plan and the page that draws it, and how to show it."""

    plan: Path | None
    save: Path | None
    html: Path | None
    as_json: bool


def show_plan(model: Described, where: Where, wish: Wish, changes: Changes, output: Output) -> None:
    """Solve (or check a plan made by hand) and show who would hold what, why, and how fast it would be.

    Raises:
        DoesNotFit, PlanError, FleetFileError, FieldError, OSError: one line each.
    """
    _check_file("--save", output.save)
    _check_file("--html", output.html)
    answer = _answer(model, where, wish, changes, output)
    show(explained(answer), answer_report(answer), output.as_json)
    if output.save:
        output.save.write_text(yaml.safe_dump(plan_to_data(answer.plan), sort_keys=False, width=120), "utf-8")
    if output.html:
        output.html.write_text(page(answer), "utf-8")


def _check_file(option: str, path: Path | None) -> None:
    """Before anything is worked out that could not be written.

    Raises:
        ValueError: there is no such folder, it is not to be written to, or the path is one.
    """
    if path is None:
        return
    folder = path.expanduser().parent
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a folder; name a file in it")
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {folder}; make it, or name another file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{option} {path}: it may not be written; name another file")


def _answer(model: Described, where: Where, wish: Wish, changes: Changes, output: Output) -> Answer:
    spec = wished_spec(replace(model.spec, name=model.name), wish)
    given = read_plan(output.plan, spec, model.name, where.cache) if output.plan else None
    check_wish(spec, wish, given.plan if given else None)
    goal = goal_of(spec, model.name, wish)
    fleet = changed(_fleet(where, goal.dtype), changes, read_catalogue())
    _check_removed(fleet, wish, changes)
    plan = given.plan if given else solved(fleet, spec, goal)
    if given:
        given.check(spec, fleet)
    else:
        validate(plan, fleet, spec)
    return answer_of(plan, fleet, spec, goal, model.origin)


def _check_removed(fleet: Fleet, wish: Wish, changes: Changes) -> None:
    """Say of a node that is no more why it is not, before the planner asks whether another was meant."""
    named = {"--with": wish.pinned, "--without": wish.without, "--share": tuple(shares_of(wish.share))}
    left = {node.name for node in fleet.nodes}
    for option, nodes in named.items():
        for gone in (node for node in nodes if node in changes.remove and node not in left):
            raise ValueError(f"--remove {gone} takes away the node that {option} {gone} is about; leave one out")


def _fleet(where: Where, dtype: str) -> Fleet:
    return read_fleet(where.fleet) if where.fleet else measured_fleet(where, dtype).fleet
