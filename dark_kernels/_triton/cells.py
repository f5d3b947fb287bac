"""Device functions of losses that read maps at their targets: find cells, store losses, write a tile of a gradient.

A cell is the pixel of a map in which a target lies. Its row and column may be given as one number, the cell's index:
row * W + column, or -1 if there is none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .tickets import counter, finishes_last


class CellGrid(NamedTuple):
    """Size of the maps, and of their cells."""

    height: Any
    width: Any
    stride: Any  # input pixels from cell to cell


class Labels(NamedTuple):
    """Targets and weights of keypoints: `labels_of(target, weight)`."""

    target_ptr: Any  # [B, K, 2]
    target_stride_b: Any
    target_stride_k: Any
    target_stride_c: Any
    weight_ptr: Any  # [B, K], or None
    weight_stride_b: Any
    weight_stride_k: Any


class Maps(NamedTuple):
    """Maps [B, K, C, H, W]: `Maps(tensor, *tensor.stride())`."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any


class Lanes(NamedTuple):
    """Keypoints of a program, one a lane."""

    batch: Any  # int64
    keypoint: Any  # int64
    exists: Any


class Cells(NamedTuple):
    """Cells of a program's keypoints, with the targets in them. Zeros where invalid."""

    row: Any  # int64
    column: Any  # int64
    valid: Any
    weight: Any
    target_x: Any  # relative to what means are relative to
    target_y: Any


class LossOutputs(NamedTuple):
    """Memory of the loss: `loss_outputs(...)`."""

    loss_ptr: Any  # [] or [B, K]
    scale_ptr: Any  # []: the factor of each keypoint's loss in the reduced one
    parts_ptr: Any  # [2, programs]: sums of losses and of weights. None without a reduction
    counter_ptr: Any  # see tickets.py. None without a reduction


class GradLoss(NamedTuple):
    """Gradient that comes back for the loss: `grad_loss_of(grad_loss, scale)`."""

    scale_ptr: Any  # []: see `LossOutputs`
    ptr: Any  # [] or [B, K]
    stride_b: Any
    stride_k: Any


class TileShape(NamedTuple):
    """Shape of a tile of a gradient, a constant: `tile_shape(...)`."""

    BLOCK_CHANNELS: int
    BLOCK_PIXELS: int
    CHANNELS_LAST: bool  # the gradient lies in memory as [B, H, W, channels], else as [B, channels, H, W]


class Tile(NamedTuple):
    """Tile of one image's gradients that a program writes."""

    batch: Any  # int64
    block: Any  # of channels, counted through all gradients
    number: Any  # among the tiles of the block's channels
    num_pixels: Any  # of a channel


class Channels(NamedTuple):
    """Channels of a tile."""

    channel: Any  # [BLOCK_CHANNELS]
    exists: Any  # [BLOCK_CHANNELS]
    num_channels: Any  # of the whole gradient


@triton.jit
def own_lanes(num_targets, num_keypoints, BLOCK_SIZE: tl.constexpr):
    """Take BLOCK_SIZE keypoints for each program: `Lanes`, and before them indices [BLOCK_SIZE] in [B, K] (int64)."""
    # Keypoints are counted in 32 bits, where division is cheap; offsets take 64.
    index = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    exists = index < num_targets
    batch = (index // num_keypoints).to(tl.int64)
    keypoint = (index % num_keypoints).to(tl.int64)
    return index.to(tl.int64), Lanes(batch, keypoint, exists)


@triton.jit
def find_cells(labels, grid, lanes, IS_OFFSET: tl.constexpr):
    """Find the cells of keypoints."""
    pointer = labels.target_ptr + lanes.batch * labels.target_stride_b + lanes.keypoint * labels.target_stride_k
    x = tl.load(pointer, mask=lanes.exists, other=0.0).to(tl.float32)
    y = tl.load(pointer + labels.target_stride_c, mask=lanes.exists, other=0.0).to(tl.float32)
    # Rounded as every other backend rounds, for the same cell.
    column = tl.floor(tl.div_rn(x, grid.stride))
    row = tl.floor(tl.div_rn(y, grid.stride))
    # Before the conversion to integers, and false for a NaN.
    valid = lanes.exists & (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    weight = tl.full(lanes.exists.shape, 1.0, dtype=tl.float32)
    if labels.weight_ptr is not None:
        pointer = labels.weight_ptr + lanes.batch * labels.weight_stride_b + lanes.keypoint * labels.weight_stride_k
        weight = tl.load(pointer, mask=lanes.exists, other=0.0).to(tl.float32)
        valid = valid & (weight > 0)
    weight = tl.where(valid, weight, 0.0)
    column = tl.where(valid, column, 0.0)
    row = tl.where(valid, row, 0.0)
    x = tl.where(valid, x, 0.0)
    y = tl.where(valid, y, 0.0)
    if IS_OFFSET:
        x = x - (column + 0.5) * grid.stride
        y = y - (row + 0.5) * grid.stride
    return Cells(row.to(tl.int64), column.to(tl.int64), valid, weight, x, y)


@triton.jit
def pointers_to(maps, lanes, cells):
    """Point to the first channel of each keypoint in its cell."""
    pointer = maps.ptr + lanes.batch * maps.stride_b + lanes.keypoint * maps.stride_k
    return pointer + (cells.row * maps.stride_h + cells.column * maps.stride_w)


@triton.jit
def store_losses(outputs, loss, cells, index, num_targets, REDUCTION: tl.constexpr):
    """Weight and store a program's losses, or all programs' reduced to one; and the factor of each loss in that.

    The last program to come here adds up what the others left: one launch, one order of summation.
    """
    BLOCK_PARTS: tl.constexpr = 1024
    # Not a product with 0, which would keep a NaN.
    loss = tl.where(cells.valid, loss * cells.weight, 0.0)
    program = tl.program_id(0)
    if REDUCTION == "none":
        tl.store(outputs.loss_ptr + index, loss, mask=index < num_targets)
        tl.store(outputs.scale_ptr, 1.0, mask=program == 0)
    else:
        num_programs = tl.num_programs(0)
        tl.store(outputs.parts_ptr + program, tl.sum(loss, axis=0))
        if REDUCTION == "mean_valid":
            tl.store(outputs.parts_ptr + num_programs + program, tl.sum(cells.weight, axis=0))
        if finishes_last(outputs.counter_ptr):
            total = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
            total_weight = tl.zeros([BLOCK_PARTS], dtype=tl.float32)
            for start in range(0, num_programs, BLOCK_PARTS):
                part = start + tl.arange(0, BLOCK_PARTS)
                exists = part < num_programs
                total += tl.load(outputs.parts_ptr + part, mask=exists, other=0.0, cache_modifier=".cg")
                if REDUCTION == "mean_valid":
                    pointers = outputs.parts_ptr + num_programs + part
                    total_weight += tl.load(pointers, mask=exists, other=0.0, cache_modifier=".cg")
            scale = 1.0
            if REDUCTION == "mean":
                scale = 1.0 / num_targets
            elif REDUCTION == "mean_valid":
                divisor = tl.sum(total_weight, axis=0)
                scale = tl.where(divisor > 0, 1.0 / divisor, 0.0)
            tl.store(outputs.loss_ptr, tl.sum(total, axis=0) * scale)
            tl.store(outputs.scale_ptr, scale)


@triton.jit
def load_grad_loss(grad_loss, batch, keypoint, mask):
    """Load the gradient of each keypoint's weighted loss."""
    pointer = grad_loss.ptr + batch * grad_loss.stride_b + keypoint * grad_loss.stride_k
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32) * tl.load(grad_loss.scale_ptr)


@triton.jit
def own_tile(num_pixels, num_blocks, TILE: tl.constexpr):
    """Take a tile for each program."""
    num_tiles = tl.cdiv(num_pixels, TILE.BLOCK_PIXELS)
    program = tl.program_id(0)
    block = program // num_tiles
    return Tile((block // num_blocks).to(tl.int64), block % num_blocks, program % num_tiles, num_pixels)


@triton.jit
def channels_of(block, num_channels, TILE: tl.constexpr):
    """List the channels of a block of one gradient."""
    channel = block * TILE.BLOCK_CHANNELS + tl.arange(0, TILE.BLOCK_CHANNELS)
    return Channels(channel, channel < num_channels, num_channels)


@triton.jit
def store_tile(
    gradient_ptr,  # [B, channels, H, W] or, if CHANNELS_LAST, [B, H, W, channels], contiguous
    gradient,  # [BLOCK_CHANNELS] in the channels' cells
    cell_index,  # [BLOCK_CHANNELS]
    channels,  # Channels
    tile,  # Tile
    TILE: tl.constexpr,
):
    """Store a tile: zeros, and in the cells the gradient."""
    # Not before they are needed: they take as many registers as the gradient.
    pixel = tile.number * TILE.BLOCK_PIXELS + tl.arange(0, TILE.BLOCK_PIXELS)
    is_cell = pixel[None, :] == cell_index[:, None]
    mask = channels.exists[:, None] & (pixel < tile.num_pixels)[None, :]
    gradient = tl.where(is_cell, gradient[:, None], 0.0).to(gradient_ptr.dtype.element_ty)
    pointer = gradient_ptr + tile.batch * channels.num_channels * tile.num_pixels
    channel = channels.channel.to(tl.int64)
    pixel = pixel.to(tl.int64)
    if TILE.CHANNELS_LAST:
        pointers = (pointer + channel)[:, None] + (pixel * channels.num_channels)[None, :]
    else:
        pointers = (pointer + channel * tile.num_pixels)[:, None] + pixel[None, :]
    tl.store(pointers, gradient, mask=mask)


# --- arguments of launches -------------------------------------------------------------------------------


def labels_of(target: Tensor, weight: Tensor | None) -> Labels:
    strides = (None, None) if weight is None else weight.stride()
    return Labels._make((target, *target.stride(), weight, *strides))


def loss_outputs(loss: Tensor, scale: Tensor, num_programs: int, reduction: str) -> LossOutputs:
    if reduction == "none":
        return LossOutputs(loss, scale, None, None)
    return LossOutputs(loss, scale, loss.new_empty((2, num_programs)), counter(loss.device))


def grad_loss_of(grad_loss: Tensor, scale: Tensor) -> GradLoss:
    return GradLoss(scale, grad_loss, *(grad_loss.stride() if grad_loss.dim() else (0, 0)))


# Warps of a program that writes a tile.
TILE_WARPS = 4


def tile_shape(num_pixels: int, num_channels: int, channels_last: bool) -> TileShape:
    """Choose a tile of up to 4096 elements, 32 a thread, long in the direction in which memory is."""
    if channels_last:
        block_channels = min(triton.next_power_of_2(num_channels), 128)
        block_pixels = min(triton.next_power_of_2(num_pixels), 4096 // block_channels)
    else:
        block_pixels = min(triton.next_power_of_2(num_pixels), 4096)
        block_channels = min(triton.next_power_of_2(num_channels), max(1, 2048 // block_pixels))
    return TileShape(block_channels, block_pixels, channels_last)
