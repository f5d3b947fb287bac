"""find_peaks as one Triton kernel, and its launcher."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import blur_points, bound_of_tile, scan_blurred_map
from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of, register_limit
from .._triton.maps import activated, index_flags, load_pixels, load_rest, load_whole, row_of
from .._triton.refine import recipe_constants, refine
from .._triton.totals import factor_of, mass_around, relative_to, sum_of_lanes, weight_of


@triton.jit
def _scan_step(
    best, total, map_ptr, stride_h, stride_w, start, lane, last_pixel, width,
    BLOCK_SIZE: tl.constexpr, LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr, IS_WHOLE: tl.constexpr, TOTAL: tl.constexpr,
):  # fmt: skip
    """The largest pixel that each lane sees in LOADS blocks from `start` on, NaN if one is; and the total with these
    pixels (see `_triton/totals.py`), a softmax relative to the largest so far: [BLOCK_SIZE], float32.

    `best`, `total`: of the lanes before.
    """
    AS_IT_IS: tl.constexpr = map_ptr.dtype.element_ty != tl.bfloat16
    KIND: tl.constexpr = map_ptr.dtype.element_ty if AS_IT_IS else tl.float32
    highest = tl.full([BLOCK_SIZE], float("-inf"), dtype=KIND)
    for part in tl.static_range(LOADS):
        index = start + part * BLOCK_SIZE + lane
        if IS_WHOLE:
            value = load_whole(map_ptr, stride_h, stride_w, index, width, IS_FLAT, IS_SMALL)
        else:
            value = load_rest(map_ptr, stride_h, stride_w, index, index < last_pixel, width, IS_FLAT, IS_SMALL)
        highest = tl.maximum(highest, value, propagate_nan=tl.PropagateNan.ALL)
        if TOTAL == "positive" or TOTAL == "sigmoid":
            total += weight_of(value, highest, TOTAL)
    highest = highest.to(tl.float32)
    if TOTAL == "softmax":
        better = tl.maximum(best, highest, propagate_nan=tl.PropagateNan.ALL)
        total = relative_to(total, best, better, TOTAL)
        for part in tl.static_range(LOADS):
            index = start + part * BLOCK_SIZE + lane
            # The same pixels, which the compiler has in registers still.
            if IS_WHOLE:
                value = load_whole(map_ptr, stride_h, stride_w, index, width, IS_FLAT, IS_SMALL)
            else:
                value = load_rest(map_ptr, stride_h, stride_w, index, index < last_pixel, width, IS_FLAT, IS_SMALL)
            total += weight_of(value, better, TOTAL)
    return highest, total


@triton.jit
def _lowest_logit(threshold, largest, factor, ACTIVATION: tl.constexpr):
    """What a logit exceeds if its activation exceeds the threshold, less than all roundings could account for."""
    MARGIN: tl.constexpr = 0.01
    lower = threshold * (1 - 1e-5)
    if ACTIVATION == "sigmoid":
        lowest = tl.where(lower < 1, tl.log(lower) - tl.log(1 - lower) - MARGIN, float("inf"))
    else:
        lowest = largest + tl.log(lower) - tl.log(factor) - (MARGIN + 1e-6 * tl.abs(largest))
        lowest = tl.where(largest < float("inf"), lowest, float("-inf"))
    return tl.where(threshold > 0, lowest, float("-inf"))


@triton.jit
def _exceeds(value, beside, y, x, beside_y, beside_x, height, width, PLATEAU: tl.constexpr):
    """Whether pixels stand out of one neighbour each, which need not exist: beyond the border there is nothing."""
    inside = (beside_y >= 0) & (beside_y < height) & (beside_x >= 0) & (beside_x < width)
    # The pixel may be its own neighbour, and equals itself by every rule.
    if PLATEAU == "first":
        may_equal = (beside_y > y) | ((beside_y == y) & (beside_x >= x))
    elif PLATEAU == "all":
        may_equal = inside
    else:
        may_equal = (beside_y == y) & (beside_x == x)
    exceeds = (value > beside) | ((value == beside) & may_equal)
    return tl.where(inside, exceeds, True)


@triton.jit
def _stands_out(
    map_ptr, stride_h, stride_w, height, width, index, value, is_peak,
    IS_SMALL: tl.constexpr, SIDE: tl.constexpr, PLATEAU: tl.constexpr,
):  # fmt: skip
    """Which of the pixels that may be peaks are. Their neighbours are read, and no others."""
    REACH: tl.constexpr = SIDE // 2
    y = row_of(index, width, IS_SMALL)
    x = index - y * width
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            beside_y = y + dy
            beside_x = x + dx
            inside = (beside_y >= 0) & (beside_y < height) & (beside_x >= 0) & (beside_x < width)
            beside = load_pixels(
                map_ptr, stride_h, stride_w, map_ptr, stride_h, stride_w, 0.0, 1.0, beside_y, beside_x,
                inside & is_peak, "none", "none",
            )  # fmt: skip
            is_peak = is_peak & _exceeds(value, beside, y, x, beside_y, beside_x, height, width, PLATEAU)
    return is_peak


@triton.jit
def _insert(
    values,  # [LIST] the best peaks so far, in any order
    indices,  # [LIST] their pixels; numbers beyond all pixels where there is none; no two are equal
    floor,  # the smallest of `values`
    value,
    index,
    is_peak,
    best,  # the largest value of a peak, or -inf
    IN_ORDER: tl.constexpr,
    NO_INDEX: tl.constexpr,
):
    """The list after the pixels that are peaks, each of which takes the place of the worst one if it is better.

    They come by value, equal ones in the order of their pixels. Of equal peaks the first in the map is better: if all
    that came before are (IN_ORDER), one that equals the worst of the list leaves it alone.
    """
    while best > floor:
        first = tl.min(tl.where(is_peak & (value == best), index, NO_INDEX), axis=0)
        worst = tl.max(tl.where(values == floor, indices, -1), axis=0)
        values = tl.where(indices == worst, best, values)
        indices = tl.where(indices == worst, first, indices)
        floor = tl.min(values, axis=0)
        is_peak = is_peak & (index != first)
        best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    if not IN_ORDER:
        first = tl.min(tl.where(is_peak & (value == floor), index, NO_INDEX), axis=0)
        worst = tl.max(tl.where(values == floor, indices, -1), axis=0)
        while first < worst:
            indices = tl.where(indices == worst, first, indices)
            is_peak = is_peak & (index != first)
            first = tl.min(tl.where(is_peak & (value == floor), index, NO_INDEX), axis=0)
            worst = tl.max(tl.where(values == floor, indices, -1), axis=0)
    return values, indices, floor


@triton.jit
def _keep_best(
    values,  # this and the next two as in `_insert`
    indices,
    floor,
    map_ptr,
    stride_h,
    stride_w,
    height,
    width,
    start,
    lane,  # [BLOCK_SIZE]
    last_pixel,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    SIDE: tl.constexpr,
    PLATEAU: tl.constexpr,
    NO_INDEX: tl.constexpr,
):
    """The list after the peaks of a block. Blocks come in the order of their pixels."""
    index = start + lane
    exists = index < last_pixel
    value = load_rest(map_ptr, stride_h, stride_w, index, exists, width, IS_FLAT, IS_SMALL).to(tl.float32)
    is_peak = exists & (value > floor)
    best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    if best > floor:
        is_peak = _stands_out(
            map_ptr, stride_h, stride_w, height, width, index, value, is_peak, IS_SMALL, SIDE, PLATEAU
        )
        best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    return _insert(values, indices, floor, value, index, is_peak, best, True, NO_INDEX)


@triton.jit
def _first_place_of(
    number, map_ptr, stride_h, stride_w, width, lane, first_pixel, last_pixel,
    BLOCK_SIZE: tl.constexpr, IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr, NO_INDEX: tl.constexpr,
):  # fmt: skip
    """The flat index of the first pixel with that value."""
    places = tl.full([BLOCK_SIZE], NO_INDEX, dtype=lane.dtype)
    for start in range(first_pixel, last_pixel, BLOCK_SIZE):
        index = start + lane
        value = load_rest(map_ptr, stride_h, stride_w, index, index < last_pixel, width, IS_FLAT, IS_SMALL).to(
            tl.float32
        )
        places = tl.minimum(places, tl.where(value == number, index, NO_INDEX))
    return tl.min(places, axis=0)


@triton.jit
def _stands_out_of_blurred(
    map_ptr,
    stride_h,
    stride_w,
    shift,
    factor,
    height,
    width,
    y,  # [N], which may lie beyond the map
    x,  # [N]
    floor,
    scale,
    threshold,
    SIDE: tl.constexpr,
    PLATEAU: tl.constexpr,
    LANES: tl.constexpr,
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
    """The blurred map at N pixels, and which of them are peaks: not below `floor`, and above the threshold once they
    are scaled.

    Neighbours are blurred anew, as long as any of the N may be a peak. One loop, and in it one place in the code, blurs
    pixels and neighbours, so that equal surroundings give equal numbers whatever a compiler makes of it.
    """
    REACH: tl.constexpr = SIDE // 2
    NUM_NEIGHBOURS: tl.constexpr = SIDE * SIDE
    is_peak = (y < height) & (x < width)
    value = tl.full([y.shape[0]], float("-inf"), dtype=tl.float32)
    for number in range(0, NUM_NEIGHBOURS):
        neighbour = (number + NUM_NEIGHBOURS // 2) % NUM_NEIGHBOURS  # the pixel itself comes first
        beside_y = y + (neighbour // SIDE - REACH)
        beside_x = x + (neighbour % SIDE - REACH)
        if tl.max(is_peak.to(tl.int32), axis=0) > 0:
            beside = blur_points(
                map_ptr, stride_h, stride_w, map_ptr, stride_h, stride_w, shift, factor, height, width,
                tl.minimum(tl.maximum(beside_y, 0), height - 1), tl.minimum(tl.maximum(beside_x, 0), width - 1),
                LANES, "none", ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
            if number == 0:
                value = beside
                is_peak = is_peak & (value >= floor) & (value * scale > threshold)
            is_peak = is_peak & _exceeds(value, beside, y, x, beside_y, beside_x, height, width, PLATEAU)
    return value, is_peak


@triton.jit
def _search_blurred_map(
    values,  # this and the next two as in `_insert`
    indices,
    floor,
    map_ptr,
    stride_h,
    stride_w,
    shift,
    factor,
    height,
    width,
    scale,  # what the blurred map is multiplied with before it is compared with the threshold
    threshold,
    SIDE: tl.constexpr,
    PLATEAU: tl.constexpr,
    NO_INDEX: tl.constexpr,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,
    POINTS: tl.constexpr,  # that are blurred at once
    LANES: tl.constexpr,
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
    """The list after the peaks of the whole blurred map, before it is scaled, of a map without NaN.

    A tile is blurred only if one of the pixels that it sees could lift a pixel of it above the threshold and into the
    list.
    """
    lane = tl.arange(0, POINTS)
    tiles_across = tl.cdiv(width, TILE_SIDE)
    num_tiles = tl.cdiv(height, TILE_SIDE) * tiles_across
    for tile in range(0, num_tiles):
        top = tile // tiles_across * TILE_SIDE
        left = tile % tiles_across * TILE_SIDE
        bound = bound_of_tile(
            map_ptr, stride_h, stride_w, map_ptr, stride_h, stride_w, shift, factor, height, width,
            top, left, TILE_SIDE, HALO_SIDE, "none", ACTIVATION, PADDING, RADIUS,
        )  # fmt: skip
        if (bound >= floor) & (bound * scale > threshold):
            for part in range(0, TILE_SIDE * TILE_SIDE, POINTS):
                y = top + (part + lane) // TILE_SIDE
                x = left + (part + lane) % TILE_SIDE
                value, is_peak = _stands_out_of_blurred(
                    map_ptr, stride_h, stride_w, shift, factor, height, width, y, x, floor, scale, threshold,
                    SIDE, PLATEAU, LANES, ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
                )  # fmt: skip
                index = y.to(indices.dtype) * width + x
                best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
                values, indices, floor = _insert(values, indices, floor, value, index, is_peak, best, False, NO_INDEX)
    return values, indices, floor


@triton.jit(do_not_specialize=["num_keypoints", "max_peaks", "threshold"])
def _find_peaks_fwd_kernel(
    coords_ptr,  # [B, K, P, 2]
    scores_ptr,  # [B, K, P]
    counts_ptr,  # [B, K]
    covariances_ptr,  # [B, K, P, 2, 2], if HAS_COVARIANCE
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    num_keypoints,
    height,
    width,
    num_pixels,
    max_peaks,
    threshold,
    LIST: tl.constexpr,  # a power of two, at least max_peaks
    SIDE: tl.constexpr,  # of the square in which a peak stands out
    PLATEAU: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    STENCIL: tl.constexpr,
    PADDING: tl.constexpr,
    RESCALE: tl.constexpr,
    ARGMAX_ON_BLURRED: tl.constexpr,
    HAS_COVARIANCE: tl.constexpr,
    CLIP_MIN: tl.constexpr,
    CLIP_MAX: tl.constexpr,
    INVALID: tl.constexpr,
    MAX_OFFSET: tl.constexpr,
    EXTRA_SHIFT: tl.constexpr,
    SCORE_SCALE: tl.constexpr,
    SCORE_OFFSET: tl.constexpr,
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
    ACTIVATION: tl.constexpr,
    MASS_RADIUS: tl.constexpr,  # 0 where the score is the peak
    TOTAL: tl.constexpr,  # see `_triton/totals.py`
):
    """One program finds the peaks of one map.

    Bytes it must move: B K H W elements read, and B K (P (12 or 28) + 8) bytes written. What it moves from device
    memory: the same. The best peaks stay in registers. A step of the scan in which no pixel exceeds the threshold and
    the worst of the best is over with one maximum of all its pixels. Else its blocks are read once more from the cache,
    and of the pixels that exceed it the neighbours: a map full of peaks takes more time, and no more bytes. Each
    refinement reads a patch of about (k + 4)^2 elements of the map that has just been read, and where a clip could
    bind the whole map (see `needs_scale` in `_triton/refine.py`).

    Where the blurred map is searched (ARGMAX_ON_BLURRED) the first pass finds no more than the maximum. Further ones
    read the map from the cache, and blur it where its pixels are large enough: once for the maximum that the scale
    follows from, then for the peaks, with their neighbours. The peaks of a softmax are looked for once the sum is known
    that tells which exceed the threshold, from the cache as well.
    """
    SEARCHES_AT_ONCE: tl.constexpr = ACTIVATION != "softmax" and not ARGMAX_ON_BLURRED
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if WIDE_INDEX else 0x7FFFFFFF
    STEP: tl.constexpr = BLOCK_SIZE * LOADS
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    map_ptr = heatmaps_ptr + (batch * heatmaps_stride_b + keypoint * heatmaps_stride_k)

    slot = tl.arange(0, LIST)
    first_pixel = tl.full([], 0, dtype=tl.int64 if WIDE_INDEX else tl.int32)
    last_pixel = first_pixel + num_pixels
    lane = first_pixel + tl.arange(0, BLOCK_SIZE)
    # Of a list that is not full the worst is the threshold itself. Lanes beyond P are never the worst.
    lowest = threshold + tl.zeros([LIST], dtype=tl.float32)
    if ACTIVATION == "sigmoid":
        lowest = _lowest_logit(lowest, 0.0, 1.0, ACTIVATION)
    if not SEARCHES_AT_ONCE:  # what exceeds the threshold is scaled, and the list is not
        lowest = tl.full([LIST], float("-inf"), dtype=tl.float32)
    values = tl.where(slot < max_peaks, lowest, float("inf"))
    indices = NO_INDEX - (first_pixel + slot)
    floor = tl.min(values, axis=0)
    raw_maxima = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    totals = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for start in range(first_pixel, last_pixel, STEP):
        if start + STEP <= last_pixel:
            highest, totals = _scan_step(
                raw_maxima, totals, map_ptr, heatmaps_stride_h, heatmaps_stride_w, start, lane, last_pixel, width,
                BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, True, TOTAL,
            )  # fmt: skip
        else:
            highest, totals = _scan_step(
                raw_maxima, totals, map_ptr, heatmaps_stride_h, heatmaps_stride_w, start, lane, last_pixel, width,
                BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, False, TOTAL,
            )  # fmt: skip
        raw_maxima = tl.maximum(raw_maxima, highest, propagate_nan=tl.PropagateNan.ALL)
        if SEARCHES_AT_ONCE:
            if tl.max(highest, axis=0) > floor:
                for block_start in range(start, tl.minimum(start + STEP, last_pixel), BLOCK_SIZE):
                    values, indices, floor = _keep_best(
                        values, indices, floor, map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width,
                        block_start, lane, last_pixel, IS_FLAT, IS_SMALL, SIDE, PLATEAU, NO_INDEX,
                    )  # fmt: skip

    # A map with a NaN has no peaks, whatever was found in it.
    has_nan = tl.max((raw_maxima != raw_maxima).to(tl.int32), axis=0) > 0
    largest = tl.max(raw_maxima, axis=0)
    total = sum_of_lanes(totals, raw_maxima, largest, 0, TOTAL)
    factor = factor_of(largest, total, TOTAL)
    raw_maximum = largest
    if ACTIVATION != "none":
        raw_maximum = activated(largest, largest, factor, ACTIVATION)
    scale = tl.full([], 1.0, dtype=tl.float32)  # of the blurred map, or 1 if it is not known
    if ARGMAX_ON_BLURRED:
        if has_nan == 0:
            if RESCALE:
                index = _first_place_of(
                    largest, map_ptr, heatmaps_stride_h, heatmaps_stride_w, width, lane, first_pixel, last_pixel,
                    BLOCK_SIZE, IS_FLAT, IS_SMALL, NO_INDEX,
                )  # fmt: skip
                blurred_maximum, _ = scan_blurred_map(
                    map_ptr, heatmaps_stride_h, heatmaps_stride_w, map_ptr, heatmaps_stride_h, heatmaps_stride_w,
                    largest, factor, height, width, tl.full([], float("-inf"), dtype=tl.float32),
                    (index // width).to(tl.int32), (index % width).to(tl.int32), TILE_SIDE, HALO_SIDE, SCAN_POINTS,
                    LANES, "none", ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
                )  # fmt: skip
                scale = tl.where(blurred_maximum > 0, raw_maximum / blurred_maximum, 1.0)
            values, indices, floor = _search_blurred_map(
                values, indices, floor, map_ptr, heatmaps_stride_h, heatmaps_stride_w, largest, factor, height, width,
                scale, threshold, SIDE, PLATEAU, NO_INDEX, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
                ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
    elif not SEARCHES_AT_ONCE:
        lowest = _lowest_logit(threshold + tl.zeros([LIST], dtype=tl.float32), largest, factor, ACTIVATION)
        values = tl.where(slot < max_peaks, lowest, float("inf"))
        floor = tl.min(values, axis=0)
        for block_start in range(first_pixel, last_pixel, BLOCK_SIZE):
            values, indices, floor = _keep_best(
                values, indices, floor, map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width,
                block_start, lane, last_pixel, IS_FLAT, IS_SMALL, SIDE, PLATEAU, NO_INDEX,
            )  # fmt: skip
    is_left = (indices < last_pixel) & (has_nan == 0)
    if ACTIVATION != "none" and not ARGMAX_ON_BLURRED:
        is_left = is_left & (activated(values, largest, factor, ACTIVATION) > threshold)
    count = tl.sum(is_left.to(tl.int32), axis=0)
    tl.store(counts_ptr + map_index, count.to(tl.int64))
    first_slot = map_index * max_peaks
    is_unused = (slot >= count) & (slot < max_peaks)
    tl.store(coords_ptr + (first_slot + slot) * 2, INVALID, mask=is_unused)
    tl.store(coords_ptr + (first_slot + slot) * 2 + 1, INVALID, mask=is_unused)
    tl.store(scores_ptr + first_slot + slot, 0.0, mask=is_unused)
    if HAS_COVARIANCE:
        for element in tl.static_range(4):
            tl.store(covariances_ptr + (first_slot + slot) * 4 + element, float("nan"), mask=is_unused)

    for number in range(0, count):
        peak = tl.max(tl.where(is_left, values, float("-inf")), axis=0)
        index = tl.min(tl.where(is_left & (values == peak), indices, NO_INDEX), axis=0)
        is_left = is_left & (indices != index)
        y = (index // width).to(tl.int32)
        x = (index - y.to(index.dtype) * width).to(tl.int32)
        if ACTIVATION != "none" and not ARGMAX_ON_BLURRED:
            peak = activated(peak, largest, factor, ACTIVATION)
        score = peak
        if ARGMAX_ON_BLURRED:
            score = peak * scale
        refinable = (score > 0) & (largest < float("inf"))
        coord_x, coord_y, covariance_xx, covariance_xy, covariance_yy, scale = refine(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, map_ptr, heatmaps_stride_h, heatmaps_stride_w,
            largest, factor, height, width, y, x, peak, raw_maximum, scale, refinable,
            "none", ACTIVATION, STENCIL, PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX,
            MAX_OFFSET, EXTRA_SHIFT, KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4, FIT_RADIUS, FIT_WINDOW, TARGET_VARIANCE,
        )  # fmt: skip
        if MASS_RADIUS > 0:
            score = mass_around(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, map_ptr, heatmaps_stride_h, heatmaps_stride_w,
                largest, factor, height, width, y, x, largest, total, "none", ACTIVATION, MASS_RADIUS,
            )  # fmt: skip
        place = first_slot + number
        tl.store(coords_ptr + place * 2, coord_x)
        tl.store(coords_ptr + place * 2 + 1, coord_y)
        tl.store(scores_ptr + place, score * SCORE_SCALE + SCORE_OFFSET)
        if HAS_COVARIANCE:
            covariance_ptr = covariances_ptr + place * 4
            tl.store(covariance_ptr, covariance_xx)
            tl.store(covariance_ptr + 1, covariance_xy)
            tl.store(covariance_ptr + 2, covariance_xy)
            tl.store(covariance_ptr + 3, covariance_yy)


def launch_shape(
    num_pixels: int,
    element_size: int,
    lanes: int = 32,
    window: int = 16,
    fit_window: int = 16,
    on_blurred: bool = False,
) -> dict[str, Any]:
    """How a program goes about a map of that many pixels of that many bytes, with so many lanes a warp.

    As in decode: a warp a map, since the list and the refinements are chains of short steps, and two for large maps,
    of which there are few. `window`: of the blur; `fit_window`: of a fit, which stays in registers.
    """
    num_warps = 1 if num_pixels <= 16384 else 2
    scan_points = 8
    if on_blurred:  # a search of the whole blurred map has work for more, but a wide blur no registers
        num_warps = 4
        scan_points = 64 if window <= 32 else 16
    if window > 64:  # 16 rows of which fill the registers of a warp
        num_warps = max(num_warps, min(window // 32, 16))
    if fit_window > 16:
        num_warps = max(num_warps, 4)
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": 8,
        "SCAN_POINTS": scan_points,
        "num_warps": num_warps,
    }


def _num_registers(constants: dict[str, Any], wide_index: bool) -> int:
    """How many a thread may use. What would spill at 128: a fit, the more so of logits, and places of 64 bits."""
    if constants["STENCIL"] == "fit":
        return 184 if constants["ACTIVATION"] == "none" else 200
    return 168 if wide_index else 128


def find_peaks_fwd(
    coords: Tensor,  # [B, K, P, 2]
    scores: Tensor,  # [B, K, P]
    counts: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, P, 2, 2]; any tensor if not `covariance`
    heatmaps: Tensor,  # [B, K, H, W]
    max_peaks: int,
    threshold: float,
    window: int,
    plateau: str,
    *recipe_arguments: Any,
) -> None:
    """Fill the outputs (float32 and int64, contiguous). `recipe_arguments` as in `recipe_constants`."""
    with on_device_of(heatmaps):
        tensors = (coords, scores, counts, covariances, heatmaps)
        device, dtype, shape, strides = heatmaps.device, heatmaps.dtype, heatmaps.shape, heatmaps.stride()
        arguments = (max_peaks, threshold, window, plateau, *recipe_arguments)
        key = launch_key(_find_peaks_fwd_kernel, tensors, device, dtype, shape, strides, arguments)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, height, width = shape
        constants = recipe_constants(*recipe_arguments)
        about = lanes_of(device), constants["WINDOW"], constants["FIT_WINDOW"], constants["ARGMAX_ON_BLURRED"]
        program = launch_shape(height * width, heatmaps.element_size(), *about)
        flags = index_flags(heatmaps, heatmaps, program["BLOCK_SIZE"] * program["LOADS"])
        launch(
            _find_peaks_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*tensors, *strides, num_keypoints, height, width, height * width, max_peaks, threshold),
            {
                "LIST": triton.next_power_of_2(max_peaks),
                "SIDE": window,
                "PLATEAU": plateau,
                **flags,
                **program,
                **register_limit(_num_registers(constants, flags["WIDE_INDEX"])),
                **constants,
            },
            key,
        )
