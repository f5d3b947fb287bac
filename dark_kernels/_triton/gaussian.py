"""Device functions of the Gaussian losses: the loss of a keypoint, and its gradient for the values in its cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)
LOG_2_PI = tl.constexpr(1.8378770664093453)
LARGEST = tl.constexpr(3.4028234663852886e38)


class Form(NamedTuple):
    """Form of a loss, a constant."""

    CHANNELS: int  # log variances of a keypoint: 1 for both axes, 2 for one each, 3 for a Cholesky factor
    IS_LAPLACE: bool
    IS_OFFSET: bool  # means are relative to the centre of their cell
    FULL: bool  # adds the Gaussian's constant


class Scalars(NamedTuple):
    """Numbers that training may change: no constants, so that a new one does not recompile. None if not in force.

    Log variances are halves for a Cholesky factor, which holds halves.
    """

    beta: Any
    fixed_log_var: Any  # replaces those that are predicted
    min_log_var: Any  # both bounds or none
    max_log_var: Any


class Values(NamedTuple):
    """Values of keypoints in their cells, or what belongs to them. Zeros for log variances that do not exist."""

    mean_x: Any
    mean_y: Any
    log_var_0: Any
    log_var_1: Any
    log_var_2: Any


class Cholesky(NamedTuple):
    """Residuals of both axes, with a Cholesky factor.

    Residuals are z times the square root of variance^beta: they can be finite with it where they are not without it.
    """

    half_log_det: Any  # of the factor
    step_a: Any  # e^(-a / 2)
    z1: Any
    step_x: Any  # e^(-a / 2) times the fourth root of variance^beta
    step_y: Any  # e^(-c / 2) times the same
    residual_x: Any
    residual_y: Any


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
def bounded(log_var, scalars):
    """The log variance in force, a NaN included."""
    if scalars.min_log_var is not None:
        low = scalars.min_log_var
        high = scalars.max_log_var
        log_var = tl.where(log_var < low, low, tl.where(log_var > high, high, log_var))
    return log_var


@triton.jit
def if_within(gradient, log_var, scalars):
    """A gradient, or 0 where `bounded` has clamped the log variance."""
    if scalars.min_log_var is not None:
        is_within = (log_var >= scalars.min_log_var) & (log_var <= scalars.max_log_var)
        gradient = tl.where(is_within, gradient, 0.0)
    return gradient


@triton.jit
def _axis_loss(difference, log_var, beta, FORM: tl.constexpr):
    """Loss of one axis."""
    # The factor of beta-NLL goes into the exponent: the residual can be finite with it where it is not without.
    exponent = -0.25 * log_var
    if beta is not None:
        exponent *= 1.0 - beta
    step = finite_exp(exponent)
    if FORM.IS_LAPLACE:
        loss = LOG_2 + log_var
        square = tl.abs(difference) * step * step * step * step
    else:
        # Squared after the scaling: e^-s alone overflows where the loss does not.
        z = difference * step * step
        loss = 0.5 * log_var
        square = 0.5 * z * z
        if FORM.FULL:
            loss += 0.5 * LOG_2_PI
    if beta is not None:
        loss *= tl.exp(beta * log_var)
    return loss + square


@triton.jit
def _axis_gradients(difference, log_var, grad_loss, beta, FORM: tl.constexpr):
    """Gradient of `_axis_loss` for the mean and for the log variance. `grad_loss` comes first: where it is small, a
    product may be finite that would not be without it."""
    exponent = -0.25 * log_var
    factor = grad_loss
    if beta is not None:
        exponent *= 1.0 - beta
        factor *= tl.exp(beta * log_var)
    step = finite_exp(exponent)
    if FORM.IS_LAPLACE:
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
    if beta is not None:
        for_log_var = _plus(factor, for_log_var)
    else:
        for_log_var += factor
    return for_mean, for_log_var


@triton.jit
def _cholesky(difference_x, difference_y, values, scalars):
    """Residuals of both axes, a `Cholesky`."""
    a = bounded(values.log_var_0, scalars)
    c = bounded(values.log_var_2, scalars)
    half_log_det = 0.5 * a + 0.5 * c  # halves: a sum could overflow
    step_a = finite_exp(-0.5 * a)
    z1 = difference_x * step_a * step_a
    step_x = step_a
    step_y = finite_exp(-0.5 * c)
    residual_x = z1
    if scalars.beta is not None:
        held = 0.5 * scalars.beta * half_log_det
        step_x = finite_exp(held - 0.5 * a)
        step_y = finite_exp(held - 0.5 * c)
        residual_x = difference_x * step_x * step_x
    residual_y = _times(difference_y - _times(values.log_var_1, z1), step_y) * step_y
    return Cholesky(half_log_det, step_a, z1, step_x, step_y, residual_x, residual_y)


@triton.jit
def keypoint_loss(cells, values, scalars, FORM: tl.constexpr):
    """Loss of a keypoint, without its weight."""
    difference_x = cells.target_x - values.mean_x
    difference_y = cells.target_y - values.mean_y
    if FORM.CHANNELS == 3:
        cholesky = _cholesky(difference_x, difference_y, values, scalars)
        half = cholesky.half_log_det
        if FORM.FULL:
            half += 0.5 * LOG_2_PI
        if scalars.beta is not None:
            half *= tl.exp(2.0 * scalars.beta * cholesky.half_log_det)
        half_x = 0.5 * cholesky.residual_x
        half_y = 0.5 * cholesky.residual_y
        loss = 2.0 * (half + half_x * half_x + half_y * half_y)
    else:
        s_x = bounded(values.log_var_0, scalars)
        s_y = s_x
        if FORM.CHANNELS == 2:
            s_y = bounded(values.log_var_1, scalars)
        loss = _axis_loss(difference_x, s_x, scalars.beta, FORM)
        loss += _axis_loss(difference_y, s_y, scalars.beta, FORM)
    return loss


@triton.jit
def with_fixed_log_var(values, scalars, FORM: tl.constexpr):
    """Replace the log variances, if `fixed_log_var` is in force, by those that make it the variance of both axes."""
    if scalars.fixed_log_var is not None:
        zeros = tl.zeros(values.mean_x.shape, dtype=tl.float32)
        fixed = zeros + scalars.fixed_log_var
        if FORM.CHANNELS == 3:
            values = Values(values.mean_x, values.mean_y, fixed, zeros, fixed)
        else:
            values = Values(values.mean_x, values.mean_y, fixed, fixed, zeros)
    return values


@triton.jit
def load_values(mean_ptr, mean_stride, log_var_ptr, log_var_stride, valid, scalars, FORM: tl.constexpr):
    """Load a `Values`, before log variances are bounded. Strides are those from channel to channel."""
    mean_x = tl.load(mean_ptr, mask=valid, other=0.0).to(tl.float32)
    mean_y = tl.load(mean_ptr + mean_stride, mask=valid, other=0.0).to(tl.float32)
    log_var_0 = tl.zeros(valid.shape, dtype=tl.float32)
    log_var_1 = log_var_0
    log_var_2 = log_var_0
    if scalars.fixed_log_var is None:
        log_var_0 = tl.load(log_var_ptr, mask=valid, other=0.0).to(tl.float32)
        if FORM.CHANNELS > 1:
            log_var_1 = tl.load(log_var_ptr + log_var_stride, mask=valid, other=0.0).to(tl.float32)
        if FORM.CHANNELS > 2:
            log_var_2 = tl.load(log_var_ptr + 2 * log_var_stride, mask=valid, other=0.0).to(tl.float32)
    return with_fixed_log_var(Values(mean_x, mean_y, log_var_0, log_var_1, log_var_2), scalars, FORM)


@triton.jit
def value_gradients(cells, values, grad_loss, scalars, FORM: tl.constexpr):
    """Gradients of `keypoint_loss` times `grad_loss`, a `Values`. 0 where invalid."""
    difference_x = cells.target_x - values.mean_x
    difference_y = cells.target_y - values.mean_y
    # A loss of which nothing is asked has no gradient, be it infinite.
    valid = cells.valid & (grad_loss != 0)

    if FORM.CHANNELS == 3:
        cholesky = _cholesky(difference_x, difference_y, values, scalars)
        factor = grad_loss
        if scalars.beta is not None:
            factor *= tl.exp(2.0 * scalars.beta * cholesky.half_log_det)
        for_x = grad_loss * cholesky.residual_x
        for_y = grad_loss * cholesky.residual_y
        g = for_y * cholesky.step_y * cholesky.step_y  # of dy - b z1
        for_z1 = _times(values.log_var_1, g)
        mean_x = _plus(_times(for_z1, cholesky.step_a) * cholesky.step_a, -for_x * cholesky.step_x * cholesky.step_x)
        mean_y = -g
        for_0 = _plus(_plus(_times(for_z1, cholesky.z1), -for_x * cholesky.residual_x), factor)
        for_0 = if_within(for_0, values.log_var_0, scalars)
        for_1 = -_times(cholesky.z1, g)
        for_2 = _plus(factor, -for_y * cholesky.residual_y)
        for_2 = if_within(for_2, values.log_var_2, scalars)
    else:
        s_x = bounded(values.log_var_0, scalars)
        mean_x, for_0 = _axis_gradients(difference_x, s_x, grad_loss, scalars.beta, FORM)
        if FORM.CHANNELS == 2:
            s_y = bounded(values.log_var_1, scalars)
            mean_y, for_1 = _axis_gradients(difference_y, s_y, grad_loss, scalars.beta, FORM)
            for_1 = if_within(for_1, values.log_var_1, scalars)
        else:
            mean_y, for_1 = _axis_gradients(difference_y, s_x, grad_loss, scalars.beta, FORM)
            for_0 += for_1
            for_1 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_0 = if_within(for_0, values.log_var_0, scalars)
        for_2 = tl.zeros(for_0.shape, dtype=tl.float32)
    if scalars.fixed_log_var is not None:
        for_0 = tl.zeros(for_0.shape, dtype=tl.float32)
        for_1 = for_0
        for_2 = for_0
    # Not a product with 0, which would keep a NaN.
    mean_x = tl.where(valid, mean_x, 0.0)
    mean_y = tl.where(valid, mean_y, 0.0)
    for_0 = tl.where(valid, for_0, 0.0)
    for_1 = tl.where(valid, for_1, 0.0)
    for_2 = tl.where(valid, for_2, 0.0)
    return Values(mean_x, mean_y, for_0, for_1, for_2)
