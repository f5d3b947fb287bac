"""gaussian_nll as Triton kernels, and their launchers; the linear form has a file of its own.

Every keypoint has one lane. Where maps or targets lie is a matter of their strides.
Numbers that a schedule changes during training (beta, a fixed log variance) are scalars and not constants, so
that they do not recompile.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import find_cells, reduction_buffers, store_losses, store_tile, tile_shape
from .._triton.gaussian import cell_gradients, keypoint_loss, load_values
from .._triton.launch import on_device_of
from .options import Options


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _gaussian_nll_fwd_kernel(
    loss_ptr,  # [] or [B, K]
    scale_ptr,  # []
    parts_ptr,  # see store_losses
    counter_ptr,
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    mean_ptr,  # [B, K, 2, H, W]
    mean_stride_b,
    mean_stride_k,
    mean_stride_c,
    mean_stride_h,
    mean_stride_w,
    log_var_ptr,  # [B, K, CHANNELS, H, W]
    log_var_stride_b,
    log_var_stride_k,
    log_var_stride_c,
    log_var_stride_h,
    log_var_stride_w,
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    num_targets,
    num_keypoints,
    height,
    width,
    stride,
    beta,
    fixed_log_var,
    min_log_var,
    max_log_var,
    BLOCK_SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_FIXED: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    FULL: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """Losses of BLOCK_SIZE keypoints, and the values at their cells, kept for the backward pass.

    Must read 2 + CHANNELS numbers a keypoint and its target, and write as many. Reads a sector of 32 bytes for each of
    the numbers, since cells lie all over memory.
    """
    COLUMNS: tl.constexpr = 2 + CHANNELS
    # Keypoints are counted in 32 bits, where division is cheap; offsets take 64.
    index = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    exists = index < num_targets
    batch = (index // num_keypoints).to(tl.int64)
    keypoint = (index % num_keypoints).to(tl.int64)
    index = index.to(tl.int64)
    valid, weight, row, column, x, y = find_cells(
        target_ptr, target_stride_b, target_stride_k, target_stride_c, weight_ptr, weight_stride_b, weight_stride_k,
        batch, keypoint, exists, height, width, stride, HAS_WEIGHT, IS_OFFSET,
    )  # fmt: skip
    pointer = mean_ptr + batch * mean_stride_b + keypoint * mean_stride_k
    pointer += row * mean_stride_h + column * mean_stride_w
    mean_x = tl.load(pointer, mask=valid, other=0.0).to(tl.float32)
    mean_y = tl.load(pointer + mean_stride_c, mask=valid, other=0.0).to(tl.float32)
    pointer = log_var_ptr + batch * log_var_stride_b + keypoint * log_var_stride_k
    pointer += row * log_var_stride_h + column * log_var_stride_w
    log_var_0, log_var_1, log_var_2 = load_values(pointer, log_var_stride_c, valid, fixed_log_var, CHANNELS, HAS_FIXED)
    store_values(values_ptr + index * COLUMNS, mean_x, mean_y, log_var_0, log_var_1, log_var_2, exists, COLUMNS)

    loss = keypoint_loss(
        x - mean_x, y - mean_y, log_var_0, log_var_1, log_var_2, beta, min_log_var, max_log_var, CHANNELS, IS_LAPLACE,
        HAS_BETA, HAS_BOUNDS, FULL,
    )  # fmt: skip
    # Not a product with 0, which would keep a NaN.
    loss = tl.where(valid, loss * weight, 0.0)
    store_losses(loss_ptr, scale_ptr, parts_ptr, counter_ptr, loss, weight, index, num_targets, REDUCTION)


@triton.jit
def store_values(value_ptr, first, second, third, fourth, fifth, mask, COLUMNS: tl.constexpr):
    """The COLUMNS numbers of each keypoint, next to each other."""
    tl.store(value_ptr, first, mask=mask)
    tl.store(value_ptr + 1, second, mask=mask)
    tl.store(value_ptr + 2, third, mask=mask)
    if COLUMNS > 3:
        tl.store(value_ptr + 3, fourth, mask=mask)
    if COLUMNS > 4:
        tl.store(value_ptr + 4, fifth, mask=mask)


@triton.jit(do_not_specialize=["num_keypoints", "num_mean_blocks", "num_blocks"])
def _gaussian_nll_bwd_kernel(
    grad_mean_ptr,  # [B, K, 2, H, W] or, if CHANNELS_LAST, [B, H, W, K, 2], contiguous
    grad_log_var_ptr,  # the same with CHANNELS for 2, of the same dtype
    grad_loss_ptr,  # [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    scale_ptr,  # []
    num_keypoints,
    num_mean_blocks,
    num_blocks,
    height,
    width,
    stride,
    beta,
    fixed_log_var,
    min_log_var,
    max_log_var,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_FIXED: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
):
    """A tile of channels and pixels of the gradient of one image: zeros, and the cells of its keypoints.

    Moves each element of the gradient once, which is the least that a dense gradient takes. The zeros are not
    written apart from the cells: a fill and a scatter would be three launches for two gradients.
    """
    num_pixels = height * width
    num_tiles = tl.cdiv(num_pixels, BLOCK_PIXELS)
    program = tl.program_id(0)
    tile = program % num_tiles
    program = program // num_tiles
    block = program % num_blocks
    batch = (program // num_blocks).to(tl.int64)

    is_mean = block < num_mean_blocks
    channels = tl.where(is_mean, 2, CHANNELS)
    channel = tl.where(is_mean, block, block - num_mean_blocks) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    num_channels = num_keypoints * channels
    exists = channel < num_channels
    keypoint = (channel // channels).to(tl.int64)
    part = channel % channels
    batches = keypoint * 0 + batch
    valid, weight, row, column, x, y = find_cells(
        target_ptr, target_stride_b, target_stride_k, target_stride_c, weight_ptr, weight_stride_b, weight_stride_k,
        batches, keypoint, exists, height, width, stride, HAS_WEIGHT, IS_OFFSET,
    )  # fmt: skip
    mean_x, mean_y, for_0, for_1, for_2 = cell_gradients(
        grad_loss_ptr, grad_loss_stride_b, grad_loss_stride_k, values_ptr, scale_ptr, batches, keypoint,
        num_keypoints, valid, weight, x, y, beta, fixed_log_var, min_log_var, max_log_var, CHANNELS, IS_LAPLACE,
        HAS_BETA, HAS_FIXED, HAS_BOUNDS,
    )  # fmt: skip
    cell = tl.where(valid, row * width + column, -1).to(tl.int32)
    for_log_var = tl.where(part == 0, for_0, tl.where(part == 1, for_1, for_2))
    gradient = tl.where(is_mean, tl.where(part == 0, mean_x, mean_y), for_log_var)
    store_tile(
        tl.where(is_mean, grad_mean_ptr, grad_log_var_ptr), gradient, cell, channel, exists, batch, tile, num_channels,
        num_pixels, BLOCK_PIXELS, CHANNELS_LAST,
    )  # fmt: skip


# --- launchers -------------------------------------------------------------------------------------------


def scalars(options: Options) -> tuple[float, float, float, float, float]:
    fixed = 0.0 if options.fixed_log_var is None else options.fixed_log_var
    return options.stride, options.beta, fixed, options.min_log_var, options.max_log_var


def flags_of(options: Options, weight: Tensor | None) -> dict[str, bool]:
    has_fixed = options.fixed_log_var is not None
    has_bounds = options.min_log_var != float("-inf") or options.max_log_var != float("inf")
    return {
        "HAS_WEIGHT": weight is not None,
        "IS_OFFSET": options.is_offset,
        "IS_LAPLACE": options.distribution == "laplace",
        "HAS_BETA": options.beta != 0.0,
        "HAS_FIXED": has_fixed,
        "HAS_BOUNDS": has_bounds and not has_fixed,  # bounds are for what is predicted
    }


def pointer_to(tensor: Tensor | None, instead: Tensor, dim: int) -> tuple[Any, ...]:
    """A tensor and its strides, as arguments; where there is none, a pointer that is not read."""
    return (instead, *(0,) * dim) if tensor is None else (tensor, *tensor.stride())


# Keypoints and warps of a program of the forward pass.
_LOSS_SHAPE = {"BLOCK_SIZE": 128, "num_warps": 4}


def gaussian_nll_fwd(
    loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    values: Tensor,  # [B, K, 2 + C]
    mean: Tensor,  # [B, K, 2, H, W]
    log_var: Tensor,  # [B, K, C, H, W]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    batch, num_keypoints, columns = values.shape
    num_targets = batch * num_keypoints
    num_programs = triton.cdiv(num_targets, _LOSS_SHAPE["BLOCK_SIZE"])
    with on_device_of(values):
        _gaussian_nll_fwd_kernel[(num_programs,)](
            loss,
            scale,
            *reduction_buffers(loss, num_programs, reduction),
            values,
            mean,
            *mean.stride(),
            log_var,
            *log_var.stride(),
            target,
            *target.stride(),
            *pointer_to(weight, target, 2),
            num_targets,
            num_keypoints,
            *mean.shape[3:],
            *scalars(options),
            CHANNELS=columns - 2,
            FULL=options.full,
            REDUCTION=reduction,
            **flags_of(options, weight),
            **_LOSS_SHAPE,
        )


def gaussian_nll_bwd(
    grad_mean: Tensor,  # [B, K, 2, H, W], or no elements if not wanted
    grad_log_var: Tensor,  # [B, K, C, H, W], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    values: Tensor,  # [B, K, 2 + C]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    scale: Tensor,  # []
    height: int,
    width: int,
    options: Options,
) -> None:
    """Fill the gradients, which are dense and of one layout, contiguous or channels last."""
    if grad_mean.numel() and grad_log_var.numel() and grad_mean.dtype != grad_log_var.dtype:
        # One launch writes one dtype.
        nothing = grad_mean.new_empty(0)
        arguments = (grad_loss, values, target, weight, scale, height, width, options)
        gaussian_nll_bwd(grad_mean, nothing, *arguments)
        gaussian_nll_bwd(nothing, grad_log_var, *arguments)
        return
    batch, num_keypoints, columns = values.shape
    channels = columns - 2
    wanted = grad_mean if grad_mean.numel() else grad_log_var
    channels_last = not wanted.is_contiguous()
    shape = tile_shape(height * width, num_keypoints * max(2, channels), channels_last)
    num_mean_blocks = triton.cdiv(num_keypoints * 2, shape["BLOCK_CHANNELS"]) if grad_mean.numel() else 0
    num_blocks = num_mean_blocks
    if grad_log_var.numel():
        num_blocks += triton.cdiv(num_keypoints * channels, shape["BLOCK_CHANNELS"])
    grid = (batch * num_blocks * triton.cdiv(height * width, shape["BLOCK_PIXELS"]),)
    with on_device_of(values):
        _gaussian_nll_bwd_kernel[grid](
            grad_mean if grad_mean.numel() else grad_log_var,
            grad_log_var if grad_log_var.numel() else grad_mean,
            *per_target(grad_loss),
            values,
            target,
            *target.stride(),
            *pointer_to(weight, target, 2),
            scale,
            num_keypoints,
            num_mean_blocks,
            num_blocks,
            height,
            width,
            *scalars(options),
            CHANNELS_LAST=channels_last,
            CHANNELS=channels,
            **flags_of(options, weight),
            **shape,
        )


def per_target(grad_loss: Tensor) -> tuple[Any, ...]:
    return (grad_loss, *(grad_loss.stride() if grad_loss.dim() else (0, 0)))
