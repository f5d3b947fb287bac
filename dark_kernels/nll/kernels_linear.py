"""linear_gaussian_nll as Triton kernels, and their launchers: a head at the keypoints' cells, and its loss.

Every keypoint has one row. Where features, head or targets lie is a matter of their strides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import (
    CellGrid,
    Lanes,
    find_cells,
    grad_loss_of,
    labels_of,
    loss_outputs,
    own_lanes,
    store_losses,
)
from .._triton.gaussian import LARGEST, Values, keypoint_loss, with_fixed_log_var
from .._triton.launch import launch, on_device_of
from .._triton.registers import register_limit
from .._triton.sums import rounded_product
from .kernels import form_of, gradients_in_cells, scalars_of, store_values
from .options import Options


class Features(NamedTuple):
    """Features [B, C, H, W]."""

    num_channels: Any
    ptr: Any
    stride_b: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any


class Head(NamedTuple):
    """A head: its first 2 K rows are means, those of log variances follow."""

    bias_ptr: Any  # [K * COLUMNS], or None
    bias_stride: Any
    weight_ptr: Any  # [K * COLUMNS, C]
    stride_r: Any
    stride_c: Any


class HeadGradients(NamedTuple):
    """Gradients that are written in one launch."""

    values_ptr: Any  # [B, K, COLUMNS], contiguous
    weight_ptr: Any  # [K * COLUMNS, C], contiguous, or None
    bias_ptr: Any  # [K * COLUMNS], or None


@triton.jit
def _feature_pointers(features, batch, row, column):
    """Point to the first channel in each cell."""
    return features.ptr + batch * features.stride_b + row * features.stride_h + column * features.stride_w


@triton.jit
def _weights(head, row, channel, mask):
    """A row of the head for each keypoint: [BLOCK_SIZE, BLOCK_CHANNELS]."""
    column_ptr = head.weight_ptr + (channel * head.stride_c)[None, :]
    return tl.load(column_ptr + (row * head.stride_r)[:, None], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _output(products, head, row, exists):
    """An output of the head for each keypoint, from the products over channels."""
    value = tl.sum(products, axis=1)
    if head.bias_ptr is not None:
        value += tl.load(head.bias_ptr + row * head.bias_stride, mask=exists, other=0.0).to(tl.float32)
    return value


@triton.jit
def _outputs(features, head, lanes, cells, num_keypoints, BLOCK_CHANNELS: tl.constexpr, FORM: tl.constexpr):
    """Outputs of the head in the cells of keypoints, a `Values`."""
    mean_row = 2 * lanes.keypoint
    variance_row = 2 * num_keypoints + FORM.CHANNELS * lanes.keypoint
    feature_ptr = _feature_pointers(features, lanes.batch, cells.row, cells.column)
    zeros = tl.zeros([feature_ptr.shape[0], BLOCK_CHANNELS], dtype=tl.float32)
    sums = Values(zeros, zeros, zeros, zeros, zeros)
    for start in range(0, features.num_channels, BLOCK_CHANNELS):
        channel = (start + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
        mask = cells.valid[:, None] & (channel < features.num_channels)[None, :]
        feature = tl.load(feature_ptr[:, None] + (channel * features.stride_c)[None, :], mask=mask, other=0.0)
        feature = feature.to(tl.float32)
        mean_x = sums.mean_x + feature * _weights(head, mean_row, channel, mask)
        mean_y = sums.mean_y + feature * _weights(head, mean_row + 1, channel, mask)
        log_var_0 = sums.log_var_0 + feature * _weights(head, variance_row, channel, mask)
        log_var_1 = sums.log_var_1
        log_var_2 = sums.log_var_2
        if FORM.CHANNELS > 1:
            log_var_1 += feature * _weights(head, variance_row + 1, channel, mask)
        if FORM.CHANNELS > 2:
            log_var_2 += feature * _weights(head, variance_row + 2, channel, mask)
        sums = Values(mean_x, mean_y, log_var_0, log_var_1, log_var_2)
    mean_x = _output(sums.mean_x, head, mean_row, lanes.exists)
    mean_y = _output(sums.mean_y, head, mean_row + 1, lanes.exists)
    log_var_0 = _output(sums.log_var_0, head, variance_row, lanes.exists)
    log_var_1 = tl.zeros(mean_x.shape, dtype=tl.float32)
    log_var_2 = log_var_1
    if FORM.CHANNELS > 1:
        log_var_1 = _output(sums.log_var_1, head, variance_row + 1, lanes.exists)
    if FORM.CHANNELS > 2:
        log_var_2 = _output(sums.log_var_2, head, variance_row + 2, lanes.exists)
    return Values(mean_x, mean_y, log_var_0, log_var_1, log_var_2)


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _linear_gaussian_nll_fwd_kernel(
    outputs,  # LossOutputs
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    features,  # Features
    head,  # Head
    labels,  # Labels
    num_targets,
    num_keypoints,
    grid,  # CellGrid
    scalars,  # Scalars
    FORM: tl.constexpr,
    REDUCTION: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The head in the cells of BLOCK_SIZE keypoints, and their losses.

    Reads C features a keypoint (sectors of 32 bytes each, unless channels_last) and the head, most of it from
    cache, and writes 2 + CHANNELS numbers a keypoint.
    """
    index, lanes = own_lanes(num_targets, num_keypoints, BLOCK_SIZE)
    cells = find_cells(labels, grid, lanes, FORM.IS_OFFSET)
    values = _outputs(features, head, lanes, cells, num_keypoints, BLOCK_CHANNELS, FORM)
    store_values(values_ptr + index * (2 + FORM.CHANNELS), values, lanes.exists, FORM.CHANNELS)
    loss = keypoint_loss(cells, with_fixed_log_var(values, scalars, FORM), scalars, FORM)
    store_losses(outputs, loss, cells, index, num_targets, REDUCTION)


@triton.jit
def _finite(numbers):
    """Infinities as the largest number, for which nothing that is added to it or multiplied by it is NaN."""
    return tl.where(numbers > LARGEST, LARGEST, tl.where(numbers < -LARGEST, -LARGEST, numbers))


@triton.jit
def _unless_nan(sums, num_nans):
    """The sums, or 0 where infinities of both signs have made a NaN of numbers."""
    return tl.where((sums != sums) & (tl.sum(num_nans, axis=0) == 0), 0.0, sums)


@triton.jit(do_not_specialize=["num_head_programs", "batch_size", "num_keypoints"])
def _linear_gaussian_nll_bwd_head_kernel(
    gradients,  # HeadGradients
    grad_features_ptr,  # dense, num_elements of them
    grad_loss,  # GradLoss
    values_ptr,  # [B, K, COLUMNS], contiguous
    features,  # Features
    labels,  # Labels
    num_head_programs,
    num_elements,
    batch_size,
    num_keypoints,
    grid,  # CellGrid
    scalars,  # Scalars
    FORM: tl.constexpr,
    BLOCK_ELEMENTS: tl.constexpr,
    BLOCK_TARGETS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradients of the values in the cells and of the head, and the zeros of the gradient of the features.

    The first programs own BLOCK_CHANNELS channels of a row of the head each, and add over the batch. They read
    B * K * C features, as the forward pass. The others write a block of zeros each.
    """
    COLUMNS: tl.constexpr = 2 + FORM.CHANNELS
    program = tl.program_id(0)
    if program >= num_head_programs:
        element = (program - num_head_programs).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
        zeros = tl.zeros([BLOCK_ELEMENTS], dtype=grad_features_ptr.dtype.element_ty)
        tl.store(grad_features_ptr + element, zeros, mask=element < num_elements)
    else:
        num_channel_blocks = 1
        if gradients.weight_ptr is not None:
            num_channel_blocks = tl.cdiv(features.num_channels, BLOCK_CHANNELS)
        channel_block = program % num_channel_blocks
        channel = (channel_block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
        channel_exists = channel < features.num_channels
        head_row = program // num_channel_blocks
        variance_row = head_row - 2 * num_keypoints
        is_mean_row = variance_row < 0
        own_keypoint = tl.where(is_mean_row, head_row // 2, variance_row // FORM.CHANNELS).to(tl.int64)
        part = tl.where(is_mean_row, head_row % 2, 2 + variance_row % FORM.CHANNELS)
        lane = tl.arange(0, BLOCK_TARGETS).to(tl.int64)
        products = tl.zeros([BLOCK_TARGETS, BLOCK_CHANNELS], dtype=tl.float32)
        total_bias = tl.zeros([BLOCK_TARGETS], dtype=tl.float32)
        num_nans = tl.zeros([BLOCK_TARGETS], dtype=tl.int32)
        for start in range(0, batch_size, BLOCK_TARGETS):
            batch = start + lane
            lanes = Lanes(batch, lane * 0 + own_keypoint, batch < batch_size)
            cells = find_cells(labels, grid, lanes, FORM.IS_OFFSET)
            of_values = gradients_in_cells(grad_loss, values_ptr, lanes, cells, num_keypoints, scalars, FORM)
            gradient = tl.where(part == 1, of_values.mean_y, of_values.log_var_0)
            gradient = tl.where(part == 0, of_values.mean_x, gradient)
            gradient = tl.where(part == 4, of_values.log_var_2, gradient)
            gradient = tl.where(part == 3, of_values.log_var_1, gradient)
            if gradients.bias_ptr is not None:
                total_bias += gradient
            num_nans += (gradient != gradient).to(tl.int32)
            # For products with a feature or a weight of 0 to be 0.
            gradient = _finite(gradient)
            value_ptr = gradients.values_ptr + (batch * num_keypoints + lanes.keypoint) * COLUMNS + part
            tl.store(value_ptr, gradient, mask=lanes.exists & (channel_block == 0))
            if gradients.weight_ptr is not None:
                feature_ptr = _feature_pointers(features, batch, cells.row, cells.column)
                feature_ptrs = feature_ptr[:, None] + (channel * features.stride_c)[None, :]
                feature = tl.load(feature_ptrs, mask=cells.valid[:, None] & channel_exists[None, :], other=0.0)
                products += rounded_product(gradient[:, None], feature.to(tl.float32))  # as for the features
        if gradients.weight_ptr is not None:
            total = _unless_nan(tl.sum(products, axis=0), num_nans)
            row_ptr = gradients.weight_ptr + head_row.to(tl.int64) * features.num_channels + channel
            tl.store(row_ptr, total.to(gradients.weight_ptr.dtype.element_ty), mask=channel_exists)
        if gradients.bias_ptr is not None:
            bias = _unless_nan(tl.sum(total_bias, axis=0), num_nans)
            bias = bias.to(gradients.bias_ptr.dtype.element_ty)
            tl.store(gradients.bias_ptr + head_row, bias, mask=channel_block == 0)


@triton.jit(do_not_specialize=["num_keypoints"])
def _linear_gaussian_nll_bwd_features_kernel(
    grad_features,  # Features, zeros
    grad_values_ptr,  # [B, K, COLUMNS], contiguous
    head,  # Head
    labels,  # Labels
    num_keypoints,
    grid,  # CellGrid
    COLUMNS: tl.constexpr,
    BLOCK_SEARCH: tl.constexpr,
    BLOCK_TARGETS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Gradient of the features in the cells; a program has one keypoint of one image and BLOCK_CHANNELS channels.

    Of the keypoints that share a cell the first writes the sum over all of them, in their order, and the
    others nothing: no atomics, and one rounding.
    """
    program = tl.program_id(0)
    num_channel_blocks = tl.cdiv(grad_features.num_channels, BLOCK_CHANNELS)
    owner = program // num_channel_blocks
    batch = (owner // num_keypoints).to(tl.int64)
    own_keypoint = owner % num_keypoints
    channel = ((program % num_channel_blocks) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
    channel_exists = channel < grad_features.num_channels
    # A block of one, since `find_cells` works on blocks.
    one = tl.arange(0, 1).to(tl.int64)
    own = find_cells(labels, grid, Lanes(one + batch, one + own_keypoint, one == 0), False)
    writes = tl.max(own.valid.to(tl.int32), axis=0) > 0
    row = tl.max(own.row, axis=0)
    column = tl.max(own.column, axis=0)

    # Whom it shares the cell with. Most have it for themselves, and are done after one block below.
    num_sharing = 0
    num_earlier = 0
    for start in range(0, num_keypoints, BLOCK_SEARCH):
        other = (start + tl.arange(0, BLOCK_SEARCH)).to(tl.int64)
        lanes = Lanes(other * 0 + batch, other, (other < num_keypoints) & writes)
        shares = _are_in_cell(find_cells(labels, grid, lanes, False), row, column)
        num_sharing += tl.sum(shares.to(tl.int32), axis=0)
        num_earlier += tl.sum((shares & (other < own_keypoint)).to(tl.int32), axis=0)
    writes = writes & (num_earlier == 0)
    first = own_keypoint // BLOCK_TARGETS * BLOCK_TARGETS
    last = tl.where(num_sharing > 1, num_keypoints, first + 1)
    last = tl.where(writes, last, first)

    products = tl.zeros([BLOCK_TARGETS, BLOCK_CHANNELS], dtype=tl.float32)
    num_nans = tl.zeros([BLOCK_TARGETS], dtype=tl.int32)
    for start in range(first, last, BLOCK_TARGETS):
        keypoint = (start + tl.arange(0, BLOCK_TARGETS)).to(tl.int64)
        lanes = Lanes(keypoint * 0 + batch, keypoint, keypoint < num_keypoints)
        shares = _are_in_cell(find_cells(labels, grid, lanes, False), row, column)
        mask = shares[:, None] & channel_exists[None, :]
        value_ptr = grad_values_ptr + (batch * num_keypoints + keypoint) * COLUMNS
        for part in tl.static_range(COLUMNS):
            if part < 2:
                head_row = 2 * keypoint + part
            else:
                head_row = 2 * num_keypoints + (COLUMNS - 2) * keypoint + (part - 2)
            gradient = tl.load(value_ptr + part, mask=shares, other=0.0)
            num_nans += (gradient != gradient).to(tl.int32)
            # Rounded by itself: of an infinite product fused with a sum that is infinite too no NaN would tell.
            products += rounded_product(gradient[:, None], _weights(head, head_row, channel, mask))
    total = _finite(_unless_nan(tl.sum(products, axis=0), num_nans)).to(grad_features.ptr.dtype.element_ty)
    cell_ptr = _feature_pointers(grad_features, batch, row, column)
    tl.store(cell_ptr + channel * grad_features.stride_c, total, mask=channel_exists & writes)


@triton.jit
def _are_in_cell(cells, row, column):
    return cells.valid & (cells.row == row) & (cells.column == column)


# --- launchers -------------------------------------------------------------------------------------------


def _features_of(features: Tensor) -> Features:
    return Features(features.shape[1], features, *features.stride())


def _head_of(weight: Tensor, bias: Tensor | None) -> Head:
    return Head(bias, None if bias is None else bias.stride(0), weight, *weight.stride())


def linear_gaussian_nll_fwd(
    loss: Tensor,  # [] or [B, K]
    scale: Tensor,  # []
    values: Tensor,  # [B, K, P]
    features: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K * P, C]
    bias: Tensor | None,  # [K * P]
    target: Tensor,  # [B, K, 2]
    keypoint_weight: Tensor | None,  # [B, K]
    options: Options,
    reduction: str,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    batch, num_keypoints, columns = values.shape
    num_targets = batch * num_keypoints
    num_channels, height, width = features.shape[1:]
    # Numbers of a row of the head each: a few a thread, for COLUMNS rows.
    block_channels = min(triton.next_power_of_2(num_channels), 128)
    block_size = min(16, 512 // block_channels)
    num_programs = triton.cdiv(num_targets, block_size)
    with on_device_of(features):
        launch(
            _linear_gaussian_nll_fwd_kernel,
            (num_programs, 1, 1),
            (
                loss_outputs(loss, scale, num_programs, reduction),
                values,
                _features_of(features),
                _head_of(weight, bias),
                labels_of(target, keypoint_weight),
                num_targets,
                num_keypoints,
                CellGrid(height, width, options.stride),
                scalars_of(options, columns - 2),
            ),
            {
                "FORM": form_of(options, columns - 2),
                "REDUCTION": reduction,
                "BLOCK_SIZE": block_size,
                "BLOCK_CHANNELS": block_channels,
                "num_warps": 4,
                **register_limit("linear_gaussian_nll"),
            },
        )


def linear_gaussian_nll_bwd(
    grad_features: Tensor,  # [B, C, H, W], or no elements if not wanted
    grad_weight: Tensor,  # [K * P, C], or no elements if not wanted
    grad_bias: Tensor,  # [K * P], or no elements if not wanted
    grad_loss: Tensor,  # [] or [B, K]
    values: Tensor,  # [B, K, P]
    features: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K * P, C]
    target: Tensor,  # [B, K, 2]
    keypoint_weight: Tensor | None,  # [B, K]
    scale: Tensor,  # []
    options: Options,
) -> None:
    """Fill the gradients, which are dense; those of head and bias are contiguous."""
    batch, num_keypoints, columns = values.shape
    num_channels, height, width = features.shape[1:]
    needs_weight, needs_bias = grad_weight.numel() > 0, grad_bias.numel() > 0
    # As many as the registers hold without a spill.
    shape = {"BLOCK_TARGETS": 8, "BLOCK_CHANNELS": min(32, triton.next_power_of_2(num_channels)), "num_warps": 4}
    num_channel_blocks = triton.cdiv(num_channels, shape["BLOCK_CHANNELS"])
    num_head_programs = num_keypoints * columns * (num_channel_blocks if needs_weight else 1)
    num_elements = grad_features.numel()
    block_elements = min(4096, triton.next_power_of_2(max(num_elements, 1)))
    labels, grid = labels_of(target, keypoint_weight), CellGrid(height, width, options.stride)
    with on_device_of(features):
        grad_values = torch.empty_like(values)
        launch(
            _linear_gaussian_nll_bwd_head_kernel,
            (num_head_programs + triton.cdiv(num_elements, block_elements), 1, 1),
            (
                HeadGradients(grad_values, grad_weight if needs_weight else None, grad_bias if needs_bias else None),
                grad_features,
                grad_loss_of(grad_loss, scale),
                values,
                _features_of(features),
                labels,
                num_head_programs,
                num_elements,
                batch,
                num_keypoints,
                grid,
                scalars_of(options, columns - 2),
            ),
            {
                "FORM": form_of(options._replace(full=False), columns - 2),
                "BLOCK_ELEMENTS": block_elements,
                **shape,
            },
        )
        if num_elements:
            launch(
                _linear_gaussian_nll_bwd_features_kernel,
                (batch * num_keypoints * num_channel_blocks, 1, 1),
                (
                    _features_of(grad_features),
                    grad_values,
                    _head_of(weight, None),
                    labels,
                    num_keypoints,
                    grid,
                ),
                {"COLUMNS": columns, "BLOCK_SEARCH": min(256, triton.next_power_of_2(num_keypoints)), **shape},
            )
