"""What the losses that read maps at their targets share: which cell, where the loss goes, a tile of a gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .tickets import counter, finishes_last


@triton.jit
def find_cells(
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    batch,  # int64
    keypoint,  # int64
    exists,
    height,
    width,
    stride,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
):
    """Validity, weight, row, column (int64) and target of keypoints; the target relative to what means are
    relative to. Zeros where invalid."""
    pointer = target_ptr + batch * target_stride_b + keypoint * target_stride_k
    x = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(pointer + target_stride_c, mask=exists, other=0.0).to(tl.float32)
    # Rounded as every other backend rounds, for the same cell.
    column = tl.floor(tl.div_rn(x, stride))
    row = tl.floor(tl.div_rn(y, stride))
    # Before the conversion to integers, and false for a NaN.
    valid = exists & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    weight = tl.full(exists.shape, 1.0, dtype=tl.float32)
    if HAS_WEIGHT:
        pointer = weight_ptr + batch * weight_stride_b + keypoint * weight_stride_k
        weight = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        valid = valid & (weight > 0)
    weight = tl.where(valid, weight, 0.0)
    column = tl.where(valid, column, 0.0)
    row = tl.where(valid, row, 0.0)
    x = tl.where(valid, x, 0.0)
    y = tl.where(valid, y, 0.0)
    if IS_OFFSET:
        x = x - (column + 0.5) * stride
        y = y - (row + 0.5) * stride
    return valid, weight, row.to(tl.int64), column.to(tl.int64), x, y


@triton.jit
def store_losses(
    loss_ptr,  # [] or [B, K]
    scale_ptr,  # []
    parts_ptr,  # [2, programs]: sums of losses and of weights. Read and written with a reduction only
    counter_ptr,  # see tickets.py
    loss,  # [BLOCK_SIZE], 0 where there is none
    weight,  # [BLOCK_SIZE], 0 where there is none
    index,  # [BLOCK_SIZE], int64
    num_targets,
    REDUCTION: tl.constexpr,
):
    """A program's losses, or all programs' reduced to one, and the factor of each loss in that.

    The last program to come here adds up what the others left: one launch, one order of summation.
    """
    BLOCK_PARTS: tl.constexpr = 1024
    program = tl.program_id(0)
    if REDUCTION == "none":
        tl.store(loss_ptr + index, loss, mask=index < num_targets)
        tl.store(scale_ptr, 1.0, mask=program == 0)
    else:
        num_programs = tl.num_programs(0)
        tl.store(parts_ptr + program, tl.sum(loss, axis=0))
        if REDUCTION == "mean_valid":
            tl.store(parts_ptr + num_programs + program, tl.sum(weight, axis=0))
        if finishes_last(counter_ptr):
            total = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
            total_weight = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
            for start in range(0, num_programs, BLOCK_PARTS):
                part = start + tl.arange(0, BLOCK_PARTS)
                exists = part < num_programs
                total += tl.load(parts_ptr + part, mask=exists, other=0.0, cache_modifier=".cg")
                if REDUCTION == "mean_valid":
                    pointers = parts_ptr + num_programs + part
                    total_weight += tl.load(pointers, mask=exists, other=0.0, cache_modifier=".cg")
            scale = 1.0
            if REDUCTION == "mean":
                scale = 1.0 / num_targets
            elif REDUCTION == "mean_valid":
                divisor = tl.sum(total_weight, axis=0)
                scale = tl.where(divisor > 0, 1.0 / divisor, 0.0)
            tl.store(loss_ptr, tl.sum(total, axis=0) * scale)
            tl.store(scale_ptr, scale)


@triton.jit
def store_tile(
    gradient_ptr,  # [B, channels, H, W] or, if CHANNELS_LAST, [B, H, W, channels], contiguous
    gradient,  # [BLOCK_CHANNELS] in the channels' cells
    cell,  # [BLOCK_CHANNELS] row * W + column, -1 for none
    channel,  # [BLOCK_CHANNELS]
    exists,  # [BLOCK_CHANNELS]
    batch,  # int64
    tile,
    num_channels,
    num_pixels,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """BLOCK_PIXELS pixels of some channels of a gradient: zeros, and what stands in their cells."""
    pixel = tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    is_cell = pixel[None, :] == cell[:, None]
    mask = exists[:, None] & (pixel < num_pixels)[None, :]
    gradient = tl.where(is_cell, gradient[:, None], 0.0).to(gradient_ptr.dtype.element_ty)
    pointer = gradient_ptr + batch * num_channels * num_pixels
    channel = channel.to(tl.int64)
    pixel = pixel.to(tl.int64)
    if CHANNELS_LAST:
        pointers = (pointer + channel)[:, None] + (pixel * num_channels)[None, :]
    else:
        pointers = (pointer + channel * num_pixels)[:, None] + pixel[None, :]
    tl.store(pointers, gradient, mask=mask)


def reduction_buffers(loss: Tensor, num_programs: int, reduction: str) -> tuple[Tensor, Tensor]:
    """What `store_losses` takes as parts and counter; without a reduction pointers that are not read."""
    if reduction == "none":
        return loss, loss
    return loss.new_empty((2, num_programs)), counter(loss.device)


def tile_shape(num_pixels: int, num_channels: int, channels_last: bool) -> dict[str, int]:
    """BLOCK_CHANNELS, BLOCK_PIXELS and num_warps of a tile of the gradient with up to 4096 elements, 32 a
    thread, long in the direction in which memory is."""
    if channels_last:
        block_channels = min(triton.next_power_of_2(num_channels), 128)
        block_pixels = min(triton.next_power_of_2(num_pixels), 4096 // block_channels)
    else:
        block_pixels = min(triton.next_power_of_2(num_pixels), 4096)
        block_channels = min(triton.next_power_of_2(num_channels), max(1, 2048 // block_pixels))
    return {"BLOCK_CHANNELS": block_channels, "BLOCK_PIXELS": block_pixels, "num_warps": 4}
