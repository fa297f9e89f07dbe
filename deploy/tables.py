"""Tables for people; the same facts go out as JSON with --json."""

from __future__ import annotations

from rich import box
from rich.table import Table

from potluck.deploy.holdings import holdings
from potluck.planner.fleet import Fleet, Link, NodeName
from potluck.planner.plan import Plan


def bytes_text(count: float) -> str:
    """Bytes with a binary unit: 1536 -> 1.5 KiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def plan_table(plan: Plan, fleet: Fleet) -> Table:
    """Who holds what, how many bytes, and why."""
    table = Table(box=box.SIMPLE_HEAD, title=_plan_title(plan), title_justify="left", title_style="bold")
    for heading in ("node", "holds", "weights", "KV", "of memory", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "node")
    held = holdings(plan)
    for node in fleet.nodes:
        weights, kv = _bytes(plan, node.name)
        mark = " *" if node.name == fleet.engine else ""
        table.add_row(
            node.name + mark,
            held.get(node.name, "[dim]nothing[/dim]"),
            bytes_text(weights),
            bytes_text(kv),
            _of_memory(weights + kv, node.device.memory),
            plan.reasons.get(node.name, ""),
        )
    table.caption = "* requests arrive here"
    table.caption_justify = "left"
    return table


def _of_memory(nbytes: int, memory: int) -> str:
    # Of what comes and goes from disk only a window is in memory.
    return f"{min(1.0, nbytes / memory):.0%} of {bytes_text(memory)}"


def _bytes(plan: Plan, node: NodeName) -> tuple[int, int]:
    if plan.prediction is None:
        return 0, 0
    return plan.prediction.weight_bytes.get(node, 0), plan.prediction.kv_bytes.get(node, 0)


def _plan_title(plan: Plan) -> str:
    stages = [stage for route in plan.routes for stage in route.stages]
    split = sum(stage.is_group for stage in stages)
    count = f"{len(stages)} stages" + (f", {split} split among nodes" if split else "")
    count = f"{len(plan.routes)} routes, {count}" if len(plan.routes) > 1 else count
    title = f"{plan.model} · {plan.dtype} · {count} · KV for {plan.kv_tokens} tokens"
    if plan.prediction is None:
        return title
    first, each = plan.prediction.time_to_first_token, plan.prediction.time_per_token
    return f"{title} · predicted {seconds_text(first)} to the first token, {seconds_text(each)} per token"


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
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def nodes_table(fleet: Fleet, note: str = "") -> Table:
    """Every node with its measured or described speeds; `note` stands below."""
    table = Table(box=box.SIMPLE_HEAD, title=f"fleet: {fleet.name}", title_justify="left", title_style="bold")
    for heading in ("node", "device", "speed", "memory bandwidth", "memory", "disk", "has the model's file"):
        table.add_column(heading)
    for node in fleet.nodes:
        device = node.device
        table.add_row(
            node.name + (" *" if node.name == fleet.engine else ""),
            device.name or device.kind,
            speed_text(device.flops),
            rate_text(device.memory_bandwidth),
            bytes_text(device.memory),
            rate_text(node.disk_bandwidth) if node.disk_bandwidth else "unknown",
            "yes" if node.checkpoint else "no, fetches",
        )
    table.caption, table.caption_justify = f"* requests arrive here{note}", "left"
    return table


def links_table(fleet: Fleet) -> Table:
    """Latency and bandwidth between every two nodes, one direction a row."""
    table = Table(box=box.SIMPLE_HEAD, title="links", title_justify="left", title_style="bold")
    for heading in ("from", "to", "one way", "bandwidth"):
        table.add_column(heading)
    names = [node.name for node in fleet.nodes]
    for source in names:
        for target in names:
            if source != target:
                link = fleet.link(source, target)
                table.add_row(source, target, f"{link.latency * 1e3:.2f} ms", f"{link.bandwidth * 8 / 1e6:.0f} Mbit/s")
    return table
