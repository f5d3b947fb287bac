"""Device functions of the Gaussian losses: the loss of a keypoint, and its gradient for the numbers of its cell."""

from __future__ import annotations

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)
LOG_2_PI = tl.constexpr(1.8378770664093453)


@triton.jit
def bounded(log_var, low, high, HAS_BOUNDS: tl.constexpr):
    """The log variance in force, a NaN included."""
    if HAS_BOUNDS:
        log_var = tl.where(log_var < low, low, tl.where(log_var > high, high, log_var))
    return log_var


@triton.jit
def if_within(gradient, log_var, low, high, HAS_BOUNDS: tl.constexpr):
    """A gradient, or 0 where `bounded` has clamped the log variance."""
    if HAS_BOUNDS:
        gradient = tl.where((log_var >= low) & (log_var <= high), gradient, 0.0)
    return gradient


@triton.jit
def axis_loss(difference, log_var, beta, IS_LAPLACE: tl.constexpr, FULL: tl.constexpr, HAS_BETA: tl.constexpr):
    """Loss of one axis."""
    if IS_LAPLACE:
        loss = LOG_2 + log_var + tl.abs(difference) * tl.exp(-log_var)
    else:
        # Squared after the scaling: e^-s alone overflows where the loss does not.
        z = difference * tl.exp(-0.5 * log_var)
        loss = 0.5 * (log_var + z * z)
        if FULL:
            loss += 0.5 * LOG_2_PI
    if HAS_BETA:
        loss *= tl.exp(beta * log_var)
    return loss


@triton.jit
def axis_gradients(difference, log_var, beta, IS_LAPLACE: tl.constexpr, HAS_BETA: tl.constexpr):
    """Gradient of `axis_loss` for the mean and for the log variance."""
    if IS_LAPLACE:
        scale = tl.exp(-log_var)
        # A NaN is neither above nor below zero, and stays.
        sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
        for_mean = -sign * scale
        for_log_var = 1.0 - tl.abs(difference) * scale
    else:
        scale = tl.exp(-0.5 * log_var)
        z = difference * scale
        for_mean = -z * scale
        for_log_var = 0.5 - 0.5 * z * z
    if HAS_BETA:
        factor = tl.exp(beta * log_var)
        for_mean *= factor
        for_log_var *= factor
    return for_mean, for_log_var


@triton.jit
def keypoint_loss(
    difference_x,  # of the target to the mean
    difference_y,
    log_var_0,
    log_var_1,
    log_var_2,
    beta,
    min_log_var,
    max_log_var,
    CHANNELS: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    FULL: tl.constexpr,
):
    """Loss of a keypoint, without its weight."""
    if CHANNELS == 3:
        a = bounded(log_var_0, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        c = bounded(log_var_2, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        z1 = difference_x * tl.exp(-a)
        z2 = (difference_y - log_var_1 * z1) * tl.exp(-c)
        loss = a + c + 0.5 * (z1 * z1 + z2 * z2)
        if FULL:
            loss += LOG_2_PI
        if HAS_BETA:
            loss *= tl.exp(beta * (a + c))
    else:
        s_x = bounded(log_var_0, min_log_var, max_log_var, HAS_BOUNDS)
        s_y = s_x
        if CHANNELS == 2:
            s_y = bounded(log_var_1, min_log_var, max_log_var, HAS_BOUNDS)
        loss = axis_loss(difference_x, s_x, beta, IS_LAPLACE, FULL, HAS_BETA)
        loss += axis_loss(difference_y, s_y, beta, IS_LAPLACE, FULL, HAS_BETA)
    return loss


@triton.jit
def fixed_values(fixed_log_var, like, CHANNELS: tl.constexpr):
    """The log variances, CHANNELS of them and zeros, that make both axes' variance exp(fixed_log_var)."""
    zeros = tl.zeros(like.shape, dtype=tl.float32)
    if CHANNELS == 3:
        return zeros + 0.5 * fixed_log_var, zeros, zeros + 0.5 * fixed_log_var
    else:
        return zeros + fixed_log_var, zeros + fixed_log_var, zeros


@triton.jit
def load_values(
    pointer,
    stride,
    exists,
    fixed_log_var,
    CHANNELS: tl.constexpr,
    HAS_FIXED: tl.constexpr,
):
    """The log variances at a cell, CHANNELS of them and zeros, before they are bounded."""
    if HAS_FIXED:
        first, second, third = fixed_values(fixed_log_var, exists, CHANNELS)
    else:
        first = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        second = tl.zeros(exists.shape, dtype=tl.float32)
        third = second
        if CHANNELS > 1:
            second = tl.load(pointer + stride, mask=exists, other=0.0).to(tl.float32)
        if CHANNELS > 2:
            third = tl.load(pointer + 2 * stride, mask=exists, other=0.0).to(tl.float32)
    return first, second, third


@triton.jit
def cell_gradients(
    grad_loss_ptr,  # [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    values_ptr,  # [B, K, 2 + CHANNELS], contiguous
    scale_ptr,  # []
    batch,
    keypoint,
    num_keypoints,
    valid,
    weight,
    x,
    y,
    beta,
    fixed_log_var,
    min_log_var,
    max_log_var,
    CHANNELS: tl.constexpr,
    IS_LAPLACE: tl.constexpr,
    HAS_BETA: tl.constexpr,
    HAS_FIXED: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
):
    """Gradients for mean x, mean y and three log variances of keypoints whose target (x, y) is known; 0 where
    invalid, and for log variances that do not exist."""
    value_ptr = values_ptr + (batch * num_keypoints + keypoint) * (2 + CHANNELS)
    difference_x = x - tl.load(value_ptr, mask=valid, other=0.0)
    difference_y = y - tl.load(value_ptr + 1, mask=valid, other=0.0)
    log_var_0, log_var_1, log_var_2 = load_values(value_ptr + 2, 1, valid, fixed_log_var, CHANNELS, HAS_FIXED)
    pointer = grad_loss_ptr + batch * grad_loss_stride_b + keypoint * grad_loss_stride_k
    factor = tl.load(pointer, mask=valid, other=0.0).to(tl.float32) * tl.load(scale_ptr) * weight

    if CHANNELS == 3:
        a = bounded(log_var_0, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        c = bounded(log_var_2, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        if HAS_BETA:
            factor *= tl.exp(beta * (a + c))
        scale_x = tl.exp(-a)
        scale_y = tl.exp(-c)
        z1 = difference_x * scale_x
        z2 = (difference_y - log_var_1 * z1) * scale_y
        mean_y = -z2 * scale_y
        along_x = z1 + log_var_1 * mean_y
        mean_x = -along_x * scale_x
        for_0 = if_within(1.0 - z1 * along_x, log_var_0, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        for_1 = z1 * mean_y
        for_2 = if_within(1.0 - z2 * z2, log_var_2, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
    else:
        s_x = bounded(log_var_0, min_log_var, max_log_var, HAS_BOUNDS)
        mean_x, for_0 = axis_gradients(difference_x, s_x, beta, IS_LAPLACE, HAS_BETA)
        if CHANNELS == 2:
            s_y = bounded(log_var_1, min_log_var, max_log_var, HAS_BOUNDS)
            mean_y, for_1 = axis_gradients(difference_y, s_y, beta, IS_LAPLACE, HAS_BETA)
            for_1 = if_within(for_1, log_var_1, min_log_var, max_log_var, HAS_BOUNDS)
        else:
            mean_y, for_1 = axis_gradients(difference_y, s_x, beta, IS_LAPLACE, HAS_BETA)
            for_0 += for_1
            for_1 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_0 = if_within(for_0, log_var_0, min_log_var, max_log_var, HAS_BOUNDS)
        for_2 = tl.zeros(for_0.shape, dtype=tl.float32)
    if HAS_FIXED:
        for_0 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_1 = for_0
        for_2 = for_0
    # Not a product with 0, which would keep a NaN.
    mean_x = tl.where(valid, mean_x * factor, 0.0)
    mean_y = tl.where(valid, mean_y * factor, 0.0)
    for_0 = tl.where(valid, for_0 * factor, 0.0)
    for_1 = tl.where(valid, for_1 * factor, 0.0)
    for_2 = tl.where(valid, for_2 * factor, 0.0)
    return mean_x, mean_y, for_0, for_1, for_2
