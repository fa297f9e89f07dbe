"""Predicted beside measured, for requests that had the fleet to themselves. Pure: no clock, no network.

Requests that shared the fleet are left out: how many ran beside them changed from token to token, so that no one
prediction is theirs. Of every lone request its own prompt and answer are predicted for, and the deviation is the median
of the requests' own, so that long and short ones can be mixed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median

from potluck.models.spec import ModelSpec
from potluck.planner.fleet import Fleet
from potluck.planner.goal import Goal
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.planner.prediction import Prediction

# Of how many requests, the latest, medians are taken: fewer are noise, more are slow to say that something changed.
WINDOW = 10
_BLOCK = 16
_KEPT = 128
_SAID_AGAIN = 0.15

Stage = tuple[int, str]
Predict = Callable[[int, int], Prediction]


@dataclass(frozen=True, slots=True)
class LoneRequest:
    """What a request measured that ran alone, in seconds.

    Attributes:
        prompt, drawn: tokens; none of the prompt's KV was there before (only choices of one request share KV).
        first: from submission to the first token.
        each: median between two tokens; None where there were too few.
        stages: median of what every stage, by number and node (of a group the first), computed for a token.
    """

    prompt: int
    drawn: int
    first: float
    each: float | None = None
    stages: Mapping[Stage, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians over some requests, and the median of measured / predicted - 1."""

    predicted: float
    measured: float
    deviation: float
    requests: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predicted and measured: seconds to the first token, between tokens, and of every stage's computing."""

    first: Figure | None = None
    each: Figure | None = None
    stages: Mapping[Stage, Figure] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many requests were measured."""
        return self.first.requests if self.first else 0

    @property
    def rate(self) -> Figure | None:
        """Tokens per second of one request: what `each` says, the other way round."""
        if self.each is None:
            return None
        slower = 1.0 + self.each.deviation
        return Figure(1 / self.each.predicted, 1 / self.each.measured, 1 / slower - 1.0, self.each.requests)

    @property
    def figures(self) -> dict[str, Figure]:
        """What there is of the two times, by the names that metrics give them."""
        named = {"time_to_first_token": self.first, "time_per_output_token": self.each}
        return {name: figure for name, figure in named.items() if figure is not None}


class Accuracy:
    """The latest lone requests of an epoch, each with what was predicted for it."""

    def __init__(self, predicted: Predict, least: int = 0, requests: Iterable[LoneRequest] = ()) -> None:
        """Keeps the latest `WINDOW`, or so many as `least` says where that is more."""
        self._predicted = predicted
        self._requests: deque[tuple[LoneRequest, Prediction]] = deque(maxlen=max(least, WINDOW))
        for request in requests:
            self.add(request)

    def add(self, request: LoneRequest) -> None:
        """One more request."""
        self._requests.append((request, self._predicted(request.prompt, request.prompt + request.drawn // 2)))

    @property
    def requests(self) -> tuple[LoneRequest, ...]:
        """What was measured, the latest last."""
        return tuple(request for request, _ in self._requests)

    def comparison(self) -> Comparison:
        """Medians over them all: what is shown is what is decided by."""
        told = [(request, expected) for request, expected in self._requests if request.each is not None]
        first = [(expected.time_to_first_token, request.first) for request, expected in self._requests]
        each = [(expected.time_per_token, request.each) for request, expected in told if request.each]
        return Comparison(_figure(first), _figure(each), dict(_stages(told)))


def predictor(plan: Plan, fleet: Fleet, spec: ModelSpec, goal: Goal) -> Predict:
    """(prompt, context in tokens) -> the prediction for one request alone; contexts count in blocks of KV.

    Of several routes a request that is alone takes the quickest (`replicas.Replicas`).
    """
    routes = plan.replicas
    if len(routes) > 1:
        lone = replace(goal, batch=1)
        quickest = min(routes, key=lambda route: predict(route, fleet, spec, lone).time_per_token)
        return predictor(quickest, fleet, spec, goal)

    @lru_cache(_KEPT)
    def one(prompt: int, blocks: int) -> Prediction:
        alone = replace(goal, prompt=prompt, context=blocks * _BLOCK, batch=1)
        return predict(plan, fleet, spec, alone)

    return lambda prompt, context: one(max(1, prompt), -(-max(1, context) // _BLOCK))


def worth_saying(said: Comparison | None, now: Comparison) -> bool:
    """Whether a comparison is news: the first, or one that differs by more than 15 points from what was said."""
    if said is None or said.figures.keys() != now.figures.keys():
        return True
    return any(
        abs(figure.deviation - said.figures[name].deviation) > _SAID_AGAIN for name, figure in now.figures.items()
    )


def _stages(told: Sequence[tuple[LoneRequest, Prediction]]) -> Iterator[tuple[Stage, Figure]]:
    for stage in sorted({stage for request, _ in told for stage in request.stages}):
        pairs = [
            (expected.decode.stages[stage[0]].working, request.stages[stage])
            for request, expected in told
            if expected.decode and stage in request.stages
        ]
        figure = _figure(pairs)
        if figure is not None:
            yield stage, figure


def _figure(pairs: Sequence[tuple[float, float]]) -> Figure | None:
    usable = [(predicted, measured) for predicted, measured in pairs if predicted > 0 and measured > 0]
    if not usable:
        return None
    predicted, measured = (median(side) for side in zip(*usable, strict=True))
    return Figure(predicted, measured, median(real / said - 1.0 for said, real in usable), len(usable))
