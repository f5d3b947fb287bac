"""decode as one Triton kernel, with another before it where maps are interleaved, and its launcher."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import blur_points, blur_stencil, first_maximum, scan_blurred_map, tap_constants
from .._triton.launch import REGISTER_LIMIT, lanes_of, launch, launch_again, launch_key, on_device_of
from .._triton.logs import clip_may_bind, log_ratio
from ..recipes import blur_taps


@triton.jit
def _offset_of(index, stride_h, stride_w, width, IS_FLAT: tl.constexpr):
    """Where pixels lie, from the start of their map."""
    if IS_FLAT:
        offset = index * stride_w
    else:
        row = index // width
        offset = row * stride_h + (index - row * width) * stride_w
    return offset


@triton.jit
def _comparable(value):
    """Values in a type that a GPU compares in one instruction, and exactly."""
    if value.dtype == tl.bfloat16:
        value = value.to(tl.float32)
    return value


@triton.jit
def _load_whole(map_ptr, index, stride_h, stride_w, width, IS_FLAT: tl.constexpr):
    """Pixels of maps, all of which exist: the loads of the streaming loop."""
    return _comparable(tl.load(map_ptr + _offset_of(index, stride_h, stride_w, width, IS_FLAT)))


@triton.jit
def _load_rest(map_ptr, index, last_pixel, exists, stride_h, stride_w, width, IS_FLAT: tl.constexpr):
    """Pixels of maps before the last one, of maps that exist; else -inf."""
    offset = _offset_of(index, stride_h, stride_w, width, IS_FLAT)
    return _comparable(tl.load(map_ptr + offset, mask=exists & (index < last_pixel), other=float("-inf")))


@triton.jit
def _scan_step(
    best,
    best_start,
    map_ptr,
    stride_h,
    stride_w,
    last_pixel,
    width,
    start,
    lane,
    exists,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    """LOADS blocks of pixels from `start` on."""
    for part in tl.static_range(LOADS):
        block_start = start + part * BLOCK_SIZE
        if IS_WHOLE:
            value = _load_whole(map_ptr, block_start + lane, stride_h, stride_w, width, IS_FLAT)
        else:
            value = _load_rest(map_ptr, block_start + lane, last_pixel, exists, stride_h, stride_w, width, IS_FLAT)
        # Three instructions an element. One would do to keep the step alone and to look for the place in it
        # afterwards, but at the end of a map that takes longer than these do on the way.
        best_start = tl.where(value > best, block_start, best_start)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    return best, best_start


@triton.jit
def _scan_maps(
    map_ptr,  # [MAPS, 1]
    stride_h,
    stride_w,
    first_pixel,
    last_pixel,
    width,
    exists,  # [MAPS, 1]
    MAPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """Value (float32) and flat index of the first maximum among the pixels from `first_pixel` to before `last_pixel`
    of each map, in row-major order and in one pass: [MAPS] each.

    Of a map with a NaN the value is NaN and the index some pixel of the map: it has no keypoint.
    """
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if WIDE_INDEX else 0x7FFFFFFF
    STEP: tl.constexpr = BLOCK_SIZE * LOADS
    KIND: tl.constexpr = tl.float32 if map_ptr.dtype.element_ty == tl.bfloat16 else map_ptr.dtype.element_ty
    lane = tl.arange(0, BLOCK_SIZE)[None, :]
    if WIDE_INDEX:
        lane = lane.to(tl.int64)
        first_pixel = first_pixel + tl.full([], 0, dtype=tl.int64)
        last_pixel = last_pixel + tl.full([], 0, dtype=tl.int64)
    best = tl.full([MAPS, BLOCK_SIZE], float("-inf"), dtype=KIND)
    best_start = tl.zeros([MAPS, BLOCK_SIZE], dtype=lane.dtype) + first_pixel
    first_rest = first_pixel + (last_pixel - first_pixel) // STEP * STEP
    for start in range(first_pixel, first_rest, STEP):
        best, best_start = _scan_step(
            best, best_start, map_ptr, stride_h, stride_w, last_pixel, width, start, lane, exists,
            BLOCK_SIZE, LOADS, IS_FLAT, MAPS == 1,
        )  # fmt: skip
    if first_rest < last_pixel:
        best, best_start = _scan_step(
            best, best_start, map_ptr, stride_h, stride_w, last_pixel, width, first_rest, lane, exists,
            BLOCK_SIZE, LOADS, IS_FLAT, False,
        )  # fmt: skip

    is_nan = best != best
    largest = tl.max(tl.where(is_nan, float("-inf"), best).to(tl.float32), axis=1)
    # One minimum for both: -1 says that there is a NaN.
    holds_it = best.to(tl.float32) == largest[:, None]
    index = tl.min(tl.where(is_nan, -1, tl.where(holds_it, best_start + lane, NO_INDEX)), axis=1)
    has_nan = index < 0
    return tl.where(has_nan, float("nan"), largest), tl.where(has_nan, first_pixel, index)


@triton.jit
def _only(values):
    """The number in a tensor of one."""
    return tl.sum(values, axis=0)


@triton.jit
def _pixel_or_edge(map_ptr, stride_h, stride_w, height, width, y, x):
    y = tl.minimum(tl.maximum(y, 0), height - 1).to(tl.int64)
    x = tl.minimum(tl.maximum(x, 0), width - 1).to(tl.int64)
    return tl.load(map_ptr + y * stride_h + x * stride_w).to(tl.float32)


@triton.jit
def _sign_or_zero(difference):
    """-1, 0 or 1; 0 for NaN, as of two infinite neighbours."""
    return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))


@triton.jit
def _weighted_sum(points, lane, plus_a, plus_b, minus_a, minus_b):
    """Of 16 points two added and two subtracted. A lane of -1 stands for none."""
    is_added = (lane == plus_a) | (lane == plus_b)
    is_subtracted = (lane == minus_a) | (lane == minus_b)
    return tl.sum(tl.where(is_added, points, tl.where(is_subtracted, -points, 0.0)), axis=0)


@triton.jit(do_not_specialize=["num_keypoints", "num_parts"])
def _scan_parts_kernel(
    part_peaks_ptr,  # [B, K, num_parts]
    part_indices_ptr,  # [B, K, num_parts]
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    num_keypoints,
    width,
    num_pixels,
    num_parts,
    PART_SIZE: tl.constexpr,
    MAPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LOADS: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
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
    map_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint.to(tl.int64) * heatmaps_stride_k
    first_pixel = part * tl.full([], PART_SIZE, dtype=tl.int64 if WIDE_INDEX else tl.int32)
    peak, index = _scan_maps(
        map_ptr[:, None], heatmaps_stride_h, heatmaps_stride_w, first_pixel,
        tl.minimum(first_pixel + PART_SIZE, num_pixels), width, exists[:, None],
        MAPS, BLOCK_SIZE, LOADS, IS_FLAT, WIDE_INDEX,
    )  # fmt: skip
    offset = (batch * num_keypoints + keypoint) * num_parts + part
    tl.store(part_peaks_ptr + offset, peak, mask=exists)
    tl.store(part_indices_ptr + offset, index, mask=exists)


@triton.jit
def _join_parts(part_peaks_ptr, part_indices_ptr, map_index, num_parts, BLOCK_PARTS: tl.constexpr):
    """Value and flat index of a map's first maximum, from those of its parts. NaN as in `_scan_maps`."""
    lane = tl.arange(0, BLOCK_PARTS)
    best = tl.full([BLOCK_PARTS], float("-inf"), dtype=tl.float32)
    best_index = tl.zeros([BLOCK_PARTS], dtype=part_indices_ptr.dtype.element_ty)
    for start in range(0, num_parts, BLOCK_PARTS):
        exists = start + lane < num_parts
        offset = map_index * num_parts + start + lane
        peak = tl.load(part_peaks_ptr + offset, mask=exists, other=float("-inf"))
        index = tl.load(part_indices_ptr + offset, mask=exists, other=0)
        best_index = tl.where(peak > best, index, best_index)
        best = tl.maximum(best, peak, propagate_nan=tl.PropagateNan.ALL)
    return first_maximum(best, best_index, 0x7FFFFFFF if best_index.dtype == tl.int32 else 0x7FFFFFFFFFFFFFFF)


@triton.jit(do_not_specialize=["num_keypoints", "num_parts"])
def _decode_fwd_kernel(
    coords_ptr,  # [B, K, 2]
    scores_ptr,  # [B, K]
    covariances_ptr,  # [B, K, 2, 2]
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    part_peaks_ptr,  # [B, K, num_parts], if HAS_PARTS
    part_indices_ptr,  # [B, K, num_parts], if HAS_PARTS
    num_keypoints,
    height,
    width,
    num_pixels,
    num_parts,
    HAS_PARTS: tl.constexpr,
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
):
    """One program decodes one map.

    Bytes it must move: B K H W elements read, B K (12 or 28) bytes written. What it moves from device
    memory: the same. After the scan it reads a patch of about (k + 4)^2 elements that the scan has just
    brought into the cache. Only where a clip could bind, and where the recipe searches the blurred map, it
    walks the whole map a second time (see `needs_scale` below).

    Where HAS_PARTS `_scan_parts_kernel` has read the maps.
    """
    map_index = tl.program_id(0).to(tl.int64)
    if HAS_PARTS:  # the last maps first: they are in the cache still
        map_index = tl.num_programs(0) - 1 - map_index
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    map_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k

    if HAS_PARTS:
        peak, index = _join_parts(part_peaks_ptr, part_indices_ptr, map_index, num_parts, 16)
    else:
        zero = tl.zeros([1, 1], dtype=tl.int64)
        peaks, indices = _scan_maps(
            map_ptr + zero, heatmaps_stride_h, heatmaps_stride_w, 0, num_pixels, width, zero == 0,
            1, BLOCK_SIZE, LOADS, IS_FLAT, WIDE_INDEX,
        )  # fmt: skip
        peak = _only(peaks)
        index = _only(indices)
    scale = 1.0
    raw_maximum = peak
    if ARGMAX_ON_BLURRED:
        peak, index = scan_blurred_map(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, tl.full([], float("-inf"), dtype=tl.float32),
            (index // width).to(tl.int32), (index % width).to(tl.int32), TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES,
            PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
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

    valid = peak > 0  # a NaN is not
    refinable = valid & (raw_maximum < float("inf"))
    offset_x = 0.0
    offset_y = 0.0

    if STENCIL == "wide" or STENCIL == "compact":
        # The points of the stencil, in lanes: 0 is the peak, then right, left, below, above, ...
        lane = tl.arange(0, 16)
        if STENCIL == "wide":
            refinable = refinable & (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
        points, center = blur_stencil(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, y, x, raw_maximum, lane,
            WINDOW, STENCIL == "wide", PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip
        used = lane < (13 if STENCIL == "wide" else 7)

        if RESCALE and not ARGMAX_ON_BLURRED:
            lowest = tl.min(tl.where(used, points, float("inf")), axis=0)
            needs_scale = refinable & clip_may_bind(lowest, peak, CLIP_MIN, CLIP_MAX)
            if needs_scale:
                known = tl.max(tl.where(used, points, float("-inf")), axis=0)
                blurred_maximum, _ = scan_blurred_map(
                    map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, known, y, x,
                    TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES, PADDING,
                    RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
                )  # fmt: skip
                scale = tl.where(blurred_maximum > 0, peak / blurred_maximum, 1.0)

        clipped = tl.minimum(tl.maximum(points * scale, CLIP_MIN), CLIP_MAX)
        center = tl.minimum(tl.maximum(center * scale, CLIP_MIN), CLIP_MAX)
        # Relative to the centre, whose own log is then zero.
        logs = tl.where(used, log_ratio(clipped, center), 0.0)
        dx = _weighted_sum(logs, lane, 1, -1, 2, -1) / 2
        dy = _weighted_sum(logs, lane, 3, -1, 4, -1) / 2
        if STENCIL == "wide":
            dxx = _weighted_sum(logs, lane, 9, 10, -1, -1) / 4
            dyy = _weighted_sum(logs, lane, 11, 12, -1, -1) / 4
            dxy = _weighted_sum(logs, lane, 5, 6, 7, 8) / 4
            solved_xx = dxx
            solved_yy = dyy
        else:
            dxx = _weighted_sum(logs, lane, 1, 2, -1, -1)
            dyy = _weighted_sum(logs, lane, 3, 4, -1, -1)
            dxy = (_weighted_sum(logs, lane, 5, 6, -1, -1) - dxx - dyy) / 2
            solved_xx = dxx + 1.1920929e-7  # as UDP's published code does, so that a flat map has an inverse
            solved_yy = dyy + 1.1920929e-7
        determinant = solved_xx * solved_yy - dxy * dxy
        offset_x = (dxy * dy - solved_yy * dx) / determinant
        offset_y = (dxy * dx - solved_xx * dy) / determinant
        refinable = refinable & (determinant != 0) & (tl.abs(offset_x) + tl.abs(offset_y) < float("inf"))

        if HAS_COVARIANCE:
            determinant = dxx * dyy - dxy * dxy
            covariance_xx = -dyy / determinant - KNOWN_VARIANCE
            covariance_yy = -dxx / determinant - KNOWN_VARIANCE
            covariance_xy = dxy / determinant
            exists = refinable & (dxx < 0) & (determinant > 0)
            exists = exists & (covariance_xx >= 0) & (covariance_yy >= 0)
            exists = exists & (covariance_xx * covariance_yy >= covariance_xy * covariance_xy)
            exists = exists & (covariance_xx + covariance_yy < float("inf"))
            covariance_ptr = covariances_ptr + map_index * 4
            tl.store(covariance_ptr, tl.where(exists, covariance_xx, float("nan")))
            tl.store(covariance_ptr + 1, tl.where(exists, covariance_xy, float("nan")))
            tl.store(covariance_ptr + 2, tl.where(exists, covariance_xy, float("nan")))
            tl.store(covariance_ptr + 3, tl.where(exists, covariance_yy, float("nan")))

    elif STENCIL == "quarter" or STENCIL == "quarter_legacy":
        if ARGMAX_ON_BLURRED:
            side = tl.arange(0, 4)  # right, left, below, above
            sign = 1 - 2 * (side % 2)
            beside_y = y + tl.where(side < 2, 0, sign)
            beside_x = x + tl.where(side < 2, sign, 0)
            blurred = blur_points(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width,
                tl.minimum(tl.maximum(beside_y, 0), height - 1), tl.minimum(tl.maximum(beside_x, 0), width - 1),
                LANES, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
            difference_x = tl.sum(tl.where(side < 2, blurred * sign, 0.0), axis=0)
            difference_y = tl.sum(tl.where(side < 2, 0.0, blurred * sign), axis=0)
        else:
            difference_x = _pixel_or_edge(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, y, x + 1
            ) - _pixel_or_edge(map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, y, x - 1)
            difference_y = _pixel_or_edge(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, y + 1, x
            ) - _pixel_or_edge(map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, y - 1, x)
        inside_x = (x > 1) & (x < width - 1)
        inside_y = (y > 1) & (y < height - 1)
        if STENCIL == "quarter":
            moves_x = inside_x & (y > 0)
            moves_y = inside_y & (x > 0)
        else:
            moves_x = inside_x & inside_y
            moves_y = moves_x
        offset_x = tl.where(moves_x, 0.25 * _sign_or_zero(difference_x) + EXTRA_SHIFT, 0.0)
        offset_y = tl.where(moves_y, 0.25 * _sign_or_zero(difference_y) + EXTRA_SHIFT, 0.0)

    if MAX_OFFSET != float("inf"):
        offset_x = tl.minimum(tl.maximum(offset_x, -MAX_OFFSET), MAX_OFFSET)
        offset_y = tl.minimum(tl.maximum(offset_y, -MAX_OFFSET), MAX_OFFSET)
    coord_x = tl.where(refinable, x + offset_x, x.to(tl.float32))
    coord_y = tl.where(refinable, y + offset_y, y.to(tl.float32))
    tl.store(coords_ptr + map_index * 2, tl.where(valid, coord_x, INVALID))
    tl.store(coords_ptr + map_index * 2 + 1, tl.where(valid, coord_y, INVALID))
    tl.store(scores_ptr + map_index, peak * SCORE_SCALE + SCORE_OFFSET)


# How far a stencil reaches from the peak on the blurred map.
_REACH = {"wide": 2, "compact": 1}
# The blurred map is searched in square tiles.
_TILE_SIDE = 16


@functools.lru_cache(maxsize=64)
def _recipe_constants(
    kernel_size: int,
    sigma: float,
    padding: str,
    rescale: bool,
    clip_min: float,
    clip_max: float,
    stencil: str,
    argmax_on_blurred: bool,
    invalid: float,
    max_offset: float,
    extra_shift: float,
    score_scale: float,
    score_offset: float,
    known_variance: float,
    covariance: bool,
) -> dict[str, Any]:
    """The constexprs that follow from a recipe."""
    radius = kernel_size // 2
    taps = blur_taps(kernel_size, sigma)
    return {
        "STENCIL": stencil,
        "PADDING": padding,
        "RESCALE": rescale,
        "ARGMAX_ON_BLURRED": argmax_on_blurred,
        "HAS_COVARIANCE": covariance,
        "CLIP_MIN": clip_min,
        "CLIP_MAX": clip_max,
        "INVALID": invalid,
        "MAX_OFFSET": max_offset,
        "EXTRA_SHIFT": extra_shift,
        "SCORE_SCALE": score_scale,
        "SCORE_OFFSET": score_offset,
        "KNOWN_VARIANCE": known_variance,
        "WINDOW": max(16, triton.next_power_of_2(2 * (radius + _REACH.get(stencil, 0)) + 1)),
        "TILE_SIDE": _TILE_SIDE,
        "HALO_SIDE": triton.next_power_of_2(_TILE_SIDE + 2 * radius),
        "LANES": triton.next_power_of_2(radius + 1),
        **tap_constants(taps),
    }


def launch_shape(
    num_pixels: int, element_size: int, lanes: int = 32, on_blurred: bool = False, window: int = 16
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
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": 16 if element_size == 2 and 4096 < num_pixels <= 16384 else 8,
        "SCAN_POINTS": 64 if on_blurred else 8,
        "num_warps": num_warps,
    }


# A part of interleaved maps, and how a program goes about it: runs of 128 bytes in float32.
_PARTS_SHAPE = {"PART_SIZE": 768, "MAPS": 32, "BLOCK_SIZE": 16, "LOADS": 8, "num_warps": 4}


def decode_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, 2, 2]; any tensor if not `covariance`
    heatmaps: Tensor,  # [B, K, H, W]
    *arguments: Any,
) -> None:
    """Fill the outputs (float32, contiguous). `arguments` as in `_recipe_constants`."""
    with on_device_of(heatmaps):
        _, stride_k, _, stride_w = heatmaps.stride()
        is_interleaved = stride_k == 1 and stride_w > 1 and heatmaps.shape[1] > 1  # as in channels_last
        parts = _scan_parts(heatmaps) if is_interleaved else (scores, scores)
        tensors = (coords, scores, covariances, heatmaps, *parts)
        device, dtype, shape, strides = heatmaps.device, heatmaps.dtype, heatmaps.shape, heatmaps.stride()
        key = launch_key(_decode_fwd_kernel, tensors, device, dtype, shape, strides, arguments)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, height, width = shape
        constants = _recipe_constants(*arguments)
        about = (lanes_of(device), constants["ARGMAX_ON_BLURRED"], constants["WINDOW"])
        program = launch_shape(height * width, heatmaps.element_size(), *about)
        num_parts = parts[0].shape[2] if is_interleaved else 0
        launch(
            _decode_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*tensors[:4], *strides, *parts, num_keypoints, height, width, height * width, num_parts),
            {
                "HAS_PARTS": is_interleaved,
                **_index_flags(heatmaps, program["BLOCK_SIZE"] * program["LOADS"]),
                **program,
                **REGISTER_LIMIT,
                **constants,
            },
            key,
        )


def _index_flags(heatmaps: Tensor, step: int) -> dict[str, bool]:
    """How pixels are counted. `step`: how many pixels beyond a map's last one are computed with."""
    height, width = heatmaps.shape[2:]
    stride_h, stride_w = heatmaps.stride()[2:]
    return {
        "IS_FLAT": stride_h == width * stride_w,
        # 32-bit offsets inside a map unless its last pixel, or the step behind it, lies beyond 2^31.
        "WIDE_INDEX": (height - 1) * stride_h + (width - 1) * stride_w + step * max(stride_w, 1) >= 2**31
        or height * width + step >= 2**31,
    }


def _scan_parts(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Values and flat indices of the first maxima of the parts of each map: [B, K, parts]."""
    batch, num_keypoints, height, width = heatmaps.shape
    num_pixels = height * width
    shape = _PARTS_SHAPE
    num_parts = triton.cdiv(num_pixels, shape["PART_SIZE"])
    flags = _index_flags(heatmaps, shape["PART_SIZE"] + shape["BLOCK_SIZE"] * shape["LOADS"])
    peaks = heatmaps.new_empty((batch, num_keypoints, num_parts), dtype=torch.float32)
    indices = torch.empty_like(peaks, dtype=torch.int64 if flags["WIDE_INDEX"] else torch.int32)
    tensors = (peaks, indices, heatmaps)
    device, dtype, strides = heatmaps.device, heatmaps.dtype, heatmaps.stride()
    key = launch_key(_scan_parts_kernel, tensors, device, dtype, heatmaps.shape, strides)
    if launch_again(key, tensors):
        return peaks, indices
    launch(
        _scan_parts_kernel,
        (batch * num_parts * triton.cdiv(num_keypoints, shape["MAPS"]), 1, 1),
        (*tensors, *strides, num_keypoints, width, num_pixels, num_parts),
        {**flags, **shape},
        key,
    )
    return peaks, indices
