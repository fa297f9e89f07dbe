"""Finding and reading fleet files: one of those that ship with Potluck, by name, or a path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from potluck.planner.fleet import Fleet
from potluck.planner.fleet_file import fleet_from_data
from potluck.planner.yaml_text import read_yaml


class FleetFileError(Exception):
    """The fleet file is missing or wrong; the message names file, place and remedy."""


def shipped_fleets() -> list[str]:
    """Names of the fleets that ship with Potluck."""
    folder = resources.files("potluck.deploy") / "fleets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_fleet(reference: str) -> Fleet:
    """The fleet of a shipped name (`trio`) or a YAML file.

    Raises:
        FleetFileError: no such fleet, or its file is not a valid description.
    """
    text = _text(reference)
    try:
        return fleet_from_data(read_yaml(text))
    except ValueError as error:
        raise FleetFileError(f"fleet {reference}: {error}") from error


def _text(reference: str) -> str:
    if reference in shipped_fleets():
        return (resources.files("potluck.deploy") / "fleets" / f"{reference}.yaml").read_text("utf-8")
    try:
        return Path(reference).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_fleets())
        reason = getattr(error, "strerror", None) or "not a text file"
        raise FleetFileError(f"fleet {reference!r}: {reason}; give a YAML file or one of: {known}") from error
