"""Tables in a terminal 80 columns wide: lines end between words, names and figures are whole."""

import io
from dataclasses import replace

import pytest
from rich.console import Console, Group

from potluck.coordinator.accuracy import Accuracy, LoneRequest
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric
from potluck.coordinator.in_force import InForce
from potluck.coordinator.metrics import Metrics
from potluck.coordinator.report import deployment_report
from potluck.coordinator.review import Review
from potluck.coordinator.workers import Workers
from potluck.deploy.answer import answer_of
from potluck.deploy.catalogue_tables import kinds_table, machines_table, sources_table
from potluck.deploy.columns import add_words, titled
from potluck.deploy.explanation import explained
from potluck.deploy.fleet_files import read_catalogue, read_fleet
from potluck.deploy.node_tables import node_tables
from potluck.deploy.status_page import status_page
from potluck.deploy.tables import links_table
from potluck.models.costs import FormatSpeed
from potluck.models.encodings import PACKED
from potluck.models.shipped import shipped_spec
from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.plan_file import plan_from_data
from potluck.planner.predict import predict
from potluck.planner.solve import solve
from potluck.planner.what_if import Changes, changed

MODEL = "Qwen/Qwen3-0.6B"
SPEC = shipped_spec(MODEL)
GOAL = Goal("bfloat16", kv_tokens=1 << 15, spread="all", solver="proportional")
ADDED = ("laptop-ryzen-7840u-32gb", "laptop-ultra7-155h-32gb", "rtx3060-12gb")


def fleets():
    """Small and large ones, the last with the catalogue's longest names and every figure that can be measured."""
    large = changed(read_fleet("household"), Changes(add=ADDED), read_catalogue())
    measured = {name: FormatSpeed(1.2345e12, 1.2345e11) for name in (*PACKED, "attention")}
    nodes = tuple(
        replace(
            node,
            cores=16,
            swap=8 << 30,
            swap_free=7 << 30,
            disk_random=6.09e8,
            devices=(replace(node.device, formats=measured, layer_overhead=1.61e-4, memory_total=123 << 30),),
        )
        for node in large.nodes
    )
    links = {
        (a.name, b.name): Link(0.0123, 1.25e8, Link(0.1234, 1.1e7)) for a in nodes for b in nodes if a.name != b.name
    }
    return [read_fleet("trio"), read_fleet("household"), replace(large, nodes=nodes, links=links)]


FLEETS = fleets()


def grouped(fleet):
    """A plan by hand, with a group of all nodes that streams."""
    names = [node.name for node in fleet.nodes]
    return plan_from_data(
        {
            "model": MODEL,
            "dtype": "bfloat16",
            "kv_tokens": 4096,
            "stages": [
                {"node": names[0], "parts": ["embedding", "layers 0-3"]},
                {"parts": "layers 4-27", "nodes": names[:3], "split": [5, 2, 1], "residency": "streamed", "window": 2},
                {"parts": "head", "nodes": names[:2], "split": [1, 1]},
            ],
        },
        SPEC,
    )


def plans(fleet):
    return [
        solve(fleet, SPEC, GOAL),
        solve(fleet, SPEC, replace(GOAL, solver="exact", aim="throughput", spread="best", kv_tokens=2048)),
        grouped(fleet),
    ]


def status(plan, fleet):
    """What a server would answer whose requests took twice as long as predicted."""
    force = InForce(replace(plan, prediction=predict(plan, fleet, SPEC, GOAL)), fleet, SPEC, GOAL)
    engine, workers = ServingEngine("tiny", 512, Metrics()), Workers(LocalFabric([]), "tcp")
    review = Review(engine, workers, 5)
    review.begin(force)
    expected = force.predictor()(100, 110)
    stages = {
        (number, stage.nodes[0]): 2 * one.total
        for number, (stage, one) in enumerate(zip(plan.routes[0].stages, expected.decode.stages, strict=False))
    }
    lone = LoneRequest(100, 20, 2 * expected.time_to_first_token, 2 * expected.time_per_token, stages)
    review.comparison = Accuracy(force.predictor(), requests=[lone] * 5).comparison()
    report = deployment_report(12, force, review, engine)
    for node in report["nodes"]:
        node |= {"compute": 1.0, "wait": 0.345, "transfer": 0.01, "stall_seconds": 1234.5, "resident_bytes": 10**10}
    queue = {"model": MODEL, "ready": True, "reason": "", "running": 12, "waiting": 345, "kv_used": 0.5}
    return report | queue | {"tokens_per_second": 123.4, "lost": {"attic": "its worker ended (exit code -9)"}}


def rendered(shown, width):
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def broken(shown_at):
    """Words that are there at 80 columns or where there is all the room in the world, but not at both."""
    narrow, wide = rendered(shown_at(80), 80), rendered(shown_at(1000), 1000)
    assert max(map(len, narrow.splitlines())) <= 80
    return {word for word in set(narrow.split()) ^ set(wide.split()) if word.strip("─")}


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
def test_plans(fleet):
    for plan in plans(fleet):
        answer = answer_of(plan, fleet, SPEC, GOAL, "a configuration")
        assert broken(lambda _, answer=answer: explained(answer)) == set()


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
def test_nodes(fleet):
    assert broken(lambda width: Group(*node_tables(fleet, width), links_table(fleet))) == set()


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
def test_status(fleet):
    for plan in plans(fleet):
        told = status(plan, fleet)
        held = {name for stage in told["stages"] for share in stage.get("shares", [stage]) for name in [share["node"]]}
        assert held == set(plan.nodes)
        assert broken(lambda _, told=told: status_page(told)) == set()


def test_the_catalogue():
    catalogue = read_catalogue()
    machines, kinds = list(catalogue.machines.values()), list(catalogue.links.values())
    shown = Group(machines_table(machines), kinds_table(kinds), sources_table(machines, kinds))
    assert broken(lambda _: shown) == set()


def test_a_word_that_is_broken_is_found():
    table = titled("")
    add_words(table, "heading", "others")
    table.add_row("x" * 60, "y" * 60)
    assert broken(lambda _: table) >= {"x" * 60, "y" * 60}
