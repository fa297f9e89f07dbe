"""What no plan can cost less than, from what all nodes together can compute."""

from __future__ import annotations

from math import inf

from potluck.planner.problem import Problem


def least_seconds(problem: Problem) -> float:
    """What no plan whose stages have one node each can cost less than, whatever its routes.

    With r_i visits to a node and x_i layers computed there in a second, s_i seconds each: no node computes more than
    all the time; a visit brings no more than the m_i layers that it holds; and of the tokens on their way, one per node
    at most, each is at a node or on a hop, of h_i seconds at least:

        x_i s_i <= 1,  x_i <= m_i r_i,  sum of x_i s_i + r_i h_i <= number of nodes

    Tokens per second are at most the sum of x_i over the number of layers; the greatest is found greedily.
    """
    able = [number for number, place in enumerate(problem.places) if place.most() > 0]
    costs = sorted((_layer_with_hop(problem, number), problem.places[number].layer_seconds) for number in able)
    left, layers = float(len(problem.places)), 0.0
    for cost, seconds in costs:
        taken = min(1 / seconds, left / cost)
        layers, left = layers + taken, left - taken * cost
    alone, goal = _least_alone(problem), problem.request.goal
    if goal.aim == "latency":
        return alone
    # Requests that share a step take less than one after the other.
    next_ = problem.layers / layers / goal.batch if layers else inf
    return next_ if goal.aim == "throughput" else alone + next_


def _least_alone(problem: Problem) -> float:
    """What no token can take less than: every part where it is quickest, the shortest ways from and to the engine."""
    places, numbers, hops = problem.places, range(len(problem.places)), problem.hops
    least = [
        problem.layers * min((place.layer_seconds for place in places if place.most() > 0), default=inf),
        min(place.embedding_seconds for place in places),
        min(place.head_seconds for place in places),
        min(min(map(hops.enter, numbers)) + min(map(hops.leave, numbers)), *map(hops.again, numbers)),
    ]
    return sum(least)


def _layer_with_hop(problem: Problem, number: int) -> float:
    """Seconds of a layer on a place, with its part of the least way there."""
    place, hops = problem.places[number], problem.hops
    engine = min(hops.enter(number) + hops.leave(number), hops.again(number))
    way = min(hops.cheapest[number], engine) if len(problem.places) > 1 else engine
    return place.layer_seconds + way / min(place.most(), problem.layers)
