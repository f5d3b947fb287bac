"""The contract with PyTorch: schemas, fakes, which backend serves which device, and the autograd functions.

A keypoint's loss depends on the 4 M numbers in its cell. The operator of the forward pass returns its slopes in
them, and the cell's index: row * W + column, or -1 if the keypoint is ignored. The backward pass multiplies each
keypoint's slopes by the keypoint's own gradient: right for every reduction, and the maps are not kept alive.
"""

from __future__ import annotations

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
from . import eager_mixture
from .library import empty_loss
from .options import Options, mixture_options

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_TAGS = (torch.Tag.pt2_compliant_tag,)
_library.define(
    "gaussian_mixture_nll(Tensor logits, Tensor mean, Tensor log_var, Tensor target, Tensor? weight, float stride, "
    "bool is_offset, float min_log_var, float max_log_var, str reduction, str backend) "
    "-> (Tensor loss, Tensor scale, Tensor slopes, Tensor cells)",
    tags=_TAGS,
)
_library.define(
    "gaussian_mixture_nll_backward(Tensor grad_loss, Tensor scale, Tensor slopes, Tensor cells, int height, int width, "
    "ScalarType? logits_dtype, ScalarType? mean_dtype, ScalarType? log_var_dtype, bool channels_last, str backend) "
    "-> (Tensor grad_logits, Tensor grad_mean, Tensor grad_log_var)",
    tags=_TAGS,
)


def _gaussian_mixture_nll(
    logits: Tensor, mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *options, reduction, backend = arguments
    dtype = arithmetic_dtype(logits, mean, log_var)
    serves = choose(backend, logits.device.type, dtype).backend
    if target.shape[0] == 0 or target.shape[1] == 0:
        loss, scale, slopes, indices = _gaussian_mixture_nll_fake(logits, mean, log_var, target, weight, *arguments)
        return loss.zero_(), scale.zero_(), slopes, indices
    if serves == "triton":
        from . import kernels_mixture  # Triton is imported when it first serves a call, not with the package

        outputs = _gaussian_mixture_nll_fake(logits, mean, log_var, target, weight, *arguments)
        kernels_mixture.gaussian_mixture_nll_fwd(
            *outputs, logits, mean, log_var, target, weight, mixture_options(*options), reduction
        )
        return outputs
    return eager_mixture.gaussian_mixture_nll_fwd(
        logits, mean, log_var, target, weight, mixture_options(*options), reduction, dtype
    )


def _gaussian_mixture_nll_fake(
    logits: Tensor, mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make uninitialised outputs."""
    outputs = empty_loss(target, arguments[-2], 4 * logits.shape[2], arithmetic_dtype(logits, mean, log_var))
    return *outputs, torch.empty(target.shape[:2], dtype=torch.int64, device=target.device)


def _gaussian_mixture_nll_backward(
    grad_loss: Tensor,
    scale: Tensor,
    slopes: Tensor,
    indices: Tensor,
    height: int,
    width: int,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *_, channels_last, backend = arguments
    serves = choose(backend, slopes.device.type, slopes.dtype).backend
    # Fresh zeros cost next to nothing on CPU; the kernel writes them itself.
    make = torch.empty if serves == "triton" else zeros_in_huge_pages
    gradients = _make_gradients(make, slopes, height, width, *arguments[:-1])
    if all(gradient.numel() == 0 for gradient in gradients):
        return gradients
    if serves == "triton":
        from . import kernels_mixture

        saved = (scale, slopes, indices)
        kernels_mixture.gaussian_mixture_nll_bwd(*gradients, grad_loss, *saved, height, width, channels_last)
    else:
        eager_mixture.gaussian_mixture_nll_bwd(*gradients, grad_loss, scale, slopes, indices, width)
    return gradients


def _gaussian_mixture_nll_backward_fake(
    grad_loss: Tensor,
    scale: Tensor,
    slopes: Tensor,
    indices: Tensor,
    height: int,
    width: int,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _make_gradients(torch.empty, slopes, height, width, *arguments[:-1])


def _make_gradients(
    make: Any,
    slopes: Tensor,
    height: int,
    width: int,
    logits_dtype: torch.dtype | None,
    mean_dtype: torch.dtype | None,
    log_var_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make gradients of logits, means and log variances; no elements where the dtype is None."""
    batch, num_keypoints, columns = slopes.shape
    of_components = (num_keypoints, columns // 4)

    def maps(channels: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
        return make_maps(make, batch, channels, height, width, dtype, slopes.device, channels_last)

    return maps(of_components, logits_dtype), maps((*of_components, 2), mean_dtype), maps(of_components, log_var_dtype)


_call_gaussian_mixture_nll = register(
    _library, "gaussian_mixture_nll", _gaussian_mixture_nll, _gaussian_mixture_nll_fake
)
_call_gaussian_mixture_nll_backward = register(
    _library, "gaussian_mixture_nll_backward", _gaussian_mixture_nll_backward, _gaussian_mixture_nll_backward_fake
)


def _arguments(options: Options) -> tuple[float, bool, float, float]:
    """Take `mixture_options` apart."""
    return options.stride, options.is_offset, options.min_log_var, options.max_log_var


class _GaussianMixtureNLLBackward(OnceDifferentiable):
    @staticmethod
    def forward(
        grad_loss: Tensor,
        scale: Tensor,
        slopes: Tensor,
        indices: Tensor,
        sizes: tuple[int, int],
        dtypes: tuple[torch.dtype | None, ...],
        channels_last: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _call_gaussian_mixture_nll_backward(
            grad_loss, scale, slopes, indices, *sizes, *dtypes, channels_last, backend
        )


class _GaussianMixtureNLL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        mean: Tensor,
        log_var: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        reduction: str,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _call_gaussian_mixture_nll(
            logits, mean, log_var, target, weight, *_arguments(options), reduction, backend
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        logits, mean, log_var, *_, backend = inputs
        _, scale, slopes, indices = output
        ctx.mark_non_differentiable(scale, indices)
        # Nobody asks for the gradient of `slopes`, but they are not marked: a second derivative goes through them.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(scale, slopes, indices)
        ctx.sizes = logits.shape[3], logits.shape[4]
        ctx.dtypes = logits.dtype, mean.dtype, log_var.dtype
        ctx.channels_last = is_channels_last(mean)
        ctx.backend = backend

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        rest = (None,) * 5
        if grad_loss is None:
            return None, None, None, *rest
        needs = ctx.needs_input_grad[:3]
        dtypes = tuple(dtype if need else None for dtype, need in zip(ctx.dtypes, needs, strict=True))
        gradients = _GaussianMixtureNLLBackward.run(
            grad_loss, *ctx.saved_tensors, ctx.sizes, dtypes, ctx.channels_last, ctx.backend
        )
        return *[gradient if need else None for gradient, need in zip(gradients, needs, strict=True)], *rest


def gaussian_mixture_nll_function(
    logits: Tensor,
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
        arguments = (logits, mean, log_var, target, weight, *_arguments(options), reduction, backend)
        return _call_gaussian_mixture_nll(*arguments)[0]
    return _GaussianMixtureNLL.apply(logits, mean, log_var, target, weight, options, reduction, backend)[0]


cache_signatures(_GaussianMixtureNLL, _GaussianMixtureNLLBackward)
