"""The contract with PyTorch: schemas, fakes, which backend serves which device, and the autograd function.

The maps are kept for the backward pass, which recomputes the targets. Of each map the forward pass saves the few
numbers that the softmax takes, and the number of positive pixels that the focal loss is divided by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._common.operators import (
    OnceDifferentiable,
    arithmetic_dtype,
    cache_signatures,
    empty_in_huge_pages,
    is_channels_last,
    make_maps,
    register,
)
from ..backends import choose
from . import eager
from .options import Options

_library = torch.library.Library("dark_kernels", "FRAGMENT")

# Keypoints [B, N, K, 2] and what comes with them, then the fields of `Options`.
_INPUTS = (
    "Tensor keypoints, Tensor? visible, Tensor? weight, Tensor? sigmas, float sigma, str kind, str encoding, "
    "bool squares_weight, bool keeps_empty, float alpha, float omega, float epsilon, float theta, str reduction, "
    "str backend"
)
_TAGS = (torch.Tag.pt2_compliant_tag,)
_library.define(f"heatmap_loss(Tensor heatmaps, {_INPUTS}) -> (Tensor loss, Tensor saved)", tags=_TAGS)
_library.define(
    f"heatmap_loss_backward(Tensor grad_loss, Tensor saved, Tensor heatmaps, {_INPUTS}) -> Tensor grad_heatmaps",
    tags=_TAGS,
)


def _heatmap_loss(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *options, reduction, backend = arguments
    dtype = arithmetic_dtype(heatmaps)
    serves = choose(backend, heatmaps.device.type, dtype).backend
    losses, saved = _heatmap_loss_fake(heatmaps, *options, "none", backend)
    if losses.numel() != 0:
        tensors = (losses, saved, heatmaps, *_somebody(*options[:2]), *options[2:5], Options(*options[5:]))
        if serves == "triton":
            from . import kernels  # Triton is imported when it first serves a call, not with the package

            kernels.heatmap_loss_fwd(*tensors)
        else:
            eager.heatmap_loss_fwd(*tensors)
    if reduction == "none":
        return losses, saved
    return losses.sum() if reduction == "sum" or losses.numel() == 0 else losses.mean(), saved


def _heatmap_loss_fake(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Make uninitialised outputs."""
    *options, reduction, _ = arguments
    dtype, device, shape = arithmetic_dtype(heatmaps), heatmaps.device, heatmaps.shape[:2]
    num_saved = Options(*options[5:]).num_saved
    return (
        torch.empty(shape if reduction == "none" else (), dtype=dtype, device=device),
        torch.empty((*shape, num_saved), dtype=dtype, device=device),
    )


def _heatmap_loss_backward(grad_loss: Tensor, saved: Tensor, heatmaps: Tensor, *arguments: Any) -> Tensor:
    *options, reduction, backend = arguments
    serves = choose(backend, heatmaps.device.type, saved.dtype).backend
    gradient = _make_gradient(empty_in_huge_pages, heatmaps)
    batch, num_keypoints = heatmaps.shape[:2]
    if batch == 0 or num_keypoints == 0:
        return gradient
    scale = 1.0 / (batch * num_keypoints) if reduction == "mean" else 1.0
    tensors = (saved, heatmaps, *_somebody(*options[:2]), *options[2:5], Options(*options[5:]))
    if serves == "triton":
        from . import kernels

        kernels.heatmap_loss_bwd(gradient, grad_loss, scale, *tensors)
    else:
        grad_losses = (grad_loss.to(saved.dtype) * scale).expand(batch, num_keypoints)
        eager.heatmap_loss_bwd(gradient, grad_losses, *tensors)
    return gradient


def _heatmap_loss_backward_fake(grad_loss: Tensor, saved: Tensor, heatmaps: Tensor, *arguments: Any) -> Tensor:
    return _make_gradient(torch.empty, heatmaps)


def _make_gradient(make: Callable[..., Tensor], heatmaps: Tensor) -> Tensor:
    batch, num_keypoints, height, width = heatmaps.shape
    sizes = batch, (num_keypoints,), height, width
    return make_maps(make, *sizes, heatmaps.dtype, heatmaps.device, is_channels_last(heatmaps))


def _somebody(keypoints: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Keypoints and visibilities; where there are no people, one who is nowhere."""
    batch, num_people, num_keypoints, _ = keypoints.shape
    if num_people > 0:
        return keypoints, visible
    return keypoints.new_full((batch, 1, num_keypoints, 2), math.nan), None


_call_heatmap_loss = register(_library, "heatmap_loss", _heatmap_loss, _heatmap_loss_fake)
_call_heatmap_loss_backward = register(
    _library, "heatmap_loss_backward", _heatmap_loss_backward, _heatmap_loss_backward_fake
)


class _HeatmapLossBackward(OnceDifferentiable):
    @staticmethod
    def forward(
        grad_loss: Tensor,
        saved: Tensor,
        heatmaps: Tensor,
        keypoints: Tensor,
        visible: Tensor | None,
        weight: Tensor | None,
        sigmas: Tensor | None,
        sigma: float,
        options: Options,
        reduction: str,
        backend: str,
    ) -> Tensor:
        return _call_heatmap_loss_backward(
            grad_loss, saved, heatmaps, keypoints, visible, weight, sigmas, sigma, *options, reduction, backend
        )


class _HeatmapLoss(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        heatmaps: Tensor,
        keypoints: Tensor,
        visible: Tensor | None,
        weight: Tensor | None,
        sigmas: Tensor | None,
        sigma: float,
        options: Options,
        reduction: str,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        return _call_heatmap_loss(heatmaps, keypoints, visible, weight, sigmas, sigma, *options, reduction, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, sigma, options, reduction, backend = inputs
        _, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(saved, *tensors)
        ctx.arguments = sigma, options, reduction, backend

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        rest = (None,) * 8
        if grad_loss is None:
            return None, *rest
        return _HeatmapLossBackward.run(grad_loss, *ctx.saved_tensors, *ctx.arguments), *rest


def heatmap_loss_function(
    heatmaps: Tensor,
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,
    weight: Tensor | None,
    sigmas: Tensor | None,
    sigma: float,
    options: Options,
    topk: int | None,
    reduction: str,
    backend: str,
) -> Tensor:
    """Call the operator, with its gradient."""

    def losses(reduction: str) -> tuple[Tensor, Tensor]:
        tensors = (heatmaps, keypoints, visible, weight, sigmas, sigma)
        if not torch.is_grad_enabled():
            return _call_heatmap_loss(*tensors, *options, reduction, backend)
        return _HeatmapLoss.apply(*tensors, options, reduction, backend)

    if topk is not None:
        return _keep_hardest(losses("none")[0], topk, reduction)
    if options.kind == "focal" and reduction == "mean":
        total, num_positives = losses("sum")
        return total / num_positives.sum().clamp(min=1)
    return losses(reduction)[0]


def _keep_hardest(losses: Tensor, topk: int, reduction: str) -> Tensor:
    """Reduce the `topk` largest losses of each image; the others count 0."""
    hardest, index = losses.topk(topk, dim=1)
    if reduction == "none":
        return torch.zeros_like(losses).scatter(1, index, hardest)
    return hardest.sum() if reduction == "sum" or losses.numel() == 0 else hardest.mean()


cache_signatures(_HeatmapLoss, _HeatmapLossBackward)
