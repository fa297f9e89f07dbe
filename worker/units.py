"""Units: weights that are read, streamed and dropped as one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from potluck.models.spec import ModelSpec, PartKind
from potluck.worker.cut import Cut


class Unit(NamedTuple):
    """Weights that lie together: `embedding`, `layer`, `output_norm` or `head`; `cut` is what is held, None for all."""

    name: str
    layer: int | None = None
    cut: Cut | None = None

    def __str__(self) -> str:
        """`embedding`, `layer-007`."""
        return self.name if self.layer is None else f"{self.name}-{self.layer:03d}"


def units_of(spec: ModelSpec, kinds: Iterable[PartKind], layers: Iterable[int], cut: Cut | None = None) -> list[Unit]:
    """The units of some layers and of the embedding and head, in the order in which a token needs them."""
    ends = set(kinds)
    units = [Unit("embedding", cut=cut)] if PartKind.EMBEDDING in ends else []
    units += [Unit("layer", layer, cut) for layer in layers]
    if PartKind.HEAD in ends:
        units += [Unit("output_norm"), head_unit(spec, cut)]
    return list(dict.fromkeys(units))


def head_unit(spec: ModelSpec, cut: Cut | None = None) -> Unit:
    """The unit of the head's matrix: a tied head multiplies by the embedding's."""
    return Unit("embedding" if spec.tied_head else "head", cut=cut)
