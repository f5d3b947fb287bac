"""The definition of soft_argmax: a softmax over each map, and the mean position under it.

Source: X. Sun et al., "Integral Human Pose Regression", ECCV 2018, eq. 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def soft_argmax_reference(heatmaps: Tensor, beta: float = 1.0) -> Tensor:
    """Expected coordinates, with all derivatives that autograd has.

    Args:
        heatmaps: [B, K, H, W] of a floating dtype. float16 and bfloat16 are computed in float32.
        beta: Inverse temperature.

    Returns:
        [B, K, 2], (x, y) in heatmap pixels, in float64 for float64 maps and in float32 for all others.
    """
    maps = heatmaps if heatmaps.dtype == torch.float64 else heatmaps.float()
    height, width = maps.shape[-2:]
    peaks = maps.detach().amax((-2, -1), keepdim=True)
    # The largest as 0, which changes no softmax. Infinities that are the largest share it, and have no slope.
    at_peaks = torch.where(maps == peaks, torch.zeros_like(maps), -math.inf)
    logits = torch.where(peaks.abs() == math.inf, at_peaks, beta * (maps - peaks))
    probability = logits.flatten(2).softmax(dim=-1).view(maps.shape)
    x = torch.arange(width, dtype=maps.dtype, device=maps.device)
    y = torch.arange(height, dtype=maps.dtype, device=maps.device)
    return torch.stack([(probability.sum(-2) * x).sum(-1), (probability.sum(-1) * y).sum(-1)], dim=-1)
