"""A model spec as bytes for the wire and back, checked as anything that comes from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from potluck.models.encodings import PACKED
from potluck.models.rope import check_ropes
from potluck.models.spec import LayerSpec, ModelSpec, Rope, RopeScaling

_MOST_LAYERS = 4096
_MOST_BYTES = 4 << 20
_MOST_INTEGER = 1 << 31

_Kind = TypeVar("_Kind", ModelSpec, LayerSpec, Rope, RopeScaling)


def pack_spec(spec: ModelSpec) -> bytes:
    """The spec as msgpack. Equal specs give equal bytes."""
    raw = asdict(spec)
    # Fingerprints are made of these bytes: a model without such matrices keeps the one that its shard files are under.
    if not spec.ordered:
        del raw["ordered"]
    return msgspec.msgpack.encode(raw)


def unpack_spec(data: bytes) -> ModelSpec:
    """The spec from `pack_spec`'s bytes.

    Raises:
        ValueError: the bytes are no model spec: malformed, a field too many or too few, of a wrong type or range.
    """
    if len(data) > _MOST_BYTES:
        raise ValueError(f"a model spec of {len(data)} bytes is too large")
    try:
        value = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ValueError(f"the model spec is not msgpack: {error}") from None
    raw = _exact(ModelSpec, {"ordered": []} | value if isinstance(value, dict) else value)
    layers, ordered = raw["layers"], raw["ordered"]
    if not isinstance(layers, list) or not 1 <= len(layers) <= _MOST_LAYERS:
        raise ValueError(f"the model spec needs a list of 1 to {_MOST_LAYERS} layers")
    if not _among(ordered, raw["encodings"]):
        raise ValueError("the model spec's ordered matrices have to be among those with an encoding")
    spec = _built(ModelSpec, raw | {"layers": tuple(_layer(layer) for layer in layers), "ordered": tuple(ordered)})
    check_ropes(spec)
    return spec


def _among(keys: object, mapping: object) -> bool:
    """Whether it is a list of some of the mapping's keys."""
    if not isinstance(keys, list) or not isinstance(mapping, dict):
        return keys == []
    return all(isinstance(key, str) and key in mapping for key in keys)


def _layer(value: object) -> LayerSpec:
    raw = _exact(LayerSpec, value)
    rope = _exact(Rope, raw["rope"])
    if rope["scaling"] is not None:
        scaling = _exact(RopeScaling, rope["scaling"])
        factors = scaling["factors"]
        if not isinstance(factors, list) or not all(_positive(factor) for factor in factors):
            raise ValueError("the model spec's rope factors have to be numbers above zero")
        rope["scaling"] = _built(RopeScaling, scaling | {"factors": tuple(factors)})
    return _built(LayerSpec, raw | {"rope": _built(Rope, rope)})


def _exact(kind: type, value: object) -> dict[str, Any]:
    """The value as a mapping with exactly the fields of the dataclass."""
    names = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"the model spec's {kind.__name__} has to have exactly the fields {', '.join(sorted(names))}")
    return dict(value)


def _built(kind: type[_Kind], raw: dict[str, Any]) -> _Kind:
    for name, hint in get_type_hints(kind).items():
        if not _fits(raw[name], hint):
            raise ValueError(f"the model spec's field {name!r} is {str(raw[name])[:40]!r}, not {hint}")
    return kind(**raw)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a dataclass field's type; numbers have to be finite and above zero."""
    if hint is int or hint is float:
        number = type(value) in ((int,) if hint is int else (int, float))
        return number and (_positive(value) or (hint is int and value == 0))
    if isinstance(hint, type):
        return type(value) is hint
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(type(key) is str and value[key] in PACKED for key in value)
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return value in choices
    if type(None) in choices:
        return value is None or any(_fits(value, choice) for choice in choices if choice is not type(None))
    return isinstance(value, tuple)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST_INTEGER
