"""Finding and reading fleet files: one of those that ship with Potluck, by name, or a path; and the catalogue."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from potluck.planner.catalogue import Catalogue, catalogue_from_data
from potluck.planner.fleet import Fleet
from potluck.planner.fleet_file import fleet_from_data
from potluck.planner.yaml_text import read_yaml


class FleetFileError(Exception):
    """The fleet file is missing or wrong; the message names file, place and remedy."""


def shipped_fleets() -> list[str]:
    """Names of the fleets that ship with Potluck."""
    folder = resources.files("potluck.deploy") / "fleets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


@cache
def read_catalogue() -> Catalogue:
    """The common machines and links that ship with Potluck."""
    return catalogue_from_data(read_yaml((resources.files("potluck.deploy") / "catalogue.yaml").read_text("utf-8")))


def read_fleet(reference: str) -> Fleet:
    """The fleet of a shipped name (`trio`), a YAML file, or one machine of the catalogue (`m4-pro-24gb`).

    Raises:
        FleetFileError: no such fleet, or its file is not a valid description.
    """
    text = _text(reference)
    try:
        return fleet_from_data(read_yaml(text), read_catalogue())
    except ValueError as error:
        raise FleetFileError(f"fleet {reference}: {error}") from error


def _text(reference: str) -> str:
    if reference in shipped_fleets():
        return (resources.files("potluck.deploy") / "fleets" / f"{reference}.yaml").read_text("utf-8")
    if reference in read_catalogue().machines:
        return f"name: {reference}\nnodes: {{{reference}: {{catalogue: {reference}}}}}\nlinks: {{default: 1g}}"
    try:
        return Path(reference).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_fleets())
        reason = getattr(error, "strerror", None) or "not a text file"
        raise FleetFileError(
            f"fleet {reference!r}: {reason}; give a YAML file, a machine of `cluster catalogue` or one of: {known}"
        ) from error
