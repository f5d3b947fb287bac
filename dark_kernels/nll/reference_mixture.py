"""The definition of the mixture loss: plain PyTorch, differentiable, one keypoint's cell at a time in spirit.

Readable on purpose. Every other backend is proved against this file in float64.

Source: C. M. Bishop, "Mixture Density Networks", 1994, eqs. 22 to 29, for two dimensions: isotropic components,
softmax weights, and log variances instead of scales. It is the log_prob of `torch.distributions.MixtureSameFamily`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .reference import find_cells, one, plus, read_cells, reduce, scaled, target_in_cells, times


def gaussian_mixture_nll_reference(
    logits: Tensor,  # [B, K, M, H, W]
    mean: Tensor,  # [B, K, M, 2, H, W]
    log_var: Tensor,  # [B, K, M, H, W]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    weight: Tensor | None = None,  # [B, K]
    coordinates: str = "absolute",
    log_var_bounds: tuple[float, float] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The loss of `dark_kernels.gaussian_mixture_nll`, step by step. Arguments and result as there; computed in
    float32, in float64 if a map is float64, and differentiable any number of times, in `target` and `weight` as
    well."""
    dtype = torch.float64 if torch.float64 in (logits.dtype, mean.dtype, log_var.dtype) else torch.float32
    target = target.to(dtype)
    row, column, valid = find_cells(target, stride, logits.shape[-2], logits.shape[-1])
    weight = torch.ones_like(target[..., 0]) if weight is None else weight.to(dtype)
    valid = valid & (weight > 0)  # a NaN is not

    # The mixture in that cell. What is ignored becomes a mixture with a finite loss.
    logits = torch.where(valid[..., None], read_cells(logits, row, column).to(dtype), 0.0)  # [B, K, M]
    mean = torch.where(valid[..., None, None], read_cells(mean, row, column).to(dtype), 0.0)  # [B, K, M, 2]
    log_var = torch.where(valid[..., None], read_cells(log_var, row, column).to(dtype), 0.0)  # [B, K, M]
    target = target_in_cells(target, row, column, valid, stride, coordinates)
    loss = -log_likelihood(logits, mean, log_var, target, log_var_bounds)
    return reduce(loss, weight, valid, reduction)


def log_likelihood(
    logits: Tensor,  # [..., M]
    mean: Tensor,  # [..., M, 2]
    log_var: Tensor,  # [..., M]
    target: Tensor,  # [..., 2]
    log_var_bounds: tuple[float, float] | None,
) -> Tensor:
    """log sum_j softmax(logits)_j N(target; mean_j, e^log_var_j I), [...]; a component whose logit is -inf is off,
    and what its mean and log variance hold is not looked at."""
    is_on = logits != -math.inf
    any_on = is_on.any(-1)
    mean = torch.where(is_on[..., None], mean, 0.0)
    log_var = torch.where(is_on, log_var, 0.0)
    if log_var_bounds is not None:
        log_var = log_var.clamp(*log_var_bounds)

    log_weights = torch.log_softmax(torch.where(any_on[..., None], logits, 0.0), dim=-1)
    z = scaled(target[..., None, :] - mean, -log_var[..., None].expand_as(mean) / 2)
    half_square = times(times(z / 2, z).sum(-1), one(-log_var))
    joint = log_weights - log_var - half_square - math.log(2 * math.pi)
    # The largest density as 1. Those that all underflow share the responsibility, as if they were equal.
    best = joint.detach().amax(-1, keepdim=True)
    densities = torch.exp(plus(joint, -best))
    total = torch.where(is_on | ~any_on[..., None], densities, 0.0).sum(-1)
    return torch.where(any_on, best.squeeze(-1) + total.log(), -math.inf)
