"""Tables for people; the same facts go out as JSON with --json."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from potluck.deploy.columns import add_figures, add_names, add_words, titled
from potluck.deploy.holdings import holdings
from potluck.planner.fleet import Fleet, Link, NodeName
from potluck.planner.plan import Plan

_PREDICTED = ("time_to_first_token", "time_per_token", "tokens_per_second")
# Less than that is one request's own rate, as it was rounded.
_MORE_THAN_ONE = 1.01


def bytes_text(count: float) -> str:
    """Bytes with a binary unit: 1536 -> 1.5 KiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def plan_table(plan: Plan, fleet: Fleet) -> RenderableType:
    """Who holds what, how many bytes, and why."""
    names = {node.name: node.name + (" *" if node.name == fleet.engine else "") for node in fleet.nodes}
    table = titled(_plan_title(plan), "* requests arrive here")
    add_names(table, "node", names.values())
    add_words(table, "holds")
    add_figures(table, "weights", "KV", "of memory")
    held = holdings(plan)
    for node in fleet.nodes:
        weights, kv = _bytes(plan, node.name)
        table.add_row(
            names[node.name],
            held.get(node.name, "[dim]nothing[/dim]"),
            bytes_text(weights),
            bytes_text(kv),
            f"{_held(plan, node.name) / node.device.memory:.0%} of {bytes_text(node.device.memory)}",
        )
    return Group(table, *_reasons(plan, fleet))


def _reasons(plan: Plan, fleet: Fleet) -> list[Table]:
    """Whole sentences, with all the room there is. Plans made by hand have none."""
    reasons = {node.name: plan.reasons[node.name] for node in fleet.nodes if plan.reasons.get(node.name)}
    table = titled("why")
    table.show_header = False
    add_names(table, "", reasons)
    add_words(table, "")
    for node, reason in reasons.items():
        table.add_row(node, reason)
    return [table] if reasons else []


def _bytes(plan: Plan, node: NodeName) -> tuple[int, int]:
    if plan.prediction is None:
        return 0, 0
    return plan.prediction.weight_bytes.get(node, 0), plan.prediction.kv_bytes.get(node, 0)


def _held(plan: Plan, node: NodeName) -> int:
    """Bytes in a node's memory: of what comes and goes from disk only a window. Older plan files do not say."""
    held = plan.prediction.memory_bytes if plan.prediction else {}
    return held.get(node, sum(_bytes(plan, node)))


def _plan_title(plan: Plan) -> str:
    stages = [stage for route in plan.routes for stage in route.stages]
    split = sum(stage.is_group for stage in stages)
    count = f"{len(stages)} {'stage' if len(stages) == 1 else 'stages'}" + (
        f", {split} split among nodes" if split else ""
    )
    count = f"{len(plan.routes)} routes, {count}" if len(plan.routes) > 1 else count
    title = f"{plan.model} · {plan.dtype} · {count} · KV for {plan.kv_tokens} tokens"
    if plan.prediction is None:
        return title
    first, each, rate = (getattr(plan.prediction, name) for name in _PREDICTED)
    times = f"{title} · predicted {seconds_text(first)} to the first token, {seconds_text(each)} per token"
    return f"{times}, up to {tokens_text(rate)} for many requests" if rate * each > _MORE_THAN_ONE else times


def speed_text(flops: float) -> str:
    """Operations per second: 15.3 TFLOPS, 32 GFLOPS."""
    return f"{flops / 1e12:.1f} TFLOPS" if flops >= 1e12 else f"{flops / 1e9:.0f} GFLOPS"


def rate_text(bandwidth: float) -> str:
    """Bytes per second of a memory or a disk: 288 GB/s, 90 MB/s."""
    return f"{bandwidth / 1e9:.1f} GB/s" if bandwidth >= 1e9 else f"{bandwidth / 1e6:.0f} MB/s"


def link_text(link: Link) -> str:
    """A link: 3 ms, 400 Mbit/s."""
    bits = link.bandwidth * 8
    rate = f"{bits / 1e9:.3g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.3g} Mbit/s"
    return f"{seconds_text(link.latency)}, {rate}"


def seconds_text(seconds: float) -> str:
    """Seconds for people: 0.2 ms, 41 ms, 1.3 s."""
    return f"{figure_text(seconds)} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def tokens_text(tokens_per_second: float) -> str:
    """Tokens per second for people."""
    return f"{figure_text(tokens_per_second)} tokens/s"


def figure_text(number: float) -> str:
    """Three digits, or all before the point: 0.123, 12.3, 1234."""
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"


def links_table(fleet: Fleet) -> Table:
    """Latency and bandwidth between every two nodes, one direction a row, below the node that sends."""
    loaded = any(link.loaded for link in fleet.links.values())
    table = titled("links", "one way; loaded: while all nodes send" if loaded else "one way")
    add_words(table, "from -> to")
    add_figures(table, "latency", "Mbit/s", *(["loaded", "Mbit/s"] if loaded else []))
    names = [node.name for node in fleet.nodes]
    for source in names:
        # A name a line: two long ones side by side would leave no room for figures.
        table.add_row(source)
        for target in (name for name in names if name != source):
            link = fleet.link(source, target)
            under_load = _link_columns(link.loaded) if link.loaded else ("unknown", "")
            table.add_row(f"-> {target}", *_link_columns(link), *(under_load if loaded else []))
    return table


def _link_columns(link: Link) -> tuple[str, str]:
    return f"{link.latency * 1e3:.2f} ms", f"{link.bandwidth * 8 / 1e6:.0f}"
