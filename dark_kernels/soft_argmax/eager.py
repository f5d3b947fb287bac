"""soft_argmax in vectorised PyTorch, for CPU and for any device without Triton.

The gradient is written out by hand: one map of temporary numbers, and no softmax that is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

# e^-80 is nothing beside the 1 of the largest, and a CPU takes far longer over numbers that are less than normal.
_LOWEST_EXPONENT, _LOWEST_WEIGHT = -80.0, 2e-35


def soft_argmax_fwd(heatmaps: Tensor, beta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """coords [B, K, 2], largest values [B, K] and the sums [B, K] of what `_weights` gives, of `dtype`.

    A largest value of infinity is replaced by the largest finite number.
    """
    maps = heatmaps.to(dtype)
    height, width = maps.shape[-2:]
    limits = torch.finfo(dtype)
    peaks = maps.amax((-2, -1)).clamp_(limits.min, limits.max)
    weights = _weights(maps, peaks, beta)
    of_columns, of_rows = weights.sum(-2), weights.sum(-1)
    totals = of_rows.sum(-1)
    x, y = (torch.arange(size, dtype=dtype, device=maps.device) for size in (width, height))
    sums = torch.stack([(of_columns * x).sum(-1), (of_rows * y).sum(-1)], dim=-1)
    # Nothing but -inf: no pixel before another.
    center = torch.stack([x.mean(), y.mean()])
    return torch.where(totals[..., None] == 0, center, sums / totals[..., None]), peaks, totals


def _weights(maps: Tensor, peaks: Tensor, beta: float) -> Tensor:
    """e^(beta (map - peak)): 1 for the largest, infinities included, and 0 where that is next to nothing."""
    exponents = maps.clamp(max=torch.finfo(maps.dtype).max).sub_(peaks[..., None, None]).mul_(beta)
    return torch.threshold_(exponents.clamp_min_(_LOWEST_EXPONENT).exp_(), _LOWEST_WEIGHT, 0.0)


def soft_argmax_bwd(
    gradient: Tensor,  # [B, K, H, W]
    grad_coords: Tensor,  # [B, K, 2]
    heatmaps: Tensor,  # [B, K, H, W]
    coords: Tensor,  # [B, K, 2]
    peaks: Tensor,  # [B, K]
    totals: Tensor,  # [B, K]
    beta: float,
) -> None:
    """Fill the gradient."""
    height, width = heatmaps.shape[-2:]
    dtype, device = coords.dtype, coords.device
    # Without a finite largest value nothing depends on the maps.
    is_constant = (peaks == torch.finfo(dtype).max) | (totals == 0)
    factor = torch.where(is_constant, 0.0, beta / totals)[..., None] * grad_coords
    x, y = (torch.arange(size, dtype=dtype, device=device) for size in (width, height))
    along_x = factor[..., :1] * (x - coords[..., :1])
    along_y = factor[..., 1:] * (y - coords[..., 1:])
    slopes = _weights(heatmaps.to(dtype), peaks, beta)
    gradient.copy_(slopes.mul_(along_x[..., None, :] + along_y[..., None]))
