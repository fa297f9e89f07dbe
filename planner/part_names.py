"""How a plan file names parts: `embedding`, `layers 0-9`, `layer 3`, `attention 3`, `ffn 3`, `head`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from potluck.models.sizes import layer_parts
from potluck.models.spec import ModelSpec, Part, PartKind
from potluck.planner.fields import FieldError, shown, suggestion, text
from potluck.planner.place import Place

_ENDS = {"embedding": Part(PartKind.EMBEDDING), "head": Part(PartKind.HEAD)}
_KINDS = {
    "layer": (PartKind.ATTENTION, PartKind.FFN),
    "attention": (PartKind.ATTENTION,),
    "ffn": (PartKind.FFN,),
}
_NUMBERED = re.compile(r"([a-z]+)\s+([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", re.ASCII)


def parts_from(value: object, where: Place | str, spec: ModelSpec) -> tuple[Part, ...]:
    """The parts that one entry of a plan file names.

    Raises:
        FieldError: an unknown name, or layers that the model does not have.
    """
    name = text(value, where).strip()
    if name in _ENDS:
        return (_ENDS[name],)
    match = _NUMBERED.fullmatch(name)
    word = match[1].removesuffix("s") if match else name
    if match is None or word not in _KINDS:
        raise FieldError(f"{where}: {shown(name)} is no part{_hint(name)}")
    first = int(match[2])
    last = int(match[3]) if match[3] else first
    if not first <= last < len(spec.layers):
        raise FieldError(f"{where}: {shown(name)}: model {spec.name!r} has layers 0-{len(spec.layers) - 1}")
    return tuple(Part(kind, layer) for layer in range(first, last + 1) for kind in _KINDS[word])


def part_names(parts: Sequence[Part]) -> list[str]:
    """The shortest list of names for consecutive parts; `parts_from` reads every one."""
    return list(_names(list(parts)))


def _names(parts: list[Part]) -> Iterator[str]:
    while parts:
        first = parts[0]
        whole = _whole_layers(parts)
        if whole:
            yield f"layer {whole[0]}" if len(whole) == 1 else f"layers {whole[0]}-{whole[-1]}"
            parts = parts[2 * len(whole) :]
        else:
            yield first.kind.value if first.layer is None else f"{first.kind.value} {first.layer}"
            parts = parts[1:]


def _whole_layers(parts: list[Part]) -> range:
    """The whole layers that a list of parts begins with."""
    start = parts[0].layer
    if start is None:
        return range(0)
    end = start
    while tuple(parts[2 * (end - start) : 2 * (end - start) + 2]) == layer_parts([end]):
        end += 1
    return range(start, end)


def _hint(name: str) -> str:
    words = name.split()
    if len(words) < 2:
        return suggestion(name, [*_ENDS, "layers 0-9"])
    known = ["layers", *_KINDS]
    return suggestion(words[0], known) if words[0] not in known else "; write for example 'layers 0-9'"
