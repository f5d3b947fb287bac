"""The mixture loss in vectorised PyTorch, for CPU and for any device without Triton.

Only the keypoints' cells are read. Slopes are written out by hand, so that a backward pass is the fill of the
gradient with zeros and one write of its cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eager import find_cells, finite_exp, reduce
from .options import Options


def gaussian_mixture_nll_fwd(
    logits: Tensor,  # [B, K, M, H, W]
    mean: Tensor,  # [B, K, M, 2, H, W]
    log_var: Tensor,  # [B, K, M, H, W]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, the factor of `reduce`, the slopes of the weighted losses [B, K, 4 M] (for logits, means and log
    variances) and the indices of the cells [B, K], -1 where invalid."""
    weight = None if weight is None else weight.to(dtype)
    row, column, valid, target = find_cells(target.to(dtype), weight, logits.shape[-2], logits.shape[-1], options)
    batch, keypoint = _own_index(logits)
    losses, slopes = _losses_and_slopes(
        logits[batch, keypoint, :, row, column].to(dtype),
        mean[batch, keypoint, :, :, row, column].to(dtype),
        log_var[batch, keypoint, :, row, column].to(dtype),
        target,
        options,
    )
    if weight is not None:
        slopes = slopes * weight[..., None]
    # Not a product with 0, which would keep a NaN.
    slopes = torch.where(valid[..., None], slopes, 0.0)
    indices = torch.where(valid, row * logits.shape[-1] + column, -1)
    return *reduce(losses, valid, weight, reduction), slopes.contiguous(), indices.contiguous()


def _own_index(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of images [B, 1] and of keypoints [K]."""
    batch = torch.arange(maps.shape[0], device=maps.device)[:, None]
    return batch, torch.arange(maps.shape[1], device=maps.device)


def _losses_and_slopes(
    logits: Tensor,  # [B, K, M]
    mean: Tensor,  # [B, K, M, 2]
    log_var: Tensor,  # [B, K, M]
    target: Tensor,  # [B, K, 2]
    options: Options,
) -> tuple[Tensor, Tensor]:
    """Losses [B, K], and their slopes [B, K, 4 M]."""
    is_on = logits != -math.inf  # a NaN is on, and seen
    bounded = log_var.clamp(options.min_log_var, options.max_log_var)
    passes = bounded == log_var

    # Squared after the scaling: e^-s alone overflows where the loss does not. A half of the exponent at a time, and
    # finite: at the mean 0 stays 0, and any other number has a square beyond the range where the exponential takes it.
    step = finite_exp(-0.25 * bounded)[..., None]
    z = (target[..., None, :] - mean) * step * step
    half_squares = (0.5 * z * z).sum(-1)

    # Both sums of exponentials with their largest term as 1. Where every component is off, that is none.
    top = logits.amax(-1, keepdim=True)
    logits = logits - torch.where(top == -math.inf, 0.0, top)
    prior = torch.exp(logits)
    prior_total = prior.sum(-1, keepdim=True)
    prior_total = torch.where(prior_total == 0, 1.0, prior_total)
    joint = torch.where(is_on, logits - bounded - half_squares, -math.inf)
    best = joint.amax(-1, keepdim=True)
    # Components whose densities all underflow share the responsibility, as if they were equal.
    posterior = torch.where(joint == best, 1.0, torch.exp(joint - best))
    posterior = torch.where(is_on, posterior, 0.0)
    total = posterior.sum(-1, keepdim=True)
    losses = (prior_total.log() - best - total.log()).squeeze(-1) + math.log(2 * math.pi)

    # A component that is off keeps out of a total that is 0 or NaN.
    prior = torch.where(is_on, prior / prior_total, 0.0)
    posterior = torch.where(is_on, posterior / total, 0.0)
    # A component that is not responsible adds nothing, even where it is infinitely far away or infinitely sharp.
    is_responsible = posterior != 0
    pull = torch.where(is_responsible[..., None], posterior[..., None] * z, 0.0)
    for_mean = torch.where(pull == 0, 0.0, -pull * step * step)
    for_log_var = torch.where(passes & is_responsible, posterior * (1 - half_squares), 0.0)
    return losses, torch.cat([prior - posterior, for_mean.flatten(-2), for_log_var], dim=-1)


def gaussian_mixture_nll_bwd(
    grad_logits: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_mean: Tensor,  # [B, K, M, 2, H, W], or no elements if not wanted
    grad_log_var: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    slopes: Tensor,  # [B, K, 4 M]
    indices: Tensor,  # [B, K]: of cells, -1 where invalid
    width: int,
) -> None:
    """Add to the gradients, which are zeros."""
    valid = indices >= 0
    factor = (grad_loss.to(slopes.dtype) * scale).expand(indices.shape)
    # A loss of which nothing is asked has no gradient, be it infinite.
    gradients = torch.where((valid & (factor != 0))[..., None], slopes * factor[..., None], 0.0)
    indices = torch.where(valid, indices, 0)
    row, column = indices // width, indices % width
    num_components = slopes.shape[-1] // 4
    for_logits, for_mean, for_log_var = gradients.split([num_components, 2 * num_components, num_components], dim=-1)
    batch, keypoint = _own_index(indices)
    for gradient, channels in ((grad_logits, for_logits), (grad_log_var, for_log_var)):
        if gradient.numel():
            gradient[batch, keypoint, :, row, column] = channels.to(gradient.dtype)
    if grad_mean.numel():
        channels = for_mean.unflatten(-1, (num_components, 2)).to(grad_mean.dtype)
        grad_mean[batch, keypoint, :, :, row, column] = channels
