"""The definitions of the votes: plain PyTorch, one step of a formula at a time.

Readable on purpose. Every other backend is proved against this file in float64.

Source of variance voting: Y. He et al., "Bounding Box Regression with Uncertainty for Accurate Object Detection",
CVPR 2019, eq. 11, with the similarity of poses in the place of the overlap of boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bilinear(
    heatmaps: Tensor,  # [B, K, H, W]
    samples: Tensor,  # [B, K, S, 2]
) -> Tensor:
    """Values of the maps between their pixels [B, K, S]; beyond the border they fall to 0 within a pixel."""
    height, width = heatmaps.shape[-2:]
    batch = torch.arange(heatmaps.shape[0], device=heatmaps.device)[:, None, None]
    keypoint = torch.arange(heatmaps.shape[1], device=heatmaps.device)[:, None]
    corner = samples.floor()
    values = torch.zeros_like(samples[..., 0])
    for dx in (0, 1):
        for dy in (0, 1):
            pixel = corner + torch.tensor([dx, dy], device=samples.device)
            column, row = pixel.unbind(-1)
            share = (1 - (samples - pixel).abs()).prod(-1)
            # A pixel without a share is not looked at, whatever it holds.
            counts = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (share > 0)
            column, row = torch.where(counts, column, 0).long(), torch.where(counts, row, 0).long()
            values = values + torch.where(counts, share * heatmaps[batch, keypoint, row, column], 0.0)
    return values


def density(
    samples: Tensor,  # [B, K, S, 2]
    valid: Tensor,  # [B, K, S]
    bandwidth: float,
) -> Tensor:
    """Density at each sample [B, K, S] of all S of them, its own kernel included, in units of a kernel's peak."""
    squares = ((samples[..., :, None, :] - samples[..., None, :, :]) ** 2).sum(-1)  # [B, K, S, S]
    kernels = torch.where(valid[..., None, :], torch.exp(-squares / (2 * bandwidth**2)), 0.0)
    return kernels.mean(-1)


def vote_reference(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None,  # [B, K, H, W]
    bandwidth: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2] of `dark_kernels.vote`, step by step."""
    is_double = samples.dtype == torch.float64 or (heatmaps is not None and heatmaps.dtype == torch.float64)
    samples = samples.to(torch.float64 if is_double else torch.float32)
    valid = samples.isfinite().all(-1)
    samples = torch.where(valid[..., None], samples, 0.0)
    if heatmaps is not None:
        weights = bilinear(heatmaps.to(samples.dtype), samples)
    elif bandwidth is not None:
        weights = density(samples, valid, bandwidth)
    else:
        weights = torch.ones_like(samples[..., 0])
    weights = torch.where(valid & (weights > 0) & (weights < math.inf), weights, 0.0)

    # What gives no vote is nowhere: far away its square would be infinite, and NaN times a weight of 0.
    samples = torch.where((weights > 0)[..., None], samples, 0.0)
    total = weights.sum(-1)
    shares = weights / total[..., None]  # NaN where nothing votes
    coords = (shares[..., None] * samples).sum(-2)
    difference = samples - coords[..., None, :]
    products = difference[..., :, None] * difference[..., None, :]
    products = torch.where((weights > 0)[..., None, None], products, 0.0)
    covariances = (shares[..., None, None] * products).sum(2)
    return coords, total / samples.shape[2], covariances


def variance_voting_reference(
    poses: Tensor,  # [..., N, K, 2]
    variances: Tensor,  # [..., N, K, 1 or 2]
    similarities: Tensor,  # [..., M, N]
    spread: float,
    mask: Tensor | None,  # [..., N]
) -> Tensor:
    """The poses [..., M, K, 2] of `dark_kernels.variance_voting`: sum p_i x_i / v_i over sum p_i / v_i, in float64."""
    is_double = torch.float64 in (poses.dtype, variances.dtype, similarities.dtype)
    dtype = torch.float64 if is_double else torch.float32
    if poses.shape[-3] == 0:
        return poses.new_full((*similarities.shape[:-1], *poses.shape[-2:]), math.nan, dtype=dtype)
    x, v = poses.double()[..., None, :, :, :], variances.double()[..., None, :, :, :]
    similarity = similarities.double()[..., None, None]  # [..., M, N, 1, 1]
    votes = x.isfinite() & (v > 0) & (v < math.inf) & ~similarity.isnan()
    if mask is not None:
        votes = votes & (mask > 0)[..., None, :, None, None]
    # Logarithms, relative to the largest weight, which is in the sum above and below: where poses have little in common
    # all would underflow, and 1 / v overflows where v is tiny.
    log_weights = torch.where(votes, -((1 - similarity) ** 2) / spread - torch.where(votes, v, 1.0).log(), -math.inf)
    largest = log_weights.amax(-3, keepdim=True).detach()
    weights = torch.exp(log_weights - torch.where(largest == -math.inf, 0.0, largest))
    return ((weights * torch.where(votes, x, 0.0)).sum(-3) / weights.sum(-3)).to(dtype)
