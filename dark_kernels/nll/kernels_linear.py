"""linear_gaussian_nll as Triton kernels, and their launchers: a head at the keypoints' cells, and its loss.

Every keypoint has one row. Where features, head or targets lie is a matter of their strides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.cells import find_cells, reduction_buffers, store_losses
from .._triton.gaussian import LARGEST, cell_gradients, fixed_values, keypoint_loss
from .._triton.launch import on_device_of, register_limit
from .kernels import flags_of, per_target, pointer_to, scalars, store_values
from .options import Options


@triton.jit
def _head_row(products, feature, row, head_ptr, head_stride_r, mask):
    """The products of features [BLOCK_SIZE, BLOCK_CHANNELS] with a row of the head for each keypoint, added up."""
    weight = tl.load(head_ptr + (row * head_stride_r)[:, None], mask=mask, other=0.0)
    return products + feature * weight.to(tl.float32)


@triton.jit
def _head_value(products, row, bias_ptr, bias_stride_r, exists, HAS_BIAS: tl.constexpr):
    """A number of each keypoint, from the products over channels."""
    value = tl.sum(products, axis=1)
    if HAS_BIAS:
        value += tl.load(bias_ptr + row * bias_stride_r, mask=exists, other=0.0).to(tl.float32)
    return value


@triton.jit(do_not_specialize=["num_targets", "num_keypoints"])
def _linear_gaussian_nll_fwd_kernel(
    loss_ptr,  # [] or [B, K]
    scale_ptr,  # []
    parts_ptr,  # see store_losses
    counter_ptr,
    values_ptr,  # [B, K, COLUMNS], contiguous
    features_ptr,  # [B, C, H, W]
    features_stride_b,
    features_stride_c,
    features_stride_h,
    features_stride_w,
    head_ptr,  # [K * COLUMNS, C]
    head_stride_r,
    head_stride_c,
    bias_ptr,  # [K * COLUMNS]
    bias_stride_r,
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    num_targets,
    num_keypoints,
    num_channels,
    height,
    width,
    stride,
    beta,
    fixed_log_var,
    min_log_var,
    max_log_var,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_OFFSET: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_FIXED: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    FULL: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """The head at the cells of BLOCK_SIZE keypoints, and their losses.

    Reads C features a keypoint (sectors of 32 bytes each, unless channels_last) and the head, most of it from
    cache, and writes COLUMNS numbers a keypoint.
    """
    CHANNELS: tl.constexpr = COLUMNS - 2
    index = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    exists = index < num_targets
    batch = (index // num_keypoints).to(tl.int64)
    keypoint = (index % num_keypoints).to(tl.int64)
    index = index.to(tl.int64)
    valid, weight, row, column, x, y = find_cells(
        target_ptr, target_stride_b, target_stride_k, target_stride_c, weight_ptr, weight_stride_b, weight_stride_k,
        batch, keypoint, exists, height, width, stride, HAS_WEIGHT, IS_OFFSET,
    )  # fmt: skip
    # The first 2 K rows of the head are means.
    mean_row = 2 * keypoint
    variance_row = 2 * num_keypoints + CHANNELS * keypoint
    feature_ptr = features_ptr + batch * features_stride_b + row * features_stride_h + column * features_stride_w
    for_mean_x = tl.zeros([BLOCK_SIZE, BLOCK_CHANNELS], dtype=tl.float32)
    for_mean_y = for_mean_x
    for_0 = for_mean_x
    for_1 = for_mean_x
    for_2 = for_mean_x
    for start in range(0, num_channels, BLOCK_CHANNELS):
        channel = (start + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
        mask = valid[:, None] & (channel < num_channels)[None, :]
        feature = tl.load(feature_ptr[:, None] + (channel * features_stride_c)[None, :], mask=mask, other=0.0)
        feature = feature.to(tl.float32)
        column_ptr = head_ptr + (channel * head_stride_c)[None, :]
        for_mean_x = _head_row(for_mean_x, feature, mean_row, column_ptr, head_stride_r, mask)
        for_mean_y = _head_row(for_mean_y, feature, mean_row + 1, column_ptr, head_stride_r, mask)
        for_0 = _head_row(for_0, feature, variance_row, column_ptr, head_stride_r, mask)
        if CHANNELS > 1:
            for_1 = _head_row(for_1, feature, variance_row + 1, column_ptr, head_stride_r, mask)
        if CHANNELS > 2:
            for_2 = _head_row(for_2, feature, variance_row + 2, column_ptr, head_stride_r, mask)
    mean_x = _head_value(for_mean_x, mean_row, bias_ptr, bias_stride_r, exists, HAS_BIAS)
    mean_y = _head_value(for_mean_y, mean_row + 1, bias_ptr, bias_stride_r, exists, HAS_BIAS)
    log_var_0 = _head_value(for_0, variance_row, bias_ptr, bias_stride_r, exists, HAS_BIAS)
    log_var_1 = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    log_var_2 = log_var_1
    if CHANNELS > 1:
        log_var_1 = _head_value(for_1, variance_row + 1, bias_ptr, bias_stride_r, exists, HAS_BIAS)
    if CHANNELS > 2:
        log_var_2 = _head_value(for_2, variance_row + 2, bias_ptr, bias_stride_r, exists, HAS_BIAS)
    store_values(values_ptr + index * COLUMNS, mean_x, mean_y, log_var_0, log_var_1, log_var_2, exists, COLUMNS)
    if HAS_FIXED:
        log_var_0, log_var_1, log_var_2 = fixed_values(fixed_log_var, mean_x, CHANNELS)

    loss = keypoint_loss(
        x - mean_x, y - mean_y, log_var_0, log_var_1, log_var_2, beta, min_log_var, max_log_var, CHANNELS, IS_LAPLACE,
        HAS_BETA, HAS_BOUNDS, FULL,
    )  # fmt: skip
    loss = tl.where(valid, loss * weight, 0.0)
    store_losses(loss_ptr, scale_ptr, parts_ptr, counter_ptr, loss, weight, index, num_targets, REDUCTION)


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
    grad_values_ptr,  # [B, K, COLUMNS], contiguous
    grad_features_ptr,  # dense, num_elements of them
    grad_weight_ptr,  # [K * COLUMNS, C], contiguous
    grad_bias_ptr,  # [K * COLUMNS]
    grad_loss_ptr,  # [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    values_ptr,  # [B, K, COLUMNS], contiguous
    features_ptr,  # [B, C, H, W]
    features_stride_b,
    features_stride_c,
    features_stride_h,
    features_stride_w,
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    keypoint_weight_ptr,  # [B, K]
    keypoint_weight_stride_b,
    keypoint_weight_stride_k,
    scale_ptr,  # []
    num_head_programs,
    num_elements,
    batch_size,
    num_keypoints,
    num_channels,
    height,
    width,
    stride,
    beta,
    fixed_log_var,
    min_log_var,
    max_log_var,
    BLOCK_ELEMENTS: tl.constexpr,
    BLOCK_TARGETS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_FIXED: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
):
    """Gradients of the values at the cells and of the head, and the zeros of the gradient of the features.

    The first programs own BLOCK_CHANNELS channels of a row of the head each, and add over the batch. They read
    B * K * C features, as the forward pass. The others write a block of zeros each.
    """
    CHANNELS: tl.constexpr = COLUMNS - 2
    program = tl.program_id(0)
    if program >= num_head_programs:
        element = (program - num_head_programs).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
        zeros = tl.zeros([BLOCK_ELEMENTS], dtype=grad_features_ptr.dtype.element_ty)
        tl.store(grad_features_ptr + element, zeros, mask=element < num_elements)
    else:
        num_channel_blocks = 1
        if NEEDS_WEIGHT:
            num_channel_blocks = tl.cdiv(num_channels, BLOCK_CHANNELS)
        channel_block = program % num_channel_blocks
        channel = (channel_block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
        channel_exists = channel < num_channels
        head_row = program // num_channel_blocks
        # The first 2 K rows of the head are means.
        variance_row = head_row - 2 * num_keypoints
        is_mean_row = variance_row < 0
        own_keypoint = tl.where(is_mean_row, head_row // 2, variance_row // CHANNELS).to(tl.int64)
        part = tl.where(is_mean_row, head_row % 2, 2 + variance_row % CHANNELS)
        lane = tl.arange(0, BLOCK_TARGETS).to(tl.int64)
        keypoint = lane * 0 + own_keypoint
        products = tl.zeros([BLOCK_TARGETS, BLOCK_CHANNELS], dtype=tl.float32)
        total_bias = tl.zeros([BLOCK_TARGETS], dtype=tl.float32)
        num_nans = tl.zeros([BLOCK_TARGETS], dtype=tl.int32)
        for start in range(0, batch_size, BLOCK_TARGETS):
            batch = start + lane
            valid, keypoint_weight, row, column, x, y = find_cells(
                target_ptr, target_stride_b, target_stride_k, target_stride_c, keypoint_weight_ptr,
                keypoint_weight_stride_b, keypoint_weight_stride_k, batch, keypoint, batch < batch_size, height,
                width, stride, HAS_WEIGHT, IS_OFFSET,
            )  # fmt: skip
            mean_x, mean_y, for_0, for_1, for_2 = cell_gradients(
                grad_loss_ptr, grad_loss_stride_b, grad_loss_stride_k, values_ptr, scale_ptr, batch, keypoint,
                num_keypoints, valid, keypoint_weight, x, y, beta, fixed_log_var, min_log_var, max_log_var, CHANNELS,
                IS_LAPLACE, HAS_BETA, HAS_FIXED, HAS_BOUNDS,
            )  # fmt: skip
            gradient = tl.where(part == 0, mean_x, tl.where(part == 1, mean_y, for_0))
            gradient = tl.where(part == 3, for_1, tl.where(part == 4, for_2, gradient))
            if NEEDS_BIAS:
                total_bias += gradient
            num_nans += (gradient != gradient).to(tl.int32)
            # For products with a feature or a weight of 0 to be 0.
            gradient = _finite(gradient)
            value_ptr = grad_values_ptr + (batch * num_keypoints + keypoint) * COLUMNS + part
            tl.store(value_ptr, gradient, mask=(batch < batch_size) & (channel_block == 0))
            if NEEDS_WEIGHT:
                feature_ptr = features_ptr + batch * features_stride_b + row * features_stride_h
                feature_ptr += column * features_stride_w
                feature_ptrs = feature_ptr[:, None] + (channel * features_stride_c)[None, :]
                feature = tl.load(feature_ptrs, mask=valid[:, None] & channel_exists[None, :], other=0.0)
                products += gradient[:, None] * feature.to(tl.float32)
        if NEEDS_WEIGHT:
            total = _unless_nan(tl.sum(products, axis=0), num_nans)
            row_ptr = grad_weight_ptr + head_row.to(tl.int64) * num_channels + channel
            tl.store(row_ptr, total.to(grad_weight_ptr.dtype.element_ty), mask=channel_exists)
        if NEEDS_BIAS:
            bias = _unless_nan(tl.sum(total_bias, axis=0), num_nans)
            tl.store(grad_bias_ptr + head_row, bias.to(grad_bias_ptr.dtype.element_ty), mask=channel_block == 0)


@triton.jit(do_not_specialize=["num_keypoints"])
def _linear_gaussian_nll_bwd_features_kernel(
    grad_features_ptr,  # [B, C, H, W], zeros
    grad_features_stride_b,
    grad_features_stride_c,
    grad_features_stride_h,
    grad_features_stride_w,
    grad_values_ptr,  # [B, K, COLUMNS], contiguous
    weight_ptr,  # [K * COLUMNS, C]
    weight_stride_r,
    weight_stride_c,
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    keypoint_weight_ptr,  # [B, K]
    keypoint_weight_stride_b,
    keypoint_weight_stride_k,
    num_keypoints,
    num_channels,
    height,
    width,
    stride,
    BLOCK_SEARCH: tl.constexpr,
    BLOCK_TARGETS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
):
    """Gradient of the features at the cells; a program has one keypoint of one image and BLOCK_CHANNELS channels.

    Of the keypoints that share a cell the first writes the sum over all of them, in their order, and the
    others nothing: no atomics, and one rounding.
    """
    program = tl.program_id(0)
    num_channel_blocks = tl.cdiv(num_channels, BLOCK_CHANNELS)
    owner = program // num_channel_blocks
    batch = (owner // num_keypoints).to(tl.int64)
    own_keypoint = owner % num_keypoints
    channel = ((program % num_channel_blocks) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)).to(tl.int64)
    channel_exists = channel < num_channels
    # A block of one, since what finds cells works on blocks.
    one = tl.arange(0, 1).to(tl.int64)
    own_valid, _own_weight, own_row, own_column, _own_x, _own_y = find_cells(
        target_ptr, target_stride_b, target_stride_k, target_stride_c, keypoint_weight_ptr, keypoint_weight_stride_b,
        keypoint_weight_stride_k, one + batch, one + own_keypoint, one == 0, height, width, stride, HAS_WEIGHT, False,
    )  # fmt: skip
    writes = tl.max(own_valid.to(tl.int32), axis=0) > 0
    cell_row = tl.max(own_row, axis=0)
    cell_column = tl.max(own_column, axis=0)

    # Whom it shares the cell with. Most have it for themselves, and are done after one block below.
    num_sharing = 0
    num_earlier = 0
    for start in range(0, num_keypoints, BLOCK_SEARCH):
        other = (start + tl.arange(0, BLOCK_SEARCH)).to(tl.int64)
        other_valid, _weight, other_row, other_column, _x, _y = find_cells(
            target_ptr, target_stride_b, target_stride_k, target_stride_c, keypoint_weight_ptr,
            keypoint_weight_stride_b, keypoint_weight_stride_k, other * 0 + batch, other,
            (other < num_keypoints) & writes, height, width, stride, HAS_WEIGHT, False,
        )  # fmt: skip
        is_sharing = other_valid & (other_row == cell_row) & (other_column == cell_column)
        num_sharing += tl.sum(is_sharing.to(tl.int32), axis=0)
        num_earlier += tl.sum((is_sharing & (other < own_keypoint)).to(tl.int32), axis=0)
    writes = writes & (num_earlier == 0)
    first = own_keypoint // BLOCK_TARGETS * BLOCK_TARGETS
    last = tl.where(num_sharing > 1, num_keypoints, first + 1)
    last = tl.where(writes, last, first)

    products = tl.zeros([BLOCK_TARGETS, BLOCK_CHANNELS], dtype=tl.float32)
    num_nans = tl.zeros([BLOCK_TARGETS], dtype=tl.int32)
    for start in range(first, last, BLOCK_TARGETS):
        keypoint = (start + tl.arange(0, BLOCK_TARGETS)).to(tl.int64)
        valid, _weight, row, column, _x, _y = find_cells(
            target_ptr, target_stride_b, target_stride_k, target_stride_c, keypoint_weight_ptr,
            keypoint_weight_stride_b, keypoint_weight_stride_k, keypoint * 0 + batch, keypoint,
            keypoint < num_keypoints, height, width, stride, HAS_WEIGHT, False,
        )  # fmt: skip
        shares = valid & (row == cell_row) & (column == cell_column)
        mask = shares[:, None] & channel_exists[None, :]
        value_ptr = grad_values_ptr + (batch * num_keypoints + keypoint) * COLUMNS
        for part in tl.static_range(COLUMNS):
            # The first 2 K rows of the head are means.
            if part < 2:
                head_row = 2 * keypoint + part
            else:
                head_row = 2 * num_keypoints + (COLUMNS - 2) * keypoint + (part - 2)
            head_ptr = weight_ptr + head_row * weight_stride_r
            head = tl.load(head_ptr[:, None] + (channel * weight_stride_c)[None, :], mask=mask, other=0.0)
            gradient = tl.load(value_ptr + part, mask=shares, other=0.0)
            num_nans += (gradient != gradient).to(tl.int32)
            products += gradient[:, None] * head.to(tl.float32)
    total = _finite(_unless_nan(tl.sum(products, axis=0), num_nans)).to(grad_features_ptr.dtype.element_ty)
    cell_ptr = grad_features_ptr + batch * grad_features_stride_b + cell_row * grad_features_stride_h
    cell_ptr += cell_column * grad_features_stride_w
    tl.store(cell_ptr + channel * grad_features_stride_c, total, mask=channel_exists & writes)


# --- launchers -------------------------------------------------------------------------------------------


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
    num_targets, num_channels = batch * num_keypoints, features.shape[1]
    # Numbers of a row of the head each: a few a thread, for COLUMNS rows.
    block_channels = min(triton.next_power_of_2(num_channels), 128)
    block_size = min(16, 512 // block_channels)
    num_programs = triton.cdiv(num_targets, block_size)
    with on_device_of(features):
        _linear_gaussian_nll_fwd_kernel[(num_programs,)](
            loss,
            scale,
            *reduction_buffers(loss, num_programs, reduction),
            values,
            features,
            *features.stride(),
            weight,
            *weight.stride(),
            *pointer_to(bias, weight, 1),
            target,
            *target.stride(),
            *pointer_to(keypoint_weight, target, 2),
            num_targets,
            num_keypoints,
            *features.shape[1:],
            *scalars(options),
            BLOCK_SIZE=block_size,
            BLOCK_CHANNELS=block_channels,
            COLUMNS=columns,
            HAS_BIAS=bias is not None,
            FULL=options.full,
            REDUCTION=reduction,
            **flags_of(options, keypoint_weight),
            num_warps=4,
            **register_limit(128),
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
    # What the registers hold without a spill.
    shape = {"BLOCK_TARGETS": 8, "BLOCK_CHANNELS": min(32, triton.next_power_of_2(num_channels)), "num_warps": 4}
    num_channel_blocks = triton.cdiv(num_channels, shape["BLOCK_CHANNELS"])
    num_head_programs = num_keypoints * columns * (num_channel_blocks if needs_weight else 1)
    num_elements = grad_features.numel()
    block_elements = min(4096, triton.next_power_of_2(max(num_elements, 1)))
    labels = (target, *target.stride(), *pointer_to(keypoint_weight, target, 2))
    flags = flags_of(options, keypoint_weight)
    with on_device_of(features):
        grad_values = torch.empty_like(values)
        _linear_gaussian_nll_bwd_head_kernel[(num_head_programs + triton.cdiv(num_elements, block_elements),)](
            grad_values,
            grad_features,
            grad_weight,
            grad_bias,
            *per_target(grad_loss),
            values,
            features,
            *features.stride(),
            *labels,
            scale,
            num_head_programs,
            num_elements,
            batch,
            num_keypoints,
            num_channels,
            height,
            width,
            *scalars(options),
            BLOCK_ELEMENTS=block_elements,
            COLUMNS=columns,
            NEEDS_WEIGHT=needs_weight,
            NEEDS_BIAS=needs_bias,
            **flags,
            **shape,
        )
        if num_elements:
            _linear_gaussian_nll_bwd_features_kernel[(batch * num_keypoints * num_channel_blocks,)](
                grad_features,
                *grad_features.stride(),
                grad_values,
                weight,
                *weight.stride(),
                *labels,
                num_keypoints,
                num_channels,
                height,
                width,
                options.stride,
                BLOCK_SEARCH=min(256, triton.next_power_of_2(num_keypoints)),
                COLUMNS=columns,
                HAS_WEIGHT=keypoint_weight is not None,
                **shape,
            )
