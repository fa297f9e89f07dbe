"""The shape of a model, as data. Every floor above reads it; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class PartKind(StrEnum):
    """What a part of a model is. A plan covers every part exactly once per pass."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    FFN = "ffn"
    HEAD = "head"


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One schedulable part: the embedding, one layer's attention or FFN, or the output head."""

    kind: PartKind
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    `linear` divides positions by `factor`; `llama3` and `yarn` (arXiv 2309.00071) treat low and high
    frequencies differently; `factors` divides each frequency by its own number (GGUF stores llama3 so, as the
    tensor `rope_freqs.weight`). `attention_factor` multiplies cos and sin (yarn); None derives it from `factor`.
    `truncate` rounds yarn's ramp to whole dimensions. `rope.inverse_frequencies` is the one reader of all this.
    """

    kind: Literal["linear", "llama3", "yarn", "factors"]
    factor: float
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of one layer: base frequency and optional scaling."""

    base: float
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What differs between layers: the attention window (tokens seen, itself included; None for full) and the rope."""

    rope: Rope
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a decoder-only transformer.

    Attributes:
        family: llama, mistral, qwen2, qwen3 or gemma3; for display, never for decisions in the decoder.
        hidden, ffn: widths of the residual stream and of the gated FFN.
        heads, kv_heads, head_dim: query heads, key/value heads, width of one head.
        context: the longest sequence the model was made for, in tokens.
        embedding_scale: factor on embedded tokens (Gemma: sqrt(hidden)).
        attention_scale: factor on q.k before softmax.
        qk_norm: RMSNorm over each head of q and k before the rope (Qwen3, Gemma 3).
        post_norms: RMSNorm on the output of attention and FFN before the residual sum (Gemma 3).
        tied_head: the output head is the embedding matrix.
        encodings: the matrices that the checkpoint stores in a format that is multiplied as it is, by tensor key
            ("3.q"), each with that format. Decides how many bytes they take, never what is computed from them.
        ordered: those of them whose columns the file stores in another order than the model's (GPTQ's act-order).
    """

    name: str
    family: str
    layers: tuple[LayerSpec, ...]
    vocab: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    attention_scale: float
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float = 1.0
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    tied_head: bool = False
    encodings: Mapping[str, str] = field(default_factory=dict, hash=False)
    ordered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse shapes that no computation could be right for.

        Raises:
            ValueError: a width is not positive, or query heads do not divide over KV heads.
        """
        for name in ("vocab", "hidden", "ffn", "heads", "kv_heads", "head_dim", "context"):
            if getattr(self, name) <= 0:
                raise ValueError(f"model {self.name!r}: {name} must be positive, not {getattr(self, name)}")
        if not self.layers:
            raise ValueError(f"model {self.name!r} has no layers")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model {self.name!r}: {self.heads} query heads do not divide over {self.kv_heads} KV heads"
            )

    def __hash__(self) -> int:
        """Of the widths alone: whoever plans looks up what is known of a model a hundred thousand times.

        All fields, every layer among them, were 40 % of the time that a fleet of 8 nodes took.
        """
        return hash((self.vocab, self.hidden, self.ffn, self.heads, self.kv_heads, self.head_dim, len(self.layers)))

    def parts(self) -> Iterator[Part]:
        """All parts, in the order a token visits them."""
        yield Part(PartKind.EMBEDDING)
        for layer in range(len(self.layers)):
            yield Part(PartKind.ATTENTION, layer)
            yield Part(PartKind.FFN, layer)
        yield Part(PartKind.HEAD)

    def parameters(self, part: Part) -> int:
        """Number of weights in a part. A tied head counts in full: a node that runs it must hold it."""
        match part.kind:
            case PartKind.EMBEDDING:
                return self.vocab * self.hidden
            case PartKind.HEAD:
                return self.vocab * self.hidden + self.hidden
            case PartKind.FFN:
                return 3 * self.hidden * self.ffn + self.hidden * (2 if self.post_norms else 1)
            case PartKind.ATTENTION:
                query, keys = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
                weights = self.hidden * (2 * query + keys)
                biases = (query + keys if self.qkv_bias else 0) + (self.hidden if self.output_bias else 0)
                norms = self.hidden * (2 if self.post_norms else 1) + (2 * self.head_dim if self.qk_norm else 0)
                return weights + biases + norms

    def kv_width(self) -> int:
        """Numbers kept per token and layer: keys and values of all KV heads."""
        return 2 * self.kv_heads * self.head_dim
