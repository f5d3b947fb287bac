"""The maximum of a whole blurred map, or of a matched filter's response to one.

Two ways: strips of columns in registers, each pixel blurred along its row and then along its column, and square tiles
for wide blurs and awkward maps, where each pixel is blurred for itself, and tiles that cannot hold the maximum are
passed over. As in `blur.py` equal surroundings give equal numbers, and of equal maxima the first is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .blur import LIMIT, blur_points, source_index
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
def _pixels_of_row(
    maps, y, x, exists, COUNT: tl.constexpr, IS_INSIDE: tl.constexpr, SCAN: tl.constexpr, BLUR: tl.constexpr
):
    """A tuple of the pixels at x, x + 1, ... of rows y that lie in the map, as a blur sees them: [LANES] each.

    `exists`: a bit for each, which of them lie inside the map.
    """
    ACTIVATION: tl.constexpr = BLUR.READING.ACTIVATION
    pixels = ()
    if maps.flipped is not None:
        for place in tl.static_range(COUNT):
            column = x + place
            if BLUR.PADDING != "zeros":
                column = _near_index(column, maps.width, BLUR.PADDING)
            is_there = None
            if BLUR.PADDING == "zeros" and not IS_INSIDE:
                is_there = ((exists >> place) & 1) != 0
            pixels += (load_pixels(maps, y, column, is_there, BLUR.READING),)  # type: ignore[assignment]
    else:
        row_ptr = maps.plain.ptr + y.to(tl.int64) * maps.plain.stride_h
        # From the first pixel, so that a distance is part of the instruction that loads.
        first_ptr = row_ptr + x.to(tl.int64) * maps.plain.stride_w
        for place in tl.static_range(COUNT):
            pixel_ptr = first_ptr + place * (tl.full([], 0, dtype=tl.int64) + maps.plain.stride_w)
            is_there = None
            if not IS_INSIDE:
                if BLUR.PADDING == "zeros":
                    is_there = ((exists >> place) & 1) != 0
                else:
                    column = _near_index(x + place, maps.width, BLUR.PADDING)
                    if SCAN.WIDE_INDEX:
                        column = column.to(tl.int64)
                    pixel_ptr = row_ptr + column * maps.plain.stride_w
            if is_there is None:
                pixel = tl.load(pixel_ptr).to(tl.float32)
            else:
                pixel = tl.load(pixel_ptr, mask=is_there, other=0.0).to(tl.float32)
            if ACTIVATION != "none":
                pixel = activated(pixel, maps.softmax, ACTIVATION)
                if is_there is not None:
                    pixel = tl.where(is_there, pixel, 0.0)
            pixels += (pixel,)  # type: ignore[assignment]
    return pixels


@triton.jit
def _blurred_row(
    maps, y, x, exists, COLUMNS: tl.constexpr, IS_INSIDE: tl.constexpr, SCAN: tl.constexpr, BLUR: tl.constexpr
):
    """Rows y, which may lie beyond the border, blurred along themselves, at the columns x, x + 1, ...: a tuple."""
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    place = clamped(y, maps.height)
    if BLUR.PADDING != "zeros":
        # The last iteration goes beyond what mirrors, with rows that no result depends on.
        place = clamped(_near_index(y, maps.height, BLUR.PADDING), maps.height)
    pixels = _pixels_of_row(maps, place, x - RADIUS, exists, COLUMNS + 2 * RADIUS, IS_INSIDE, SCAN, BLUR)
    rows = ()
    for column in tl.static_range(COLUMNS):
        blurred = pixels[column + RADIUS] * BLUR.WEIGHTS[0]
        for distance in tl.static_range(1, RADIUS + 1):
            both = pixels[column + RADIUS - distance] + pixels[column + RADIUS + distance]
            blurred = tl.fma(both, BLUR.WEIGHTS[distance], blurred)
        if BLUR.PADDING == "zeros":
            blurred = tl.where(place == y, blurred, 0.0)
        rows += (blurred,)  # type: ignore[assignment]
    return rows


@triton.jit
def _repeated(value, count):
    """A tuple of one value."""
    values = ()
    for _ in tl.static_range(count):
        values += (value,)
    return values


@triton.jit
def _gain_beside(place, size, BLUR: tl.constexpr):
    """`gain`, place by place: the sum of the constants that a place has inside."""
    power = tl.full(place.shape, BLUR.WEIGHTS[0] * BLUR.WEIGHTS[0], dtype=tl.float32)
    for distance in tl.static_range(1, BLUR.TAPS.RADIUS + 1):
        count = (place >= distance).to(tl.float32) + (place + distance < size).to(tl.float32)
        power = tl.fma(count, BLUR.WEIGHTS[distance] * BLUR.WEIGHTS[distance], power)
    is_inside = (place >= BLUR.TAPS.RADIUS) & (place + BLUR.TAPS.RADIUS < size)
    return tl.where(is_inside, 1.0, tl.sqrt(BLUR.POWER / power))


class Span(NamedTuple):
    """Rows that lanes scan: their own first and last, and the first of the first and of the last part."""

    first: Any  # [LANES]
    last: Any  # [LANES]
    top: Any
    last_part: Any


@triton.jit
def _better(maps, best, rows, step, start, span, gains, COLUMNS: tl.constexpr, BLUR: tl.constexpr):
    """The best of each column and then the rows where these stand, with row `start + step` of each part."""
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    center = span.first + (start + step)
    is_row = (center >= span.first) & (center <= span.last)
    gain_y = tl.full(center.shape, 1.0, dtype=tl.float32)
    if BLUR.POWER > 0:
        goes_up = span.top + (start + step) < RADIUS
        if goes_up | (span.last_part + (start + step) + RADIUS >= maps.height):
            gain_y = _gain_beside(center, maps.height, BLUR)
    new_best = ()
    new_row = ()
    for column in tl.static_range(COLUMNS):
        blurred = rows[(step + RADIUS) * COLUMNS + column] * BLUR.WEIGHTS[0]
        for distance in tl.static_range(1, RADIUS + 1):
            above = rows[(step + RADIUS - distance) * COLUMNS + column]
            below = rows[(step + RADIUS + distance) * COLUMNS + column]
            blurred = tl.fma(above + below, BLUR.WEIGHTS[distance], blurred)
        if BLUR.POWER > 0:
            blurred = blurred * gains[column] * gain_y
        is_better = (blurred > best[column]) & is_row
        new_best += (tl.where(is_better, blurred, best[column]),)  # type: ignore[assignment]
        new_row += (tl.where(is_better, center, best[COLUMNS + column]),)  # type: ignore[assignment]
    return new_best + new_row


@triton.jit
def _scan_strip(
    maps,
    rectangle,
    part,  # [LANES] the part of the rows that a lane scans
    x,  # [LANES] its first column
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    IS_INSIDE: tl.constexpr,
    SCAN: tl.constexpr,
    BLUR: tl.constexpr,
):
    """`Maximum` of each lane, of its COLUMNS columns. It goes down these and holds the last 2 RADIUS blurred rows."""
    ROWS: tl.constexpr = 4  # in an iteration: of those that are held only names change
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    num_rows = (rectangle.bottom - rectangle.top) // PARTS + 1
    first = rectangle.top + part * num_rows
    last = tl.minimum(first + (num_rows - 1), rectangle.bottom)
    span = Span(first, last, rectangle.top, rectangle.top + (PARTS - 1) * num_rows)
    exists = tl.zeros(x.shape, dtype=tl.int32)
    if not IS_INSIDE:
        for place in tl.static_range(COLUMNS + 2 * RADIUS):
            column = x + (place - RADIUS)
            exists |= tl.where((column >= 0) & (column < maps.width), 1 << place, 0)
    gains = ()
    for column in tl.static_range(COLUMNS):
        if BLUR.POWER > 0:
            gains += (_gain_beside(x + column, maps.width, BLUR),)  # type: ignore[assignment]
    best = _repeated(tl.full(x.shape, float("-inf"), dtype=tl.float32), COLUMNS) + _repeated(first, COLUMNS)
    held = _repeated(tl.zeros(x.shape, dtype=tl.float32), 2 * RADIUS * COLUMNS)
    for start in range(-2 * RADIUS, num_rows, ROWS):
        rows = held
        for step in tl.static_range(ROWS):
            y = first + (start + step + RADIUS)
            rows += _blurred_row(maps, y, x, exists, COLUMNS, IS_INSIDE, SCAN, BLUR)
            if COLUMNS == 1:  # rather than to hold more rows
                best = _better(maps, best, rows, step, start, span, gains, COLUMNS, BLUR)
        if COLUMNS > 1:
            if start + ROWS > 0:  # before that not all rows are there
                for step in tl.static_range(ROWS):
                    best = _better(maps, best, rows, step, start, span, gains, COLUMNS, BLUR)
        held = rows[ROWS * COLUMNS :]

    largest = tl.where(x < maps.width, best[0], float("-inf"))
    index = best[COLUMNS].to(tl.int64) * maps.width + x
    for column in tl.static_range(1, COLUMNS):
        value = tl.where(x + column < maps.width, best[column], float("-inf"))
        place = best[COLUMNS + column].to(tl.int64) * maps.width + (x + column)
        is_first = (value > largest) | ((value == largest) & (place < index))
        largest = tl.where(is_first, value, largest)
        index = tl.where(is_first, place, index)
    return Maximum(largest, index)


@triton.jit
def _scan_strips(
    maps, found, rectangle, COLUMNS: tl.constexpr, PARTS: tl.constexpr, SCAN: tl.constexpr, BLUR: tl.constexpr
):
    """The first maximum in a rectangle of the blurred map, or what was found before.

    In strips: a lane has COLUMNS columns, and PARTS groups of lanes share the rows.
    """
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    RADIUS: tl.constexpr = BLUR.TAPS.RADIUS
    LANES: tl.constexpr = BLUR.STRIP // PARTS
    STRIP: tl.constexpr = LANES * COLUMNS
    lane = tl.arange(0, BLUR.STRIP)
    part = lane // LANES
    beside = lane % LANES * COLUMNS
    left = rectangle.left
    if COLUMNS == 1:
        # One strip is moved to where it needs no look at the borders, if there is such a place.
        left = tl.maximum(tl.minimum(rectangle.left, maps.width - RADIUS - STRIP), tl.minimum(rectangle.left, RADIUS))
        left = tl.where(rectangle.right - left < STRIP, left, rectangle.left)
    for first_column in range(left, rectangle.right + 1, STRIP):
        x = first_column + beside
        if COLUMNS == 1:
            if (first_column >= RADIUS) & (first_column + STRIP + RADIUS <= maps.width):
                best = _scan_strip(maps, rectangle, part, x, COLUMNS, PARTS, True, SCAN, BLUR)
            else:
                best = _scan_strip(maps, rectangle, part, x, COLUMNS, PARTS, False, SCAN, BLUR)
        else:
            best = _scan_strip(maps, rectangle, part, x, COLUMNS, PARTS, False, SCAN, BLUR)
        largest = tl.max(best.value, axis=0)
        index = tl.min(tl.where(best.value == largest, best.index, NO_INDEX), axis=0)
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
            rectangle = Rectangle(top, bottom, left, right)
            if BLUR.COLUMNS == 1:
                found = _scan_strips(maps, nothing, rectangle, 1, 1, SCAN, BLUR)
            elif right - left < BLUR.STRIP:
                found = _scan_strips(maps, nothing, rectangle, 1, 1, SCAN, BLUR)
            else:
                found = _scan_strips(maps, nothing, rectangle, BLUR.COLUMNS, BLUR.PARTS, SCAN, BLUR)
        else:
            found = scan_tiles(maps, largest, first_y, first_x, BLUR)
    return found
