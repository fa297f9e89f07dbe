"""What one generated token spends its time on, one span after the other, as the prediction reckons.

The one place that the printed explanation, `--json` and the page's time line read this from. The last span ends at the
predicted time per token; `tests/deploy/test_token_time.py` holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from potluck.deploy.answer import Answer
from potluck.planner.fleet import NodeName
from potluck.planner.predict import hop_seconds
from potluck.planner.prediction import KINDS, Times
from potluck.planner.transfers import receivers

# In which order a stage spends them: a hop arrives, its layers come from disk, then they are computed and summed.
_ORDER = ("software", "transfer", "disk", "wait", "memory", "compute", "sums")


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds that a token is at something: from `start`, `seconds` long.

    `work` is one of `planner.prediction.KINDS`; `node` does it, and of a transfer sends to `to`. `stage` counts from 0;
    a transfer has the number of the stage it goes to, the one back to the engine the number of stages.
    """

    work: str
    node: NodeName
    to: NodeName
    stage: int
    start: float
    seconds: float


def token_spans(answer: Answer) -> tuple[Span, ...]:
    """Where the time of one token of one request goes, in order."""
    spans: list[Span] = []
    now = 0.0
    for span in _lengths(answer):
        if span.seconds > 0:
            spans.append(replace(span, start=now))
            now += span.seconds
    return tuple(spans)


def seconds_by(answer: Answer) -> dict[str, float]:
    """Seconds of a token for each kind of work, those without any left out."""
    total = answer.decode.total
    return {kind: getattr(total, kind) for kind in KINDS if getattr(total, kind) > 0}


def _lengths(answer: Answer) -> Iterator[Span]:
    engine = before = answer.fleet.engine
    last = answer.stages[-1].nodes[0]
    back = hop_seconds(answer.fleet.link(last, engine), 0)
    for number, (stage, times) in enumerate(zip(answer.stages, answer.decode.stages, strict=True)):
        node = stage.nodes[0]
        if number == len(answer.stages) - 1:
            # The breakdown counts the way back to the last stage.
            times = replace(times, transfer=max(0.0, times.transfer - back))
        for work in _ORDER:
            source, to = (before, _farthest(answer, before, number)) if work == "transfer" else (node, node)
            yield Span(work, source, to, number, 0.0, getattr(times, work))
        before = node
    yield Span("transfer", last, engine, len(answer.stages), 0.0, back)
    yield Span("wait", last, last, len(answer.stages), 0.0, _other_steps(answer.decode.total, answer.decode.stages))


def _farthest(answer: Answer, source: NodeName, number: int) -> NodeName:
    """Of the nodes that the rows of a stage are sent to, the one that has them last; its lead where all have them."""
    stage, fleet = answer.stages[number], answer.fleet
    sent = receivers(answer.stages[number - 1], stage) if number else stage.nodes
    return max(sent, key=lambda node: hop_seconds(fleet.link(source, node), 0), default=stage.nodes[0])


def _other_steps(total: Times, stages: tuple[Times, ...]) -> float:
    """Seconds that a token waits for the steps of other requests."""
    return max(0.0, total.wait - sum(stage.wait for stage in stages))
