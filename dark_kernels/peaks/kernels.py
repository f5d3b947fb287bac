"""find_peaks as one Triton kernel, and its launcher."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import blur_points
from .._triton.covariance import store_covariance
from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of
from .._triton.maps import (
    Map,
    Maps,
    Scan,
    activated,
    clamped,
    heatmaps_of,
    index_flags,
    load_logits,
    load_pixels,
    load_rest,
    load_whole,
    row_of,
)
from .._triton.peak import Peak, Recipe
from .._triton.refine import fit_lanes, recipe_constants, refine
from .._triton.registers import register_limit
from .._triton.search import bound_of_tile, scan_blurred_map
from .._triton.totals import mass_around, relative_to, softmax_of, sum_of_lanes, total_of, weight_of
from ..recipes import OperatorRecipe
from .options import Rule


class Place(NamedTuple):
    """Rows and columns of pixels."""

    y: Any
    x: Any


class Blocks(NamedTuple):
    """The pixels of a map, to walk over in blocks."""

    lane: Any  # [BLOCK_SIZE]
    first_pixel: Any
    last_pixel: Any  # the one behind them


class PeakList(NamedTuple):
    """The best peaks so far, in any order."""

    levels: Any  # [LENGTH] their values
    indices: Any  # [LENGTH] their pixels; numbers beyond all pixels where there is none; no two are equal
    floor: Any  # the smallest of `levels`


class Square(NamedTuple):
    """The rule by which a pixel is a peak, a constant."""

    SIDE: int  # of the square in which it stands out
    PLATEAU: str


@triton.jit
def _load_step(maps, index, last_pixel, IS_WHOLE: tl.constexpr, SCAN: tl.constexpr):
    """A block of pixels; -inf where there is none."""
    if IS_WHOLE:
        value = load_whole(maps, index, SCAN)
    else:
        value = load_rest(maps, index, index < last_pixel, SCAN)
    return value


@triton.jit
def _scan_step(best, total, maps, blocks, start, IS_WHOLE: tl.constexpr, SCAN: tl.constexpr):
    """The largest pixel that each lane sees in LOADS blocks from `start` on, NaN if one is; and the total with these
    pixels (see `_triton/totals.py`), a softmax relative to the largest so far: [BLOCK_SIZE], float32.

    `best`, `total`: of the lanes before.
    """
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    LOADS: tl.constexpr = SCAN.LOADS
    TOTAL: tl.constexpr = SCAN.TOTAL
    OF_PIXELS: tl.constexpr = maps.plain.ptr.dtype.element_ty
    KIND: tl.constexpr = OF_PIXELS if OF_PIXELS != tl.bfloat16 else tl.float32
    highest = tl.full([BLOCK_SIZE], float("-inf"), dtype=KIND)
    for part in tl.static_range(LOADS):
        value = _load_step(maps, start + part * BLOCK_SIZE + blocks.lane, blocks.last_pixel, IS_WHOLE, SCAN)
        highest = tl.maximum(highest, value, propagate_nan=tl.PropagateNan.ALL)
        if TOTAL == "positive" or TOTAL == "sigmoid":
            total += weight_of(value, highest, TOTAL)
    highest = highest.to(tl.float32)
    if TOTAL == "softmax":
        better = tl.maximum(best, highest, propagate_nan=tl.PropagateNan.ALL)
        total = relative_to(total, best, better, TOTAL)
        for part in tl.static_range(LOADS):
            # The same pixels, which the compiler has in registers still.
            value = _load_step(maps, start + part * BLOCK_SIZE + blocks.lane, blocks.last_pixel, IS_WHOLE, SCAN)
            total += weight_of(value, better, TOTAL)
    return highest, total


@triton.jit
def _lowest_logit(threshold, softmax, ACTIVATION: tl.constexpr):
    """A bound that a logit exceeds if its activation exceeds the threshold: less by all that roundings account for."""
    MARGIN: tl.constexpr = 0.01
    lower = threshold * (1 - 1e-5)
    if ACTIVATION == "sigmoid":
        lowest = tl.where(lower < 1, tl.log(lower) - tl.log(1 - lower) - MARGIN, float("inf"))
    else:
        margin = MARGIN + 1e-6 * tl.abs(softmax.largest)
        lowest = softmax.largest + tl.log(lower) - tl.log(softmax.factor) - margin
        lowest = tl.where(softmax.largest < float("inf"), lowest, float("-inf"))
    return tl.where(threshold > 0, lowest, float("-inf"))


@triton.jit
def _is_inside(place, maps):
    return (place.y >= 0) & (place.y < maps.height) & (place.x >= 0) & (place.x < maps.width)


@triton.jit
def _exceeds(value, beside, place, neighbour, maps, PLATEAU: tl.constexpr):
    """Compare pixels with one neighbour each, `beside`. Where there is none, beyond the border, all stand out."""
    inside = _is_inside(neighbour, maps)
    # The pixel may be its own neighbour, and equals itself by every rule.
    if PLATEAU == "first":
        may_equal = (neighbour.y > place.y) | ((neighbour.y == place.y) & (neighbour.x >= place.x))
    elif PLATEAU == "all":
        may_equal = inside
    else:
        may_equal = (neighbour.y == place.y) & (neighbour.x == place.x)
    exceeds = (value > beside) | ((value == beside) & may_equal)
    return tl.where(inside, exceeds, True)


@triton.jit
def _stands_out(maps, index, value, is_peak, SQUARE: tl.constexpr, USES_RECIPROCAL: tl.constexpr):
    """Keep of the pixels that may be peaks those that are. Their neighbours are read, and no others."""
    PLATEAU: tl.constexpr = SQUARE.PLATEAU
    REACH: tl.constexpr = SQUARE.SIDE // 2
    y = row_of(index, maps.width, USES_RECIPROCAL)
    x = index - y * maps.width
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            neighbour = Place(y + dy, x + dx)
            beside = load_logits(maps, neighbour.y, neighbour.x, _is_inside(neighbour, maps) & is_peak, False)
            is_peak = is_peak & _exceeds(value, beside, Place(y, x), neighbour, maps, PLATEAU)
    return is_peak


@triton.jit
def _insert(
    best_peaks,  # PeakList
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
    values = best_peaks.levels
    indices = best_peaks.indices
    floor = best_peaks.floor
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
    return PeakList(values, indices, floor)


@triton.jit
def _keep_best(best_peaks, maps, blocks, start, NO_INDEX: tl.constexpr, SQUARE: tl.constexpr, SCAN: tl.constexpr):
    """The list after the peaks of a block. Blocks come in the order of their pixels."""
    index = start + blocks.lane
    exists = index < blocks.last_pixel
    value = load_rest(maps, index, exists, SCAN).to(tl.float32)
    is_peak = exists & (value > best_peaks.floor)
    best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    if best > best_peaks.floor:
        is_peak = _stands_out(maps, index, value, is_peak, SQUARE, SCAN.USES_RECIPROCAL)
        best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    return _insert(best_peaks, value, index, is_peak, best, True, NO_INDEX)


@triton.jit
def _first_place_of(number, maps, blocks, NO_INDEX: tl.constexpr, SCAN: tl.constexpr):
    """The flat index of the first pixel with that value."""
    places = tl.full([SCAN.BLOCK_SIZE], NO_INDEX, dtype=blocks.lane.dtype)
    for start in range(blocks.first_pixel, blocks.last_pixel, SCAN.BLOCK_SIZE):
        index = start + blocks.lane
        value = load_rest(maps, index, index < blocks.last_pixel, SCAN).to(tl.float32)
        places = tl.minimum(places, tl.where(value == number, index, NO_INDEX))
    return tl.min(places, axis=0)


@triton.jit
def _stands_out_of_blurred(
    maps,
    place,  # [N], which may lie beyond the map
    floor,
    scale,
    threshold,
    SQUARE: tl.constexpr,
    BLUR: tl.constexpr,
):
    """The blurred map at N pixels, and which of them are peaks: not below `floor`, and above the threshold once they
    are scaled.

    Neighbours are blurred anew, as long as any of the N may be a peak. One loop, and in it one place in the code, blurs
    pixels and neighbours, so that equal surroundings give equal numbers whatever a compiler makes of it.
    """
    PLATEAU: tl.constexpr = SQUARE.PLATEAU
    SIDE: tl.constexpr = SQUARE.SIDE
    REACH: tl.constexpr = SIDE // 2
    NUM_NEIGHBOURS: tl.constexpr = SIDE * SIDE
    is_peak = (place.y < maps.height) & (place.x < maps.width)
    value = tl.full([place.y.shape[0]], float("-inf"), dtype=tl.float32)
    for number in range(0, NUM_NEIGHBOURS):
        which = (number + NUM_NEIGHBOURS // 2) % NUM_NEIGHBOURS  # the pixel itself comes first
        neighbour = Place(place.y + (which // SIDE - REACH), place.x + (which % SIDE - REACH))
        if tl.max(is_peak.to(tl.int32), axis=0) > 0:
            beside = blur_points(maps, clamped(neighbour.y, maps.height), clamped(neighbour.x, maps.width), BLUR)
            if number == 0:
                value = beside
                is_peak = is_peak & (value >= floor) & (value * scale > threshold)
            is_peak = is_peak & _exceeds(value, beside, place, neighbour, maps, PLATEAU)
    return value, is_peak


@triton.jit
def _search_blurred_map(
    best_peaks,  # PeakList
    maps,
    scale,  # what the blurred map is multiplied with before it is compared with the threshold
    threshold,
    NO_INDEX: tl.constexpr,
    SQUARE: tl.constexpr,
    BLUR: tl.constexpr,
):
    """The list after the peaks of the whole blurred map, before it is scaled, of a map without NaN.

    A tile is blurred only if one of the pixels that it sees could lift a pixel of it above the threshold and into the
    list.
    """
    SIDE: tl.constexpr = BLUR.TILE_SIDE
    lane = tl.arange(0, BLUR.POINTS_AT_ONCE)
    tiles_across = tl.cdiv(maps.width, SIDE)
    num_tiles = tl.cdiv(maps.height, SIDE) * tiles_across
    for tile in range(0, num_tiles):
        top = tile // tiles_across * SIDE
        left = tile % tiles_across * SIDE
        bound = bound_of_tile(maps, top, left, BLUR)
        if (bound >= best_peaks.floor) & (bound * scale > threshold):
            for part in range(0, SIDE * SIDE, BLUR.POINTS_AT_ONCE):
                place = Place(top + (part + lane) // SIDE, left + (part + lane) % SIDE)
                value, is_peak = _stands_out_of_blurred(maps, place, best_peaks.floor, scale, threshold, SQUARE, BLUR)
                index = place.y.to(best_peaks.indices.dtype) * maps.width + place.x
                best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
                best_peaks = _insert(best_peaks, value, index, is_peak, best, False, NO_INDEX)
    return best_peaks


@triton.jit(do_not_specialize=["num_keypoints", "max_peaks", "threshold"])
def _find_peaks_fwd_kernel(
    coords_ptr,  # [B, K, P, 2]
    scores_ptr,  # [B, K, P]
    counts_ptr,  # [B, K]
    covariances_ptr,  # [B, K, P, 2, 2], or None
    heatmaps,  # Heatmaps [B, K, H, W]
    num_keypoints,
    height,
    width,
    num_pixels,
    max_peaks,
    threshold,
    LENGTH: tl.constexpr,  # of the list: a power of two, at least max_peaks
    SQUARE: tl.constexpr,
    SCAN: tl.constexpr,
    RECIPE: tl.constexpr,
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
    BLUR: tl.constexpr = RECIPE.BLUR
    ACTIVATION: tl.constexpr = BLUR.READING.ACTIVATION
    ON_BLURRED: tl.constexpr = RECIPE.FIELDS.argmax_on == "blurred"
    SEARCHES_AT_ONCE: tl.constexpr = ACTIVATION != "softmax" and not ON_BLURRED
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if SCAN.WIDE_INDEX else 0x7FFFFFFF
    STEP: tl.constexpr = BLOCK_SIZE * SCAN.LOADS
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    map_ptr = heatmaps.ptr + (batch * heatmaps.stride_b + keypoint * heatmaps.stride_k)
    plain = Map(map_ptr, heatmaps.stride_h, heatmaps.stride_w)
    maps = Maps(plain, None, height, width, None)

    slot = tl.arange(0, LENGTH)
    first_pixel = tl.full([], 0, dtype=tl.int64 if SCAN.WIDE_INDEX else tl.int32)
    last_pixel = first_pixel + num_pixels
    blocks = Blocks(first_pixel + tl.arange(0, BLOCK_SIZE), first_pixel, last_pixel)
    # Of a list that is not full the worst is the threshold itself. Lanes beyond P are never the worst.
    lowest = threshold + tl.zeros([LENGTH], dtype=tl.float32)
    if ACTIVATION == "sigmoid":
        lowest = _lowest_logit(lowest, None, ACTIVATION)
    if not SEARCHES_AT_ONCE:  # what exceeds the threshold is scaled, and the list is not
        lowest = tl.full([LENGTH], float("-inf"), dtype=tl.float32)
    values = tl.where(slot < max_peaks, lowest, float("inf"))
    best_peaks = PeakList(values, NO_INDEX - (first_pixel + slot), tl.min(values, axis=0))
    raw_maxima = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    totals = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for start in range(first_pixel, last_pixel, STEP):
        if start + STEP <= last_pixel:
            highest, totals = _scan_step(raw_maxima, totals, maps, blocks, start, True, SCAN)
        else:
            highest, totals = _scan_step(raw_maxima, totals, maps, blocks, start, False, SCAN)
        raw_maxima = tl.maximum(raw_maxima, highest, propagate_nan=tl.PropagateNan.ALL)
        if SEARCHES_AT_ONCE:
            if tl.max(highest, axis=0) > best_peaks.floor:
                for block_start in range(start, tl.minimum(start + STEP, last_pixel), BLOCK_SIZE):
                    best_peaks = _keep_best(best_peaks, maps, blocks, block_start, NO_INDEX, SQUARE, SCAN)

    # A map with a NaN has no peaks, whatever was found in it.
    has_nan = tl.max((raw_maxima != raw_maxima).to(tl.int32), axis=0) > 0
    largest = tl.max(raw_maxima, axis=0)
    total = sum_of_lanes(totals, raw_maxima, largest, 0, SCAN.TOTAL)
    softmax = None
    if ACTIVATION == "softmax":
        softmax = softmax_of(largest, total)
    maps = Maps(plain, None, height, width, softmax)
    raw_maximum = activated(largest, softmax, ACTIVATION)
    scale = tl.full([], 1.0, dtype=tl.float32)  # of the blurred map, or 1 if it is not known
    if ON_BLURRED:
        if has_nan == 0:
            if RECIPE.FIELDS.rescale:
                index = _first_place_of(largest, maps, blocks, NO_INDEX, SCAN)
                y = (index // width).to(tl.int32)
                nothing_yet = tl.full([], float("-inf"), dtype=tl.float32)
                x = (index % width).to(tl.int32)
                blurred_maximum = scan_blurred_map(maps, nothing_yet, raw_maximum, y, x, SCAN, BLUR).value
                scale = tl.where(blurred_maximum > 0, raw_maximum / blurred_maximum, 1.0)
            best_peaks = _search_blurred_map(best_peaks, maps, scale, threshold, NO_INDEX, SQUARE, BLUR)
    elif not SEARCHES_AT_ONCE:
        lowest = _lowest_logit(threshold + tl.zeros([LENGTH], dtype=tl.float32), softmax, ACTIVATION)
        values = tl.where(slot < max_peaks, lowest, float("inf"))
        best_peaks = PeakList(values, best_peaks.indices, tl.min(values, axis=0))
        for block_start in range(first_pixel, last_pixel, BLOCK_SIZE):
            best_peaks = _keep_best(best_peaks, maps, blocks, block_start, NO_INDEX, SQUARE, SCAN)
    is_left = (best_peaks.indices < last_pixel) & (has_nan == 0)
    if ACTIVATION != "none" and not ON_BLURRED:
        is_left = is_left & (activated(best_peaks.levels, softmax, ACTIVATION) > threshold)
    count = tl.sum(is_left.to(tl.int32), axis=0)
    tl.store(counts_ptr + map_index, count.to(tl.int64))
    first_slot = map_index * max_peaks
    is_unused = (slot >= count) & (slot < max_peaks)
    tl.store(coords_ptr + (first_slot + slot) * 2, RECIPE.FIELDS.invalid, mask=is_unused)
    tl.store(coords_ptr + (first_slot + slot) * 2 + 1, RECIPE.FIELDS.invalid, mask=is_unused)
    tl.store(scores_ptr + first_slot + slot, 0.0, mask=is_unused)
    if RECIPE.HAS_COVARIANCE:
        for element in tl.static_range(4):
            tl.store(covariances_ptr + (first_slot + slot) * 4 + element, float("nan"), mask=is_unused)

    for number in range(0, count):
        peak = tl.max(tl.where(is_left, best_peaks.levels, float("-inf")), axis=0)
        index = tl.min(tl.where(is_left & (best_peaks.levels == peak), best_peaks.indices, NO_INDEX), axis=0)
        is_left = is_left & (best_peaks.indices != index)
        y = (index // width).to(tl.int32)
        x = (index - y.to(index.dtype) * width).to(tl.int32)
        if ACTIVATION != "none" and not ON_BLURRED:
            peak = activated(peak, softmax, ACTIVATION)
        score = peak
        if ON_BLURRED:
            score = peak * scale
            peak = tl.maximum(load_pixels(maps, y, x, None, BLUR.READING), 0.0)  # of the raw map
        refinable = (score > 0) & (largest < float("inf"))
        refined = refine(maps, Peak(y, x, peak, raw_maximum, scale, refinable), RECIPE)
        scale = refined.scale
        if RECIPE.FIELDS.mass_radius > 0:
            score = mass_around(maps, y, x, largest, total, BLUR.READING, RECIPE.FIELDS.mass_radius)
        place = first_slot + number
        tl.store(coords_ptr + place * 2, refined.x)
        tl.store(coords_ptr + place * 2 + 1, refined.y)
        tl.store(scores_ptr + place, score * RECIPE.FIELDS.score_scale + RECIPE.FIELDS.score_offset)
        if RECIPE.HAS_COVARIANCE:
            store_covariance(covariances_ptr + place * 4, refined.covariance)


def launch_shape(
    num_pixels: int,
    element_size: int,
    lanes: int = 32,
    window: int = 16,
    fit_window: int = 16,
    on_blurred: bool = False,
) -> dict[str, Any]:
    """Choose how a program goes about a map of that many pixels of that many bytes, with so many lanes a warp.

    As in decode: a warp a map, since the list and the refinements are chains of short steps, and two for large maps,
    of which there are few. `window`: of the blur; `fit_window`: of a fit, which stays in registers.
    """
    num_warps = 1 if num_pixels <= 16384 else 2
    points_at_once = 8
    if on_blurred:  # a search of the whole blurred map has work for more, but a wide blur no registers
        num_warps = 4
        points_at_once = 64 if window <= 32 else 16
    if window > 64:  # 16 rows of which fill the registers of a warp
        num_warps = max(num_warps, min(window // 32, 16))
    if fit_window > 16:
        num_warps = max(num_warps, min((fit_window // 16) ** 2, 8))
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": 8,
        "POINTS_AT_ONCE": points_at_once,
        "num_warps": num_warps,
    }


def _work_of(recipe: Recipe, wide_index: bool) -> str:
    """Name the work by what takes registers: a fit, logits, and places of 64 bits."""
    is_activated = recipe.FIELDS.activation != "none"
    if recipe.FIELDS.stencil == "fit":
        return "find_peaks, fit of logits" if is_activated else "find_peaks, fit"
    if recipe.FIELDS.stencil == "gaussian":
        return "find_peaks, blob" if recipe.FIT_WINDOW < 64 else "find_peaks, wide blob"
    if wide_index:
        return "find_peaks, wide index"
    return "find_peaks of logits" if is_activated else "find_peaks"


def find_peaks_fwd(
    coords: Tensor,  # [B, K, P, 2]
    scores: Tensor,  # [B, K, P]
    counts: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, P, 2, 2]; any tensor if not `covariance`
    heatmaps: Tensor,  # [B, K, H, W]
    rule: Rule,
    fields: OperatorRecipe,
    covariance: bool,
) -> None:
    """Fill the outputs (float32 and int64, contiguous)."""
    with on_device_of(heatmaps):
        outputs = (coords, scores, counts, covariances if covariance else None)
        tensors = (*(tensor for tensor in outputs if tensor is not None), heatmaps)
        device, dtype, shape, strides = heatmaps.device, heatmaps.dtype, heatmaps.shape, heatmaps.stride()
        key = launch_key(_find_peaks_fwd_kernel, tensors, device, dtype, shape, strides, rule, fields, covariance)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, height, width = shape
        recipe = recipe_constants(fields, covariance)
        about = lanes_of(device), recipe.BLUR.WINDOW, recipe.FIT_WINDOW, recipe.FIELDS.argmax_on == "blurred"
        program = launch_shape(height * width, heatmaps.element_size(), *about)
        block_size, loads = program["BLOCK_SIZE"], program["LOADS"]
        scan = Scan(block_size, loads, **index_flags(heatmaps, None, block_size * loads), TOTAL=total_of(fields))
        strip = lanes_of(device) * program["num_warps"]
        blur = recipe.BLUR._replace(POINTS_AT_ONCE=program["POINTS_AT_ONCE"], STRIP=strip)
        launch(
            _find_peaks_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*outputs, heatmaps_of(heatmaps), num_keypoints, height, width, height * width, *rule[:2]),
            {
                "LENGTH": triton.next_power_of_2(rule.max_peaks),
                "SQUARE": Square(rule.window, rule.plateau),
                "SCAN": scan,
                "RECIPE": recipe._replace(BLUR=blur, FIT_LANES=fit_lanes(recipe, strip)),
                "num_warps": program["num_warps"],
                **register_limit(_work_of(recipe, scan.WIDE_INDEX)),
            },
            key,
        )
