"""One line per node: why the exact solver gave it what it holds, or left it out."""

from __future__ import annotations

from potluck.planner.fleet import Fleet, Node, NodeName
from potluck.planner.offers import HEAD
from potluck.planner.places import Place
from potluck.planner.problem import Found
from potluck.planner.reasons import holds_no_layer, layers_text

EXCLUDED = "left out: excluded"


def exact_reasons(found: Found, fleet: Fleet) -> dict[NodeName, str]:
    """The reason for every node of a fleet."""
    if found.routes:
        return _of_routes(found, fleet)
    places = {node: number for number, place in enumerate(found.problem.places) for node in place.nodes}
    told: dict[NodeName, str] = {}
    for node in fleet.nodes:
        if node.name not in places:
            told[node.name] = EXCLUDED
        elif places[node.name] in found.layout.used:
            told[node.name] = _holds(found, places[node.name])
        else:
            told[node.name] = _left_out(found, node, places[node.name])
    return told


def _of_routes(found: Found, fleet: Fleet) -> dict[NodeName, str]:
    """Each node's reason from the route that it could be in; of one that could be in none, that."""
    told = {node.name: "left out: no route gains by it" for node in fleet.nodes}
    goal = found.problem.request.goal
    told |= dict.fromkeys((node for node in told if node in goal.excluded), EXCLUDED)
    for number, route in enumerate(found.routes, 1):
        mine = {name for place in route.problem.places for name in place.nodes}
        told |= {node: f"route {number}: {why}" for node, why in exact_reasons(route, fleet).items() if node in mine}
    return told


def _holds(found: Found, number: int) -> str:
    place, layout = found.problem.places[number], found.layout
    layers, ends = layout.counts.get(number, 0), layout.ends(number)
    held = [layers_text(layers)] if layers else []
    held += ["the head" if part == HEAD else "the embedding" for part in ends[-1:]]
    together = f" in a group of {len(place.nodes)}" if len(place.nodes) > 1 else ""
    facts = [f"{' and '.join(held)}{together}: {_busy(found, place)}"]
    if layers > place.room(ends):
        facts.append("what does not fit is read from disk for every token")
    elif layers:
        facts.append("memory is full" if layers == place.room(ends) else f"memory would allow {place.room(ends)}")
    if place.share < 1:
        facts.append(f"no more than {place.share:.0%} of it is used")
    return "; ".join(facts)


def _left_out(found: Found, node: Node, number: int) -> str:
    request, place = found.problem.request, found.problem.places[number]
    if place.most() < 1:
        return holds_no_layer(request, node)
    used = [found.problem.places[other] for other in found.layout.order]
    slowest = max(used, key=lambda other: other.layer_seconds)
    way = found.problem.hops.cheapest[number] if len(found.problem.places) > 1 else 0.0
    # What the solver compares is one request's, however many are predicted for.
    whose = "for one request, " if request.goal.batch > 1 else ""
    return f"left out: {whose}{_why(place, slowest)}, and coming here takes {_ms(way)}"


def _why(place: Place, slowest: Place) -> str:
    if place.layer_seconds > slowest.layer_seconds:
        return f"a layer takes {_ms(place.layer_seconds)} here, {_ms(slowest.layer_seconds)} on {slowest.name}"
    return f"the others hold the model, though a layer takes only {_ms(place.layer_seconds)} here"


def _busy(found: Found, place: Place) -> str:
    """What a token spends at a place, of all that it takes: both with as many requests at once as are planned for."""
    prediction = found.plan.prediction
    if prediction is None or prediction.decode is None:
        raise ValueError("a plan without a prediction has no times to tell")
    stages = zip(found.plan.routes[0].stages, prediction.decode.stages, strict=True)
    busy = sum(times.working for stage, times in stages if stage.nodes[0] == place.name)
    return f"{_ms(busy)} of {_ms(prediction.time_per_token)} per token"


def _ms(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
