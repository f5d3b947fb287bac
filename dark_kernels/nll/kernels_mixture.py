"""gaussian_mixture_nll as Triton kernels, and their launchers.

Forward: a keypoint is a row, its components are the row's columns. Backward: a tile of the gradient that
knows its cells. Where maps and targets lie is a matter of their strides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import (
    TILE_WARPS,
    CellGrid,
    Maps,
    channels_of,
    find_cells,
    grad_loss_of,
    labels_of,
    load_grad_loss,
    loss_outputs,
    own_lanes,
    own_tile,
    pointers_to,
    store_losses,
    store_tile,
    tile_shape,
)
from .._triton.gaussian import LOG_2_PI, bounded, finite_exp, if_within
from .._triton.launch import launch, on_device_of
from .kernels import scalars_of
from .options import Options


class Mixture(NamedTuple):
    """Form of a mixture, and how a program goes about it: a constant."""

    NUM_COMPONENTS: int
    IS_OFFSET: bool  # means are relative to the centre of their cell
    BLOCK_SIZE: int  # keypoints of a program
    BLOCK_COMPONENTS: int


class Means(NamedTuple):
    """Means [B, K, M, 2, H, W] of components."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_m: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any


class Components(NamedTuple):
    """Components [BLOCK_SIZE, BLOCK_COMPONENTS], or the loss's slopes in them."""

    logit: Any
    mean_x: Any
    mean_y: Any
    log_var: Any


class Saved(NamedTuple):
    """Slopes of the weighted losses, and the cells in which they stand, kept for the backward pass."""

    slopes_ptr: Any  # [B, K, 4 M], contiguous: of logits, means and log variances
    indices_ptr: Any  # [B, K], contiguous: of cells


@triton.jit
def _load_column(pointer, stride, component, mask, OTHER: tl.constexpr):
    return tl.load(pointer[:, None] + component * stride, mask=mask, other=OTHER).to(tl.float32)


@triton.jit
def _losses_and_slopes(components, cells, scalars):
    """Losses [BLOCK_SIZE] and their slopes, a `Components`; both without the keypoint's weight."""
    NOTHING: tl.constexpr = float("-inf")
    logit = components.logit
    is_on = logit != NOTHING  # a NaN is on, and seen
    log_var = bounded(components.log_var, scalars)

    # Squared after the scaling: e^-s alone overflows where the loss does not. A half of the exponent at a time, and
    # finite: at the mean 0 stays 0, and any other number has a square beyond the range where the exponential takes it.
    step = finite_exp(-0.25 * log_var)
    z_x = (cells.target_x[:, None] - components.mean_x) * step * step
    z_y = (cells.target_y[:, None] - components.mean_y) * step * step
    half_squares = 0.5 * z_x * z_x + 0.5 * z_y * z_y

    # Both sums of exponentials with their largest term as 1. Where every component is off, that is none.
    top = tl.max(logit, axis=1)
    logit -= tl.where(top == NOTHING, 0.0, top)[:, None]
    prior = tl.exp(logit)
    prior_total = tl.sum(prior, axis=1)
    prior_total = tl.where(prior_total == 0, 1.0, prior_total)
    joint = tl.where(is_on, logit - log_var - half_squares, NOTHING)
    best = tl.max(joint, axis=1)
    # Components whose densities all underflow share the responsibility, as if they were equal.
    posterior = tl.where(joint == best[:, None], 1.0, tl.exp(joint - best[:, None]))
    posterior = tl.where(is_on, posterior, 0.0)
    total = tl.sum(posterior, axis=1)
    loss = tl.log(prior_total) - best - tl.log(total) + LOG_2_PI

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
    for_log_var = if_within(for_log_var, components.log_var, scalars)
    return loss, Components(prior - posterior, for_mean_x, for_mean_y, for_log_var)


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _gaussian_mixture_nll_fwd_kernel(
    outputs,  # LossOutputs
    saved,  # Saved
    logits,  # Maps [B, K, M, H, W]
    mean,  # Means
    log_var,  # Maps [B, K, M, H, W]
    labels,  # Labels
    num_targets,
    num_keypoints,
    grid,  # CellGrid
    scalars,  # Scalars
    MIXTURE: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """Losses and slopes of BLOCK_SIZE keypoints: reads 4 M sectors of 32 bytes each, writes 4 M numbers.

    The backward pass writes 4 M maps a keypoint from them.
    """
    NUM_COMPONENTS: tl.constexpr = MIXTURE.NUM_COMPONENTS
    component = tl.arange(0, MIXTURE.BLOCK_COMPONENTS)[None, :].to(tl.int64)
    index, lanes = own_lanes(num_targets, num_keypoints, MIXTURE.BLOCK_SIZE)
    cells = find_cells(labels, grid, lanes, MIXTURE.IS_OFFSET)
    mask = cells.valid[:, None] & (component < NUM_COMPONENTS)
    logit = _load_column(pointers_to(logits, lanes, cells), logits.stride_c, component, mask, float("-inf"))
    mean_ptr = pointers_to(mean, lanes, cells)
    mean_x = _load_column(mean_ptr, mean.stride_m, component, mask, 0.0)
    mean_y = _load_column(mean_ptr + mean.stride_c, mean.stride_m, component, mask, 0.0)
    log_vars = _load_column(pointers_to(log_var, lanes, cells), log_var.stride_c, component, mask, 0.0)
    loss, slopes = _losses_and_slopes(Components(logit, mean_x, mean_y, log_vars), cells, scalars)
    factor = cells.weight[:, None]
    slope_ptr = saved.slopes_ptr + (index * (4 * NUM_COMPONENTS))[:, None] + component
    mask = lanes.exists[:, None] & (component < NUM_COMPONENTS)
    tl.store(slope_ptr, slopes.logit * factor, mask=mask)
    slope_ptr += NUM_COMPONENTS
    tl.store(slope_ptr + component, slopes.mean_x * factor, mask=mask)
    tl.store(slope_ptr + component + 1, slopes.mean_y * factor, mask=mask)
    slope_ptr += 2 * NUM_COMPONENTS
    tl.store(slope_ptr, slopes.log_var * factor, mask=mask)
    cell_index = tl.where(cells.valid, cells.row * grid.width + cells.column, -1)
    tl.store(saved.indices_ptr + index, cell_index, mask=lanes.exists)
    store_losses(outputs, loss, cells, index, num_targets, REDUCTION)


@triton.jit
def _store_slopes(
    gradient_ptr,  # [B, K, COUNT, H, W] or, if CHANNELS_LAST, [B, H, W, K, COUNT], contiguous
    grad_loss,  # GradLoss
    saved,  # Saved
    block,
    tile,  # Tile
    num_keypoints,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    NUM_COMPONENTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Store zeros, and in the cells the COUNT slopes from FIRST on of their keypoints times their gradient."""
    channels = channels_of(block, num_keypoints * COUNT, TILE)
    keypoint = (channels.channel // COUNT).to(tl.int64)
    index = tile.batch * num_keypoints + keypoint
    cell_index = tl.load(saved.indices_ptr + index, mask=channels.exists, other=-1).to(tl.int32)
    valid = cell_index >= 0
    slope_ptr = saved.slopes_ptr + index * (4 * NUM_COMPONENTS) + (FIRST + channels.channel % COUNT)
    slope = tl.load(slope_ptr, mask=valid, other=0.0)
    grad_losses = load_grad_loss(grad_loss, tile.batch, keypoint, valid)
    # A loss of which nothing is asked has no gradient, be it infinite.
    slope = tl.where(grad_losses != 0, slope * grad_losses, 0.0)
    store_tile(gradient_ptr, slope, cell_index, channels, tile, TILE)


@triton.jit(do_not_specialize=["num_keypoints", "num_logits_blocks", "num_mean_blocks", "num_blocks"])
def _gaussian_mixture_nll_bwd_kernel(
    grad_logits_ptr,  # [B, K, M, H, W] or, if CHANNELS_LAST, [B, H, W, K, M], contiguous
    grad_mean_ptr,  # the same with (M, 2) for M
    grad_log_var_ptr,  # the same
    grad_loss,  # GradLoss
    saved,  # Saved
    num_keypoints,
    num_logits_blocks,
    num_mean_blocks,
    num_blocks,
    height,
    width,
    NUM_COMPONENTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of channels and pixels of one of the three gradients of one image: zeros, and its keypoints' cells.

    Moves each element of the gradients once, which is the least that dense gradients take. The zeros are not
    written apart from the cells: fills and scatters would be six launches for three gradients.
    """
    M: tl.constexpr = NUM_COMPONENTS
    tile = own_tile(height * width, num_blocks, TILE)
    if tile.block < num_logits_blocks:
        _store_slopes(grad_logits_ptr, grad_loss, saved, tile.block, tile, num_keypoints, 0, M, M, TILE)
    elif tile.block < num_logits_blocks + num_mean_blocks:
        block = tile.block - num_logits_blocks
        _store_slopes(grad_mean_ptr, grad_loss, saved, block, tile, num_keypoints, M, 2 * M, M, TILE)
    else:
        block = tile.block - num_logits_blocks - num_mean_blocks
        _store_slopes(grad_log_var_ptr, grad_loss, saved, block, tile, num_keypoints, 3 * M, M, M, TILE)


# --- launchers -------------------------------------------------------------------------------------------


def mixture_of(num_components: int, is_offset: bool) -> Mixture:
    """Choose as many programs of the forward pass as wait for memory well."""
    block_components = triton.next_power_of_2(num_components)
    return Mixture(num_components, is_offset, min(128, max(1, 512 // block_components)), block_components)


def gaussian_mixture_nll_fwd(
    loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    slopes: Tensor,  # [B, K, 4 M]
    indices: Tensor,  # [B, K], int64: of cells
    logits: Tensor,  # [B, K, M, H, W]
    mean: Tensor,  # [B, K, M, 2, H, W]
    log_var: Tensor,  # [B, K, M, H, W]
    target: Tensor,  # [B, K, 2]
    weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    batch, num_keypoints, num_components, height, width = logits.shape
    num_targets = batch * num_keypoints
    mixture = mixture_of(num_components, options.is_offset)
    num_programs = triton.cdiv(num_targets, mixture.BLOCK_SIZE)
    with on_device_of(logits):
        launch(
            _gaussian_mixture_nll_fwd_kernel,
            (num_programs, 1, 1),
            (
                loss_outputs(loss, scale, num_programs, reduction),
                Saved(slopes, indices),
                Maps(logits, *logits.stride()),
                Means(mean, *mean.stride()),
                Maps(log_var, *log_var.stride()),
                labels_of(target, weight),
                num_targets,
                num_keypoints,
                CellGrid(height, width, options.stride),
                scalars_of(options, 1),
            ),
            {"MIXTURE": mixture, "REDUCTION": reduction, "num_warps": 4},
        )


def gaussian_mixture_nll_bwd(
    grad_logits: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_mean: Tensor,  # [B, K, M, 2, H, W], or no elements if not wanted
    grad_log_var: Tensor,  # [B, K, M, H, W], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    slopes: Tensor,  # [B, K, 4 M]
    indices: Tensor,  # [B, K]: of cells
    height: int,
    width: int,
    channels_last: bool,
) -> None:
    """Fill the gradients, which are dense: contiguous, or all [B, H, W, ...] in memory if `channels_last`."""
    batch, num_keypoints, columns = slopes.shape
    num_components = columns // 4
    num_channels = num_keypoints * num_components  # of logits and of log variances; means have twice as many
    tile = tile_shape(height * width, 2 * num_channels, channels_last)
    num_logits_blocks, num_mean_blocks, num_log_var_blocks = (
        triton.cdiv(channels, tile.BLOCK_CHANNELS) if gradient.numel() else 0
        for gradient, channels in (
            (grad_logits, num_channels),
            (grad_mean, 2 * num_channels),
            (grad_log_var, num_channels),
        )
    )
    num_blocks = num_logits_blocks + num_mean_blocks + num_log_var_blocks
    with on_device_of(slopes):
        launch(
            _gaussian_mixture_nll_bwd_kernel,
            (batch * num_blocks * triton.cdiv(height * width, tile.BLOCK_PIXELS), 1, 1),
            (
                *(grad_logits, grad_mean, grad_log_var),
                grad_loss_of(grad_loss, scale),
                Saved(slopes, indices),
                *(num_keypoints, num_logits_blocks, num_mean_blocks, num_blocks, height, width),
            ),
            {"NUM_COMPONENTS": num_components, "TILE": tile, "num_warps": TILE_WARPS},
        )
