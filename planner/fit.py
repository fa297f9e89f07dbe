"""Says in one line why a model does not fit, and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.planner.fleet import Node
from potluck.planner.goal import Goal
from potluck.planner.memory import worker_bytes
from potluck.planner.offers import Request


class DoesNotFit(Exception):
    """The nodes cannot hold the model with its KV; one line with the need, what each node has and the remedy."""


def size_text(count: float) -> str:
    """Bytes in binary units, for messages: 1536 -> 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def memory_text(node: Node, goal: Goal) -> str:
    """A node's memory, and how much of it may be used where that is not all: `4.0 GiB`, `4.0 GiB (of which 30%)`."""
    share = goal.share(node.name)
    return size_text(node.device.memory) + (f" (of which {share:.0%})" if share < 1 else "")


def _spare(node: Node, goal: Goal) -> str:
    return f"raise its share (--share {node.name}=...), or unpin it" if goal.share(node.name) < 1 else "unpin it"


def refusal(nodes: Sequence[Node], request: Request) -> DoesNotFit:
    """The error for nodes that cannot hold a model."""
    spec, goal, worker = request.spec, request.goal, size_text(worker_bytes(request.spec))
    name = goal.model or spec.name
    if not nodes:
        return DoesNotFit(f"model {name!r}: every node is excluded (--without); leave at least one in")
    for node in nodes:
        if node.name in goal.pinned and request.offer(node).room < 1:
            layer = request.on(node).layer_bytes
            return DoesNotFit(
                f"node {node.name!r} is pinned (--with), but its {memory_text(node, goal)} hold no layer of {name!r} "
                f"({size_text(layer)} with KV, and {worker} for the worker); {_spare(node, goal)}"
            )
    # The same model takes more on a GPU: it is told as it would lie where most of it would have to.
    request = request.on(max(nodes, key=lambda node: node.device.memory))
    need = request.ends_bytes + len(spec.layers) * request.layer_bytes
    has = ", ".join(f"{node.name} {memory_text(node, goal)}" for node in nodes)
    return DoesNotFit(
        f"model {name!r} in {goal.dtype} with KV for {goal.kv_tokens} tokens needs {size_text(need)}, of which "
        f"{size_text(request.ends_bytes)} (embedding and head) on one or two nodes, and {worker} "
        f"more per node; there is: {has}; {_remedy(nodes, request)}"
    )


def _remedy(nodes: Sequence[Node], request: Request) -> str:
    goal = request.goal
    remedies = []
    if not goal.streaming:
        remedies.append("leave out --no-streaming")
    elif not any(node.disk_bandwidth for node in nodes):
        remedies.append("say how fast the nodes' disks are, so that layers may be read from them")
    if goal.dtype == "float32":
        remedies.append("use bfloat16")
    elif not request.spec.encodings:
        remedies.append("--quantize int4")
    if goal.shares:
        remedies.append("raise a share (--share)")
    remedies += ["keep KV for fewer tokens (--context, --kv-tokens)", "add a node"]
    return ", ".join(remedies[:-1]) + f", or {remedies[-1]}"
