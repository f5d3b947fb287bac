"""gaussian_nll as Triton kernels, and their launchers; the linear form has a file of its own.

Every keypoint has one lane. Where maps or targets lie is a matter of their strides.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import (
    TILE_WARPS,
    CellGrid,
    Lanes,
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
from .._triton.gaussian import Form, Scalars, keypoint_loss, load_values, value_gradients
from .._triton.launch import launch, on_device_of
from .options import Options


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _gaussian_nll_fwd_kernel(
    outputs,  # LossOutputs
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    mean,  # Maps [B, K, 2, H, W]
    log_var,  # Maps [B, K, CHANNELS, H, W]
    labels,  # Labels
    num_targets,
    num_keypoints,
    grid,  # CellGrid
    scalars,  # Scalars
    FORM: tl.constexpr,
    REDUCTION: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Losses of BLOCK_SIZE keypoints, and the values in their cells, kept for the backward pass.

    Must read 2 + CHANNELS numbers a keypoint and its target, and write as many. Reads a sector of 32 bytes for each of
    the numbers, since cells lie all over memory.
    """
    index, lanes = own_lanes(num_targets, num_keypoints, BLOCK_SIZE)
    cells = find_cells(labels, grid, lanes, FORM.IS_OFFSET)
    mean_ptr = pointers_to(mean, lanes, cells)
    log_var_ptr = pointers_to(log_var, lanes, cells)
    values = load_values(mean_ptr, mean.stride_c, log_var_ptr, log_var.stride_c, cells.valid, scalars, FORM)
    store_values(values_ptr + index * (2 + FORM.CHANNELS), values, lanes.exists, FORM.CHANNELS)
    loss = keypoint_loss(cells, values, scalars, FORM)
    store_losses(outputs, loss, cells, index, num_targets, REDUCTION)


@triton.jit
def store_values(value_ptr, values, mask, CHANNELS: tl.constexpr):
    """Store the 2 + CHANNELS numbers of each keypoint, next to each other."""
    tl.store(value_ptr, values.mean_x, mask=mask)
    tl.store(value_ptr + 1, values.mean_y, mask=mask)
    tl.store(value_ptr + 2, values.log_var_0, mask=mask)
    if CHANNELS > 1:
        tl.store(value_ptr + 3, values.log_var_1, mask=mask)
    if CHANNELS > 2:
        tl.store(value_ptr + 4, values.log_var_2, mask=mask)


@triton.jit(do_not_specialize=["num_keypoints", "num_mean_blocks", "num_blocks"])
def _gaussian_nll_bwd_kernel(
    grad_mean_ptr,  # [B, K, 2, H, W] or, if CHANNELS_LAST, [B, H, W, K, 2], contiguous
    grad_log_var_ptr,  # the same with CHANNELS for 2, of the same dtype
    grad_loss,  # GradLoss
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    labels,  # Labels
    num_keypoints,
    num_mean_blocks,
    num_blocks,
    grid,  # CellGrid
    scalars,  # Scalars
    FORM: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of channels and pixels of the gradient of one image: zeros, and the cells of its keypoints.

    Moves each element of the gradient once, which is the least that a dense gradient takes. The zeros are not
    written apart from the cells: a fill and a scatter would be three launches for two gradients.
    """
    tile = own_tile(grid.height * grid.width, num_blocks, TILE)
    is_mean = tile.block < num_mean_blocks
    num_parts = tl.where(is_mean, 2, FORM.CHANNELS)
    block = tl.where(is_mean, tile.block, tile.block - num_mean_blocks)
    channels = channels_of(block, num_keypoints * num_parts, TILE)
    keypoint = (channels.channel // num_parts).to(tl.int64)
    part = channels.channel % num_parts
    lanes = Lanes(keypoint * 0 + tile.batch, keypoint, channels.exists)
    cells = find_cells(labels, grid, lanes, FORM.IS_OFFSET)
    gradients = gradients_in_cells(grad_loss, values_ptr, lanes, cells, num_keypoints, scalars, FORM)
    cell_index = tl.where(cells.valid, cells.row * grid.width + cells.column, -1).to(tl.int32)
    for_mean = tl.where(part == 0, gradients.mean_x, gradients.mean_y)
    for_log_var = tl.where(part == 1, gradients.log_var_1, gradients.log_var_2)
    for_log_var = tl.where(part == 0, gradients.log_var_0, for_log_var)
    gradient_ptr = tl.where(is_mean, grad_mean_ptr, grad_log_var_ptr)
    store_tile(gradient_ptr, tl.where(is_mean, for_mean, for_log_var), cell_index, channels, tile, TILE)


@triton.jit
def gradients_in_cells(grad_loss, values_ptr, lanes, cells, num_keypoints, scalars, FORM: tl.constexpr):
    """Gradients of the values of keypoints, a `Values`."""
    grad_losses = load_grad_loss(grad_loss, lanes.batch, lanes.keypoint, cells.valid) * cells.weight
    value_ptr = values_ptr + (lanes.batch * num_keypoints + lanes.keypoint) * (2 + FORM.CHANNELS)
    values = load_values(value_ptr, 1, value_ptr + 2, 1, cells.valid, scalars, FORM)
    return value_gradients(cells, values, grad_losses, scalars, FORM)


# --- launchers -------------------------------------------------------------------------------------------


def form_of(options: Options, num_log_vars: int) -> Form:
    return Form(num_log_vars, options.distribution == "laplace", options.is_offset, options.full)


def scalars_of(options: Options, num_log_vars: int) -> Scalars:
    beta = None if options.beta == 0.0 else options.beta
    halve = 0.5 if num_log_vars == 3 else 1.0
    if options.fixed_log_var is not None:  # bounds are for what is predicted
        return Scalars(beta, halve * options.fixed_log_var, None, None)
    if options.min_log_var == float("-inf") and options.max_log_var == float("inf"):
        return Scalars(beta, None, None, None)
    return Scalars(beta, None, halve * options.min_log_var, halve * options.max_log_var)


# Keypoints and warps of a program of the forward pass.
_BLOCK_SIZE, _NUM_WARPS = 128, 4


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
    batch, num_keypoints, num_log_vars, height, width = log_var.shape
    num_targets = batch * num_keypoints
    num_programs = triton.cdiv(num_targets, _BLOCK_SIZE)
    with on_device_of(values):
        launch(
            _gaussian_nll_fwd_kernel,
            (num_programs, 1, 1),
            (
                loss_outputs(loss, scale, num_programs, reduction),
                values,
                Maps(mean, *mean.stride()),
                Maps(log_var, *log_var.stride()),
                labels_of(target, weight),
                num_targets,
                num_keypoints,
                CellGrid(height, width, options.stride),
                scalars_of(options, num_log_vars),
            ),
            {
                "FORM": form_of(options, num_log_vars),
                "REDUCTION": reduction,
                "BLOCK_SIZE": _BLOCK_SIZE,
                "num_warps": _NUM_WARPS,
            },
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
    num_log_vars = columns - 2
    wanted = grad_mean if grad_mean.numel() else grad_log_var
    tile = tile_shape(height * width, num_keypoints * max(2, num_log_vars), not wanted.is_contiguous())
    num_mean_blocks = triton.cdiv(num_keypoints * 2, tile.BLOCK_CHANNELS) if grad_mean.numel() else 0
    num_blocks = num_mean_blocks
    if grad_log_var.numel():
        num_blocks += triton.cdiv(num_keypoints * num_log_vars, tile.BLOCK_CHANNELS)
    with on_device_of(values):
        launch(
            _gaussian_nll_bwd_kernel,
            (batch * num_blocks * triton.cdiv(height * width, tile.BLOCK_PIXELS), 1, 1),
            (
                grad_mean if grad_mean.numel() else grad_log_var,
                grad_log_var if grad_log_var.numel() else grad_mean,
                grad_loss_of(grad_loss, scale),
                values,
                labels_of(target, weight),
                num_keypoints,
                num_mean_blocks,
                num_blocks,
                CellGrid(height, width, options.stride),
                scalars_of(options, num_log_vars),
            ),
            # One kernel with the constant and without it, which has no gradient.
            {"FORM": form_of(options._replace(full=False), num_log_vars), "TILE": tile, "num_warps": TILE_WARPS},
        )
