"""The exact solver: the best plan of every strategy, the best of those, and what is proved about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

from potluck.planner.capacity import least_seconds
from potluck.planner.evidence import Alternative, Proof
from potluck.planner.exact_reasons import exact_reasons
from potluck.planner.fit import refusal
from potluck.planner.fleet import Fleet
from potluck.planner.group_bound import least_seconds_of_groups
from potluck.planner.offers import Request
from potluck.planner.places import Places
from potluck.planner.plan import Plan
from potluck.planner.problem import Problem, Search
from potluck.planner.ring_search import MOST_WHOLE
from potluck.planner.strategy import Strategy
from potluck.planner.strategy_group import groups
from potluck.planner.strategy_replicas import replicas
from potluck.planner.strategy_ring import pipeline, streamed_ring
from potluck.planner.strategy_single import single
from potluck.planner.tour import MOST_EXACT

STRATEGIES: Mapping[str, Strategy] = {
    "pipeline": pipeline,
    "single node": single,
    "ring": streamed_ring,
    "group": groups,
    "replicas": replicas,
}


def solve_exactly(fleet: Fleet, request: Request) -> Plan:
    """The plan that costs least (`objective`).

    Raises:
        DoesNotFit: the nodes cannot hold the model with its KV; the message says what is missing.
    """
    nodes = [node for node in fleet.nodes if node.name not in request.goal.excluded]
    places = Places(fleet, request)
    problem = Problem.over(fleet, request, [places.node(node) for node in nodes])
    # With spread `fewest`, one node more at a time until the model fits.
    sizes = range(1, len(nodes) + 1) if request.goal.spread == "fewest" else [None]
    found: dict[str, Search] = {}
    for most in sizes:
        found = _search(replace(problem, most=most))
        if any(search.best for search in found.values()):
            break
    if not found:
        raise refusal(nodes, request)
    ranked = sorted(found.items(), key=lambda one: _seconds(one[1]))
    (name, search), others = ranked[0], ranked[1:]
    if search.best is None:
        raise refusal(nodes, request)
    best = search.best.predicted()
    return replace(
        best.plan,
        reasons=exact_reasons(best, fleet),
        proof=_proof(problem, name, found),
        alternatives=tuple(_alternatives(others)),
    )


def _search(problem: Problem) -> dict[str, Search]:
    """The best of every strategy; those that come later need not look for what costs more than what is known."""
    found: dict[str, Search] = {}
    for name, strategy in STRATEGIES.items():
        limit = min((_seconds(one) for one in found.values()), default=inf)
        found[name] = strategy(problem, limit)
    return found


def _proof(problem: Problem, name: str, found: Mapping[str, Search]) -> Proof:
    """Plans of single nodes per stage are bounded together; of groups only what none can be quicker than is known."""
    seconds, best = _seconds(found[name]), found[name].best
    if best and best.has_groups:
        beside = ", and replicas beside them" if best.routes else ""
        method = f"groups grown from the quickest pairs{beside}; bound: the quickest nodes and the best links together"
        return Proof(name, method, seconds, min(seconds, least_seconds_of_groups(problem)))
    if problem.request.goal.batch > 1:
        # The programmes are of one request at a time.
        method = f"{_method(problem)}; solved for one request, bound: all nodes computing all the time"
        return Proof(name, method, seconds, min(seconds, least_seconds(problem)))
    bound = max(min(one.bound for one in found.values()), least_seconds(problem))
    proof = Proof(name, _method(problem), seconds, min(seconds, bound))
    if name != "ring" or proof.is_optimal:
        return proof
    method = f"{proof.method}; what stays was improved step by step, bound: disks that read all the time"
    return replace(proof, method=method)


def _alternatives(others: Sequence[tuple[str, Search]]) -> Iterator[Alternative]:
    for name, search in others:
        if search.best:
            yield Alternative(name, search.best.seconds, search.best.plan.nodes)


def _method(problem: Problem) -> str:
    tried = "groups were tried" if problem.request.goal.aim == "latency" else "groups and replicas were tried"
    if len(problem.places) <= MOST_EXACT:
        return f"mixed-integer programme with exact hops; {tried}"
    if len(problem.places) <= MOST_WHOLE:
        return f"mixed-integer programme with cheapest hops, with exact ones over {MOST_EXACT} nodes; {tried}"
    return f"mixed-integer programme over the most promising nodes, bound by its relaxation over all; {tried}"


def _seconds(search: Search) -> float:
    return search.best.seconds if search.best else inf
