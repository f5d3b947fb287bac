"""The loops of `compiled.py`: one map after the other, one function a step, as README.md tells them.

The maximum and the search of a smoothed map are in float32, vectorised by LLVM; what follows is in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy import float32, int32

from .._common.compiled import entry, loops

# Numbers of the recipe's words.
STENCILS = ("wide", "compact", "fit", "gaussian", "quarter", "quarter_legacy", "none")
WIDE, COMPACT, FIT, GAUSSIAN, QUARTER, QUARTER_LEGACY, NONE = range(len(STENCILS))
SEARCHED = ("raw", "blurred", "matched")
_, BLURRED, MATCHED = range(len(SEARCHED))

# Rows of a map whose maximum is taken at once, and which are smoothed at once: long enough to vectorise over, short
# enough to search again, and three at least. Pixels that are searched at once.
_BAND, _SOME = 8, 64
# Bits of float32: those of its size, of infinity, and of the largest number of which two can be added.
_SIZE_BITS, _INFINITY_BITS, _LEAST = int32(0x7FFFFFFF), int32(0x7F800000), int32(-0x80000000)
_LIMIT = float32(np.finfo(np.float32).max / 4)
_ZERO, _ONE, _INFINITY, _TINY = float32(0.0), float32(1.0), float32(math.inf), np.finfo(np.float32).tiny
# Share by which rounding may push a smoothed pixel over its bound, or across a clip. Generous: what it costs is time.
_MARGIN = 1e-5
# What UDP's published code adds to the diagonal of the Hessian: float32 machine epsilon.
_COMPACT_EPSILON = 1.1920929e-7

# A fit: how often it is solved for a round Gaussian and then for one of any shape, what has to be left of a diagonal
# element of its matrix as a pivot, what a pixel may exceed it by (a share of its maximum, or standard deviations of the
# noise), the log of what its maximum may be over the peak's pixel, and how far from 0 that may be for a round one to
# guide.
_ROUND_SOLUTIONS, _SOLUTIONS, _PIVOT = 3, 2, 1e-3
_TOLERATED, _TOLERATED_NOISE, _MOST, _FARTHEST = 0.4, 3.0, 0.5, 10.0
# A blob: iterations; in units of the standard deviation that is expected where its width starts, what it is held to,
# how far its centre may come, and how far in one iteration; by how much the log of its width changes in one at most,
# and what the equations' diagonal is multiplied with; what a pixel may exceed it by, as above.
_ITERATIONS, _START, _NARROWEST, _WIDEST, _CENTER, _STEP = 8, 0.8, 0.4, 2.0, 1.2, 0.4
_LOG_STEP, _DAMPING, _BLOB_TOLERATED, _BLOB_NOISE = 0.3, 1 + 1e-3, 0.025, 2.6


class Smoothing(NamedTuple):
    """A separable filter for maps of one size, and what it sees beyond their borders."""

    taps: np.ndarray  # half of it, centre first: float32
    norms_y: np.ndarray  # [H], what smoothed rows are divided by, float32; empty for a blur
    norms_x: np.ndarray  # [W]
    rows: np.ndarray  # [H + 2 reach]: the row that is seen from `reach` above the map on; -1 where zeros are
    columns: np.ndarray  # [W + 2 reach]


class Patch(NamedTuple):
    """Pixels around a peak that something is fitted to."""

    radius: int
    terms: np.ndarray  # [6, pixels]: 1, u, v, u^2, u v, v^2 of the distances (u, v)
    round_terms: np.ndarray  # [4, pixels]: 1, u, v, u^2 + v^2


class Searched(NamedTuple):
    """The maximum of a smoothed map."""

    peak: float32
    y: int
    x: int
    right_less_left: float32
    below_less_above: float32


class Derivatives(NamedTuple):
    """Those of the log at a peak."""

    dx: float
    dy: float
    dxx: float
    dyy: float
    dxy: float


_UNKNOWN = Derivatives(math.nan, math.nan, math.nan, math.nan, math.nan)


# --- the maximum -------------------------------------------------------------------------------------------


@loops()
def _largest(pixels):
    """The largest of pixels, and the bits of the largest size, which with a NaN are above those of infinity: then the
    first means nothing.

    In integers of the same order, which LLVM vectorises whatever is a NaN.
    """
    bits, largest, size = pixels.view(np.int32), _LEAST, int32(0)
    for i in range(bits.size):
        largest = max(largest, int32(bits[i] ^ int32((bits[i] >> 31) & _SIZE_BITS)))
        size = max(size, int32(bits[i] & _SIZE_BITS))
    return int32(largest ^ int32((largest >> 31) & _SIZE_BITS)).view(np.float32), size


@loops()
def _find(pixels, number):
    """The first place of a number that is there."""
    start, is_there = 0, int32(0)
    while is_there == 0 and start + _SOME <= pixels.size:
        for i in range(start, start + _SOME):
            is_there = int32(is_there | int32(pixels[i] == number))
        start += _SOME
    i = start - _SOME if is_there else start
    while pixels[i] != number:
        i += 1
    return i


@loops()
def _find_maximum(map_, maxima):
    """The first maximum of a map, its place, and the bits of the largest size; the maxima of its bands. With a NaN
    among the pixels only the bits mean anything."""
    (height, width), size = map_.shape, int32(0)
    pixels = map_.reshape(height * width)
    best, first = pixels[0], 0
    for band in range(maxima.size):
        start = band * _BAND * width
        maxima[band], band_size = _largest(pixels[start : start + _BAND * width])
        size = max(size, band_size)
        if maxima[band] > best:
            best, first = maxima[band], start
    return best, first + _find(pixels[first:], best) if size <= _INFINITY_BITS else 0, size


# --- the search of a smoothed map (README.md, section 8) ---------------------------------------------------


@loops()
def _filter(padded, step, taps, total):
    """Filter along an axis on which pixels are `step` apart, all lines at once; the radius is lost on both sides.

    The two pixels at one distance are added first: equal surroundings give equal numbers. Two distances at once, and
    lines cut out beforehand, so that LLVM sees what to vectorise.
    """
    size, radius = total.size, taps.size - 1
    centers, tap = padded[radius * step : radius * step + size], taps[0]
    for i in range(size):
        total[i] = tap * centers[i]
    for d in range(1, radius, 2):
        before, behind, tap = padded[(radius - d) * step :], padded[(radius + d) * step :], taps[d]
        next_before, next_behind, next_tap = (
            padded[(radius - d - 1) * step :],
            padded[(radius + d + 1) * step :],
            taps[d + 1],
        )
        for i in range(size):
            total[i] = total[i] + tap * (before[i] + behind[i]) + next_tap * (next_before[i] + next_behind[i])
    if radius % 2 == 1:
        behind, tap = padded[2 * radius * step :], taps[radius]
        for i in range(size):
            total[i] += tap * (padded[i] + behind[i])


@loops()
def _pad_rows(map_, smoothing, padded):
    """A map with the rows that the filter sees above and below it, and with numbers of which two can be added for its
    infinities: [H + 2 radius, W]."""
    (height, width), radius = map_.shape, smoothing.taps.size - 1
    first = (smoothing.rows.size - height) // 2 - radius
    for i in range(height + 2 * radius):
        seen, row = smoothing.rows[first + i], padded[i]
        if seen < 0:
            row[:] = _ZERO
        else:
            for x in range(width):
                row[x] = min(max(map_[seen, x], -_LIMIT), _LIMIT)


@loops()
def _smooth_rows(padded, first, count, smoothing, sums, lines, smoothed):
    """Smooth some rows of a map that `_pad_rows` made, in lines of W + 2 radius whose last pixels are -inf.

    `sums`: memory for [count, W]; `lines`: for the padded ones.
    """
    taps, width, radius = smoothing.taps, padded.shape[1], smoothing.taps.size - 1
    stride, reach = width + 2 * radius, (smoothing.columns.size - width) // 2
    seen = padded[first : first + count + 2 * radius].reshape((count + 2 * radius) * width)
    _filter(seen, width, taps, sums[: count * width])
    for y in range(count):
        line, row = lines[y * stride : (y + 1) * stride], sums[y * width : (y + 1) * width]
        inside = line[radius : radius + width]
        norm = smoothing.norms_y[first + y] if smoothing.norms_y.size > 0 else _ONE
        for x in range(width):
            inside[x] = row[x] / norm
        for x in range(radius):
            left, right = smoothing.columns[reach - radius + x], smoothing.columns[reach + width + x]
            line[x] = _ZERO if left < 0 else inside[left]
            line[radius + width + x] = _ZERO if right < 0 else inside[right]
    _filter(lines[: count * stride], 1, taps, smoothed[: count * stride - 2 * radius])
    for y in range(count):
        row, beyond = smoothed[y * stride :], smoothed[y * stride + width : (y + 1) * stride]
        for x in range(smoothing.norms_x.size):
            row[x] /= smoothing.norms_x[x]
        for x in range(beyond.size):
            beyond[x] = -_INFINITY


@loops()
def _bound_bands(maxima, height, smoothing, bounds):
    """What no pixel of each smoothed band of rows exceeds: the bands' maxima, smoothed, where these are positive."""
    radius = smoothing.taps.size - 1
    first = (smoothing.rows.size - height) // 2 - radius
    padded, rows = np.zeros(height + 2 * radius, np.float32), np.empty(height, np.float32)
    for i in range(padded.size):
        seen = smoothing.rows[first + i]
        if seen >= 0:
            padded[i] = min(max(maxima[seen // _BAND], _ZERO), _LIMIT)
    _filter(padded, 1, smoothing.taps, rows)
    for band in range(bounds.size):
        bounds[band] = _ZERO
        for y in range(band * _BAND, min((band + 1) * _BAND, height)):
            bounds[band] = max(bounds[band], rows[y] / (smoothing.norms_y[y] if smoothing.norms_y.size > 0 else _ONE))


@loops()
def _search(map_, maxima, raw_y, smoothing):
    """The first maximum of a smoothed map, which is in the raw maximum's band of rows if all is well.

    `maxima`: those of all bands.
    """
    (height, width), radius = map_.shape, smoothing.taps.size - 1
    stride = width + 2 * radius
    padded, bounds = np.empty((height + 2 * radius, width), np.float32), np.empty_like(maxima)
    sums, lines = np.empty(_BAND * width, np.float32), np.empty(_BAND * stride, np.float32)
    smoothed = np.empty(_BAND * stride, np.float32)
    _pad_rows(map_, smoothing, padded)
    _bound_bands(maxima, height, smoothing, bounds)
    peak, best_y, best_x = -_INFINITY, 0, 0
    for turn in range(-1, bounds.size):
        band = raw_y // _BAND if turn < 0 else turn
        if turn >= 0 and (band == raw_y // _BAND or bounds[band] * (1 + _MARGIN) + _TINY < peak):
            continue
        first = band * _BAND
        count = min(_BAND, height - first)
        _smooth_rows(padded, first, count, smoothing, sums, lines, smoothed)
        line = smoothed[: count * stride]
        largest = _largest(line)[0]
        if largest > peak or (largest == peak and first < best_y):
            place = _find(line, largest)
            peak, best_y, best_x = largest, first + place // stride, place % stride
    above, below = max(best_y - 1, 0), min(best_y + 1, height - 1)
    _smooth_rows(padded, above, below - above + 1, smoothing, sums, lines, smoothed)
    row = smoothed[(best_y - above) * stride : (best_y - above) * stride + width]
    return Searched(
        peak, best_y, best_x,
        row[min(best_x + 1, width - 1)] - row[max(best_x - 1, 0)],
        smoothed[(below - above) * stride + best_x] - smoothed[best_x],
    )  # fmt: skip


# --- the step ----------------------------------------------------------------------------------------------


@loops()
def _read_window(map_, y, x, smoothing, window):
    """The pixels around a peak, with what the blur sees beyond the border."""
    (height, width), side = map_.shape, window.shape[0]
    top = (smoothing.rows.size - height) // 2 + y - side // 2
    left = (smoothing.columns.size - width) // 2 + x - side // 2
    is_inside = side // 2 <= x < width - side // 2
    for i in range(side):
        seen, line = smoothing.rows[top + i], window[i]
        if seen < 0:
            line[:] = 0.0
        elif is_inside:
            row = map_[seen, x - side // 2 : x + side // 2 + 1]
            for j in range(side):
                line[j] = max(row[j], -_LIMIT)
        else:
            for j in range(side):
                column = smoothing.columns[left + j]
                line[j] = 0.0 if column < 0 else max(map_[seen, column], -_LIMIT)


@loops()
def _blur_at_stencil(map_, y, x, smoothing, taps, reach):
    """The blurred map up to `reach` pixels from a peak, held inside the map: [2 reach + 1, 2 reach + 1]."""
    (height, width), radius, side = map_.shape, taps.size - 1, 2 * reach + 1
    length = 2 * (radius + reach) + 1
    window, sums, lines = np.empty((length, length)), np.empty(side * length), np.empty(side * length - 2 * radius)
    _read_window(map_, y, x, smoothing, window)
    _filter(window.reshape(length * length), length, taps, sums)
    _filter(sums, 1, taps, lines)
    blurred = np.empty((side, side))
    for i in range(side):
        row = min(max(y + i - reach, 0), height - 1) - y + reach
        for k in range(side):
            blurred[i, k] = lines[row * length + min(max(x + k - reach, 0), width - 1) - x + reach]
    return blurred


@loops()
def _differentiate(logs, is_compact):
    """Derivatives at the centre, by the differences of UDP's code or of DARK's."""
    c = logs.shape[0] // 2
    dx, dy = (logs[c, c + 1] - logs[c, c - 1]) / 2, (logs[c + 1, c] - logs[c - 1, c]) / 2
    if is_compact:
        dxx = logs[c, c + 1] - 2 * logs[c, c] + logs[c, c - 1]
        dyy = logs[c + 1, c] - 2 * logs[c, c] + logs[c - 1, c]
        sides = logs[c, c + 1] + logs[c + 1, c] + logs[c, c - 1] + logs[c - 1, c]
        dxy = (logs[c + 1, c + 1] + logs[c - 1, c - 1] - sides + 2 * logs[c, c]) / 2
        return Derivatives(dx, dy, dxx, dyy, dxy)
    dxx = (logs[c, c + 2] - 2 * logs[c, c] + logs[c, c - 2]) / 4
    dyy = (logs[c + 2, c] - 2 * logs[c, c] + logs[c - 2, c]) / 4
    dxy = (logs[c + 1, c + 1] - logs[c - 1, c + 1] - logs[c + 1, c - 1] + logs[c - 1, c - 1]) / 4
    return Derivatives(dx, dy, dxx, dyy, dxy)


@loops()
def _differentiate_log(map_, maxima, y, x, raw_peak, scale, recipe, smoothing, taps):
    """Derivatives of the log of the smoothed map at a peak. `scale`: what that is multiplied with, 0 if not known."""
    height, width = map_.shape
    is_compact = recipe.stencil == COMPACT
    reach = 1 if is_compact else 2
    if not is_compact and not (2 <= x < width - 2 and 2 <= y < height - 2):
        return _UNKNOWN
    values = _blur_at_stencil(map_, y, x, smoothing, taps, reach)
    if recipe.rescale and scale == 0:
        scale = _scale_where_a_clip_binds(map_, maxima, y, values, raw_peak, recipe, smoothing)
    elif scale == 0:
        scale = 1.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if abs(i - reach) + abs(j - reach) <= 2:  # which a stencil reads
                values[i, j] = math.log(min(max(values[i, j] * scale, recipe.clip_min), recipe.clip_max))
    return _differentiate(values, is_compact)


@loops()
def _scale_where_a_clip_binds(map_, maxima, y, values, raw_peak, recipe, smoothing):
    """max(raw) / max(blurred) if the step depends on it, else 1 (README.md, section 8)."""
    lowest, highest = math.inf, -math.inf
    reach = values.shape[0] // 2
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if abs(i - reach) + abs(j - reach) <= 2:
                lowest, highest = min(lowest, values[i, j]), max(highest, values[i, j])
    below = lowest < recipe.clip_min * (1 + _MARGIN) and raw_peak > recipe.clip_min * (1 - _MARGIN)
    above = raw_peak > recipe.clip_max * (1 - _MARGIN) and lowest < recipe.clip_max * (1 + _MARGIN)
    if not (below or above):
        return 1.0
    return _scale_of(raw_peak, _search(map_, maxima, y, smoothing).peak)


@loops()
def _scale_of(raw_peak, smoothed_peak):
    return raw_peak / np.float64(smoothed_peak) if smoothed_peak > 0 else 1.0


@loops()
def _newton_step(of, epsilon):
    """-(Hessian + epsilon I)^-1 gradient, not finite where that has no inverse."""
    dxx, dyy = of.dxx + epsilon, of.dyy + epsilon
    determinant = dxx * dyy - of.dxy * of.dxy
    return (of.dxy * of.dy - dyy * of.dx) / determinant, (of.dxy * of.dx - dxx * of.dy) / determinant


@loops()
def _quarter_step(right_less_left, below_less_above, y, x, height, width, recipe):
    """A quarter of a pixel towards the larger neighbour, and the extra shift, where the border rule acts."""
    moves_x, moves_y = 1 < x < width - 1, 1 < y < height - 1
    if recipe.stencil == QUARTER_LEGACY:
        moves_x = moves_y = moves_x and moves_y
    else:
        moves_x, moves_y = moves_x and y > 0, moves_y and x > 0
    step_x = 0.25 * _sign(right_less_left) + recipe.extra_shift if moves_x else 0.0
    step_y = 0.25 * _sign(below_less_above) + recipe.extra_shift if moves_y else 0.0
    return step_x, step_y


@loops()
def _sign(difference):
    """-1, 0 or 1. Two infinite neighbours of one sign are as equal as two finite ones."""
    return np.float64(difference > 0) - np.float64(difference < 0)


@loops()
def _covariance(of, known_variance):
    """xx, xy and yy of -Hessian^-1 - known_variance I where that is positive semi-definite, NaN elsewhere."""
    determinant = of.dxx * of.dyy - of.dxy * of.dxy
    xx, xy, yy = -of.dyy / determinant - known_variance, of.dxy / determinant, -of.dxx / determinant - known_variance
    exists = of.dxx < 0 and determinant > 0 and xx + yy < math.inf
    if exists and xx >= 0 and yy >= 0 and xx * yy >= xy * xy:
        return xx, xy, yy
    return math.nan, math.nan, math.nan


# --- fits --------------------------------------------------------------------------------------------------


@loops()
def _read_patch(map_, y, x, radius, unit, pixels, inside):
    """Pixels around a peak over `unit`, 0 outside the map, and which lie inside it, 0 or 1. Returns their number."""
    (height, width), p, count = map_.shape, 0, 0
    for row in range(y - radius, y + radius + 1):
        for column in range(x - radius, x + radius + 1):
            is_inside = 0 <= row < height and 0 <= column < width
            pixels[p] = map_[row, column] / unit if is_inside else 0.0
            inside[p] = 1.0 if is_inside else 0.0
            count += is_inside
            p += 1
    return count


@loops("reassoc", "contract")
def _dot(left, right):
    total = 0.0
    for i in range(left.size):
        total += left[i] * right[i]
    return total


@loops()
def _sum_equations(weights, weighted_targets, terms, equations):
    """The equations [T, T + 1] of the weighted least squares of a sum of T terms; their right side is last."""
    weighted, count = np.empty_like(weights), terms.shape[0]
    for i in range(count):
        for p in range(weights.size):
            weighted[p] = weights[p] * terms[i, p]
        for j in range(i, count):
            equations[i, j] = equations[j, i] = _dot(weighted, terms[j])
        equations[i, count] = _dot(weighted_targets, terms[i])


@loops()
def _eliminate(equations, least_pivot):
    """Solve symmetric equations in place, without pivoting, which positive definite ones do not need. Returns whether
    each pivot is more than that share of its diagonal element."""
    count, is_regular = equations.shape[0], True
    lowest_pivots = np.empty(count)
    for i in range(count):
        lowest_pivots[i] = least_pivot * equations[i, i]
    for i in range(count):
        is_regular = is_regular and equations[i, i] > lowest_pivots[i]
        for j in range(i + 1, count + 1):
            equations[i, j] /= equations[i, i]
        for k in range(i + 1, count):
            for j in range(i + 1, count + 1):
                equations[k, j] -= equations[k, i] * equations[i, j]
    for i in range(count - 1, 0, -1):
        for k in range(i):
            equations[k, count] -= equations[k, i] * equations[i, count]
    return is_regular


class _Quadratic(NamedTuple):
    """A quadratic that was fitted to logs."""

    constant: float
    derivatives: Derivatives
    x: float  # of its maximum
    y: float
    maximum: float
    is_peak: bool


@loops()
def _solve_quadratic(weights, weighted_logs, terms, radius):
    """Fit a quadratic, round if there are four terms."""
    count = terms.shape[0]
    equations = np.empty((count, count + 1))
    _sum_equations(weights, weighted_logs, terms, equations)
    is_regular = _eliminate(equations, _PIVOT)
    c = equations[:, count]
    xx, xy, yy = (c[3], 0.0, c[3]) if count == 4 else (c[3], c[4], c[5])
    of = Derivatives(c[1], c[2], 2 * xx, 2 * yy, xy)
    x, y = _newton_step(of, 0.0)
    is_peak = is_regular and xx < 0 and 4 * xx * yy > xy * xy and abs(x) <= radius and abs(y) <= radius
    return _Quadratic(c[0], of, x, y, c[0] + (c[1] * x + c[2] * y) / 2, is_peak)


@loops("reassoc", "contract")
def _sum_of_negative_squares(residuals):
    total = 0.0
    for p in range(residuals.size):
        below = min(residuals[p], 0.0)
        total += below * below
    return total


@loops()
def _multiply(down, across, inside, e):
    """The product of what rows and columns have, inside the map."""
    side = across.size
    for i in range(side):
        line, exists, factor = e[i * side : (i + 1) * side], inside[i * side : (i + 1) * side], down[i]
        for j in range(side):
            line[j] = exists[j] * factor * across[j]


@loops()
def _tolerance(residuals, count, amplitude, share, deviations):
    """What a pixel may exceed a fit by, more than 0: as much noise lies above as below where there is no neighbour."""
    below = _sum_of_negative_squares(residuals)
    return max(share * amplitude, deviations * math.sqrt(2 * below / count), 1e-300)


@loops()
def _fit_gaussian(map_, y, x, patch):
    """Derivatives of the log of a Gaussian fitted around a peak, and whether that is a peak (README.md, section 5)."""
    radius, size, unit = patch.radius, patch.terms.shape[1], np.float64(map_[y, x])
    if not unit > 0:
        return _UNKNOWN, False
    side, pixels, inside, logs = 2 * radius + 1, np.empty(size), np.empty(size), np.zeros(size)
    weights, weighted, kept, residuals = np.zeros(size), np.empty(size), np.ones(size), np.empty(size)
    across, down, e = np.empty(side), np.empty(side), np.empty(size)
    count = _read_patch(map_, y, x, radius, unit, pixels, inside)
    for p in range(size):
        if pixels[p] > 0:
            logs[p] = math.log(pixels[p])
            weights[p] = min(pixels[p], 1.0) ** 2
        pixels[p] = max(pixels[p], -1.0)
    start = -1 / (2 * max(0.22 * radius, 1.0) ** 2)
    for step in range(_ROUND_SOLUTIONS):
        for p in range(size):
            window = math.exp(start * patch.round_terms[3, p]) if step == 0 else 1.0
            residuals[p] = weights[p] * window
            weighted[p] = residuals[p] * logs[p]
        fit = _solve_quadratic(residuals, weighted, patch.round_terms, radius)
        if not (fit.is_peak and abs(fit.maximum) <= _FARTHEST):
            continue  # it guides nothing
        amplitude = math.exp(fit.maximum)
        for i in range(side):
            across[i] = math.exp(fit.derivatives.dxx / 2 * (i - radius - fit.x) ** 2)
            down[i] = math.exp(fit.derivatives.dyy / 2 * (i - radius - fit.y) ** 2)
        _multiply(down, across, inside, e)
        for p in range(size):
            residuals[p] = pixels[p] - amplitude * e[p]
        tolerated = _tolerance(residuals, count, amplitude, _TOLERATED, _TOLERATED_NOISE)
        for p in range(size):
            square = (max(residuals[p], 0.0) / tolerated) ** 2
            fourth = square * square
            kept[p] = 1 / (1 + fourth * fourth)
        for p in range(size):
            weights[p] = e[p] * e[p] * kept[p] if pixels[p] > 0 else 0.0
    for step in range(_SOLUTIONS):
        for p in range(size):
            weighted[p] = weights[p] * logs[p]
        fit = _solve_quadratic(weights, weighted, patch.terms, radius)
        if not fit.is_peak:
            return _UNKNOWN, False
        if step + 1 < _SOLUTIONS:
            for p in range(size):
                if pixels[p] > 0:
                    weights[p] = math.exp(2 * _over_maximum(fit, patch.terms[1, p], patch.terms[2, p])) * kept[p]
    return fit.derivatives, fit.maximum <= _MOST


@loops()
def _over_maximum(fit, u, v):
    """A quadratic less its maximum at a distance from the peak's pixel."""
    of = fit.derivatives
    return fit.constant - fit.maximum + of.dx * u + of.dy * v + of.dxx / 2 * u * u + of.dxy * u * v + of.dyy / 2 * v * v


@loops()
def _fit_blob(map_, y, x, raw_peak, sigma, patch):
    """Derivatives of the log of a round Gaussian fitted around a peak, and whether there is one (README.md, section 6).

    The equations are sums over distances from the pixel and over residuals of the first amplitude, which are then
    shifted to the centre and made those of the second.
    """
    radius, size = patch.radius, patch.terms.shape[1]
    side, pixels, inside, e = 2 * radius + 1, np.empty(size), np.empty(size), np.empty(size)
    residuals, weights, weighted, across, down = (
        np.empty(size), np.empty(size), np.empty(size), np.empty(side), np.empty(side),
    )  # fmt: skip
    equations = np.empty((4, 5))
    count = _read_patch(map_, y, x, radius, np.float64(raw_peak), pixels, inside)
    for p in range(size):
        pixels[p] = max(pixels[p], -1.0)
    center_x, center_y, log_s = 0.0, 0.0, math.log(_START * sigma)
    for _ in range(_ITERATIONS):
        variance = math.exp(2 * log_s)
        for i in range(side):
            across[i] = math.exp(-((i - radius - center_x) ** 2) / (2 * variance))
            down[i] = math.exp(-((i - radius - center_y) ** 2) / (2 * variance))
        _multiply(down, across, inside, e)
        amplitude = _dot(e, pixels) / _dot(e, e)
        if not amplitude > 0:
            return _UNKNOWN, False
        for p in range(size):
            residuals[p] = pixels[p] - amplitude * e[p]
        tolerated = _tolerance(residuals, count, amplitude, _BLOB_TOLERATED, _BLOB_NOISE)
        unit = 1 / tolerated
        for p in range(size):
            excess = unit * max(residuals[p], 0.0)
            weights[p] = e[p] / (1 + excess * excess)
        for p in range(size):
            weighted[p] = weights[p] * residuals[p]
        for p in range(size):
            weights[p] *= e[p]
        _sum_equations(weights, weighted, patch.round_terms, equations)
        change = equations[0, 4] / equations[0, 0]
        for i in range(4):
            equations[i, 4] -= change * equations[i, 0]
        amplitude += change
        _move_origin(equations, center_x, center_y)
        _move_origin(equations[:, :4].T, center_x, center_y)
        for i in range(4):
            equations[i, i] *= _DAMPING
        if not (amplitude > 0 and _eliminate(equations, 0.0)):
            return _UNKNOWN, False
        unit = variance / amplitude
        center_x = _hold(center_x + _hold(equations[1, 4] * unit, _STEP * sigma), _CENTER * sigma)
        center_y = _hold(center_y + _hold(equations[2, 4] * unit, _STEP * sigma), _CENTER * sigma)
        log_s += _hold(equations[3, 4] * unit, _LOG_STEP)
        log_s = min(max(log_s, math.log(_NARROWEST * sigma)), math.log(_WIDEST * sigma))
    precision = math.exp(-2 * log_s)
    of = Derivatives(center_x * precision, center_y * precision, -precision, -precision, 0.0)
    return of, math.isfinite(of.dx + of.dy + precision)


@loops()
def _hold(number, bound):
    return min(max(number, -bound), bound)


@loops()
def _move_origin(rows, x, y):
    """Make rows that belong to 1, u, v and u^2 + v^2 those of the distances from (x, y)."""
    for j in range(rows.shape[1]):
        rows[3, j] += (x * x + y * y) * rows[0, j] - 2 * (x * rows[1, j] + y * rows[2, j])
        rows[1, j] -= x * rows[0, j]
        rows[2, j] -= y * rows[0, j]


# --- a map, and all of them --------------------------------------------------------------------------------


class Source(NamedTuple):
    """Maps as they lie in memory."""

    pixels: np.ndarray  # all of them, in one line
    strides: np.ndarray  # of images, channels, rows and columns
    channels: np.ndarray  # which channel each keypoint is


@loops()
def _read_map(source, b, k, height, width, held):
    """A map as a contiguous one: the pixels themselves if they are that, else a copy in `held`."""
    strides = source.strides
    start = b * strides[0] + source.channels[k] * strides[1]
    if strides[2] == width and strides[3] == 1:
        return source.pixels[start : start + height * width].reshape((height, width))
    for y in range(height):
        for x in range(width):
            held[y, x] = source.pixels[start + y * strides[2] + x * strides[3]]
    return held


@loops()
def _merge_flipped(map_, flipped, b, k, shift, merged):
    """The mean of a map and of that of the mirrored image, flipped back (README.md, section 10)."""
    (height, width), strides = map_.shape, flipped.strides
    start, half = b * strides[0] + flipped.channels[k] * strides[1], float32(0.5)
    for y in range(height):
        row = start + y * strides[2]
        for x in range(width):
            back = width - 1 - max(x - shift, 0)
            merged[y, x] = half * map_[y, x] + half * flipped.pixels[row + back * strides[3]]
    return merged


@loops()
def _refine(map_, maxima, y, x, raw_peak, scale, recipe, smoothing, taps, patch):
    """The step from a peak's pixel by a stencil that has a Hessian, and the covariance's xx, xy, yy."""
    of, fits, known_variance, epsilon = _UNKNOWN, False, recipe.known_variance, 0.0
    if recipe.stencil == FIT:
        of, fits = _fit_gaussian(map_, y, x, patch)
    elif recipe.stencil == GAUSSIAN:
        of, fits = _fit_blob(map_, y, x, raw_peak, recipe.blob_sigma, patch)
    elif recipe.stencil == COMPACT:
        epsilon = _COMPACT_EPSILON
    if fits:
        known_variance = recipe.target_variance
    else:
        of = _differentiate_log(map_, maxima, y, x, raw_peak, scale, recipe, smoothing, taps)
    step_x, step_y = _newton_step(of, epsilon)
    step_x, step_y = (step_x if math.isfinite(step_x) else 0.0), (step_y if math.isfinite(step_y) else 0.0)
    return step_x, step_y, _covariance(of, known_variance)


@entry
def decode_maps(
    first, last, height, width, images, pixels, strides, channels,
    flips, shift, flipped_pixels, flipped_strides, flipped_channels,
    recipe_row, taps, taps32, rows, columns,
    filter_taps, norms_y, norms_x, filter_rows, filter_columns, terms, round_terms,
    transforms, offsets, offset_strides, offset_scale, coords, scores, covariances,
):  # fmt: skip
    """Decode maps `first` to `last` into coords [N, 2], scores [N] and covariances [N, 2, 2].

    Empty arrays stand for what is absent: flips, transforms [B, 2, 3], offsets, covariances.
    """
    recipe = recipe_row[0]
    source = Source(pixels, strides, channels)
    flipped = Source(flipped_pixels, flipped_strides, flipped_channels)
    blur = Smoothing(taps32, norms_y[:0], norms_x[:0], rows, columns)
    matched = Smoothing(filter_taps, norms_y, norms_x, filter_rows, filter_columns)
    patch = Patch(int(math.sqrt(terms.shape[1])) // 2, terms, round_terms)
    held, merged = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    maxima = np.empty((height + _BAND - 1) // _BAND, np.float32)
    num_keypoints = coords.shape[0] // images
    for n in range(first, last):
        b, k = n // num_keypoints, n % num_keypoints
        map_ = _read_map(source, b, k, height, width, held)
        if flips:
            map_ = _merge_flipped(map_, flipped, b, k, shift, merged)
        raw_peak, place, size = _find_maximum(map_, maxima)
        y, x, peak, scale = place // width, place % width, np.float64(raw_peak), 0.0
        is_nan, is_infinite = size > _INFINITY_BITS, raw_peak == math.inf
        right_less_left, below_less_above = _ZERO, _ZERO
        if is_nan:
            peak = math.nan
        elif recipe.searched == BLURRED:
            smoothed_peak, y, x, right_less_left, below_less_above = _search(map_, maxima, y, blur)
            scale = _scale_of(raw_peak, smoothed_peak) if recipe.rescale else 1.0
            peak = smoothed_peak * scale
        else:
            if recipe.searched == MATCHED and not is_infinite:  # beside an infinite pixel no other has a place
                _, y, x, _, _ = _search(map_, maxima, y, matched)
            right_less_left = map_[y, min(x + 1, width - 1)] - map_[y, max(x - 1, 0)]
            below_less_above = map_[min(y + 1, height - 1), x] - map_[max(y - 1, 0), x]
        step_x = step_y = 0.0
        xx = xy = yy = math.nan
        if peak > 0 and not is_infinite and recipe.stencil != NONE:
            if recipe.stencil >= QUARTER:
                step_x, step_y = _quarter_step(right_less_left, below_less_above, y, x, height, width, recipe)
            else:
                step_x, step_y, (xx, xy, yy) = _refine(map_, maxima, y, x, raw_peak, scale, recipe, blur, taps, patch)
            step_x, step_y = _hold(step_x, recipe.max_offset), _hold(step_y, recipe.max_offset)
        out_x, out_y = x + step_x, y + step_y
        if offsets.size > 0 and not is_infinite:
            at = b * offset_strides[0] + k * offset_strides[1] + y * offset_strides[3] + x * offset_strides[4]
            move_x, move_y = offsets[at] * offset_scale, offsets[at + offset_strides[2]] * offset_scale
            if math.isfinite(move_x) and math.isfinite(move_y):
                out_x, out_y = x + move_x, y + move_y
        if transforms.size > 0:
            a = transforms[b]
            out_x, out_y = a[0, 0] * out_x + a[0, 1] * out_y + a[0, 2], a[1, 0] * out_x + a[1, 1] * out_y + a[1, 2]
        if not peak > 0:
            out_x = out_y = recipe.invalid
        coords[n, 0], coords[n, 1] = out_x, out_y
        scores[n] = peak * recipe.score_scale + recipe.score_offset
        if covariances.size > 0:
            if transforms.size > 0:
                xx, xy, yy = _transform_covariance(transforms[b], xx, xy, yy)
            covariances[n, 0, 0], covariances[n, 1, 1] = xx, yy
            covariances[n, 0, 1] = covariances[n, 1, 0] = xy


@loops()
def _transform_covariance(a, xx, xy, yy):
    """A C A', whose variances rounding must not push below zero."""
    a00, a01, a10, a11 = np.float64(a[0, 0]), np.float64(a[0, 1]), np.float64(a[1, 0]), np.float64(a[1, 1])
    to_x, to_y = (a00 * xx + a01 * xy, a00 * xy + a01 * yy), (a10 * xx + a11 * xy, a10 * xy + a11 * yy)
    new_xx, new_yy = to_x[0] * a00 + to_x[1] * a01, to_y[0] * a10 + to_y[1] * a11
    return 0.0 if new_xx < 0 else new_xx, to_x[0] * a10 + to_x[1] * a11, 0.0 if new_yy < 0 else new_yy
