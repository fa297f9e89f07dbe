"""What one generated token spends its time on, one span after the other, as the prediction reckons.

The one place that the printed explanation, `--json` and the page's time line read this from. The last span ends at the
predicted time per token; `tests/deploy/test_token_time.py` holds the two together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from potluck.deploy.answer import Answer
from potluck.planner.collectives import one_after_another
from potluck.planner.costs import Pass, itemsize
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Stage
from potluck.planner.predict import hop_seconds
from potluck.planner.stage_seconds import Setting, stage_seconds
from potluck.planner.transfers import receivers


class Work(StrEnum):
    """What a span of time goes to."""

    COMPUTE = "compute"
    NETWORK = "network"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds that a token is at something: from `start`, `seconds` long. `node` does it; of a hop, it sends.

    `stage` counts from 0; a hop has the number of the stage it goes to, the last one back the number of stages.
    """

    work: Work
    node: NodeName
    to: NodeName
    stage: int
    start: float
    seconds: float


def token_spans(answer: Answer) -> tuple[Span, ...]:
    """Where the time of one token of one request goes, in order."""
    spans: list[Span] = []
    now = 0.0
    for work, node, to, stage, seconds in _durations(answer):
        spans.append(Span(work, node, to, stage, now, seconds))
        now += seconds
    rest = answer.prediction.time_per_token - now
    if rest > 1e-9:
        slowest = max(answer.plan.nodes, key=lambda node: answer.reading_seconds.get(node, 0.0))
        spans.append(Span(Work.DISK, slowest, slowest, len(answer.stages), now, rest))
    return tuple(spans)


def seconds_by(spans: tuple[Span, ...]) -> dict[Work, float]:
    """Seconds of a token for each kind of work, those without any left out."""
    seconds: defaultdict[Work, float] = defaultdict(float)
    for span in spans:
        seconds[span.work] += span.seconds
    return {work: seconds[work] for work in Work if seconds[work] > 0}


def bottleneck(spans: tuple[Span, ...]) -> tuple[str, float]:
    """What takes most of a token's time, of nodes that compute, links and disks; with its seconds."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for span in spans:
        seconds[_what(span)] += span.seconds
    return max(seconds.items(), key=lambda one: one[1])


def _what(span: Span) -> str:
    match span.work:
        case Work.COMPUTE:
            return str(span.node)
        case Work.NETWORK:
            return f"the link {span.node} -> {span.to}"
        case Work.DISK:
            return f"the disk of {span.node}"


_Duration = tuple[Work, NodeName, NodeName, int, float]


def _durations(answer: Answer) -> Iterator[_Duration]:
    fleet, stages, engine = answer.fleet, answer.stages, answer.fleet.engine
    setting, work = Setting(fleet, answer.spec, answer.plan.dtype), Pass(1, 1, answer.goal.context)
    row = answer.spec.hidden * itemsize(answer.plan.dtype)
    entry = one_after_another([(fleet.link(engine, node), 0) for node in stages[0].nodes])
    yield from _hop(engine, stages[0].nodes[0], 0, entry)
    before: Stage | None = None
    for number, stage in enumerate(stages):
        if before is not None:
            links = [(fleet.link(before.nodes[0], node), row) for node in receivers(before, stage)]
            yield from _hop(before.nodes[0], stage.nodes[0], number, one_after_another(links))
        yield Work.COMPUTE, stage.nodes[0], stage.nodes[0], number, stage_seconds(stage, setting, work)
        before = stage
    last = stages[-1].nodes[0]
    yield from _hop(last, engine, len(stages), hop_seconds(fleet.link(last, engine), 0))


def _hop(source: NodeName, target: NodeName, stage: int, seconds: float) -> Iterator[_Duration]:
    if seconds > 0:
        yield Work.NETWORK, source, target, stage, seconds
