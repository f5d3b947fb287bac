"""The definition of decode_simcc: whole axes, plain PyTorch, one step after the other.

Slow on purpose and readable on purpose. Every other backend is proved against this file in float64.

Sources: Y. Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022;
F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020 (the smoothing and
the Taylor step, along one axis).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..recipes import opencv_taps, simcc_kernel_size

_CLIP_MIN, _CLIP_MAX = 1e-3, 50.0
# Added to the second derivative, so that a flat axis has one to divide by.
_CURVATURE_EPSILON = 1e-9
_INVALID = -1.0


def decode_simcc_reference(
    simcc_x: Tensor,  # [B, K, Wx]
    simcc_y: Tensor,  # [B, K, Wy]
    sigma: float | tuple[float, float] | None = None,
    dark: bool = False,
    split_ratio: float = 1.0,
    score: str = "min",
    visibility: bool = False,
    beta: float = 150.0,
    *,
    activation: str = "none",
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Decode whole axes, step by step.

    Args:
        simcc_x: [B, K, Wx] of a floating dtype. float16 and bfloat16 are computed in float32.
        simcc_y: [B, K, Wy], alike.
        sigma: As `decode_simcc` takes it, and the same for all that follow.
        dark: Whether to refine.
        split_ratio: Bins per pixel.
        score: `"min"` or `"mean"`.
        visibility: Whether to return visibilities as well.
        beta: Of the visibilities.
        activation: `"none"`, `"sigmoid"` or `"softmax"`: what makes probabilities of the axes.
        logit_scale: What multiplies logits.

    Returns:
        coords [B, K, 2] in pixels, scores [B, K] and visibilities [B, K] or None, in float64 if an input is, else in
        float32.
    """
    dtype = torch.float64 if torch.float64 in (simcc_x.dtype, simcc_y.dtype) else torch.float32
    axes = simcc_x.to(dtype), simcc_y.to(dtype)
    sigma_x, sigma_y = sigma if isinstance(sigma, tuple) else (sigma, sigma)

    # Of the logits: two that differ can have the same sigmoid. The first maximum; NaN is the largest.
    largest, bins = zip(*(axis.max(dim=-1) for axis in axes), strict=True)
    activated = [_activated(axis, activation, logit_scale) for axis in axes]
    peaks = [axis.gather(-1, index[..., None]).squeeze(-1) for axis, index in zip(activated, bins, strict=True)]
    scores = torch.minimum(*peaks) if score == "min" else 0.5 * peaks[0] + 0.5 * peaks[1]
    # A NaN is not above anything.
    is_valid = scores > 0 if activation == "none" else (largest[0] > -math.inf) & (largest[1] > -math.inf)
    coords = torch.stack(bins, dim=-1).to(dtype)
    if dark:
        step_x = _dark_step(activated[0], peaks[0], bins[0], sigma_x)
        step_y = _dark_step(activated[1], peaks[1], bins[1], sigma_y)
        steps = torch.stack([step_x, step_y], dim=-1)
        coords = coords - torch.where(torch.stack(largest, dim=-1) < math.inf, steps, 0.0)
    coords = torch.where(is_valid[..., None], coords / split_ratio, _INVALID)
    if not visibility:
        return coords, scores, None
    probability_x = _largest_softmax(axes[0], beta, sigma_x)
    return coords, scores, torch.minimum(probability_x, _largest_softmax(axes[1], beta, sigma_y))


def _activated(axis: Tensor, activation: str, logit_scale: float) -> Tensor:
    """Probabilities of the bins [..., W], or the axis as it is."""
    if activation == "none":
        return axis
    if activation == "sigmoid":
        return torch.sigmoid(logit_scale * axis)
    terms = _softmax_terms(axis, logit_scale)
    # Bins of -inf have no probability, even if there are no others.
    return torch.where(axis == -math.inf, 0.0, terms / terms.sum(dim=-1, keepdim=True))


def blur(axis: Tensor, kernel_size: int) -> Tensor:
    """Smooth [..., W] by OpenCV's rule, with zeros beyond the ends."""
    # An infinity times a small weight would take all others with it; the largest finite number stands for it.
    axis = axis.clamp(torch.finfo(axis.dtype).min, torch.finfo(axis.dtype).max)
    width, radius, taps = axis.shape[-1], kernel_size // 2, opencv_taps(kernel_size)
    padded = torch.nn.functional.pad(axis, (radius, radius))
    blurred = taps[0] * axis
    for distance in range(1, radius + 1):
        before, after = (padded.narrow(-1, radius + sign * distance, width) for sign in (-1, 1))
        blurred = blurred + taps[distance] * (before + after)
    return blurred


def _dark_step(axis: Tensor, peak: Tensor, index: Tensor, sigma: float | None) -> Tensor:
    """Distance from the maximum to `index`: the first derivative of the smoothed axis' log over the second, [B, K]."""
    assert sigma is not None, "decode_simcc() refuses dark=True without sigma"
    blurred = blur(axis, simcc_kernel_size(sigma))
    largest = blurred.amax(dim=-1)
    # Scaling by a largest value <= 0 would flip the sign.
    blurred = blurred * torch.where(largest > 0, peak / largest, 1.0)[..., None]
    logs = blurred.clamp(_CLIP_MIN, _CLIP_MAX).log()

    def at(distance: int) -> Tensor:
        """The logs beside the peak; beyond an end its own log is repeated."""
        return logs.gather(-1, (index + distance).clamp(0, axis.shape[-1] - 1)[..., None]).squeeze(-1)

    first = (at(1) - at(-1)) / 2
    second = (at(2) - 2 * at(0) + at(-2)) / 4
    step = first / (second + _CURVATURE_EPSILON)
    return torch.where(step.isfinite(), step, 0.0)


def _largest_softmax(axis: Tensor, beta: float, sigma: float | None) -> Tensor:
    """max softmax(beta * sigma * axis), of infinite peaks one over their number: [B, K]."""
    assert sigma is not None, "decode_simcc() refuses visibility=True without sigma"
    return 1 / _softmax_terms(axis, beta * sigma).sum(dim=-1)


def _softmax_terms(axis: Tensor, scale: float) -> Tensor:
    """exp(scale * axis) over that of the largest bin: [..., W]."""
    largest = axis.amax(dim=-1, keepdim=True)
    # Two equal infinities differ by NaN.
    return torch.where(axis == largest, 1.0, torch.exp(scale * (axis - largest)))
