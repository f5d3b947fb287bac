"""The maximum of a whole blurred map, or of a matched filter's response to one.

Two ways: strips of columns in registers, each pixel blurred along its row and then along its column, and square tiles
for wide blurs and awkward maps, where each pixel is blurred for itself, and tiles that cannot hold the maximum are
passed over. As in `blur.py` equal surroundings give equal numbers, and of equal maxima the first is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .blur import LIMIT, blur_points, gain, source_index
from .maps import Maps, activated, clamped, load_pixels, load_step, row_of


class Maximum(NamedTuple):
    """The first of the largest values."""

    value: Any
    index: Any


class Rectangle(NamedTuple):
    """Rows and columns, the last ones included."""

    top: Any
    bottom: Any
    left: Any
    right: Any


class Seen(NamedTuple):
    """Seen so far in a walk over a map, lane by lane: its smallest pixel, and where large ones are."""

    lowest: Any  # [BLOCK_SIZE]
    top: Any  # of groups of pixels, this and the others
    bottom: Any
    left: Any
    right: Any


class Columns(NamedTuple):
    """The best of each column of a strip so far."""

    best: Any  # [STRIP]
    row: Any  # [STRIP] where it stands


@triton.jit
def first_maximum(values, index, NO_INDEX: tl.constexpr):
    """The largest of `values` and the lowest `index` it stands at. NaN is the largest of all."""
    is_nan = values != values
    has_nan = tl.max(is_nan.to(tl.int32), axis=0) > 0
    largest = tl.max(tl.where(is_nan, float("-inf"), values), axis=0)
    holds_it = tl.where(has_nan, is_nan, values == largest)
    first = tl.min(tl.where(holds_it, index, NO_INDEX), axis=0)
    return Maximum(tl.where(has_nan, float("nan"), largest), first)


@triton.jit
def bound_of_tile(maps, top, left, BLUR: tl.constexpr):
    """A bound of a tile of the blurred map: the largest of the pixels that are averaged there, or filtered."""
    MARGIN: tl.constexpr = 1e-5  # for the rounding of the average
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    PADDING: tl.constexpr = BLUR.PADDING
    SIDE: tl.constexpr = BLUR.TILE_SIDE + 2 * RADIUS
    halo_row = tl.arange(0, 16)
    halo_column = tl.arange(0, BLUR.HALO_SIDE)
    # Beyond its end the halo repeats its last pixel: no harm to a maximum.
    columns = left - RADIUS + tl.minimum(halo_column, SIDE - 1)
    columns_exist = (columns >= 0) & (columns < maps.width)
    columns = source_index(columns, maps.width, PADDING)[None, :]
    seen = tl.full([16, BLUR.HALO_SIDE], -LIMIT, dtype=tl.float32)  # as blur_points reads -inf
    for row_step in range(0, SIDE, 16):
        rows = top - RADIUS + tl.minimum(row_step + halo_row, SIDE - 1)
        rows_exist = (rows >= 0) & (rows < maps.height)
        rows = source_index(rows, maps.height, PADDING)[:, None]
        exists = None
        if PADDING == "zeros":
            exists = rows_exist[:, None] & columns_exist[None, :]
        seen = tl.maximum(seen, load_pixels(maps, rows, columns, exists, BLUR.READING))
    bound = tl.max(tl.max(seen, axis=1), axis=0)
    if BLUR.POWER > 0:  # the weights of a filter add up to less at the border
        bound = tl.maximum(bound, 0.0)
    return bound + MARGIN * tl.abs(bound)


@triton.jit
def scan_tiles(maps, largest, first_y, first_x, BLUR: tl.constexpr):
    """The first maximum of the whole blurred map, for a map without NaN.

    `largest` is a value of the blurred map that is known already, or -inf; where nothing exceeds it, the index
    may be meaningless. A tile is blurred only if one of the pixels that it sees reaches what has been found. The
    search starts in the tile of (first_y, first_x): if that is a large pixel of the map, one blob costs a tile or two.
    """
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    SIDE: tl.constexpr = BLUR.TILE_SIDE
    found = Maximum(largest, tl.full([], NO_INDEX, dtype=tl.int64))
    lane = tl.arange(0, BLUR.POINTS_AT_ONCE)
    tiles_across = tl.cdiv(maps.width, SIDE)
    num_tiles = tl.cdiv(maps.height, SIDE) * tiles_across
    first_tile = first_y // SIDE * tiles_across + first_x // SIDE
    for step in range(0, num_tiles):
        tile = (first_tile + step) % num_tiles
        top = tile // tiles_across * SIDE
        left = tile % tiles_across * SIDE
        bound = bound_of_tile(maps, top, left, BLUR)
        if bound >= found.value:
            for part in range(0, SIDE * SIDE, BLUR.POINTS_AT_ONCE):
                y = top + (part + lane) // SIDE
                x = left + (part + lane) % SIDE
                inside = (y < maps.height) & (x < maps.width)
                blurred = blur_points(maps, tl.minimum(y, maps.height - 1), tl.minimum(x, maps.width - 1), BLUR)
                blurred = tl.where(inside, blurred, float("-inf"))
                index = tl.where(inside, y.to(tl.int64) * maps.width + x, NO_INDEX)
                best = first_maximum(blurred, index, NO_INDEX)
                first = tl.where(best.value == found.value, tl.minimum(best.index, found.index), found.index)
                index = tl.where(best.value > found.value, best.index, first)
                found = Maximum(tl.maximum(best.value, found.value), index)
    return found


@triton.jit
def _seen_step(
    seen,
    maps,
    start,
    num_pixels,
    level,
    GROUP: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    SCAN: tl.constexpr,
    READING: tl.constexpr,
):
    """`Seen` after LOADS blocks of pixels from `start` on.

    Pixels are looked at in groups of GROUP that follow each other in a lane, of which only the first one's place is
    computed. Blocks without a large pixel are over with one vote.
    """
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    NUM_GROUPS: tl.constexpr = BLOCK_SIZE // GROUP
    lowest = seen.lowest
    highest = tl.full([NUM_GROUPS], float("-inf"), dtype=tl.float32)
    of_groups = ()
    for part in tl.static_range(SCAN.LOADS):
        index = start + part * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        exists = index < num_pixels
        value = activated(
            load_step(maps, index, exists, IS_WHOLE, SCAN).to(tl.float32), maps.softmax, READING.ACTIVATION
        )
        lowest = tl.minimum(lowest, value if IS_WHOLE else tl.where(exists, value, float("inf")))
        if READING.ACTIVATION != "none" and not IS_WHOLE:
            value = tl.where(exists, value, float("-inf"))
        of_group = tl.max(tl.reshape(value, [NUM_GROUPS, GROUP]), axis=1)
        highest = tl.maximum(highest, of_group)
        of_groups += (of_group,)  # type: ignore[assignment]
    top = seen.top
    bottom = seen.bottom
    left = seen.left
    right = seen.right
    if tl.max((highest >= level).to(tl.int32), axis=0) > 0:
        for part in tl.static_range(SCAN.LOADS):
            is_seen = of_groups[part] >= level
            first_pixel = start + part * BLOCK_SIZE + tl.arange(0, NUM_GROUPS) * GROUP
            row = row_of(first_pixel, maps.width, SCAN.USES_RECIPROCAL)
            first = (first_pixel - row * maps.width).to(tl.int32)
            row = row.to(tl.int32)
            last = first + (GROUP - 1)
            goes_on = last >= maps.width  # in the next row, or in more of them
            top = tl.where(is_seen, tl.minimum(top, row), top)
            bottom = tl.where(is_seen, tl.maximum(bottom, tl.where(goes_on, row + (GROUP - 1), row)), bottom)
            left = tl.where(is_seen, tl.minimum(left, tl.where(goes_on, 0, first)), left)
            right = tl.where(is_seen, tl.maximum(right, tl.where(goes_on, maps.width - 1, last)), right)
    return Seen(lowest, top, bottom, left, right)


@triton.jit
def _where_at_least(maps, level, SCAN: tl.constexpr, BLUR: tl.constexpr):
    """A `Rectangle` that holds all pixels not below `level`, hardly larger than it must be, and the map's smallest."""
    FAR: tl.constexpr = 0x7FFFFFFF
    # The rectangle is up to GROUP - 1 columns too wide, and columns near a border that mirrors are dear.
    GROUP: tl.constexpr = 4 if BLUR.PADDING == "zeros" else 2
    READING: tl.constexpr = BLUR.READING
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    STEP: tl.constexpr = BLOCK_SIZE * SCAN.LOADS
    zero = tl.full([], 0, dtype=tl.int64 if SCAN.WIDE_INDEX else tl.int32)
    num_pixels = (zero + maps.height) * maps.width
    far = tl.full([BLOCK_SIZE // GROUP], FAR, dtype=tl.int32)
    seen = Seen(tl.full([BLOCK_SIZE], float("inf"), dtype=tl.float32), far, -far, far, -far)
    first_rest = num_pixels // STEP * STEP
    for start in range(zero, first_rest, STEP):
        seen = _seen_step(seen, maps, start, num_pixels, level, GROUP, True, SCAN, READING)
    if first_rest < num_pixels:
        seen = _seen_step(seen, maps, first_rest, num_pixels, level, GROUP, False, SCAN, READING)
    bottom = tl.minimum(tl.max(seen.bottom, axis=0), maps.height - 1)
    near = Rectangle(tl.min(seen.top, axis=0), bottom, tl.min(seen.left, axis=0), tl.max(seen.right, axis=0))
    return near, tl.min(seen.lowest, axis=0)


@triton.jit
def _near_index(index, size, PADDING: tl.constexpr):
    """`source_index` of an index beyond the border by less than `size`: without a division."""
    if PADDING == "reflect":
        index = tl.where(index < 0, -index, index)
        index = tl.where(index < size, index, 2 * size - 2 - index)
    elif PADDING == "symmetric":
        index = tl.where(index < 0, -1 - index, index)
        index = tl.where(index < size, index, 2 * size - 1 - index)
    return index


@triton.jit
def _pixels_beside(maps, row_ptr, y, x, distance, IS_INSIDE: tl.constexpr, BLUR: tl.constexpr):
    """Pixels of a row at x + distance, as a blur sees them: [STRIP]. `row_ptr`: of those at x."""
    ACTIVATION: tl.constexpr = BLUR.READING.ACTIVATION
    seen = x + distance
    exists = None
    if not IS_INSIDE:
        if BLUR.PADDING == "zeros":
            exists = (seen >= 0) & (seen < maps.width)
        else:
            seen = _near_index(seen, maps.width, BLUR.PADDING)
    if maps.flipped is None and (IS_INSIDE or BLUR.PADDING == "zeros"):
        # From the pixel itself, so that a distance is part of the instruction that loads.
        pixel_ptr = row_ptr + distance * (tl.full([], 0, dtype=tl.int64) + maps.plain.stride_w)
        if exists is None:
            pixels = tl.load(pixel_ptr)
        else:
            pixels = tl.load(pixel_ptr, mask=exists, other=0.0)
        pixels = pixels.to(tl.float32)
        if ACTIVATION != "none":
            pixels = activated(pixels, maps.softmax, ACTIVATION)
            if exists is not None:
                pixels = tl.where(exists, pixels, 0.0)
    else:
        pixels = load_pixels(maps, y, seen, exists, BLUR.READING)
    return pixels


@triton.jit
def _blurred_row(maps, y, x, IS_INSIDE: tl.constexpr, BLUR: tl.constexpr):
    """A row, which may lie beyond the border, blurred along itself at the columns x: [STRIP]."""
    place = clamped(y, maps.height)
    if BLUR.PADDING != "zeros":
        # The last iteration goes beyond what mirrors, with rows that no result depends on.
        place = tl.maximum(_near_index(y, maps.height, BLUR.PADDING), 0)
    row_ptr = maps.plain.ptr + (place.to(tl.int64) * maps.plain.stride_h + x.to(tl.int64) * maps.plain.stride_w)
    blurred = _pixels_beside(maps, row_ptr, place, x, 0, IS_INSIDE, BLUR) * BLUR.WEIGHTS[0]
    for distance in tl.static_range(1, BLUR.TAPS.RADIUS + 1):
        left = _pixels_beside(maps, row_ptr, place, x, -distance, IS_INSIDE, BLUR)
        right = _pixels_beside(maps, row_ptr, place, x, distance, IS_INSIDE, BLUR)
        blurred = tl.fma(left + right, BLUR.WEIGHTS[distance], blurred)
    if BLUR.PADDING == "zeros":
        blurred = tl.where(place == y, blurred, 0.0)
    return blurred


@triton.jit
def _repeated(value, count):
    """A tuple of one value."""
    values = ()
    for _ in tl.static_range(count):
        values += (value,)
    return values


@triton.jit
def _scan_strip(maps, x, gain_x, rectangle, IS_INSIDE: tl.constexpr, BLUR: tl.constexpr):
    """`Columns` of the rectangle's rows. A thread goes down a column and holds the last 2 RADIUS + 1 blurred rows."""
    ROWS: tl.constexpr = 4  # in an iteration: of those that are held only names change
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    best = tl.full([BLUR.STRIP], float("-inf"), dtype=tl.float32)
    best_row = tl.zeros([BLUR.STRIP], dtype=tl.int32)
    held = _repeated(tl.zeros([BLUR.STRIP], dtype=tl.float32), 2 * RADIUS)
    for start in range(rectangle.top - RADIUS, rectangle.bottom + RADIUS + 1, ROWS):
        for part in tl.static_range(ROWS):
            y = start + part + tl.full([], 0, dtype=tl.int32)
            rows = held + (_blurred_row(maps, y, x, IS_INSIDE, BLUR),)  # noqa: RUF005
            center = y - RADIUS
            blurred = rows[RADIUS] * BLUR.WEIGHTS[0]
            for distance in tl.static_range(1, RADIUS + 1):
                both = rows[RADIUS - distance] + rows[RADIUS + distance]
                blurred = tl.fma(both, BLUR.WEIGHTS[distance], blurred)
            if BLUR.POWER > 0:
                blurred *= gain_x
                if (center < RADIUS) | (center + RADIUS >= maps.height):
                    blurred *= gain(center + tl.zeros([1], dtype=tl.int32), maps.height, BLUR)
            is_better = (blurred > best) & (center >= rectangle.top) & (center <= rectangle.bottom)
            best = tl.where(is_better, blurred, best)
            best_row = tl.where(is_better, center, best_row)
            held = rows[1:]
    return Columns(best, best_row)


@triton.jit
def _scan_strips(maps, found, rectangle, BLUR: tl.constexpr):
    """The first maximum in a rectangle of the blurred map, or what was found before."""
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    STRIP: tl.constexpr = BLUR.STRIP
    lane = tl.arange(0, STRIP)
    # One strip is moved to where it needs no look at the borders, if there is such a place.
    left = tl.maximum(tl.minimum(rectangle.left, maps.width - RADIUS - STRIP), tl.minimum(rectangle.left, RADIUS))
    left = tl.where(rectangle.right - left < STRIP, left, rectangle.left)
    for first_column in range(left, rectangle.right + 1, STRIP):
        x = first_column + lane
        gain_x = None
        if BLUR.POWER > 0:
            gain_x = gain(x, maps.width, BLUR)
        if (first_column >= RADIUS) & (first_column + STRIP + RADIUS <= maps.width):
            columns = _scan_strip(maps, x, gain_x, rectangle, True, BLUR)
        else:
            columns = _scan_strip(maps, clamped(x, maps.width), gain_x, rectangle, False, BLUR)
        best = tl.where(x < maps.width, columns.best, float("-inf"))
        largest = tl.max(best, axis=0)
        index = tl.min(tl.where(best == largest, columns.row.to(tl.int64) * maps.width + x, NO_INDEX), axis=0)
        first = tl.where(largest == found.value, tl.minimum(index, found.index), found.index)
        found = Maximum(tl.maximum(largest, found.value), tl.where(largest > found.value, index, first))
    return found


@triton.jit
def scan_blurred_map(maps, largest, highest, first_y, first_x, SCAN: tl.constexpr, BLUR: tl.constexpr):
    """As `scan_tiles`, but in strips where it can be. `highest`: the largest pixel of the map itself.

    Only the smallest rectangle is blurred that holds all pixels which see one that reaches what the blurred map is
    known to reach, at (first_y, first_x).
    """
    MARGIN: tl.constexpr = 1e-5  # for the rounding of averages
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    if BLUR.WEIGHTS == ():
        found = scan_tiles(maps, largest, first_y, first_x, BLUR)
    else:
        # Rows and columns count in 32 bits, whatever the arguments are: constants, or of 64.
        height = (tl.full([], 0, dtype=tl.int64) + maps.height).to(tl.int32)
        width = (tl.full([], 0, dtype=tl.int64) + maps.width).to(tl.int32)
        maps = Maps(maps.plain, maps.flipped, height, width, maps.softmax)
        place = tl.zeros([1], dtype=tl.int32)
        known = tl.maximum(tl.max(blur_points(maps, place + first_y, place + first_x, BLUR), axis=0), largest)
        level = known * (1 - MARGIN)
        level = tl.where(level > 0, level, float("-inf"))  # beyond the border a blur sees zeros
        near, lowest = _where_at_least(maps, level, SCAN, BLUR)
        in_strips = (lowest >= -LIMIT) & ((highest > LIMIT) == 0)  # of a NaN nothing is asked but an end
        if BLUR.PADDING != "zeros":
            in_strips = in_strips & (maps.height > RADIUS) & (maps.width > RADIUS)
        if in_strips:
            top = tl.maximum(near.top - RADIUS, 0)
            bottom = tl.minimum(near.bottom + RADIUS, maps.height - 1)
            left = tl.maximum(near.left - RADIUS, 0)
            right = tl.minimum(near.right + RADIUS, maps.width - 1)
            nothing = Maximum(largest, tl.full([], NO_INDEX, dtype=tl.int64))
            found = _scan_strips(maps, nothing, Rectangle(top, bottom, left, right), BLUR)
        else:
            found = scan_tiles(maps, largest, first_y, first_x, BLUR)
    return found
