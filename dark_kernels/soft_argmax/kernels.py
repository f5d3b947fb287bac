"""soft_argmax as Triton kernels, and their launchers.

A program walks over a map in blocks of whole lines, so that each of its lanes keeps its column and its place among the
block's lines: where a pixel is costs nothing on the way. Maps wider than a block are walked line by line.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of
from .._triton.maps import heatmaps_of, is_flat, map_of
from .._triton.registers import register_limit

# Stands for an infinity, so that two of them differ by 0.
LARGEST = tl.constexpr(3.4028234663852886e38)


class Outputs(NamedTuple):
    """Outputs of the forward pass, contiguous, which the backward pass takes."""

    coords_ptr: Any  # [B, K, 2]
    peaks_ptr: Any  # [B, K]
    totals_ptr: Any  # [B, K]


class Coords(NamedTuple):
    """Vectors [B, K, 2]."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_c: Any


class Walk(NamedTuple):
    """A program's walk over a map, a constant."""

    WIDTH: int  # of the map
    LINES: int  # a block
    BLOCK_SIZE: int  # pixels
    WIDE_INDEX: bool  # offsets inside a block take 64 bits


class Lanes(NamedTuple):
    """Places of a block's pixels in the block: [BLOCK_SIZE]."""

    line: Any
    column: Any


class Offsets(NamedTuple):
    """Offsets of a block's pixels from its first one, and from that to those of the next blocks."""

    pixels: Any  # [BLOCK_SIZE]
    lines: Any  # int64
    columns: Any  # int64


@triton.jit
def _lanes(WALK: tl.constexpr):
    """Line and column of a block's pixels."""
    lane = tl.arange(0, WALK.BLOCK_SIZE)
    line = tl.zeros([WALK.BLOCK_SIZE], dtype=tl.int32)
    if WALK.WIDTH < WALK.BLOCK_SIZE:
        line = lane // WALK.WIDTH
    return Lanes(line, lane - line * WALK.WIDTH)


@triton.jit
def _offsets(lanes, source, IS_FLAT: tl.constexpr, WALK: tl.constexpr):
    """Offsets in a map. IS_FLAT: its rows follow each other in memory."""
    zero = tl.zeros([], dtype=tl.int64)  # strides may be constants, which have no type to change
    line = lanes.line
    column = lanes.column
    if WALK.WIDE_INDEX:
        line = line.to(tl.int64)
        column = column.to(tl.int64)
    if IS_FLAT or WALK.WIDTH >= WALK.BLOCK_SIZE:
        pixels = (line * WALK.WIDTH + column) * source.stride_w
    else:
        pixels = line * source.stride_h + column * source.stride_w
    if IS_FLAT:  # how many pixels a line has is known when the kernel is compiled, and so is what that divides by
        lines = (zero + source.stride_w) * (WALK.WIDTH * WALK.LINES)
    else:
        lines = (zero + source.stride_h) * WALK.LINES
    return Offsets(pixels, lines, (zero + source.stride_w) * WALK.BLOCK_SIZE)


@triton.jit
def _exists(lanes, row, first_column, height, WALK: tl.constexpr):
    """True for lanes with a pixel of the map in the block from (row, first_column) on."""
    exists = lanes.line < tl.minimum(WALK.LINES, height - row)
    if WALK.WIDTH > WALK.BLOCK_SIZE:
        exists = exists & (first_column + lanes.column < WALK.WIDTH)
    return exists


@triton.jit
def _load_pixels(pointers, exists):
    """Pixels, and -inf where there is none: the loads of the streaming loop."""
    value = tl.load(pointers, mask=exists, other=float("-inf")).to(tl.float32)
    return tl.minimum(value, LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _weight(value, peak, EXPONENT: tl.constexpr):
    """e^(beta (value - peak)), EXPONENT being beta log2(e)."""
    return tl.exp2((value - peak) * EXPONENT)


@triton.jit
def _largest(one, other):
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["num_keypoints"])
def _soft_argmax_fwd_kernel(
    outputs,  # Outputs
    heatmaps,  # Heatmaps [B, K, H, W]
    num_keypoints,
    height,
    EXPONENT: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WALK: tl.constexpr,
):
    """One program reads one map, in one pass: a softmax relative to the largest value that each lane has seen so far.

    Bytes it must move: B K H W elements read, 16 B K bytes written. What it moves: the same, if the pixels of a map lie
    together. In channels_last the sectors of neighbouring maps are the same, and come from the cache.
    """
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    lanes = _lanes(WALK)
    heatmap = map_of(heatmaps, batch, keypoint)
    offsets = _offsets(lanes, heatmap, IS_FLAT, WALK)

    LINES: tl.constexpr = WALK.LINES
    best = tl.full([WALK.BLOCK_SIZE], -LARGEST, dtype=tl.float32)
    total = tl.zeros([WALK.BLOCK_SIZE], dtype=tl.float32)  # of the lane's weights, relative to its best
    sum_x = total  # of these times the block's first column
    sum_y = total  # of these times the block's first row
    row_ptr = heatmap.ptr
    for row in range(0, height, 4 * LINES):
        pointer = row_ptr
        for first_column in range(0, WALK.WIDTH, WALK.BLOCK_SIZE):
            exists_0 = _exists(lanes, row, first_column, height, WALK)
            exists_1 = _exists(lanes, row + LINES, first_column, height, WALK)
            exists_2 = _exists(lanes, row + 2 * LINES, first_column, height, WALK)
            exists_3 = _exists(lanes, row + 3 * LINES, first_column, height, WALK)
            value_0 = _load_pixels(pointer + offsets.pixels, exists_0)
            value_1 = _load_pixels(pointer + offsets.lines + offsets.pixels, exists_1)
            value_2 = _load_pixels(pointer + 2 * offsets.lines + offsets.pixels, exists_2)
            value_3 = _load_pixels(pointer + 3 * offsets.lines + offsets.pixels, exists_3)
            better = _largest(best, _largest(_largest(value_0, value_1), _largest(value_2, value_3)))
            scale = _weight(best, better, EXPONENT)
            best = better
            weight_0 = _weight(value_0, best, EXPONENT)
            weight_1 = _weight(value_1, best, EXPONENT)
            weight_2 = _weight(value_2, best, EXPONENT)
            weight_3 = _weight(value_3, best, EXPONENT)
            weight = (weight_0 + weight_1) + (weight_2 + weight_3)
            total = total * scale + weight
            sum_y = sum_y * scale + (row * weight + LINES * (weight_1 + 2.0 * weight_2 + 3.0 * weight_3))
            if WALK.WIDTH > WALK.BLOCK_SIZE:
                sum_x = sum_x * scale + first_column * weight
            pointer += offsets.columns
        row_ptr += 4 * offsets.lines

    # A NaN stays in its lane up to here, and from here on it is in all sums.
    peak = tl.max(tl.where(best != best, -LARGEST, best), axis=0)
    scale = _weight(best, peak, EXPONENT)
    total = total * scale
    x = tl.sum(sum_x * scale + lanes.column * total, axis=0)
    y = tl.sum(sum_y * scale + lanes.line * total, axis=0)
    total = tl.sum(total, axis=0)
    # Nothing but -inf: no pixel before another. Rounded, for a single pixel to be where it is, and none beyond the map.
    tl.store(outputs.coords_ptr + map_index * 2, tl.where(total == 0, 0.5 * (WALK.WIDTH - 1), tl.div_rn(x, total)))
    tl.store(outputs.coords_ptr + map_index * 2 + 1, tl.where(total == 0, 0.5 * (height - 1), tl.div_rn(y, total)))
    tl.store(outputs.peaks_ptr + map_index, peak)
    tl.store(outputs.totals_ptr + map_index, total)


@triton.jit
def _store_pixels(pointers, gradient, exists):
    """Store pixels of the gradient: the stores of the streaming loop."""
    tl.store(pointers, gradient.to(pointers.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["num_keypoints"])
def _soft_argmax_bwd_kernel(
    grad_heatmaps,  # Heatmaps [B, K, H, W]
    grad_coords,  # Coords
    heatmaps,  # Heatmaps [B, K, H, W]
    outputs,  # Outputs
    num_keypoints,
    height,
    BETA: tl.constexpr,
    EXPONENT: tl.constexpr,
    IS_FLAT: tl.constexpr,
    GRAD_IS_FLAT: tl.constexpr,
    WALK: tl.constexpr,
):
    """One program reads one map and writes its gradient, beta p ((x, y) - mean) . grad.

    Bytes it must move: B K H W elements read and as many written, 24 B K bytes read. What it moves: the same.
    """
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    lanes = _lanes(WALK)
    heatmap = map_of(heatmaps, batch, keypoint)
    offsets = _offsets(lanes, heatmap, IS_FLAT, WALK)
    grad_heatmap = map_of(grad_heatmaps, batch, keypoint)
    grad_offsets = _offsets(lanes, grad_heatmap, GRAD_IS_FLAT, WALK)

    peak = tl.load(outputs.peaks_ptr + map_index)
    total = tl.load(outputs.totals_ptr + map_index)
    # Without a finite largest value nothing depends on the map. A NaN is seen in the coordinates.
    factor = tl.where((peak == LARGEST) | (total == 0), 0.0, BETA / total)
    grad_ptr = grad_coords.ptr + batch * grad_coords.stride_b + keypoint * grad_coords.stride_k
    along_x = factor * tl.load(grad_ptr).to(tl.float32)
    along_y = factor * tl.load(grad_ptr + grad_coords.stride_c).to(tl.float32)
    # The slope at the lane's pixel of the map's first block.
    slope = along_x * (lanes.column - tl.load(outputs.coords_ptr + map_index * 2))
    slope += along_y * (lanes.line - tl.load(outputs.coords_ptr + map_index * 2 + 1))
    row_ptr = heatmap.ptr
    grad_row_ptr = grad_heatmap.ptr
    for row in range(0, height, WALK.LINES):
        pointer = row_ptr
        grad_pointer = grad_row_ptr
        for first_column in range(0, WALK.WIDTH, WALK.BLOCK_SIZE):
            exists = _exists(lanes, row, first_column, height, WALK)
            weight = _weight(_load_pixels(pointer + offsets.pixels, exists), peak, EXPONENT)
            gradient = weight * (slope + (along_y * row + along_x * first_column))
            _store_pixels(grad_pointer + grad_offsets.pixels, gradient, exists)
            pointer += offsets.columns
            grad_pointer += grad_offsets.columns
        row_ptr += offsets.lines
        grad_row_ptr += grad_offsets.lines


def launch_shape(height: int, width: int, lanes: int = 32, is_dense: bool = True) -> dict[str, Any]:
    """Shape of a program for a map: a warp, large maps with four; a block of lines that a load of 16 bytes does
    not cross if there are such. 8 pixels a thread, or 4 where each has an address of its own."""
    num_warps = 1 if height * width <= 8192 else 4
    block_size = (8 if is_dense else 4) * lanes * num_warps
    num_lines = max(1, block_size // width)
    aligned = 8 // math.gcd(width, 8)
    if num_lines > aligned:
        num_lines -= num_lines % aligned
    return {"LINES": num_lines, "BLOCK_SIZE": block_size, "num_warps": num_warps}


def _constants(heatmaps: Tensor, beta: float) -> dict[str, Any]:
    height, width = heatmaps.shape[2:]
    stride_h, stride_w = heatmaps.stride()[2:]
    shape = launch_shape(height, width, lanes_of(heatmaps.device), stride_w == 1)
    lines, block_size = shape["LINES"], shape["BLOCK_SIZE"]
    # 32-bit offsets inside a block unless its last pixel lies beyond 2^31.
    wide_index = lines * stride_h + max(width, block_size) * stride_w >= 2**31
    return {
        "EXPONENT": beta * math.log2(math.e),
        "IS_FLAT": is_flat(heatmaps),
        "WALK": Walk(width, lines, block_size, wide_index),
        "num_warps": shape["num_warps"],
        **register_limit("soft_argmax"),
    }


def soft_argmax_fwd(
    coords: Tensor,  # [B, K, 2]
    peaks: Tensor,  # [B, K]
    totals: Tensor,  # [B, K]
    heatmaps: Tensor,  # [B, K, H, W]
    beta: float,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    with on_device_of(heatmaps):
        tensors = (coords, peaks, totals, heatmaps)
        strides = heatmaps.stride()
        key = launch_key(
            _soft_argmax_fwd_kernel, tensors, heatmaps.device, heatmaps.dtype, heatmaps.shape, strides, beta
        )
        if launch_again(key, tensors):
            return
        batch, num_keypoints, height, _ = heatmaps.shape
        arguments = (Outputs(coords, peaks, totals), heatmaps_of(heatmaps), num_keypoints, height)
        launch(_soft_argmax_fwd_kernel, (batch * num_keypoints, 1, 1), arguments, _constants(heatmaps, beta), key)


def soft_argmax_bwd(
    gradient: Tensor,  # [B, K, H, W]
    grad_coords: Tensor,  # [B, K, 2]
    heatmaps: Tensor,  # [B, K, H, W]
    coords: Tensor,  # [B, K, 2]
    peaks: Tensor,  # [B, K]
    totals: Tensor,  # [B, K]
    beta: float,
) -> None:
    """Fill the gradient. What the forward pass has filled is float32 and contiguous."""
    with on_device_of(heatmaps):
        tensors = (gradient, grad_coords, heatmaps, coords, peaks, totals)
        properties = ((tensor.dtype, tensor.stride()) for tensor in tensors[:3])
        key = launch_key(_soft_argmax_bwd_kernel, tensors, heatmaps.device, heatmaps.shape, *properties, beta)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, height, _ = heatmaps.shape
        grad = Coords(grad_coords, *grad_coords.stride())
        outputs = Outputs(coords, peaks, totals)
        arguments = (heatmaps_of(gradient), grad, heatmaps_of(heatmaps), outputs, num_keypoints, height)
        constants = {"BETA": beta, "GRAD_IS_FLAT": is_flat(gradient), **_constants(heatmaps, beta)}
        launch(_soft_argmax_bwd_kernel, (batch * num_keypoints, 1, 1), arguments, constants, key)
