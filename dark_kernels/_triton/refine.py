"""From a peak's pixel to its place between pixels, and its covariance: the stencils of all recipes.

Sources: F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020, eq. 4 to
10 (wide); J. Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose
Estimation", CVPR 2020 (compact); for fit see `fit.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl

from ..recipes import blur_taps
from .blur import blur_points, blur_stencil, scan_blurred_map, tap_constants
from .covariance import covariance_of
from .fit import fit_step
from .logs import clip_may_bind, log_ratio
from .maps import load_pixels
from .totals import total_of


@triton.jit
def _pixel_or_edge(
    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, height, width, y, x,
    FLIP: tl.constexpr,
):  # fmt: skip
    """A pixel as it is: what an activation saturates would no longer be told apart."""
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return load_pixels(
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, 0.0, 1.0, y, x, None, FLIP, "none"
    )


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
def _taylor_step(
    map_ptr,  # all as in `refine`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    y,
    x,
    level,
    raw_maximum,
    scale,
    refinable,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
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
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, height, width,
        y, x, level, lane, WINDOW, STENCIL == "wide", FLIP, ACTIVATION, PADDING,
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
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
                height, width, known, y, x, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES, FLIP, ACTIVATION, PADDING,
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
        covariance_xx, covariance_xy, covariance_yy = covariance_of(dxx, dxy, dyy, refinable, KNOWN_VARIANCE)
    return offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, refinable, scale


@triton.jit
def refine(
    map_ptr,  # this and the next five: see `maps.py`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    y,  # the peak's pixel
    x,
    level,  # the raw map's value at the peak, activated, or another that is close to those around it
    raw_maximum,  # of the whole map, activated
    scale,  # what the blurred map is multiplied with, or 1 if that is not known
    refinable,  # whether the peak may move at all
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
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
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, height, width,
            y, x, level, raw_maximum, scale, refinable,
            FLIP, ACTIVATION, STENCIL, PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX,
            KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip

    elif STENCIL == "fit":
        offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak = fit_step(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, height, width,
            y, x, level, refinable, FLIP, ACTIVATION, HAS_COVARIANCE, FIT_RADIUS, FIT_WINDOW, TARGET_VARIANCE,
        )  # fmt: skip
        if refinable & (is_peak == 0):
            offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak, scale = _taylor_step(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
                height, width, y, x, level, raw_maximum, scale, refinable,
                FLIP, ACTIVATION, "wide", PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX,
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
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
                height, width,
                tl.minimum(tl.maximum(beside_y, 0), height - 1), tl.minimum(tl.maximum(beside_x, 0), width - 1),
                LANES, FLIP, ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
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
    activation: str,
    mass_radius: int,
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
        "ACTIVATION": activation,
        "MASS_RADIUS": mass_radius,
        "TOTAL": total_of(activation, mass_radius),
    }
