"""The votes in vectorised PyTorch, for CPU and for any device without Triton."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Pairs of samples whose kernels are computed at once: on a CPU as many as stay in its cache.
_PAIRS, _PAIRS_ON_DEVICE = 2**17, 2**25
_LEAST_EXPONENT = -87.0


def vote_fwd(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None,  # [B, K, H, W]
    bandwidth: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2]."""
    x, y = samples.to(dtype).unbind(-1)
    valid = (x.abs() < math.inf) & (y.abs() < math.inf)
    x, y = torch.where(valid, x, 0.0), torch.where(valid, y, 0.0)
    weights = valid.to(dtype)
    if heatmaps is not None:
        weights = weights * _bilinear(heatmaps, x, y)
    elif bandwidth is not None:
        weights = weights * _densities(x, y, weights, bandwidth)
    weights = torch.where((weights > 0) & (weights < math.inf), weights, 0.0)
    total = weights.sum(-1)
    weights = weights.div_(total[..., None])
    mean_x, mean_y = (weights * x).sum(-1), (weights * y).sum(-1)
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    along_x, along_y = weights * x, weights * y
    xx, xy, yy = (along_x * x).sum(-1), (along_x * y).sum(-1), (along_y * y).sum(-1)
    covariances = torch.stack([xx, xy, xy, yy], dim=-1).unflatten(-1, (2, 2))
    return torch.stack([mean_x, mean_y], dim=-1), total / samples.shape[2], covariances


def _bilinear(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read maps between their pixels [B, K, S]: of the four around, those outside of the map have a share of 0."""
    height, width = heatmaps.shape[-2:]
    pixels = heatmaps.flatten(2)  # one index is found several times as fast as four
    columns, rows = _neighbours(x, width), _neighbours(y, height)
    value = torch.zeros_like(x)
    for row, down in rows:
        first = row * width
        for column, across in columns:
            share = down * across
            value += torch.where(share > 0, share * pixels.gather(-1, first + column), 0.0)
    return value


def _neighbours(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Find index and share of the pixels before and behind, a share of 0 if there is no such pixel."""
    before = position.floor()
    share = position - before
    found = []
    for index, part in ((before, 1 - share), (before + 1, share)):
        exists = (index >= 0) & (index < size)
        found.append((torch.where(exists, index, 0.0).long(), torch.where(exists, part, 0.0)))
    return found


def _densities(x: Tensor, y: Tensor, weights: Tensor, bandwidth: float) -> Tensor:
    """Average the kernels of all samples at each [B, K, S], some keypoints at a time."""
    num_samples = x.shape[-1]
    rows = max(1, (_PAIRS if x.device.type == "cpu" else _PAIRS_ON_DEVICE) // num_samples**2)
    found = []
    for xs, ys, weight in zip(*(each.flatten(0, 1)[:, None].split(rows) for each in (x, y, weights)), strict=True):
        exponents = (xs.mT - xs).square_().add_((ys.mT - ys).square_()).mul_(-0.5 / bandwidth**2)
        # Exponentials that underflow take a CPU many times as long as others, and count as little as this one.
        kernels = exponents.clamp_(min=_LEAST_EXPONENT).exp_()
        found.append(kernels.mul_(weight).sum(-1))
    return torch.cat(found).view(x.shape) / num_samples


def variance_voting_fwd(
    poses: Tensor,  # [..., N, K, 2]
    variances: Tensor,  # [..., N, K, 1 or 2]
    similarities: Tensor,  # [..., M, N]
    spread: float,
    mask: Tensor | None,  # [..., N]
    dtype: torch.dtype,
) -> Tensor:
    """Poses [..., M, K, 2]. Weights are those of a softmax: where poses have nothing in common, p_i underflows."""
    if poses.shape[-3] == 0:  # of which a sum is 0
        shape = (*similarities.shape[:-1], *poses.shape[-2:])
        return poses.new_full(shape, math.nan, dtype=dtype)
    poses, variances, similarities = poses.to(dtype), variances.to(dtype), similarities.to(dtype)
    votes = poses.isfinite() & (variances > 0) & (variances < math.inf)
    if mask is not None:
        votes = votes & (mask > 0)[..., None, None]
    of_pair = ((1 - similarities).square() / -spread).nan_to_num(nan=-math.inf)
    largest = of_pair.detach().amax(-1, keepdim=True)  # which leaves the digits to the variances
    of_pair = of_pair - torch.where(largest == -math.inf, 0.0, largest)
    of_pose = torch.where(votes, -torch.where(votes, variances, 1.0).log(), -math.inf)
    logits = of_pair[..., None, None] + of_pose[..., None, :, :, :]
    weights = torch.softmax(logits, dim=-3)  # NaN where all are -inf
    return (weights * torch.where(votes, poses, 0.0)[..., None, :, :, :]).sum(-3)
