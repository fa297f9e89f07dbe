"""One line per node that says why it holds what it holds, or why nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from potluck.planner.fit import memory_text, size_text
from potluck.planner.fleet import Fleet, Node, NodeName
from potluck.planner.memory import worker_bytes
from potluck.planner.offers import HEAD, Offer, Request
from potluck.planner.ring import Window


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: where the ring starts, how many layers of those offered each has, in which windows."""

    start: NodeName
    offers: tuple[Offer, ...]
    counts: Mapping[NodeName, int]
    windows: tuple[Window, ...]

    def holds(self, offer: Offer) -> bool:
        """Whether a node holds anything."""
        return bool(self.counts[offer.node] or offer.ends)

    def speed(self, offer: Offer) -> float:
        """A node's share of the speed of all nodes that have something."""
        used = [other for other in self.offers if self.holds(other)]
        return (1 / offer.layer_seconds) / sum(1 / other.layer_seconds for other in used)


def reasons(fleet: Fleet, request: Request, decision: Decision) -> dict[NodeName, str]:
    """The reason for every node of the fleet."""
    offers = {offer.node: offer for offer in decision.offers}
    told: dict[NodeName, str] = {}
    for node in fleet.nodes:
        if node.name in request.goal.excluded:
            told[node.name] = "left out: excluded"
        elif node.name not in offers:
            told[node.name] = "left out: fewer nodes hold the model"
        elif decision.holds(offers[node.name]):
            told[node.name] = _holds(fleet, request, decision, offers[node.name])
        else:
            told[node.name] = _left_out(fleet, request, offers[node.name])
    return told


def _holds(fleet: Fleet, request: Request, decision: Decision, offer: Offer) -> str:
    held = [layers_text(decision.counts[offer.node])] if decision.counts[offer.node] else []
    if HEAD in offer.ends:
        held.append(f"the head (worth {offer.ends_seconds / offer.layer_seconds:.1f} layers)")
    elif offer.ends:
        held.append("the embedding")
    facts = [f"{' and '.join(held)}: {decision.speed(offer):.0%} of the fleet's speed", _memory_text(decision, offer)]
    if offer.node == decision.start and offer.node != fleet.engine:
        facts.append(_why_not_engine(fleet, request))
    if decision.counts[offer.node] > offer.room:
        facts.append("what does not fit is read from disk for every token")
    return "; ".join([*facts, *_rounds_text(request, decision, offer)])


def _memory_text(decision: Decision, offer: Offer) -> str:
    return "memory is full" if decision.counts[offer.node] >= offer.room else f"memory would allow {offer.room}"


def _why_not_engine(fleet: Fleet, request: Request) -> str:
    if fleet.engine in request.goal.excluded:
        return f"the engine's node {fleet.engine} is excluded"
    return f"the engine's node {fleet.engine} has no room for the embedding"


def _rounds_text(request: Request, decision: Decision, offer: Offer) -> list[str]:
    windows = sum(window.node == offer.node for window in decision.windows)
    layers, rounds = decision.counts[offer.node], request.goal.rounds
    if rounds == 1 or windows in (0, rounds):
        return []
    if len({window.node for window in decision.windows}) == 1:
        return [f"alone, so 1 round instead of {rounds}"]
    if layers < rounds:
        return [f"{layers_text(layers)} for {rounds} rounds, so it takes part in {windows}"]
    return [f"{windows} windows instead of {rounds}: nobody else has layers left in between"]


def _left_out(fleet: Fleet, request: Request, offer: Offer) -> str:
    if offer.room > 0:
        return f"left out: too slow to earn one of {layers_text(len(request.spec.layers))}"
    return holds_no_layer(request, fleet.node(offer.node))


def holds_no_layer(request: Request, node: Node) -> str:
    """Why a node that is too small has nothing."""
    memory = memory_text(node, request.goal)
    layer, worker = request.on(node).layer_bytes, worker_bytes(request.spec)
    need = f"{size_text(layer)} with KV, and {size_text(worker)} for the worker"
    return f"left out: its {memory} hold no layer ({need})"


def layers_text(count: int) -> str:
    """So many layers, in words."""
    return "1 layer" if count == 1 else f"{count} layers"
