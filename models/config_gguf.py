"""The model spec from GGUF metadata. Keys as in ggml's docs/gguf.md; defaults as llama.cpp has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from potluck.models.config_hf import MAX_LAYERS
from potluck.models.families import UnsupportedModel
from potluck.models.fields import Fields
from potluck.models.gguf_header import GgufHeader
from potluck.models.spec import LayerSpec, ModelSpec, Rope, RopeScaling

# Mistral's GGUF files say `llama`, too: the two do not differ for the decoder.
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
ROPE_FACTORS = "rope_freqs.weight"
_ACTIVATIONS: Mapping[str, Literal["silu", "gelu_tanh"]] = {"gemma3": "gelu_tanh"}
_GEMMA3_LOCAL_BASE, _GEMMA3_PATTERN, _GEMMA3_27B_LAYERS = 10_000.0, 6, 62
_REFUSED = {
    "expert_count": "a mixture of experts",
    "attn_logit_softcapping": "softcapping of attention",
    "final_logit_softcapping": "softcapping of logits",
    "rope.dimension_sections": "a rope over several axes (mrope)",
    "logit_scale": "a scale on logits",
}


@dataclass(frozen=True, slots=True)
class _Source:
    """Metadata of one architecture (keys without their prefix), the names of the tensors, and their shapes."""

    fields: Fields
    header: GgufHeader
    architecture: str

    @property
    def tensors(self) -> frozenset[str]:
        return frozenset(self.header.tensors)


def spec_from_gguf(header: GgufHeader, source: str, rope_factors: tuple[float, ...] | None) -> ModelSpec:
    """The spec of a model.

    Args:
        header: the parsed header.
        source: the file, for error messages.
        rope_factors: the content of the tensor `rope_freqs.weight`, where there is one: llama3's rope scaling.

    Raises:
        CheckpointError: a field is missing or malformed.
        UnsupportedModel: the architecture, or something it uses, is not supported.
    """
    file = _source(header, source)
    try:
        return _spec(file, rope_factors)
    except ValueError as error:
        raise file.fields.fail("attention.head_count_kv", f"consistent ({error})") from None


def _spec(file: _Source, rope_factors: tuple[float, ...] | None) -> ModelSpec:
    fields, architecture = file.fields, file.architecture
    gemma = architecture == "gemma3"
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = _head_dim(fields, hidden, heads)
    return ModelSpec(
        name=_name(file.header, fields.source),
        family=architecture,
        layers=_layers(file, rope_factors),
        vocab=fields.integer("vocab_size", _vocabulary(file)),
        hidden=hidden,
        ffn=fields.integer("feed_forward_length"),
        heads=heads,
        kv_heads=fields.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        context=fields.integer("context_length"),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        attention_scale=_attention_scale(fields, architecture, head_dim),
        activation=_ACTIVATIONS.get(architecture, "silu"),
        embedding_scale=math.sqrt(hidden) if gemma else 1.0,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        qk_norm=architecture in ("qwen3", "gemma3"),
        post_norms=gemma,
        tied_head="output.weight" not in file.tensors,
    )


def _source(header: GgufHeader, source: str) -> _Source:
    architecture = Fields(header.metadata, source).text("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UnsupportedModel(source, f"the architecture {architecture!r}")
    prefix = architecture + "."
    own = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise UnsupportedModel(source, "a GGUF in several files (join them with llama-gguf-split --merge)")
    for key, feature in _REFUSED.items():
        if own.get(key):
            raise UnsupportedModel(source, feature)
    return _Source(Fields(own, source), header, architecture)


def _name(header: GgufHeader, source: str) -> str:
    """What the file calls the model, without anything that could steer a terminal."""
    name = Fields(header.metadata, source).text("general.name", source.removesuffix(".gguf"))
    return "".join(letter for letter in name if letter.isprintable())[:100]


def _vocabulary(file: _Source) -> int | None:
    embedding = file.header.tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding else None


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    if not fields.has("attention.key_length") and hidden % heads:
        raise fields.fail("attention.head_count", f"a divisor of embedding_length ({hidden})")
    head_dim = fields.integer("attention.key_length", hidden // heads)
    if head_dim % 2:
        raise fields.fail("attention.key_length", "even, for the rotary embedding")
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(fields.source, "a width of values that differs from that of keys")
    if fields.integer("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel(fields.source, "a rope over part of a head (rope.dimension_count)")
    return head_dim


def _attention_scale(fields: Fields, architecture: str, head_dim: int) -> float:
    """Gemma 3 27B scales by hidden/heads; the file does not say so, llama.cpp knows it by its 62 layers, too."""
    if architecture == "gemma3" and fields.integer("block_count") == _GEMMA3_27B_LAYERS:
        return math.sqrt(fields.integer("attention.head_count") / fields.integer("embedding_length"))
    return fields.number("attention.scale", 1 / math.sqrt(head_dim))


def _layers(file: _Source, rope_factors: tuple[float, ...] | None) -> tuple[LayerSpec, ...]:
    fields = file.fields
    count = fields.integer("block_count", most=MAX_LAYERS)
    base = fields.number("rope.freq_base", 10_000.0)
    full = LayerSpec(Rope(base, _scaling(file, rope_factors)))
    if not fields.data.get("attention.sliding_window"):
        if file.architecture == "gemma3":
            raise fields.fail("attention.sliding_window", "the width of Gemma 3's sliding layers")
        return (full,) * count
    window = fields.integer("attention.sliding_window")
    if file.architecture == "gemma3":
        local = LayerSpec(Rope(fields.number("rope.freq_base_swa", _GEMMA3_LOCAL_BASE)), window)
        return tuple(local if slides else full for slides in _sliding(fields, count))
    if file.architecture == "llama":
        return (LayerSpec(full.rope, window),) * count
    raise UnsupportedModel(fields.source, f"a sliding window in {file.architecture}")


def _sliding(fields: Fields, count: int) -> list[bool]:
    """Which layers of Gemma 3 slide: all but every sixth, unless the file says otherwise."""
    key = "attention.sliding_window_pattern"
    listed = fields.data.get(key)
    if isinstance(listed, list):
        if len(listed) != count or not all(isinstance(slides, bool) for slides in listed):
            raise fields.fail(key, f"a list of {count} truth values")
        return listed
    pattern = fields.integer(key, _GEMMA3_PATTERN)
    return [(layer + 1) % pattern != 0 for layer in range(count)]


def _scaling(file: _Source, rope_factors: tuple[float, ...] | None) -> RopeScaling | None:
    """llama3's scaling is stored as one divisor per frequency, linear and yarn as keys."""
    fields = file.fields
    kind = fields.text("rope.scaling.type", "none")
    if rope_factors is not None:
        if file.architecture != "llama" or kind != "none":
            raise UnsupportedModel(
                fields.source, f"{ROPE_FACTORS} together with {file.architecture}'s {kind!r} scaling"
            )
        return RopeScaling("factors", 1.0, factors=rope_factors)
    match kind:
        case "none":
            # Older files have only the divisor.
            return _linear(fields.number("rope.scale_linear", 1.0))
        case "linear":
            return _linear(fields.number("rope.scaling.factor"))
        case "yarn":
            return _yarn(fields)
    raise UnsupportedModel(fields.source, f"rope scaling {kind!r} (linear, llama3 and yarn are)")


def _linear(factor: float) -> RopeScaling | None:
    return None if factor == 1.0 else RopeScaling("linear", factor)


def _yarn(fields: Fields) -> RopeScaling:
    """ggml multiplies the paper's attention factor by its own; the result is the same number as transformers'."""
    factor = fields.number("rope.scaling.factor")
    if fields.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0 or fields.has("rope.scaling.yarn_log_multiplier"):
        raise UnsupportedModel(fields.source, "yarn with an extrapolation or log multiplier of its own")
    own = fields.number("rope.scaling.yarn_attn_factor", fields.number("rope.scaling.attn_factor", 1.0))
    return RopeScaling(
        "yarn",
        factor,
        original_context=fields.integer("rope.scaling.original_context_length", fields.integer("context_length")),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=None if own == 1.0 else own * (0.1 * math.log(max(factor, 1.0)) + 1.0),
    )
