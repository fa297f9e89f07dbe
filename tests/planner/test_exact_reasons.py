"""Why a node holds what it holds: figures of one and the same number of requests."""

import re
from dataclasses import replace

import pytest

from potluck.planner.fleet import Link
from potluck.planner.goal import Goal
from potluck.planner.memory import NODE_OVERHEAD
from potluck.planner.solve import solve

_OF = re.compile(r": ([0-9.]+) (m?s) of ([0-9.]+) (m?s) per token")
HALF = NODE_OVERHEAD + (480 << 20)


def told(plan):
    """Node -> (seconds at it, seconds of a token)."""
    found = {node: _OF.search(why) for node, why in plan.reasons.items()}
    return {node: (_seconds(*one.groups()[:2]), _seconds(*one.groups()[2:])) for node, one in found.items() if one}


def _seconds(number, unit):
    return float(number) * (1e-3 if unit == "ms" else 1.0)


@pytest.mark.parametrize("batch", [1, 2, 8, 64])
def test_what_the_nodes_do_and_what_is_told_beside_it_is_all_that_a_token_takes(homes, smollm2, batch):
    fleet = homes.fleet(homes.node("a", 60, HALF), homes.node("b", 30, HALF), homes.node("slow", 0.1))
    plan = solve(fleet, smollm2, Goal(batch=batch))
    busy, total = told(plan), plan.prediction.decode.total
    assert set(busy) == set(plan.nodes) and len(busy) > 1
    assert [token for _, token in busy.values()] == [pytest.approx(plan.prediction.time_per_token, rel=0.01)] * len(
        busy
    )
    others = total.wait - sum(stage.wait for stage in plan.prediction.decode.stages)
    rest = total.transfer + total.software + others
    assert sum(at for at, _ in busy.values()) == pytest.approx(total.total - rest, rel=0.02)


def test_a_node_alone_is_at_a_token_of_many_requests_all_the_time(homes, smollm2):
    for batch in (1, 16):
        plan = solve(homes.fleet(homes.node("a", 60)), smollm2, Goal(batch=batch))
        ((at, token),) = told(plan).values()
        assert at > 0.9 * token


def test_what_is_compared_of_those_left_out_is_said_to_be_one_requests(homes, smollm2):
    fleet = replace(homes.fleet(homes.node("a", 60), homes.node("slow", 0.1)), default_link=Link(0.01, 1e8))
    alone, many = (solve(fleet, smollm2, Goal(batch=batch)).reasons["slow"] for batch in (1, 8))
    assert alone.startswith("left out: a layer takes ")
    assert many == alone.replace("left out: ", "left out: for one request, ")


def test_of_a_group_its_sums_count_as_its_work(homes, smollm2):
    fleet = homes.fleet(*(homes.node(name, 10, bandwidth=2e9) for name in "ab"), latency=2e-5, bandwidth=1.25e9)
    plan = solve(fleet, smollm2, Goal(batch=4))
    assert plan.proof.strategy == "group"
    busy = told(plan)
    assert set(busy) == {"a", "b"} and busy["a"] == busy["b"]
    assert busy["a"][0] == pytest.approx(plan.prediction.decode.total.working, rel=0.01)
