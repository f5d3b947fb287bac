"""decode as one Triton kernel, with another before it where maps are interleaved, and its launcher."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import first_maximum, scan_blurred_map
from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of, register_limit
from .._triton.maps import activated, flipped_column, index_flags, load_rest, load_whole, mean_of, row_of
from .._triton.refine import recipe_constants, refine
from .._triton.totals import factor_of, mass_around, relative_to, sum_of_lanes, weight_of
from .options import NO_EXTRAS, Extras


@triton.jit
def _offset_in_flipped(index, stride_h, stride_w, width, IS_SMALL: tl.constexpr, FLIP: tl.constexpr):
    """Where the mirrored map's pixels for these of the map lie, from the last column of its first row."""
    row = row_of(index, width, IS_SMALL)
    return row * stride_h + flipped_column(index - row * width, FLIP) * stride_w


@triton.jit
def _load_step(
    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, width, index, exists,
    IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr, IS_WHOLE: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """A block of pixels, or of their means with those of the mirrored map; -inf where there is none."""
    if IS_WHOLE:
        value = load_whole(map_ptr, stride_h, stride_w, index, width, IS_FLAT, IS_SMALL)
    else:
        value = load_rest(map_ptr, stride_h, stride_w, index, exists, width, IS_FLAT, IS_SMALL)
    if FLIP != "none":
        offset = _offset_in_flipped(index, flipped_stride_h, flipped_stride_w, width, IS_SMALL, FLIP)
        flipped_pixel_ptr = flipped_ptr + offset
        if IS_WHOLE:
            flipped = tl.load(flipped_pixel_ptr)
        else:
            flipped = tl.load(flipped_pixel_ptr, mask=exists, other=float("-inf"))
        value = mean_of(value.to(tl.float32), flipped.to(tl.float32))
    return value


@triton.jit
def _scan_step(
    best,
    best_start,
    total,
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    last_pixel,
    width,
    start,
    lane,
    exists,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    FLIP: tl.constexpr,
    TOTAL: tl.constexpr,
):
    """LOADS blocks of pixels from `start` on."""
    best_before = best
    for part in tl.static_range(LOADS):
        block_start = start + part * BLOCK_SIZE
        index = block_start + lane
        value = _load_step(
            map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, width, index,
            exists & (index < last_pixel), IS_FLAT, IS_SMALL, IS_WHOLE, FLIP,
        )  # fmt: skip
        # Three instructions an element. One would do to keep the step alone and to look for the place in it
        # afterwards, but at the end of a map that takes longer than these do on the way.
        best_start = tl.where(value > best, block_start, best_start)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
        if TOTAL == "positive" or TOTAL == "sigmoid":
            total += weight_of(value, best, TOTAL)
    if TOTAL == "softmax":
        total = relative_to(total, best_before, best, TOTAL)
        for part in tl.static_range(LOADS):
            index = start + part * BLOCK_SIZE + lane
            # The same pixels, which the compiler has in registers still.
            value = _load_step(
                map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, width, index,
                exists & (index < last_pixel), IS_FLAT, IS_SMALL, IS_WHOLE, FLIP,
            )  # fmt: skip
            total += weight_of(value, best, TOTAL)
    return best, best_start, total


@triton.jit
def _scan_maps(
    map_ptr,  # [MAPS, 1]; this and the next five: see `_triton/maps.py`
    stride_h,
    stride_w,
    flipped_ptr,  # [MAPS, 1]
    flipped_stride_h,
    flipped_stride_w,
    first_pixel,
    last_pixel,
    width,
    exists,  # [MAPS, 1]
    MAPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    FLIP: tl.constexpr,
    TOTAL: tl.constexpr,
):
    """Value (float32) and flat index of the first maximum among the pixels from `first_pixel` to before `last_pixel`
    of each map, in row-major order, and what TOTAL sums (see `_triton/totals.py`), a softmax relative to that maximum;
    in one pass: [MAPS] each.

    Of a map with a NaN the value is NaN and the index some pixel of the map: it has no keypoint.
    """
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if WIDE_INDEX else 0x7FFFFFFF
    STEP: tl.constexpr = BLOCK_SIZE * LOADS
    AS_IT_IS: tl.constexpr = FLIP == "none" and map_ptr.dtype.element_ty != tl.bfloat16
    KIND: tl.constexpr = map_ptr.dtype.element_ty if AS_IT_IS else tl.float32
    lane = tl.arange(0, BLOCK_SIZE)[None, :]
    if WIDE_INDEX:
        lane = lane.to(tl.int64)
        first_pixel = first_pixel + tl.full([], 0, dtype=tl.int64)
        last_pixel = last_pixel + tl.full([], 0, dtype=tl.int64)
    best = tl.full([MAPS, BLOCK_SIZE], float("-inf"), dtype=KIND)
    best_start = tl.zeros([MAPS, BLOCK_SIZE], dtype=lane.dtype) + first_pixel
    total = tl.zeros([MAPS, BLOCK_SIZE], dtype=tl.float32)
    first_rest = first_pixel + (last_pixel - first_pixel) // STEP * STEP
    for start in range(first_pixel, first_rest, STEP):
        best, best_start, total = _scan_step(
            best, best_start, total, map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w,
            last_pixel, width, start, lane, exists, BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, MAPS == 1, FLIP, TOTAL,
        )  # fmt: skip
    if first_rest < last_pixel:
        best, best_start, total = _scan_step(
            best, best_start, total, map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w,
            last_pixel, width, first_rest, lane, exists, BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, False, FLIP, TOTAL,
        )  # fmt: skip

    is_nan = best != best
    largest = tl.max(tl.where(is_nan, float("-inf"), best).to(tl.float32), axis=1)
    # One minimum for both: -1 says that there is a NaN.
    holds_it = best.to(tl.float32) == largest[:, None]
    index = tl.min(tl.where(is_nan, -1, tl.where(holds_it, best_start + lane, NO_INDEX)), axis=1)
    has_nan = index < 0
    total = sum_of_lanes(total, best, largest[:, None], 1, TOTAL)
    return tl.where(has_nan, float("nan"), largest), tl.where(has_nan, first_pixel, index), total


@triton.jit
def _not_negative(variance):
    """A variance that rounding has not pushed below zero. NaN stays."""
    return tl.where(variance < 0, 0.0, variance)


@triton.jit
def _only(values):
    """The number in a tensor of one."""
    return tl.sum(values, axis=0)


@triton.jit
def _maps_of(
    heatmaps_ptr,
    heatmaps_stride_b,
    heatmaps_stride_k,
    flipped_ptr,
    flipped_stride_b,
    flipped_stride_k,
    flipped_stride_w,
    keypoint_indices_ptr,
    flip_indices_ptr,
    batch,
    keypoint,
    num_channels,
    width,
    FLIP: tl.constexpr,
    HAS_KEYPOINT_INDICES: tl.constexpr,
):
    """The first pixel of a keypoint's map, and the last one of the first row of its mirrored map.

    Indices on a device are not checked by the host, so they are held to the channels that there are.
    """
    channel = keypoint.to(tl.int64)
    if HAS_KEYPOINT_INDICES:
        channel = tl.minimum(tl.maximum(tl.load(keypoint_indices_ptr + channel), 0), num_channels - 1)
    map_ptr = heatmaps_ptr + (batch * heatmaps_stride_b + channel * heatmaps_stride_k)
    flipped_map_ptr = map_ptr
    if FLIP != "none":
        mirrored = tl.minimum(tl.maximum(tl.load(flip_indices_ptr + channel), 0), num_channels - 1)
        last_column = (width - 1) * flipped_stride_w
        flipped_map_ptr = flipped_ptr + (batch * flipped_stride_b + mirrored * flipped_stride_k + last_column)
    return map_ptr, flipped_map_ptr


@triton.jit(do_not_specialize=["num_keypoints", "num_channels", "num_parts"])
def _scan_parts_kernel(
    part_peaks_ptr,  # [B, K, num_parts]
    part_indices_ptr,  # [B, K, num_parts]
    part_totals_ptr,  # [B, K, num_parts], if TOTAL is not "none"
    heatmaps_ptr,  # this to `flip_indices_ptr` as in `_decode_fwd_kernel`
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    flipped_ptr,
    flipped_stride_b,
    flipped_stride_k,
    flipped_stride_h,
    flipped_stride_w,
    keypoint_indices_ptr,
    flip_indices_ptr,
    num_keypoints,
    num_channels,
    width,
    num_pixels,
    num_parts,
    PART_SIZE: tl.constexpr,
    MAPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    FLIP: tl.constexpr,
    HAS_KEYPOINT_INDICES: tl.constexpr,
    TOTAL: tl.constexpr,
):
    """First maxima of PART_SIZE pixels of MAPS maps of one image.

    For maps that are interleaved in memory: reading one alone would take a sector of 32 bytes for each of its pixels.
    Bytes it must move: B K H W elements read. What it moves: the same, and where K does not divide by MAPS the ends
    of runs a second time, from the L2 cache.
    """
    num_groups = tl.cdiv(num_keypoints, MAPS)
    program = tl.program_id(0)
    group = program % num_groups  # neighbours in memory run at the same time
    part = program // num_groups % num_parts
    batch = (program // num_groups // num_parts).to(tl.int64)
    keypoint = group * MAPS + tl.arange(0, MAPS)
    exists = keypoint < num_keypoints
    map_ptr, flipped_map_ptr = _maps_of(
        heatmaps_ptr, heatmaps_stride_b, heatmaps_stride_k,
        flipped_ptr, flipped_stride_b, flipped_stride_k, flipped_stride_w,
        keypoint_indices_ptr, flip_indices_ptr, batch, tl.minimum(keypoint, num_keypoints - 1), num_channels, width,
        FLIP, HAS_KEYPOINT_INDICES,
    )  # fmt: skip
    first_pixel = part * tl.full([], PART_SIZE, dtype=tl.int64 if WIDE_INDEX else tl.int32)
    peak, index, total = _scan_maps(
        map_ptr[:, None], heatmaps_stride_h, heatmaps_stride_w,
        flipped_map_ptr[:, None], flipped_stride_h, -flipped_stride_w,
        first_pixel, tl.minimum(first_pixel + PART_SIZE, num_pixels), width, exists[:, None],
        MAPS, BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, WIDE_INDEX, FLIP, TOTAL,
    )  # fmt: skip
    offset = (batch * num_keypoints + keypoint) * num_parts + part
    tl.store(part_peaks_ptr + offset, peak, mask=exists)
    tl.store(part_indices_ptr + offset, index, mask=exists)
    if TOTAL != "none":
        tl.store(part_totals_ptr + offset, total, mask=exists)


@triton.jit
def _join_parts(
    part_peaks_ptr, part_indices_ptr, part_totals_ptr, map_index, num_parts,
    BLOCK_PARTS: tl.constexpr, TOTAL: tl.constexpr,
):  # fmt: skip
    """Value and flat index of a map's first maximum, and its total, from those of its parts. NaN as in `_scan_maps`."""
    lane = tl.arange(0, BLOCK_PARTS)
    best = tl.full([BLOCK_PARTS], float("-inf"), dtype=tl.float32)
    best_index = tl.zeros([BLOCK_PARTS], dtype=part_indices_ptr.dtype.element_ty)
    total = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
    for start in range(0, num_parts, BLOCK_PARTS):
        exists = start + lane < num_parts
        offset = map_index * num_parts + start + lane
        peak = tl.load(part_peaks_ptr + offset, mask=exists, other=float("-inf"))
        index = tl.load(part_indices_ptr + offset, mask=exists, other=0)
        best_index = tl.where(peak > best, index, best_index)
        best_before = best
        best = tl.maximum(best, peak, propagate_nan=tl.PropagateNan.ALL)
        if TOTAL != "none":
            of_part = tl.load(part_totals_ptr + offset, mask=exists, other=0.0)
            total = relative_to(total, best_before, best, TOTAL) + relative_to(of_part, peak, best, TOTAL)
    largest, index = first_maximum(best, best_index, 0x7FFFFFFF if best_index.dtype == tl.int32 else 0x7FFFFFFFFFFFFFFF)
    return largest, index, sum_of_lanes(total, best, largest, 0, TOTAL)


@triton.jit(do_not_specialize=["num_keypoints", "num_channels", "num_parts"])
def _decode_fwd_kernel(
    coords_ptr,  # [B, K, 2]
    scores_ptr,  # [B, K]
    covariances_ptr,  # [B, K, 2, 2], if HAS_COVARIANCE
    heatmaps_ptr,  # [B, C, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    flipped_ptr,  # [B, C, H, W], if FLIP is not "none"
    flipped_stride_b,
    flipped_stride_k,
    flipped_stride_h,
    flipped_stride_w,
    offsets_ptr,  # [B, C, 2, H, W], if HAS_OFFSETS
    offsets_stride_b,
    offsets_stride_k,
    offsets_stride_c,
    offsets_stride_h,
    offsets_stride_w,
    transform_ptr,  # [B, 2, 3] contiguous, if HAS_TRANSFORM
    keypoint_indices_ptr,  # [K], if HAS_KEYPOINT_INDICES; else K = C
    flip_indices_ptr,  # [C], if FLIP is not "none"
    part_peaks_ptr,  # [B, K, num_parts], if HAS_PARTS
    part_indices_ptr,  # [B, K, num_parts], if HAS_PARTS
    part_totals_ptr,  # [B, K, num_parts], if HAS_PARTS and TOTAL is not "none"
    num_keypoints,
    num_channels,
    height,
    width,
    num_pixels,
    num_parts,
    HAS_PARTS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_SMALL: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    FLIP: tl.constexpr,
    HAS_KEYPOINT_INDICES: tl.constexpr,
    HAS_TRANSFORM: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    OFFSET_SCALE: tl.constexpr,
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
    """One program decodes one map.

    Bytes it must move: B K H W elements read, twice as many with a mirrored map for each, and B K (12 or 28) bytes
    written. What it moves from device memory: the same. After the scan it reads a patch of about (k + 4)^2 elements
    that the scan has just brought into the cache (twice for blurs of more than 11 pixels), or for a fit one of
    (2 r + 1)^2, and the other where the fit fails. The sum of a softmax, and of what a mass is a share of, is taken in
    the scan; the pixels of the mass's window are read from the cache.
    Only where a clip could bind, and where the recipe searches the blurred map, it walks the whole map a second time
    (see `needs_scale` in `_triton/refine.py`).

    Where HAS_PARTS `_scan_parts_kernel` has read the maps.
    """
    map_index = tl.program_id(0).to(tl.int64)
    if HAS_PARTS:  # the last maps first: they are in the cache still
        map_index = tl.num_programs(0) - 1 - map_index
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    map_ptr, flipped_map_ptr = _maps_of(
        heatmaps_ptr, heatmaps_stride_b, heatmaps_stride_k,
        flipped_ptr, flipped_stride_b, flipped_stride_k, flipped_stride_w,
        keypoint_indices_ptr, flip_indices_ptr, batch, keypoint, num_channels, width, FLIP, HAS_KEYPOINT_INDICES,
    )  # fmt: skip

    if HAS_PARTS:
        peak, index, total = _join_parts(
            part_peaks_ptr, part_indices_ptr, part_totals_ptr, map_index, num_parts, 16, TOTAL
        )
    else:
        zero = tl.zeros([1, 1], dtype=tl.int64)
        peaks, indices, totals = _scan_maps(
            map_ptr + zero, heatmaps_stride_h, heatmaps_stride_w,
            flipped_map_ptr + zero, flipped_stride_h, -flipped_stride_w, 0, num_pixels, width, zero == 0,
            1, BLOCK_SIZE, LOADS, IS_FLAT, IS_SMALL, WIDE_INDEX, FLIP, TOTAL,
        )  # fmt: skip
        peak = _only(peaks)
        index = _only(indices)
        total = _only(totals)
    scale = 1.0
    largest = peak  # of the map as it is
    factor = factor_of(largest, total, TOTAL)
    if ACTIVATION != "none":
        peak = activated(largest, largest, factor, ACTIVATION)
    raw_maximum = peak
    if ARGMAX_ON_BLURRED:
        peak, index = scan_blurred_map(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, flipped_map_ptr, flipped_stride_h, -flipped_stride_w,
            largest, factor, height, width, tl.full([], float("-inf"), dtype=tl.float32),
            (index // width).to(tl.int32), (index % width).to(tl.int32), TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            FLIP, ACTIVATION, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip
        # A map with a NaN has no peak. Its index, of which the scan says nothing then, must stay in the map.
        has_nan = raw_maximum != raw_maximum
        peak = tl.where(has_nan, raw_maximum, peak)
        index = tl.where(has_nan, 0, index)
        if RESCALE:
            scale = tl.where(peak > 0, raw_maximum / peak, 1.0)
            peak = peak * scale
    y = (index // width).to(tl.int32)
    x = (index - y.to(index.dtype) * width).to(tl.int32)

    # A NaN is not.
    if ACTIVATION == "none":
        valid = peak > 0
    else:
        valid = largest > float("-inf")
    refinable = valid & (largest < float("inf"))
    coord_x, coord_y, covariance_xx, covariance_xy, covariance_yy, _ = refine(
        map_ptr, heatmaps_stride_h, heatmaps_stride_w, flipped_map_ptr, flipped_stride_h, -flipped_stride_w,
        largest, factor, height, width, y, x, raw_maximum, raw_maximum, scale, refinable,
        FLIP, ACTIVATION, STENCIL, PADDING, RESCALE, ARGMAX_ON_BLURRED, HAS_COVARIANCE, CLIP_MIN, CLIP_MAX, MAX_OFFSET,
        EXTRA_SHIFT, KNOWN_VARIANCE, WINDOW, TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
        RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        FIT_RADIUS, FIT_WINDOW, TARGET_VARIANCE,
    )  # fmt: skip
    if HAS_OFFSETS:
        offset_ptr = offsets_ptr + batch * offsets_stride_b + keypoint * offsets_stride_k
        offset_ptr += y.to(tl.int64) * offsets_stride_h + x.to(tl.int64) * offsets_stride_w
        offset_x = tl.load(offset_ptr).to(tl.float32) * OFFSET_SCALE
        offset_y = tl.load(offset_ptr + offsets_stride_c).to(tl.float32) * OFFSET_SCALE
        moves = refinable & (tl.abs(offset_x) + tl.abs(offset_y) < float("inf"))
        coord_x += tl.where(moves, offset_x, 0.0)
        coord_y += tl.where(moves, offset_y, 0.0)
    if HAS_TRANSFORM:
        matrix_ptr = transform_ptr + batch * 6
        xx = tl.load(matrix_ptr).to(tl.float32)
        xy = tl.load(matrix_ptr + 1).to(tl.float32)
        yx = tl.load(matrix_ptr + 3).to(tl.float32)
        yy = tl.load(matrix_ptr + 4).to(tl.float32)
        image_x = xx * coord_x + xy * coord_y + tl.load(matrix_ptr + 2).to(tl.float32)
        coord_y = yx * coord_x + yy * coord_y + tl.load(matrix_ptr + 5).to(tl.float32)
        coord_x = image_x
        if HAS_COVARIANCE:
            # The matrix times the covariance, and that times the matrix's transpose.
            left_x = xx * covariance_xx + xy * covariance_xy
            right_x = xx * covariance_xy + xy * covariance_yy
            left_y = yx * covariance_xx + yy * covariance_xy
            right_y = yx * covariance_xy + yy * covariance_yy
            covariance_xx = _not_negative(xx * left_x + xy * right_x)
            covariance_xy = yx * left_x + yy * right_x
            covariance_yy = _not_negative(yx * left_y + yy * right_y)
    tl.store(coords_ptr + map_index * 2, tl.where(valid, coord_x, INVALID))
    tl.store(coords_ptr + map_index * 2 + 1, tl.where(valid, coord_y, INVALID))
    if MASS_RADIUS > 0:
        peak = mass_around(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, flipped_map_ptr, flipped_stride_h, -flipped_stride_w,
            largest, factor, height, width, y, x, largest, total, FLIP, ACTIVATION, MASS_RADIUS,
        )  # fmt: skip
    tl.store(scores_ptr + map_index, peak * SCORE_SCALE + SCORE_OFFSET)
    if HAS_COVARIANCE:
        covariance_ptr = covariances_ptr + map_index * 4
        tl.store(covariance_ptr, covariance_xx)
        tl.store(covariance_ptr + 1, covariance_xy)
        tl.store(covariance_ptr + 2, covariance_xy)
        tl.store(covariance_ptr + 3, covariance_yy)


def launch_shape(
    num_pixels: int,
    element_size: int,
    lanes: int = 32,
    on_blurred: bool = False,
    window: int = 16,
    has_flipped: bool = False,
    fit_window: int = 16,
    total: str = "none",
) -> dict[str, Any]:
    """How a program goes about a map of that many pixels of that many bytes, with so many lanes a warp.

    What follows the scan is a chain of short steps on few numbers, which more warps would only repeat: a warp a map,
    and many maps an SM. Large maps are few, and get two. 128 bytes a thread under way, 256 where elements are
    small, with some 20 warps, are more than the 25 KB that a memory of 4.8 TB/s and 700 ns needs on each SM; more
    warps than that are slower again, since maps then end all at once (measured: benchmarks/profile_decode.md).
    """
    num_warps = 1 if num_pixels <= 16384 else 2
    if on_blurred:  # a search of the whole blurred map has work for more
        num_warps = 4
    if window > 64:  # 16 rows of which fill the registers of a warp
        num_warps = max(num_warps, min(window // 32, 16))
    if fit_window > 16:  # all of which stays in registers
        num_warps = max(num_warps, 4)
    loads = 16 if element_size == 2 and 4096 < num_pixels <= 16384 else 8
    if total == "softmax":  # whose pixels stay in registers until the step's largest is known
        loads = 8
    if has_flipped:  # a mirrored pixel is a load of its own, and its address takes registers
        loads = element_size
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": loads,
        "SCAN_POINTS": 64 if on_blurred else 8,
        "num_warps": num_warps,
    }


# A part of interleaved maps, and how a program goes about it: runs of 128 bytes in float32.
_PARTS_SHAPE = {"PART_SIZE": 768, "MAPS": 32, "BLOCK_SIZE": 16, "LOADS": 8, "num_warps": 4}


def decode_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, 2, 2]; any tensor if not `covariance`
    heatmaps: Tensor,  # [B, C, H, W]
    *arguments: Any,
    extras: Extras = NO_EXTRAS,
) -> None:
    """Fill the outputs (float32, contiguous). `arguments` as in `recipe_constants`."""
    with on_device_of(heatmaps):
        _, stride_k, _, stride_w = heatmaps.stride()
        is_interleaved = stride_k == 1 and stride_w > 1 and heatmaps.shape[1] > 1  # as in channels_last
        maps: tuple[Tensor, ...] = (heatmaps,) * 6  # any tensors stand for those that are not there
        about_extras = None
        if extras is not NO_EXTRAS:
            maps, about_extras = _maps_and_indices(heatmaps, extras), _properties(extras)
        parts = (scores, scores, scores)
        if is_interleaved:
            parts = _scan_parts(scores.shape, maps, extras, about_extras, recipe_constants(*arguments)["TOTAL"])
        tensors = (coords, scores, covariances, *maps, *parts)
        device, dtype, shape, strides = heatmaps.device, heatmaps.dtype, heatmaps.shape, heatmaps.stride()
        key = launch_key(_decode_fwd_kernel, tensors, device, dtype, shape, strides, arguments, about_extras)
        if launch_again(key, tensors):
            return
        batch, num_keypoints = scores.shape
        num_channels, height, width = shape[1:]
        constants = recipe_constants(*arguments)
        on_blurred = constants["ARGMAX_ON_BLURRED"]
        about = (lanes_of(device), on_blurred, constants["WINDOW"], extras.flipped is not None, constants["FIT_WINDOW"])
        program = launch_shape(height * width, heatmaps.element_size(), *about, constants["TOTAL"])
        _, flipped, offsets, transform, keypoint_indices, flip_indices = maps
        offset_strides = offsets.stride() if offsets.dim() == 5 else (0, 0, 0, 0, 0)
        num_parts = parts[0].shape[2] if is_interleaved else 0
        launch(
            _decode_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (
                *(coords, scores, covariances, heatmaps, *strides, flipped, *flipped.stride()),
                *(offsets, *offset_strides, transform, keypoint_indices, flip_indices, *parts),
                *(num_keypoints, num_channels, height, width, height * width, num_parts),
            ),
            {
                "HAS_PARTS": is_interleaved,
                **index_flags(heatmaps, flipped, program["BLOCK_SIZE"] * program["LOADS"]),
                **program,
                **register_limit(_num_registers(constants, extras.flip)),
                "FLIP": extras.flip,
                "HAS_KEYPOINT_INDICES": extras.keypoint_indices is not None,
                "HAS_TRANSFORM": extras.image_transform is not None,
                "HAS_OFFSETS": extras.offsets is not None,
                "OFFSET_SCALE": extras.offset_scale,
                **constants,
            },
            key,
        )


def _num_registers(constants: dict[str, Any], flip: str) -> int:
    """How many a thread may use. What would spill at 96: a search in tiles with a wide halo or of what is activated,
    logits and masses of two maps, and a fit."""
    on_blurred, is_activated = constants["ARGMAX_ON_BLURRED"], constants["ACTIVATION"] != "none"
    if flip != "none" and (is_activated or constants["TOTAL"] != "none"):
        return 152
    if constants["STENCIL"] == "fit" or (on_blurred and (constants["HALO_SIDE"] > 32 or is_activated)):
        return 128
    return 96


def _maps_and_indices(heatmaps: Tensor, extras: Extras) -> tuple[Tensor, ...]:
    """heatmaps, flipped, offsets, image_transform, keypoint_indices and flip_indices; the heatmaps in place of what is
    not there."""
    transform = extras.image_transform
    others = (
        extras.flipped,
        extras.offsets,
        None if transform is None else transform.contiguous(),
        None if extras.keypoint_indices is None else extras.keypoint_indices.contiguous(),
        None if extras.flip_indices is None else extras.flip_indices.contiguous(),
    )
    return (heatmaps, *(heatmaps if tensor is None else tensor for tensor in others))


def _properties(extras: Extras) -> Hashable:
    """What tells extras from others but for the contents of tensors, which are on one device."""
    return tuple((value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else value for value in extras)


def _scan_parts(
    shape: torch.Size, maps: tuple[Tensor, ...], extras: Extras, about_extras: Hashable, total: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and flat indices of the first maxima of the parts of each map, and what `total` sums: [B, K, parts] each,
    or any tensor in place of the last if that is nothing. `shape`: [B, K]."""
    heatmaps, flipped, _, _, keypoint_indices, flip_indices = maps
    batch, num_keypoints = shape
    num_channels, height, width = heatmaps.shape[1:]
    num_pixels = height * width
    program = _PARTS_SHAPE
    num_parts = triton.cdiv(num_pixels, program["PART_SIZE"])
    flags = index_flags(heatmaps, flipped, program["PART_SIZE"] + program["BLOCK_SIZE"] * program["LOADS"])
    peaks = heatmaps.new_empty((batch, num_keypoints, num_parts), dtype=torch.float32)
    indices = torch.empty_like(peaks, dtype=torch.int64 if flags["WIDE_INDEX"] else torch.int32)
    totals = peaks if total == "none" else torch.empty_like(peaks)
    tensors = (peaks, indices, totals, heatmaps, flipped, keypoint_indices, flip_indices)
    device, dtype, strides = heatmaps.device, heatmaps.dtype, heatmaps.stride()
    key = launch_key(_scan_parts_kernel, tensors, device, dtype, heatmaps.shape, strides, about_extras, total)
    if launch_again(key, tensors):
        return peaks, indices, totals
    launch(
        _scan_parts_kernel,
        (batch * num_parts * triton.cdiv(num_keypoints, program["MAPS"]), 1, 1),
        (
            *(peaks, indices, totals, heatmaps, *strides, flipped, *flipped.stride(), keypoint_indices, flip_indices),
            *(num_keypoints, num_channels, width, num_pixels, num_parts),
        ),
        {
            **flags,
            **program,
            "FLIP": extras.flip,
            "HAS_KEYPOINT_INDICES": extras.keypoint_indices is not None,
            "TOTAL": total,
        },
        key,
    )
    return peaks, indices, totals
