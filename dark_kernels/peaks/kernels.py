"""find_peaks as one Triton kernel, and its launcher."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of, register_limit
from .._triton.maps import index_flags, load_pixels, load_rest, load_whole
from .._triton.refine import recipe_constants, refine


@triton.jit
def _highest_of_step(
    map_ptr, stride_h, stride_w, start, lane, last_pixel, width,
    BLOCK_SIZE: tl.constexpr, LOADS: tl.constexpr, IS_FLAT: tl.constexpr, IS_WHOLE: tl.constexpr,
):  # fmt: skip
    """The largest pixel that each lane sees in LOADS blocks from `start` on, NaN if one is: [BLOCK_SIZE], float32."""
    AS_IT_IS: tl.constexpr = map_ptr.dtype.element_ty != tl.bfloat16
    KIND: tl.constexpr = map_ptr.dtype.element_ty if AS_IT_IS else tl.float32
    highest = tl.full([BLOCK_SIZE], float("-inf"), dtype=KIND)
    for part in tl.static_range(LOADS):
        index = start + part * BLOCK_SIZE + lane
        if IS_WHOLE:
            value = load_whole(map_ptr, stride_h, stride_w, index, width, IS_FLAT)
        else:
            value = load_rest(map_ptr, stride_h, stride_w, index, index < last_pixel, width, IS_FLAT)
        highest = tl.maximum(highest, value, propagate_nan=tl.PropagateNan.ALL)
    return highest.to(tl.float32)


@triton.jit
def _stands_out(
    map_ptr, stride_h, stride_w, height, width, index, value, is_peak, SIDE: tl.constexpr, PLATEAU: tl.constexpr
):
    """Which of the pixels that may be peaks are. Their neighbours are read, and no others."""
    REACH: tl.constexpr = SIDE // 2
    y = index // width
    x = index - y * width
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            beside_y = y + dy
            beside_x = x + dx
            inside = (beside_y >= 0) & (beside_y < height) & (beside_x >= 0) & (beside_x < width)
            beside = load_pixels(
                map_ptr, stride_h, stride_w, map_ptr, stride_h, stride_w, beside_y, beside_x, inside & is_peak, "none"
            )
            # The pixel is among them, and equals itself by every rule.
            if PLATEAU == "first":
                may_equal = (beside_y > y) | ((beside_y == y) & (beside_x >= x))
            elif PLATEAU == "all":
                may_equal = inside
            else:
                may_equal = (beside_y == y) & (beside_x == x)
            exceeds = (value > beside) | ((value == beside) & may_equal)
            is_peak = is_peak & tl.where(inside, exceeds, True)
    return is_peak


@triton.jit
def _keep_best(
    values,  # [LIST] the best peaks so far, in any order
    indices,  # [LIST] their pixels; numbers beyond all pixels where there is none; no two are equal
    floor,  # the smallest of `values`
    map_ptr,
    stride_h,
    stride_w,
    height,
    width,
    start,
    lane,  # [BLOCK_SIZE]
    last_pixel,
    IS_FLAT: tl.constexpr,
    SIDE: tl.constexpr,
    PLATEAU: tl.constexpr,
    NO_INDEX: tl.constexpr,
):
    """The list after the peaks of a block, each of which takes the place of the worst one if it is better.

    Blocks come in the order of their pixels, and the peaks of a block by value, equal ones in the order of their
    pixels. So a peak that equals the worst of the list comes behind it, and leaves it alone.
    """
    index = start + lane
    exists = index < last_pixel
    value = load_rest(map_ptr, stride_h, stride_w, index, exists, width, IS_FLAT).to(tl.float32)
    is_peak = exists & (value > floor)
    best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    if best > floor:
        is_peak = _stands_out(map_ptr, stride_h, stride_w, height, width, index, value, is_peak, SIDE, PLATEAU)
        best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
    while best > floor:
        first = tl.min(tl.where(is_peak & (value == best), index, NO_INDEX), axis=0)
        worst = tl.max(tl.where(values == floor, indices, -1), axis=0)
        values = tl.where(indices == worst, best, values)
        indices = tl.where(indices == worst, first, indices)
        floor = tl.min(values, axis=0)
        is_peak = is_peak & (index != first)
        best = tl.max(tl.where(is_peak, value, float("-inf")), axis=0)
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
):
    """One program finds the peaks of one map.

    Bytes it must move: B K H W elements read, and B K (P (12 or 28) + 8) bytes written. What it moves from device
    memory: the same. The best peaks stay in registers. A step of the scan in which no pixel exceeds the threshold and
    the worst of the best is over with one maximum of all its pixels. Else its blocks are read once more from the cache,
    and of the pixels that exceed it the neighbours: a map full of peaks takes more time, and no more bytes. Each
    refinement reads a patch of about (k + 4)^2 elements of the map that has just been read, and where a clip could
    bind the whole map (see `needs_scale` in `_triton/refine.py`).
    """
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
    values = tl.where(slot < max_peaks, threshold + tl.zeros([LIST], dtype=tl.float32), float("inf"))
    indices = NO_INDEX - (first_pixel + slot)
    floor = tl.min(values, axis=0)
    raw_maxima = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    for start in range(first_pixel, last_pixel, STEP):
        if start + STEP <= last_pixel:
            highest = _highest_of_step(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, start, lane, last_pixel, width,
                BLOCK_SIZE, LOADS, IS_FLAT, True,
            )  # fmt: skip
        else:
            highest = _highest_of_step(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, start, lane, last_pixel, width,
                BLOCK_SIZE, LOADS, IS_FLAT, False,
            )  # fmt: skip
        raw_maxima = tl.maximum(raw_maxima, highest, propagate_nan=tl.PropagateNan.ALL)
        if tl.max(highest, axis=0) > floor:
            for block_start in range(start, tl.minimum(start + STEP, last_pixel), BLOCK_SIZE):
                values, indices, floor = _keep_best(
                    values, indices, floor, map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, block_start,
                    lane, last_pixel, IS_FLAT, SIDE, PLATEAU, NO_INDEX,
                )  # fmt: skip

    # A map with a NaN has no peaks, whatever was found in it.
    has_nan = tl.max((raw_maxima != raw_maxima).to(tl.int32), axis=0) > 0
    raw_maximum = tl.max(raw_maxima, axis=0)
    is_left = (indices < last_pixel) & (has_nan == 0)
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

    scale = tl.full([], 1.0, dtype=tl.float32)
    for number in range(0, count):
        peak = tl.max(tl.where(is_left, values, float("-inf")), axis=0)
        index = tl.min(tl.where(is_left & (values == peak), indices, NO_INDEX), axis=0)
        is_left = is_left & (indices != index)
        y = (index // width).to(tl.int32)
        x = (index - y.to(index.dtype) * width).to(tl.int32)
        refinable = (peak > 0) & (raw_maximum < float("inf"))
        coord_x, coord_y, covariance_xx, covariance_xy, covariance_yy, scale = refine(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, map_ptr, heatmaps_stride_h, heatmaps_stride_w,
            height, width, y, x, peak, raw_maximum, scale, refinable,
            "none", STENCIL, PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX, MAX_OFFSET,
            EXTRA_SHIFT, KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4, FIT_RADIUS, FIT_WINDOW, TARGET_VARIANCE,
        )  # fmt: skip
        place = first_slot + number
        tl.store(coords_ptr + place * 2, coord_x)
        tl.store(coords_ptr + place * 2 + 1, coord_y)
        tl.store(scores_ptr + place, peak * SCORE_SCALE + SCORE_OFFSET)
        if HAS_COVARIANCE:
            covariance_ptr = covariances_ptr + place * 4
            tl.store(covariance_ptr, covariance_xx)
            tl.store(covariance_ptr + 1, covariance_xy)
            tl.store(covariance_ptr + 2, covariance_xy)
            tl.store(covariance_ptr + 3, covariance_yy)


def launch_shape(
    num_pixels: int, element_size: int, lanes: int = 32, window: int = 16, fit_window: int = 16
) -> dict[str, Any]:
    """How a program goes about a map of that many pixels of that many bytes, with so many lanes a warp.

    As in decode: a warp a map, since the list and the refinements are chains of short steps, and two for large maps,
    of which there are few. `window`: of the blur; `fit_window`: of a fit, which stays in registers.
    """
    num_warps = 1 if num_pixels <= 16384 else 2
    if window > 64:  # 16 rows of which fill the registers of a warp
        num_warps = min(window // 32, 16)
    if fit_window > 16:
        num_warps = max(num_warps, 4)
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": 8,
        "SCAN_POINTS": 8,
        "num_warps": num_warps,
    }


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
        windows = constants["WINDOW"], constants["FIT_WINDOW"]
        program = launch_shape(height * width, heatmaps.element_size(), lanes_of(device), *windows)
        launch(
            _find_peaks_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*tensors, *strides, num_keypoints, height, width, height * width, max_peaks, threshold),
            {
                "LIST": triton.next_power_of_2(max_peaks),
                "SIDE": window,
                "PLATEAU": plateau,
                **index_flags(heatmaps, heatmaps, program["BLOCK_SIZE"] * program["LOADS"]),
                **program,
                **register_limit(128),
                **constants,
            },
            key,
        )
