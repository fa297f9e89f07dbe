"""Which layers of a model cost the same, so that what is known of one is not worked out for each."""

from __future__ import annotations

from functools import lru_cache

from potluck.models.sizes import formats_of, layer_parts
from potluck.models.spec import ModelSpec, Part, PartKind

Like = tuple[PartKind, int | None]


@lru_cache(maxsize=16)
def layer_sorts(spec: ModelSpec) -> tuple[int, ...]:
    """For every layer the first one that has the same attention window, and its tensors in the same formats."""
    sorts = [(layer.window, formats_of(spec, layer_parts([number]))) for number, layer in enumerate(spec.layers)]
    first = {sort: number for number, sort in reversed(list(enumerate(sorts)))}
    return tuple(first[sort] for sort in sorts)


def like(part: Part, sorts: tuple[int, ...]) -> Like:
    """What parts that cost the same have in common: the kind, and of layers the sort."""
    return part.kind, None if part.layer is None else sorts[part.layer]
