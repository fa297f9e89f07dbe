"""Several routes of one plan: where requests go, and real worker processes that serve them side by side."""

import random

import pytest

from potluck.coordinator.driver import Observers
from potluck.coordinator.remaining import goal_over
from potluck.coordinator.replicas import Lane, Replicas
from potluck.coordinator.scheduler.scheduler import Limits
from potluck.planner.fleet import Device, Fleet, Link, Node
from potluck.planner.goal import Goal

LIMITS = Limits(64, 4, 64, 16, 1)


class Wire:
    """A link that remembers what was sent."""

    def __init__(self):
        self.frames = []

    def send(self, frame, timeout):
        self.frames.append(frame)


@pytest.fixture
def routes():
    """Two routes, one predicted to be three times as fast, and what was told of their failures."""
    return side_by_side(Lane({"fast": 0}, LIMITS, 30.0), Lane({"slow": 0}, LIMITS, 10.0))


def side_by_side(*lanes):
    failures = []
    observers = Observers(lambda _: None, lambda *_: None, lambda node, reason: failures.append((node, reason)))
    made = Replicas(1, lanes, 7, observers)
    made.failures, made.wires = failures, {node: Wire() for lane in lanes for node in lane.entries}
    for driver, nodes in made._routes():
        driver._links = {node: made.wires[node] for node in nodes}
    return made


def submitted(routes, paper):
    numbers = []
    routes.submit([paper.generation([1, 2])], numbers.extend)
    return numbers[0]


def test_requests_go_where_the_least_is_ahead_of_them(routes, paper):
    numbers = [submitted(routes, paper) for _ in range(8)]
    # 7, 9, 11 ... are the first route's: three of four requests, as it is three times as fast.
    assert [number % 2 for number in numbers] == [1, 1, 1, 0, 1, 1, 1, 0]
    assert len(set(numbers)) == 8 and routes.next_number not in numbers
    assert sum(routes.load[:2]) == 8
    for number in numbers:
        routes.cancel(number)
    assert routes.wires["fast"].frames and routes.wires["slow"].frames


def test_a_request_goes_where_its_tokens_come_soonest(paper):
    """A lone one to the route that is quickest for one, until so many share it that one of more tokens is quicker."""
    routes = side_by_side(Lane({"quick": 0}, LIMITS, 10.0, 0.1), Lane({"broad": 0}, LIMITS, 50.0, 0.35))
    numbers = [submitted(routes, paper) for _ in range(6)]
    assert [number % 2 for number in numbers] == [1, 1, 1, 0, 0, 0]


def test_only_the_first_failure_of_any_route_counts(routes):
    routes.fail("slow", "it burned")
    routes.fail("fast", "that too")
    assert routes.failures == [("slow", "it burned")]


def test_after_the_end_nothing_fails(routes):
    for wire in routes.wires.values():
        wire.close = lambda: None
    routes.close()
    routes.fail("slow", "too late")
    assert routes.failures == []


def test_wishes_about_nodes_that_were_lost_are_forgotten():
    fleet = Fleet((Node("a", (Device("cpu", 1e9, 1e9, 1),)),), "a", Link(1e-3, 1e8))
    goal = Goal(shares={"a": 0.5, "b": 0.5}, pinned=frozenset("ab"), excluded=frozenset("c"))
    assert goal_over(goal, fleet) == Goal(shares={"a": 0.5}, pinned=frozenset("a"))


@pytest.fixture
def served(home, tiny_model, tmp_path):
    """Two nodes that each hold the model, and a third; n1 fetches its weights."""
    made = home.Home(
        tiny_model("llama3", 7), tmp_path / "home", fetching=("n1",), solver="exact", aim="throughput", kv_tokens=1024
    )
    try:
        yield made.start()
    finally:
        made.stop()


async def test_routes_serve_side_by_side_and_the_next_plan_goes_on(served, home, home_oracle):
    plan, oracle = served.deployment.plan, home_oracle(served.folder)
    assert len(plan.routes) == 3 and plan.prediction.tokens_per_second > 0
    source = random.Random(1)
    asked = [home.ask([source.randrange(3, 300) for _ in range(40)], 16) for _ in range(12)]
    texts = await served.texts(*asked)
    for one, text in zip(asked, texts, strict=True):
        assert oracle.agrees(list(one.prompt), text)

    def everyone_computed():
        """Every route had some of the requests."""
        computed = {node.node: node.compute for node in served.engine.status().nodes}
        return all(computed.get(node, 0.0) > 0 for node in ("n0", "n1", "n2"))

    await home.eventually(everyone_computed)
    assert served.engine.status().kv_used == 0.0
    served.kill("n2")
    served.diary.until("serving", 2)
    assert set(served.deployment.plan.nodes) == {"n0", "n1"}
    assert await served.texts(*asked[:2]) == texts[:2]
