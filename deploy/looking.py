"""Commands that only look: `plan`, `nodes` and `models`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from rich import box
from rich.console import Group
from rich.table import Table

from potluck.coordinator.calls import Callers, fleet_of
from potluck.deploy.console import ERR, OUT, show
from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.machine import native_dtype
from potluck.deploy.plan_data import plan_report
from potluck.deploy.prepare import Where, Wish, check_wish, fabric_of, goal_of, read_plan, wished_spec
from potluck.deploy.tables import bytes_text, links_table, nodes_table, plan_table
from potluck.models.open import read_spec
from potluck.models.source import ModelPath, known_models
from potluck.planner.fleet import Fleet, NodeName
from potluck.planner.fleet_file import fleet_to_data
from potluck.planner.plan_file import plan_to_data
from potluck.planner.predict import predict
from potluck.planner.solve import solve
from potluck.planner.validate import validate
from potluck.worker.shard_cache import CachedShards, cached_shards, remove


@dataclass(frozen=True, slots=True)
class Output:
    """A plan to check instead of solving, where to write the plan, and in which form to show it."""

    plan: Path | None
    save: Path | None
    as_json: bool


def show_plan(found: ModelPath, where: Where, wish: Wish, output: Output) -> None:
    """Solve (or check a plan made by hand) and show who would hold what.

    Raises:
        DoesNotFit, PlanError, FleetFileError, OSError: one line each.
    """
    spec = wished_spec(read_spec(found.path), wish)
    given = read_plan(output.plan, spec) if output.plan else None
    check_wish(spec, wish, given)
    goal = goal_of(spec, found.name, wish)
    fleet = read_fleet(where.fleet) if where.fleet else measured_fleet(where, goal.dtype)
    plan = given or solve(fleet, spec, goal)
    validate(plan, fleet, spec)
    if plan.prediction is None:
        plan = replace(plan, prediction=predict(plan, fleet, spec, goal))
    show(plan_table(plan, fleet), plan_report(plan, fleet), output.as_json)
    if output.save:
        output.save.write_text(yaml.safe_dump(plan_to_data(plan), sort_keys=False, width=120), "utf-8")


def show_nodes(where: Where, as_json: bool) -> None:
    """Show a described fleet, or measure one."""
    fleet = read_fleet(where.fleet) if where.fleet else measured_fleet(where, native_dtype())
    tables = [nodes_table(fleet), *([links_table(fleet)] if len(fleet.nodes) > 1 else [])]
    show(Group(*tables), fleet_to_data(fleet), as_json)


def measured_fleet(where: Where, dtype: str) -> Fleet:
    """Start a worker on every node, let it measure, and stop it again.

    Raises:
        FabricError, CallError: one line each.
    """
    fabric, token = fabric_of(where, None), secrets.token_hex(32)
    try:
        with ERR.status("starting a worker on every node"):
            callers = Callers(fabric.start(token), token)
        try:
            with ERR.status("measuring nodes and links"):
                replies = callers.probe(dtype)
        finally:
            callers.close()
    finally:
        fabric.stop()
    return fleet_of(replies, NodeName(next(iter(replies))))


def clean_models(cache: Path, which: str) -> None:
    """Delete the shard files of a model, or of `all`; they are built again when they are needed.

    Raises:
        ValueError: there are none of such a model.
    """
    shards = cached_shards(cache)
    chosen = [one for one in shards if which in ("all", one.model)]
    if shards and not chosen:
        names = ", ".join(sorted({one.model for one in shards}))
        raise ValueError(f"no shard files of {which!r} are here; there are some of {names}; or say all")
    freed = sum(remove(one) for one in chosen)
    OUT.print(f"{sum(len(one.files) for one in chosen)} shard files deleted, {bytes_text(freed)} freed")


def show_models(cache: Path, as_json: bool) -> None:
    """Show what can be served right now, and which shard files there are."""
    shards = cached_shards(cache)
    known = known_models(cache)
    table = Table(box=box.SIMPLE_HEAD, title="models", title_justify="left", title_style="bold")
    for heading in ("name", "size", "installed", "where it comes from"):
        table.add_column(heading, overflow="fold")
    for model in known:
        size = bytes_text(model.nbytes) if model.nbytes else ""
        table.add_row(model.name, size, "yes" if model.installed else "no", model.origin)
    data = [
        {
            "name": model.name,
            "installed": model.installed,
            "bytes": model.nbytes,
            "path": str(model.path) if model.path else None,
            "origin": model.origin,
        }
        for model in known
    ]
    built = [
        {"model": one.model, "files": len(one.files), "bytes": one.nbytes, "path": str(one.folder)} for one in shards
    ]
    tables = Group(table, *([_shards_table(shards)] if shards else []))
    show(tables, {"models": data, "shards": built}, as_json)
    if not as_json:
        OUT.print("Also: any GGUF file, model folder, or org/name on the Hugging Face hub.", style="dim")


def _shards_table(shards: Sequence[CachedShards]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="shard files", title_justify="left", title_style="bold")
    for heading in ("model", "files", "size", "where"):
        table.add_column(heading, overflow="fold")
    for one in shards:
        table.add_row(one.model, str(len(one.files)), bytes_text(one.nbytes), str(one.folder))
    table.caption, table.caption_justify = "cluster models --clean MODEL (or all) deletes them", "left"
    return table
