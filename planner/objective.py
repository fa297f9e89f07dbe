"""What is made small, in seconds: by how long a token takes, or by how long after another the next one comes."""

from __future__ import annotations

from potluck.planner.goal import Goal
from potluck.planner.prediction import Prediction


def objective(prediction: Prediction, goal: Goal) -> float:
    """The cost of a plan for a goal, in seconds; less is better."""
    return cost_of(prediction.time_per_token, 1 / prediction.tokens_per_second, goal)


def cost_of(alone: float, next_: float, goal: Goal) -> float:
    """The cost of a time per token and of a time between tokens of all requests together."""
    if goal.aim == "latency":
        return alone
    return next_ if goal.aim == "throughput" else alone + next_
