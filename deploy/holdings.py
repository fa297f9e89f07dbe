"""What every node of a plan holds, in words."""

from __future__ import annotations

from collections.abc import Iterator

from potluck.models.spec import PartKind
from potluck.planner.fleet import NodeName
from potluck.planner.plan import Plan, Residency, Share, Stage

_ENDS = frozenset({PartKind.EMBEDDING, PartKind.HEAD})
_AXES = (
    ("kv_heads", "KV heads", frozenset({PartKind.ATTENTION})),
    ("heads", "heads", frozenset({PartKind.ATTENTION})),
    ("ffn_columns", "FFN columns", frozenset({PartKind.FFN})),
    ("vocabulary", "vocabulary rows", _ENDS),
)


def holdings(plan: Plan) -> dict[NodeName, str]:
    """What every node of the first route holds, its windows separated by `|`."""
    held: dict[NodeName, list[str]] = {}
    for stage in plan.routes[0].stages:
        for share in stage.shares:
            held.setdefault(share.node, []).append(share_text(stage, share))
    return {node: " | ".join(windows) for node, windows in held.items()}


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
        yield f"{held[1] - held[0]}{total} {name}"
