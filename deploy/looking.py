"""Commands that only look: `nodes`, `profile`, `models` and `catalogue`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table

from potluck.deploy.catalogue_tables import catalogue_report, kinds_table, machines_table, sources_table
from potluck.deploy.columns import add_figures, add_names, add_words, titled
from potluck.deploy.console import OUT, show
from potluck.deploy.fleet_files import read_catalogue, read_fleet
from potluck.deploy.measured import measured_fleet
from potluck.deploy.node_tables import node_tables
from potluck.deploy.prepare import Where
from potluck.deploy.tables import bytes_text, links_table
from potluck.models.shipped import shipped_models
from potluck.models.source import known_models
from potluck.planner.fleet_file import fleet_to_data
from potluck.worker.hardware import native_dtype
from potluck.worker.shard_cache import CachedShards, cached_shards, remove


def show_nodes(where: Where, as_json: bool, anew: bool = False) -> None:
    """Show a described fleet, or a measured one.

    Raises:
        FleetFileError, FabricError, CallError: one line each.
    """
    if where.fleet:
        fleet, note = read_fleet(where.fleet), ""
    else:
        measured = measured_fleet(where, native_dtype(), anew)
        fleet, note = measured.fleet, _when(measured.age)
    tables = [*node_tables(fleet, OUT.width, note), *([links_table(fleet)] if len(fleet.nodes) > 1 else [])]
    show(Group(*tables), fleet_to_data(fleet), as_json)


def _when(age: float) -> str:
    if age < 1:
        return "; measured now"
    hours = age / 3600
    ago = f"{age / 60:.0f} minutes" if hours < 2 else f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
    return f"; measured {ago} ago, `cluster profile` measures anew"


def show_catalogue(word: str, as_json: bool) -> None:
    """Show the machines of the catalogue whose names have this in them, and all kinds of links.

    Raises:
        ValueError: no name has.
    """
    catalogue = read_catalogue()
    chosen = [machine for name, machine in catalogue.machines.items() if word.lower() in name]
    if not chosen:
        raise ValueError(f"no machine of the catalogue has {word!r} in its name; `cluster catalogue` lists them all")
    kinds = list(catalogue.links.values())
    tables = Group(machines_table(chosen), kinds_table(kinds), sources_table(chosen, kinds))
    show(tables, catalogue_report(chosen, kinds), as_json)


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
    table = titled("models")
    add_names(table, "name", [model.name for model in known])
    add_figures(table, "size")
    add_words(table, "installed", "where it comes from")
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
    show(tables, {"models": data, "shards": built, "planned": shipped_models()}, as_json)
    if not as_json:
        OUT.print("Also: any GGUF file, model folder, or org/name on the Hugging Face hub.", style="dim")
        OUT.print(f"`cluster plan` knows without a download: {', '.join(shipped_models())}.", style="dim")


def _shards_table(shards: Sequence[CachedShards]) -> Table:
    table = titled("shard files", "cluster models --clean MODEL (or all) deletes them")
    add_names(table, "model", [one.model for one in shards])
    add_figures(table, "files", "size")
    add_words(table, "where")
    for one in shards:
        table.add_row(one.model, str(len(one.files)), bytes_text(one.nbytes), str(one.folder))
    return table
