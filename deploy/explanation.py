"""The answer of `cluster plan`, for people: who holds what and why, where a token's time goes, and what limits it.

What the planner tells beside a plan (what the next best plan would have cost, how near the plan is to a bound) belongs
here, too, in `explained`.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from potluck.deploy.answer import Answer
from potluck.deploy.columns import add_figures, add_words, titled
from potluck.deploy.goal_figure import figure_words, goal_sentences
from potluck.deploy.holdings import share_text
from potluck.deploy.tables import bytes_text, figure_text, link_text, plan_table, seconds_text, tokens_text
from potluck.deploy.token_time import Span, seconds_by, token_spans
from potluck.models.spec import ModelSpec
from potluck.planner.evidence import Alternative

# More stages than this are a table that nobody reads: the sums below it say what matters.
_MOST_ROWS = 12
WORDS = {
    "compute": "computing",
    "memory": "reading memory",
    "wait": "waiting for others",
    "disk": "waiting for disks",
    "transfer": "between nodes",
    "sums": "summing in groups",
    "software": "in software",
}


def explained(answer: Answer) -> RenderableType:
    """Everything, from the plan to the sentence about what limits it."""
    spans = token_spans(answer)
    shown = [plan_table(answer.plan, answer.fleet)]
    if 1 < len(answer.stages) <= _MOST_ROWS:
        shown.append(_way_table(answer, spans))
    return Group(*shown, Text("\n".join(sentences(answer)) + "\n"))


def sentences(answer: Answer) -> list[str]:
    """What is predicted, what it is made of, and what the prediction stands on."""
    prediction, goal = answer.prediction, answer.goal
    each = prediction.time_per_token
    spent = {work: seconds for work, seconds in seconds_by(answer).items() if seconds >= each / 1000}
    parts = [f"{seconds_text(seconds)} {WORDS[work]}" for work, seconds in spent.items()]
    metal = [node for node, kind in answer.fleet.kinds.items() if kind == "metal" and node in answer.plan.nodes]
    not_yet = f"Not yet: on {', '.join(metal)} this version computes on the processor, not on Metal as planned here."
    return [
        f"First token of a prompt of {goal.prompt} tokens: {seconds_text(prediction.time_to_first_token)}.",
        f"Then {tokens_text(1 / each)}{_for_all(answer)}: {seconds_text(each)} each, of which {', '.join(parts)}.",
        f"What takes longest: {prediction.bottleneck}.",
        " ".join(goal_sentences(answer)),
        f"Model: {shape_text(answer)}, from {answer.origin or 'a description'}.",
        *_evidence(answer),
        *([not_yet] if metal else []),
    ]


def _evidence(answer: Answer) -> list[str]:
    """What else was found, and how good the plan is known to be."""
    plan, told = answer.plan, []
    if plan.alternatives:
        other = plan.alternatives[0]
        told.append(f"Next best: {_next_best(other)}, {figure_words(other.seconds, answer.goal.aim)}.")
    if plan.proof:
        proved = "proved to be the best" if plan.proof.is_optimal else f"at most {plan.proof.gap:.1%} from the best"
        told.append(f"{_kind(plan.proof.strategy).capitalize()}, {proved} ({plan.proof.method}).")
    return told


def _next_best(other: Alternative) -> str:
    nodes, kind = ", ".join(other.nodes), _kind(other.strategy)
    if other.strategy == "single node" and len(other.nodes) > 1:
        return f"{kind} for all layers, embedding or head elsewhere ({nodes})"
    return f"{kind} on {nodes}" if nodes else kind


def _kind(strategy: str) -> str:
    return strategy if strategy == "replicas" else f"a {strategy}"


def _for_all(answer: Answer) -> str:
    """Whose tokens per second these are, where the fleet serves more than this one request."""
    goal = answer.goal
    if goal.batch == 1:
        return " for a request alone" if goal.aim != "latency" else ""
    together = figure_text(goal.batch / answer.prediction.time_per_token)
    where = " there" if len(answer.plan.routes) > 1 else ""
    return f" for each of {goal.batch} requests, {together} for all together{where}"


def shape_text(answer: Answer) -> str:
    """`70.6 billion parameters in 80 layers, 41.2 GiB as planned`."""
    count, spec = answer.parameters, answer.spec
    size = f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
    planned = sum(answer.prediction.weight_bytes.values())
    return f"{size} parameters in {_layers(spec)}, {bytes_text(planned)} as planned"


def _layers(spec: ModelSpec) -> str:
    return f"{len(spec.layers)} layers"


def _way_table(answer: Answer, spans: tuple[Span, ...]) -> Table:
    """The way of a token: each stage with its time, and the link it arrives over with the hop's."""
    table = titled(f"the way of a token{', first route' if len(answer.plan.routes) > 1 else ''}")
    add_figures(table, "")
    add_words(table, "arrives over")
    add_figures(table, "hop")
    add_words(table, "is computed on")
    add_figures(table, "time")
    hops = {span.stage: span for span in spans if span.work == "transfer"}
    for number, stage in enumerate(answer.stages):
        here = sum(span.seconds for span in spans if span.stage == number and span.work != "transfer")
        words = f"{' + '.join(stage.nodes)}: {share_text(stage, stage.shares[0])}"
        table.add_row(str(number + 1), *_hop_cells(answer, hops.get(number)), words, seconds_text(here))
    back = hops.get(len(answer.stages))
    if back:
        table.add_row("", *_hop_cells(answer, back), f"{answer.fleet.engine}: the token is there", "")
    return table


def _hop_cells(answer: Answer, hop: Span | None) -> tuple[str, str]:
    if hop is None:
        return "", ""
    link = answer.fleet.link(hop.node, hop.to)
    return f"{hop.node} -> {hop.to} ({link_text(link)})", seconds_text(hop.seconds)
