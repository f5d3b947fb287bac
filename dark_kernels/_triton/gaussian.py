"""Device functions of the Gaussian losses: the loss of a keypoint, and its gradient for the numbers of its cell."""

from __future__ import annotations

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)
LOG_2_PI = tl.constexpr(1.8378770664093453)
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def finite_exp(exponent):
    """e^exponent, by which a residual is multiplied twice or more: finite, so that a residual of 0 stays 0, and large
    enough to take any normal number beyond the range where the whole exponential does. A subnormal one may stay in it,
    until it is squared or multiplied again, and is 0 on a device that has none."""
    scale = tl.exp(exponent)
    return tl.where(scale > LARGEST, LARGEST, scale)  # a NaN is not, and stays


@triton.jit
def _times(one, other):
    """one * other, in which 0 times infinity is 0."""
    product = one * other
    return tl.where((product != product) & (one == one) & (other == other), 0.0, product)


@triton.jit
def _plus(one, other):
    """one + other, in which opposite infinities leave 0, as opposite numbers do."""
    return tl.where(one == -other, 0.0, one + other)


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
    # The factor of beta-NLL goes into the exponent: the residual can be finite with it where it is not without.
    exponent = -0.25 * log_var
    if HAS_BETA:
        exponent *= 1.0 - beta
    step = finite_exp(exponent)
    if IS_LAPLACE:
        loss = LOG_2 + log_var
        square = tl.abs(difference) * step * step * step * step
    else:
        # Squared after the scaling: e^-s alone overflows where the loss does not.
        z = difference * step * step
        loss = 0.5 * log_var
        square = 0.5 * z * z
        if FULL:
            loss += 0.5 * LOG_2_PI
    if HAS_BETA:
        loss *= tl.exp(beta * log_var)
    return loss + square


@triton.jit
def axis_gradients(difference, log_var, grad_loss, beta, IS_LAPLACE: tl.constexpr, HAS_BETA: tl.constexpr):
    """Gradient of `axis_loss` for the mean and for the log variance. `grad_loss` comes first: where it is small, a
    product may be finite that would not be without it."""
    exponent = -0.25 * log_var
    factor = grad_loss
    if HAS_BETA:
        exponent *= 1.0 - beta
        factor *= tl.exp(beta * log_var)
    step = finite_exp(exponent)
    if IS_LAPLACE:
        # A NaN is neither above nor below zero, and stays.
        sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
        for_mean = -sign * grad_loss * step * step * step * step
        for_log_var = -grad_loss * (tl.abs(difference) * step * step * step * step)
    else:
        z = difference * step * step
        for_z = grad_loss * z
        for_mean = -for_z * step * step
        for_log_var = (-0.5 * for_z) * z
        factor *= 0.5
    if HAS_BETA:
        for_log_var = _plus(factor, for_log_var)
    else:
        for_log_var += factor
    return for_mean, for_log_var


@triton.jit
def _cholesky(difference_x, difference_y, a, b, c, beta, HAS_BETA: tl.constexpr):
    """Half of the factor's log determinant, e^(-a / 2), z1, and steps and residuals of both axes.

    Steps are e^(-a / 2) and e^(-c / 2) times the fourth root of variance^beta, and residuals are z times its square
    root: they can be finite where they are not without it.
    """
    half_log_det = 0.5 * a + 0.5 * c  # halves: a sum could overflow
    step_a = finite_exp(-0.5 * a)
    z1 = difference_x * step_a * step_a
    step_x = step_a
    step_y = finite_exp(-0.5 * c)
    residual_x = z1
    if HAS_BETA:
        held = 0.5 * beta * half_log_det
        step_x = finite_exp(held - 0.5 * a)
        step_y = finite_exp(held - 0.5 * c)
        residual_x = difference_x * step_x * step_x
    residual_y = _times(difference_y - _times(b, z1), step_y) * step_y
    return half_log_det, step_a, z1, step_x, step_y, residual_x, residual_y


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
        half, _step_a, _z1, _step_x, _step_y, residual_x, residual_y = _cholesky(
            difference_x, difference_y, a, log_var_1, c, beta, HAS_BETA
        )
        log_factor = 2.0 * beta * half
        if FULL:
            half += 0.5 * LOG_2_PI
        if HAS_BETA:
            half *= tl.exp(log_factor)
        half_x = 0.5 * residual_x
        half_y = 0.5 * residual_y
        loss = 2.0 * (half + half_x * half_x + half_y * half_y)
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
    grad_loss = tl.load(pointer, mask=valid, other=0.0).to(tl.float32) * tl.load(scale_ptr) * weight
    # A loss of which nothing is asked has no gradient, be it infinite.
    valid = valid & (grad_loss != 0)

    if CHANNELS == 3:
        a = bounded(log_var_0, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        c = bounded(log_var_2, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        half_log_det, step_a, z1, step_x, step_y, residual_x, residual_y = _cholesky(
            difference_x, difference_y, a, log_var_1, c, beta, HAS_BETA
        )
        factor = grad_loss
        if HAS_BETA:
            factor *= tl.exp(2.0 * beta * half_log_det)
        for_x = grad_loss * residual_x
        for_y = grad_loss * residual_y
        g = for_y * step_y * step_y  # of dy - b z1
        for_z1 = _times(log_var_1, g)
        mean_x = _plus(_times(for_z1, step_a) * step_a, -for_x * step_x * step_x)
        mean_y = -g
        for_0 = _plus(_plus(_times(for_z1, z1), -for_x * residual_x), factor)
        for_0 = if_within(for_0, log_var_0, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
        for_1 = -_times(z1, g)
        for_2 = _plus(factor, -for_y * residual_y)
        for_2 = if_within(for_2, log_var_2, 0.5 * min_log_var, 0.5 * max_log_var, HAS_BOUNDS)
    else:
        s_x = bounded(log_var_0, min_log_var, max_log_var, HAS_BOUNDS)
        mean_x, for_0 = axis_gradients(difference_x, s_x, grad_loss, beta, IS_LAPLACE, HAS_BETA)
        if CHANNELS == 2:
            s_y = bounded(log_var_1, min_log_var, max_log_var, HAS_BOUNDS)
            mean_y, for_1 = axis_gradients(difference_y, s_y, grad_loss, beta, IS_LAPLACE, HAS_BETA)
            for_1 = if_within(for_1, log_var_1, min_log_var, max_log_var, HAS_BOUNDS)
        else:
            mean_y, for_1 = axis_gradients(difference_y, s_x, grad_loss, beta, IS_LAPLACE, HAS_BETA)
            for_0 += for_1
            for_1 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_0 = if_within(for_0, log_var_0, min_log_var, max_log_var, HAS_BOUNDS)
        for_2 = tl.zeros(for_0.shape, dtype=tl.float32)
    if HAS_FIXED:
        for_0 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_1 = for_0
        for_2 = for_0
    # Not a product with 0, which would keep a NaN.
    mean_x = tl.where(valid, mean_x, 0.0)
    mean_y = tl.where(valid, mean_y, 0.0)
    for_0 = tl.where(valid, for_0, 0.0)
    for_1 = tl.where(valid, for_1, 0.0)
    for_2 = tl.where(valid, for_2, 0.0)
    return mean_x, mean_y, for_0, for_1, for_2
