"""decode as one Triton kernel, with another before it where maps are interleaved, and its launcher."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common.plans import scratch
from .._triton.covariance import Covariance, store_covariance
from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of
from .._triton.maps import (
    Map,
    Maps,
    Scan,
    activated,
    clamped,
    heatmaps_of,
    index_flags,
    load_pixels,
    load_step,
    map_of,
)
from .._triton.peak import Peak, Recipe
from .._triton.refine import fit_lanes, recipe_constants, refine
from .._triton.registers import register_limit
from .._triton.search import first_maximum, scan_blurred_map
from .._triton.totals import mass_around, relative_to, softmax_of, sum_of_lanes, total_of, weight_of
from ..recipes import OperatorRecipe
from .options import NO_EXTRAS, Extras


class Offsets(NamedTuple):
    """Maps [B, C, 2, H, W] of what is added to the peak's pixel."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any


class Parts(NamedTuple):
    """First maxima and totals of the parts of maps: [B, K, num_parts] each; None where there are no parts.

    It is a field that is asked for: Triton before 3.7 compares no struct that holds a None.
    """

    peaks_ptr: Any = None
    indices_ptr: Any = None
    totals_ptr: Any = None  # if TOTAL is not "none"


class Channels(NamedTuple):
    """Channels of keypoints and of their mirrored maps."""

    keypoints_ptr: Any  # [K], or None if K = C
    flipped_ptr: Any  # [C], or None without mirrored maps
    num_channels: Any


class Lanes(NamedTuple):
    """A scan's state, lane by lane: [NUM_MAPS, BLOCK_SIZE] each."""

    best: Any  # the largest pixel so far, NaN if one was
    start: Any  # of the block in which it stands
    total: Any  # see `_triton/totals.py`


class Scanned(NamedTuple):
    """First maximum of a map or of a part of it, in row-major order, and its total.

    Of a map with a NaN the value is NaN and the index some pixel of the map: it has no keypoint.
    """

    largest: Any  # float32
    index: Any  # flat
    total: Any  # see `_triton/totals.py`; of a softmax relative to `largest`


@triton.jit
def _scan_step(lanes, maps, start, last_pixel, lane, exists, IS_WHOLE: tl.constexpr, SCAN: tl.constexpr):
    """`Lanes` after LOADS blocks of pixels from `start` on."""
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    LOADS: tl.constexpr = SCAN.LOADS
    TOTAL: tl.constexpr = SCAN.TOTAL
    best = lanes.best
    best_start = lanes.start
    total = lanes.total
    for part in tl.static_range(LOADS):
        block_start = start + part * BLOCK_SIZE
        index = block_start + lane
        value = load_step(maps, index, exists & (index < last_pixel), IS_WHOLE, SCAN)
        # Three instructions an element. One would do to keep the step alone and to look for the place in it
        # afterwards, but at the end of a map that takes longer than these do on the way.
        best_start = tl.where(value > best, block_start, best_start)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
        if TOTAL == "positive" or TOTAL == "sigmoid":
            total += weight_of(value, best, TOTAL)
    if TOTAL == "softmax":
        total = relative_to(total, lanes.best, best, TOTAL)
        for part in tl.static_range(LOADS):
            index = start + part * BLOCK_SIZE + lane
            # The same pixels, which the compiler has in registers still.
            value = load_step(maps, index, exists & (index < last_pixel), IS_WHOLE, SCAN)
            total += weight_of(value, best, TOTAL)
    return Lanes(best, best_start, total)


@triton.jit
def _scan_maps(maps, first_pixel, last_pixel, exists, NUM_MAPS: tl.constexpr, SCAN: tl.constexpr):
    """Scan the pixels from `first_pixel` to before `last_pixel` of each map, in one pass: `Scanned`, [NUM_MAPS] each.

    `exists`, and the pointers of `maps`: [NUM_MAPS, 1].
    """
    BLOCK_SIZE: tl.constexpr = SCAN.BLOCK_SIZE
    NO_INDEX: tl.constexpr = 0x7FFFFFFFFFFFFFFF if SCAN.WIDE_INDEX else 0x7FFFFFFF
    STEP: tl.constexpr = BLOCK_SIZE * SCAN.LOADS
    OF_PIXELS: tl.constexpr = maps.plain.ptr.dtype.element_ty
    AS_IT_IS: tl.constexpr = maps.flipped is None and OF_PIXELS != tl.bfloat16
    KIND: tl.constexpr = OF_PIXELS if AS_IT_IS else tl.float32
    lane = tl.arange(0, BLOCK_SIZE)[None, :]
    if SCAN.WIDE_INDEX:
        lane = lane.to(tl.int64)
        first_pixel = first_pixel + tl.full([], 0, dtype=tl.int64)
        last_pixel = last_pixel + tl.full([], 0, dtype=tl.int64)
    lowest = tl.full([NUM_MAPS, BLOCK_SIZE], float("-inf"), dtype=KIND)
    best_start = tl.zeros([NUM_MAPS, BLOCK_SIZE], dtype=lane.dtype) + first_pixel
    lanes = Lanes(lowest, best_start, tl.zeros([NUM_MAPS, BLOCK_SIZE], dtype=tl.float32))
    first_rest = first_pixel + (last_pixel - first_pixel) // STEP * STEP
    for start in range(first_pixel, first_rest, STEP):
        lanes = _scan_step(lanes, maps, start, last_pixel, lane, exists, NUM_MAPS == 1, SCAN)
    if first_rest < last_pixel:
        lanes = _scan_step(lanes, maps, first_rest, last_pixel, lane, exists, False, SCAN)

    is_nan = lanes.best != lanes.best
    largest = tl.max(tl.where(is_nan, float("-inf"), lanes.best).to(tl.float32), axis=1)
    # One minimum for both: -1 says that there is a NaN.
    holds_it = lanes.best.to(tl.float32) == largest[:, None]
    index = tl.min(tl.where(is_nan, -1, tl.where(holds_it, lanes.start + lane, NO_INDEX)), axis=1)
    has_nan = index < 0
    total = sum_of_lanes(lanes.total, lanes.best, largest[:, None], 1, SCAN.TOTAL)
    return Scanned(tl.where(has_nan, float("nan"), largest), tl.where(has_nan, first_pixel, index), total)


@triton.jit
def _only(values):
    """The number in a tensor of one."""
    return tl.sum(values, axis=0)


@triton.jit
def _scan_map(maps, num_pixels, SCAN: tl.constexpr):
    """Scan one map: `Scanned`."""
    zero = tl.zeros([1, 1], dtype=tl.int64)
    plain = Map(maps.plain.ptr + zero, maps.plain.stride_h, maps.plain.stride_w)
    flipped = maps.flipped
    if maps.flipped is not None:
        flipped = Map(maps.flipped.ptr + zero, maps.flipped.stride_h, maps.flipped.stride_w)
    one_map = Maps(plain, flipped, maps.height, maps.width, None)
    scanned = _scan_maps(one_map, 0, num_pixels, zero == 0, 1, SCAN)
    return Scanned(_only(scanned.largest), _only(scanned.index), _only(scanned.total))


@triton.jit
def _channel_of(channels, keypoint):
    """The channel of a keypoint's map.

    Indices on a device are not checked by the host, so they are held to the channels that there are.
    """
    channel = keypoint.to(tl.int64)
    if channels.keypoints_ptr is not None:
        channel = clamped(tl.load(channels.keypoints_ptr + channel), channels.num_channels)
    return channel


@triton.jit
def _mirrored_map_of(flipped, channels, batch, channel, width):
    """The map that mirrors the channel's, as `Maps` has it."""
    mirrored = clamped(tl.load(channels.flipped_ptr + channel), channels.num_channels)
    last_column = (width - 1) * flipped.stride_w
    map_ptr = flipped.ptr + (batch * flipped.stride_b + mirrored * flipped.stride_k + last_column)
    return Map(map_ptr, flipped.stride_h, -flipped.stride_w)


@triton.jit(do_not_specialize=["num_keypoints", "num_channels", "num_parts"])
def _scan_parts_kernel(
    parts,  # Parts
    heatmaps,  # this to `flip_indices_ptr` as in `_decode_fwd_kernel`
    flipped,
    keypoint_indices_ptr,
    flip_indices_ptr,
    num_keypoints,
    num_channels,
    num_parts,
    width,
    num_pixels,
    PART_SIZE: tl.constexpr,
    NUM_MAPS: tl.constexpr,
    SCAN: tl.constexpr,
):
    """First maxima of PART_SIZE pixels of NUM_MAPS maps of one image.

    For maps that are interleaved in memory: reading one alone would take a sector of 32 bytes for each of its pixels.
    Bytes it must move: B K H W elements read. What it moves: the same, and where K does not divide by NUM_MAPS the ends
    of runs a second time, from the L2 cache.
    """
    num_groups = tl.cdiv(num_keypoints, NUM_MAPS)
    program = tl.program_id(0)
    group = program % num_groups  # neighbours in memory run at the same time
    part = program // num_groups % num_parts
    batch = (program // num_groups // num_parts).to(tl.int64)
    keypoint = group * NUM_MAPS + tl.arange(0, NUM_MAPS)
    exists = keypoint < num_keypoints
    channels = Channels(keypoint_indices_ptr, flip_indices_ptr, num_channels)
    channel = _channel_of(channels, tl.minimum(keypoint, num_keypoints - 1)[:, None])
    mirrored = flipped
    if flipped is not None:
        mirrored = _mirrored_map_of(flipped, channels, batch, channel, width)
    maps = Maps(map_of(heatmaps, batch, channel), mirrored, None, width, None)
    first_pixel = part * tl.full([], PART_SIZE, dtype=tl.int64 if SCAN.WIDE_INDEX else tl.int32)
    last_pixel = tl.minimum(first_pixel + PART_SIZE, num_pixels)
    scanned = _scan_maps(maps, first_pixel, last_pixel, exists[:, None], NUM_MAPS, SCAN)
    offset = (batch * num_keypoints + keypoint) * num_parts + part
    tl.store(parts.peaks_ptr + offset, scanned.largest, mask=exists)
    tl.store(parts.indices_ptr + offset, scanned.index, mask=exists)
    if parts.totals_ptr is not None:
        tl.store(parts.totals_ptr + offset, scanned.total, mask=exists)


@triton.jit
def _join_parts(parts, map_index, num_parts, BLOCK_PARTS: tl.constexpr, TOTAL: tl.constexpr):
    """`Scanned` of a map, from those of its parts."""
    lane = tl.arange(0, BLOCK_PARTS)
    best = tl.full([BLOCK_PARTS], float("-inf"), dtype=tl.float32)
    best_index = tl.zeros([BLOCK_PARTS], dtype=parts.indices_ptr.dtype.element_ty)
    total = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
    for start in range(0, num_parts, BLOCK_PARTS):
        exists = start + lane < num_parts
        offset = map_index * num_parts + start + lane
        peak = tl.load(parts.peaks_ptr + offset, mask=exists, other=float("-inf"))
        index = tl.load(parts.indices_ptr + offset, mask=exists, other=0)
        best_index = tl.where(peak > best, index, best_index)
        best_before = best
        best = tl.maximum(best, peak, propagate_nan=tl.PropagateNan.ALL)
        if parts.totals_ptr is not None:
            of_part = tl.load(parts.totals_ptr + offset, mask=exists, other=0.0)
            total = relative_to(total, best_before, best, TOTAL) + relative_to(of_part, peak, best, TOTAL)
    found = first_maximum(best, best_index, 0x7FFFFFFF if best_index.dtype == tl.int32 else 0x7FFFFFFFFFFFFFFF)
    return Scanned(found.value, found.index, sum_of_lanes(total, best, found.value, 0, TOTAL))


@triton.jit
def _add_offset(x, y, offsets, batch, keypoint, peak, OFFSET_SCALE: tl.constexpr):
    """A place with what the offset maps say at the peak's pixel, where that is finite."""
    offset_ptr = offsets.ptr + batch * offsets.stride_b + keypoint * offsets.stride_k
    offset_ptr += peak.y.to(tl.int64) * offsets.stride_h + peak.x.to(tl.int64) * offsets.stride_w
    offset_x = tl.load(offset_ptr).to(tl.float32) * OFFSET_SCALE
    offset_y = tl.load(offset_ptr + offsets.stride_c).to(tl.float32) * OFFSET_SCALE
    moves = peak.refinable & (tl.abs(offset_x) + tl.abs(offset_y) < float("inf"))
    return x + tl.where(moves, offset_x, 0.0), y + tl.where(moves, offset_y, 0.0)


@triton.jit
def _not_negative(variance):
    """A variance that rounding has not pushed below zero. NaN stays."""
    return tl.where(variance < 0, 0.0, variance)


@triton.jit
def _to_image(x, y, covariance, matrix_ptr, HAS_COVARIANCE: tl.constexpr):
    """A place and its covariance, by an affine matrix [2, 3]."""
    xx = tl.load(matrix_ptr).to(tl.float32)
    xy = tl.load(matrix_ptr + 1).to(tl.float32)
    yx = tl.load(matrix_ptr + 3).to(tl.float32)
    yy = tl.load(matrix_ptr + 4).to(tl.float32)
    image_x = xx * x + xy * y + tl.load(matrix_ptr + 2).to(tl.float32)
    image_y = yx * x + yy * y + tl.load(matrix_ptr + 5).to(tl.float32)
    if HAS_COVARIANCE:
        # The matrix times the covariance, and that times the matrix's transpose.
        left_x = xx * covariance.xx + xy * covariance.xy
        right_x = xx * covariance.xy + xy * covariance.yy
        left_y = yx * covariance.xx + yy * covariance.xy
        right_y = yx * covariance.xy + yy * covariance.yy
        covariance = Covariance(
            _not_negative(xx * left_x + xy * right_x),
            yx * left_x + yy * right_x,
            _not_negative(yx * left_y + yy * right_y),
        )
    return image_x, image_y, covariance


@triton.jit(do_not_specialize=["num_keypoints", "num_channels", "num_parts"])
def _decode_fwd_kernel(
    coords_ptr,  # [B, K, 2]
    scores_ptr,  # [B, K]
    covariances_ptr,  # [B, K, 2, 2], or None
    heatmaps,  # Heatmaps [B, C, H, W]
    flipped,  # Heatmaps [B, C, H, W], or None
    offsets,  # Offsets [B, C, 2, H, W], or None
    transform_ptr,  # [B, 2, 3] contiguous, or None
    keypoint_indices_ptr,  # [K], or None if K = C
    flip_indices_ptr,  # [C], or None without `flipped`
    parts,  # Parts, of None where this kernel reads the maps
    num_keypoints,
    num_channels,
    num_parts,
    height,
    width,
    num_pixels,
    OFFSET_SCALE: tl.constexpr,
    SCAN: tl.constexpr,
    RECIPE: tl.constexpr,
):
    """One program decodes one map.

    Bytes it must move: B K H W elements read, twice as many with a mirrored map for each, and B K (12 or 28) bytes
    written. What it moves from device memory: the same. After the scan it reads a patch of about (k + 4)^2 elements
    that the scan has just brought into the cache (twice for blurs of more than 11 pixels), or for a fit one of
    (2 r + 1)^2, and the other where the fit fails. The sum of a softmax, and of what a mass is a share of, is taken in
    the scan; the pixels of the mass's window are read from the cache.
    Only where a clip could bind, and where the recipe searches the blurred map or with a matched filter, it walks the
    whole map a second time (see `needs_scale` in `_triton/refine.py`).

    Where there are parts `_scan_parts_kernel` has read the maps.
    """
    BLUR: tl.constexpr = RECIPE.BLUR
    ACTIVATION: tl.constexpr = BLUR.READING.ACTIVATION
    map_index = tl.program_id(0).to(tl.int64)
    if parts.peaks_ptr is not None:  # the last maps first: they are in the cache still
        map_index = tl.num_programs(0) - 1 - map_index
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    channels = Channels(keypoint_indices_ptr, flip_indices_ptr, num_channels)
    channel = _channel_of(channels, keypoint)
    plain = map_of(heatmaps, batch, channel)
    mirrored = flipped
    if flipped is not None:
        mirrored = _mirrored_map_of(flipped, channels, batch, channel, width)

    if parts.peaks_ptr is not None:
        scanned = _join_parts(parts, map_index, num_parts, 16, SCAN.TOTAL)
    else:
        scanned = _scan_map(Maps(plain, mirrored, height, width, None), num_pixels, SCAN)
    largest = scanned.largest  # of the map as it is
    index = scanned.index
    softmax = None
    if ACTIVATION == "softmax":
        softmax = softmax_of(largest, scanned.total)
    maps = Maps(plain, mirrored, height, width, softmax)
    scale = 1.0
    peak = activated(largest, softmax, ACTIVATION)
    raw_maximum = peak
    lowest = tl.full([], float("-inf"), dtype=tl.float32)
    if RECIPE.FIELDS.argmax_on == "blurred":
        first_y = (index // width).to(tl.int32)
        first_x = (index % width).to(tl.int32)
        found = scan_blurred_map(maps, lowest, raw_maximum, first_y, first_x, SCAN, BLUR)
        # A map with a NaN has no peak. Its index, of which the scan says nothing then, must stay in the map.
        has_nan = raw_maximum != raw_maximum
        peak = tl.where(has_nan, raw_maximum, found.value)
        index = tl.where(has_nan, 0, found.index)
        if RECIPE.FIELDS.rescale:
            scale = tl.where(peak > 0, raw_maximum / peak, 1.0)
            peak = peak * scale

    # A NaN is not.
    if ACTIVATION == "none":
        valid = peak > 0
    else:
        valid = largest > float("-inf")
    if RECIPE.FIELDS.argmax_on == "matched":
        index = index.to(tl.int64)
        if valid & (peak < float("inf")):  # beside an infinite pixel no other has a place
            first_y = (index // width).to(tl.int32)
            first_x = (index % width).to(tl.int32)
            index = scan_blurred_map(maps, lowest, raw_maximum, first_y, first_x, SCAN, RECIPE.FILTER).index
    y = (index // width).to(tl.int32)
    x = (index - y.to(index.dtype) * width).to(tl.int32)

    level = raw_maximum
    if RECIPE.FIELDS.argmax_on != "raw":
        level = tl.maximum(load_pixels(maps, y, x, None, BLUR.READING), 0.0)
    pixel = Peak(y, x, level, raw_maximum, scale, valid & (largest < float("inf")))
    refined = refine(maps, pixel, RECIPE)
    coord_x = refined.x
    coord_y = refined.y
    covariance = refined.covariance
    if offsets is not None:
        coord_x, coord_y = _add_offset(coord_x, coord_y, offsets, batch, keypoint, pixel, OFFSET_SCALE)
    if transform_ptr is not None:
        matrix_ptr = transform_ptr + batch * 6
        coord_x, coord_y, covariance = _to_image(coord_x, coord_y, covariance, matrix_ptr, RECIPE.HAS_COVARIANCE)
    tl.store(coords_ptr + map_index * 2, tl.where(valid, coord_x, RECIPE.FIELDS.invalid))
    tl.store(coords_ptr + map_index * 2 + 1, tl.where(valid, coord_y, RECIPE.FIELDS.invalid))
    if RECIPE.FIELDS.mass_radius > 0:
        peak = mass_around(maps, y, x, largest, scanned.total, BLUR.READING, RECIPE.FIELDS.mass_radius)
    tl.store(scores_ptr + map_index, peak * RECIPE.FIELDS.score_scale + RECIPE.FIELDS.score_offset)
    if RECIPE.HAS_COVARIANCE:
        store_covariance(covariances_ptr + map_index * 4, covariance)


def launch_shape(
    num_pixels: int,
    element_size: int,
    lanes: int = 32,
    in_tiles: bool = False,
    window: int = 16,
    has_flipped: bool = False,
    fit_window: int = 16,
    total: str = "none",
) -> dict[str, Any]:
    """Choose how a program goes about a map of that many pixels of that many bytes, with so many lanes a warp.

    What follows the scan is a chain of short steps on few numbers, which more warps would only repeat: a warp a map,
    and many maps an SM. Large maps are few, and get two. 128 bytes a thread under way, 256 where elements are
    small, with some 20 warps, are more than the 25 KB that a memory of 4.8 TB/s and 700 ns needs on each SM; more
    warps than that are slower again, since maps then end all at once (measured: benchmarks/profile_decode.md).
    """
    num_warps = 1 if num_pixels <= 16384 else 2
    if in_tiles:  # a search of the whole smoothed map, which has work for more
        num_warps = 4
    if window > 64:  # 16 rows of which fill the registers of a warp
        num_warps = max(num_warps, min(window // 32, 16))
    if fit_window > 16:  # all of which stays in registers
        num_warps = max(num_warps, (fit_window // 16) ** 2)
    loads = 16 if element_size == 2 and 4096 < num_pixels <= 16384 else 8
    if total == "softmax":  # whose pixels stay in registers until the step's largest is known
        loads = 8
    if has_flipped:  # a mirrored pixel is a load of its own, and its address takes registers
        loads = element_size
    return {
        "BLOCK_SIZE": lanes * num_warps * 16 // element_size,  # loads of 16 bytes a thread
        "LOADS": loads,
        "POINTS_AT_ONCE": 64 if in_tiles else 8,
        "num_warps": num_warps,
    }


# A part of interleaved maps, and how a program goes about it: runs of 128 bytes in float32.
_PART_SIZE, _NUM_MAPS, _PART_WARPS = 768, 32, 4
_PART_SHAPE = {"BLOCK_SIZE": 16, "LOADS": 8}


def decode_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, 2, 2]; any tensor if not `covariance`
    heatmaps: Tensor,  # [B, C, H, W]
    fields: OperatorRecipe,
    covariance: bool,
    extras: Extras = NO_EXTRAS,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    with on_device_of(heatmaps):
        device, dtype, shape, strides = heatmaps.device, heatmaps.dtype, heatmaps.shape, heatmaps.stride()
        is_interleaved = strides[1] == 1 and strides[3] > 1 and shape[1] > 1  # as in channels_last
        about_extras = None
        if extras is not NO_EXTRAS:
            extras = _contiguous(extras)
            about_extras = _properties(extras)
        parts = Parts()
        if is_interleaved:
            parts = _scan_parts(scores.shape, heatmaps, extras, about_extras, total_of(fields))
        outputs = (coords, scores, covariances if covariance else None)
        tensors = _present(*outputs, heatmaps, *_tensors_of(extras), *parts)
        key = launch_key(_decode_fwd_kernel, tensors, device, dtype, shape, strides, fields, covariance, about_extras)
        if launch_again(key, tensors):
            return
        batch, num_keypoints = scores.shape
        num_channels, height, width = shape[1:]
        recipe = recipe_constants(fields, covariance)
        searched = {"raw": None, "blurred": recipe.BLUR, "matched": recipe.FILTER}[fields.argmax_on]
        # Strips of two maps of logits would take more registers than a thread has.
        is_two_of_logits = extras.flip != "none" and fields.activation != "none"
        in_tiles = searched is not None and (is_two_of_logits or not searched.WEIGHTS)
        about = (lanes_of(device), in_tiles, recipe.BLUR.WINDOW, extras.flipped is not None)
        program = launch_shape(
            height * width, heatmaps.element_size(), *about, fit_window=recipe.FIT_WINDOW, total=total_of(fields)
        )
        reading = recipe.BLUR.READING._replace(SHIFTS_FLIPPED=extras.flip == "shifted")
        strip = lanes_of(device) * program["num_warps"]
        about_blur: dict[str, Any] = {"POINTS_AT_ONCE": program["POINTS_AT_ONCE"], "STRIP": strip, "READING": reading}
        if is_two_of_logits:
            about_blur["WEIGHTS"] = ()
        blur = recipe.BLUR._replace(**about_blur)
        matched = None if recipe.FILTER is None else recipe.FILTER._replace(**about_blur)
        offsets = None if extras.offsets is None else Offsets(extras.offsets, *extras.offsets.stride())
        num_parts = parts.peaks_ptr.shape[2] if is_interleaved else 0
        launch(
            _decode_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (
                *(*outputs, heatmaps_of(heatmaps), heatmaps_of(extras.flipped), offsets, extras.image_transform),
                *(extras.keypoint_indices, extras.flip_indices, parts),
                *(num_keypoints, num_channels, num_parts, height, width, height * width),
            ),
            {
                "OFFSET_SCALE": extras.offset_scale,
                "SCAN": _scan_of(heatmaps, extras, program, total_of(fields)),
                "RECIPE": recipe._replace(BLUR=blur, FILTER=matched, FIT_LANES=fit_lanes(recipe, strip)),
                "num_warps": program["num_warps"],
                **register_limit(_work_of(recipe, extras.flip)),
            },
            key,
        )


def _scan_of(heatmaps: Tensor, extras: Extras, program: dict[str, int], total: str, part_size: int = 0) -> Scan:
    block_size, loads = program["BLOCK_SIZE"], program["LOADS"]
    flags = index_flags(heatmaps, extras.flipped, part_size + block_size * loads)
    return Scan(block_size, loads, **flags, TOTAL=total, SHIFTS_FLIPPED=extras.flip == "shifted")


def _work_of(recipe: Recipe, flip: str) -> str:
    """Name the work by what takes registers: two maps, a fit, a wide blur, and what is activated or summed."""
    fields = recipe.FIELDS
    is_fit, is_wide_search = fields.stencil == "fit", fields.argmax_on == "blurred" and recipe.BLUR.HALO_SIDE > 32
    is_activated = fields.activation != "none"
    if flip != "none":
        if is_activated or fields.mass_radius > 0:
            return "decode, flip test of logits or masses"
        if fields.argmax_on == "matched":
            return "decode, flip test, matched search"
        return "decode, flip test, fit or wide search" if is_fit or is_wide_search else "decode, flip test"
    if is_fit:
        return "decode, fit"
    if fields.argmax_on == "matched":
        return "decode, matched search, masses" if fields.mass_radius > 0 else "decode, matched search"
    if is_wide_search and not is_activated:
        return "decode, wide search"
    if fields.argmax_on == "blurred":
        return "decode, search"
    return "decode, wide stencil" if recipe.BLUR.WINDOW > 64 else "decode"


def _contiguous(extras: Extras) -> Extras:
    """With the transform and the indices as the kernels take them."""
    transform, keypoints, flips = (
        None if tensor is None else tensor.contiguous()
        for tensor in (extras.image_transform, extras.keypoint_indices, extras.flip_indices)
    )
    return extras._replace(image_transform=transform, keypoint_indices=keypoints, flip_indices=flips)


def _tensors_of(extras: Extras) -> tuple[Tensor | None, ...]:
    """In the order of `_decode_fwd_kernel`'s arguments."""
    return extras.flipped, extras.offsets, extras.image_transform, extras.keypoint_indices, extras.flip_indices


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple([tensor for tensor in tensors if tensor is not None])


def _properties(extras: Extras) -> Hashable:
    """All that tells extras from others but the contents of tensors, which are on one device."""
    return tuple((value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else value for value in extras)


def _scan_parts(shape: torch.Size, heatmaps: Tensor, extras: Extras, about_extras: Hashable, total: str) -> Parts:
    """Scan the parts of each map. `shape`: [B, K]."""
    batch, num_keypoints = shape
    num_channels, height, width = heatmaps.shape[1:]
    num_pixels = height * width
    num_parts = triton.cdiv(num_pixels, _PART_SIZE)
    scan = _scan_of(heatmaps, extras, _PART_SHAPE, total, _PART_SIZE)
    peaks = scratch(heatmaps.new_empty((batch, num_keypoints, num_parts), dtype=torch.float32))
    indices = scratch(torch.empty_like(peaks, dtype=torch.int64 if scan.WIDE_INDEX else torch.int32))
    parts = Parts(peaks, indices, None if total == "none" else scratch(torch.empty_like(peaks)))
    tensors = _present(*parts, heatmaps, extras.flipped, extras.keypoint_indices, extras.flip_indices)
    device, dtype, strides = heatmaps.device, heatmaps.dtype, heatmaps.stride()
    key = launch_key(_scan_parts_kernel, tensors, device, dtype, heatmaps.shape, strides, about_extras, total)
    if launch_again(key, tensors):
        return parts
    launch(
        _scan_parts_kernel,
        (batch * num_parts * triton.cdiv(num_keypoints, _NUM_MAPS), 1, 1),
        (
            *(parts, heatmaps_of(heatmaps), heatmaps_of(extras.flipped)),
            *(extras.keypoint_indices, extras.flip_indices),
            *(num_keypoints, num_channels, num_parts, width, num_pixels),
        ),
        {"PART_SIZE": _PART_SIZE, "NUM_MAPS": _NUM_MAPS, "SCAN": scan, "num_warps": _PART_WARPS},
        key,
    )
    return parts
