"""Separable smoothing of a map held in device memory, at any pixels, and the maximum of a whole smoothed map.

Pixels are added and weighted in an order that depends on their distance alone, those at one distance first with
each other. So equal or mirrored surroundings give equal numbers to the last bit: a plateau has no slope, and of
equal maxima the first is found.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .maps import load_pixels
from .sums import sum_of_products

# Up to this radius `blur_stencil` takes the level that it is given.
NARROW_RADIUS = tl.constexpr(5)

# Stands for infinities where pixels are averaged: a quarter of the largest float32, so that no average overflows.
_LIMIT = tl.constexpr(3.4028234663852886e38 / 4)


def tap_constants(taps: tuple[float, ...]) -> dict[str, float]:
    """The constexprs of a blur whose weights at the distances 0, 1, ... are `taps`: a table or a sampled Gaussian.

    OpenCV's tables have at most five distinct weights. A Gaussian is computed where it is needed; its first two weights
    tell the rest.
    """
    is_table = len(taps) <= 5 or taps[1] == 0.0
    table = [*taps, 0.0, 0.0, 0.0, 0.0][:5] if is_table else [taps[0], 0.0, 0.0, 0.0, 0.0]
    return {
        "RADIUS": len(taps) - 1,
        "EXPONENT": 0.0 if is_table else math.log2(taps[1] / taps[0]),
        **{f"TAP_{i}": weight for i, weight in enumerate(table)},
    }


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
def tap_weight(
    distance,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """Weight of a tap at `distance`: a Gaussian TAP_0 * 2^(EXPONENT distance^2), or a table if EXPONENT is 0."""
    distance = tl.abs(distance)
    if EXPONENT != 0.0:
        square = (distance * distance).to(tl.float32)
        weight = TAP_0 * tl.exp2(square * EXPONENT)
    else:
        weight = tl.where(distance == 0, TAP_0, 0.0)
        weight = tl.where(distance == 1, TAP_1, weight)
        weight = tl.where(distance == 2, TAP_2, weight)
        weight = tl.where(distance == 3, TAP_3, weight)
        weight = tl.where(distance == 4, TAP_4, weight)
    return tl.where(distance <= RADIUS, weight, 0.0)


@triton.jit
def _finite(value):
    """Large numbers for infinities, of which a sum or a product could be NaN. NaN stays."""
    value = tl.where(value < -_LIMIT, -_LIMIT, value)
    return tl.where(value > _LIMIT, _LIMIT, value)


@triton.jit
def blur_points(
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
    y,  # [N] where the blurred map is wanted, inside the map
    x,  # [N]
    LANES: tl.constexpr,  # a power of two, more than RADIUS
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PADDING: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """The blurred map at N points: [N], float32. Reads k^2 pixels for each, which should be in cache."""
    # Of the pixels at distance (dy, dx) the mean of four is weighted: four times the weight off the axes, twice
    # on them. Halves are exact, so a mean is the same in whichever order the hardware fuses its two halves.
    lane = tl.arange(0, LANES)
    weights = tap_weight(lane, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    weights = tl.where(lane == 0, weights, 2.0 * weights)[None, :]
    left = x[:, None] - lane[None, :]
    right = x[:, None] + lane[None, :]
    left_exists = lane[None, :] <= RADIUS
    right_exists = left_exists
    if PADDING == "zeros":
        left_exists = left_exists & (left >= 0)
        right_exists = right_exists & (right < width)
    else:
        left = source_index(left, width, PADDING)
        right = source_index(right, width, PADDING)

    blurred = tl.zeros([y.shape[0], LANES], dtype=tl.float32)
    for distance in range(0, RADIUS + 1):
        above = (y - distance)[:, None]
        below = (y + distance)[:, None]
        above_exists = above > -(RADIUS + 1)
        below_exists = above_exists
        if PADDING == "zeros":
            above_exists = above >= 0
            below_exists = below < height
        else:
            above = source_index(above, height, PADDING)
            below = source_index(below, height, PADDING)
        above_left = load_pixels(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, above, left,
            left_exists & above_exists, FLIP, ACTIVATION,
        )  # fmt: skip
        above_right = load_pixels(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, above, right,
            right_exists & above_exists, FLIP, ACTIVATION,
        )  # fmt: skip
        below_left = load_pixels(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, below, left,
            left_exists & below_exists, FLIP, ACTIVATION,
        )  # fmt: skip
        below_right = load_pixels(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, below, right,
            right_exists & below_exists, FLIP, ACTIVATION,
        )  # fmt: skip
        above_left = _finite(above_left)
        above_right = _finite(above_right)
        below_left = _finite(below_left)
        below_right = _finite(below_right)
        mean = 0.5 * (0.5 * above_left + 0.5 * above_right) + 0.5 * (0.5 * below_left + 0.5 * below_right)
        step = tl.full([1, 1], 0, dtype=tl.int32) + distance
        weight = tap_weight(step, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        blurred += tl.where(step == 0, weight, 2.0 * weight) * (weights * mean)
    return tl.sum(blurred, axis=1)


@triton.jit
def _load_rows(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    row,  # [ROWS]
    column,  # [WINDOW], inside the map or masked
    column_exists,  # [WINDOW]
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PADDING: tl.constexpr,
):
    """Rows of pixels as a blur sees them, beyond the border as well: [ROWS, WINDOW]."""
    exists = None
    if PADDING == "zeros":
        exists = ((row >= 0) & (row < height))[:, None] & column_exists[None, :]
    else:
        row = source_index(row, height, PADDING)
    return load_pixels(
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
        row[:, None], column[None, :], exists, FLIP, ACTIVATION,
    )  # fmt: skip


@triton.jit
def _sum_of_rows(window, distance, RADIUS: tl.constexpr, EXPONENT: tl.constexpr, TAP_0: tl.constexpr,
                 TAP_1: tl.constexpr, TAP_2: tl.constexpr, TAP_3: tl.constexpr, TAP_4: tl.constexpr):  # fmt: skip
    """Rows of [ROWS, WINDOW] weighted by their distance [ROWS]: [WINDOW]."""
    weight = tap_weight(distance, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    return sum_of_products(window, weight[:, None])


@triton.jit
def _put(points, lane, number: tl.constexpr, row, weight, level):
    """The sum of a row with weights, above `level`, in lane `number` of 16 points."""
    return tl.where(lane == number, sum_of_products(row, weight) + level, points)


@triton.jit
def blur_stencil(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    y,  # inside the map
    x,
    level,  # the map's value at (y, x), or another that is close to those around it
    lane,  # [16]
    WINDOW: tl.constexpr,  # a power of two, more than 2 * (RADIUS + reach of the stencil)
    IS_WIDE: tl.constexpr,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PADDING: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """The blurred map at the points of a stencil around (y, x), in lanes, and at (y, x) itself: [16] and a number.

    Lanes: 0 the centre; 1 right, 2 left, 3 below, 4 above; 5 below right, 6 above left; if IS_WIDE 7 above right,
    8 below left; 9 and 10 two pixels right and left; 11 and 12 two pixels below and above.

    Every pixel around is read, rows are summed for the (three or five) lines of the stencil, and those sums for
    its points. What is blurred is the distance from `level`, so that where the map is flat all points are equal to the
    last bit. A wide blur leaves little of a narrow peak, and distances from the peak would cancel: there the level is
    the blurred peak, for which the pixels are read once more. The wide stencil must lie inside the map for its numbers
    to mean anything, the compact one is held at the border.
    """
    LARGEST: tl.constexpr = 3.4028234663852886e38
    REACH: tl.constexpr = 2 if IS_WIDE else 1
    HALF: tl.constexpr = RADIUS + REACH
    column = tl.arange(0, WINDOW) - HALF
    seen = x + column
    column_exists = (seen >= 0) & (seen < width)
    if PADDING != "zeros":
        seen = source_index(seen, width, PADDING)
    below = 1
    above = -1
    right = 1
    left = -1
    if not IS_WIDE:
        below = tl.minimum(y + 1, height - 1) - y
        above = tl.maximum(y - 1, 0) - y
        right = tl.minimum(x + 1, width - 1) - x
        left = tl.maximum(x - 1, 0) - x

    nothing = tl.zeros([WINDOW], dtype=tl.float32)
    at_0 = tap_weight(column, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    if RADIUS > NARROW_RADIUS:
        row_0 = nothing
        for top in range(0, WINDOW, 16):
            row = tl.arange(0, 16) + (top - HALF)
            window = _load_rows(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
                height, y + row, seen, column_exists, FLIP, ACTIVATION, PADDING,
            )  # fmt: skip
            window = tl.maximum(window, -LARGEST)
            row_0 += _sum_of_rows(window, row, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        level = tl.maximum(sum_of_products(row_0, at_0), 0.0)

    row_0 = nothing
    row_below = nothing
    row_above = nothing
    row_2_below = nothing
    row_2_above = nothing
    for top in range(0, WINDOW, 16):
        row = tl.arange(0, 16) + (top - HALF)
        window = _load_rows(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
            height, y + row, seen, column_exists, FLIP, ACTIVATION, PADDING,
        )  # fmt: skip
        window = tl.maximum(window - level, -LARGEST)
        row_0 += _sum_of_rows(window, row, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        row_below += _sum_of_rows(window, row - below, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        row_above += _sum_of_rows(window, row - above, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        if IS_WIDE:
            row_2_below += _sum_of_rows(window, row - 2, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
            row_2_above += _sum_of_rows(window, row + 2, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)

    at_right = tap_weight(column - right, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    at_left = tap_weight(column - left, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    center = sum_of_products(row_0, at_0) + level
    points = tl.zeros([16], dtype=tl.float32) + center
    points = _put(points, lane, 1, row_0, at_right, level)
    points = _put(points, lane, 2, row_0, at_left, level)
    points = _put(points, lane, 3, row_below, at_0, level)
    points = _put(points, lane, 4, row_above, at_0, level)
    points = _put(points, lane, 5, row_below, at_right, level)
    points = _put(points, lane, 6, row_above, at_left, level)
    if IS_WIDE:
        points = _put(points, lane, 7, row_above, at_right, level)
        points = _put(points, lane, 8, row_below, at_left, level)
        at_2_right = tap_weight(column - 2, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        at_2_left = tap_weight(column + 2, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
        points = _put(points, lane, 9, row_0, at_2_right, level)
        points = _put(points, lane, 10, row_0, at_2_left, level)
        points = _put(points, lane, 11, row_2_below, at_0, level)
        points = _put(points, lane, 12, row_2_above, at_0, level)
    return points, center


@triton.jit
def first_maximum(values, index, NO_INDEX: tl.constexpr):
    """The largest of `values` and the lowest `index` it stands at. NaN is the largest of all."""
    is_nan = values != values
    has_nan = tl.max(is_nan.to(tl.int32), axis=0) > 0
    largest = tl.max(tl.where(is_nan, float("-inf"), values), axis=0)
    holds_it = tl.where(has_nan, is_nan, values == largest)
    first = tl.min(tl.where(holds_it, index, NO_INDEX), axis=0)
    return tl.where(has_nan, float("nan"), largest), first


@triton.jit
def bound_of_tile(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    top,
    left,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,  # a power of two, at least TILE_SIDE + 2 * RADIUS
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PADDING: tl.constexpr,
    RADIUS: tl.constexpr,
):
    """What no pixel of a tile of the blurred map exceeds: the largest of the pixels that are averaged there."""
    MARGIN: tl.constexpr = 1e-5  # for the rounding of the average
    halo_row = tl.arange(0, 16)
    halo_column = tl.arange(0, HALO_SIDE)
    # Beyond its end the halo repeats its last pixel: no harm to a maximum.
    columns = left - RADIUS + tl.minimum(halo_column, TILE_SIDE + 2 * RADIUS - 1)
    columns_exist = (columns >= 0) & (columns < width)
    columns = source_index(columns, width, PADDING)[None, :]
    seen = tl.full([16, HALO_SIDE], -_LIMIT, dtype=tl.float32)  # as blur_points reads -inf
    for row_step in range(0, TILE_SIDE + 2 * RADIUS, 16):
        rows = top - RADIUS + tl.minimum(row_step + halo_row, TILE_SIDE + 2 * RADIUS - 1)
        rows_exist = (rows >= 0) & (rows < height)
        rows = source_index(rows, height, PADDING)[:, None]
        exists = None
        if PADDING == "zeros":
            exists = rows_exist[:, None] & columns_exist[None, :]
        pixels = load_pixels(
            map_ptr,
            stride_h,
            stride_w,
            flipped_ptr,
            flipped_stride_h,
            flipped_stride_w,
            shift,
            factor,
            rows,
            columns,
            exists,
            FLIP,
            ACTIVATION,
        )
        seen = tl.maximum(seen, pixels)
    bound = tl.max(tl.max(seen, axis=1), axis=0)
    return bound + MARGIN * tl.abs(bound)


@triton.jit
def scan_blurred_map(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    largest,
    first_y,
    first_x,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,
    POINTS: tl.constexpr,  # that are blurred at once
    LANES: tl.constexpr,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PADDING: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """Value and flat index of the first maximum of the whole blurred map, for a map without NaN.

    `largest` is a value of the blurred map that is known already, or -inf; where nothing exceeds it, the index
    may be meaningless. A tile is blurred only if one of the pixels that it sees reaches what has been found. The
    search starts in the tile of (first_y, first_x): if that is a large pixel of the map, one blob costs a tile or two.
    """
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    largest_index = tl.full([], NO_INDEX, dtype=tl.int64)
    lane = tl.arange(0, POINTS)
    tiles_across = tl.cdiv(width, TILE_SIDE)
    num_tiles = tl.cdiv(height, TILE_SIDE) * tiles_across
    first_tile = first_y // TILE_SIDE * tiles_across + first_x // TILE_SIDE
    for step in range(0, num_tiles):
        tile = (first_tile + step) % num_tiles
        top = tile // tiles_across * TILE_SIDE
        left = tile % tiles_across * TILE_SIDE
        bound = bound_of_tile(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, height, width,
            top, left, TILE_SIDE, HALO_SIDE, FLIP, ACTIVATION, PADDING, RADIUS,
        )  # fmt: skip
        if bound >= largest:
            for part in range(0, TILE_SIDE * TILE_SIDE, POINTS):
                y = top + (part + lane) // TILE_SIDE
                x = left + (part + lane) % TILE_SIDE
                inside = (y < height) & (x < width)
                blurred = blur_points(
                    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
                    height, width, tl.minimum(y, height - 1), tl.minimum(x, width - 1),
                    LANES, FLIP, ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
                )  # fmt: skip
                value, index = first_maximum(
                    tl.where(inside, blurred, float("-inf")),
                    tl.where(inside, y.to(tl.int64) * width + x, NO_INDEX),
                    NO_INDEX,
                )
                first = tl.where(value == largest, tl.minimum(index, largest_index), largest_index)
                largest_index = tl.where(value > largest, index, first)
                largest = tl.maximum(value, largest)
    return largest, largest_index
