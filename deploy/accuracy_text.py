"""Predicted beside measured, in words and tables. Reads plain data (`coordinator/report.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.table import Table

from potluck.deploy.columns import add_figures, add_words, titled
from potluck.deploy.tables import rate_text, seconds_text, speed_text

Data = Mapping[str, Any]
_NAMES = {"time_to_first_token": "time to first token", "time_per_output_token": "time per token"}
_QUANTITIES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "flops": ("computes", speed_text),
    "memory_bandwidth": ("reads memory at", rate_text),
    "disk_bandwidth": ("reads its disk at", rate_text),
    "latency": ("takes", seconds_text),
    "bandwidth": ("carries", lambda bandwidth: f"{bandwidth * 8 / 1e6:.3g} Mbit/s"),
}
_FAR = 0.3


def accuracy_table(accuracy: Data) -> Table:
    """predicted | measured | deviation, one row for what a user waits for, and one for every stage."""
    table = titled("predicted and measured")
    add_words(table, "")
    add_figures(table, "predicted", "measured", "deviation")
    for name, figure, text in _rows(accuracy):
        style = "yellow" if abs(figure["deviation"]) > _FAR else ""
        deviation = _deviation_text(figure["deviation"])
        table.add_row(name, text(figure["predicted"]), text(figure["measured"]), deviation, style=style)
    requests = max((figure["requests"] for _, figure, _ in _rows(accuracy)), default=0)
    table.caption = f"medians of {requests} requests that ran alone, each beside the prediction for its length"
    return table


def predicted_text(predicted: Data, prompt: int) -> str:
    """One line: what was promised before anything was measured."""
    first, each = predicted["time_to_first_token"], predicted["time_per_output_token"]
    return (
        f"predicted: {seconds_text(first)} to the first token of a prompt of {prompt} tokens, "
        f"{seconds_text(each)} per token, {1 / each:.3g} tokens/s"
    )


def remeasuring_text(cause: str, figure: Data) -> str:
    """Why nodes are measured again."""
    return f"{off_text(cause, figure)}; nodes and links are measured again as soon as no request runs"


def off_text(cause: str, figure: Data, verb: str = "is") -> str:
    """What is off, or was, by the figure that the table has, or had."""
    requests = f"in the median of {figure['requests']} requests"
    return f"{_NAMES.get(cause, cause)} {verb} {_deviation_text(figure['deviation'])} off its prediction {requests}"


def _deviation_text(deviation: float) -> str:
    """`+33%`; of less than half a percent `+0%`, whichever way."""
    return f"{round(deviation, 2) + 0.0:+.0%}"


def outcome_lines(outcome: Data, described: bool) -> Iterator[str]:
    """What measuring again found, and what follows."""
    if outcome["failure"]:
        yield f"measured nothing again: {outcome['failure']}"
        return
    for departure in outcome["departures"]:
        yield departure_text(departure, "described as" if described else "not")
    yield _conclusion(outcome, described)


def departure_text(departure: Data, taken: str) -> str:
    """`node laptop computes 12 GFLOPS, not 40 GFLOPS`."""
    verb, text = _QUANTITIES[departure["quantity"]]
    return f"{departure['subject']} {verb} {text(departure['found'])}, {taken} {text(departure['taken'])}"


def _conclusion(outcome: Data, described: bool) -> str:
    """What it means, and what there is to do."""
    if outcome["gain"]:
        better = f"a plan that is predicted to take {outcome['gain']:.0%} less is loaded as soon as no request runs"
        return f"{better}: nothing is to be done"
    if described and outcome["departures"]:
        would = "explain" if outcome["explained"] else "do not explain"
        kept = "the fleet's description is kept, since machines that are busy look slower, too"
        return f"these figures {would} the deviation; {kept}: correct the description only if this lasts"
    if outcome["explained"]:
        return "this explains the deviation; no other plan would be much better, so nothing is to be done"
    return (
        "this does not explain the deviation: see what else runs on the nodes; it is not looked into again for an hour"
    )


def _rows(accuracy: Data) -> Iterator[tuple[str, Data, Callable[[float], str]]]:
    for key, name in _NAMES.items():
        if key in accuracy:
            yield name, accuracy[key], seconds_text
    if "tokens_per_second" in accuracy:
        yield "tokens/s", accuracy["tokens_per_second"], lambda rate: f"{rate:.3g}"
    for stage in accuracy.get("stages", ()):
        yield f"stage {stage['stage'] + 1} computing ({stage['node']})", stage, seconds_text
