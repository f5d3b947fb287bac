"""decode_simcc in vectorised PyTorch, for CPU and for any device without Triton.

Same numbers as the definition, far fewer of them: the blur is computed for the five bins that a step depends on.
Rescaling a blurred axis shifts its log by a constant, which no derivative sees, so a whole axis is blurred only where
a clip could bind.

The blur is computed in the precision of the input; from there on CPU computes in float64 whatever the input, since a
step is a quotient of differences of nearly equal logs.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .._common.lines import argmax_of_lines

_CLIP_MIN, _CLIP_MAX = 1e-3, 50.0
_CURVATURE_EPSILON = 1e-9
_INVALID = -1.0

# How far rounding can push a value across a clip. Generous: an axis sent the exact way without need costs time and
# not accuracy.
_CLIP_MARGIN = 1e-5

# How far the step's stencil reaches.
_REACH = 2

# Up to so many bins on CPU, one core searches them all before others have begun.
_FEW_BINS = 2**20
# Bins whose maximum is taken at once: long enough to vectorise over, short enough to search again.
_GROUP_SIZE = 64


def decode_simcc_fwd(
    simcc_x: Tensor,  # [B, K, Wx]
    simcc_y: Tensor,  # [B, K, Wy]
    dtype: torch.dtype,
    taps_x: tuple[float, ...] | None,
    taps_y: tuple[float, ...] | None,
    sharpness_x: float,
    sharpness_y: float,
    split_ratio: float,
    mean_score: bool,
    activation: str,
    logit_scale: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """coords [B, K, 2], scores [B, K] and visibilities [B, K] (None if a sharpness is 0), of `dtype`.

    Taps are half of a blur kernel, centre first, or None for no refinement.
    """
    axes = simcc_x.to(dtype), simcc_y.to(dtype)
    largest, bins = zip(*map(_first_maximum, axes), strict=True)
    peaks = [_peak(axis, logit, activation, logit_scale) for axis, logit in zip(axes, largest, strict=True)]
    # Halved before the sum, which could overflow.
    scores = 0.5 * peaks[0] + 0.5 * peaks[1] if mean_score else torch.minimum(*peaks)
    positions = [
        (index if taps is None else index - _dark_step(axis, logit, peak, index, taps, activation, logit_scale))
        for axis, logit, peak, index, taps in zip(axes, largest, peaks, bins, (taps_x, taps_y), strict=True)
    ]
    coords = torch.stack([position.to(dtype) for position in positions], dim=-1).div_(split_ratio)
    # A NaN is not above anything.
    is_valid = scores > 0 if activation == "none" else torch.minimum(*largest) > -math.inf
    coords.masked_fill_(is_valid.logical_not_()[..., None], _INVALID)
    if sharpness_x == 0.0:
        return coords, scores, None
    visibility_x = _largest_softmax(axes[0], largest[0], sharpness_x)
    return coords, scores, torch.minimum(visibility_x, _largest_softmax(axes[1], largest[1], sharpness_y))


def _peak(axis: Tensor, largest: Tensor, activation: str, logit_scale: float) -> Tensor:
    """Value of an axis at its first maximum: [B, K]."""
    if activation == "none":
        return largest
    if activation == "sigmoid":
        return _sigmoid(largest, logit_scale)
    # Bins of -inf have no probability, even if there are no others.
    return _largest_softmax(axis, largest, logit_scale).masked_fill_(largest == -math.inf, 0.0)


def _activated(
    values: Tensor,  # [..., N] of an axis
    largest: Tensor,  # [...] of the whole axis
    peak: Tensor,  # [...] what that is activated
    activation: str,
    logit_scale: float,
) -> Tensor:
    """Values of an axis at some of its bins. Logits equal to the largest give the peak, to the bit."""
    if activation == "none":
        return values
    largest, peak = largest[..., None], peak[..., None]
    if activation == "sigmoid":
        activated = _sigmoid(values, logit_scale)
    else:
        activated = (values - largest).mul_(logit_scale).exp_().mul_(peak)
    return torch.where(values == largest, peak, activated)


def _sigmoid(logits: Tensor, logit_scale: float) -> Tensor:
    return (logits * -logit_scale).exp_().add_(1.0).reciprocal_()


def _first_maximum(axis: Tensor) -> tuple[Tensor, Tensor]:
    """Value and index of the first maximum, NaN being the largest value: [B, K] each.

    Of many bins on CPU the largest is found by all cores: the maximum of each group of bins, the first group that holds
    the largest, then the place inside that group.
    """
    if axis.device.type != "cpu" or axis.numel() <= _FEW_BINS or axis.shape[-1] % _GROUP_SIZE != 0:
        bins = argmax_of_lines(axis)
        return axis.gather(-1, bins.unsqueeze(-1)).squeeze(-1), bins
    groups = axis.unflatten(-1, (-1, _GROUP_SIZE))
    peaks, group = groups.amax(-1).max(-1)
    chosen = groups.gather(-2, group[..., None, None].expand(*group.shape, 1, _GROUP_SIZE)).squeeze(-2)
    return peaks, argmax_of_lines(chosen).add_(group, alpha=_GROUP_SIZE)


def _largest_softmax(axis: Tensor, peak: Tensor, sharpness: float) -> Tensor:
    """max softmax(sharpness * axis), of infinite peaks one over their number: [B, K]."""
    # Two equal infinities differ by NaN; so does all from a NaN, of which this is kept.
    exponents = (axis - peak[..., None]).mul_(sharpness).nan_to_num_(nan=0.0)
    # e^-80 is nothing beside the 1 of the largest, and a CPU takes far longer over numbers that are less than normal.
    exponents.clamp_min_(-80.0)
    return torch.where(peak.isnan(), peak, exponents.exp_().sum(-1).reciprocal_())


def _dark_step(
    axis: Tensor,  # [B, K, W]
    largest: Tensor,  # [B, K] of the axis
    peak: Tensor,  # [B, K] what that is activated
    index: Tensor,  # [B, K] where it is
    taps: tuple[float, ...],
    activation: str,
    logit_scale: float,
) -> Tensor:
    """Distance from the maximum of the log of the smoothed axis to `index`: [B, K]."""
    width = axis.shape[-1]
    half_window = len(taps) - 1 + _REACH
    seen = index[..., None] + torch.arange(-half_window, half_window + 1, device=axis.device)
    window = _activated(axis.gather(-1, seen.clamp(0, width - 1)), largest, peak, activation, logit_scale)
    window.masked_fill_((seen < 0) | (seen >= width), 0.0)
    # What is blurred is the distance from the peak: the flatter the axis, the smaller are the sums and their rounding.
    # Half of it, which can't overflow.
    window = window.clamp_min_(torch.finfo(axis.dtype).min).mul_(0.5).sub_(0.5 * peak[..., None])
    # A tensor made while a CUDA graph is captured belongs to that graph, so only weights on CPU are kept.
    make = _kept_weights if axis.device.type == "cpu" else _stencil_weights
    blurred = (window.unsqueeze(-2) * make(taps, axis.dtype, axis.device)).sum(-1)
    blurred = peak[..., None] + 2.0 * blurred
    # Beyond an end the log of the end itself is repeated.
    points = (index[..., None] + torch.arange(-_REACH, _REACH + 1, device=axis.device)).clamp_(0, width - 1)
    values = blurred.gather(-1, points - index[..., None] + _REACH)
    if axis.device.type == "cpu":  # not every accelerator has float64
        values, peak = values.double(), peak.double()
    scale = _scale_where_a_clip_binds(values, axis, largest, peak, taps, activation, logit_scale)
    values = values * scale[..., None]
    logs = values.clamp_(_CLIP_MIN, _CLIP_MAX).log_()
    before_2, before, center, after, after_2 = logs.unbind(-1)
    first = (after - before) / 2
    second = ((after_2 - center) + (before_2 - center)) / 4
    step = first / (second + _CURVATURE_EPSILON)
    return torch.where(step.isfinite() & (largest < math.inf), step, 0.0)


def _stencil_weights(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The blur at the bins -2 to 2 from a window around bin 0: [5, window]."""
    rows = 2 * _REACH + 1
    kernel = [*taps[:0:-1], *taps]
    weights = torch.zeros(rows, len(kernel) + rows - 1, dtype=dtype, device=device)
    for place, weight in enumerate(kernel):  # filled on the device: a copy from the host would make it wait
        weights.diagonal(place).fill_(weight)
    return weights


_kept_weights = functools.lru_cache(maxsize=32)(_stencil_weights)


def _scale_where_a_clip_binds(
    values: Tensor,  # [B, K, 5] of the blurred axis
    axis: Tensor,  # this and the next five: see `_dark_step`
    largest: Tensor,
    peak: Tensor,
    taps: tuple[float, ...],
    activation: str,
    logit_scale: float,
) -> Tensor:
    """max(raw) / max(blurred) where the step depends on it, 1 elsewhere: [B, K].

    The scale lies between 1 and peak / max(values): an average never exceeds the largest value. So no clip binds if
    _CLIP_MIN <= values and peak <= _CLIP_MAX; and if peak <= _CLIP_MIN or _CLIP_MAX <= values, all clip to one number.
    """
    lowest = values.amin(-1)
    binds = (lowest < _CLIP_MIN * (1 + _CLIP_MARGIN)) & (peak > _CLIP_MIN * (1 - _CLIP_MARGIN))
    binds |= (peak > _CLIP_MAX * (1 - _CLIP_MARGIN)) & (lowest < _CLIP_MAX * (1 + _CLIP_MARGIN))
    if axis.device.type != "cpu":  # where the host would have to wait to know which
        blurred = _blur(_activated(axis, largest, peak, activation, logit_scale), taps).amax(-1)
        return torch.where(binds & (blurred > 0), peak / blurred, 1.0)
    scale = torch.ones_like(peak)
    chosen = binds.nonzero(as_tuple=True)
    if chosen[0].numel():
        activated = _activated(axis[chosen], largest[chosen], peak[chosen].to(axis.dtype), activation, logit_scale)
        blurred = _blur(activated, taps).amax(-1).to(peak.dtype)
        scale[chosen] = torch.where(blurred > 0, peak[chosen] / blurred, 1.0)
    return scale


def _blur(axis: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Smooth whole axes [..., W], with zeros beyond the ends."""
    limits = torch.finfo(axis.dtype)
    axis = axis.clamp(limits.min, limits.max)
    radius, width = len(taps) - 1, axis.shape[-1]
    padded = torch.nn.functional.pad(axis, (radius, radius))
    blurred = axis * taps[0]
    for distance in range(1, radius + 1):
        pair = padded.narrow(-1, radius - distance, width) + padded.narrow(-1, radius + distance, width)
        blurred.add_(pair, alpha=taps[distance])
    return blurred
