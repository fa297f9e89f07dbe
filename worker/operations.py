"""The operations a shard computes its layers with, chosen once: those of `kernels/`, or those of `kernels/gpu/`.

Only a shard that computes on a GPU imports the latter, and Triton with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from potluck.kernels.attention import paged_attention
from potluck.kernels.attention_inputs import HeadNorm, place_qkv
from potluck.kernels.attention_plan import Paging, Span, plan_attention
from potluck.kernels.decode_layers import NO_SUM, SumCall
from potluck.kernels.extension import native
from potluck.kernels.gated import Activation, gated
from potluck.kernels.halves import DecodeStep
from potluck.kernels.rms_norm import rms_norm
from potluck.worker.residence import Product

Kernels = Literal["cpu", "gpu"]
Rotary = tuple[torch.Tensor, torch.Tensor]
# Each set's own: what `plan` makes, `attend` takes, and nobody looks into it.
Plan = Any


@dataclass(frozen=True, slots=True)
class Operations:
    """A set of operations. None of them waits for its device, but `plan`, which runs once per step.

    Attributes:
        norm: (x, weight, eps, dtype), as `kernels.rms_norm`.
        gate: (gate_up, activation), as `kernels.gated`.
        place_qkv: (qkv, rotary, pool, slots, head norm), as `kernels.attention_inputs`.
        plan: (spans, paging) -> what every row of a step sees.
        attend: (q, pool, plan, scale) -> (T, H, E) in q's dtype.
        reads_unwritten: whether `attend` reads slots that nobody wrote, to give them no weight: old content, which may
            be NaN, must be wiped before.
        decode: (slots, rotary, plan) of single rows -> the step as `kernels.halves` reads it; None where none are.
        sum: what attention or FFN gave -> that of all members of the window's group; a node alone has it already.
        summed: (product, x) -> the same of a product's result.
        in_one: (numbers of a part) -> what forms such sums where layers go through in one call, for as long as that
            takes (`kernels.decode_layers`); None where sums are not formed so.
    """

    norm: Callable[[torch.Tensor, torch.Tensor, float, torch.dtype], torch.Tensor]
    gate: Callable[[torch.Tensor, Activation], torch.Tensor]
    place_qkv: Callable[[torch.Tensor, Rotary, torch.Tensor, torch.Tensor, HeadNorm | None], torch.Tensor]
    plan: Callable[[Sequence[Span], Paging], Plan]
    attend: Callable[[torch.Tensor, torch.Tensor, Plan, float], torch.Tensor]
    reads_unwritten: bool
    decode: Callable[[torch.Tensor, Rotary, Plan], DecodeStep] | None = None
    sum: Callable[[torch.Tensor], torch.Tensor] = lambda part_TD: part_TD
    summed: Callable[[Product, torch.Tensor], torch.Tensor] = lambda product, x_TI: product(x_TI)
    in_one: Callable[[int], AbstractContextManager[SumCall] | None] = lambda count: nullcontext(NO_SUM)


CPU = Operations(
    *(rms_norm, gated, place_qkv, plan_attention, paged_attention),
    reads_unwritten=True,
    decode=None if native is None else DecodeStep,
)


def operations_of(kernels: Kernels, group: int) -> Operations:
    """The operations; `group` query heads share a KV head."""
    return CPU if kernels == "cpu" else _gpu(group)


def _gpu(group: int) -> Operations:
    from potluck.kernels.gpu import attention, attention_plan, gated, rms_norm, rotary

    def norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        return rms_norm.rms_norm(x_TD.float().contiguous(), weight_D, eps, dtype)

    def plan(spans: Sequence[Span], paging: Paging) -> Plan:
        return attention_plan.plan_attention(spans, paging, group)

    def attend(q_THE: torch.Tensor, pool_NS2KE: torch.Tensor, plan: Plan, scale: float) -> torch.Tensor:
        return attention.paged_attention(q_THE, pool_NS2KE, plan, scale, dtype=q_THE.dtype)[0]

    return Operations(norm, gated.gated, rotary.place_qkv, plan, attend, reads_unwritten=False)
