"""What plans are compared by, in the one unit that their goal is told in.

The planner makes a cost in seconds small (`planner.objective`). Throughput people read as tokens per second, so that is
what an answer's words, its data and its page say; this is the one place that turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from potluck.deploy.answer import Answer
from potluck.deploy.tables import seconds_text, tokens_text
from potluck.planner.goal import Aim, Goal
from potluck.planner.objective import objective

# In words of `--json`, which predicts figures of these names.
_BY: Mapping[Aim, str] = {
    "latency": "time_per_token",
    "throughput": "tokens_per_second",
    "balanced": "time_per_token + 1 / tokens_per_second",
}

_AIMS: Mapping[Aim, str] = {
    "latency": "the shortest time per token of {users}",
    "throughput": "most tokens per second of many requests",
    "balanced": "the least sum of a user's time per token and the fleet's time between tokens",
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


def goal_sentences(answer: Answer) -> Iterator[str]:
    """What is aimed at and reached, and what many requests get where that does not say it."""
    goal, several = answer.goal, len(answer.plan.routes) > 1
    rate, each = answer.prediction.tokens_per_second, answer.prediction.time_per_token
    users = "one user" if goal.batch == 1 else f"each of {goal.batch} users"
    over = f" over {len(answer.plan.routes)} routes side by side; times are those of the first" if several else ""
    told = f"Goal: {goal.aim}, {_AIMS[goal.aim].format(users=users)}: {reached(answer)}"
    yield f"{told}{'' if goal.aim == 'latency' else over}."
    if rate * each >= goal.batch * 1.01 and goal.aim != "throughput":
        yield f"As many requests as keep all busy get {tokens_text(rate)}{over if goal.aim == 'latency' else ''}."
    elif rate * each < goal.batch * 1.01 and goal.batch == 1 and not several:
        yield "Requests that come at the same time share its steps: --batch 8 says how fast."


def subject(goal: Goal) -> str:
    """Whose figures an answer's page shows."""
    one = "one request that has the fleet to itself" if goal.batch == 1 else f"each of {goal.batch} requests at once"
    if goal.aim != "throughput":
        return f"for {one}"
    return f"tokens/s of as many requests as keep all nodes busy, times of {one}"


def tokens_per_second(answer: Answer) -> float:
    """Of everybody where that is the goal, else of one request."""
    prediction = answer.prediction
    return prediction.tokens_per_second if answer.goal.aim == "throughput" else 1 / prediction.time_per_token


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
