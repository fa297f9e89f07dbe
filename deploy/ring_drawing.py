"""Where to draw the nodes of a fleet and the hops of a token between them. Pure geometry, in the units of an SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import cos, hypot, pi, sin

from potluck.deploy.answer import Answer
from potluck.deploy.tables import link_text
from potluck.deploy.token_time import token_spans
from potluck.planner.fleet import NodeName

Point = tuple[float, float]
WIDTH, HEIGHT = 760, 440
_DISC = 30.0
_RADII = (250.0, 140.0)
# How far a hop's arrow bends outwards, so that the way back is another line.
_BEND = 22.0


@dataclass(frozen=True, slots=True)
class Spot:
    """A node: its centre, its name, how many stages it has, and of which route (from 1; 0 for none); `used` is whether
    it has any."""

    name: str
    x: float
    y: float
    stages: int
    route: int

    @property
    def used(self) -> bool:
        return self.stages > 0


@dataclass(frozen=True, slots=True)
class Arrow:
    """Hops from one node to another: the path, where its words go, and the route they are of, from 1."""

    path: str
    x: float
    y: float
    label: str
    title: str
    route: int


@dataclass(frozen=True, slots=True)
class Ring:
    """Everything to draw, and how large."""

    spots: tuple[Spot, ...]
    arrows: tuple[Arrow, ...]
    width: int = WIDTH
    height: int = HEIGHT
    disc: float = _DISC


def ring_of(answer: Answer) -> Ring:
    """The nodes on an ellipse in the order in which a token visits them, route by route, those left out last; and the
    hops of a token on every route."""
    order = [*answer.plan.nodes, *(node.name for node in answer.fleet.nodes if node.name not in answer.plan.nodes)]
    stages = Counter(node for route in answer.plan.routes for stage in route.stages for node in stage.nodes)
    routes = {node: number for number, route in enumerate(answer.routes, 1) for node in route.plan.nodes}
    places = {name: _place(number, len(order)) for number, name in enumerate(order)}
    spots = tuple(Spot(name, *places[name], stages[name], routes.get(name, 0)) for name in order)
    arrows = (arrow for number, route in enumerate(answer.routes, 1) for arrow in _arrows(route, number, places))
    return Ring(spots, tuple(arrows))


def _arrows(route: Answer, number: int, places: Mapping[NodeName, Point]) -> Iterator[Arrow]:
    """The hops of a token on one route."""
    hops = Counter((span.node, span.to) for span in token_spans(route) if span.work == "transfer")
    for (source, target), times in hops.items():
        path, words = _curve(places[source], places[target])
        label = link_text(route.fleet.link(source, target)) + (f" ({times} times)" if times > 1 else "")
        yield Arrow(path, *words, label, f"{source} to {target}: {label}", number)


def _place(number: int, count: int) -> Point:
    if count == 1:
        return WIDTH / 2, HEIGHT / 2
    angle = 2 * pi * number / count - pi / 2
    return round(WIDTH / 2 + _RADII[0] * cos(angle), 1), round(HEIGHT / 2 + _RADII[1] * sin(angle), 1)


def _curve(start: Point, end: Point) -> tuple[str, Point]:
    """A path from one disc to the other, bent outwards, and where its words go."""
    (x1, y1), (x2, y2) = start, end
    length = hypot(x2 - x1, y2 - y1)
    along, across = ((x2 - x1) / length, (y2 - y1) / length), ((y2 - y1) / length, (x1 - x2) / length)
    middle = ((x1 + x2) / 2 + across[0] * 2 * _BEND, (y1 + y2) / 2 + across[1] * 2 * _BEND)
    tail = (x1 + along[0] * _DISC + across[0] * 6, y1 + along[1] * _DISC + across[1] * 6)
    tip = (x2 - along[0] * (_DISC + 8) + across[0] * 6, y2 - along[1] * (_DISC + 8) + across[1] * 6)
    path = f"M {tail[0]:.1f} {tail[1]:.1f} Q {middle[0]:.1f} {middle[1]:.1f} {tip[0]:.1f} {tip[1]:.1f}"
    apex = ((x1 + x2) / 2 + across[0] * (_BEND + 14), (y1 + y2) / 2 + across[1] * (_BEND + 14))
    return path, (round(apex[0], 1), round(apex[1], 1))
