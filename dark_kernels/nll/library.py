"""The contract with PyTorch: schemas, fakes, which backend serves which device, and the autograd functions.

The operators of the forward pass return what the backward pass needs: the values of the maps at the cells.
The maps themselves are not kept alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._common.operators import (
    OnceDifferentiable,
    arithmetic_dtype,
    cache_signatures,
    is_channels_last,
    make_maps,
    register,
    zeros_in_huge_pages,
)
from ..backends import choose
from . import eager
from .options import Options

_library = torch.library.Library("dark_kernels", "FRAGMENT")

# Fields of `Options`.
_OPTIONS = (
    "float stride, bool is_offset, str distribution, float beta, float? fixed_log_var, float min_log_var, "
    "float max_log_var, bool full"
)
_FORWARD_OUTPUTS = "(Tensor loss, Tensor scale, Tensor values)"
_TAGS = (torch.Tag.pt2_compliant_tag,)

_library.define(
    f"gaussian_nll(Tensor mean, Tensor log_var, Tensor target, Tensor? weight, {_OPTIONS}, str reduction, "
    f"str backend) -> {_FORWARD_OUTPUTS}",
    tags=_TAGS,
)
_library.define(
    "gaussian_nll_backward(Tensor grad_loss, Tensor values, Tensor target, Tensor? weight, Tensor scale, "
    "int height, int width, ScalarType? mean_dtype, ScalarType? log_var_dtype, bool channels_last, "
    f"{_OPTIONS}, str backend) -> (Tensor grad_mean, Tensor grad_log_var)",
    tags=_TAGS,
)
_library.define(
    "linear_gaussian_nll(Tensor features, Tensor weight, Tensor? bias, Tensor target, Tensor? keypoint_weight, "
    f"{_OPTIONS}, str reduction, str backend) -> {_FORWARD_OUTPUTS[:-1]}, Tensor cell_features)",
    tags=_TAGS,
)
_library.define(
    "linear_gaussian_nll_backward(Tensor grad_loss, Tensor values, Tensor cell_features, Tensor features, "
    "Tensor weight, Tensor target, Tensor? keypoint_weight, Tensor scale, bool needs_features, bool needs_weight, "
    f"ScalarType? bias_dtype, {_OPTIONS}, str backend) "
    "-> (Tensor grad_features, Tensor grad_weight, Tensor grad_bias)",
    tags=_TAGS,
)


def empty_loss(target: Tensor, reduction: str, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Make uninitialised outputs of a forward pass."""
    shape = target.shape[:2]
    return (
        torch.empty(shape if reduction == "none" else (), dtype=dtype, device=target.device),
        torch.empty((), dtype=dtype, device=target.device),
        torch.empty((*shape, columns), dtype=dtype, device=target.device),
    )


# --- maps ------------------------------------------------------------------------------------------------


def _gaussian_nll(
    mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *options, reduction, backend = arguments
    dtype = arithmetic_dtype(mean, log_var)
    serves = choose(backend, mean.device.type, dtype).backend
    if target.shape[0] == 0 or target.shape[1] == 0:
        return _zero_loss(mean, log_var, target, weight, *arguments)
    if serves == "triton":
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        outputs = _gaussian_nll_fake(mean, log_var, target, weight, *arguments)
        kernels.gaussian_nll_fwd(*outputs, mean, log_var, target, weight, Options(*options), reduction)
        return outputs
    return eager.gaussian_nll_fwd(mean, log_var, target, weight, Options(*options), reduction, dtype)


def _gaussian_nll_fake(
    mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_loss(target, arguments[-2], 2 + log_var.shape[2], arithmetic_dtype(mean, log_var))


def _zero_loss(
    mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    loss, scale, values = _gaussian_nll_fake(mean, log_var, target, weight, *arguments)
    return loss.zero_(), scale.zero_(), values


def _gaussian_nll_backward(
    grad_loss: Tensor, values: Tensor, target: Tensor, weight: Tensor | None, scale: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    layout, (*options, backend) = arguments[:5], arguments[5:]
    height, width = layout[:2]
    serves = choose(backend, values.device.type, values.dtype).backend
    make = torch.empty if serves == "triton" else zeros_in_huge_pages  # the kernel writes the zeros itself
    grad_mean, grad_log_var = _make_gradients(make, values, *layout)
    if grad_mean.numel() == 0 and grad_log_var.numel() == 0:
        return grad_mean, grad_log_var
    tensors = (grad_mean, grad_log_var, grad_loss, values, target, weight, scale)
    if serves == "triton":
        from . import kernels

        kernels.gaussian_nll_bwd(*tensors, height, width, Options(*options))
    else:
        eager.gaussian_nll_bwd(*tensors, height, width, Options(*options))
    return grad_mean, grad_log_var


def _gaussian_nll_backward_fake(
    grad_loss: Tensor, values: Tensor, target: Tensor, weight: Tensor | None, scale: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    return _make_gradients(torch.empty, values, *arguments[:5])


def _make_gradients(
    make: Callable[..., Tensor],
    values: Tensor,
    height: int,
    width: int,
    mean_dtype: torch.dtype | None,
    log_var_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Make gradients of both maps with `make`; no elements where the dtype is None."""
    batch, num_keypoints, columns = values.shape

    def maps(channels: int, dtype: torch.dtype | None) -> Tensor:
        sizes = (batch, (num_keypoints, channels), height, width)
        return make_maps(make, *sizes, dtype, values.device, channels_last)

    return maps(2, mean_dtype), maps(columns - 2, log_var_dtype)


# --- head and maps ---------------------------------------------------------------------------------------


def _without_autocast(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of eager's, whose matrix products are in float64 under autocast, which takes longer."""
    device_type = arguments[0].device.type
    if torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return function(*arguments)
    return function(*arguments)


def _linear_gaussian_nll(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    keypoint_weight: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *options, reduction, backend = arguments
    dtype = arithmetic_dtype(features, weight, bias)
    serves = choose(backend, features.device.type, dtype).backend
    is_empty = target.shape[0] == 0 or target.shape[1] == 0
    if is_empty or serves == "triton":
        outputs = _linear_gaussian_nll_fake(features, weight, bias, target, keypoint_weight, *arguments)
        if is_empty:
            loss, scale, values, cell_features = outputs
            return loss.zero_(), scale.zero_(), values, cell_features
        from . import kernels_linear

        kernels_linear.linear_gaussian_nll_fwd(
            *outputs[:3], features, weight, bias, target, keypoint_weight, Options(*options), reduction
        )
        return outputs
    return _without_autocast(
        eager.linear_gaussian_nll_fwd,
        features, weight, bias, target, keypoint_weight, Options(*options), reduction, dtype,
    )  # fmt: skip


def _linear_gaussian_nll_fake(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    keypoint_weight: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = weight.shape[0] // target.shape[1] if target.shape[1] else 3
    dtype = arithmetic_dtype(features, weight, bias)
    # Of cold memory a CPU reads a cell's features slowly, so eager keeps them for the backward pass. The kernels don't.
    keeps = choose(arguments[-1], features.device.type, dtype).backend != "triton"
    cell_features = features.new_empty((*target.shape[:2], features.shape[1]) if keeps else (0,), dtype=dtype)
    return *empty_loss(target, arguments[-2], columns, dtype), cell_features


def _linear_gaussian_nll_backward(
    grad_loss: Tensor,
    values: Tensor,
    cell_features: Tensor,
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    keypoint_weight: Tensor | None,
    scale: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *options, backend = arguments[3:]
    serves = choose(backend, values.device.type, values.dtype).backend
    is_empty = values.numel() == 0
    make = torch.empty if serves == "triton" and not is_empty else zeros_in_huge_pages
    gradients = _make_linear_gradients(make, features, weight, *arguments[:3])
    if is_empty:
        return gradients
    rest: tuple[Any, ...] = (weight, target, keypoint_weight, scale, Options(*options))
    if serves == "triton":
        from . import kernels_linear

        kernels_linear.linear_gaussian_nll_bwd(*gradients, grad_loss, values, features, *rest)
    else:
        sizes = features.shape[-2:]
        _without_autocast(eager.linear_gaussian_nll_bwd, *gradients, grad_loss, values, cell_features, *sizes, *rest)
    return gradients


def _linear_gaussian_nll_backward_fake(
    grad_loss: Tensor,
    values: Tensor,
    cell_features: Tensor,
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    keypoint_weight: Tensor | None,
    scale: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _make_linear_gradients(torch.empty, features, weight, *arguments[:3])


def _make_linear_gradients(
    make: Callable[..., Tensor],
    features: Tensor,
    weight: Tensor,
    needs_features: bool,
    needs_weight: bool,
    bias_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make gradients of features, head and bias with `make`; no elements where not wanted."""
    device = features.device
    batch, channels, height, width = features.shape
    grad_features = torch.empty(0, dtype=features.dtype, device=device)
    if needs_features and is_channels_last(features):
        grad_features = make((batch, height, width, channels), dtype=features.dtype, device=device)
        grad_features = grad_features.permute(0, 3, 1, 2)
    elif needs_features:
        grad_features = make(features.shape, dtype=features.dtype, device=device)
    return (
        grad_features,
        make(weight.shape if needs_weight else (0,), dtype=weight.dtype, device=device),
        make(weight.shape[:1] if bias_dtype else (0,), dtype=bias_dtype or weight.dtype, device=device),
    )


_call_gaussian_nll = register(_library, "gaussian_nll", _gaussian_nll, _gaussian_nll_fake)
_call_gaussian_nll_backward = register(
    _library, "gaussian_nll_backward", _gaussian_nll_backward, _gaussian_nll_backward_fake
)
_call_linear_gaussian_nll = register(_library, "linear_gaussian_nll", _linear_gaussian_nll, _linear_gaussian_nll_fake)
_call_linear_gaussian_nll_backward = register(
    _library, "linear_gaussian_nll_backward", _linear_gaussian_nll_backward, _linear_gaussian_nll_backward_fake
)


# --- autograd --------------------------------------------------------------------------------------------


class _GaussianNLLBackward(OnceDifferentiable):
    @staticmethod
    def forward(
        grad_loss: Tensor,
        values: Tensor,
        target: Tensor,
        weight: Tensor | None,
        scale: Tensor,
        sizes: tuple[int, int],
        dtypes: tuple[torch.dtype | None, torch.dtype | None],
        channels_last: bool,
        options: Options,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        return _call_gaussian_nll_backward(
            grad_loss, values, target, weight, scale, *sizes, *dtypes, channels_last, *options, backend
        )


class _GaussianNLL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        mean: Tensor,
        log_var: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        reduction: str,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _call_gaussian_nll(mean, log_var, target, weight, *options, reduction, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        mean, log_var, target, weight, options, _, backend = inputs
        _, scale, values = output
        ctx.mark_non_differentiable(scale)
        # Nobody asks for the gradient of `values`, but they are not marked: a second derivative goes through them.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, target, weight, scale)
        ctx.sizes = mean.shape[3], mean.shape[4]
        ctx.dtypes = mean.dtype, log_var.dtype
        ctx.channels_last = is_channels_last(mean)
        ctx.options, ctx.backend = options, backend

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        rest = (None,) * 5
        if grad_loss is None:
            return None, None, *rest
        needs = ctx.needs_input_grad[:2]
        dtypes = tuple(dtype if need else None for dtype, need in zip(ctx.dtypes, needs, strict=True))
        gradients = _GaussianNLLBackward.run(
            grad_loss, *ctx.saved_tensors, ctx.sizes, dtypes, ctx.channels_last, ctx.options, ctx.backend
        )
        return *[gradient if need else None for gradient, need in zip(gradients, needs, strict=True)], *rest


class _LinearGaussianNLLBackward(OnceDifferentiable):
    @staticmethod
    def forward(
        grad_loss: Tensor,
        values: Tensor,
        cell_features: Tensor,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        keypoint_weight: Tensor | None,
        scale: Tensor,
        needs: tuple[bool, bool],
        bias_dtype: torch.dtype | None,
        options: Options,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (grad_loss, values, cell_features, features, weight, target, keypoint_weight, scale)
        return _call_linear_gaussian_nll_backward(*tensors, *needs, bias_dtype, *options, backend)


class _LinearGaussianNLL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        keypoint_weight: Tensor | None,
        options: Options,
        reduction: str,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _call_linear_gaussian_nll(features, weight, bias, target, keypoint_weight, *options, reduction, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, weight, bias, target, keypoint_weight, options, _, backend = inputs
        _, scale, values, cell_features = output
        ctx.mark_non_differentiable(scale)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, cell_features, features, weight, target, keypoint_weight, scale)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.options, ctx.backend = options, backend

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        rest = (None,) * 5
        if grad_loss is None:
            return None, None, None, *rest
        needs = ctx.needs_input_grad[:3]
        gradients = _LinearGaussianNLLBackward.run(
            grad_loss,
            *ctx.saved_tensors,
            (needs[0], needs[1]),
            ctx.bias_dtype if needs[2] else None,
            ctx.options,
            ctx.backend,
        )
        return *[gradient if need else None for gradient, need in zip(gradients, needs, strict=True)], *rest


def gaussian_nll_function(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    reduction: str,
    backend: str,
) -> Tensor:
    """Call the operator, with its gradient."""
    if not torch.is_grad_enabled():
        return _call_gaussian_nll(mean, log_var, target, weight, *options, reduction, backend)[0]
    return _GaussianNLL.apply(mean, log_var, target, weight, options, reduction, backend)[0]


def linear_gaussian_nll_function(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    keypoint_weight: Tensor | None,
    options: Options,
    reduction: str,
    backend: str,
) -> Tensor:
    """Call the operator, with its gradient."""
    if not torch.is_grad_enabled():
        arguments = (features, weight, bias, target, keypoint_weight, *options, reduction, backend)
        return _call_linear_gaussian_nll(*arguments)[0]
    return _LinearGaussianNLL.apply(features, weight, bias, target, keypoint_weight, options, reduction, backend)[0]


cache_signatures(_GaussianNLL, _GaussianNLLBackward, _LinearGaussianNLL, _LinearGaussianNLLBackward)
