"""soft_argmax as Triton kernels, and their launchers.

A program walks over a map in blocks of whole lines, so that each of its lanes keeps its column and its place among the
block's lines: where a pixel is costs nothing on the way. Maps wider than a block are walked line by line.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import lanes_of, launch, launch_again, launch_key, on_device_of, register_limit

# Stands for an infinity, so that two of them differ by 0.
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _lanes(WIDTH: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Line and column of a block's pixels: [BLOCK_SIZE]."""
    lane = tl.arange(0, BLOCK_SIZE)
    line = tl.zeros([BLOCK_SIZE], dtype=tl.int32)
    if WIDTH < BLOCK_SIZE:
        line = lane // WIDTH
    return line, lane - line * WIDTH


@triton.jit
def _offsets(
    line,
    column,
    stride_h,
    stride_w,
    WIDTH: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """Where a block's pixels lie, from its first one: [BLOCK_SIZE]. And how far it is to the next block of lines, and
    to that of columns: int64."""
    zero = tl.zeros([], dtype=tl.int64)  # strides may be constants, which have no type to change
    column_step = (zero + stride_w) * BLOCK_SIZE
    if WIDE_INDEX:
        line = line.to(tl.int64)
        column = column.to(tl.int64)
    if IS_FLAT or WIDTH >= BLOCK_SIZE:
        offsets = (line * WIDTH + column) * stride_w
    else:
        offsets = line * stride_h + column * stride_w
    if IS_FLAT:  # how many pixels a line has is known when the kernel is compiled, and so is what that divides by
        line_step = (zero + stride_w) * (WIDTH * LINES)
    else:
        line_step = (zero + stride_h) * LINES
    return offsets, line_step, column_step


@triton.jit
def _exists(
    row, first_column, line, column, height, WIDTH: tl.constexpr, LINES: tl.constexpr, BLOCK_SIZE: tl.constexpr
):
    """Which lanes have a pixel of the map in the block from (row, first_column) on."""
    exists = line < tl.minimum(LINES, height - row)
    if WIDTH > BLOCK_SIZE:
        exists = exists & (first_column + column < WIDTH)
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
    coords_ptr,  # [B, K, 2]
    peaks_ptr,  # [B, K]
    totals_ptr,  # [B, K]
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    num_keypoints,
    height,
    WIDTH: tl.constexpr,
    EXPONENT: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """One program reads one map, in one pass: a softmax relative to the largest value that each lane has seen so far.

    Bytes it must move: B K H W elements read, 16 B K bytes written. What it moves: the same, if the pixels of a map lie
    together. In channels_last the sectors of neighbouring maps are the same, and come from the cache.
    """
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    line, column = _lanes(WIDTH, BLOCK_SIZE)
    row_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k
    offsets, line_step, column_step = _offsets(
        line, column, heatmaps_stride_h, heatmaps_stride_w, WIDTH, LINES, BLOCK_SIZE, IS_FLAT, WIDE_INDEX
    )

    best = tl.full([BLOCK_SIZE], -LARGEST, dtype=tl.float32)
    total = tl.zeros([BLOCK_SIZE], dtype=tl.float32)  # of the lane's weights, relative to its best
    sum_x = total  # of these times the block's first column
    sum_y = total  # of these times the block's first row
    for row in range(0, height, 4 * LINES):
        pointer = row_ptr
        for first_column in range(0, WIDTH, BLOCK_SIZE):
            exists_0 = _exists(row, first_column, line, column, height, WIDTH, LINES, BLOCK_SIZE)
            exists_1 = _exists(row + LINES, first_column, line, column, height, WIDTH, LINES, BLOCK_SIZE)
            exists_2 = _exists(row + 2 * LINES, first_column, line, column, height, WIDTH, LINES, BLOCK_SIZE)
            exists_3 = _exists(row + 3 * LINES, first_column, line, column, height, WIDTH, LINES, BLOCK_SIZE)
            value_0 = _load_pixels(pointer + offsets, exists_0)
            value_1 = _load_pixels(pointer + line_step + offsets, exists_1)
            value_2 = _load_pixels(pointer + 2 * line_step + offsets, exists_2)
            value_3 = _load_pixels(pointer + 3 * line_step + offsets, exists_3)
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
            if WIDTH > BLOCK_SIZE:
                sum_x = sum_x * scale + first_column * weight
            pointer += column_step
        row_ptr += 4 * line_step

    # A NaN stays in its lane up to here, and from here on it is in all sums.
    peak = tl.max(tl.where(best != best, -LARGEST, best), axis=0)
    scale = _weight(best, peak, EXPONENT)
    total = total * scale
    x = tl.sum(sum_x * scale + column * total, axis=0)
    y = tl.sum(sum_y * scale + line * total, axis=0)
    total = tl.sum(total, axis=0)
    # Nothing but -inf: no pixel before another. Rounded, for a single pixel to be where it is, and none beyond the map.
    tl.store(coords_ptr + map_index * 2, tl.where(total == 0, 0.5 * (WIDTH - 1), tl.div_rn(x, total)))
    tl.store(coords_ptr + map_index * 2 + 1, tl.where(total == 0, 0.5 * (height - 1), tl.div_rn(y, total)))
    tl.store(peaks_ptr + map_index, peak)
    tl.store(totals_ptr + map_index, total)


@triton.jit
def _store_pixels(pointers, gradient, exists):
    """Of the gradient: the stores of the streaming loop."""
    tl.store(pointers, gradient.to(pointers.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["num_keypoints"])
def _soft_argmax_bwd_kernel(
    grad_heatmaps_ptr,  # [B, K, H, W]
    grad_heatmaps_stride_b,
    grad_heatmaps_stride_k,
    grad_heatmaps_stride_h,
    grad_heatmaps_stride_w,
    grad_coords_ptr,  # [B, K, 2]
    grad_coords_stride_b,
    grad_coords_stride_k,
    grad_coords_stride_c,
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    coords_ptr,  # [B, K, 2], contiguous
    peaks_ptr,  # [B, K], contiguous
    totals_ptr,  # [B, K], contiguous
    num_keypoints,
    height,
    WIDTH: tl.constexpr,
    BETA: tl.constexpr,
    EXPONENT: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_FLAT: tl.constexpr,
    GRAD_IS_FLAT: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
):
    """One program reads one map and writes its gradient, beta p ((x, y) - mean) . grad.

    Bytes it must move: B K H W elements read and as many written, 24 B K bytes read. What it moves: the same.
    """
    map_index = tl.program_id(0).to(tl.int64)
    batch = map_index // num_keypoints
    keypoint = map_index - batch * num_keypoints
    line, column = _lanes(WIDTH, BLOCK_SIZE)
    row_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k
    offsets, line_step, column_step = _offsets(
        line, column, heatmaps_stride_h, heatmaps_stride_w, WIDTH, LINES, BLOCK_SIZE, IS_FLAT, WIDE_INDEX
    )
    grad_row_ptr = grad_heatmaps_ptr + batch * grad_heatmaps_stride_b + keypoint * grad_heatmaps_stride_k
    grad_offsets, grad_line_step, grad_column_step = _offsets(
        line, column, grad_heatmaps_stride_h, grad_heatmaps_stride_w, WIDTH, LINES, BLOCK_SIZE, GRAD_IS_FLAT, WIDE_INDEX
    )

    peak = tl.load(peaks_ptr + map_index)
    total = tl.load(totals_ptr + map_index)
    # Without a finite largest value nothing depends on the map. A NaN is seen in the coordinates.
    factor = tl.where((peak == LARGEST) | (total == 0), 0.0, BETA / total)
    grad_ptr = grad_coords_ptr + batch * grad_coords_stride_b + keypoint * grad_coords_stride_k
    along_x = factor * tl.load(grad_ptr).to(tl.float32)
    along_y = factor * tl.load(grad_ptr + grad_coords_stride_c).to(tl.float32)
    # The slope at the lane's pixel of the map's first block.
    slope = along_x * (column - tl.load(coords_ptr + map_index * 2))
    slope += along_y * (line - tl.load(coords_ptr + map_index * 2 + 1))
    for row in range(0, height, LINES):
        pointer = row_ptr
        grad_pointer = grad_row_ptr
        for first_column in range(0, WIDTH, BLOCK_SIZE):
            exists = _exists(row, first_column, line, column, height, WIDTH, LINES, BLOCK_SIZE)
            weight = _weight(_load_pixels(pointer + offsets, exists), peak, EXPONENT)
            gradient = weight * (slope + (along_y * row + along_x * first_column))
            _store_pixels(grad_pointer + grad_offsets, gradient, exists)
            pointer += column_step
            grad_pointer += grad_column_step
        row_ptr += line_step
        grad_row_ptr += grad_line_step


def launch_shape(height: int, width: int, lanes: int = 32, is_dense: bool = True) -> dict[str, Any]:
    """How a program goes about a map: with a warp, large maps with four; a block of lines that a load of 16 bytes does
    not cross if there are such. 8 pixels a thread, or 4 where each has an address of its own."""
    num_warps = 1 if height * width <= 8192 else 4
    block_size = (8 if is_dense else 4) * lanes * num_warps
    num_lines = max(1, block_size // width)
    aligned = 8 // math.gcd(width, 8)
    if num_lines > aligned:
        num_lines -= num_lines % aligned
    return {"LINES": num_lines, "BLOCK_SIZE": block_size, "num_warps": num_warps}


def _is_flat(maps: Tensor) -> bool:
    return maps.stride(2) == maps.shape[3] * maps.stride(3)


def _constants(heatmaps: Tensor, beta: float) -> dict[str, Any]:
    height, width = heatmaps.shape[2:]
    stride_h, stride_w = heatmaps.stride()[2:]
    shape = launch_shape(height, width, lanes_of(heatmaps.device), stride_w == 1)
    return {
        "WIDTH": width,
        "EXPONENT": beta * math.log2(math.e),
        "IS_FLAT": _is_flat(heatmaps),
        **shape,
        # 32-bit offsets inside a block unless its last pixel lies beyond 2^31.
        "WIDE_INDEX": shape["LINES"] * stride_h + max(width, shape["BLOCK_SIZE"]) * stride_w >= 2**31,
        **register_limit(96),
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
        arguments = (*tensors, *strides, num_keypoints, height)
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
        strided = [part for tensor in tensors[:3] for part in (tensor, *tensor.stride())]
        launch(
            _soft_argmax_bwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*strided, coords, peaks, totals, num_keypoints, height),
            {"BETA": beta, "GRAD_IS_FLAT": _is_flat(gradient), **_constants(heatmaps, beta)},
            key,
        )
