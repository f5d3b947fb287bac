"""The heatmap losses in vectorised PyTorch, for CPU and for any device without Triton.

A block of maps at a time, which stays in the cache: its targets are made, compared and forgotten. Gradients are written
out by hand, so that nothing of map size exists but the gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._common.targets.eager import Targets, blocks, draw, keypoint_weight, make_targets, subtract
from .options import HIGHEST_PROBABILITY, LOWEST_PROBABILITY, Options

# The logarithm of a probability that is 0 in float64 too.
_LOWEST_LOG = -800.0


def heatmap_loss_fwd(
    losses: Tensor,  # [B, K]
    saved: Tensor,  # [B, K, options.num_saved]
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    weight: Tensor | None,  # [B, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    options: Options,
) -> None:
    """Fill the weighted loss of each map, and what is saved of it; the arithmetic is in the dtype of `losses`."""
    size, dtype = (heatmaps.shape[2], heatmaps.shape[3]), losses.dtype
    targets = _without_denormals(make_targets(keypoints, size, sigma, sigmas, options.encoding, visible, dtype))
    for block in blocks(heatmaps):
        maps = heatmaps[block].to(dtype)
        losses[block], of_maps = _forward(maps, targets, block, options)
        if of_maps:
            saved[block] = torch.stack(of_maps, dim=-1)
    factor, counts = _factor(targets, weight, options)
    # Not a product with 0, which would keep a NaN.
    losses.mul_(factor).masked_fill_(~counts, 0.0)
    saved.masked_fill_(~counts[..., None], 0.0)


def heatmap_loss_bwd(
    gradient: Tensor,  # [B, K, H, W]
    grad_losses: Tensor,  # [B, K], of the weighted losses
    saved: Tensor,  # [B, K, options.num_saved]
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    weight: Tensor | None,  # [B, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    options: Options,
) -> None:
    """Fill the gradient."""
    size, dtype = (heatmaps.shape[2], heatmaps.shape[3]), grad_losses.dtype
    targets = _without_denormals(make_targets(keypoints, size, sigma, sigmas, options.encoding, visible, dtype))
    factor, counts = _factor(targets, weight, options)
    factor = factor * grad_losses
    if options.compares_distributions:
        counts = counts & (saved[..., 2] > 0)  # all zeros are no distribution
    for block in blocks(heatmaps):
        maps, out = heatmaps[block].to(dtype), gradient[block]
        slopes = _slopes(maps, targets, block, saved[block], options, out if out.dtype == dtype else None)
        _zero_unless(counts[block], slopes.mul_(factor[block][..., None, None]))
        if slopes is not out:
            out.copy_(slopes)


def _without_denormals(targets: Targets) -> Targets:
    """The same in place, but for values below 1e-19 (float32), which are 0: arithmetic with products that underflow
    takes a CPU ten times as long."""
    for factor in (targets.rows, targets.columns):
        factor.masked_fill_(factor < math.sqrt(torch.finfo(factor.dtype).tiny), 0.0)
    return targets


def _zero_unless(counts: Tensor, maps: Tensor) -> None:
    """Zero the maps [b, k, H, W] that do not count [b, k], in place and whatever they hold."""
    # Bits and zero bits are zero, those of a NaN as well; masked_fill_ takes ten times as long.
    integers = torch.int64 if maps.dtype == torch.float64 else torch.int32
    maps.view(integers).bitwise_and_(-counts.to(integers)[..., None, None])


def _factor(targets: Targets, weight: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    """Factor of the sum over a map's pixels, and a mask of the maps that count: [B, K] each."""
    counted = keypoint_weight(targets, weight, options.keeps_empty)
    factor = 0.5 * counted * counted if options.squares_weight else counted
    if options.is_mean:
        factor = factor / (targets.rows.shape[-1] * targets.columns.shape[-1])
    return factor, counted > 0


def _forward(
    maps: Tensor, targets: Targets, block: tuple[slice, slice], options: Options
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Losses of a block [b, k], not weighted and summed over pixels, and what is saved of its maps, [b, k] each."""
    pixels = (-2, -1)
    if options.kind == "mse":
        difference = subtract(maps, targets, *block)
        return difference.mul_(difference).sum(pixels), ()
    target = draw(targets, *block)
    if options.kind == "adaptive_wing":
        _, _, _, _, alpha, omega, epsilon, theta = options
        difference = (target - maps).abs_()
        exponent = target.neg_().add_(alpha)
        # Above theta: the logarithm at theta, and from there the slope that it has there.
        excess = (difference - theta).clamp_(min=0)
        logarithm = difference.clamp_(max=theta).div_(epsilon).pow_(exponent).log1p_()
        at_theta = torch.exp(exponent * math.log(theta / epsilon))
        slope = exponent.mul_(at_theta).div_(theta).div_(at_theta.add_(1))
        return logarithm.addcmul_(slope, excess).sum(pixels).mul_(omega), ()
    if options.kind == "focal":
        p = maps.clamp(LOWEST_PROBABILITY, HIGHEST_PROBABILITY)
        is_positive = (target == 1).to(p.dtype)
        rest = 1 - p
        # A positive pixel is multiplied by 0 here, so that no pixel has to be chosen.
        of_negative = target.sub_(1).square_().square_().mul_(p).mul_(p).mul_(torch.log1p(-p))
        of_positive = p.log_().mul_(rest).mul_(rest).mul_(is_positive)
        return of_negative.add_(of_positive).sum(pixels).neg_(), (is_positive.sum(pixels),)

    top = maps.amax(pixels, keepdim=True)
    log_p = maps - top
    total = torch.exp(log_p).sum(pixels)
    sum_of_target = target.sum(pixels)
    scale = torch.where(sum_of_target > 0, 1 / sum_of_target, 0.0)
    shift = total.log()
    if options.kind == "cross_entropy":
        # An infinitely unlikely pixel costs nothing where no target is.
        product = torch.where(target > 0, log_p.mul_(target), 0.0).sum(pixels)
        return torch.where(scale > 0, shift - product * scale, 0.0), (top[..., 0, 0], 1 / total, scale)
    p, q = log_p.sub_(shift[..., None, None]).exp(), target.mul_(scale[..., None, None])
    log_middle = _finite_log((p + q).mul_(0.5))
    of_p = log_p.clamp_(min=_LOWEST_LOG).sub_(log_middle).mul_(p).sum(pixels)
    of_q = _finite_log(q.clone()).sub_(log_middle).mul_(q).sum(pixels)
    return torch.where(scale > 0, 0.5 * (of_p + of_q), 0.0), (top[..., 0, 0], 1 / total, scale, of_p)


def _slopes(
    maps: Tensor, targets: Targets, block: tuple[slice, slice], saved: Tensor, options: Options, out: Tensor | None
) -> Tensor:
    """Derivatives of a block's losses, not weighted and summed over pixels: [b, k, H, W]; in the memory
    of `out`, if given, where that saves a pass."""
    if options.kind == "mse":
        return subtract(maps, targets, *block, out=out).mul_(2)
    target = draw(targets, *block)
    if options.kind == "adaptive_wing":
        _, _, _, _, alpha, omega, epsilon, theta = options
        difference = maps - target
        exponent = target.neg_().add_(alpha - 1)
        size = difference.abs().clamp_(max=theta).div_(epsilon)
        power = torch.pow(size, exponent)
        slope = exponent.add_(1).mul_(power).div_(power.mul_(size).add_(1))
        return slope.mul_(difference.sign_().mul_(omega / epsilon))
    if options.kind == "focal":
        p = maps.clamp(LOWEST_PROBABILITY, HIGHEST_PROBABILITY)
        rest, is_positive = 1 - p, (target == 1).to(p.dtype)
        of_negative = (p * p).div_(rest).sub_(torch.log1p(-p).mul_(p).mul_(2))
        of_negative.mul_(target.sub_(1).square_().square_())
        of_positive = p.log().mul_(2).sub_(rest / p).mul_(rest).mul_(is_positive)
        # No slope where p is clamped; a NaN is not.
        return of_negative.add_(of_positive).mul_((p == maps) | maps.isnan())

    top, inverse_total, scale, *more = (each[..., None, None] for each in saved.unbind(-1))
    log_p = maps - top
    q = target.mul_(scale)
    if options.kind == "cross_entropy":
        return log_p.exp_().mul_(inverse_total).sub_(q)
    p = torch.exp(log_p).mul_(inverse_total)
    log_p.add_(inverse_total.log()).clamp_(min=_LOWEST_LOG)
    return log_p.sub_(_finite_log((p + q).mul_(0.5))).sub_(more[0]).mul_(p).mul_(0.5)


def _finite_log(numbers: Tensor) -> Tensor:
    """Logarithms in place, finite for zeros as well: what they are multiplied by is 0 there."""
    return numbers.clamp_(min=torch.finfo(numbers.dtype).tiny).log_()
