"""The answer of `cluster plan` as one page: nothing is fetched, nothing runs, names are escaped by the template."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from potluck.deploy.answer import Answer
from potluck.deploy.explanation import WORDS, sentences
from potluck.deploy.goal_figure import subject, tokens_per_second
from potluck.deploy.holdings import holdings, share_text
from potluck.deploy.ring_drawing import ring_of
from potluck.deploy.tables import bytes_text, figure_text, rate_text, seconds_text, speed_text
from potluck.deploy.token_time import Span, seconds_by, token_spans
from potluck.planner.fleet import Node
from potluck.planner.memory import NodeBytes


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a bar: what it is, its class for the colour, and where it lies, in percent of the bar."""

    label: str
    kind: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class NodeCard:
    """A node as the page shows it."""

    name: str
    device: str
    facts: str
    holds: str
    why: str
    memory: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the time line."""

    name: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class RoutePart:
    """A route as the page shows it: its time per token, the rows of its time line, its stages (nodes, what they hold,
    time)."""

    each: str
    rows: tuple[Row, ...]
    stages: tuple[tuple[str, str, str], ...]


def page(answer: Answer) -> str:
    """The page, HTML in UTF-8."""
    environment = Environment(loader=PackageLoader("potluck.deploy", "."), autoescape=True, undefined=StrictUndefined)
    # One scale for all routes: the slowest fills it.
    slowest = max(route.prediction.time_per_token for route in answer.routes)
    works = dict.fromkeys(work for route in answer.routes for work in seconds_by(route))
    return environment.get_template("plan.html.jinja").render(
        model=answer.plan.model,
        dtype=answer.plan.dtype,
        fleet=answer.fleet.name,
        subject=subject(answer.goal),
        speed=figure_text(tokens_per_second(answer)),
        first=seconds_text(answer.prediction.time_to_first_token),
        each=seconds_text(answer.prediction.time_per_token),
        sentences=sentences(answer),
        cards=[_card(answer, node) for node in answer.fleet.nodes],
        ring=ring_of(answer),
        routes=[_route(route, slowest) for route in answer.routes],
        slowest=seconds_text(slowest),
        works=[(work, WORDS[work]) for work in works],
    )


def _card(answer: Answer, node: Node) -> NodeCard:
    size = answer.sizes.get(node.name)
    device, disk = node.device, node.disk_bandwidth
    facts = [speed_text(device.flops), f"memory at {rate_text(device.memory_bandwidth)}"]
    return NodeCard(
        name=node.name + (" (requests arrive here)" if node.name == answer.fleet.engine else ""),
        device=device.name or device.kind,
        facts=", ".join([*facts, *([f"disk at {rate_text(disk)}"] if disk else [])]),
        holds=holdings(answer.plan).get(node.name, "nothing"),
        why=answer.plan.reasons.get(node.name, ""),
        memory=bytes_text(device.memory),
        slices=tuple(_slices(_uses(size, device.memory), device.memory)) if size else (),
    )


def _uses(size: NodeBytes, memory: int) -> list[tuple[str, str, int]]:
    """What a node's memory is used for: words, the class of the colour, bytes."""
    uses = [
        ("weights", "weights", size.weights - size.streamed),
        ("window of weights from disk", "window", size.stream_budget(memory) if size.streamed else 0),
        ("KV", "kv", size.kv),
        ("worker", "worker", size.overhead),
    ]
    return [use for use in uses if use[2]]


def _slices(uses: list[tuple[str, str, int]], total: int) -> Iterator[Slice]:
    start = 0.0
    for words, kind, nbytes in uses:
        width = 100 * nbytes / total
        yield Slice(f"{words} {bytes_text(nbytes)}", kind, start, width)
        start += width


def _route(route: Answer, total: float) -> RoutePart:
    spans = token_spans(route)
    return RoutePart(
        seconds_text(route.prediction.time_per_token), tuple(_rows(route, spans, total)), tuple(_stages(route, spans))
    )


def _rows(route: Answer, spans: tuple[Span, ...], total: float) -> Iterator[Row]:
    """A row for each node, and one for the network; `total` seconds wide."""
    for node in route.plan.nodes:
        own = [span for span in spans if span.work != "transfer" and span.node == node]
        if own:
            yield Row(node, tuple(_slice(route, span, total) for span in own))
    hops = [span for span in spans if span.work == "transfer"]
    if hops:
        yield Row("network", tuple(_slice(route, span, total) for span in hops))


def _slice(route: Answer, span: Span, total: float) -> Slice:
    return Slice(_span_label(route, span), span.work, 100 * span.start / total, 100 * span.seconds / total)


def _span_label(answer: Answer, span: Span) -> str:
    taken = f"{WORDS[span.work]} {seconds_text(span.seconds)}"
    if span.work == "transfer":
        return f"{span.node} to {span.to}, {taken}"
    if span.stage == len(answer.stages):
        return taken
    stage = answer.stages[span.stage]
    return f"{' + '.join(stage.nodes)}: {share_text(stage, stage.shares[0])}, {taken}"


def _stages(answer: Answer, spans: tuple[Span, ...]) -> Iterator[tuple[str, str, str]]:
    taken: defaultdict[int, float] = defaultdict(float)
    for span in spans:
        taken[span.stage] += 0.0 if span.work == "transfer" else span.seconds
    for number, stage in enumerate(answer.stages):
        yield " + ".join(stage.nodes), share_text(stage, stage.shares[0]), seconds_text(taken[number])
