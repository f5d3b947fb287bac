"""The definition of the heatmap losses: whole target maps, plain PyTorch, differentiable.

Readable on purpose. Every other backend is proved against this file in float64.

Sources: mse and online hard keypoint mining as in the published code of HRNet and MMPose; adaptive wing: X. Wang et
al., "Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression", ICCV 2019; focal: X. Zhou et al., "Objects
as Points", 2019, eq. 1; Jensen-Shannon: A. Nibali et al., "Numerical Coordinate Regression with Convolutional
Neural Networks", 2018, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._common.targets.reference import draw_targets, keypoint_weight
from .options import HIGHEST_PROBABILITY, LOWEST_PROBABILITY, Options


def heatmap_loss_reference(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor,  # a number or [K]
    visible: Tensor | None,  # [B, K] or [B, N, K]
    weight: Tensor | None,  # [B, K]
    options: Options,
    topk: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The losses of `dark_kernels.heatmap_mse` and its siblings, step by step. Computed in float32, in float64 if the
    heatmaps are float64, and differentiable any number of times."""
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    if keypoints.dim() == 3:  # one person in each image
        keypoints, visible = keypoints[:, None], None if visible is None else visible[:, None]
    size = heatmaps.shape[2], heatmaps.shape[3]
    target, drawn_weight = draw_targets(keypoints.to(dtype), size, sigma, options.encoding, visible)
    weight = keypoint_weight(drawn_weight, weight, options.keeps_empty)
    counts = weight > 0
    if options.compares_distributions:
        counts = counts & (target > 0).any(-1).any(-1)  # all zeros are no distribution
    # Before any arithmetic, so that an ignored NaN has no gradient: 0 * NaN would be NaN.
    heatmaps = torch.where(counts[..., None, None], heatmaps.to(dtype), 0.0)
    if options.squares_weight:
        weight = 0.5 * weight**2
    loss = torch.where(counts, weight * LOSSES[options.kind](heatmaps, target, options), 0.0)

    num_images, num_kept = loss.shape
    if topk is not None:
        hardest = loss.topk(topk, dim=1).indices
        loss = torch.where(torch.zeros_like(loss).scatter(1, hardest, 1.0) > 0, loss, 0.0)
        num_kept = topk
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if options.kind == "focal":
        num_positives = ((target == 1) & counts[..., None, None]).sum()
        return loss.sum() / num_positives.clamp(min=1)
    return loss.sum() / max(num_images * num_kept, 1)


def mse(heatmaps: Tensor, target: Tensor, options: Options) -> Tensor:
    """Mean squared error of each map."""
    return ((heatmaps - target) ** 2).mean((-2, -1))


def adaptive_wing(heatmaps: Tensor, target: Tensor, options: Options) -> Tensor:
    """Logarithmic below an error of theta, linear above; its curvature depends on the target."""
    _, _, _, _, alpha, omega, epsilon, theta = options
    difference = (target - heatmaps).abs()
    exponent = alpha - target
    slope = omega / (1 + (theta / epsilon) ** exponent) * exponent * (theta / epsilon) ** (exponent - 1) / epsilon
    offset = theta * slope - omega * torch.log1p((theta / epsilon) ** exponent)
    is_small = difference < theta
    small = omega * torch.log1p((torch.where(is_small, difference, theta) / epsilon) ** exponent)
    return torch.where(is_small, small, slope * difference - offset).mean((-2, -1))


def focal(heatmaps: Tensor, target: Tensor, options: Options) -> Tensor:
    """Focal loss of probabilities: pixels whose target is 1 are positive, and near them mistakes are forgiven."""
    p = heatmaps.clamp(LOWEST_PROBABILITY, HIGHEST_PROBABILITY)
    of_positive = -((1 - p) ** 2) * torch.log(p)
    of_negative = -((1 - target) ** 4) * p**2 * torch.log1p(-p)
    return torch.where(target == 1, of_positive, of_negative).sum((-2, -1))


def cross_entropy(heatmaps: Tensor, target: Tensor, options: Options) -> Tensor:
    """Cross-entropy of the softmax over a map against the target as a distribution."""
    q = _as_distribution(target)
    log_p = torch.log_softmax(heatmaps.flatten(-2), dim=-1)
    return -(q * torch.where(q > 0, log_p, 0.0)).sum(-1)


def js(heatmaps: Tensor, target: Tensor, options: Options) -> Tensor:
    """Jensen-Shannon divergence of the softmax over a map and the target as a distribution."""
    q = _as_distribution(target)
    log_p = torch.log_softmax(heatmaps.flatten(-2), dim=-1)
    p = torch.exp(log_p)
    middle = (p + q) / 2
    log_middle = torch.log(torch.where(middle > 0, middle, 1.0))
    of_p = p * torch.where(p > 0, log_p - log_middle, 0.0)
    of_q = q * (torch.log(torch.where(q > 0, q, 1.0)) - log_middle)
    return (of_p + of_q).sum(-1) / 2


def _as_distribution(target: Tensor) -> Tensor:
    """[..., H * W], with a sum of 1, or of 0 where the target is all zeros."""
    total = target.sum((-2, -1))
    return target.flatten(-2) / torch.where(total > 0, total, 1.0)[..., None]


LOSSES: dict[str, Callable[[Tensor, Tensor, Options], Tensor]] = {
    "mse": mse,
    "adaptive_wing": adaptive_wing,
    "focal": focal,
    "cross_entropy": cross_entropy,
    "js": js,
}
