"""Rotary frequencies of a layer, as plain numbers: the one place that knows how each scaling works.

Computed in double precision; `transformers` (the oracle of the tests) computes the same in float32.
"""

from __future__ import annotations

import math

from potluck.models.spec import ModelSpec, Rope, RopeScaling


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[list[float], float]:
    """The inverse frequencies and the attention factor of a rope.

    Pair i of a head (elements i and i + head_dim/2) turns by position x frequency[i] radians; cos and sin are both
    multiplied by the attention factor (1.0 except for yarn).

    Args:
        rope: base frequency and scaling.
        head_dim: width of one head, even.

    Returns:
        head_dim/2 inverse frequencies in radians per token, fastest first, and the attention factor.

    Raises:
        ValueError: head_dim is odd, or explicit factors are not head_dim/2 many.
    """
    if head_dim <= 0 or head_dim % 2:
        raise ValueError(f"a rotary embedding needs an even head width, not {head_dim}")
    plain = [rope.base ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    scaling = rope.scaling
    if scaling is None:
        return plain, 1.0
    match scaling.kind:
        case "linear":
            return [frequency / scaling.factor for frequency in plain], 1.0
        case "llama3":
            return [_llama3(frequency, scaling) for frequency in plain], 1.0
        case "factors":
            return _divided(plain, scaling.factors), 1.0
        case "yarn":
            return _yarn(plain, rope.base, scaling), _yarn_attention_factor(scaling)


def check_ropes(spec: ModelSpec) -> None:
    """Refuse a spec whose ropes have no finite frequencies, before anything is computed with them.

    Raises:
        ValueError: numbers that no rope can be made of.
    """
    for rope in {layer.rope for layer in spec.layers}:
        try:
            frequencies, factor = inverse_frequencies(rope, spec.head_dim)
        except ArithmeticError as error:
            raise ValueError(f"impossible rope: {error}") from None
        if not all(math.isfinite(number) for number in (*frequencies, factor)):
            raise ValueError("impossible rope: frequencies are not finite")


def _divided(plain: list[float], factors: tuple[float, ...]) -> list[float]:
    if len(factors) != len(plain):
        raise ValueError(f"{len(factors)} rope factors for {len(plain)} frequencies")
    return [frequency / factor for frequency, factor in zip(plain, factors, strict=True)]


def _llama3(frequency: float, scaling: RopeScaling) -> float:
    """Llama 3.1's smooth step between unscaled short and divided long wavelengths (`apply_scaling`, llama-models)."""
    turns = scaling.original_context * frequency / (2 * math.pi)
    if turns > scaling.high_freq_factor:
        return frequency
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _yarn(plain: list[float], base: float, scaling: RopeScaling) -> list[float]:
    """NTK-by-parts interpolation (arXiv 2309.00071, section 3.2), the ramp over pair numbers as in its code."""
    low = _pair_turning(scaling.beta_fast, len(plain), base, scaling.original_context)
    high = _pair_turning(scaling.beta_slow, len(plain), base, scaling.original_context)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    # The upper bound is head_dim - 1, not the last pair: the published code has it so, and models were tuned with it.
    low, high = max(low, 0), min(high, 2 * len(plain) - 1)
    width = high - low or 0.001
    scaled = []
    for pair, frequency in enumerate(plain):
        ramp = min(max((pair - low) / width, 0.0), 1.0)
        scaled.append(frequency / scaling.factor * ramp + frequency * (1 - ramp))
    return scaled


def _pair_turning(turns: float, pairs: int, base: float, context: int) -> float:
    """The (fractional) pair that turns this often over the original context."""
    return pairs * math.log(context / (turns * 2 * math.pi)) / math.log(base)


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    """sqrt(1/t) of arXiv 2309.00071, section 3.4: 0.1 ln(s) + 1."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
