"""Bounds a backend's distance from the float64 reference, derived and not tuned.

The bounds hold for every input. Where a bound is larger than the number that it bounds says anything about,
it is infinite, and callers can only ask for a finite result.

Notation: u is the unit roundoff of the arithmetic (2^-24 for float32, 2^-53 for float64), h the raw map, b the
blurred one, s the scale of DARK's eq. 12, L = log(clip(s b)), g and H its gradient and Hessian at the peak.

1. Blur. A pixel is the sum of k x k products w_i w_j h_ij, taken axis by axis. For each axis a weight is rounded,
   multiplied (2 roundings) and added up (k - 1 roundings, in whatever order), so

       |db| <= 2 (k + 1) u blur(|h|)

   (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). A kernel that computes its
   weights as TAP_0 exp2(d^2 c) rounds its first factor and c, their product and the result. exp2 of a hardware unit
   is good to 2 ulp = 4 u, and an argument of size E = d^2 / (2 sigma^2), in nats, with a relative error of 2 u
   makes a relative error of 2 E u: (6 + 2 E) u more for each axis. What underflows is lost, at most the smallest
   normal number for each product. A blur of distances from a level p, which a plateau makes zeros, has |h - p| in
   place of |h| (|p| outside a map padded with zeros), one rounding more for the distance, and one of the sum
   p + blur(h - p). The level is the peak, or the blurred peak if that is positive, itself rounded, else 0.
2. Scale. The maximum of the computed blurred map lies between max(b - |db|) and max(b + |db|); division and
   multiplication round once each.
3. Log. If no stencil value can reach a clip, s cancels from all derivatives and dL = |db| / (b - |db|). Else each
   value lies in an interval, and dL is the larger distance of L from log(clip(ends)). Rounding of the logarithm
   itself: 8 u (1 + |L|) for absolute logs. A kernel that takes logs relative to the centre's has 8 u |L - L_c|
   while the two values are within a factor 5/3 (its series), else 8 u (1 + |L| + |L_c|).
4. Derivatives. Sums of n <= 13 weighted logs l (absolute ones, or relative to the centre):
   |dg| <= sum |w| dL + n u sum |w l|, alike |dH|.
5. Step. (H + dH)(o + do) = -(g + dg) gives do = -(H + dH)^-1 (dg + dH o). With R = |H^-1| |dH| and rho its
   infinity norm, a Neumann series bounds every component: with v = |H^-1| (|dg| + |dH| |o|),

       |do| <= v + rho / (1 - rho) max(v)

   rho >= 1/2 is a relative perturbation of H of order one: the problem is singular in this arithmetic and the
   bound infinite. Cramer's rule has three roundings in each of its 2 x 2 determinants, which count the more the
   more these cancel.
6. Result. The step is added to a pixel and stored: one rounding of the output, and one of the sum where that is
   taken in the same precision.

Covariance: d(H^-1) = H^-1 dH H^-1 alike. Whether there is one at all is decided by the sign of the smallest
eigenvalue of -H^-1 - known variance, which is certain only if it exceeds what the matrix may be off.

A fit: see `fit_bounds.py`, and `blob_bounds.py` for that of a blob.

A matched filter's response is off as a blur is, axis by axis, with the roundings of its normalising factors besides: a
square, k - 1 additions of positive numbers, a root, which halves what came before, and a quotient make k / 2 + 4 of
them on each axis.

Logits h: all of the above is of p, whose own error comes first. exp is good to 4 u, and an argument a of it that is
multiplied by log2(e), which is rounded itself, makes 2 |a| u more. A sigmoid has a sum and a quotient (4 u of a
hardware's division), and of the error of exp the share 1 - p that exp has in the sum:

    |dp| <= (10 + 2 |h| (1 - p)) u p

A softmax has the distance from the largest logit m for an argument, rounded once: (6 + 3 (m - h)) u p. Its sum over the
map has the mean of that, the roundings of additions, of which no backend makes more than N / 16 + 16 one after the
other, and in a kernel, for each eighth addition, an exp and a product with which what has been added is made relative
to a larger m; their arguments add up to no more than m - h. All pixels of a map share the error of the sum, so that it
counts where the scale does, in step 2. What underflows is lost, the smallest normal number at most.

Masses: a quotient of two sums of positive numbers, of which each has the errors of the numbers and as many roundings as
above, (2 r + 1)^2 more for a window. A kernel makes its numbers smaller by 2^24, so that no sum overflows; what
underflows then is lost.

Signs and choices are exact or undecided: a quarter step on a blurred map may take another sign if the difference of
the two neighbours is within the rounding of both, and the peak of a blurred map, or of a filter's response, may be
another pixel if its value is within the rounding of both of the maximum (`other_peaks`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product
from ..decode import reference
from ..recipes import Recipe, blur_taps
from .arithmetic import Arithmetic, unit_roundoff
from .blob_bounds import bound_blob
from .fit_bounds import bound_fit, choose
from .systems import bound_covariance, bound_step, matrix_of

_COMPACT_EPSILON = 1.1920929e-7
_MASS_UNIT = 2.0**24
_ADDENDS = 13  # of the stencil with the most points


class DecodeBounds(NamedTuple):
    """The most that a backend's numbers may differ from the reference's in float64; infinite where anything may be.

    Attributes:
        coords: [B, K, 2] in heatmap pixels.
        scores: [B, K].
        covariances: [B, K, 2, 2]. Infinite also where it is not certain whether there is a covariance.
        validity_is_certain: [B, K]: whether rounding can't make an invalid keypoint valid or the reverse. It can
            only where a peak of a blurred map is about zero.
    """

    coords: Tensor
    scores: Tensor
    covariances: Tensor
    validity_is_certain: Tensor


def decode_bounds(
    heatmaps: Tensor,  # [B, K, H, W]
    recipe: Recipe,
    arithmetic: Arithmetic,
    peaks_at: tuple[Tensor, Tensor] | None = None,  # x and y, [B, K]
) -> DecodeBounds:
    """The bounds that this module's docstring derives.

    Args:
        heatmaps: Of any floating dtype; they are taken as exact, since backends convert them without rounding.
        recipe: Which decoder.
        arithmetic: What the backend in question computes in.
        peaks_at: Pixels to bound the numbers of in place of the peaks, [B, K] each.
    """
    # An infinity stands for the largest number of the arithmetic wherever it is averaged.
    limit = torch.finfo(torch.float64).max / 16 if heatmaps.dtype == torch.float64 else torch.finfo(torch.float32).max
    infinite = heatmaps.isinf().flatten(2).any(-1)
    raw_is_infinite = (heatmaps == math.inf).flatten(2).any(-1)
    given = maps = heatmaps.double().clamp(-limit, limit)
    has_logits = recipe.activation != "none"
    if has_logits:
        maps = reference.activate(heatmaps.double(), recipe.activation)
    errors, common = _activation_errors(heatmaps.double(), maps, recipe, arithmetic)
    blurred = reference.blur(maps, recipe)
    whole_error = _blur_error(maps, recipe, arithmetic, input_errors=errors)
    scale, low_scale, high_scale = _scale_interval(maps, blurred, whole_error, recipe, arithmetic.blur, errors)
    low_scale, high_scale = low_scale * (1 - common), high_scale * (1 + common)
    on_blurred = recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1
    is_matched = recipe.argmax_on == "matched"
    searched, searched_error = (blurred, whole_error) if on_blurred else (given, torch.zeros_like(maps))
    _, highest_x, highest_y = reference.find_peak(blurred * scale if on_blurred and recipe.rescale else searched)
    x, y = (highest_x, highest_y) if peaks_at is None else peaks_at
    if is_matched and peaks_at is None:
        _, matched_x, matched_y = reference.find_peak(reference.match_blobs(maps, recipe.expected_sigma))
        x, y = (torch.where(raw_is_infinite, a, b) for a, b in ((highest_x, matched_x), (highest_y, matched_y)))

    out_roundoff = unit_roundoff(torch.float64 if heatmaps.dtype == torch.float64 else torch.float32)
    of_peaks = (blurred, whole_error) if on_blurred else (maps, errors)
    valued_at = (highest_x, highest_y) if is_matched else (x, y)
    peaks, peak_errors = (reference._read(each, *valued_at, 0, 0) for each in of_peaks)
    peak_errors = peak_errors + common[..., 0, 0] * torch.where(peaks.isinf(), 0.0, peaks.abs())
    certain = (peaks - peak_errors > 0) | (peaks + peak_errors <= 0) | peaks.isnan() | has_logits
    blurred_error = whole_error
    is_narrow = recipe.blur_kernel_size // 2 <= arithmetic.narrow_radius
    if recipe.padding in arithmetic.subtracts_peak and is_narrow:
        # With a matched filter the level may be that of the maximum or of the pixel that was found.
        there = [peaks, reference._read(maps, x, y, 0, 0)] if is_matched else [peaks]
        blurred_error = torch.stack(
            [_blur_error(maps, recipe, arithmetic, level.clamp(-limit, limit), input_errors=errors) for level in there]
        ).amax(0)
    elif recipe.padding in arithmetic.subtracts_blurred_peak:
        level_errors = reference._read(whole_error, x, y, 0, 0)
        levels = reference._read(blurred, x, y, 0, 0).clamp(min=0)
        blurred_error = _blur_error(maps, recipe, arithmetic, levels, level_errors, errors)
    score_errors = peak_errors
    if on_blurred and recipe.rescale:
        flat_scale = [each[..., 0, 0] for each in (scale, low_scale, high_scale)]
        ends = torch.stack([(peaks + sign * peak_errors) * each for sign in (-1, 1) for each in flat_scale])
        score_errors = (ends - peaks * flat_scale[0]).abs().amax(0)
        peaks = peaks * flat_scale[0]
    rounds_score = on_blurred or has_logits
    scored = peaks
    if recipe.score == "mass":
        scored, score_errors = _mass_bounds(maps, errors, common, x, y, recipe, arithmetic)
        rounds_score = True
    score_errors = abs(recipe.score_scale) * score_errors + (
        4 * out_roundoff * ((scored * recipe.score_scale).abs() + abs(recipe.score_offset))
        if recipe.score_scale != 1.0 or recipe.score_offset != 0.0 or rounds_score
        else 0.0
    )

    covariance_bounds = maps.new_zeros(*maps.shape[:2], 2, 2)
    if recipe.has_hessian:
        step, step_bounds, covariance_bounds = _refinement_bounds(
            blurred, blurred_error, (scale, low_scale, high_scale), x, y, recipe, arithmetic, out_roundoff
        )
        if recipe.stencil != "compact":
            height, width = maps.shape[-2:]
            stays = (x < 2) | (x > width - 3) | (y < 2) | (y > height - 3)
            step_bounds = step_bounds.masked_fill(stays[..., None], 0.0)
            step = step.masked_fill(stays[..., None], 0.0)
            covariance_bounds = covariance_bounds.masked_fill(stays[..., None, None], 0.0)
        if recipe.stencil in ("fit", "gaussian"):
            if recipe.stencil == "fit":
                relative = errors / maps.clamp(min=1.0e-300) if has_logits else None
                fit = bound_fit(maps, x, y, recipe, arithmetic, out_roundoff, relative)
            else:
                fit = bound_blob(maps, x, y, recipe, arithmetic, out_roundoff, errors if has_logits else None)
            if has_logits and recipe.stencil == "fit":  # what has underflowed is not fitted to
                lost = ((maps > 0) & (errors >= maps)).double().clamp(max=1.0)
                lost = reference.sum_around(lost, x, y, recipe.fit_radius) > 0
                fit = fit._replace(succeeds=fit.succeeds & ~lost, fails=fit.fails & ~lost)
            step = torch.where(fit.succeeds[..., None], fit.step, step)
            step_bounds = choose(fit, fit.step_bounds, step_bounds)
            covariance_bounds = choose(fit, fit.covariance_bounds, covariance_bounds)
        # One rounding of pixel plus step, and one of the step itself.
        if recipe.max_offset is not None:
            step = step.clamp(-recipe.max_offset, recipe.max_offset)
    elif recipe.stencil != "none":
        step, step_bounds = _quarter_bounds(searched, searched_error, x, y)
    else:
        step = step_bounds = torch.zeros(*x.shape, 2, dtype=torch.float64, device=x.device)
    pixels = torch.stack([x, y], -1).double()
    step = step.nan_to_num(0.0, 0.0, 0.0)
    # A quarter of a pixel is exact, and so is a pixel.
    rounds = recipe.has_hessian or recipe.extra_shift != 0.0 or recipe.max_offset is not None
    sizes = (pixels + step).abs() + step.abs() + abs(recipe.extra_shift)
    coord_bounds = step_bounds + (2 * out_roundoff * sizes if rounds else 0.0)
    refined = (peaks > 0) & ~raw_is_infinite
    if has_logits:
        refined = (given.amax((-2, -1)) > -limit) & ~raw_is_infinite
    unrefined = ~refined[..., None] & certain[..., None]
    coord_bounds = torch.where(unrefined, out_roundoff * abs(_finite(recipe.invalid)), coord_bounds)
    covariance_bounds = covariance_bounds.masked_fill(unrefined[..., None], 0.0)
    # What stands for an infinity where it is averaged differs between float32 and float64.
    if recipe.argmax_on != "raw" and not has_logits:
        is_open = infinite & ~raw_is_infinite if is_matched else infinite
        coord_bounds = coord_bounds.masked_fill(is_open[..., None], math.inf)
        covariance_bounds = covariance_bounds.masked_fill(is_open[..., None, None], math.inf)
        if not is_matched:
            score_errors = score_errors.masked_fill(infinite, math.inf)
    return DecodeBounds(
        coord_bounds.nan_to_num(nan=math.inf, posinf=math.inf),
        # A NaN is to be met by a NaN, and where the scale is open anything may be.
        score_errors.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(scored.isnan(), 0.0),
        covariance_bounds.nan_to_num(nan=math.inf, posinf=math.inf),
        certain,
    )


def other_peaks(heatmap: Tensor, recipe: Recipe, arithmetic: Arithmetic) -> Tensor:
    """Flat indices of the pixels of one [H, W] map that rounding may take for its maximum, the maximum included.

    On a raw map there is but one. On a blurred one, and in a matched filter's response: all whose value, within its
    rounding, reaches that of the maximum within its own.
    """
    given = heatmap.double()[None, None]
    maps = reference.activate(given, recipe.activation)
    on_blurred = recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1
    is_finite = bool(maps.isfinite().all())
    if not is_finite or not (on_blurred or recipe.argmax_on == "matched"):
        _, x, y = reference.find_peak(reference.blur(maps, recipe) if on_blurred else given)
        return (y * maps.shape[-1] + x).flatten()
    errors, _ = _activation_errors(given, maps, recipe, arithmetic)
    if on_blurred:
        searched, error = reference.blur(maps, recipe), _blur_error(maps, recipe, arithmetic, input_errors=errors)
    else:
        searched = reference.match_blobs(maps, recipe.expected_sigma)
        error = _response_error(maps, recipe.expected_sigma, arithmetic, errors)
    return (searched + error >= (searched - error).amax()).flatten().nonzero().flatten()


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _sum_of_taps(taps: tuple[float, ...]) -> float:
    return taps[0] + 2 * sum(taps[1:])


def _blur_error(
    maps: Tensor,
    recipe: Recipe,
    arithmetic: Arithmetic,
    levels: Tensor | None = None,  # [B, K]
    level_errors: Tensor | float = 0.0,  # [B, K]
    input_errors: Tensor | None = None,  # [B, K, H, W]
) -> Tensor:
    """Step 1: the most that the blurred map may be off, the float64 reference's own rounding included.

    With `levels`, of a blur of the distances from them, which may be off by `level_errors` themselves. `input_errors`:
    how far off what is blurred is.
    """
    kernel_size, taps = recipe.blur_kernel_size, recipe.taps
    if input_errors is None:
        input_errors = torch.zeros_like(maps)
    if kernel_size == 1 and levels is None:  # a weight of one
        return input_errors
    magnitude = maps.abs()
    if levels is not None:
        levels, level_errors = (torch.as_tensor(each)[..., None, None] for each in (levels, level_errors))
        magnitude = (maps - levels).abs() + level_errors
    roundoff = unit_roundoff(arithmetic.blur) + unit_roundoff(torch.float64)

    def smooth(vertical: tuple[float, ...], horizontal: tuple[float, ...]) -> Tensor:
        def over_both(values: Tensor) -> Tensor:
            rows = reference._blur_axis(values, horizontal, recipe.padding, axis=-1)
            return reference._blur_axis(rows, vertical, recipe.padding, axis=-2)

        smoothed = over_both(magnitude)
        if levels is not None and recipe.padding == "zeros":
            whole = _sum_of_taps(vertical) * _sum_of_taps(horizontal)
            smoothed = smoothed + levels.abs() * (whole - over_both(torch.ones_like(magnitude))).clamp(min=0)
        return smoothed

    roundings = 2 * (kernel_size + 1) + (0 if levels is None else 1)
    error = roundings * roundoff * smooth(taps, taps)
    if levels is not None:
        error = error + roundoff * (reference.blur(maps, recipe).abs() + error)
    kernel_sigma = recipe.operator_arguments[1]
    if arithmetic.computes_taps and kernel_sigma > 0:  # not one of OpenCV's tables
        # The weights times their own relative error.
        wrong = tuple(w * (6 + (i / kernel_sigma) ** 2) * roundoff for i, w in enumerate(taps))
        error = error + smooth(wrong, taps) + smooth(taps, wrong)
    error = error + reference.blur(input_errors, recipe)
    # n u / (1 - n u) for n u, and products that underflow.
    return 1.01 * error + 2 * kernel_size**2 * torch.finfo(arithmetic.blur).tiny


def _response_error(maps: Tensor, sigma: float, arithmetic: Arithmetic, input_errors: Tensor) -> Tensor:
    """The most that a matched filter's response may be off, [B, K, H, W]."""
    taps = blur_taps(2 * math.ceil(reference.FILTER_REACH * sigma) + 1, sigma)
    size = 2 * len(taps) - 1
    roundoff = unit_roundoff(arithmetic.blur) + unit_roundoff(torch.float64)
    # Each weight times its own relative error, in the sum and, halved twice, in its normalising factor.
    relative = [2 * (6 + (i / sigma) ** 2) if arithmetic.computes_taps else 0.0 for i in range(len(taps))]
    roundings = 2 * (size + 1) + 2 * (size / 2 + 4) + 2 * max(relative)
    error = roundings * roundoff * reference.match_blobs(maps.abs(), sigma)
    error = error + reference.match_blobs(input_errors, sigma)
    smallest = torch.finfo(arithmetic.blur).tiny * size**2
    return 1.01 * error + smallest * reference.match_blobs(torch.ones_like(maps), sigma)


def _scale_interval(
    maps: Tensor,
    blurred: Tensor,
    error: Tensor,
    recipe: Recipe,
    dtype: torch.dtype,
    input_errors: Tensor | float = 0.0,  # [B, K, H, W]
) -> tuple[Tensor, Tensor, Tensor]:
    """Step 2: s and the interval that a backend's lies in, [B, K, 1, 1]; NaN ends where even its sign may differ."""
    highest = blurred.amax((-2, -1), keepdim=True)
    one = torch.ones_like(highest)
    if not recipe.rescale:
        return one, one, one
    raw = maps.amax((-2, -1), keepdim=True)
    low, high = (blurred - error).amax((-2, -1), keepdim=True), (blurred + error).amax((-2, -1), keepdim=True)
    roundoff = 2 * unit_roundoff(dtype) + 2 * unit_roundoff(torch.float64)
    scale = torch.where(highest > 0, raw / highest, one)
    low_raw, high_raw = ((maps + sign * input_errors).amax((-2, -1), keepdim=True) for sign in (-1, 1))
    low_scale, high_scale = low_raw / high * (1 - roundoff), high_raw / low * (1 + roundoff)
    rescaled = (low > 0) & (raw < math.inf)
    untouched = high <= 0
    low_scale = torch.where(rescaled, low_scale, torch.where(untouched, one, math.nan))
    high_scale = torch.where(rescaled, high_scale, torch.where(untouched, one, math.nan))
    return scale, low_scale, high_scale


def _activation_errors(logits: Tensor, maps: Tensor, recipe: Recipe, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """Errors of the pixels that a backend makes of logits, [B, K, H, W], and the relative error that all pixels of a
    map have in common, [B, K, 1, 1]."""
    nothing = torch.zeros_like(maps[..., :1, :1])
    if recipe.activation == "none":
        return torch.zeros_like(maps), nothing
    roundoff = unit_roundoff(arithmetic.blur) + unit_roundoff(torch.float64)
    tiny = torch.finfo(arithmetic.blur).tiny
    if recipe.activation == "sigmoid":
        sizes = torch.where(logits.isfinite(), logits, 0.0).abs()
        return 1.01 * (10 + 2 * sizes * (1 - maps)) * roundoff * maps + tiny, nothing
    distances = logits.amax((-2, -1), keepdim=True) - logits
    relative = 6 + 3 * torch.where(distances.isfinite(), distances, 0.0)
    roundings = maps[0, 0].numel() / 8 + 40 if maps.numel() else 0.0
    common = 1.01 * ((relative * maps).sum((-2, -1), keepdim=True) + roundings) * roundoff
    return 1.01 * relative * roundoff * maps + tiny, common


def _mass_bounds(
    maps: Tensor, errors: Tensor, common: Tensor, x: Tensor, y: Tensor, recipe: Recipe, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """Masses around pixels [B, K], and how far off a backend's may be."""
    radius = recipe.mass_radius
    masses = reference.mass_around(maps, x, y, radius)
    whole = maps.clamp(min=0.0).sum((-2, -1))
    num_pixels = maps.shape[-2] * maps.shape[-1]
    roundings = 2 * (num_pixels / 8 + 40) + (2 * radius + 1) ** 2
    relative = roundings * (unit_roundoff(arithmetic.blur) + unit_roundoff(torch.float64)) + common[..., 0, 0]
    lost = num_pixels * torch.finfo(arithmetic.blur).tiny * _MASS_UNIT
    off = reference.sum_around(errors, x, y, radius) + masses * errors.sum((-2, -1)) + lost
    bounds = torch.where(whole > 0, 1.01 * (off / whole + relative * masses), 0.0)
    return masses, torch.where(whole < math.inf, bounds, 0.0).clamp(max=1.0)


def _log_errors(
    values: Tensor,  # [..., points], blurred and not scaled
    errors: Tensor,
    scales: tuple[Tensor, Tensor, Tensor],  # [..., 1]
    recipe: Recipe,
    arithmetic: Arithmetic,
) -> tuple[Tensor, Tensor]:
    """Step 3: the logs at the stencil's points, the centre first, and how far off a backend's may be."""
    scale, low_scale, high_scale = scales
    logs = (values * scale).clamp(recipe.clip_min, recipe.clip_max).log()
    ends = torch.stack([(values + sign * errors) * each for sign in (-1, 1) for each in (low_scale, high_scale)])
    low, high = ends.amin(0), ends.amax(0)
    low, high = torch.where(ends.isnan().any(0), math.nan, low), torch.where(ends.isnan().any(0), math.nan, high)
    # The clips are rounded to the arithmetic's precision too.
    roundoff = unit_roundoff(arithmetic.step) + unit_roundoff(torch.float64)
    clip_min, clip_max = recipe.clip_min, recipe.clip_max
    free = ((low > clip_min * (1 + 4 * roundoff)) & (high < clip_max * (1 - 4 * roundoff))).all(-1, keepdim=True)
    without_clip = errors / (values - errors)
    low_log, high_log = (end.clamp(clip_min, clip_max).log() for end in (low, high))
    with_clip = torch.maximum(high_log - logs, logs - low_log) + 4 * roundoff
    # Where all points certainly clip to one number there is nothing to round.
    all_clipped = (high <= clip_min * (1 - 4 * roundoff)).all(-1, keepdim=True)
    all_clipped = all_clipped | (low >= clip_max * (1 + 4 * roundoff)).all(-1, keepdim=True)
    error = torch.where(free, without_clip, torch.where(all_clipped, 0.0, with_clip))

    center = logs[..., :1]
    absolute = 8 * roundoff * (1 + logs.abs() + center.abs())
    if not arithmetic.relative_logs:
        return logs, error + absolute
    difference = (logs - center).abs()
    # log(5/3), less a little for values that are off.
    return logs, error + torch.where(difference < 0.5, 8 * roundoff * difference, absolute)


# Points (dx, dy), the centre first, and their weights in dx, dy, dxx, dyy and dxy: decode/README.md, section 3.
_POINTS: dict[str, dict[tuple[int, int], tuple[float, float, float, float, float]]] = {
    "wide": {
        (0, 0): (0, 0, -0.5, -0.5, 0),
        (1, 0): (0.5, 0, 0, 0, 0),
        (-1, 0): (-0.5, 0, 0, 0, 0),
        (0, 1): (0, 0.5, 0, 0, 0),
        (0, -1): (0, -0.5, 0, 0, 0),
        (2, 0): (0, 0, 0.25, 0, 0),
        (-2, 0): (0, 0, 0.25, 0, 0),
        (0, 2): (0, 0, 0, 0.25, 0),
        (0, -2): (0, 0, 0, 0.25, 0),
        (1, 1): (0, 0, 0, 0, 0.25),
        (-1, -1): (0, 0, 0, 0, 0.25),
        (1, -1): (0, 0, 0, 0, -0.25),
        (-1, 1): (0, 0, 0, 0, -0.25),
    },
    "compact": {
        (0, 0): (0, 0, -2, -2, 1),
        (1, 0): (0.5, 0, 1, 0, -0.5),
        (-1, 0): (-0.5, 0, 1, 0, -0.5),
        (0, 1): (0, 0.5, 0, 1, -0.5),
        (0, -1): (0, -0.5, 0, 1, -0.5),
        (1, 1): (0, 0, 0, 0, 0.5),
        (-1, -1): (0, 0, 0, 0, 0.5),
    },
}


def _refinement_bounds(
    blurred: Tensor,
    blurred_error: Tensor,
    scales: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    arithmetic: Arithmetic,
    out_roundoff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps 4 and 5: the step [B, K, 2], its bounds and those of the covariance [B, K, 2, 2]."""
    stencil = _POINTS["compact" if recipe.stencil == "compact" else "wide"]
    values, errors = (
        torch.stack([reference._read(each, x, y, dx, dy) for dx, dy in stencil], -1)
        for each in (blurred, blurred_error)
    )
    flat_scales = tuple(each[..., 0] for each in scales)
    logs, log_errors = _log_errors(values, errors, flat_scales, recipe, arithmetic)  # type: ignore[arg-type]
    weights = torch.tensor(list(stencil.values()), dtype=torch.float64, device=logs.device)
    summed = (logs - logs[..., :1]).abs() if arithmetic.relative_logs else logs.abs()
    roundoff = unit_roundoff(arithmetic.step) + unit_roundoff(torch.float64)
    derivatives = product(logs, weights)
    off = product(log_errors, weights.abs()) + _ADDENDS * roundoff * product(summed, weights.abs())

    gradient, gradient_off = derivatives[..., :2], off[..., :2]
    hessian, hessian_off = matrix_of(derivatives[..., 2:]), matrix_of(off[..., 2:])
    solved = hessian
    if recipe.stencil == "compact":
        solved = hessian + _COMPACT_EPSILON * torch.eye(2, dtype=hessian.dtype, device=hessian.device)
        hessian_off = hessian_off + roundoff * (hessian.abs() + _COMPACT_EPSILON)
    step, step_bounds = bound_step(gradient, gradient_off, solved, hessian_off, roundoff)
    return step, step_bounds, bound_covariance(hessian, hessian_off, recipe.known_variance, roundoff, out_roundoff)


def _quarter_bounds(searched: Tensor, error: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A quarter step's size, and how far off another sign would be: half a pixel at most, and nothing if certain."""
    bounds = []
    for dx, dy in ((1, 0), (0, 1)):
        values = [reference._read(searched, x, y, sign * dx, sign * dy) for sign in (-1, 1)]
        errors = sum(reference._read(error, x, y, sign * dx, sign * dy) for sign in (-1, 1))
        difference = (values[1] - values[0]).nan_to_num(0.0).abs()
        certain = (difference > errors) | (errors == 0)
        bounds.append(torch.where(certain, 0.0, 0.5))
    return torch.full((*x.shape, 2), 0.25, dtype=torch.float64, device=x.device), torch.stack(bounds, -1)
