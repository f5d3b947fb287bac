"""The definition of decode: whole maps, plain PyTorch, the steps in the papers' order.

Slow on purpose and readable on purpose. Every other backend is proved against this file in float64.

Sources: F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation",
CVPR 2020 (smoothing: eq. 11, rescaling: eq. 12, Taylor step: eq. 4 to 10); J. Huang et al., "The Devil is in
the Details: Delving into Unbiased Data Processing for Human Pose Estimation", CVPR 2020 (compact stencil);
H. Guo, "A simple algorithm for fitting a Gaussian function", IEEE Signal Processing Magazine 28(5), 2011 (fit);
G. Turin, "An introduction to matched filters", IRE Transactions on Information Theory 6(3), 1960 (matched).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product
from ..recipes import Recipe, blur_taps

# What UDP's published code adds to the diagonal of the Hessian: float32 machine epsilon.
_COMPACT_EPSILON = 1.1920929e-7

# A fit is solved so often for a round Gaussian, which tells its own pixels from a neighbour's, and then for one of any
# shape.
FIT_ROUND_SOLUTIONS, FIT_SOLUTIONS = 3, 2
# Its equations are singular where of a diagonal element of their matrix no more than this is left as a pivot.
FIT_PIVOT = 1e-3
# Standard deviation in pixels of the window in which it starts: this share of the radius, but no less than a pixel.
FIT_START = 0.22
# What a pixel may exceed it by: the larger of this share of its maximum and so many standard deviations of the noise.
FIT_TOLERATED, FIT_TOLERATED_NOISE = 0.4, 3.0
# The log of what its maximum may be over the peak's pixel: where hardly anything is seen of a blob beyond the border, a
# fit can put its centre anywhere. And how far from 0 it may be for a round one to guide.
FIT_MOST, FIT_FARTHEST = 0.5, 10.0

# In units of the standard deviation that is expected of a blob: how far a matched filter reaches, and how far a fitted
# blob's pixels, where its width starts, what it is held to, how far its centre may come, and how far in one iteration.
FILTER_REACH, BLOB_REACH = 2.4, 2.8
BLOB_START, BLOB_NARROWEST, BLOB_WIDEST, BLOB_FARTHEST, BLOB_STEP = 0.8, 0.4, 2.0, 1.2, 0.4
BLOB_ITERATIONS = 8
# How much the log of its width changes in one iteration at most, and what the equations' diagonal is raised by.
BLOB_LOG_STEP, BLOB_DAMPING = 0.3, 1e-3
# What a pixel may exceed it by before it counts less: a share of the amplitude, or so many deviations of the noise.
BLOB_TOLERATED, BLOB_TOLERATED_NOISE = 0.025, 2.6


def decode_reference(
    heatmaps: Tensor,  # [B, K, H, W]
    recipe: Recipe,
    covariance: bool = False,
    flipped: Tensor | None = None,  # [B, C, H, W]
    flip_indices: Tensor | None = None,  # [C]
    shift_flipped: bool = False,
    keypoint_indices: Tensor | None = None,  # [K]
    image_transform: Tensor | None = None,  # [B, 2, 3]
    offsets: Tensor | None = None,  # [B, K, 2, H, W]
    offset_scale: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Decode whole maps, step by step.

    Args:
        heatmaps: [B, C, H, W] of a floating dtype. float16 and bfloat16 are computed in float32.
        recipe: Which decoder.
        covariance: Whether to return covariances as well.
        flipped, flip_indices, shift_flipped: See `merge_flipped`.
        keypoint_indices: Which of the C maps to decode; None for all.
        image_transform: Affine matrices, applied to coordinates and covariances.
        offsets: Maps of what is added to the peak's pixel, times `offset_scale` (UDP's combined heatmaps), for a
            recipe without a stencil of its own.

    Returns:
        coords [B, K, 2] in heatmap pixels, or where `image_transform` takes them, scores [B, K] and covariances
        [B, K, 2, 2] or None, in float64 for float64 maps and in float32 for all others.
    """
    if flipped is not None:
        assert flip_indices is not None, "decode() refuses flipped without flip_indices"
        heatmaps = merge_flipped(heatmaps, flipped, flip_indices, shift_flipped)
    if keypoint_indices is not None:
        heatmaps = heatmaps[:, keypoint_indices]
    given = heatmaps if heatmaps.dtype == torch.float64 else heatmaps.float()

    maps = activate(given, recipe.activation)
    blurred = blur(maps, recipe)
    # An activation is monotone, but what it saturates is no longer told apart.
    searched = blurred if recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1 else given
    _, x, y = find_peak(searched)
    peaks = _read(blurred if searched is blurred else maps, x, y, 0, 0)
    if recipe.argmax_on == "matched":
        _, matched_x, matched_y = find_peak(match_blobs(maps, recipe.expected_sigma))
        # Beside an infinite pixel no other has a place.
        x, y = (torch.where(peaks < math.inf, one, raw) for one, raw in ((matched_x, x), (matched_y, y)))
    if recipe.rescale:
        if searched is blurred:
            peaks = peaks * rescale_factor(blurred, maps)  # which moves no maximum
        blurred = rescale(blurred, maps)
    largest = given.amax(dim=(-2, -1))
    valid = peaks > 0 if recipe.activation == "none" else largest > -math.inf  # a NaN is not
    refinable = valid & (largest < math.inf)  # an infinite peak is as fine as its pixel

    coords = torch.stack([x, y], dim=-1).to(maps.dtype)
    offset, covariances, refinable = take_step(searched, maps, blurred, x, y, refinable, recipe)
    if offsets is not None:
        offset = step_offsets(offsets.to(maps.dtype), x, y) * offset_scale
        refinable = refinable & offset.isfinite().all(dim=-1)
    coords = torch.where(refinable[..., None], coords + offset, coords)
    if image_transform is not None:
        linear, shift = image_transform.to(maps.dtype).split([2, 1], dim=-1)
        coords = product(coords, linear.mT) + shift.mT
    coords = torch.where(valid[..., None], coords, recipe.invalid)
    if recipe.score == "mass":
        peaks = mass_around(maps, x, y, recipe.mass_radius)
    scores = peaks * recipe.score_scale + recipe.score_offset

    if not covariance:
        return coords, scores, None
    assert covariances is not None, "decode() refuses covariance=True for a stencil without a Hessian"
    if image_transform is not None:
        covariances = product(linear[:, None], covariances, linear[:, None].mT)
        covariances.diagonal(dim1=-2, dim2=-1).clamp_(min=0)  # rounding must not push a variance below zero
    return coords, scores, covariances


def activate(maps: Tensor, activation: str) -> Tensor:
    """Activate logits [B, K, H, W]: 1 / (1 + exp(-h)) of each pixel ("sigmoid"), exp(h) / sum(exp(h)) over each
    map ("softmax"), or the maps themselves ("none").

    Beside pixels of +inf a softmax leaves no others anything, and of several each has the same; of -inf alone it makes
    zeros. A map with a NaN becomes NaN in that pixel, or everywhere.
    """
    if activation == "none":
        return maps
    if activation == "sigmoid":
        return maps.sigmoid()
    largest = maps.amax(dim=(-2, -1), keepdim=True)
    weights = torch.where(maps == largest, 0.0, maps - largest).exp()
    weights = torch.where(maps == -math.inf, 0.0, weights)
    return weights / weights.sum(dim=(-2, -1), keepdim=True).clamp(min=1.0)  # 1 already, but of -inf alone


def mass_around(maps: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The share that the pixels up to `radius` from (x, y) on each axis have in all positive values of their map.

    For x and y [B, K], or [B, K, P] for several pixels of each map. 0 in a map without a positive value, NaN in one
    with a NaN. In a map with pixels of +inf it is 1 where one of them is near and 0 elsewhere.
    """
    largest = maps.amax(dim=(-2, -1), keepdim=True)
    # Relative to the largest, so that no sum overflows.
    masses = maps.clamp(min=0.0) / torch.where(largest > 0, largest, 1.0)
    masses = torch.where(largest == math.inf, (maps == math.inf).to(maps.dtype), masses)
    whole = torch.where(largest == math.inf, 1.0, masses.sum(dim=(-2, -1), keepdim=True))
    whole = whole[..., 0, 0].view(*maps.shape[:2], *[1] * (x.dim() - 2)).expand_as(x)
    near = sum_around(masses, x, y, radius)
    return torch.where(whole == 0, 0.0, near / whole).clamp(max=1.0)


def sum_around(maps: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The sum of the pixels up to `radius` from (x, y) on each axis, as far as they lie inside the map."""
    height, width = maps.shape[-2:]
    total = torch.zeros(x.shape, dtype=maps.dtype, device=maps.device)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            exists = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
            total = total + torch.where(exists, _read(maps, x, y, dx, dy), 0.0)
    return total


def take_step(
    searched: Tensor,  # [B, K, H, W]
    maps: Tensor,  # [B, K, H, W]
    blurred: Tensor,  # [B, K, H, W]
    x: Tensor,
    y: Tensor,
    refinable: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """From the pixels of peaks to their places between pixels.

    Args:
        searched: The maps whose peaks these are.
        maps: What is decoded, not smoothed.
        blurred: The smoothed maps, rescaled if the recipe says so.
        x, y: The peaks' pixels: [B, K], or [B, K, P] for several peaks of each map.
        refinable: Which peaks may move at all, of the same shape.
        recipe: Whose stencil.

    Returns:
        The step [..., 2], the covariances [..., 2, 2] (None without a Hessian; NaN where a peak stays on its pixel),
        and which peaks move.
    """
    offset = torch.zeros((*x.shape, 2), dtype=blurred.dtype, device=blurred.device)
    covariances = None
    if recipe.has_hessian:
        hessian, offset, moves, known_variance = step_to_maximum(maps, blurred, x, y, recipe)
        refinable = refinable & moves
        covariances = covariance_from_hessian(hessian, known_variance)
        covariances = torch.where(refinable[..., None, None], covariances, math.nan)
    elif recipe.stencil != "none":
        offset, moves = step_quarter(searched, x, y, legacy=recipe.stencil == "quarter_legacy")
        offset = offset + recipe.extra_shift * moves
    if recipe.max_offset is not None:
        offset = offset.clamp(-recipe.max_offset, recipe.max_offset)
    return offset, covariances, refinable


def blur(maps: Tensor, recipe: Recipe) -> Tensor:
    """Smooth [B, K, H, W] maps with the recipe's separable kernel and padding."""
    # An infinity times a weight that has underflowed to zero would be NaN, and so would be what is left of two of
    # unlike sign, or of a sum that overflows, over its own maximum. A large number of which two can be added stands
    # for it instead. NaNs stay.
    limit = torch.finfo(maps.dtype).max / 4
    maps = maps.clamp(-limit, limit)
    taps = recipe.taps
    return _blur_axis(_blur_axis(maps, taps, recipe.padding, axis=-1), taps, recipe.padding, axis=-2)


def _blur_axis(maps: Tensor, taps: tuple[float, ...], padding: str, axis: int) -> Tensor:
    size, radius = maps.shape[axis], len(taps) - 1
    padded = maps.index_select(axis, source_index(size, radius, padding, maps.device))
    if padding == "zeros":
        beyond = torch.arange(-radius, size + radius, device=maps.device)
        beyond = (beyond < 0) | (beyond >= size)
        shape = [1] * maps.dim()
        shape[axis] = -1
        padded = padded.masked_fill(beyond.view(shape), 0.0)
    result = taps[0] * padded.narrow(axis, radius, size)
    for distance in range(1, radius + 1):
        before = padded.narrow(axis, radius - distance, size)
        after = padded.narrow(axis, radius + distance, size)
        result = result + taps[distance] * (before + after)
    return result


def source_index(size: int, radius: int, padding: str, device: torch.device) -> Tensor:
    """For each position of a row of `size` pixels padded by `radius`, the pixel whose value it takes.

    Rows shorter than the padding are reflected as often as it takes. For "zeros" the nearest pixel, to be
    masked by the caller.
    """
    index = torch.arange(-radius, size + radius, device=device)
    if padding == "symmetric":  # period c b a | a b c: 2 size
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    if padding == "reflect":  # period d c b | a b c d: 2 size - 2
        period = max(2 * size - 2, 1)
        index = index.remainder(period)
        return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
    return index.clamp(0, size - 1)


def rescale_factor(blurred: Tensor, maps: Tensor) -> Tensor:
    """Factor that brings each blurred map's maximum back to that of the raw map (DARK, eq. 12): [B, K].

    1 where the blurred maximum is <= 0: scaling would flip the map's sign.
    """
    blurred_maximum = blurred.amax(dim=(-2, -1))
    factor = maps.amax(dim=(-2, -1)) / blurred_maximum
    return torch.where(blurred_maximum > 0, factor, 1.0)


def rescale(blurred: Tensor, maps: Tensor) -> Tensor:
    """The blurred maps [B, K, H, W], with the maxima of the raw maps."""
    return blurred * rescale_factor(blurred, maps)[..., None, None]


def find_peak(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first maximum of each map in row-major order; a NaN is larger than any number.

    Returns:
        values, x and y, each [B, K].
    """
    values, index = maps.flatten(2).max(dim=-1)
    return values, index % maps.shape[-1], index // maps.shape[-1]


def _read(maps: Tensor, x: Tensor, y: Tensor, dx: int, dy: int) -> Tensor:
    """maps[b, k, y + dy, x + dx], each coordinate held inside the map (the border pixel repeats).

    For x and y [B, K], or [B, K, P] for several pixels of each map.
    """
    height, width = maps.shape[-2:]
    index = (y + dy).clamp(0, height - 1) * width + (x + dx).clamp(0, width - 1)
    return maps.flatten(2).gather(-1, index[..., None].flatten(2)).view(index.shape)


def _symmetric(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)


def _newton_step(gradient: Tensor, hessian: Tensor) -> Tensor:
    """-hessian^-1 gradient, by Cramer's rule: [..., 2]."""
    dx, dy = gradient.unbind(-1)
    dxx, dxy, dyy = hessian[..., 0, 0], hessian[..., 0, 1], hessian[..., 1, 1]
    determinant = dxx * dyy - dxy * dxy
    return torch.stack([(dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant], dim=-1)


class Step(NamedTuple):
    """The maximum of the log, as a stencil sees it.

    Attributes:
        hessian: [B, K, 2, 2], of the log.
        offset: [B, K, 2] from the peak's pixel.
        moves: [B, K], whether the peak may take it.
        known_variance: [B, K], what minus the inverse Hessian exceeds the keypoint's covariance by.
    """

    hessian: Tensor
    offset: Tensor
    moves: Tensor
    known_variance: Tensor


def step_to_maximum(maps: Tensor, blurred: Tensor, x: Tensor, y: Tensor, recipe: Recipe) -> Step:
    """The step of a recipe whose stencil has a Hessian, from the raw maps and the smoothed (and rescaled) ones."""
    height, width = maps.shape[-2:]
    logs = blurred.clamp(recipe.clip_min, recipe.clip_max).log()
    if recipe.stencil == "compact":
        _, hessian, offset = step_compact(logs, x, y)
        moves = torch.ones_like(x, dtype=torch.bool)
    else:
        _, hessian, offset = step_wide(logs, x, y)
        moves = (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
    moves = moves & offset.isfinite().all(dim=-1)
    known_variance = torch.full_like(offset[..., 0], recipe.known_variance)
    if recipe.stencil in ("fit", "gaussian"):
        if recipe.stencil == "fit":
            fit = fit_gaussian(maps, x, y, recipe.fit_radius)
            fitted, fitted_offset, is_peak = fit.hessian, fit.offset, fit.is_peak
        else:
            fitted, fitted_offset, is_peak = fit_blob(maps, x, y, recipe.expected_sigma)
        hessian = torch.where(is_peak[..., None, None], fitted, hessian)
        offset = torch.where(is_peak[..., None], fitted_offset, offset)
        known_variance = torch.where(is_peak, recipe.target_variance, known_variance)
        moves = moves | is_peak
    return Step(hessian, offset, moves, known_variance)


def step_wide(logs: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, Hessian and Taylor step with the derivatives of the DARK paper's code.

    A singular Hessian gives a step that is not finite; the caller then stays on the pixel.
    """

    def at(dx: int, dy: int) -> Tensor:
        return _read(logs, x, y, dx, dy)

    gradient = torch.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], dim=-1) / 2
    dxx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    dyy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    dxy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    hessian = _symmetric(dxx, dxy, dyy)
    return gradient, hessian, _newton_step(gradient, hessian)


def step_compact(logs: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, Hessian and Taylor step with the derivatives of UDP."""

    def at(dx: int, dy: int) -> Tensor:
        return _read(logs, x, y, dx, dy)

    gradient = torch.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], dim=-1) / 2
    dxx = at(1, 0) - 2 * at(0, 0) + at(-1, 0)
    dyy = at(0, 1) - 2 * at(0, 0) + at(0, -1)
    dxy = (at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1)) / 2
    hessian = _symmetric(dxx, dxy, dyy)
    identity = torch.eye(2, dtype=logs.dtype, device=logs.device)
    return gradient, hessian, _newton_step(gradient, hessian + _COMPACT_EPSILON * identity)


class Fit(NamedTuple):
    """A quadratic fitted to logs around each peak.

    Attributes:
        hessian: [B, K, 2, 2].
        offset: [B, K, 2], of its maximum from the peak's pixel.
        is_peak: [B, K], whether it has a maximum, and not too far away; where it has none the others mean nothing.
        logs: [B, K, pixels], its values.
        maximum: [B, K], the largest.
    """

    hessian: Tensor
    offset: Tensor
    is_peak: Tensor
    logs: Tensor
    maximum: Tensor


def fit_gaussian(maps: Tensor, x: Tensor, y: Tensor, radius: int) -> Fit:
    """A Gaussian fitted to the pixels around each peak (Guo, 2011), and to none of a neighbour's.

    The log of a Gaussian is a quadratic in the distance (u, v) from the peak's pixel,

        q = c0 + c1 u + c2 v + c3 u^2 + c4 u v + c5 v^2,

    and is fitted to the log of the pixels up to `radius` away on each axis, those that lie inside the map and are
    positive. Equal noise on all pixels h is noise of 1 / h on their logs, so that least squares weight a pixel with
    h^2. Where h is mostly noise that is a bad guess at its own size, and where h is another person's it leads there. So
    the weights are taken from what has been fitted, exp(2 q), beginning with pixels close to the peak:

    - three times a round Gaussian (c4 = 0, c3 = c5), which cannot stretch over two peaks. Whatever exceeds it by more
      than the noise belongs to a neighbour, which only adds: such a pixel keeps less and less of its weight. The noise
      is known from the pixels that lie below the fit;
    - then twice one of any shape, with what the pixels have kept.

    A round one that is no peak guides nothing: the weights before it stay. The fit fails where one of the last two is
    no peak: where the equations are singular (see FIT_PIVOT), the quadratic has no maximum, or has it farther from the
    peak's pixel than `radius` on one of the axes. And it fails where the last maximum is much larger than that pixel
    (see FIT_MOST).
    """
    height, width = maps.shape[-2:]
    distance = torch.arange(-radius, radius + 1, device=maps.device)
    v, u = (each.flatten() for each in torch.meshgrid(distance, distance, indexing="ij"))
    row, column = y[..., None] + v, x[..., None] + u  # [..., pixels]
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    # Relative to the peak: squares stay far from overflow.
    center = _read(maps, x, y, 0, 0)
    values = maps.flatten(2).gather(-1, index.flatten(2)).view(index.shape) / center[..., None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    taken = inside & (values > 0)
    logs = torch.where(taken, values, 1.0).log()
    values = values.clamp(min=-1.0)  # says enough of the noise

    one, squares = torch.ones_like(u), u * u + v * v
    round_terms = torch.stack([one, u, v, squares], dim=-1).to(maps.dtype)  # [pixels, 4]
    terms = torch.stack([one, u, v, u * u, u * v, v * v], dim=-1).to(maps.dtype)  # [pixels, 6]
    start = torch.exp(-squares.to(maps.dtype) / (2 * fit_start(radius) ** 2))
    weights = torch.where(taken, (2 * logs.clamp(max=0)).exp(), 0.0)  # none counts for more than the peak
    kept = torch.ones_like(logs)
    for step in range(FIT_ROUND_SOLUTIONS):
        fit = _fit_quadratic(weights * start if step == 0 else weights, logs, round_terms, radius)
        guides = (fit.is_peak & (fit.maximum.abs() <= FIT_FARTHEST))[..., None]
        kept = torch.where(guides, _kept(values, inside, fit), kept)
        weights = torch.where(guides, _weights(fit, taken, kept), weights)
    is_peak = center > 0  # it need not be the raw map's maximum
    for _ in range(FIT_SOLUTIONS):
        fit = _fit_quadratic(weights, logs, terms, radius)
        is_peak = is_peak & fit.is_peak
        weights = _weights(fit, taken, kept)
    return fit._replace(is_peak=is_peak & (fit.maximum <= FIT_MOST))


def fit_start(radius: int) -> float:
    """Standard deviation in pixels of the window in which a fit of that radius starts."""
    return max(FIT_START * radius, 1.0)


def _fit_quadratic(weights: Tensor, logs: Tensor, terms: Tensor, radius: int) -> Fit:
    """Weighted least squares: `terms` [pixels, 6], or [pixels, 4] for a round one."""
    weighted = weights[..., None] * terms
    matrix = product(weighted.mT, terms)
    factor, _ = torch.linalg.cholesky_ex(matrix)
    coefficients = torch.cholesky_solve(product(weighted.mT, logs[..., None]), factor)[..., 0]
    pivots = factor.diagonal(dim1=-2, dim2=-1) ** 2
    is_regular = (pivots > FIT_PIVOT * matrix.diagonal(dim1=-2, dim2=-1)).all(dim=-1)

    c0, c1, c2, c3, *others = coefficients.unbind(-1)
    c4, c5 = others or (torch.zeros_like(c3), c3)
    gradient, hessian = torch.stack([c1, c2], dim=-1), _symmetric(2 * c3, c4, 2 * c5)
    offset = _newton_step(gradient, hessian)
    is_peak = is_regular & (c3 < 0) & (4 * c3 * c5 - c4 * c4 > 0) & (offset.abs() <= radius).all(dim=-1)
    maximum = c0 + (gradient * offset).sum(dim=-1) / 2
    return Fit(hessian, offset, is_peak, product(coefficients, terms.mT), maximum)


def _kept(values: Tensor, inside: Tensor, fit: Fit) -> Tensor:
    """Share of its weight that each pixel keeps: [B, K, pixels]."""
    residuals = torch.where(inside, values - fit.logs.exp(), 0.0)
    # As much noise lies above the fit as below it, where there is no neighbour.
    variance = 2 * residuals.clamp(max=0).square().sum(dim=-1) / inside.sum(dim=-1)
    tolerated = torch.maximum(FIT_TOLERATED * fit.maximum.exp(), FIT_TOLERATED_NOISE * variance.sqrt())
    return 1 / (1 + (residuals.clamp(min=0) / tolerated[..., None]) ** 8)


def _weights(fit: Fit, taken: Tensor, kept: Tensor) -> Tensor:
    """The squares of the fitted values over their maximum, times what is kept of them."""
    return torch.where(taken, (2 * (fit.logs - fit.maximum[..., None])).exp() * kept, 0.0)


def match_blobs(maps: Tensor, sigma: float) -> Tensor:
    """The response of a matched filter to [B, K, H, W] maps: how likely a blob of that width is at each pixel.

        S(y, x) = sum_ij g_i g_j h(y + i, x + j) / sqrt(sum_ij g_i^2 g_j^2)

    over the pixels inside the map, with a Gaussian g. In white noise that is the likelihood ratio of a blob at (y, x)
    to none, at the border as well: what lies beyond counts in neither sum. The lower sum is relative to that of a
    filter that lies inside the map, and the weights g add up to 1: so no response exceeds the largest pixel.
    """
    limit = torch.finfo(maps.dtype).max / 4  # as in `blur`
    radius = math.ceil(FILTER_REACH * sigma)
    weights = blur_taps(2 * radius + 1, sigma)
    squares = tuple(weight**2 for weight in weights)
    responses = maps.clamp(-limit, limit)
    for axis in (-1, -2):
        size = maps.shape[axis]
        shape = [1] * maps.dim()
        shape[axis] = size
        seen = torch.ones(shape, dtype=maps.dtype, device=maps.device)
        power = _blur_axis(seen, squares, "zeros", axis) / (2 * sum(squares) - squares[0])
        responses = _blur_axis(responses, weights, "zeros", axis) / power.sqrt()
    return responses


def fit_blob(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """A round Gaussian fitted to the pixels around each of (x, y), by maximum likelihood in white noise.

    Over all pixels p inside the map that lie up to BLOB_REACH standard deviations away on each axis, negative ones as
    well, Gauss and Newton's iterations minimise the squares of r = p - a e,

        e = exp(-q / (2 s^2)),  q = (u - x)^2 + (v - y)^2,

    in the amplitude a, the centre (x, y) and log s. What exceeds the model by far is a neighbour's, which only adds:
    such a pixel keeps 1 / (1 + (r / c)^2) of its weight, where c is what noise may do (see BLOB_TOLERATED). The noise
    is known from pixels below the model, which count in full. In each iteration the amplitude is first that of all
    pixels, from which follow the weights, and then the one that fits best with these.

    Returns:
        The Hessian of the log, -I / s^2, [..., 2, 2]; the centre's offset from the pixel, [..., 2]; and whether there
        is a blob, [...]: its amplitude has always been positive, and the equations regular.
    """
    height, width = maps.shape[-2:]
    radius = math.ceil(BLOB_REACH * sigma)
    distance = torch.arange(-radius, radius + 1, device=maps.device)
    row, column = y[..., None, None] + distance[:, None], x[..., None, None] + distance
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    pixels = maps.flatten(2).gather(-1, index.flatten(2)).view(index.shape)
    # Relative to the map's maximum, so that squares stay far from overflow. Far below zero nothing more is said.
    largest = maps.amax(dim=(-2, -1)).view(*maps.shape[:2], *[1] * (pixels.dim() - 2))
    pixels = torch.where(inside, (pixels / largest).clamp(min=-1.0), 0.0)
    inside = inside.to(maps.dtype)

    center_x = center_y = torch.zeros_like(pixels[..., :1, :1])
    log_s = torch.full_like(center_x, math.log(BLOB_START * sigma))
    exists = torch.ones_like(center_x, dtype=torch.bool)
    for _ in range(BLOB_ITERATIONS):
        u, v = distance - center_x, distance[:, None] - center_y  # [..., 1, side] and [..., side, 1]
        q = u * u + v * v
        variance = (2 * log_s).exp()
        e = (-q / (2 * variance)).exp()
        amplitude = _amplitude(inside, e, pixels)
        exists = exists & (amplitude > 0)
        residuals = pixels - amplitude * e
        # As much noise lies above the model as below it, where there is no neighbour.
        noise = (2 * _total(inside * residuals.clamp(max=0).square()) / _total(inside)).sqrt()
        tolerated = torch.maximum(BLOB_TOLERATED * amplitude, BLOB_TOLERATED_NOISE * noise)
        weights = inside / (1 + (residuals.clamp(min=0) / tolerated).square())
        amplitude = _amplitude(weights, e, pixels)
        exists = exists & (amplitude > 0)
        residuals = pixels - amplitude * e

        # The derivatives of a e by a, x, y and log s are these times e, and the last three times a / s^2.
        terms = torch.stack(torch.broadcast_tensors(torch.ones_like(q), u, v, q), dim=-1) * e[..., None]
        terms = terms.flatten(-3, -2)  # [..., pixels, 4]
        weighted = weights.flatten(-2)[..., None] * terms
        matrix = product(weighted.mT, terms)
        matrix = matrix + BLOB_DAMPING * torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        solution = torch.cholesky_solve(product(weighted.mT, residuals.flatten(-2)[..., None]), factor)
        exists = exists & (failed == 0)[..., None, None]
        step_x, step_y, step_s = (solution[..., 1:, :, None] * (variance / amplitude)[..., None]).unbind(-3)

        def moved(center: Tensor, step: Tensor) -> Tensor:
            step = step.clamp(-BLOB_STEP * sigma, BLOB_STEP * sigma)
            return (center + step).clamp(-BLOB_FARTHEST * sigma, BLOB_FARTHEST * sigma)

        center_x, center_y = moved(center_x, step_x), moved(center_y, step_y)
        log_s = log_s + step_s.clamp(-BLOB_LOG_STEP, BLOB_LOG_STEP)
        log_s = log_s.clamp(math.log(BLOB_NARROWEST * sigma), math.log(BLOB_WIDEST * sigma))
    offset = torch.cat([center_x, center_y], dim=-1)[..., 0, :]
    hessian = -(-2 * log_s).exp() * torch.eye(2, dtype=maps.dtype, device=maps.device)
    exists = exists[..., 0, 0] & offset.isfinite().all(dim=-1) & hessian.isfinite().all(dim=(-2, -1))
    return hessian, offset, exists


def _total(values: Tensor) -> Tensor:
    """The sum over the pixels of patches [..., side, side]: [..., 1, 1]."""
    return values.sum(dim=(-2, -1), keepdim=True)


def _amplitude(weights: Tensor, e: Tensor, pixels: Tensor) -> Tensor:
    """The amplitude of a blob of that shape that fits the pixels best: [..., 1, 1]."""
    return _total(weights * e * pixels) / _total(weights * e * e)


def step_quarter(maps: Tensor, x: Tensor, y: Tensor, legacy: bool) -> tuple[Tensor, Tensor]:
    """A quarter of a pixel towards the larger neighbour on each axis, and where the border rule allows it.

    Returns:
        offset [..., 2] and moves [..., 2], zero or one.
    """
    height, width = maps.shape[-2:]
    if legacy:
        inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        moves = torch.stack([inside, inside], dim=-1)
    else:
        moves_x = (x > 1) & (x < width - 1) & (y > 0)
        moves_y = (y > 1) & (y < height - 1) & (x > 0)
        moves = torch.stack([moves_x, moves_y], dim=-1)
    difference = torch.stack(
        [
            _read(maps, x, y, 1, 0) - _read(maps, x, y, -1, 0),
            _read(maps, x, y, 0, 1) - _read(maps, x, y, 0, -1),
        ],
        dim=-1,
    )
    # Two infinite neighbours of one sign are as equal as two finite ones.
    offset = 0.25 * difference.nan_to_num(nan=0.0).sign()
    return torch.where(moves, offset, 0.0), moves.to(maps.dtype)


def step_offsets(offsets: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The offset maps [B, K, 2, H, W] at the peaks: [B, K, 2]."""
    index = (y * offsets.shape[-1] + x)[..., None, None].expand(-1, -1, 2, 1)
    return offsets.flatten(3).gather(-1, index).squeeze(-1)


def merge_flipped(heatmaps: Tensor, flipped: Tensor, flip_indices: Tensor, shift_flipped: bool) -> Tensor:
    """The mean of the maps and of those of the mirrored images, flipped back.

    Args:
        heatmaps: [B, K, H, W].
        flipped: [B, K, H, W], what the network says of the mirrored images.
        flip_indices: [K], which channel of `flipped` holds each keypoint: left and right swap.
        shift_flipped: Move the flipped-back maps one pixel to the right first; their column 0 stays.

    Returns:
        [B, K, H, W] in float64 for float64 maps, else in float32.
    """
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    flipped_back = flipped.to(dtype)[:, flip_indices].flip(-1)
    if shift_flipped:
        flipped_back = torch.cat([flipped_back[..., :1], flipped_back[..., :-1]], dim=-1)
    return heatmaps.to(dtype) / 2 + flipped_back / 2


def covariance_from_hessian(hessian: Tensor, known_variance: Tensor) -> Tensor:
    """-hessian^-1 less what the blur (and, if asked, the training target) added; NaN where that is no covariance.

    For a Gaussian blob the log is a quadratic, so finite differences are exact and this recovers the blob's
    own covariance.
    """
    dxx, dxy, dyy = hessian[..., 0, 0], hessian[..., 0, 1], hessian[..., 1, 1]
    determinant = dxx * dyy - dxy * dxy
    xx, xy, yy = -dyy / determinant - known_variance, dxy / determinant, -dxx / determinant - known_variance
    is_maximum = (dxx < 0) & (determinant > 0)
    is_covariance = is_maximum & (xx >= 0) & (yy >= 0) & (xx * yy >= xy * xy) & (xx + yy < math.inf)
    return torch.where(is_covariance[..., None, None], _symmetric(xx, xy, yy), math.nan)
