"""What `cluster nodes` says of links."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from potluck.deploy.fleet_files import read_fleet
from potluck.deploy.tables import links_table
from potluck.planner.fleet import Link


@pytest.fixture
def rows():
    """The lines of the table of a fleet's links, as words."""

    def read(fleet):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(links_table(fleet))
        return [line.split() for line in console.export_text().splitlines() if line.strip()]

    return read


def test_links_under_load_stand_beside(rows):
    fleet = read_fleet("pair")
    (first, second), slow = [node.name for node in fleet.nodes], Link(3e-3, 37.5e6, Link(0.012, 5e6))
    measured = replace(fleet, links={(first, second): slow, (second, first): replace(slow, loaded=None)})
    table = rows(measured)
    assert ["from", "->", "to", "latency", "Mbit/s", "loaded", "Mbit/s"] in table
    there, back = (
        ["->", second, "3.00", "ms", "300", "12.00", "ms", "40"],
        ["->", first, "3.00", "ms", "300", "unknown"],
    )
    assert table.index([first]) + 1 == table.index(there) < table.index([second]) == table.index(back) - 1


def test_a_described_fleet_has_no_column_for_it(rows):
    assert ["from", "->", "to", "latency", "Mbit/s"] in rows(read_fleet("pair"))
