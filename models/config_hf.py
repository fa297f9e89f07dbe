"""The model spec from a Hugging Face `config.json`. Where a field is absent, transformers' own default holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from potluck.models.config_quantization import quantization_of
from potluck.models.families import FAMILIES, UnsupportedModel
from potluck.models.fields import Fields
from potluck.models.rope_hf import rope_of
from potluck.models.spec import LayerSpec, ModelSpec

MAX_LAYERS = 4096
_MISTRAL_WINDOW = 4096
_FULL, _SLIDING = "full_attention", "sliding_attention"
_ACTIVATIONS: Mapping[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_REFUSED = {
    "final_logit_softcapping": "softcapping of logits",
    "attn_logit_softcapping": "softcapping of attention",
    "use_bidirectional_attention": "bidirectional attention",
    "mlp_bias": "a bias in the FFN",
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
}
# Published Gemma 3 configs leave these out, counting on Gemma3TextConfig.
_GEMMA3_DEFAULTS: Mapping[str, object] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}


def spec_from_config(config: Mapping[str, object], source: str, name: str) -> ModelSpec:
    """The spec of a model; without `encodings`, which stored tensors decide.

    Args:
        config: the parsed `config.json`.
        source: the file, for error messages.
        name: what to call the model.

    Raises:
        CheckpointError: a field is missing or malformed.
        UnsupportedModel: the architecture, or something it uses, is not supported.
    """
    fields, family = _text_fields(Fields(config, source))
    for key, feature in _REFUSED.items():
        if fields.data.get(key) or config.get(key):
            raise UnsupportedModel(source, feature)
    quantization_of(config, source)
    try:
        return _spec(fields, family, name)
    except ValueError as error:
        raise fields.fail("num_key_value_heads", f"consistent ({error})") from None


def _spec(fields: Fields, family: str, name: str) -> ModelSpec:
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    head_dim = _head_dim(fields, hidden, heads, family)
    gemma = family == "gemma3"
    biased = family in ("llama", "qwen3", "gemma3") and fields.flag("attention_bias", False)
    return ModelSpec(
        name=name,
        family=family,
        layers=_layers(fields, family),
        vocab=fields.integer("vocab_size"),
        hidden=hidden,
        ffn=fields.integer("intermediate_size"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", 8 if family == "mistral" else heads),
        head_dim=head_dim,
        context=fields.integer("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        attention_scale=(fields.number("query_pre_attn_scalar") if gemma else head_dim) ** -0.5,
        activation=_activation(fields, gemma),
        embedding_scale=math.sqrt(hidden) if gemma else 1.0,
        qkv_bias=family == "qwen2" or biased,
        output_bias=biased,
        qk_norm=family in ("qwen3", "gemma3"),
        post_norms=gemma,
        tied_head=fields.flag("tie_word_embeddings", False),
    )


def _text_fields(config: Fields) -> tuple[Fields, str]:
    """The fields of the text part, and its family. Gemma 3 with vision wraps them in `text_config`."""
    kind = config.text("model_type")
    family = {"gemma3_text": "gemma3"}.get(kind, kind)
    if family not in FAMILIES:
        raise UnsupportedModel(config.source, f"the architecture {kind!r}")
    if family != "gemma3":
        return config, family
    data = dict(config.data)
    if config.has("text_config"):
        data = {**config.inner("text_config").data}
        if config.has("tie_word_embeddings"):
            data["tie_word_embeddings"] = config.flag("tie_word_embeddings", True)
    given = {key: value for key, value in data.items() if value is not None}
    return Fields({**_GEMMA3_DEFAULTS, **given}, config.source), family


def _head_dim(fields: Fields, hidden: int, heads: int, family: str) -> int:
    if family == "qwen3" and "head_dim" not in fields.data:
        return 128
    if not fields.has("head_dim") and hidden % heads:
        raise fields.fail("num_attention_heads", f"a divisor of hidden_size ({hidden}), as there is no head_dim")
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.fail("head_dim", "even, for the rotary embedding")
    return head_dim


def _activation(fields: Fields, gemma: bool) -> Literal["silu", "gelu_tanh"]:
    key, default = ("hidden_activation", "gelu_pytorch_tanh") if gemma else ("hidden_act", "silu")
    name = fields.text(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(fields.source, f"the activation {name!r} ({', '.join(_ACTIVATIONS)} are)")
    return _ACTIVATIONS[name]


def _layers(fields: Fields, family: str) -> tuple[LayerSpec, ...]:
    ropes = {kind: rope_of(fields, kind, family) for kind in (_FULL, _SLIDING)}
    kinds = _layer_types(fields, family, fields.integer("num_hidden_layers", most=MAX_LAYERS))
    unknown = set(kinds) - set(ropes)
    if unknown:
        raise UnsupportedModel(fields.source, f"the layer type {min(unknown)!r}")
    window = (
        fields.integer("sliding_window", _MISTRAL_WINDOW if family == "mistral" else None)
        if _SLIDING in kinds
        else None
    )
    return tuple(LayerSpec(ropes[kind], window if kind == _SLIDING else None) for kind in kinds)


def _layer_types(fields: Fields, family: str, count: int) -> list[str]:
    """Which layers slide: as listed, or by the family's older rule."""
    if fields.has("layer_types") and family != "llama":
        return fields.texts("layer_types", count)
    if family == "gemma3":
        pattern = fields.integer("_sliding_window_pattern", fields.integer("sliding_window_pattern"))
        return [_SLIDING if (layer + 1) % pattern else _FULL for layer in range(count)]
    if family == "mistral":
        unlimited = fields.data.get("sliding_window", _MISTRAL_WINDOW) is None
        return [_FULL if unlimited else _SLIDING] * count
    if family in ("qwen2", "qwen3") and fields.flag("use_sliding_window", False) and fields.has("sliding_window"):
        first = fields.data.get("max_window_layers", 28)
        if not isinstance(first, int):
            raise fields.fail("max_window_layers", "a whole number")
        return [_SLIDING if layer >= first else _FULL for layer in range(count)]
    return [_FULL] * count
