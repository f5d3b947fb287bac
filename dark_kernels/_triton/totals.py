"""Sums over a whole map, in the pass that finds its maximum, and the share that a window has in them.

TOTAL says what is summed: "none", "positive" (values, negative ones as zeros), "sigmoid" (of them), or "softmax": each
lane sums exp(value - best) relative to the best that it has seen, so that nothing overflows, and what it had is made
relative to a new best when there is one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..recipes import OperatorRecipe
from .maps import Softmax, activated, load_pixels
from .sums import sum_of_products

# Values are summed in units of 2^24, so that the sum of a map of the largest ones is finite.
_UNIT = tl.constexpr(2.0**-24)
_PIXELS = tl.constexpr(128)


def total_of(recipe: OperatorRecipe) -> str:
    """Choose TOTAL for a recipe: a softmax needs its denominator, and a mass that of the quotient."""
    if recipe.activation == "softmax":
        return "softmax"
    if recipe.mass_radius == 0:
        return "none"
    return "sigmoid" if recipe.activation == "sigmoid" else "positive"


@triton.jit
def weight_of(value, best, TOTAL: tl.constexpr):
    """A pixel's part of its lane's total. -inf, which stands for pixels that do not exist, comes to nothing."""
    value = value.to(tl.float32)
    if TOTAL == "softmax":
        best = best.to(tl.float32)
        weight = tl.where(value == best, 1.0, tl.exp(value - best))
    elif TOTAL == "sigmoid":
        weight = activated(value, None, "sigmoid")
    else:
        weight = tl.maximum(value, 0.0) * _UNIT
    return weight


@triton.jit
def relative_to(total, best, new_best, TOTAL: tl.constexpr):
    """A total that was summed relative to `best`, relative to a larger one."""
    if TOTAL == "softmax":
        best = best.to(tl.float32)
        new_best = new_best.to(tl.float32)
        total *= tl.where(best == new_best, 1.0, tl.exp(best - new_best))
    return total


@triton.jit
def sum_of_lanes(total, best, largest, axis: tl.constexpr, TOTAL: tl.constexpr):
    """The totals of lanes, each relative to its own best, put together: relative to the largest of these."""
    if TOTAL == "softmax":
        best = best.to(tl.float32)
        share = tl.where(best == largest, 1.0, tl.exp(best - largest))
        total = sum_of_products(total, share, axis)
    else:
        total = tl.sum(total, axis=axis)
    return total


@triton.jit
def softmax_of(largest, total):
    """The softmax of a map from its sum. Of a map of -inf alone it is 0."""
    return Softmax(largest, tl.where(largest == float("-inf"), 0.0, 1.0 / total))


@triton.jit
def mass_around(maps, y, x, largest, total, READING: tl.constexpr, MASS_RADIUS: tl.constexpr):
    """The share that the pixels up to MASS_RADIUS from (x, y) on each axis have in all positive values of the map.

    0 in a map without a positive value, NaN in one with a NaN. Where pixels are +inf it is 1 beside one of them, and 0
    elsewhere. `largest`, `total`: of the map as it is.
    """
    ACTIVATION: tl.constexpr = READING.ACTIVATION
    SIDE: tl.constexpr = 2 * MASS_RADIUS + 1
    lane = tl.arange(0, _PIXELS)
    near = tl.zeros([_PIXELS], dtype=tl.float32)
    for start in range(0, SIDE * SIDE, _PIXELS):
        place = start + lane
        row = y - MASS_RADIUS + place // SIDE
        column = x - MASS_RADIUS + place % SIDE
        exists = (row >= 0) & (row < maps.height) & (column >= 0) & (column < maps.width)
        value = load_pixels(maps, row, column, (place < SIDE * SIDE) & exists, READING)
        if ACTIVATION == "none":
            value = tl.maximum(value, 0.0) * _UNIT
        near += value
    mass = tl.sum(near, axis=0)
    if ACTIVATION == "none":
        mass = tl.where(mass == float("inf"), 1.0, mass / total)
    elif ACTIVATION == "sigmoid":
        mass = mass / total
    mass = tl.where(total > 0, tl.minimum(mass, 1.0), 0.0)
    return tl.where(largest == largest, mass, float("nan"))
