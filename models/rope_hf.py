"""The rope of a layer from a Hugging Face config, in the old and the new layout.

Old (transformers 4): `rope_theta`, `rope_scaling`, and Gemma 3's `rope_local_base_freq`. New (transformers 5):
`rope_parameters`, flat or one object per layer type. Checked against `transformers.modeling_rope_utils`.
"""

from __future__ import annotations

import math

from potluck.models.families import UnsupportedModel
from potluck.models.fields import Fields
from potluck.models.spec import Rope, RopeScaling

_LAYER_TYPES = ("full_attention", "sliding_attention")
_DEFAULT_BASE = 10_000.0
_GEMMA3_BASES = {"full_attention": ("rope_theta", 1_000_000.0), "sliding_attention": ("rope_local_base_freq", 10_000.0)}


def rope_of(config: Fields, layer_type: str, family: str) -> Rope:
    """The rope of layers of this type ("full_attention" or "sliding_attention").

    Raises:
        CheckpointError: a field is missing or malformed.
        UnsupportedModel: the kind of scaling is unknown, or only part of a head is rotated.
    """
    parameters = _parameters(config, layer_type, family)
    _refuse_partial(config, parameters)
    base_field, base = _GEMMA3_BASES[layer_type] if family == "gemma3" else ("rope_theta", _DEFAULT_BASE)
    base = parameters.number("rope_theta", config.number(base_field, base))
    return Rope(base, _scaling(config, parameters))


def _parameters(config: Fields, layer_type: str, family: str) -> Fields:
    """The object that describes this layer type's rope; Gemma 3's scaling is for its full layers only."""
    new, old = config.inner("rope_parameters"), config.inner("rope_scaling")
    if any(key in new.data for key in _LAYER_TYPES):
        return new.inner(layer_type)
    flat = old if old.data else new
    if family == "gemma3" and layer_type == "sliding_attention":
        return Fields({}, flat.source)
    return flat


def _refuse_partial(config: Fields, parameters: Fields) -> None:
    for fields in (parameters, config):
        if fields.has("partial_rotary_factor") and fields.number("partial_rotary_factor") != 1.0:
            raise UnsupportedModel(fields.source, "a rope over part of a head (partial_rotary_factor)")
    if parameters.has("mrope_section"):
        raise UnsupportedModel(parameters.source, "a rope over several axes (mrope)")


def _scaling(config: Fields, parameters: Fields) -> RopeScaling | None:
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    match kind:
        case "default":
            return None
        case "linear":
            return RopeScaling("linear", parameters.number("factor"))
        case "llama3":
            return RopeScaling(
                "llama3",
                parameters.number("factor"),
                original_context=_original_context(config, parameters),
                low_freq_factor=parameters.number("low_freq_factor"),
                high_freq_factor=parameters.number("high_freq_factor"),
            )
        case "yarn":
            return _yarn(config, parameters)
    raise UnsupportedModel(parameters.source, f"rope scaling {kind!r} (linear, llama3 and yarn are)")


def _yarn(config: Fields, parameters: Fields) -> RopeScaling:
    original = _original_context(config, parameters)
    factor = parameters.number("factor", config.integer("max_position_embeddings") / original)
    return RopeScaling(
        "yarn",
        factor,
        original_context=original,
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        attention_factor=_attention_factor(parameters, factor),
        truncate=parameters.flag("truncate", True),
    )


def _original_context(config: Fields, parameters: Fields) -> int:
    inside = parameters.integer("original_max_position_embeddings", config.integer("max_position_embeddings"))
    return config.integer("original_max_position_embeddings", inside)


def _attention_factor(parameters: Fields, factor: float) -> float | None:
    """DeepSeek's `mscale` pair becomes one number; None leaves the paper's formula."""
    if parameters.has("attention_factor"):
        return parameters.number("attention_factor")
    if parameters.data.get("mscale") and parameters.data.get("mscale_all_dim"):
        above, below = parameters.number("mscale"), parameters.number("mscale_all_dim")
        stretch = 0.1 * math.log(factor) if factor > 1 else 0.0
        return (above * stretch + 1.0) / (below * stretch + 1.0)
    return None
