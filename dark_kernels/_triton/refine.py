"""From a peak's pixel to its place between pixels, and its covariance: the stencils of all recipes.

Sources: F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020, eq. 4 to
10 (wide); J. Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose
Estimation", CVPR 2020 (compact); for fit see `fit.py`, for gaussian `blob.py`.
"""

from __future__ import annotations

import functools
import math

import triton
import triton.language as tl

from ..recipes import OperatorRecipe, blur_taps
from .blob import blob_step
from .blur import (
    ABOVE,
    ABOVE_LEFT,
    ABOVE_RIGHT,
    BELOW,
    BELOW_LEFT,
    BELOW_RIGHT,
    LEFT,
    POINTS_OF_COMPACT,
    POINTS_OF_WIDE,
    RIGHT,
    TWO_ABOVE,
    TWO_BELOW,
    TWO_LEFT,
    TWO_RIGHT,
    blur_of,
    blur_points,
    blur_stencil,
    filter_of,
)
from .covariance import covariance_of, no_covariance
from .fit import fit_step
from .logs import clip_may_bind, log_ratio
from .maps import Reading, clamped, load_logits
from .peak import Recipe, Refined, Step
from .search import scan_tiles

# In place of a lane of the stencil's points.
NONE = tl.constexpr(-1)


@triton.jit
def _logit_or_edge(maps, y, x, READING: tl.constexpr):
    """A pixel without an activation: what that saturates would no longer be told apart."""
    return load_logits(maps, clamped(y, maps.height), clamped(x, maps.width), None, READING.SHIFTS_FLIPPED)


@triton.jit
def _sign_or_zero(difference):
    """-1, 0 or 1; 0 for NaN, as of two infinite neighbours."""
    return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))


@triton.jit
def _weighted_sum(
    points, lane, PLUS_A: tl.constexpr, PLUS_B: tl.constexpr, MINUS_A: tl.constexpr, MINUS_B: tl.constexpr
):
    """Add two of 16 points and subtract two; NONE for none."""
    is_added = (lane == PLUS_A) | (lane == PLUS_B)
    is_subtracted = (lane == MINUS_A) | (lane == MINUS_B)
    return tl.sum(tl.where(is_added, points, tl.where(is_subtracted, -points, 0.0)), axis=0)


@triton.jit
def _taylor_step(maps, peak, IS_WIDE: tl.constexpr, RECIPE: tl.constexpr):
    """Newton's step on the log of the blurred map, a `Step`; and `scale` as in `Refined`."""
    BLUR: tl.constexpr = RECIPE.BLUR
    lane = tl.arange(0, 16)
    refinable = peak.refinable
    scale = peak.scale
    if IS_WIDE:
        inside_x = (peak.x >= 2) & (peak.x <= maps.width - 3)
        refinable = refinable & inside_x & (peak.y >= 2) & (peak.y <= maps.height - 3)
    points, center = blur_stencil(maps, peak.y, peak.x, peak.level, lane, IS_WIDE, BLUR)
    used = lane < (POINTS_OF_WIDE if IS_WIDE else POINTS_OF_COMPACT)

    if RECIPE.FIELDS.rescale and RECIPE.FIELDS.argmax_on != "blurred":
        lowest = tl.min(tl.where(used, points, float("inf")), axis=0)
        binds = refinable & clip_may_bind(lowest, peak.raw_maximum, RECIPE.FIELDS.clip_min, RECIPE.FIELDS.clip_max)
        needs_scale = binds & (scale == 1.0)
        if needs_scale:
            known = tl.max(tl.where(used, points, float("-inf")), axis=0)
            blurred_maximum = scan_tiles(maps, known, peak.y, peak.x, BLUR).value
            scale = tl.where(blurred_maximum > 0, peak.raw_maximum / blurred_maximum, 1.0)
        applied = tl.where(binds, scale, 1.0)  # a peak's numbers do not depend on what others have asked for
    else:
        applied = scale

    clipped = tl.minimum(tl.maximum(points * applied, RECIPE.FIELDS.clip_min), RECIPE.FIELDS.clip_max)
    center = tl.minimum(tl.maximum(center * applied, RECIPE.FIELDS.clip_min), RECIPE.FIELDS.clip_max)
    # Relative to the centre, whose own log is then zero.
    logs = tl.where(used, log_ratio(clipped, center), 0.0)
    dx = _weighted_sum(logs, lane, RIGHT, NONE, LEFT, NONE) / 2
    dy = _weighted_sum(logs, lane, BELOW, NONE, ABOVE, NONE) / 2
    if IS_WIDE:
        dxx = _weighted_sum(logs, lane, TWO_RIGHT, TWO_LEFT, NONE, NONE) / 4
        dyy = _weighted_sum(logs, lane, TWO_BELOW, TWO_ABOVE, NONE, NONE) / 4
        dxy = _weighted_sum(logs, lane, BELOW_RIGHT, ABOVE_LEFT, ABOVE_RIGHT, BELOW_LEFT) / 4
        solved_xx = dxx
        solved_yy = dyy
    else:
        dxx = _weighted_sum(logs, lane, RIGHT, LEFT, NONE, NONE)
        dyy = _weighted_sum(logs, lane, BELOW, ABOVE, NONE, NONE)
        dxy = (_weighted_sum(logs, lane, BELOW_RIGHT, ABOVE_LEFT, NONE, NONE) - dxx - dyy) / 2
        solved_xx = dxx + 1.1920929e-7  # as UDP's published code does, so that a flat map has an inverse
        solved_yy = dyy + 1.1920929e-7
    determinant = solved_xx * solved_yy - dxy * dxy
    offset_x = (dxy * dy - solved_yy * dx) / determinant
    offset_y = (dxy * dx - solved_xx * dy) / determinant
    refinable = refinable & (determinant != 0) & (tl.abs(offset_x) + tl.abs(offset_y) < float("inf"))

    covariance = no_covariance()
    if RECIPE.HAS_COVARIANCE:
        covariance = covariance_of(dxx, dxy, dyy, refinable, RECIPE.FIELDS.known_variance)
    return Step(offset_x, offset_y, refinable, covariance), scale


@triton.jit
def _fit_or_taylor_step(maps, peak, RECIPE: tl.constexpr):
    """To the centre of a fitted Gaussian, and where none fits the wide stencil's step; and `scale` as in `Refined`."""
    if RECIPE.FIELDS.stencil == "fit":
        step = fit_step(maps, peak, RECIPE)
    else:
        step = blob_step(maps, peak, RECIPE)
    scale = peak.scale
    if peak.refinable & (step.exists == 0):
        step, scale = _taylor_step(maps, peak, True, RECIPE)
    return step, scale


@triton.jit
def _quarter_step(maps, peak, RECIPE: tl.constexpr):
    """A quarter of a pixel towards the larger neighbour, and the extra shift, inside the recipe's border: a `Step`."""
    BLUR: tl.constexpr = RECIPE.BLUR
    READING: tl.constexpr = BLUR.READING
    y = peak.y
    x = peak.x
    if RECIPE.FIELDS.argmax_on == "blurred":
        side = tl.arange(0, 4)  # right, left, below, above
        sign = 1 - 2 * (side % 2)
        beside_y = y + tl.where(side < 2, 0, sign)
        beside_x = x + tl.where(side < 2, sign, 0)
        blurred = blur_points(maps, clamped(beside_y, maps.height), clamped(beside_x, maps.width), BLUR)
        difference_x = tl.sum(tl.where(side < 2, blurred * sign, 0.0), axis=0)
        difference_y = tl.sum(tl.where(side < 2, 0.0, blurred * sign), axis=0)
    else:
        difference_x = _logit_or_edge(maps, y, x + 1, READING) - _logit_or_edge(maps, y, x - 1, READING)
        difference_y = _logit_or_edge(maps, y + 1, x, READING) - _logit_or_edge(maps, y - 1, x, READING)
    inside_x = (x > 1) & (x < maps.width - 1)
    inside_y = (y > 1) & (y < maps.height - 1)
    if RECIPE.FIELDS.stencil == "quarter":
        moves_x = inside_x & (y > 0)
        moves_y = inside_y & (x > 0)
    else:
        moves_x = inside_x & inside_y
        moves_y = moves_x
    offset_x = tl.where(moves_x, 0.25 * _sign_or_zero(difference_x) + RECIPE.FIELDS.extra_shift, 0.0)
    offset_y = tl.where(moves_y, 0.25 * _sign_or_zero(difference_y) + RECIPE.FIELDS.extra_shift, 0.0)
    return Step(offset_x, offset_y, peak.refinable, no_covariance())


@triton.jit
def refine(maps, peak, RECIPE: tl.constexpr):
    """Move a peak to where the recipe's stencil sees it: `Refined`.

    A peak that is not `refinable`, or whose step is not finite, stays on its pixel. Without HAS_COVARIANCE the
    covariance is NaN.
    """
    STENCIL: tl.constexpr = RECIPE.FIELDS.stencil
    scale = peak.scale
    if STENCIL == "wide" or STENCIL == "compact":
        step, scale = _taylor_step(maps, peak, STENCIL == "wide", RECIPE)
    elif STENCIL == "fit" or STENCIL == "gaussian":
        step, scale = _fit_or_taylor_step(maps, peak, RECIPE)
    elif STENCIL == "quarter" or STENCIL == "quarter_legacy":
        step = _quarter_step(maps, peak, RECIPE)
    else:
        step = Step(0.0, 0.0, peak.refinable, no_covariance())

    offset_x = step.x
    offset_y = step.y
    if RECIPE.FIELDS.max_offset != float("inf"):
        offset_x = tl.minimum(tl.maximum(offset_x, -RECIPE.FIELDS.max_offset), RECIPE.FIELDS.max_offset)
        offset_y = tl.minimum(tl.maximum(offset_y, -RECIPE.FIELDS.max_offset), RECIPE.FIELDS.max_offset)
    coord_x = tl.where(step.exists, peak.x + offset_x, peak.x.to(tl.float32))
    coord_y = tl.where(step.exists, peak.y + offset_y, peak.y.to(tl.float32))
    return Refined(coord_x, coord_y, step.covariance, scale)


# How far a stencil reaches from the peak on the blurred map.
_REACH = {"wide": 2, "compact": 1, "fit": 2, "gaussian": 2}
# In standard deviations of the blobs that are expected: how far a matched filter reaches, and how far a fitted blob's
# pixels.
_FILTER_REACH, _BLOB_REACH = 2.4, 2.8


@functools.lru_cache(maxsize=64)
def recipe_constants(recipe: OperatorRecipe, covariance: bool) -> Recipe:
    """The constants that follow from a recipe. A launcher adds to BLUR what follows from its maps."""
    reading, sigma = Reading(recipe.activation), recipe.blob_sigma
    fit_radius = math.ceil(_BLOB_REACH * sigma) if recipe.stencil == "gaussian" else recipe.fit_radius
    matched = recipe.argmax_on == "matched"
    return Recipe(
        FIELDS=recipe,
        BLUR=blur_of(recipe.taps, recipe.padding, _REACH.get(recipe.stencil, 0), reading),
        FILTER=filter_of(blur_taps(2 * math.ceil(_FILTER_REACH * sigma) + 1, sigma), reading) if matched else None,
        FIT_RADIUS=fit_radius,
        FIT_WINDOW=max(16, triton.next_power_of_2(2 * fit_radius + 1)),
        HAS_COVARIANCE=covariance,
    )


def fit_lanes(recipe: Recipe, lanes: int) -> int:
    """Choose how many of a program's lanes share the pixels of a blob's fit. Each has several pixels of a column."""
    return min(max(lanes, recipe.FIT_WINDOW), recipe.FIT_WINDOW**2 // 2)
