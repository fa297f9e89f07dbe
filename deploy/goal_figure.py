"""What plans are compared by, in the one unit that their goal is told in.

The planner makes a cost in seconds small (`planner.objective`). Throughput people read as tokens per second, so that is
what an answer's words, its data and its page say; this is the one place that turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from potluck.deploy.answer import Answer
from potluck.deploy.tables import seconds_text, tokens_text
from potluck.planner.goal import Aim
from potluck.planner.objective import objective

# In words of `--json`, which predicts figures of these names.
_BY: Mapping[Aim, str] = {
    "latency": "time_per_token",
    "throughput": "tokens_per_second",
    "balanced": "time_per_token + 1 / tokens_per_second",
}


def figure(cost: float, aim: Aim) -> float:
    """A cost as the goal has it: tokens per second for throughput, else seconds."""
    return 1 / cost if aim == "throughput" else cost


def figure_words(cost: float, aim: Aim) -> str:
    """A cost in words, in the goal's unit: `43.5 ms`, `680 tokens/s`."""
    return tokens_text(figure(cost, aim)) if aim == "throughput" else seconds_text(cost)


def reached(answer: Answer) -> str:
    """What the answer's plan comes to, in the goal's unit; a sum with what it is of."""
    prediction, cost = answer.prediction, objective(answer.prediction, answer.goal)
    if answer.goal.aim != "balanced":
        return figure_words(cost, answer.goal.aim)
    both = prediction.time_per_token, 1 / prediction.tokens_per_second
    return f"{seconds_text(cost)} ({' + '.join(map(seconds_text, both))})"


def compared(answer: Answer) -> dict[str, object]:
    """What plans were compared by, and what the plan, others that were found, and the bound have of it."""
    plan, aim = answer.plan, answer.goal.aim
    return {
        "by": _BY[aim],
        "chosen": figure(objective(answer.prediction, answer.goal), aim),
        "bound": figure(plan.proof.bound, aim) if plan.proof and plan.proof.bound > 0 else None,
        "others": [
            {"strategy": other.strategy, "nodes": list(other.nodes), "figure": figure(other.seconds, aim)}
            for other in plan.alternatives
        ],
    }
