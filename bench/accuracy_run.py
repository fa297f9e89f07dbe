"""Plans of one fleet, measured in turns by the same workers: what was predicted from measuring, and what came of it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accuracy_candidates import candidates
from pipeline import Silent, token_times

from potluck.coordinator.deployment import Deployment, Serving
from potluck.coordinator.engine import ServingEngine
from potluck.coordinator.fabric import LocalFabric, WorkerLaunch
from potluck.coordinator.in_force import InForce
from potluck.coordinator.metrics import Metrics
from potluck.deploy.prepare import model_files
from potluck.models.source import locate
from potluck.models.spec import ModelSpec
from potluck.planner.fleet import Fleet
from potluck.planner.fleet_file import fleet_to_data
from potluck.planner.goal import Goal
from potluck.planner.offers import Request
from potluck.planner.plan import Plan
from potluck.planner.predict import predict
from potluck.proto.shaper import Shape

MODEL = "smollm2"
PROMPT, CONTEXT = 96, 1024
_ROWS = 256
_SECONDS, _FEWEST, _MOST = 2.0, 16, 160  # of decoding in a turn, and its tokens


def goal_in(dtype: str) -> Goal:
    """What is planned for."""
    return Goal(dtype=dtype, kv_tokens=CONTEXT, prompt=PROMPT, chunk=_ROWS, context=PROMPT + _FEWEST)


class Switching(Deployment):
    """A deployment whose plan can be changed between requests."""

    @property
    def measured(self) -> Fleet:
        """The fleet as its workers measured it."""
        return self._force.fleet

    @property
    def goal(self) -> Goal:
        """What is planned for."""
        return self._serving.goal

    @property
    def spec(self) -> ModelSpec:
        """The model's shape."""
        return self._force.spec

    def switch(self, plan: Plan) -> None:
        """Serve by another plan from now on; no request may be running."""
        force, epochs = self._force, self._epochs
        epochs.end("the plan is being changed", "the plan was changed")
        epochs.over()
        self._workers.callers.release(list(force.plan.nodes), epochs.number)
        epochs.serve(force.fleet, plan, Silent())

    @property
    def _force(self) -> InForce:
        if self._epochs.last is None:
            raise ValueError("nothing is served yet")
        return self._epochs.last.force


def deploy(
    launches: Sequence[WorkerLaunch], goal: Goal, engine: str, links: Mapping[str, Shape], cache: Path
) -> Switching:
    """Workers that have measured themselves and each other, serving by the solver's plan."""
    serving = Serving(goal, CONTEXT, engine=engine, links=links, max_rows=_ROWS, step_seconds=300.0)
    files = model_files(locate(MODEL, cache))
    deployment = Switching(LocalFabric(launches), ServingEngine(MODEL, CONTEXT, Metrics()), files, serving)
    deployment.start(Silent())
    return deployment


@dataclass(slots=True)
class Trial:
    """One distinct plan: its names among the candidates, what was predicted and what turns measured, in seconds."""

    names: list[str]
    plan: Plan
    tokens: int
    predicted: tuple[float, float]
    first: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, object]:
        """For JSON: predicted and measured seconds to the first token and per token, medians over turns."""
        first, each = self.predicted
        return {
            "names": self.names,
            "stages": [[*stage.nodes, len(stage.layers)] for route in self.plan.routes for stage in route.stages],
            "ttft": [first, statistics.median(self.first)],
            "tpot": [each, statistics.median(self.each)],
            "turns": self.each,
        }


def trials(deployment: Switching) -> list[Trial]:
    """The candidates over the measured fleet, those with the same stages as one."""
    goal, fleet = deployment.goal, deployment.measured
    found: list[Trial] = []
    for name, plan in candidates(fleet, Request(deployment.spec, goal)).items():
        alike = [trial for trial in found if trial.plan.routes == plan.routes]
        if not alike:
            found += (alike := [_trial(plan, deployment)])
        alike[0].names.append(name)
    return found


def _trial(plan: Plan, deployment: Switching) -> Trial:
    rough = plan.prediction.time_per_token if plan.prediction else 1.0
    tokens = min(_MOST, max(_FEWEST, round(_SECONDS / rough)))
    goal = replace(deployment.goal, context=PROMPT + tokens // 2)
    prediction = predict(plan, deployment.measured, deployment.spec, goal)
    return Trial([], plan, tokens, (prediction.time_to_first_token, prediction.time_per_token))


def measure(deployment: Switching, rounds: int) -> list[Trial]:
    """Every trial in turn, so many times round."""
    found = trials(deployment)
    for _ in range(rounds):
        for trial in found:
            deployment.switch(trial.plan)
            asyncio.run(token_times(deployment.engine, 1, 3, PROMPT))
            begun = time.perf_counter()
            (times,) = asyncio.run(token_times(deployment.engine, 1, trial.tokens + 1, PROMPT))
            trial.first.append(times[0] - begun)
            trial.each.append((times[-1] - times[0]) / (len(times) - 1))
    return found


def facts(deployment: Switching, rounds: int) -> dict[str, object]:
    """For JSON: the fleet as it was measured, and every trial."""
    measured = measure(deployment, rounds)
    return {"fleet": fleet_to_data(deployment.measured), "trials": [trial.facts() for trial in measured]}
