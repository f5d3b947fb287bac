"""decode as one Triton kernel, and its launcher."""

from __future__ import annotations

import functools
import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import blur_points, first_maximum, scan_blurred_map
from .._triton.launch import REGISTER_LIMIT, on_device_of
from ..recipes import blur_taps


@triton.jit
def _scan_map(
    map_ptr,
    stride_h,
    stride_w,
    num_pixels,
    width,
    BLOCK_SIZE: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """Value and flat index of a map's first maximum in row-major order, in one pass.

    Of a map with a NaN the value is NaN and the index some pixel of the map: it has no keypoint.
    """
    lane = tl.arange(0, BLOCK_SIZE)
    if WIDE_INDEX:
        lane = lane.to(tl.int64)
        num_pixels = num_pixels + tl.full([], 0, dtype=tl.int64)
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if WIDE_INDEX else 0x7FFFFFFF
    best = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    best_start = lane * 0
    for start in range(0, num_pixels, BLOCK_SIZE):
        index = start + lane
        if IS_FLAT:
            offset = index * stride_w
        else:
            row = index // width
            offset = row * stride_h + (index - row * width) * stride_w
        value = tl.load(map_ptr + offset, mask=index < num_pixels, other=float("-inf")).to(tl.float32)
        # Three instructions an element: at half precision a GPU reads nearly as fast as it computes these.
        best_start = tl.where(value > best, start, best_start)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    return first_maximum(best, best_start + lane, NO_INDEX)


@triton.jit
def _stencil_point(lane, PACKED: tl.constexpr, REACH: tl.constexpr):
    """One coordinate of the stencil's points, relative to the peak. Four bits a point, see `_pack`."""
    return ((PACKED >> (lane * 4).to(tl.int64)) & 15).to(tl.int32) - REACH


@triton.jit
def _log_ratio(value, center):
    """log(value / center), exact to float32 rounding where the two are close.

    The derivatives are differences of logs that differ little. Hardware logarithms have an absolute error
    near 1, so close values take the series of 2 artanh(z) instead; at |z| = 1/4 its remainder is 5e-9.
    """
    z = (0.5 * value - 0.5 * center) / (0.5 * value + 0.5 * center)  # halves: a sum could overflow
    square = z * z
    series = 1.0 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square * (1 / 11)))))
    # Of two logs and not of the ratio, which could underflow.
    return tl.where(tl.abs(z) < 0.25, 2.0 * z * series, tl.log(value) - tl.log(center))


@triton.jit
def _pixel_or_edge(map_ptr, stride_h, stride_w, height, width, y, x):
    y = tl.minimum(tl.maximum(y, 0), height - 1).to(tl.int64)
    x = tl.minimum(tl.maximum(x, 0), width - 1).to(tl.int64)
    return tl.load(map_ptr + y * stride_h + x * stride_w).to(tl.float32)


@triton.jit
def _sign_or_zero(difference):
    """-1, 0 or 1; 0 for NaN, as of two infinite neighbours."""
    return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))


@triton.jit(do_not_specialize=["num_keypoints"])
def _decode_fwd_kernel(
    coords_ptr,  # [B, K, 2]
    scores_ptr,  # [B, K]
    covariances_ptr,  # [B, K, 2, 2]
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    num_keypoints,
    height,
    width,
    num_pixels,
    BLOCK_SIZE: tl.constexpr,
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
    REACH: tl.constexpr,
    POINTS: tl.constexpr,
    USED_POINTS: tl.constexpr,
    POINTS_Y: tl.constexpr,
    POINTS_X: tl.constexpr,
    TILE_SIDE: tl.constexpr,
    HALO_SIDE: tl.constexpr,
    SCAN_POINTS: tl.constexpr,
    UNROLL: tl.constexpr,
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
    """
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    map_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k

    peak, index = _scan_map(
        map_ptr, heatmaps_stride_h, heatmaps_stride_w, num_pixels, width, BLOCK_SIZE, IS_FLAT, WIDE_INDEX
    )
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
        lane = tl.arange(0, POINTS)
        used = lane < USED_POINTS
        step_y = _stencil_point(lane, POINTS_Y, REACH)
        step_x = _stencil_point(lane, POINTS_X, REACH)
        if STENCIL == "wide":
            refinable = refinable & (x >= 2) & (x <= width - 3) & (y >= 2) & (y <= height - 3)
        blurred = blur_points(
            map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width,
            tl.minimum(tl.maximum(y + step_y, 0), height - 1), tl.minimum(tl.maximum(x + step_x, 0), width - 1),
            LANES, UNROLL, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip

        if RESCALE and not ARGMAX_ON_BLURRED:
            # The log of a rescaled map differs from the log of the map by a constant, which the derivatives
            # do not see, unless a clip binds. The scale lies between 1 (an average never exceeds the largest
            # value) and peak / max(points). So no clip binds if CLIP_MIN <= points and peak <= CLIP_MAX, and
            # all points clip to one number if peak <= CLIP_MIN or CLIP_MAX <= points. MARGIN is generous: a
            # map sent the exact way without need costs time and not accuracy.
            MARGIN: tl.constexpr = 1e-5
            lowest = tl.min(tl.where(used, blurred, float("inf")), axis=0)
            low_binds = (lowest < CLIP_MIN * (1 + MARGIN)) & (peak > CLIP_MIN * (1 - MARGIN))
            high_binds = (peak > CLIP_MAX * (1 - MARGIN)) & (lowest < CLIP_MAX * (1 + MARGIN))
            needs_scale = refinable & (low_binds | high_binds)
            if needs_scale:
                known = tl.max(tl.where(used, blurred, float("-inf")), axis=0)
                blurred_maximum, _ = scan_blurred_map(
                    map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, known, y, x,
                    TILE_SIDE, HALO_SIDE, SCAN_POINTS, LANES, PADDING,
                    RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
                )  # fmt: skip
                scale = tl.where(blurred_maximum > 0, peak / blurred_maximum, 1.0)

        clipped = tl.minimum(tl.maximum(blurred * scale, CLIP_MIN), CLIP_MAX)
        center = tl.sum(tl.where(used & (step_y == 0) & (step_x == 0), clipped, 0.0), axis=0)
        # Relative to the centre, whose own log is then zero.
        logs = tl.where(used, _log_ratio(clipped, center), 0.0)
        beside = (step_y == 0) & (tl.abs(step_x) == 1)
        above_below = (step_x == 0) & (tl.abs(step_y) == 1)
        corner = (tl.abs(step_y) == 1) & (tl.abs(step_x) == 1)
        dx = tl.sum(tl.where(beside, logs * step_x, 0.0), axis=0) / 2
        dy = tl.sum(tl.where(above_below, logs * step_y, 0.0), axis=0) / 2
        if STENCIL == "wide":
            dxx = tl.sum(tl.where((step_y == 0) & (tl.abs(step_x) == 2), logs, 0.0), axis=0) / 4
            dyy = tl.sum(tl.where((step_x == 0) & (tl.abs(step_y) == 2), logs, 0.0), axis=0) / 4
            dxy = tl.sum(tl.where(corner, logs * step_y * step_x, 0.0), axis=0) / 4
            solved_xx = dxx
            solved_yy = dyy
        else:
            dxx = tl.sum(tl.where(beside, logs, 0.0), axis=0)
            dyy = tl.sum(tl.where(above_below, logs, 0.0), axis=0)
            dxy = (tl.sum(tl.where(corner, logs, 0.0), axis=0) - dxx - dyy) / 2
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
            lane = tl.arange(0, POINTS)
            step_y = _stencil_point(lane, POINTS_Y, REACH)
            step_x = _stencil_point(lane, POINTS_X, REACH)
            blurred = blur_points(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width,
                tl.minimum(tl.maximum(y + step_y, 0), height - 1), tl.minimum(tl.maximum(x + step_x, 0), width - 1),
                LANES, UNROLL, PADDING, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
            )  # fmt: skip
            difference_x = tl.sum(tl.where(step_y == 0, blurred * step_x, 0.0), axis=0)
            difference_y = tl.sum(tl.where(step_x == 0, blurred * step_y, 0.0), axis=0)
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


_CROSS = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
# The points (dy, dx) that a stencil reads from the blurred map.
_STENCIL_POINTS: dict[str, list[tuple[int, int]]] = {
    "wide": [*_CROSS, (0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)],
    "compact": [*_CROSS, (1, 1), (-1, -1)],
    "quarter": _CROSS,
    "quarter_legacy": _CROSS,
    "none": [(0, 0)],
}
# The blurred map is searched in square tiles.
_TILE_SIDE = 16


def _pack(coordinates: list[int], reach: int) -> int:
    """Small integers as the hexadecimal digits of one, lowest first: a table that is a constant in a kernel.
    Absent digits read as the centre."""
    digits = [coordinate + reach for coordinate in coordinates]
    return sum(digit << (4 * i) for i, digit in enumerate([*digits, *[reach] * (15 - len(digits))]))


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
    points = _STENCIL_POINTS[stencil]
    reach = max(y for y, _ in points)
    taps = blur_taps(kernel_size, sigma)
    # A sampled Gaussian is computed where it is needed; OpenCV's tables have at most five distinct weights.
    table = [*taps, *[0.0] * 5][:5] if sigma == 0.0 else [taps[0], 0.0, 0.0, 0.0, 0.0]
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
        "REACH": reach,
        "POINTS": triton.next_power_of_2(len(points)),
        "USED_POINTS": len(points),
        "POINTS_Y": _pack([y for y, _ in points], reach),
        "POINTS_X": _pack([x for _, x in points], reach),
        "TILE_SIDE": _TILE_SIDE,
        "HALO_SIDE": triton.next_power_of_2(_TILE_SIDE + 2 * radius),
        "UNROLL": min(radius + 1, 6),
        "LANES": triton.next_power_of_2(radius + 1),
        "RADIUS": radius,
        "EXPONENT": 0.0 if sigma == 0.0 else -math.log2(math.e) / (2.0 * sigma * sigma),
        **{f"TAP_{i}": weight for i, weight in enumerate(table)},
    }


def launch_shape(num_pixels: int, element_size: int) -> dict[str, int]:
    """BLOCK_SIZE, SCAN_POINTS and num_warps for maps of that many pixels of that many bytes.

    64 bytes a thread under way, with the sixteen to twenty warps that the registers leave an SM, is more than the
    25 KB that a memory of 4.8 TB/s and 700 ns needs there. Large maps are few, so each gets more warps.
    SCAN_POINTS is what the registers hold beside it without a spill (`make compile-report`).
    """
    per_thread = 64 // element_size
    if num_pixels <= 16384:
        return {"BLOCK_SIZE": 128 * per_thread, "SCAN_POINTS": 64, "num_warps": 4}
    return {"BLOCK_SIZE": 256 * per_thread, "SCAN_POINTS": 32, "num_warps": 8}


def decode_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, 2, 2], or no elements if not `covariance`
    heatmaps: Tensor,  # [B, K, H, W]
    *arguments: Any,
) -> None:
    """Fill the outputs (float32, contiguous). `arguments` as in `_recipe_constants`."""
    batch, num_keypoints, height, width = heatmaps.shape
    stride_b, stride_k, stride_h, stride_w = heatmaps.stride()
    num_pixels = height * width
    shape = launch_shape(num_pixels, heatmaps.element_size())
    block_size = shape["BLOCK_SIZE"]
    with on_device_of(heatmaps):
        _decode_fwd_kernel[(batch * num_keypoints,)](
            coords,
            scores,
            covariances,
            heatmaps,
            stride_b,
            stride_k,
            stride_h,
            stride_w,
            num_keypoints,
            height,
            width,
            num_pixels,
            IS_FLAT=stride_h == width * stride_w,
            # 32-bit offsets inside a map unless its last pixel, or the block behind it, lies beyond 2^31.
            WIDE_INDEX=(height - 1) * stride_h + (width - 1) * stride_w + block_size * max(stride_w, 1) >= 2**31
            or num_pixels + block_size >= 2**31,
            **shape,
            **REGISTER_LIMIT,
            **_recipe_constants(*arguments),
        )
