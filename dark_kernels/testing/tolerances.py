"""How far a backend's numbers may be from those of the float64 reference, derived and not tuned.

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

Fit. Each of its three solutions has equations G c = b with G = sum w f f', b = sum w z f over pixels, weights w, logs z
and terms f. With fitted values q = f' c the errors of weights and logs, dw and dz, and of sums and solution make

    (G + dG) dc = sum (dw (z - q) + w dz) f + db - dG' c,

where db and dG' are what rounding adds: n u sum |w z f| and n u sum w |f f'| for sums with n roundings each, and
19 u sqrt(G_ii G_jj) for an elimination without pivoting of six equations (Higham, theorems 10.3 and 10.4), and
dG = dG' + sum dw f f'. Neumann's series bounds dc as in step 5, with a matrix that is scaled to a diagonal of one.
Weights depend on logs: dw = w (exp(2 dz + (6 + 4 |z|) u) - 1), in later solutions with dq = |f|' |dc| of the solution
before, and a rounding, for dz; a factor that all weights share changes nothing. Maximum and Hessian follow from c as
in step 5. Whether the fit is a peak is certain if each of its conditions holds with more than what it may be off, or
one fails so; in between it may be either answer.

Covariance: d(H^-1) = H^-1 dH H^-1 alike. Whether there is one at all is decided by the sign of the smallest
eigenvalue of -H^-1 - known variance, which is certain only if it exceeds what the matrix may be off.

Signs and choices are exact or undecided: a quarter step on a blurred map may take another sign if the difference of
the two neighbours is within the rounding of both, and the peak of a blurred map may be another pixel if its value
is within the rounding of both of the maximum (`other_peaks`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..decode import reference
from ..recipes import Recipe

_COMPACT_EPSILON = 1.1920929e-7
_FIT_TERMS = 6
_ADDENDS = 13  # of the stencil with the most points


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """What a backend computes in.

    Attributes:
        blur: dtype of the blurred map.
        step: dtype of the logs and of what follows from them.
        computes_taps: Whether Gaussian weights are computed with exp2 where they are needed.
        relative_logs: Whether logs are taken relative to that of the centre.
        subtracts_peak: The paddings with which what is blurred around a peak is the distance from it.
        subtracts_blurred_peak: The paddings with which it is the distance from the blurred peak.
        narrow_radius: Of a blur up to which it is the distance from the peak where both are named.
        sums_rows_first: Whether a fit sums the rows of its patch and then those sums, which rounds less often.
    """

    blur: torch.dtype
    step: torch.dtype
    computes_taps: bool = False
    relative_logs: bool = False
    subtracts_peak: tuple[str, ...] = ()
    subtracts_blurred_peak: tuple[str, ...] = ()
    narrow_radius: int = 0
    sums_rows_first: bool = False


_REFLECTED = ("reflect", "symmetric")

EAGER = Arithmetic(torch.float32, torch.float64, subtracts_blurred_peak=_REFLECTED, sums_rows_first=True)
"""eager on CPU: the blur in the precision of the input, the step in float64."""

EAGER_ON_DEVICE = Arithmetic(torch.float32, torch.float32, subtracts_blurred_peak=_REFLECTED, sums_rows_first=True)
"""eager on other devices, which may lack float64."""

TRITON = Arithmetic(
    torch.float32,
    torch.float32,
    computes_taps=True,
    relative_logs=True,
    subtracts_peak=("zeros", *_REFLECTED),
    subtracts_blurred_peak=("zeros", *_REFLECTED),
    narrow_radius=5,
    sums_rows_first=True,
)
"""The Triton kernels, compiled or interpreted."""


def arithmetic_of(backend: str, device_type: str, dtype: torch.dtype) -> Arithmetic:
    """What `backend` ("eager", "triton" or "reference") computes in for heatmaps of that device and dtype."""
    if dtype == torch.float64:  # served by eager where Triton is asked for
        levelled = () if backend == "reference" else _REFLECTED
        return Arithmetic(torch.float64, torch.float64, subtracts_blurred_peak=levelled)
    if backend == "triton":
        return TRITON
    if backend == "reference":
        return Arithmetic(torch.float32, torch.float32)
    return EAGER if device_type == "cpu" else EAGER_ON_DEVICE


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
    maps = heatmaps.double().clamp(-limit, limit)
    blurred = reference.blur(maps, recipe)
    whole_error = _blur_error(maps, recipe, arithmetic)
    scale, low_scale, high_scale = _scale_interval(maps, blurred, whole_error, recipe, arithmetic.blur)
    on_blurred = recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1
    searched, searched_error = (blurred, whole_error) if on_blurred else (maps, torch.zeros_like(maps))
    if peaks_at is None:
        _, x, y = reference.find_peak(blurred * scale if on_blurred and recipe.rescale else searched)
    else:
        x, y = peaks_at

    out_roundoff = _roundoff(torch.float64 if heatmaps.dtype == torch.float64 else torch.float32)
    peaks, peak_errors = reference._read(searched, x, y, 0, 0), reference._read(searched_error, x, y, 0, 0)
    certain = (peaks - peak_errors > 0) | (peaks + peak_errors <= 0) | peaks.isnan()
    blurred_error = whole_error
    is_narrow = recipe.blur_kernel_size // 2 <= arithmetic.narrow_radius
    if recipe.padding in arithmetic.subtracts_peak and is_narrow:
        blurred_error = _blur_error(maps, recipe, arithmetic, peaks.clamp(-limit, limit))
    elif recipe.padding in arithmetic.subtracts_blurred_peak:
        level_errors = reference._read(whole_error, x, y, 0, 0)
        levels = reference._read(blurred, x, y, 0, 0).clamp(min=0)
        blurred_error = _blur_error(maps, recipe, arithmetic, levels, level_errors)
    score_errors = peak_errors
    if on_blurred and recipe.rescale:
        flat_scale = [each[..., 0, 0] for each in (scale, low_scale, high_scale)]
        ends = torch.stack([(peaks + sign * peak_errors) * each for sign in (-1, 1) for each in flat_scale])
        score_errors = (ends - peaks * flat_scale[0]).abs().amax(0)
        peaks = peaks * flat_scale[0]
    score_errors = abs(recipe.score_scale) * score_errors + (
        4 * out_roundoff * ((peaks * recipe.score_scale).abs() + abs(recipe.score_offset))
        if recipe.score_scale != 1.0 or recipe.score_offset != 0.0 or on_blurred
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
        if recipe.stencil == "fit":
            fit = _fit_bounds(maps, x, y, recipe, arithmetic, out_roundoff)
            step = torch.where(fit.succeeds[..., None], fit.step, step)
            step_bounds = _choose(fit, fit.step_bounds, step_bounds)
            covariance_bounds = _choose(fit, fit.covariance_bounds, covariance_bounds)
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
    unrefined = ~refined[..., None] & certain[..., None]
    coord_bounds = torch.where(unrefined, out_roundoff * abs(_finite(recipe.invalid)), coord_bounds)
    covariance_bounds = covariance_bounds.masked_fill(unrefined[..., None], 0.0)
    if recipe.argmax_on == "blurred":  # what stands for an infinity there differs between float32 and float64
        coord_bounds = coord_bounds.masked_fill(infinite[..., None], math.inf)
        score_errors = score_errors.masked_fill(infinite, math.inf)
        covariance_bounds = covariance_bounds.masked_fill(infinite[..., None, None], math.inf)
    return DecodeBounds(
        coord_bounds.nan_to_num(nan=math.inf, posinf=math.inf),
        score_errors.nan_to_num(nan=0.0, posinf=math.inf),  # a NaN is to be met by a NaN
        covariance_bounds.nan_to_num(nan=math.inf, posinf=math.inf),
        certain,
    )


def other_peaks(heatmap: Tensor, recipe: Recipe, arithmetic: Arithmetic) -> Tensor:
    """Flat indices of the pixels of one [H, W] map that rounding may take for its maximum, the maximum included.

    On a raw map there is but one. On a blurred one: all whose value, within its rounding, reaches that of the
    maximum within its own.
    """
    maps = heatmap.double()[None, None]
    on_blurred = recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1
    if not on_blurred or not bool(maps.isfinite().all()):
        _, x, y = reference.find_peak(reference.blur(maps, recipe) if on_blurred else maps)
        return (y * maps.shape[-1] + x).flatten()
    blurred = reference.blur(maps, recipe)
    error = _blur_error(maps, recipe, arithmetic)
    return (blurred + error >= (blurred - error).amax()).flatten().nonzero().flatten()


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _sum_of_taps(taps: tuple[float, ...]) -> float:
    return taps[0] + 2 * sum(taps[1:])


def _roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _blur_error(
    maps: Tensor,
    recipe: Recipe,
    arithmetic: Arithmetic,
    levels: Tensor | None = None,  # [B, K]
    level_errors: Tensor | float = 0.0,  # [B, K]
) -> Tensor:
    """Step 1: the most that the blurred map may be off, the float64 reference's own rounding included.

    With `levels`, of a blur of the distances from them, which may be off by `level_errors` themselves.
    """
    kernel_size, taps = recipe.blur_kernel_size, recipe.taps
    if kernel_size == 1 and levels is None:  # a weight of one
        return torch.zeros_like(maps)
    magnitude = maps.abs()
    if levels is not None:
        levels, level_errors = (torch.as_tensor(each)[..., None, None] for each in (levels, level_errors))
        magnitude = (maps - levels).abs() + level_errors
    roundoff = _roundoff(arithmetic.blur) + _roundoff(torch.float64)

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
    # n u / (1 - n u) for n u, and products that underflow.
    return 1.01 * error + 2 * kernel_size**2 * torch.finfo(arithmetic.blur).tiny


def _scale_interval(
    maps: Tensor, blurred: Tensor, error: Tensor, recipe: Recipe, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Step 2: s and the interval that a backend's lies in, [B, K, 1, 1]; NaN ends where even its sign may differ."""
    highest = blurred.amax((-2, -1), keepdim=True)
    one = torch.ones_like(highest)
    if not recipe.rescale:
        return one, one, one
    raw = maps.amax((-2, -1), keepdim=True)
    low, high = (blurred - error).amax((-2, -1), keepdim=True), (blurred + error).amax((-2, -1), keepdim=True)
    roundoff = 2 * _roundoff(dtype) + 2 * _roundoff(torch.float64)
    scale = torch.where(highest > 0, raw / highest, one)
    low_scale, high_scale = raw / high * (1 - roundoff), raw / low * (1 + roundoff)
    rescaled = (low > 0) & (raw < math.inf)
    untouched = high <= 0
    low_scale = torch.where(rescaled, low_scale, torch.where(untouched, one, math.nan))
    high_scale = torch.where(rescaled, high_scale, torch.where(untouched, one, math.nan))
    return scale, low_scale, high_scale


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
    roundoff = _roundoff(arithmetic.step) + _roundoff(torch.float64)
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


# Points (dx, dy), the centre first, and their weights in dx, dy, dxx, dyy and dxy: spec/decode.md, section 3.
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
    roundoff = _roundoff(arithmetic.step) + _roundoff(torch.float64)
    derivatives = logs @ weights
    off = log_errors @ weights.abs() + _ADDENDS * roundoff * (summed @ weights.abs())

    gradient, gradient_off = derivatives[..., :2], off[..., :2]
    hessian, hessian_off = _matrix(derivatives[..., 2:]), _matrix(off[..., 2:])
    solved = hessian
    if recipe.stencil == "compact":
        solved = hessian + _COMPACT_EPSILON * torch.eye(2, dtype=hessian.dtype, device=hessian.device)
        hessian_off = hessian_off + roundoff * (hessian.abs() + _COMPACT_EPSILON)
    step, step_bounds = _solve_bounds(gradient, gradient_off, solved, hessian_off, roundoff)
    return step, step_bounds, _covariance_bounds(hessian, hessian_off, recipe.known_variance, roundoff, out_roundoff)


def _matrix(second: Tensor) -> Tensor:
    """[..., 2, 2] from (xx, yy, xy)."""
    xx, yy, xy = second.unbind(-1)
    return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)


def _inverse(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse and determinant of symmetric 2 x 2 matrices, and the sum of the two products it is made of."""
    xx, xy, yy = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = xx * yy - xy * xy
    adjugate = _matrix(torch.stack([yy, xx, -xy], -1))
    return adjugate / determinant[..., None, None], determinant, (xx * yy).abs() + xy * xy


def _norm(matrix: Tensor) -> Tensor:
    return matrix.abs().sum(-1).amax(-1)


def _solve_bounds(
    gradient: Tensor, gradient_off: Tensor, hessian: Tensor, hessian_off: Tensor, roundoff: float
) -> tuple[Tensor, Tensor]:
    inverse, determinant, products = _inverse(hessian)
    step = -(inverse @ gradient[..., None])[..., 0]
    rho = _norm(inverse.abs() @ hessian_off)
    direct = (inverse.abs() @ (gradient_off + (hessian_off @ step.abs()[..., None])[..., 0])[..., None])[..., 0]
    bound = direct + (rho / (1 - rho))[..., None] * direct.amax(-1, keepdim=True)
    # Cramer's rule: three roundings in each determinant, one in the division. The determinants are those of the
    # perturbed problem, within a factor of two or so since rho < 1/2.
    numerators = (inverse.abs() @ (gradient.abs() + gradient_off)[..., None])[..., 0]
    lost = 4 * roundoff * products / determinant.abs()
    bound = bound + 8 * roundoff * numerators + (2 * lost[..., None] + 4 * roundoff) * (step.abs() + bound)
    singular = ~((rho < 0.5) & (lost < 0.25))
    return step, bound.masked_fill(singular[..., None], math.inf)


def _covariance_bounds(
    hessian: Tensor, hessian_off: Tensor, known_variance: float, roundoff: float, out_roundoff: float
) -> Tensor:
    inverse, determinant, products = _inverse(hessian)
    rho = _norm(inverse.abs() @ hessian_off)
    direct = inverse.abs() @ hessian_off @ inverse.abs()
    bound = direct + (rho / (1 - rho))[..., None, None] * direct.amax((-2, -1), keepdim=True) * 2
    lost = 4 * roundoff * products / determinant.abs()
    bound = bound + (2 * lost[..., None, None] + 8 * roundoff) * (inverse.abs() + bound) + 8 * roundoff * known_variance
    singular = ~((rho < 0.5) & (lost < 0.25))
    # Within rho < 1/2 the signs of the Hessian's eigenvalues are certain, so only the sign of the covariance's
    # smallest one is open. The test xx yy >= xy^2 rounds too: 4 u times the largest eigenvalue.
    rest = -inverse - known_variance * torch.eye(2, dtype=inverse.dtype, device=inverse.device)
    safe = torch.where(singular[..., None, None], 0.0, rest).nan_to_num(0.0, 0.0, 0.0)
    smallest = torch.linalg.eigvalsh(safe)[..., 0]
    undecided = smallest.abs() <= _norm(bound) + 8 * roundoff * _norm(safe)
    bound = bound + 2 * out_roundoff * rest.abs()
    is_maximum = (hessian[..., 0, 0] < 0) & (determinant > 0)
    bound = torch.where((is_maximum & undecided)[..., None, None], math.inf, bound)
    return bound.masked_fill(singular[..., None, None], math.inf)


class _FitBounds(NamedTuple):
    step: Tensor  # [B, K, 2]
    step_bounds: Tensor  # [B, K, 2]
    covariance_bounds: Tensor  # [B, K, 2, 2]
    succeeds: Tensor  # [B, K]: it certainly is a peak
    fails: Tensor  # [B, K]: it certainly is none


def _choose(fit: _FitBounds, fitted: Tensor, otherwise: Tensor) -> Tensor:
    """The bounds that hold: those of the fit, of what stands for it where it fails, or none where that is open."""
    shape = fit.fails.shape + (1,) * (fitted.dim() - fit.fails.dim())
    otherwise = torch.where(fit.fails.view(shape), otherwise, math.inf)
    return torch.where(fit.succeeds.view(shape), fitted, otherwise)


def _fit_bounds(
    maps: Tensor, x: Tensor, y: Tensor, recipe: Recipe, arithmetic: Arithmetic, out_roundoff: float
) -> _FitBounds:
    """The part of this module's docstring about a fit."""
    radius, (height, width) = recipe.fit_radius, maps.shape[-2:]
    roundoff = _roundoff(arithmetic.step) + _roundoff(torch.float64)
    tiny = torch.finfo(arithmetic.step).tiny
    distance = torch.arange(-radius, radius + 1, device=maps.device)
    v, u = (each.flatten() for each in torch.meshgrid(distance, distance, indexing="ij"))
    row, column = y[..., None] + v, x[..., None] + u
    terms = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], -1).double()
    pixels = maps.flatten(2).gather(-1, row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
    peaks = reference._read(maps, x, y, 0, 0)[..., None]
    taken = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (pixels / peaks > 0)
    pixels = torch.where(taken, pixels, peaks)
    logs = (pixels / peaks).log()
    if arithmetic.relative_logs:  # as in step 3
        absolute = 8 * roundoff * (1 + pixels.log().abs() + peaks.log().abs())
        log_errors = torch.where(logs.abs() < 0.5, 8 * roundoff * logs.abs(), absolute)
    else:
        log_errors = torch.where(pixels == peaks, 0.0, 2 * roundoff + 8 * roundoff * logs.abs())
    log_errors = log_errors + torch.where(pixels == peaks, 0.0, (tiny / (pixels / peaks)).clamp(max=1.0))

    # Additions, and the products with powers and logs before them.
    num_roundings = 4 + (2 * len(distance) if arithmetic.sums_rows_first else len(terms))
    succeeds, fails = torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    fitted, fitted_errors = logs, log_errors
    for _ in range(reference.FIT_SOLUTIONS):
        weights = torch.where(taken, (2 * fitted).exp(), 0.0)
        wrong = weights * torch.expm1(2 * fitted_errors + (6 + 4 * fitted.abs()) * roundoff)
        wrong = torch.where(taken, wrong + tiny, 0.0)
        matrix = _moments(weights, terms)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        rounded = num_roundings * roundoff * _moments(weights, terms.abs())
        rounded = rounded + (3 * _FIT_TERMS + 1) * roundoff * (diagonal[..., None] * diagonal[..., None, :]).sqrt()
        matrix_errors = rounded + _moments(wrong, terms.abs())
        right = (weights * logs) @ terms
        coefficients = torch.linalg.solve_ex(matrix, right)[0]

        residuals = (logs - coefficients @ terms.mT).abs()
        off = (wrong * residuals + weights * log_errors) @ terms.abs()
        off = off + num_roundings * roundoff * ((weights * logs.abs()) @ terms.abs())
        off = off + (rounded @ coefficients.abs()[..., None])[..., 0]
        errors = _solution_errors(matrix, matrix_errors, off)

        regular, singular = _pivots_are_certain(matrix, matrix_errors, roundoff)
        gradient, hessian = coefficients[..., 1:3], _quadratic_matrix(coefficients)
        gradient_errors, hessian_errors = errors[..., 1:3], _quadratic_matrix(errors)
        step, step_bounds = _solve_bounds(gradient, gradient_errors, hessian, hessian_errors, roundoff)
        products = hessian[..., 0, 0] * hessian[..., 1, 1], hessian[..., 0, 1] ** 2
        determinant = products[0] - products[1]
        wrong_products = _products_error(hessian, hessian_errors) + 4 * roundoff * (products[0].abs() + products[1])
        is_peak = (hessian[..., 0, 0] + hessian_errors[..., 0, 0] < 0) & (determinant - wrong_products > 0)
        is_peak = is_peak & (step.abs() + step_bounds <= radius).all(-1)
        is_none = (hessian[..., 0, 0] - hessian_errors[..., 0, 0] >= 0) | (determinant + wrong_products <= 0)
        is_none = is_none | (step.abs() - step_bounds > radius).any(-1)
        fails = fails | (succeeds & (singular | (regular & is_none)))
        succeeds = succeeds & regular & is_peak

        maximum = coefficients[..., 0] + (gradient * step).sum(-1) / 2
        fitted = coefficients @ terms.mT - maximum[..., None]
        fitted_errors = errors @ terms.abs().mT + 8 * roundoff * (
            coefficients.abs() @ terms.abs().mT + maximum.abs()[..., None]
        )
    covariance_bounds = _covariance_bounds(hessian, hessian_errors, recipe.target_variance, roundoff, out_roundoff)
    return _FitBounds(step, step_bounds, covariance_bounds, succeeds, fails)


def _moments(weights: Tensor, terms: Tensor) -> Tensor:
    return (weights[..., None] * terms).mT @ terms


def _quadratic_matrix(coefficients: Tensor) -> Tensor:
    """The Hessian of the fitted quadratic, or how far it is off if that is given."""
    return _matrix(torch.stack([2 * coefficients[..., 3], 2 * coefficients[..., 5], coefficients[..., 4]], -1))


def _products_error(matrix: Tensor, off: Tensor) -> Tensor:
    """How far off the determinant of a symmetric 2 x 2 matrix is, rounding aside."""
    (xx, xy, yy), (dxx, dxy, dyy) = (
        (each[..., 0, 0].abs(), each[..., 0, 1].abs(), each[..., 1, 1].abs()) for each in (matrix, off)
    )
    return xx * dyy + yy * dxx + dxx * dyy + 2 * xy * dxy + dxy * dxy


def _solution_errors(matrix: Tensor, matrix_errors: Tensor, off: Tensor) -> Tensor:
    """How far the solution of equations with that matrix is off; infinite where it is singular in this arithmetic."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    scales = scale[..., None] * scale[..., None, :]
    inverse = torch.linalg.inv_ex(matrix * scales)[0].abs()
    rho = _norm(inverse @ (matrix_errors * scales))
    direct = (inverse @ (off * scale)[..., None])[..., 0]
    errors = direct + (rho / (1 - rho))[..., None] * direct.amax(-1, keepdim=True)
    return torch.where((rho < 0.5)[..., None], errors * scale, math.inf)


def _pivots_are_certain(matrix: Tensor, matrix_errors: Tensor, roundoff: float) -> tuple[Tensor, Tensor]:
    """Whether all pivots of an elimination certainly are large enough, and whether one certainly is not: [B, K] each.

    A pivot is d = m - r' L^-1 r of the matrix [[L, r], [r', m]]. With y = (-L^-1 r, 1) the error is |y|' dG |y|, and
    more the closer L is to singular.
    """
    regular = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    singular = ~regular
    for i in range(matrix.shape[-1]):
        leading, beside = matrix[..., :i, :i], matrix[..., :i, i]
        y = torch.cat([-torch.linalg.solve_ex(leading, beside)[0], torch.ones_like(matrix[..., :1, 0])], -1)
        pivot = (matrix[..., i, : i + 1] * y).sum(-1)
        error = ((matrix_errors[..., : i + 1, : i + 1] @ y.abs()[..., None])[..., 0] * y.abs()).sum(-1)
        # To first order, times what the inverse of a perturbed L may be larger: less than two, or all is open.
        error = 2 * error + reference.FIT_PIVOT * (matrix_errors[..., i, i] + 2 * roundoff * matrix[..., i, i])
        lowest = reference.FIT_PIVOT * matrix[..., i, i]
        singular = singular | (regular & (pivot + error <= lowest))
        regular = regular & (pivot - error > lowest)
    return regular, singular


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
