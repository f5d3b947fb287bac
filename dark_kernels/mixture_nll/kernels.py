"""The mixture loss as Triton kernels, and their launchers.

Forward: a keypoint is a row, its components are the row's columns. Backward: a tile of the gradient that
knows its cells. Where maps and targets lie is a matter of their strides.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import find_cells, reduction_buffers, store_losses, store_tile, tile_shape
from .._triton.gaussian import finite_exp
from .._triton.launch import on_device_of

LOG_2_PI = tl.constexpr(1.8378770664093453)


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _gaussian_mixture_nll_fwd_kernel(
    loss_ptr,  # [] or [B, K]
    scale_ptr,  # []
    parts_ptr,  # see store_losses
    counter_ptr,
    slopes_ptr,  # [B, K, 4 M], contiguous
    cells_ptr,  # [B, K], contiguous
    logits_ptr,  # [B, K, M, H, W]
    logits_stride_b,
    logits_stride_k,
    logits_stride_m,
    logits_stride_h,
    logits_stride_w,
    mean_ptr,  # [B, K, M, 2, H, W]
    mean_stride_b,
    mean_stride_k,
    mean_stride_m,
    mean_stride_c,
    mean_stride_h,
    mean_stride_w,
    log_var_ptr,  # [B, K, M, H, W]
    log_var_stride_b,
    log_var_stride_k,
    log_var_stride_m,
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
    min_log_var,
    max_log_var,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_COMPONENTS: tl.constexpr,
    NUM_COMPONENTS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """Losses and slopes of BLOCK_SIZE keypoints: reads 4 M sectors of 32 bytes each, writes 4 M numbers.

    The backward pass writes 4 M maps a keypoint from them.
    """
    NOTHING: tl.constexpr = float("-inf")
    component = tl.arange(0, BLOCK_COMPONENTS)[None, :].to(tl.int64)
    # Keypoints are counted in 32 bits, where division is cheap; offsets take 64.
    index = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    exists = index < num_targets
    batch = (index // num_keypoints).to(tl.int64)
    keypoint = (index % num_keypoints).to(tl.int64)
    index = index.to(tl.int64)
    valid, weight, row, column, x, y = find_cells(
        target_ptr, target_stride_b, target_stride_k, target_stride_c, weight_ptr, weight_stride_b,
        weight_stride_k, batch, keypoint, exists, height, width, stride, HAS_WEIGHT, IS_OFFSET,
    )  # fmt: skip

    mask = valid[:, None] & (component < NUM_COMPONENTS)
    pointer = logits_ptr + batch * logits_stride_b + keypoint * logits_stride_k
    pointer += row * logits_stride_h + column * logits_stride_w
    logit = tl.load(pointer[:, None] + component * logits_stride_m, mask=mask, other=NOTHING).to(tl.float32)
    pointer = mean_ptr + batch * mean_stride_b + keypoint * mean_stride_k
    pointer += row * mean_stride_h + column * mean_stride_w
    mean_x = tl.load(pointer[:, None] + component * mean_stride_m, mask=mask, other=0.0).to(tl.float32)
    pointer += mean_stride_c
    mean_y = tl.load(pointer[:, None] + component * mean_stride_m, mask=mask, other=0.0).to(tl.float32)
    pointer = log_var_ptr + batch * log_var_stride_b + keypoint * log_var_stride_k
    pointer += row * log_var_stride_h + column * log_var_stride_w
    log_var = tl.load(pointer[:, None] + component * log_var_stride_m, mask=mask, other=0.0).to(tl.float32)
    is_on = logit != NOTHING  # a NaN is on, and seen
    bounded = log_var
    if HAS_BOUNDS:
        bounded = tl.where(log_var < min_log_var, min_log_var, log_var)
        bounded = tl.where(log_var > max_log_var, max_log_var, bounded)

    # Squared after the scaling: e^-s alone overflows where the loss does not. A half of the exponent at a time, and
    # finite: at the mean 0 stays 0, and any other number has a square beyond the range where the exponential takes it.
    step = finite_exp(-0.25 * bounded)
    z_x = (x[:, None] - mean_x) * step * step
    z_y = (y[:, None] - mean_y) * step * step
    half_squares = 0.5 * z_x * z_x + 0.5 * z_y * z_y

    # Both sums of exponentials with their largest term as 1. Where every component is off, that is none.
    top = tl.max(logit, axis=1)
    logit -= tl.where(top == NOTHING, 0.0, top)[:, None]
    prior = tl.exp(logit)
    prior_total = tl.sum(prior, axis=1)
    prior_total = tl.where(prior_total == 0, 1.0, prior_total)
    joint = tl.where(is_on, logit - bounded - half_squares, NOTHING)
    best = tl.max(joint, axis=1)
    # Components whose densities all underflow share the responsibility, as if they were equal.
    posterior = tl.where(joint == best[:, None], 1.0, tl.exp(joint - best[:, None]))
    posterior = tl.where(is_on, posterior, 0.0)
    total = tl.sum(posterior, axis=1)
    loss = tl.log(prior_total) - best - tl.log(total) + LOG_2_PI
    # Not a product with 0, which would keep a NaN.
    loss = tl.where(valid, loss * weight, 0.0)

    # A component that is off keeps out of a total that is 0 or NaN.
    prior = tl.where(is_on, prior / prior_total[:, None], 0.0)
    posterior = tl.where(is_on, posterior / total[:, None], 0.0)
    # A component that is not responsible adds nothing, even where it is infinitely far away or infinitely
    # sharp.
    pull_x = tl.where(posterior == 0, 0.0, posterior * z_x)
    pull_y = tl.where(posterior == 0, 0.0, posterior * z_y)
    for_mean_x = tl.where(pull_x == 0, 0.0, -pull_x * step * step)
    for_mean_y = tl.where(pull_y == 0, 0.0, -pull_y * step * step)
    for_log_var = tl.where(posterior == 0, 0.0, posterior * (1.0 - half_squares))
    if HAS_BOUNDS:
        for_log_var = tl.where((log_var >= min_log_var) & (log_var <= max_log_var), for_log_var, 0.0)
    factor = weight[:, None]
    slope_ptr = slopes_ptr + (index * (4 * NUM_COMPONENTS))[:, None] + component
    mask = exists[:, None] & (component < NUM_COMPONENTS)
    tl.store(slope_ptr, (prior - posterior) * factor, mask=mask)
    slope_ptr += NUM_COMPONENTS
    tl.store(slope_ptr + component, for_mean_x * factor, mask=mask)
    tl.store(slope_ptr + component + 1, for_mean_y * factor, mask=mask)
    slope_ptr += 2 * NUM_COMPONENTS
    tl.store(slope_ptr, for_log_var * factor, mask=mask)
    tl.store(cells_ptr + index, tl.where(valid, row * width + column, -1), mask=exists)
    store_losses(loss_ptr, scale_ptr, parts_ptr, counter_ptr, loss, weight, index, num_targets, REDUCTION)


@triton.jit
def _write_tile(
    gradient_ptr,  # [B, K, CHANNELS, H, W] or, if CHANNELS_LAST, [B, H, W, K, CHANNELS], contiguous
    grad_loss_ptr,  # [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    scale_ptr,  # []
    slopes_ptr,  # [B, K, COLUMNS], contiguous
    cells_ptr,  # [B, K], contiguous
    batch,  # int64
    block,
    tile,
    num_keypoints,
    num_pixels,
    COLUMNS: tl.constexpr,
    FIRST: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Zeros, and in the cells the slopes FIRST to FIRST + CHANNELS of their keypoints times their gradient."""
    num_channels = num_keypoints * CHANNELS
    channel = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    exists = channel < num_channels
    keypoint = (channel // CHANNELS).to(tl.int64)
    owner = batch * num_keypoints + keypoint
    cell = tl.load(cells_ptr + owner, mask=exists, other=-1).to(tl.int32)
    valid = cell >= 0
    slope = tl.load(slopes_ptr + owner * COLUMNS + (FIRST + channel % CHANNELS), mask=valid, other=0.0)
    grad_loss_ptr += batch * grad_loss_stride_b
    grad_loss = tl.load(grad_loss_ptr + keypoint * grad_loss_stride_k, mask=valid, other=0.0).to(tl.float32)
    grad_loss *= tl.load(scale_ptr)
    # A loss of which nothing is asked has no gradient, be it infinite.
    slope = tl.where(grad_loss != 0, slope * grad_loss, 0.0)

    store_tile(
        gradient_ptr, slope, cell, channel, exists, batch, tile, num_channels, num_pixels, BLOCK_PIXELS, CHANNELS_LAST
    )


@triton.jit(do_not_specialize=["num_keypoints", "num_logits_blocks", "num_mean_blocks", "num_blocks"])
def _gaussian_mixture_nll_bwd_kernel(
    grad_logits_ptr,  # [B, K, M, H, W] or, if CHANNELS_LAST, [B, H, W, K, M], contiguous
    grad_mean_ptr,  # the same with (M, 2) for M
    grad_log_var_ptr,  # the same
    grad_loss_ptr,  # [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    scale_ptr,  # []
    slopes_ptr,  # [B, K, 4 M], contiguous
    cells_ptr,  # [B, K], contiguous
    num_keypoints,
    num_logits_blocks,
    num_mean_blocks,
    num_blocks,
    height,
    width,
    NUM_COMPONENTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """A tile of channels and pixels of one of the three gradients of one image: zeros, and its keypoints' cells.

    Moves each element of the gradients once, which is the least that dense gradients take. The zeros are not
    written apart from the cells: fills and scatters would be six launches for three gradients.
    """
    COLUMNS: tl.constexpr = 4 * NUM_COMPONENTS
    num_pixels = height * width
    num_tiles = tl.cdiv(num_pixels, BLOCK_PIXELS)
    program = tl.program_id(0)
    tile = program % num_tiles
    program = program // num_tiles
    block = program % num_blocks
    batch = (program // num_blocks).to(tl.int64)
    if block < num_logits_blocks:
        _write_tile(
            grad_logits_ptr, grad_loss_ptr, grad_loss_stride_b, grad_loss_stride_k, scale_ptr, slopes_ptr, cells_ptr,
            batch, block, tile, num_keypoints, num_pixels, COLUMNS, 0, NUM_COMPONENTS, BLOCK_CHANNELS, BLOCK_PIXELS,
            CHANNELS_LAST,
        )  # fmt: skip
    elif block < num_logits_blocks + num_mean_blocks:
        _write_tile(
            grad_mean_ptr, grad_loss_ptr, grad_loss_stride_b, grad_loss_stride_k, scale_ptr, slopes_ptr, cells_ptr,
            batch, block - num_logits_blocks, tile, num_keypoints, num_pixels, COLUMNS, NUM_COMPONENTS,
            2 * NUM_COMPONENTS, BLOCK_CHANNELS, BLOCK_PIXELS, CHANNELS_LAST,
        )  # fmt: skip
    else:
        _write_tile(
            grad_log_var_ptr, grad_loss_ptr, grad_loss_stride_b, grad_loss_stride_k, scale_ptr, slopes_ptr, cells_ptr,
            batch, block - num_logits_blocks - num_mean_blocks, tile, num_keypoints, num_pixels, COLUMNS,
            3 * NUM_COMPONENTS, NUM_COMPONENTS, BLOCK_CHANNELS, BLOCK_PIXELS, CHANNELS_LAST,
        )  # fmt: skip


# --- launchers -------------------------------------------------------------------------------------------


def loss_shape(num_components: int) -> dict[str, int]:
    """BLOCK_SIZE, BLOCK_COMPONENTS and num_warps of the forward pass: as many programs as wait for memory well."""
    block_components = triton.next_power_of_2(num_components)
    block_size = min(128, max(1, 512 // block_components))
    return {"BLOCK_SIZE": block_size, "BLOCK_COMPONENTS": block_components, "num_warps": 4}


def gaussian_mixture_nll_fwd(
    loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    slopes: Tensor,  # [B, K, 4 M]
    cells: Tensor,  # [B, K], int64
    logits: Tensor,  # [B, K, M, H, W]
    mean: Tensor,  # [B, K, M, 2, H, W]
    log_var: Tensor,  # [B, K, M, H, W]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    stride: float,
    is_offset: bool,
    min_log_var: float,
    max_log_var: float,
    reduction: str,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    batch, num_keypoints, num_components, height, width = logits.shape
    num_targets = batch * num_keypoints
    shape = loss_shape(num_components)
    num_programs = triton.cdiv(num_targets, shape["BLOCK_SIZE"])
    # Where there is no weight, a pointer that is not read.
    weight_arguments: tuple[Any, ...] = (target, 0, 0) if weight is None else (weight, *weight.stride())
    with on_device_of(logits):
        _gaussian_mixture_nll_fwd_kernel[(num_programs,)](
            loss,
            scale,
            *reduction_buffers(loss, num_programs, reduction),
            slopes,
            cells,
            logits,
            *logits.stride(),
            mean,
            *mean.stride(),
            log_var,
            *log_var.stride(),
            target,
            *target.stride(),
            *weight_arguments,
            num_targets,
            num_keypoints,
            height,
            width,
            stride,
            min_log_var,
            max_log_var,
            NUM_COMPONENTS=num_components,
            HAS_WEIGHT=weight is not None,
            IS_OFFSET=is_offset,
            HAS_BOUNDS=min_log_var != float("-inf") or max_log_var != float("inf"),
            REDUCTION=reduction,
            **shape,
        )


def gaussian_mixture_nll_bwd(
    grad_logits: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_mean: Tensor,  # [B, K, M, 2, H, W], or no elements if not wanted
    grad_log_var: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    slopes: Tensor,  # [B, K, 4 M]
    cells: Tensor,  # [B, K]
    height: int,
    width: int,
    channels_last: bool,
) -> None:
    """Fill the gradients, which are dense: contiguous, or all [B, H, W, ...] in memory if `channels_last`."""
    batch, num_keypoints, columns = slopes.shape
    num_components = columns // 4
    num_channels = num_keypoints * num_components  # of logits and of log variances; means have twice as many
    shape = tile_shape(height * width, 2 * num_channels, channels_last)
    num_logits_blocks, num_mean_blocks, num_log_var_blocks = (
        triton.cdiv(channels, shape["BLOCK_CHANNELS"]) if gradient.numel() else 0
        for gradient, channels in (
            (grad_logits, num_channels),
            (grad_mean, 2 * num_channels),
            (grad_log_var, num_channels),
        )
    )
    num_blocks = num_logits_blocks + num_mean_blocks + num_log_var_blocks
    grid = (batch * num_blocks * triton.cdiv(height * width, shape["BLOCK_PIXELS"]),)
    with on_device_of(slopes):
        _gaussian_mixture_nll_bwd_kernel[grid](
            grad_logits,
            grad_mean,
            grad_log_var,
            grad_loss,
            *(grad_loss.stride() if grad_loss.dim() else (0, 0)),
            scale,
            slopes,
            cells,
            num_keypoints,
            num_logits_blocks,
            num_mean_blocks,
            num_blocks,
            height,
            width,
            NUM_COMPONENTS=num_components,
            CHANNELS_LAST=channels_last,
            **shape,
        )
