"""The definition of encode: one function, which the losses without target maps are held against as well."""

from __future__ import annotations

import torch
from torch import Tensor

from .._common.targets.reference import draw_targets


def encode_reference(
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    size: tuple[int, int],
    sigma: float | Tensor = 2.0,  # a number or [K]
    encoding: str = "unbiased",
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Heatmaps [B, K, H, W] and weights [B, K] of `dark_kernels.encode`. Arguments and results as there; computed in
    float32, in float64 if `dtype` is float64."""
    if keypoints.dim() == 3:  # one person in each image
        keypoints, visible = keypoints[:, None], None if visible is None else visible[:, None]
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    heatmaps, weight = draw_targets(keypoints.to(arithmetic), size, sigma, encoding, visible)
    return heatmaps.to(dtype), weight
