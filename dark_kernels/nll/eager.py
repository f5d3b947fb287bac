"""The Gaussian losses in vectorised PyTorch, for CPU and for any device without Triton.

Only the keypoints' cells are read. Gradients are written out by hand, so that a backward pass is the fill of
the gradient with zeros and one write of its cells, and needs of the maps only the values at the cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product
from .options import Options


class Cells(NamedTuple):
    """Cells of keypoints, with the targets in them."""

    row: Tensor  # [B, K], 0 where invalid
    column: Tensor  # [B, K]
    valid: Tensor  # [B, K]
    target: Tensor  # [B, K, 2], relative to what the means are relative to


def find_cells(target: Tensor, weight: Tensor | None, height: int, width: int, options: Options) -> Cells:
    """Find the cells of keypoints."""
    # A tensor, since a division by a host number is a product with its reciprocal on some devices, and then
    # rounds otherwise.
    stride = target.new_full((), options.stride)
    cell = (target / stride).floor()
    # Before the conversion to integers, and false for a NaN.
    inside = cell >= 0
    column, row = cell.unbind(-1)
    inside_x, inside_y = inside.unbind(-1)
    valid = inside_x & inside_y & (column < width) & (row < height)
    if weight is not None:
        valid = valid & (weight > 0)
    cell = torch.where(valid[..., None], cell, 0.0)
    if options.is_offset:
        target = target - (cell + 0.5) * stride
    column, row = cell.long().unbind(-1)
    return Cells(row, column, valid, target)


def _memory(maps: Tensor) -> Tensor:
    """The memory of maps, from their first element to their last: one dimension, in which an index is cheapest."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(maps.shape, maps.stride(), strict=True))
    return maps.as_strided((extent,), (1,))


def _places(maps: Tensor, cells: Cells) -> Tensor:
    """Place in `_memory` of each channel in the cells: [B, K, C] of [B, K, C, H, W] maps."""
    batch, num_keypoints, channels, _, _ = maps.shape
    stride_b, stride_k, stride_c, stride_h, stride_w = maps.stride()
    if stride_b == num_keypoints * stride_k:
        place = _steps(batch * num_keypoints, stride_k, maps).view(batch, num_keypoints)
    else:
        place = _steps(batch, stride_b, maps)[:, None] + _steps(num_keypoints, stride_k, maps)
    place = place + cells.row * stride_h + cells.column * stride_w
    return place[..., None] + _steps(channels, stride_c, maps)


def _steps(count: int, stride: int, maps: Tensor) -> Tensor:
    """Places where `count` slices begin."""
    if stride == 0:
        return torch.zeros(count, dtype=torch.int64, device=maps.device)
    return torch.arange(0, count * stride, stride, device=maps.device)


def _read(maps: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    return _memory(maps).index_select(0, places.reshape(-1)).view(places.shape).to(dtype)


def _bounded(log_var: Tensor, options: Options) -> tuple[Tensor, Tensor | None]:
    """The log variances in force, and where they pass a gradient (None: everywhere, or nowhere if fixed)."""
    halve = 0.5 if log_var.shape[-1] == 3 else 1.0  # Cholesky factors hold half of a log variance
    if options.fixed_log_var is not None:
        fixed = torch.full_like(log_var, options.fixed_log_var * halve)
        if log_var.shape[-1] == 3:
            fixed[..., 1] = 0.0
        return fixed, None
    low, high = options.min_log_var * halve, options.max_log_var * halve
    if low == -math.inf and high == math.inf:
        return log_var, None
    bounded = log_var.clamp(low, high)
    if log_var.shape[-1] == 3:
        bounded[..., 1] = log_var[..., 1]
    return bounded, bounded == log_var  # false for a NaN, as in torch.clamp


def finite_exp(exponent: Tensor) -> Tensor:
    """e^exponent, by which a residual is multiplied twice or more: finite, so that a residual of 0 stays 0, and large
    enough to take any normal number beyond the range where the whole exponential does. A subnormal one may stay in it,
    until it is squared or multiplied again."""
    return exponent.exp().clamp(max=torch.finfo(exponent.dtype).max)


def _times(one: Tensor, other: Tensor) -> Tensor:
    """one * other, in which 0 times infinity is 0."""
    product = one * other
    return torch.where(product.isnan() & ~(one.isnan() | other.isnan()), 0.0, product)


def _plus(one: Tensor, other: Tensor) -> Tensor:
    """one + other, in which opposite infinities leave 0, as opposite numbers do."""
    return torch.where(one == -other, 0.0, one + other)


class _Cholesky(NamedTuple):
    """[B, K] each. Residuals are z times the square root of variance^beta, with which they can be finite where they are
    not without it."""

    half_log_det: Tensor
    step_a: Tensor  # e^(-a / 2)
    z1: Tensor
    step_x: Tensor  # e^(-a / 2) times the fourth root of variance^beta
    step_y: Tensor  # e^(-c / 2) times the same
    residual_x: Tensor
    residual_y: Tensor


def _cholesky(difference: Tensor, log_var: Tensor, beta: float) -> _Cholesky:
    a, b, c = log_var.unbind(-1)
    dx, dy = difference.unbind(-1)
    half_log_det = 0.5 * a + 0.5 * c  # halves: a sum could overflow
    step_a = step_x = finite_exp(-0.5 * a)
    z1 = residual_x = dx * step_a * step_a
    step_y = finite_exp(-0.5 * c)
    if beta != 0:
        held = (0.5 * beta) * half_log_det
        step_x, step_y = finite_exp(held - 0.5 * a), finite_exp(held - 0.5 * c)
        residual_x = dx * step_x * step_x
    residual_y = _times(dy - _times(b, z1), step_y) * step_y
    return _Cholesky(half_log_det, step_a, z1, step_x, step_y, residual_x, residual_y)


def _losses(values: Tensor, target: Tensor, options: Options) -> Tensor:
    """[B, K], unweighted. `values` are the 2 means and 1 to 3 log variances at the cells."""
    difference = target - values[..., :2]
    log_var, _ = _bounded(values[..., 2:], options)
    beta = options.beta
    if log_var.shape[-1] == 3:
        cholesky = _cholesky(difference, log_var, beta)
        half = cholesky.half_log_det
        if options.full:
            half = half + 0.5 * math.log(2 * math.pi)
        if beta != 0:
            half = half * torch.exp((2 * beta) * cholesky.half_log_det)
        half_x, half_y = 0.5 * cholesky.residual_x, 0.5 * cholesky.residual_y
        return 2.0 * (half + half_x * half_x + half_y * half_y)
    step = finite_exp((0.25 * (beta - 1)) * log_var)
    if options.distribution == "gaussian":
        # Squared after the scaling: e^-s alone overflows where the loss does not.
        z = difference * step * step
        loss, square = 0.5 * log_var, 0.5 * z * z
        if options.full:
            loss = loss + 0.5 * math.log(2 * math.pi)
    else:
        loss, square = log_var + math.log(2), difference.abs() * step * step * step * step
    if beta != 0:
        loss = loss * torch.exp(beta * log_var)
    return (loss + square).sum(-1)


def _value_gradients(values: Tensor, target: Tensor, grad_loss: Tensor, options: Options) -> Tensor:
    """Gradient of `_losses` with respect to `values`: [B, K, 2 + C]. `grad_loss` [B, K] comes first: where it is small,
    a product may be finite that would not be without it."""
    difference = target - values[..., :2]
    log_var, passes = _bounded(values[..., 2:], options)
    beta = options.beta
    if log_var.shape[-1] == 3:
        b = log_var[..., 1]
        half_log_det, step_a, z1, step_x, step_y, residual_x, residual_y = _cholesky(difference, log_var, beta)
        factor = grad_loss if beta == 0 else grad_loss * torch.exp((2 * beta) * half_log_det)
        for_x, for_y = grad_loss * residual_x, grad_loss * residual_y
        g = for_y * step_y * step_y  # of dy - b z1
        for_z1 = _times(b, g)
        mean_x = _plus(_times(for_z1, step_a) * step_a, -for_x * step_x * step_x)
        for_a = _plus(_plus(_times(for_z1, z1), -for_x * residual_x), factor)
        for_c = _plus(factor, -for_y * residual_y)
        gradients = torch.stack([mean_x, -g, for_a, -_times(z1, g), for_c], dim=-1)
        mean_gradient, log_var_gradient = gradients[..., :2], gradients[..., 2:]
    else:
        grad_loss = grad_loss[..., None]
        step = finite_exp((0.25 * (beta - 1)) * log_var)
        factor = grad_loss if beta == 0 else grad_loss * torch.exp(beta * log_var)
        if options.distribution == "gaussian":
            z = difference * step * step
            for_z = grad_loss * z
            mean_gradient, log_var_gradient = -for_z * step * step, (-0.5 * for_z) * z
            factor = 0.5 * factor
        else:
            mean_gradient = -difference.sign() * grad_loss * step * step * step * step
            log_var_gradient = -grad_loss * (difference.abs() * step * step * step * step)
        log_var_gradient = factor + log_var_gradient if beta == 0 else _plus(factor, log_var_gradient)
        if log_var.shape[-1] == 1:
            log_var_gradient = log_var_gradient.sum(-1, keepdim=True)
    if options.fixed_log_var is not None:
        log_var_gradient = torch.zeros_like(log_var)
    elif passes is not None:
        log_var_gradient = torch.where(passes, log_var_gradient, 0.0)
    return torch.cat([mean_gradient, log_var_gradient], dim=-1)


def reduce(losses: Tensor, valid: Tensor, weight: Tensor | None, reduction: str) -> tuple[Tensor, Tensor]:
    """The loss, and the factor by which each weighted loss counts in it: []."""
    if weight is not None:
        losses = losses * weight
    losses = torch.where(valid, losses, 0.0)
    if reduction == "none":
        return losses.contiguous(), losses.new_ones(())
    if reduction == "sum":
        scale = losses.new_ones(())
    elif reduction == "mean":
        scale = losses.new_full((), 1.0 / losses.numel())
    else:
        divisor = valid.sum().to(losses.dtype) if weight is None else torch.where(valid, weight, 0.0).sum()
        scale = torch.where(divisor > 0, 1.0 / divisor, 0.0)
    return losses.sum() * scale, scale


def gaussian_nll_fwd(
    mean: Tensor,  # [B, K, 2, H, W]
    log_var: Tensor,  # [B, K, 1 | 2 | 3, H, W]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the factor of `reduce` and the maps' values at the cells [B, K, 2 + C], all of `dtype`."""
    weight = None if weight is None else weight.to(dtype)
    cells = find_cells(target.to(dtype), weight, mean.shape[-2], mean.shape[-1], options)
    # Maps are read where they are, whatever their strides. Of invalid keypoints nothing counts, here and in `reduce`.
    values = torch.cat([_read(maps, _places(maps, cells), dtype) for maps in (mean, log_var)], dim=-1)
    losses = _losses(values, cells.target, options)
    return *reduce(losses, cells.valid, weight, reduction), values


def gaussian_nll_bwd(
    grad_mean: Tensor,  # [B, K, 2, H, W], or no elements if not wanted
    grad_log_var: Tensor,  # [B, K, C, H, W], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    values: Tensor,  # [B, K, 2 + C]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    scale: Tensor,  # []
    height: int,
    width: int,
    options: Options,
) -> None:
    """Add to the gradients, which are zeros."""
    cells, gradients = _gradients_in_cells(grad_loss, values, target, weight, scale, height, width, options)
    for gradient, channels in ((grad_mean, gradients[..., :2]), (grad_log_var, gradients[..., 2:])):
        if gradient.numel():  # every keypoint has channels of its own, so no two write to one place
            places = _places(gradient, cells)
            _memory(gradient).index_copy_(0, places.reshape(-1), channels.to(gradient.dtype).reshape(-1))


def _gradients_in_cells(
    grad_loss: Tensor,
    values: Tensor,
    target: Tensor,
    weight: Tensor | None,
    scale: Tensor,
    height: int,
    width: int,
    options: Options,
) -> tuple[Cells, Tensor]:
    """The cells, and the gradient with respect to `values` [B, K, 2 + C], 0 where invalid."""
    dtype = values.dtype
    weight = None if weight is None else weight.to(dtype)
    cells = find_cells(target.to(dtype), weight, height, width, options)
    factor = grad_loss.to(dtype) * scale
    if weight is not None:
        factor = factor * weight
    factor = factor.expand(cells.valid.shape)
    gradients = _value_gradients(values, cells.target, factor, options)
    # A loss of which nothing is asked has no gradient, be it infinite.
    return cells, torch.where((cells.valid & (factor != 0))[..., None], gradients, 0.0)


def linear_gaussian_nll_fwd(
    features: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K * P, C]
    bias: Tensor | None,  # [K * P]
    target: Tensor,  # [B, K, 2]
    keypoint_weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `gaussian_nll_fwd`, of the maps that a 1x1 convolution would make; and the features at the cells [B, K, C]."""
    keypoint_weight = None if keypoint_weight is None else keypoint_weight.to(dtype)
    cells = find_cells(target.to(dtype), keypoint_weight, features.shape[-2], features.shape[-1], options)
    num_keypoints = target.shape[1]
    at_cell = _read_features(features, cells, dtype)
    # Keypoints are the batch of the products: [K, B, C] by [K, C, P].
    values = product(at_cell.transpose(0, 1), _by_keypoint(weight, num_keypoints).to(dtype).mT).transpose(0, 1)
    if bias is not None:
        values = values + _by_keypoint(bias, num_keypoints).to(dtype)
    values = values.contiguous()
    losses = _losses(values, cells.target, options)
    return *reduce(losses, cells.valid, keypoint_weight, reduction), values, at_cell.contiguous()


def linear_gaussian_nll_bwd(
    grad_features: Tensor,  # [B, C, H, W], or no elements if not wanted
    grad_weight: Tensor,  # [K * P, C], or no elements if not wanted
    grad_bias: Tensor,  # [K * P], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    values: Tensor,  # [B, K, P]
    cell_features: Tensor,  # [B, K, C]
    height: int,
    width: int,
    weight: Tensor,  # [K * P, C]
    target: Tensor,  # [B, K, 2]
    keypoint_weight: Tensor | None,  # [B, K]
    scale: Tensor,  # []
    options: Options,
) -> None:
    """Add to the gradients, which are zeros."""
    num_keypoints, dtype = target.shape[1], values.dtype
    cells, gradients = _gradients_in_cells(
        grad_loss, values, target, keypoint_weight, scale, height, width, options
    )  # [B, K, P]
    is_nan = gradients.isnan()
    if grad_bias.numel():
        grad_bias.copy_(_by_channel(_unless_nan(gradients.sum(0), is_nan.any(0))))
    # For products with a feature or a weight of 0 to be 0.
    gradients = _finite(gradients)
    if grad_weight.numel():
        for_weight = product(gradients.permute(1, 2, 0), cell_features.transpose(0, 1))  # [K, P, C]
        grad_weight.copy_(_by_channel(_unless_nan(for_weight, is_nan.any(0)[..., None])))
    if grad_features.numel():
        at_cell = product(gradients.transpose(0, 1), _by_keypoint(weight, num_keypoints).to(dtype)).transpose(0, 1)
        at_cell = _finite(_unless_nan(at_cell, is_nan.any(-1, keepdim=True)))
        index = cells.row * width + cells.column
        if grad_features.device.type == "cpu" and grad_features.dtype == dtype:
            # In the order of the keypoints, which no other device promises; and half precision would round every sum.
            at_cell = at_cell.transpose(1, 2).contiguous()
            grad_features.flatten(2).scatter_add_(2, index.unsqueeze(1).expand_as(at_cell), at_cell)
            return
        # Keypoints that share a cell all write the sum of theirs, the first one's to the last bit. Invalid ones stand
        # in cell 0 with a gradient of 0, and share it.
        shares = index[:, :, None] == index[:, None, :]
        first = shares.to(torch.uint8).argmax(-1, keepdim=True)
        at_cell = product(shares.to(dtype), at_cell).gather(1, first.expand_as(at_cell)).to(grad_features.dtype)
        grad_features.permute(0, 2, 3, 1).index_put_((_images(grad_features), cells.row, cells.column), at_cell)


def _finite(numbers: Tensor) -> Tensor:
    """Infinities as the largest number, for which nothing that is added to it or multiplied by it is NaN."""
    info = torch.finfo(numbers.dtype)
    return numbers.clamp(info.min, info.max)


def _unless_nan(sums: Tensor, has_nan: Tensor) -> Tensor:
    """The sums, or 0 where infinities of both signs have made a NaN of numbers."""
    return torch.where(sums.isnan() & ~has_nan, 0.0, sums)


def _read_features(features: Tensor, cells: Cells, dtype: torch.dtype) -> Tensor:
    """[B, K, C], 0 where invalid."""
    values = features[_images(features), :, cells.row, cells.column].to(dtype)
    return torch.where(cells.valid[..., None], values, 0.0)


def _images(features: Tensor) -> Tensor:
    """[B, 1]."""
    return torch.arange(features.shape[0], device=features.device)[:, None]


def _by_keypoint(channels: Tensor, num_keypoints: int) -> Tensor:
    """[K, P, ...] of [K * P, ...] channels: 2K of means, then those of the variances."""
    parts = channels.tensor_split([2 * num_keypoints])
    return torch.cat([part.unflatten(0, (num_keypoints, -1)) for part in parts], dim=1)


def _by_channel(by_keypoint: Tensor) -> Tensor:
    """The inverse of `_by_keypoint`."""
    return torch.cat([part.flatten(0, 1) for part in by_keypoint.tensor_split([2], dim=1)])
