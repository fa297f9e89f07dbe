"""What every node of a plan holds, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from potluck.models.spec import PartKind
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan, Residency, Route, Share, Stage

_MOST = 6  # windows that are named one by one
_ENDS = frozenset({PartKind.EMBEDDING, PartKind.HEAD})
_AXES = (
    ("kv_heads", "KV heads", frozenset({PartKind.ATTENTION})),
    ("heads", "heads", frozenset({PartKind.ATTENTION})),
    ("ffn_columns", "FFN columns", frozenset({PartKind.FFN})),
    ("vocabulary", "vocabulary rows", _ENDS),
)


def holdings(plan: Plan) -> dict[NodeName, str]:
    """What every node holds: its windows separated by `|`, or where they are many, their sum."""
    told: dict[NodeName, str] = {}
    for number, route in enumerate(plan.routes, 1):
        place = f"route {number}: " if len(plan.routes) > 1 else ""
        for node, windows in _windows(route).items():
            text = place + (_many(windows) if len(windows) > _MOST else _each(windows))
            told[node] = f"{told[node]}; {text}" if node in told else text
    return told


def _windows(route: Route) -> dict[NodeName, list[tuple[Stage, Share]]]:
    held: dict[NodeName, list[tuple[Stage, Share]]] = {}
    for stage in route.stages:
        for share in stage.shares:
            held.setdefault(share.node, []).append((stage, share))
    return held


def _each(windows: Sequence[tuple[Stage, Share]]) -> str:
    return " | ".join(share_text(stage, share) for stage, share in windows)


def _many(windows: Sequence[tuple[Stage, Share]]) -> str:
    """`embedding, 51 layers in 42 windows, 26 of them from disk, head`."""
    layers = sum(len(stage.layers) for stage, _ in windows)
    streamed = sum(len(stage.layers) for stage, share in windows if share.residency is Residency.STREAMED)
    words = ["embedding"] if any(stage.has_embedding for stage, _ in windows) else []
    words.append(f"{layers} layers in {sum(bool(stage.layers) for stage, _ in windows)} windows")
    words += [f"{streamed} of them from disk"] if streamed else []
    return ", ".join([*words, "head"] if any(stage.has_head for stage, _ in windows) else words)


def share_text(stage: Stage, share: Share) -> str:
    """What a node holds of a stage: `embedding, layers 0-9`, `layers 0-9 (5 of 8 KV heads, 512 of 768 FFN columns)`."""
    layers = stage.layers
    words = ["embedding"] if stage.has_embedding else []
    if layers:
        words.append(f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}")
    text = ", ".join([*words, "head"] if stage.has_head else words)
    if split := ", ".join(_split(stage, share)):
        text = f"{text} ({split})"
    if share.residency is not Residency.STREAMED:
        return text
    return f"{text} from disk, {share.window} at a time" if share.window else f"{text} from disk"


def _split(stage: Stage, share: Share) -> Iterator[str]:
    kinds = {part.kind for part in stage.parts}
    for axis, name, split in _AXES:
        held: tuple[int, int] | None = getattr(share, axis)
        if held is None or not kinds & split:
            continue
        others = [getattr(other, axis) for other in stage.shares]
        # Where some are named by query heads and some by KV heads, neither says how many there are.
        total = f" of {max(end for _, end in others)}" if None not in others else ""
        count = held[1] - held[0]
        yield f"{count}{total} {name if total or count > 1 else name.removesuffix('s')}"
