"""Drawing tokens from logits: temperature, top-k, top-p and min-p over a batch, with keyed randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Top-p without top-k looks at this many best tokens first, and sorts all only where they hold less than p.
_FIRST_RANKS = 1024
_MASK_64 = (1 << 64) - 1
# Colder ones draw the likeliest token all the same, and as float32 they would be 0.
_LEAST_TEMPERATURE = 1e-30


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is drawn (temperature above 0), and its random number in [0, 1)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float

    @property
    def ranked(self) -> bool:
        """Whether the tokens' order by probability matters."""
        return self.top_k > 0 or self.top_p < 1.0


def uniform(seed: int, stream: int, position: int) -> float:
    """The random number in [0, 1) of one token: Philox 4x64 keyed by (seed, stream), counter = position.

    A function of its arguments alone, so that a replay draws alike in any batch, step and node. 52 bits: then
    uniform x total stays below total in float64, and a draw cannot fall off the end of the distribution.
    """
    key = np.array([seed & _MASK_64, stream & _MASK_64], dtype=np.uint64)
    counter = np.array([position & _MASK_64, 0, 0, 0], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw() >> 12) * 2.0**-52


def draw(logits_RV: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """One token per row. Filters apply in the order temperature, top-k, top-p, min-p, each to what is left.

    R = rows, V = vocabulary. Rows hold no NaN and at least one finite logit.
    """
    tokens = [0] * len(draws)
    temperatures_R1 = _column([max(one.temperature, _LEAST_TEMPERATURE) for one in draws], logits_RV)
    scaled_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)).div_(temperatures_R1)
    for ranked in (False, True):
        rows = [row for row, one in enumerate(draws) if one.ranked is ranked]
        if rows:
            own = [draws[row] for row in rows]
            part = scaled_RV if len(rows) == len(draws) else scaled_RV[rows]
            for row, token in zip(rows, _ranked(part, own) if ranked else _plain(part, own), strict=True):
                tokens[row] = token
    return tokens


def _plain(scaled_RV: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """Inverse of the cumulative distribution in vocabulary order; nothing is sorted. The best token has 0."""
    weights_RV = scaled_RV.exp()
    if any(one.min_p > 0 for one in draws):
        weights_RV.masked_fill_(weights_RV < _column([one.min_p for one in draws], scaled_RV), 0.0)
    return _invert(weights_RV, draws).tolist()


def _ranked(scaled_RV: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """Inverse of the cumulative distribution in order of probability, over the best tokens only."""
    vocabulary = scaled_RV.shape[1]
    ranks = min(max(one.top_k or _FIRST_RANKS for one in draws), vocabulary)
    tokens, enough = _draw_ranked(scaled_RV, draws, ranks)
    short = [row for row, is_enough in enumerate(enough) if not is_enough]
    if short and ranks < vocabulary:
        again, _ = _draw_ranked(scaled_RV[short], [draws[row] for row in short], vocabulary)
        for row, token in zip(short, again, strict=True):
            tokens[row] = token
    return tokens


def _draw_ranked(scaled_RV: torch.Tensor, draws: Sequence[Draw], ranks: int) -> tuple[list[int], list[bool]]:
    """Tokens drawn from the `ranks` best (C), and whether these held all that top-p keeps."""
    values_RC, ids_RC = scaled_RV.topk(ranks, dim=-1)
    weights_RC = values_RC.double().exp_()
    top_k_R1 = torch.tensor([[one.top_k or ranks] for one in draws], device=scaled_RV.device)
    weights_RC.masked_fill_(torch.arange(ranks, device=scaled_RV.device) >= top_k_R1, 0.0)
    totals = weights_RC.sum(-1, keepdim=True)
    if any(not one.top_k for one in draws):
        unlimited_R1 = torch.tensor([[not one.top_k] for one in draws], device=scaled_RV.device)
        totals = torch.where(unlimited_R1, scaled_RV.exp().sum(-1, keepdim=True, dtype=torch.float64), totals)
    limit_R1 = _column([one.top_p for one in draws], weights_RC) * totals
    summed_RC = weights_RC.cumsum(-1)
    dropped_RC = summed_RC - weights_RC >= limit_R1
    dropped_RC |= weights_RC < _column([one.min_p for one in draws], weights_RC)
    dropped_RC[:, 0] = False
    enough_R = (summed_RC[:, -1:] >= limit_R1).squeeze(1) | torch.tensor(
        [one.top_k > 0 for one in draws], device=summed_RC.device
    )
    picked_R1 = _invert(weights_RC.masked_fill_(dropped_RC, 0.0), draws).unsqueeze(1)
    return ids_RC.gather(1, picked_R1).squeeze(1).tolist(), enough_R.tolist()


def _invert(weights_RC: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Per row the first index whose cumulative weight exceeds uniform x total, in float64."""
    summed_RC = weights_RC.cumsum(-1, dtype=torch.float64)
    targets_R1 = _column([one.uniform for one in draws], summed_RC) * summed_RC[:, -1:]
    return torch.searchsorted(summed_RC, targets_R1, right=True).squeeze(1)


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)
