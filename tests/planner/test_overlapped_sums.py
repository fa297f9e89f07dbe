"""Sums of many rows in pieces, under the products that they are parts of: predicted, simulated, and as measured."""

import pytest

from potluck.models.costs import Pass
from potluck.planner import agreement
from potluck.planner.all_reduce import Algorithm, AllReduce
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal
from potluck.planner.group_sums import Setting
from potluck.planner.plan import Plan, Route, Share, Stage
from potluck.planner.predict import predict
from potluck.planner.simulator.load import together
from potluck.planner.simulator.simulate import simulate
from potluck.planner.splitting import split_shares
from potluck.planner.stage_seconds import stage_cost
from potluck.worker.overlap import FEWEST_ROWS

GOAL = Goal(dtype="bfloat16", prompt=512, chunk=512)


@pytest.fixture
def llama(homes):
    """Llama 3.2 1B."""
    return homes.model(16, vocab=128256, hidden=2048, ffn=8192, heads=32, kv_heads=8, head_dim=64, tied_head=True)


def of_two(spec, pieces, bandwidth=125e6):
    """A plan of two members that compute what one core of bench/results/tensor_parallel.md does, and its fleet."""
    nodes = tuple(Node(name, (Device("cpu", 375e9, 12e9, 2**34),)) for name in "ab")
    parts = tuple(spec.parts())
    shares = split_shares(spec, parts, [Share("a"), Share("b")], [1, 1])
    stage = Stage(parts, shares, all_reduce=AllReduce(pieces=pieces))
    return Plan("1b", "bfloat16", (Route((stage,)),), 2048), Fleet(nodes, "a", Link(0.0005, bandwidth), {}, "two")


def prompts(spec, *args):
    """Tokens of a prompt per second."""
    plan, fleet = of_two(spec, *args)
    return 512 / predict(plan, fleet, spec, GOAL).time_to_first_token


def test_prompts_are_as_fast_as_measured(llama):
    """bench/results/tensor_parallel.md: 244.5 tokens/s whole over 1 Gbit/s, 263.8 in pieces."""
    assert prompts(llama, 1) == pytest.approx(244.5, rel=0.05)
    assert prompts(llama, None) == pytest.approx(263.8, rel=0.08)


def test_pieces_are_chosen_where_links_are_slow_as_workers_are_told(llama):
    for bandwidth in (1e7, 125e6, 0.99e9, 1e9, 1e10):
        plan, fleet = of_two(llama, None, bandwidth)
        told = agreement.agreements(plan, fleet)[0].pieces
        cost = stage_cost(plan.routes[0].stages[0], Setting(fleet, llama, plan.dtype, GOAL.software))
        first = cost.algorithm(cost.piece_bytes(Pass(512, 1, 256)))
        assert cost.pieces(Pass(512, 1, 256)) == (told if first is Algorithm.DIRECT else 1)
        assert told == (1 if bandwidth >= 1e9 else 4)


def test_few_rows_travel_whole(llama):
    plan, fleet = of_two(llama, 4)
    cost = stage_cost(plan.routes[0].stages[0], Setting(fleet, llama, plan.dtype, GOAL.software))
    assert agreement.FEWEST_ROWS == FEWEST_ROWS
    assert [cost.pieces(Pass(rows, 1, 9)) for rows in (1, 4 * FEWEST_ROWS - 1, 4 * FEWEST_ROWS)] == [1, 1, 4]
    whole, _ = of_two(llama, 1)
    alone = [predict(plan, fleet, llama, GOAL).time_per_token for plan in (plan, whole)]
    assert alone[0] == alone[1]


@pytest.mark.parametrize("pieces", [1, 2, 4, 7])
@pytest.mark.parametrize("bandwidth", [2e7, 125e6, 8e8])
def test_the_simulator_finds_what_is_predicted(llama, pieces, bandwidth):
    plan, fleet = of_two(llama, pieces, bandwidth)
    found = simulate(plan, fleet, llama, GOAL, together(1, 512, 2))
    predicted = predict(plan, fleet, llama, GOAL).time_to_first_token
    assert found.requests[0].time_to_first_token == pytest.approx(predicted, rel=1e-9)


def test_what_travels_under_products_is_not_waited_for(llama):
    """Where a piece takes less than its product, only the last one is; where links are slow, only the first product is
    saved."""
    fast, slow = ([prompts(llama, pieces, bandwidth) for pieces in (1, 4)] for bandwidth in (8e8, 1e7))
    assert fast[1] > fast[0] and slow[1] > slow[0]
    plan, fleet = of_two(llama, 4, 8e8)
    cost = stage_cost(plan.routes[0].stages[0], Setting(fleet, llama, plan.dtype, GOAL.software))
    work, members = Pass(512, 1, 256), cost.parts[1]
    piece = 0.0005 + cost.piece_bytes(work) / 8e8
    assert cost.sum_seconds(plan.routes[0].stages[0].parts[1].kind, members, work) == pytest.approx(piece)
