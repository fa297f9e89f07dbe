"""What one node of a group holds of a window: ranges along the axes that a group is split by. Pure.

Each member computes with a smaller model of the same kind (`local_spec`): fewer heads, FFN columns, vocabulary rows.
Its products by the output and down matrices are partial sums that the group adds up (Megatron-LM, arXiv 1909.08053;
TPI-LLM, arXiv 2410.00531). Query heads follow their KV heads; members that share a KV head each keep a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from potluck.models.spec import ModelSpec

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """Half-open ranges of query heads, FFN columns and vocabulary rows, as the whole model numbers them."""

    heads: Range
    columns: Range
    vocabulary: Range


def whole(spec: ModelSpec) -> Cut:
    """All of a model."""
    return Cut((0, spec.heads), (0, spec.ffn), (0, spec.vocab))


def check_cut(spec: ModelSpec, cut: Cut) -> None:
    """Refuse a cut that is not within a model.

    Raises:
        ValueError: which axis is wrong.
    """
    axes = ("heads", cut.heads, spec.heads), ("FFN columns", cut.columns, spec.ffn)
    for what, (first, end), length in (*axes, ("vocabulary rows", cut.vocabulary, spec.vocab)):
        if not 0 <= first < end <= length:
            raise ValueError(f"{what} {first}-{end - 1} are not within the model's 0-{length - 1}")


def kv_heads(spec: ModelSpec, cut: Cut) -> Range:
    """The KV heads that the cut's query heads attend with."""
    group = spec.heads // spec.kv_heads
    return cut.heads[0] // group, -(-cut.heads[1] // group)


def computed_heads(spec: ModelSpec, cut: Cut) -> Range:
    """The query heads that are computed: the cut's own, or where they are parts of several KV heads' groups, all of
    those groups (attention wants as many query heads for each KV head); what is not the cut's own counts for nothing.
    """
    first, end = kv_heads(spec, cut)
    group = spec.heads // spec.kv_heads
    return cut.heads if end - first == 1 else (first * group, end * group)


def local_spec(spec: ModelSpec, cut: Cut) -> ModelSpec:
    """The shape of what a member computes with."""
    keys, queries = kv_heads(spec, cut), computed_heads(spec, cut)
    return replace(
        spec,
        heads=queries[1] - queries[0],
        kv_heads=keys[1] - keys[0],
        ffn=cut.columns[1] - cut.columns[0],
        vocab=cut.vocabulary[1] - cut.vocabulary[0],
    )
