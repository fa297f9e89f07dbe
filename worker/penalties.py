"""What changes logits before a draw: repetition, presence and frequency penalties, bias, banned tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from potluck.proto.step import Sampling
from potluck.worker.sampling_state import SequenceState

# As float32, smaller ones would turn logits into infinities.
_LEAST_REPETITION_PENALTY = 1e-6


def adjusts(sampling: Sampling) -> bool:
    """Whether this request's logits are changed at all."""
    return bool(
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.logit_bias
        or sampling.banned
    )


def adjust(logits_V: torch.Tensor, sampling: Sampling, state: SequenceState) -> None:
    """Change one row of float32 logits in place, touching only the tokens concerned.

    In this order: repetition over prompt and generated tokens (arXiv 1909.05858, section 4.1, with transformers'
    rule that a negative logit is multiplied); frequency x count + presence, over generated tokens only (OpenAI's
    API reference); bias, added (-100 and 100 decide on their own); banned tokens to minus infinity.
    """
    if sampling.repetition_penalty != 1.0 and state.seen():
        ids = _numbers(state.seen(), logits_V)
        values = logits_V[ids]
        penalty = max(sampling.repetition_penalty, _LEAST_REPETITION_PENALTY)
        logits_V[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and state.generated():
        ids = _numbers(state.generated(), logits_V)
        counts = _numbers(state.generated().values(), logits_V).to(logits_V.dtype)
        logits_V[ids] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    if sampling.logit_bias:
        bias = torch.tensor(list(sampling.logit_bias.values()), dtype=logits_V.dtype, device=logits_V.device)
        logits_V[_numbers(sampling.logit_bias, logits_V)] += bias
    if sampling.banned:
        logits_V[_numbers(sampling.banned, logits_V)] = float("-inf")


def _numbers(values: Iterable[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=like.device)
