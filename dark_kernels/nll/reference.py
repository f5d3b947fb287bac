"""The definition of the Gaussian losses: plain PyTorch, differentiable, one keypoint's cell at a time in spirit.

Readable on purpose. Every other backend is proved against this file in float64.

Sources: the negative log-likelihoods are those of `torch.distributions` (Normal, MultivariateNormal with a
Cholesky factor, Laplace), without their constant log 2 pi unless `full`; beta: M. Seitzer et al., "On the Pitfalls of
Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks", ICLR 2022, eq. 5.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def gaussian_nll_reference(
    mean: Tensor,  # [B, K, 2, H, W]
    log_var: Tensor,  # [B, K, 1 | 2 | 3, H, W]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    weight: Tensor | None = None,  # [B, K]
    coordinates: str = "absolute",
    distribution: str = "gaussian",
    beta: float = 0.0,
    fixed_log_var: float | None = None,
    log_var_bounds: tuple[float, float] | None = None,
    full: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """The loss of `dark_kernels.gaussian_nll`, step by step. Arguments and result as there; computed in float32,
    in float64 if a map is float64, and differentiable any number of times, in `target` and `weight` as well."""
    dtype = torch.float64 if torch.float64 in (mean.dtype, log_var.dtype) else torch.float32
    target = target.to(dtype)
    row, column, valid = find_cells(target, stride, mean.shape[-2], mean.shape[-1])
    weight = torch.ones_like(target[..., 0]) if weight is None else weight.to(dtype)
    valid = valid & (weight > 0)  # a NaN is not

    mean_at_cell = read_cells(mean, row, column).to(dtype)
    log_var_at_cell = read_cells(log_var, row, column).to(dtype)
    loss = nll_at_cells(
        mean_at_cell, log_var_at_cell, target, row, column, valid, stride, coordinates, distribution, beta,
        fixed_log_var, log_var_bounds, full,
    )  # fmt: skip
    return reduce(loss, weight, valid, reduction)


def linear_gaussian_nll_reference(
    features: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K * P, C]
    bias: Tensor | None,  # [K * P]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    keypoint_weight: Tensor | None = None,  # [B, K]
    coordinates: str = "absolute",
    distribution: str = "gaussian",
    beta: float = 0.0,
    fixed_log_var: float | None = None,
    log_var_bounds: tuple[float, float] | None = None,
    full: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """The loss of `dark_kernels.linear_gaussian_nll`: the features at the cells, the head, the loss."""
    tensors = (features, weight) if bias is None else (features, weight, bias)
    dtype = torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32
    num_keypoints = target.shape[1]
    target = target.to(dtype)
    row, column, valid = find_cells(target, stride, features.shape[-2], features.shape[-1])
    keypoint_weight = torch.ones_like(target[..., 0]) if keypoint_weight is None else keypoint_weight.to(dtype)
    valid = valid & (keypoint_weight > 0)

    batch = torch.arange(features.shape[0], device=features.device)[:, None]
    # Converted before they are read, so that gradients of keypoints that share a cell add up in this dtype.
    features_at_cell = features.to(dtype)[batch, :, row, column]
    features_at_cell = torch.where(valid[..., None], features_at_cell, 0.0)  # [B, K, C]
    # Not a matrix product, which autocast and settings of the process can round to half precision.
    products = times(finite_gradient(features_at_cell)[:, :, None], by_keypoint(weight.to(dtype), num_keypoints))
    outputs = finite_gradient(products.sum(-1))  # [B, K, P]
    if bias is not None:
        outputs = outputs + expand(by_keypoint(bias.to(dtype), num_keypoints), outputs.shape)
    mean, log_var = outputs[..., :2], outputs[..., 2:]
    loss = nll_at_cells(
        mean, log_var, target, row, column, valid, stride, coordinates, distribution, beta,
        fixed_log_var, log_var_bounds, full,
    )  # fmt: skip
    return reduce(loss, keypoint_weight, valid, reduction)


def find_cells(target: Tensor, stride: float, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and validity of each target's cell, [B, K] each. Row and column are 0 where invalid."""
    cell = (target / stride).floor()
    column, row = cell.unbind(-1)
    # Both ends, and before the conversion to integers: a NaN is neither above nor below.
    valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(valid, row, 0).long(), torch.where(valid, column, 0).long(), valid


def by_keypoint(
    channels: Tensor,  # [K * P, ...]
    num_keypoints: int,
) -> Tensor:
    """[K, P, ...]: of 2 K mean channels (x, y of each keypoint), then the variance channels of each keypoint."""
    num_log_vars = channels.shape[0] // num_keypoints - 2 if num_keypoints else 1
    means = channels[: 2 * num_keypoints].unflatten(0, (num_keypoints, 2))
    return torch.cat([means, channels[2 * num_keypoints :].unflatten(0, (num_keypoints, num_log_vars))], dim=1)


def read_cells(
    maps: Tensor,  # [B, K, ..., H, W]
    row: Tensor,  # [B, K]
    column: Tensor,  # [B, K]
) -> Tensor:
    """Each keypoint's channels in its own cell: [B, K, ...]."""
    batch = torch.arange(maps.shape[0], device=maps.device)[:, None]
    keypoint = torch.arange(maps.shape[1], device=maps.device)
    return maps[batch, keypoint, ..., row, column]


def nll_at_cells(
    mean: Tensor,  # [B, K, 2]
    log_var: Tensor,  # [B, K, 1 | 2 | 3]
    target: Tensor,  # [B, K, 2]
    row: Tensor,  # [B, K]
    column: Tensor,  # [B, K]
    valid: Tensor,  # [B, K]
    stride: float,
    coordinates: str,
    distribution: str,
    beta: float,
    fixed_log_var: float | None,
    log_var_bounds: tuple[float, float] | None,
    full: bool,
) -> Tensor:
    """The negative log-likelihood of each target, [B, K], unweighted; of no meaning where not `valid`."""
    # Before any arithmetic, so that an ignored NaN has no gradient: 0 * NaN would be NaN.
    mean = torch.where(valid[..., None], mean, 0.0)
    log_var = torch.where(valid[..., None], log_var, 0.0)
    difference = target_in_cells(target, row, column, valid, stride, coordinates) - mean  # d

    if log_var.shape[-1] == 3:
        a, b, c = log_var.unbind(-1)  # covariance = L L^T, L = [[e^a, 0], [b, e^c]]
        if fixed_log_var is not None:
            a, b, c = replace(a, fixed_log_var / 2), replace(b, 0.0), replace(c, fixed_log_var / 2)
        elif log_var_bounds is not None:
            low, high = log_var_bounds
            a, c = a.clamp(low / 2, high / 2), c.clamp(low / 2, high / 2)
        dx, dy = difference.unbind(-1)
        (dx, dx_in_z2), (a, a_of_z1), (c, c_of_z2) = fork(dx), fork(a), fork(c)
        a_of_z1, a_in_z2 = fork(a_of_z1)
        half_log_det = a / 2 + c / 2  # halves: a sum could overflow
        log_factor = held_log_factor(2 * beta, half_log_det)  # of the square root of the determinant
        # z = L^-1 d, times the square root of the factor: it can be finite where z is not.
        z1 = scaled(dx, -a_of_z1, log_factor / 2)
        shift = times(b, times(scaled(dx_in_z2, -a_in_z2), one(-a_in_z2)))
        z2 = scaled(dy - shift, -c_of_z2, log_factor / 2)
        squares = times(times(z1 / 2, z1 / 2), one(-a_of_z1).square())
        squares = squares + times(times(z2 / 2, z2 / 2), one(-c_of_z2).square())
        constant = math.log(2 * math.pi) / 2 if full else 0.0
        return 2 * (times(half_log_det + constant, log_factor.exp()) + squares)

    if fixed_log_var is not None:
        log_var = replace(log_var, fixed_log_var)
    elif log_var_bounds is not None:
        log_var = log_var.clamp(*log_var_bounds)
    log_var, of_z = fork(log_var.expand_as(difference))  # one for both axes, or one for each
    log_factor = held_log_factor(beta, log_var)
    if distribution == "gaussian":
        z = scaled(difference, -of_z / 2, log_factor / 2)  # with the square root of the factor, as above
        loss = (log_var + math.log(2 * math.pi)) / 2 if full else log_var / 2
        loss = times(loss, log_factor.exp()) + times(times(z / 2, z), one(-of_z))
    else:  # log_var is the log of Laplace's scale
        distance = times(difference, difference.detach().sign())
        loss = times(log_var + math.log(2), log_factor.exp())
        loss = loss + times(scaled(distance, -of_z, log_factor), one(-of_z))
    return loss.sum(-1)


def target_in_cells(
    target: Tensor,  # [B, K, 2]
    row: Tensor,  # [B, K]
    column: Tensor,  # [B, K]
    valid: Tensor,  # [B, K]
    stride: float,
    coordinates: str,
) -> Tensor:
    """The targets, relative to what means are relative to: [B, K, 2]."""
    target = torch.where(valid[..., None], target, 0.0)
    if coordinates == "offset":
        target = target - (torch.stack([column, row], dim=-1).to(target.dtype) + 0.5) * stride
    return target


def held_log_factor(beta: float, log_var: Tensor) -> Tensor:
    """beta * log_var as a constant: the logarithm of beta-NLL's factor."""
    return beta * log_var.detach() if beta else torch.zeros_like(log_var)


def replace(predicted: Tensor, number: float) -> Tensor:
    """`number` everywhere, with a gradient of 0 for what was predicted."""
    return torch.where(torch.ones_like(predicted, dtype=torch.bool), number, predicted)


def reduce(
    loss: Tensor,  # [B, K]
    weight: Tensor,  # [B, K]
    valid: Tensor,  # [B, K]
    reduction: str,
) -> Tensor:
    """Weight and reduce the losses of the valid keypoints; the others count 0."""
    weight = torch.where(valid, weight, 0.0)
    loss = torch.where(valid, loss * weight, 0.0)
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / max(loss.numel(), 1)
    divisor = weight.sum()
    return total / torch.where(divisor > 0, divisor, 1.0)


# --- arithmetic at the ends of the range -----------------------------------------------------------------
#
# A network that has learnt a target by heart has a residual of 0 and a log variance that falls without end. Its
# precision overflows long before its loss does, and 0 times infinity would be NaN: here, and in the derivatives.


def scaled(number: Tensor, exponent: Tensor, constant: Tensor | float = 0.0) -> Tensor:
    """number * e^(exponent + constant), which overflows only where the result does. A multiple of `number` to autograd,
    to which `one` adds the derivatives in `exponent`."""
    # Each of the four is finite, and together they take the smallest number beyond the largest.
    step = torch.exp((exponent.detach() + constant) / 4).clamp(max=torch.finfo(number.dtype).max)
    for _ in range(4):
        number = times(number, step)
    return number


def one(exponent: Tensor) -> Tensor:
    """1, with the derivatives of e^exponent over its value: they are finite where that is not."""
    return torch.exp((exponent - exponent.detach()).nan_to_num())  # an infinite exponent has none


def times(a: Tensor, b: Tensor) -> Tensor:
    """a * b, in which 0 times infinity is 0; in its derivatives too."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return _apply(_Times, expand(a, shape), expand(b, shape))


def plus(a: Tensor, b: Tensor) -> Tensor:
    """a + b, in which opposite infinities leave 0; in its derivatives too."""
    return _apply(_Plus, *torch.broadcast_tensors(a, b))


def expand(number: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat a number, whose gradients are added up. Opposite infinities leave 0."""
    return number if number.shape == shape else _apply(_Expand, number, shape)


def fork(number: Tensor) -> tuple[Tensor, ...]:
    """Two of it, of which `expand` adds the gradients."""
    return expand(number, (2, *number.shape)).unbind()


def finite_gradient(number: Tensor) -> Tensor:
    """The number, whose gradient is the largest one where it would be infinite."""
    return _apply(_FiniteGradient, number)


def _unless_nan(result: Tensor, *operands: Tensor) -> Tensor:
    """The result, or 0 where numbers have made a NaN."""
    given = sum(operand.isnan().sum_to_size(result.shape) for operand in operands)
    return torch.where(result.isnan() & (given == 0), 0.0, result)


def _apply(function: Any, *inputs: Any) -> Tensor:
    """Call a function of the kind below, with its tangents as the forward mode of autograd."""
    # A `jvp` is what torch.compile refuses to trace, used or not.
    return function.apply(*inputs) if torch.compiler.is_compiling() else _WITH_JVP[function].apply(*inputs)


class _Times(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _unless_nan(a * b, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        factors = reversed(ctx.saved_tensors)
        needed = zip(factors, ctx.needs_input_grad, strict=True)
        return tuple(times(gradient, factor) if needs else None for factor, needs in needed)

    @staticmethod
    def tangent(ctx: Any, for_a: Tensor, for_b: Tensor) -> Tensor:
        a, b = ctx.saved_tensors
        return plus(times(for_a, b), times(a, for_b))


class _Plus(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _unless_nan(a + b, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient

    @staticmethod
    def tangent(ctx: Any, for_a: Tensor, for_b: Tensor) -> Tensor:
        return plus(for_a, for_b)


class _Expand(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(number: Tensor, shape: tuple[int, ...]) -> Tensor:
        return number.expand(shape).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: Tensor) -> None:
        number, ctx.to_shape = inputs
        ctx.from_shape = number.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _unless_nan(gradient.sum_to_size(ctx.from_shape), gradient), None

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return expand(tangent, ctx.to_shape)


class _FiniteGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(number: Tensor) -> Tensor:
        return number.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        info = torch.finfo(gradient.dtype)
        return gradient.clamp(info.min, info.max)

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


_WITH_JVP: dict[Any, Any] = {
    function: type(function.__name__, (function,), {"jvp": staticmethod(function.tangent)})
    for function in (_Times, _Plus, _Expand, _FiniteGradient)
}
