"""encode in vectorised PyTorch, for CPU and for any device without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from .._common.targets.eager import blocks, draw, make_targets


def encode_fwd(
    heatmaps: Tensor,  # [B, K, H, W]
    weight: Tensor,  # [B, K]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    encoding: str,
) -> None:
    """Fill the outputs; the arithmetic is in the dtype of `weight`."""
    size = heatmaps.shape[2], heatmaps.shape[3]
    targets = make_targets(keypoints, size, sigma, sigmas, encoding, visible, weight.dtype)
    weight.copy_(targets.weight)
    if heatmaps.dtype == weight.dtype and keypoints.shape[1] == 1:
        torch.mul(targets.rows[:, 0, :, :, None], targets.columns[:, 0, :, None, :], out=heatmaps)
        return
    for block in blocks(heatmaps):
        heatmaps[block].copy_(draw(targets, *block))
