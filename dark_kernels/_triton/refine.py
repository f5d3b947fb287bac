"""From a peak's pixel to its place between pixels, and its covariance: the stencils of all recipes.

Sources: F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020, eq. 4 to
10 (wide); J. Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose
Estimation", CVPR 2020 (compact); H. Guo, "A simple algorithm for fitting a Gaussian function", IEEE Signal Processing
Magazine 28(5), 2011 (fit).
"""

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl

from ..recipes import blur_taps
from .blur import blur_points, blur_stencil, scan_blurred_map, tap_constants
from .logs import clip_may_bind, log_ratio
from .maps import load_pixels
from .sums import sum_of_products


@triton.jit
def _pixel_or_edge(
    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width, y, x,
    FLIP: tl.constexpr,
):  # fmt: skip
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return load_pixels(map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, y, x, None, FLIP)


@triton.jit
def _sign_or_zero(difference):
    """-1, 0 or 1; 0 for NaN, as of two infinite neighbours."""
    return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))


@triton.jit
def _weighted_sum(points, lane, plus_a, plus_b, minus_a, minus_b):
    """Of 16 points two added and two subtracted. A lane of -1 stands for none."""
    is_added = (lane == plus_a) | (lane == plus_b)
    is_subtracted = (lane == minus_a) | (lane == minus_b)
    return tl.sum(tl.where(is_added, points, tl.where(is_subtracted, -points, 0.0)), axis=0)


@triton.jit
def _covariance(dxx, dxy, dyy, exists, KNOWN_VARIANCE: tl.constexpr):
    """-Hessian^-1 - KNOWN_VARIANCE I: xx, xy and yy, NaN where that is no covariance or not `exists`."""
    determinant = dxx * dyy - dxy * dxy
    covariance_xx = -dyy / determinant - KNOWN_VARIANCE
    covariance_yy = -dxx / determinant - KNOWN_VARIANCE
    covariance_xy = dxy / determinant
    exists = exists & (dxx < 0) & (determinant > 0)
    exists = exists & (covariance_xx >= 0) & (covariance_yy >= 0)
    exists = exists & (covariance_xx * covariance_yy >= covariance_xy * covariance_xy)
    exists = exists & (covariance_xx + covariance_yy < float("inf"))
    covariance_xx = tl.where(exists, covariance_xx, float("nan"))
    covariance_xy = tl.where(exists, covariance_xy, float("nan"))
    covariance_yy = tl.where(exists, covariance_yy, float("nan"))
    return covariance_xx, covariance_xy, covariance_yy


@triton.jit
def _taylor_step(
    map_ptr,  # all as in `refine`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    height,
    width,
    y,
    x,
    level,
    raw_maximum,
    scale,
    refinable,
    FLIP: tl.constexpr,
    STENCIL: tl.constexpr,
    PADDING: tl.constexpr,
    RESCALE: tl.constexpr,
    ARGMAX_ON_BLURRED: tl.constexpr,
    HAS_COVARIANCE: tl.constexpr,
    CLIP_MIN: tl.constexpr,
    CLIP_MAX: tl.constexpr,
    KNOWN_VARIANCE: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,
    SCAN_POINTS: tl.constexpr,
    LANES: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """Newton's step on the log of the blurred map, x and y; its covariance; whether the peak may take it; and `scale`
    as `refine` returns it."""
    # The points of the stencil, in lanes: 0 is the peak, then right, left, below, above, ...
    lane = tl.arange(0, 16)
    if STENCIL == "wide":
        refinable = refinable & (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
    points, center = blur_stencil(
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
        y, x, level, lane, WINDOW, STENCIL == "wide", FLIP, PADDING,
        RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
    )  # fmt: skip
    used = lane < (13 if STENCIL == "wide" else 7)

    if RESCALE and not ARGMAX_ON_BLURRED:
        lowest = tl.min(tl.where(used, points, float("inf")), axis=0)
        binds = refinable & clip_may_bind(lowest, raw_maximum, CLIP_MIN, CLIP_MAX)
        needs_scale = binds & (scale == 1.0)
        if needs_scale:
            known = tl.max(tl.where(used, points, float("-inf")), axis=0)
            blurred_maximum, _ = scan_blurred_map(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                known, y, x, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES, FLIP, PADDING,
                RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
            scale = tl.where(blurred_maximum > 0, raw_maximum / blurred_maximum, 1.0)
        applied = tl.where(binds, scale, 1.0)  # a peak's numbers do not depend on what others have asked for
    else:
        applied = scale

    clipped = tl.minimum(tl.maximum(points * applied, CLIP_MIN), CLIP_MAX)
    center = tl.minimum(tl.maximum(center * applied, CLIP_MIN), CLIP_MAX)
    # Relative to the centre, whose own log is then zero.
    logs = tl.where(used, log_ratio(clipped, center), 0.0)
    dx = _weighted_sum(logs, lane, 1, -1, 2, -1) / 2
    dy = _weighted_sum(logs, lane, 3, -1, 4, -1) / 2
    if STENCIL == "wide":
        dxx = _weighted_sum(logs, lane, 9, 10, -1, -1) / 4
        dyy = _weighted_sum(logs, lane, 11, 12, -1, -1) / 4
        dxy = _weighted_sum(logs, lane, 5, 6, 7, 8) / 4
        solved_xx = dxx
        solved_yy = dyy
    else:
        dxx = _weighted_sum(logs, lane, 1, 2, -1, -1)
        dyy = _weighted_sum(logs, lane, 3, 4, -1, -1)
        dxy = (_weighted_sum(logs, lane, 5, 6, -1, -1) - dxx - dyy) / 2
        solved_xx = dxx + 1.1920929e-7  # as UDP's published code does, so that a flat map has an inverse
        solved_yy = dyy + 1.1920929e-7
    determinant = solved_xx * solved_yy - dxy * dxy
    offset_x = (dxy * dy - solved_yy * dx) / determinant
    offset_y = (dxy * dx - solved_xx * dy) / determinant
    refinable = refinable & (determinant != 0) & (tl.abs(offset_x) + tl.abs(offset_y) < float("inf"))

    covariance_xx = float("nan")
    covariance_xy = float("nan")
    covariance_yy = float("nan")
    if HAS_COVARIANCE:
        covariance_xx, covariance_xy, covariance_yy = _covariance(dxx, dxy, dyy, refinable, KNOWN_VARIANCE)
    return offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, refinable, scale


@triton.jit
def _fit_step(
    map_ptr,  # this to `refinable` as in `refine`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    height,
    width,
    y,
    x,
    level,
    refinable,
    FLIP: tl.constexpr,
    HAS_COVARIANCE: tl.constexpr,
    FIT_RADIUS: tl.constexpr,
    FIT_WINDOW: tl.constexpr,  # a power of two, more than 2 * FIT_RADIUS
    TARGET_VARIANCE: tl.constexpr,
):
    """The centre of a Gaussian fitted to the pixels around a peak, x and y from it; its covariance; whether it is one.

    Least squares of a quadratic to the log of the positive pixels, weighted first with their squares, then twice with
    those of the values fitted before. The pixels are read once, and stay in registers. Six equations are sums of
    weights times powers of the distance: rows are summed first, for each power, and those sums over the columns.
    """
    PIVOT: tl.constexpr = 1e-3  # of a diagonal element that must be left of it, or the equations are singular
    distance = tl.arange(0, FIT_WINDOW) - FIT_RADIUS
    row = y + distance
    column = x + distance
    row_exists = (distance <= FIT_RADIUS) & (row >= 0) & (row < height)
    column_exists = (distance <= FIT_RADIUS) & (column >= 0) & (column < width)
    exists = row_exists[:, None] & column_exists[None, :]
    pixels = load_pixels(
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, row[:, None], column[None, :],
        exists, FLIP,
    )  # fmt: skip
    exists = exists & (pixels > 0)
    logs = tl.where(exists, log_ratio(pixels, level), 0.0)
    u = distance.to(tl.float32)  # of columns, and of rows as v
    u2 = u * u
    u3 = u2 * u
    u4 = u2 * u2
    v = u[:, None]
    v2 = u2[:, None]
    v3 = u3[:, None]
    v4 = u4[:, None]

    is_peak = refinable
    offset_x = tl.full([], 0.0, dtype=tl.float32)
    offset_y = offset_x
    dxx = offset_x
    dxy = offset_x
    dyy = offset_x
    relative_logs = logs  # of the pixels, then of what was fitted to them, over its maximum
    for _ in range(3):
        weights = tl.where(exists, tl.exp(2.0 * relative_logs), 0.0)
        rows_0 = tl.sum(weights, axis=0)
        rows_1 = sum_of_products(weights, v)
        rows_2 = sum_of_products(weights, v2)
        rows_3 = sum_of_products(weights, v3)
        rows_4 = sum_of_products(weights, v4)
        logs_0 = sum_of_products(weights, logs)
        weights *= logs
        logs_1 = sum_of_products(weights, v)
        logs_2 = sum_of_products(weights, v2)

        # The matrix for the terms 1, u, v, u^2, u v, v^2, its lower triangle, and the right side.
        a00 = tl.sum(rows_0, axis=0)
        a10 = sum_of_products(rows_0, u)
        a20 = tl.sum(rows_1, axis=0)
        a30 = sum_of_products(rows_0, u2)
        a40 = sum_of_products(rows_1, u)
        a50 = tl.sum(rows_2, axis=0)
        a31 = sum_of_products(rows_0, u3)
        a41 = sum_of_products(rows_1, u2)
        a51 = sum_of_products(rows_2, u)
        a52 = tl.sum(rows_3, axis=0)
        a33 = sum_of_products(rows_0, u4)
        a43 = sum_of_products(rows_1, u3)
        a53 = sum_of_products(rows_2, u2)
        a54 = sum_of_products(rows_3, u)
        a55 = tl.sum(rows_4, axis=0)
        b0 = tl.sum(logs_0, axis=0)
        b1 = sum_of_products(logs_0, u)
        b2 = tl.sum(logs_1, axis=0)
        b3 = sum_of_products(logs_0, u2)
        b4 = sum_of_products(logs_1, u)
        b5 = tl.sum(logs_2, axis=0)
        a11 = a30
        a21 = a40
        a22 = a50
        a32 = a41
        a42 = a51
        a44 = a53

        # Elimination without pivoting, which positive definite matrices do not need.
        c10 = a10 / a00
        c20 = a20 / a00
        c30 = a30 / a00
        c40 = a40 / a00
        c50 = a50 / a00
        p11 = a11 - c10 * a10
        p21 = a21 - c20 * a10
        p31 = a31 - c30 * a10
        p41 = a41 - c40 * a10
        p51 = a51 - c50 * a10
        p22 = a22 - c20 * a20
        p32 = a32 - c30 * a20
        p42 = a42 - c40 * a20
        p52 = a52 - c50 * a20
        p33 = a33 - c30 * a30
        p43 = a43 - c40 * a30
        p53 = a53 - c50 * a30
        p44 = a44 - c40 * a40
        p54 = a54 - c50 * a40
        p55 = a55 - c50 * a50
        b1 -= c10 * b0
        b2 -= c20 * b0
        b3 -= c30 * b0
        b4 -= c40 * b0
        b5 -= c50 * b0

        c21 = p21 / p11
        c31 = p31 / p11
        c41 = p41 / p11
        c51 = p51 / p11
        p22 -= c21 * p21
        p32 -= c31 * p21
        p42 -= c41 * p21
        p52 -= c51 * p21
        p33 -= c31 * p31
        p43 -= c41 * p31
        p53 -= c51 * p31
        p44 -= c41 * p41
        p54 -= c51 * p41
        p55 -= c51 * p51
        b2 -= c21 * b1
        b3 -= c31 * b1
        b4 -= c41 * b1
        b5 -= c51 * b1

        c32 = p32 / p22
        c42 = p42 / p22
        c52 = p52 / p22
        p33 -= c32 * p32
        p43 -= c42 * p32
        p53 -= c52 * p32
        p44 -= c42 * p42
        p54 -= c52 * p42
        p55 -= c52 * p52
        b3 -= c32 * b2
        b4 -= c42 * b2
        b5 -= c52 * b2

        c43 = p43 / p33
        c53 = p53 / p33
        p44 -= c43 * p43
        p54 -= c53 * p43
        p55 -= c53 * p53
        b4 -= c43 * b3
        b5 -= c53 * b3

        c54 = p54 / p44
        p55 -= c54 * p54
        b5 -= c54 * b4

        b5 = b5 / p55
        b4 = b4 / p44 - c54 * b5
        b3 = b3 / p33 - c43 * b4 - c53 * b5
        b2 = b2 / p22 - c32 * b3 - c42 * b4 - c52 * b5
        b1 = b1 / p11 - c21 * b2 - c31 * b3 - c41 * b4 - c51 * b5
        b0 = b0 / a00 - c10 * b1 - c20 * b2 - c30 * b3 - c40 * b4 - c50 * b5

        dxx = 2.0 * b3
        dxy = b4
        dyy = 2.0 * b5
        determinant = dxx * dyy - dxy * dxy
        offset_x = (dxy * b2 - dyy * b1) / determinant
        offset_y = (dxy * b1 - dxx * b2) / determinant
        is_peak = is_peak & (a00 > 0) & (p11 > PIVOT * a11) & (p22 > PIVOT * a22) & (p33 > PIVOT * a33)
        is_peak = is_peak & (p44 > PIVOT * a44) & (p55 > PIVOT * a55) & (dxx < 0) & (determinant > 0)
        is_peak = is_peak & (tl.abs(offset_x) <= FIT_RADIUS) & (tl.abs(offset_y) <= FIT_RADIUS)
        maximum = b0 + 0.5 * (b1 * offset_x + b2 * offset_y)
        relative_logs = (b0 - maximum + b2 * v + b5 * v2) + (b1 + b4 * v) * u[None, :] + b3 * u2[None, :]

    covariance_xx = float("nan")
    covariance_xy = float("nan")
    covariance_yy = float("nan")
    if HAS_COVARIANCE:
        covariance_xx, covariance_xy, covariance_yy = _covariance(dxx, dxy, dyy, is_peak, TARGET_VARIANCE)
    return offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak


@triton.jit
def refine(
    map_ptr,  # this and the next five: see `maps.py`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    height,
    width,
    y,  # the peak's pixel
    x,
    level,  # the raw map's value at the peak, or another that is close to those around it
    raw_maximum,  # of the whole map
    scale,  # what the blurred map is multiplied with, or 1 if that is not known
    refinable,  # whether the peak may move at all
    FLIP: tl.constexpr,
    STENCIL: tl.constexpr,
    PADDING: tl.constexpr,
    RESCALE: tl.constexpr,
    ARGMAX_ON_BLURRED: tl.constexpr,
    HAS_COVARIANCE: tl.constexpr,
    CLIP_MIN: tl.constexpr,
    CLIP_MAX: tl.constexpr,
    MAX_OFFSET: tl.constexpr,
    EXTRA_SHIFT: tl.constexpr,
    KNOWN_VARIANCE: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,
    SCAN_POINTS: tl.constexpr,
    LANES: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
    FIT_RADIUS: tl.constexpr,
    FIT_WINDOW: tl.constexpr,
    TARGET_VARIANCE: tl.constexpr,
):
    """Where the stencil sees the peak: x and y in pixels of the map; its covariance xx, xy and yy (NaN where it is
    none, or HAS_COVARIANCE is not set); and `scale` for another peak of the map, since if it took the whole map to
    know it, once is enough.

    A peak that is not `refinable`, or whose step is not finite, stays on its pixel.
    """
    offset_x = 0.0
    offset_y = 0.0
    covariance_xx = float("nan")
    covariance_xy = float("nan")
    covariance_yy = float("nan")

    if STENCIL == "wide" or STENCIL == "compact":
        offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, refinable, scale = _taylor_step(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
            y, x, level, raw_maximum, scale, refinable,
            FLIP, STENCIL, PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX,
            KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip

    elif STENCIL == "fit":
        offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak = _fit_step(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
            y, x, level, refinable, FLIP, HAS_COVARIANCE, FIT_RADIUS, FIT_WINDOW, TARGET_VARIANCE,
        )  # fmt: skip
        if refinable & (is_peak == 0):
            offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak, scale = _taylor_step(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                y, x, level, raw_maximum, scale, refinable,
                FLIP, "wide", PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX,
                KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
                RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
        refinable = is_peak

    elif STENCIL == "quarter" or STENCIL == "quarter_legacy":
        if ARGMAX_ON_BLURRED:
            side = tl.arange(0, 4)  # right, left, below, above
            sign = 1 - 2 * (side % 2)
            beside_y = y + tl.where(side < 2, 0, sign)
            beside_x = x + tl.where(side < 2, sign, 0)
            blurred = blur_points(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                tl.minimum(tl.maximum(beside_y, 0), height - 1), tl.minimum(tl.maximum(beside_x, 0), width - 1),
                LANES, FLIP, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
            difference_x = tl.sum(tl.where(side < 2, blurred * sign, 0.0), axis=0)
            difference_y = tl.sum(tl.where(side < 2, 0.0, blurred * sign), axis=0)
        else:
            right = _pixel_or_edge(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                y, x + 1, FLIP,
            )  # fmt: skip
            left = _pixel_or_edge(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                y, x - 1, FLIP,
            )  # fmt: skip
            below = _pixel_or_edge(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                y + 1, x, FLIP,
            )  # fmt: skip
            above = _pixel_or_edge(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width,
                y - 1, x, FLIP,
            )  # fmt: skip
            difference_x = right - left
            difference_y = below - above
        inside_x = (x > 1) & (x < width - 1)
        inside_y = (y > 1) & (y < height - 1)
        if STENCIL == "quarter":
            moves_x = inside_x & (y > 0)
            moves_y = inside_y & (x > 0)
        else:
            moves_x = inside_x & inside_y
            moves_y = moves_x
        offset_x = tl.where(moves_x, 0.25 * _sign_or_zero(difference_x) + EXTRA_SHIFT, 0.0)
        offset_y = tl.where(moves_y, 0.25 * _sign_or_zero(difference_y) + EXTRA_SHIFT, 0.0)

    if MAX_OFFSET != float("inf"):
        offset_x = tl.minimum(tl.maximum(offset_x, -MAX_OFFSET), MAX_OFFSET)
        offset_y = tl.minimum(tl.maximum(offset_y, -MAX_OFFSET), MAX_OFFSET)
    coord_x = tl.where(refinable, x + offset_x, x.to(tl.float32))
    coord_y = tl.where(refinable, y + offset_y, y.to(tl.float32))
    return coord_x, coord_y, covariance_xx, covariance_xy, covariance_yy, scale


# How far a stencil reaches from the peak on the blurred map.
_REACH = {"wide": 2, "compact": 1, "fit": 2}
# The blurred map is searched in square tiles.
_TILE_SIDE = 16


@functools.lru_cache(maxsize=64)
def recipe_constants(
    kernel_size: int,
    sigma: float,
    padding: str,
    rescale: bool,
    clip_min: float,
    clip_max: float,
    stencil: str,
    argmax_on_blurred: bool,
    invalid: float,
    max_offset: float,
    extra_shift: float,
    score_scale: float,
    score_offset: float,
    known_variance: float,
    fit_radius: int,
    target_variance: float,
    covariance: bool,
) -> dict[str, Any]:
    """The constexprs that follow from a recipe."""
    radius = kernel_size // 2
    taps = blur_taps(kernel_size, sigma)
    return {
        "STENCIL": stencil,
        "PADDING": padding,
        "RESCALE": rescale,
        "ARGMAX_ON_BLURRED": argmax_on_blurred,
        "HAS_COVARIANCE": covariance,
        "CLIP_MIN": clip_min,
        "CLIP_MAX": clip_max,
        "INVALID": invalid,
        "MAX_OFFSET": max_offset,
        "EXTRA_SHIFT": extra_shift,
        "SCORE_SCALE": score_scale,
        "SCORE_OFFSET": score_offset,
        "KNOWN_VARIANCE": known_variance,
        "WINDOW": max(16, triton.next_power_of_2(2 * (radius + _REACH.get(stencil, 0)) + 1)),
        "TILE_SIDE": _TILE_SIDE,
        "HALO_SIDE": triton.next_power_of_2(_TILE_SIDE + 2 * radius),
        "LANES": triton.next_power_of_2(radius + 1),
        **tap_constants(taps),
        "FIT_RADIUS": fit_radius,
        "FIT_WINDOW": max(16, triton.next_power_of_2(2 * fit_radius + 1)),
        "TARGET_VARIANCE": target_variance,
    }
