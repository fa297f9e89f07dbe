"""What `cluster status` shows of a server's answer, most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from potluck.deploy.accuracy_text import accuracy_table, off_text, outcome_lines, remeasuring_text
from potluck.deploy.columns import add_figures, add_names, add_words, titled
from potluck.deploy.tables import bytes_text, seconds_text

Data = Mapping[str, Any]
# What a share's axes are called, and the parts that they split, by how these begin.
_AXES = {
    "kv_heads": ("KV head", ("layer", "attention")),
    "heads": ("head", ("layer", "attention")),
    "ffn_columns": ("FFN column", ("layer", "ffn")),
    "vocabulary": ("vocabulary row", ("embedding", "head")),
}
_SPENT = {"compute": "computing", "sums": "summing", "wait": "waiting", "transfer": "sending"}


def status_page(status: Data) -> RenderableType:
    """Everything for people.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: another version's answer.
    """
    parts: list[RenderableType] = [_headline(status)]
    if status["nodes"]:
        parts += [_nodes_table(status), _times_table(status), _accuracy(status)]
    parts += [Text(f"lost: {node}: {reason}", style="yellow") for node, reason in status.get("lost", {}).items()]
    parts += [Text(line, style="yellow") for line in _remeasured_lines(status)]
    return Group(*parts)


def _headline(status: Data) -> Text:
    line = Text(status["model"], style="bold")
    line.append(f" · epoch {status.get('epoch', 0)} · ", style="not bold")
    if not status["ready"]:
        return line.append(f"not serving: {status['reason']}", style="red")
    words = [f"{status['running']} running", f"{status['waiting']} waiting", f"KV {status['kv_used']:.0%}"]
    return line.append(" · ".join([*words, f"{status['tokens_per_second']:.1f} tok/s"]), style="not bold")


def _nodes_table(status: Data) -> Table:
    table = titled(f"fleet: {status['fleet']}", "* requests arrive here; resident is what the worker has in memory now")
    add_names(table, "node", [_name(node) for node in status["nodes"]])
    add_words(table, "holds")
    add_figures(table, "weights + KV", "of memory", "resident")
    for node in status["nodes"]:
        table.add_row(
            _name(node),
            " | ".join(_holdings(status["stages"], node["node"])) or "[dim]nothing[/dim]",
            bytes_text(node["weight_bytes"] + node["kv_bytes"]),
            bytes_text(node["memory"]),
            bytes_text(node["resident_bytes"]) if node["resident_bytes"] else "unknown",
        )
    return table


def _times_table(status: Data) -> Table:
    grouped = any(len(stage.get("shares", ())) > 1 for stage in status["stages"])
    spent = {kind: heading for kind, heading in _SPENT.items() if grouped or kind != "sums"}
    told = ["shares of the time since the last look", *(["summing: with the others of its group"] if grouped else [])]
    table = titled("time", "; ".join([*told, "stalled: all the time that disks were waited for"]))
    add_names(table, "node", [_name(node) for node in status["nodes"]])
    add_figures(table, *spent.values(), "stalled")
    for node in status["nodes"]:
        shares = (f"{node[kind]:.0%}" for kind in spent)
        table.add_row(_name(node), *shares, seconds_text(node["stall_seconds"]) if node["stall_seconds"] else "-")
    return table


def _name(node: Data) -> str:
    return str(node["node"]) + (" *" if node["requests_arrive"] else "")


def _holdings(stages: list[Data], node: str) -> Iterator[str]:
    for stage in stages:
        for share in stage.get("shares", [stage]):
            if share.get("node") == node:
                split = ", ".join(_split(stage["parts"], share))
                words = ", ".join(stage["parts"]) + (f" ({split})" if split else "")
                place = f"route {stage['route']}: " if "route" in stage else ""
                yield f"{place}{words} from disk" if share.get("residency") == "streamed" else f"{place}{words}"


def _split(parts: list[str], share: Data) -> Iterator[str]:
    """`KV head 2`, `FFN columns 0-1023`."""
    for axis, (name, begins) in _AXES.items():
        if axis in share and any(part.startswith(begins) for part in parts):
            held = str(share[axis])
            yield f"{name}{'s' if '-' in held else ''} {held}"


def _accuracy(status: Data) -> RenderableType:
    if "time_to_first_token" in status["accuracy"]:
        return accuracy_table(status["accuracy"])
    first, each = (status["predicted"][name] for name in ("time_to_first_token", "time_per_output_token"))
    return Text(
        f"predicted: {seconds_text(first)} to the first token, {seconds_text(each)} per token; nothing is measured yet"
    )


def _remeasured_lines(status: Data) -> Iterator[str]:
    again = status.get("remeasured")
    if not again:
        return
    if again["outcome"] is None:
        yield remeasuring_text(again["cause"], again)
    else:
        yield f"nodes and links were measured again, since {off_text(again['cause'], again, 'was')}:"
        yield from outcome_lines(again["outcome"], status["described"])
