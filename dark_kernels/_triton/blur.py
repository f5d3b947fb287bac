"""Separable smoothing of a map held in device memory, at any pixels.

Pixels are added and weighted in an order that depends on their distance alone, those at one distance first with
each other. So equal or mirrored surroundings give equal numbers to the last bit: a plateau has no slope, and of
equal maxima the first is found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl

from .maps import Reading, load_pixels
from .sums import sum_of_products

# Up to this radius `blur_stencil` takes the level that it is given.
NARROW_RADIUS = tl.constexpr(5)

# Stands for infinities where pixels are averaged: a quarter of the largest float32, so that no average overflows.
LIMIT = tl.constexpr(3.4028234663852886e38 / 4)

# Where a whole map is searched it is in strips of columns, of a blur up to this radius, else in square tiles.
STRIP_RADIUS = 11
_TILE_SIDE = 16

# Points of a stencil on the blurred map, by the lane that holds them. Lane 0 holds the centre, and the compact stencil
# has the first seven.
RIGHT = tl.constexpr(1)
LEFT = tl.constexpr(2)
BELOW = tl.constexpr(3)
ABOVE = tl.constexpr(4)
BELOW_RIGHT = tl.constexpr(5)
ABOVE_LEFT = tl.constexpr(6)
ABOVE_RIGHT = tl.constexpr(7)
BELOW_LEFT = tl.constexpr(8)
TWO_RIGHT = tl.constexpr(9)
TWO_LEFT = tl.constexpr(10)
TWO_BELOW = tl.constexpr(11)
TWO_ABOVE = tl.constexpr(12)
POINTS_OF_COMPACT = tl.constexpr(7)
POINTS_OF_WIDE = tl.constexpr(13)


class Taps(NamedTuple):
    """The weights of a blur, a constant.

    OpenCV's tables have at most five distinct weights. A Gaussian is computed where it is needed, as
    TABLE[0] * 2^(EXPONENT distance^2); its first two weights tell the rest.
    """

    RADIUS: int
    EXPONENT: float  # 0 of a table
    TABLE: tuple[float, ...]  # of the distances 0 to 4; of a Gaussian the first alone


class Blur(NamedTuple):
    """A blur, or a matched filter, and how a program goes about it, a constant."""

    TAPS: Taps
    PADDING: str
    LANES: int  # a power of two, more than the radius
    WINDOW: int  # a power of two, more than 2 (radius + reach of the stencil)
    TILE_SIDE: int
    HALO_SIDE: int  # a power of two, at least TILE_SIDE + 2 radius
    POINTS_AT_ONCE: int  # that are blurred in a tile
    STRIP: int  # columns of a strip
    WEIGHTS: tuple[float, ...]  # centre first; none of a blur that is searched in tiles
    READING: Reading  # of the pixels that are blurred
    POWER: float = 0.0  # of a matched filter: the sum of its squared weights in a row inside a map; 0 of a blur


def taps_of(weights: tuple[float, ...]) -> Taps:
    """Pass weights at the distances 0, 1, ... to a kernel: as a table, or as a sampled Gaussian."""
    is_table = len(weights) <= 5 or weights[1] == 0.0
    table = (*weights, 0.0, 0.0, 0.0, 0.0)[:5] if is_table else (weights[0], 0.0, 0.0, 0.0, 0.0)
    exponent = 0.0 if is_table else math.log2(weights[1] / weights[0])
    return Taps(len(weights) - 1, exponent, table)


def blur_of(weights: tuple[float, ...], padding: str, reach: int, reading: Reading) -> Blur:
    """Choose a program for a blur. `reach`: of the stencil, from the peak on the blurred map."""
    taps = taps_of(weights)
    return Blur(
        TAPS=taps,
        PADDING=padding,
        LANES=triton.next_power_of_2(taps.RADIUS + 1),
        WINDOW=max(16, triton.next_power_of_2(2 * (taps.RADIUS + reach) + 1)),
        TILE_SIDE=_TILE_SIDE,
        HALO_SIDE=triton.next_power_of_2(_TILE_SIDE + 2 * taps.RADIUS),
        POINTS_AT_ONCE=8,
        STRIP=32,
        WEIGHTS=weights if taps.RADIUS <= STRIP_RADIUS else (),
        READING=reading,
    )


def filter_of(weights: tuple[float, ...], reading: Reading) -> Blur:
    """Choose a program for a matched filter: a blur that is normalised for the pixels that lie inside the map."""
    power = weights[0] ** 2 + 2 * sum(weight**2 for weight in weights[1:])
    return blur_of(weights, "zeros", 0, reading)._replace(POWER=power)


@triton.jit
def source_index(index, size, PADDING: tl.constexpr):
    """The pixel of a row of `size` whose value stands at `index`, which may lie outside."""
    if PADDING == "reflect":  # d c b | a b c d, as often as it takes
        period = tl.maximum(2 * size - 2, 1)
        index = index % period
        index = tl.where(index < 0, index + period, index)
        index = tl.where(index < size, index, period - index)
    elif PADDING == "symmetric":  # c b a | a b c
        period = 2 * size
        index = index % period
        index = tl.where(index < 0, index + period, index)
        index = tl.where(index < size, index, period - 1 - index)
    return index


@triton.jit
def tap_weight(distance, TAPS: tl.constexpr):
    """Weight of a tap at `distance`."""
    distance = tl.abs(distance)
    if TAPS.EXPONENT != 0.0:
        square = (distance * distance).to(tl.float32)
        weight = TAPS.TABLE[0] * tl.exp2(square * TAPS.EXPONENT)
    else:
        weight = tl.where(distance == 0, TAPS.TABLE[0], 0.0)
        for place in tl.static_range(1, 5):
            weight = tl.where(distance == place, TAPS.TABLE[place], weight)
    return tl.where(distance <= TAPS.RADIUS, weight, 0.0)


@triton.jit
def _finite(value):
    """Large numbers for infinities, of which a sum or a product could be NaN. NaN stays."""
    value = tl.where(value < -LIMIT, -LIMIT, value)
    return tl.where(value > LIMIT, LIMIT, value)


@triton.jit
def gain(place, size, BLUR: tl.constexpr):
    """Factor of a matched filter's response at N places of a row or column, for its weights beyond the border: [N]."""
    distance = tl.arange(0, BLUR.LANES)[None, :]
    weights = tap_weight(distance, BLUR.TAPS)
    before = (place[:, None] - distance >= 0) & (distance > 0)
    after = place[:, None] + distance < size
    power = sum_of_products(weights * weights, before.to(tl.float32) + after.to(tl.float32), axis=1)
    is_inside = (place >= BLUR.TAPS.RADIUS) & (place + BLUR.TAPS.RADIUS < size)
    return tl.where(is_inside, 1.0, tl.sqrt(BLUR.POWER / power))


@triton.jit
def blur_points(maps, y, x, BLUR: tl.constexpr):
    """The blurred map at N points inside it: [N], float32. Reads k^2 pixels for each, which should be in cache.

    The response of a matched filter is that of white noise with the same variance at every pixel: see `match_blobs` of
    decode's reference. It is taken relative to the largest, which a filter has that lies inside the map. So no response
    exceeds the largest pixel, like no average.
    """
    # Of the pixels at distance (dy, dx) the mean of four is weighted: four times the weight off the axes, twice
    # on them. Halves are exact, so a mean is the same in whichever order the hardware fuses its two halves.
    TAPS: tl.constexpr = BLUR.TAPS
    PADDING: tl.constexpr = BLUR.PADDING
    lane = tl.arange(0, BLUR.LANES)
    weights = tap_weight(lane, TAPS)
    weights = tl.where(lane == 0, weights, 2.0 * weights)[None, :]
    left = x[:, None] - lane[None, :]
    right = x[:, None] + lane[None, :]
    left_exists = lane[None, :] <= TAPS.RADIUS
    right_exists = left_exists
    if PADDING == "zeros":
        left_exists = left_exists & (left >= 0)
        right_exists = right_exists & (right < maps.width)
    else:
        left = source_index(left, maps.width, PADDING)
        right = source_index(right, maps.width, PADDING)

    blurred = tl.zeros([y.shape[0], BLUR.LANES], dtype=tl.float32)
    for distance in range(0, TAPS.RADIUS + 1):
        above = (y - distance)[:, None]
        below = (y + distance)[:, None]
        above_exists = above > -(TAPS.RADIUS + 1)
        below_exists = above_exists
        if PADDING == "zeros":
            above_exists = above >= 0
            below_exists = below < maps.height
        else:
            above = source_index(above, maps.height, PADDING)
            below = source_index(below, maps.height, PADDING)
        above_left = _finite(load_pixels(maps, above, left, left_exists & above_exists, BLUR.READING))
        above_right = _finite(load_pixels(maps, above, right, right_exists & above_exists, BLUR.READING))
        below_left = _finite(load_pixels(maps, below, left, left_exists & below_exists, BLUR.READING))
        below_right = _finite(load_pixels(maps, below, right, right_exists & below_exists, BLUR.READING))
        mean = 0.5 * (0.5 * above_left + 0.5 * above_right) + 0.5 * (0.5 * below_left + 0.5 * below_right)
        step = tl.full([1, 1], 0, dtype=tl.int32) + distance
        weight = tap_weight(step, TAPS)
        blurred += tl.where(step == 0, weight, 2.0 * weight) * (weights * mean)
    blurred = tl.sum(blurred, axis=1)
    if BLUR.POWER > 0:
        blurred *= gain(y, maps.height, BLUR) * gain(x, maps.width, BLUR)
    return blurred


@triton.jit
def _load_rows(maps, row, column, column_exists, BLUR: tl.constexpr):
    """Rows of pixels as a blur sees them, beyond the border as well: [ROWS, WINDOW].

    `column`: inside the map or masked.
    """
    PADDING: tl.constexpr = BLUR.PADDING
    exists = None
    if PADDING == "zeros":
        exists = ((row >= 0) & (row < maps.height))[:, None] & column_exists[None, :]
    else:
        row = source_index(row, maps.height, PADDING)
    return load_pixels(maps, row[:, None], column[None, :], exists, BLUR.READING)


@triton.jit
def _sum_of_rows(window, distance, TAPS: tl.constexpr):
    """Rows of [ROWS, WINDOW] weighted by their distance [ROWS]: [WINDOW]."""
    return sum_of_products(window, tap_weight(distance, TAPS)[:, None])


@triton.jit
def _put(points, lane, POINT: tl.constexpr, row, weight, level):
    """16 points with one more: the sum of a row with weights, above `level`."""
    return tl.where(lane == POINT, sum_of_products(row, weight) + level, points)


@triton.jit
def blur_stencil(
    maps,
    y,  # inside the map
    x,
    level,  # the map's value at (y, x), or another that is close to those around it
    lane,  # [16]
    IS_WIDE: tl.constexpr,
    BLUR: tl.constexpr,
):
    """The blurred map at the points of a stencil around (y, x), and at (y, x) itself: [16] and a number.

    Lanes: the centre, RIGHT to ABOVE_LEFT, and if IS_WIDE ABOVE_RIGHT to TWO_ABOVE.

    Every pixel around is read, rows are summed for the (three or five) lines of the stencil, and those sums for
    its points. What is blurred is the distance from `level`, so that where the map is flat all points are equal to the
    last bit. A wide blur leaves little of a narrow peak, and distances from the peak would cancel: there the level is
    the blurred peak, for which the pixels are read once more. The wide stencil must lie inside the map for its numbers
    to mean anything, the compact one is held at the border.
    """
    LARGEST: tl.constexpr = 3.4028234663852886e38
    TAPS: tl.constexpr = BLUR.TAPS
    PADDING: tl.constexpr = BLUR.PADDING
    REACH: tl.constexpr = 2 if IS_WIDE else 1
    HALF: tl.constexpr = TAPS.RADIUS + REACH
    column = tl.arange(0, BLUR.WINDOW) - HALF
    seen = x + column
    column_exists = (seen >= 0) & (seen < maps.width)
    if PADDING != "zeros":
        seen = source_index(seen, maps.width, PADDING)
    below = 1
    above = -1
    right = 1
    left = -1
    if not IS_WIDE:
        below = tl.minimum(y + 1, maps.height - 1) - y
        above = tl.maximum(y - 1, 0) - y
        right = tl.minimum(x + 1, maps.width - 1) - x
        left = tl.maximum(x - 1, 0) - x

    nothing = tl.zeros([BLUR.WINDOW], dtype=tl.float32)
    at_0 = tap_weight(column, TAPS)
    if TAPS.RADIUS > NARROW_RADIUS:
        row_0 = nothing
        for top in range(0, BLUR.WINDOW, 16):
            row = tl.arange(0, 16) + (top - HALF)
            window = _load_rows(maps, y + row, seen, column_exists, BLUR)
            window = tl.maximum(window, -LARGEST)
            row_0 += _sum_of_rows(window, row, TAPS)
        level = tl.maximum(sum_of_products(row_0, at_0), 0.0)

    row_0 = nothing
    row_below = nothing
    row_above = nothing
    row_2_below = nothing
    row_2_above = nothing
    for top in range(0, BLUR.WINDOW, 16):
        row = tl.arange(0, 16) + (top - HALF)
        window = _load_rows(maps, y + row, seen, column_exists, BLUR)
        window = tl.maximum(window - level, -LARGEST)
        row_0 += _sum_of_rows(window, row, TAPS)
        row_below += _sum_of_rows(window, row - below, TAPS)
        row_above += _sum_of_rows(window, row - above, TAPS)
        if IS_WIDE:
            row_2_below += _sum_of_rows(window, row - 2, TAPS)
            row_2_above += _sum_of_rows(window, row + 2, TAPS)

    at_right = tap_weight(column - right, TAPS)
    at_left = tap_weight(column - left, TAPS)
    center = sum_of_products(row_0, at_0) + level
    points = tl.zeros([16], dtype=tl.float32) + center
    points = _put(points, lane, RIGHT, row_0, at_right, level)
    points = _put(points, lane, LEFT, row_0, at_left, level)
    points = _put(points, lane, BELOW, row_below, at_0, level)
    points = _put(points, lane, ABOVE, row_above, at_0, level)
    points = _put(points, lane, BELOW_RIGHT, row_below, at_right, level)
    points = _put(points, lane, ABOVE_LEFT, row_above, at_left, level)
    if IS_WIDE:
        points = _put(points, lane, ABOVE_RIGHT, row_above, at_right, level)
        points = _put(points, lane, BELOW_LEFT, row_below, at_left, level)
        at_2_right = tap_weight(column - 2, TAPS)
        at_2_left = tap_weight(column + 2, TAPS)
        points = _put(points, lane, TWO_RIGHT, row_0, at_2_right, level)
        points = _put(points, lane, TWO_LEFT, row_0, at_2_left, level)
        points = _put(points, lane, TWO_BELOW, row_2_below, at_0, level)
        points = _put(points, lane, TWO_ABOVE, row_2_above, at_0, level)
    return points, center
