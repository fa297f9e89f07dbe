"""Rotary position embedding (arXiv 2104.09864), halves convention: element i turns with element i + E/2."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_FIRST_POSITIONS = 512


class RotaryTable:
    """cos and sin of every position met so far, for one rope; grows by doubling.

    Sine is stored with the sign of the rotation folded in (minus in the first half), so that `rotate` needs no
    negation. Angles are float32 products of position and frequency, as in transformers: at long positions their
    rounding is part of what a model computes.
    """

    def __init__(self, frequencies: Sequence[float], factor: float, device: torch.device) -> None:
        """Take E/2 inverse frequencies in radians per token and the factor on cos and sin (yarn)."""
        self._frequencies_F = torch.tensor(list(frequencies), dtype=torch.float32, device=device)
        self._factor = factor
        self._cos_PE, self._sin_PE = self._compute(_FIRST_POSITIONS)

    def rows(self, positions_T: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and signed sin of these positions, all below `limit`: float32, (T, 1, E) each."""
        if limit > len(self._cos_PE):
            self._cos_PE, self._sin_PE = self._compute(max(limit, 2 * len(self._cos_PE)))
        cos_TE, sin_TE = (table.index_select(0, positions_T) for table in (self._cos_PE, self._sin_PE))
        return cos_TE.unsqueeze(1), sin_TE.unsqueeze(1)

    def _compute(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers_P = torch.arange(positions, dtype=torch.float32, device=self._frequencies_F.device)
        angles_PF = torch.outer(numbers_P, self._frequencies_F)
        cos_PF, sin_PF = angles_PF.cos() * self._factor, angles_PF.sin() * self._factor
        return torch.cat((cos_PF, cos_PF), -1), torch.cat((-sin_PF, sin_PF), -1)


def rotate(x_TNE: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
    """Turn every head of every row by its position; takes any dtype, computes and returns float32.

    T = packed rows, N = heads, E = width of a head. `sin_T1E` carries the sign (see RotaryTable). A roll is one call
    where slicing and joining halves is three: 5.5 against 6.9 us for one row of twelve heads.
    """
    return (x_TNE * cos_T1E).addcmul_(x_TNE.roll(x_TNE.shape[-1] // 2, -1), sin_T1E)
