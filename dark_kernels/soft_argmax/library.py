"""The contract with PyTorch: schemas, fakes, which backend serves which device, and the autograd functions.

The operator of the forward pass returns the largest value of each map and the sum of the exponentials relative to it:
from these the backward pass knows the probability of a pixel that it reads. Their logarithm in one number would not
do, since of large values it has lost the digits that count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._common.operators import OnceDifferentiable, arithmetic_dtype, cache_signatures, empty_in_huge_pages, register
from .._common.plans import scratch
from ..backends import choose
from . import eager

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_TAGS = (torch.Tag.pt2_compliant_tag,)
_library.define(
    "soft_argmax(Tensor heatmaps, float beta, str backend) -> (Tensor coords, Tensor peaks, Tensor totals)",
    tags=_TAGS,
)
_library.define(
    "soft_argmax_backward(Tensor grad_coords, Tensor heatmaps, Tensor coords, Tensor peaks, Tensor totals, float beta, "
    "str backend) -> Tensor grad_heatmaps",
    tags=_TAGS,
)


def _soft_argmax(heatmaps: Tensor, beta: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    serves = choose(backend, heatmaps.device.type, heatmaps.dtype).backend
    if serves != "triton":
        return eager.soft_argmax_fwd(heatmaps, beta, arithmetic_dtype(heatmaps))
    outputs = _soft_argmax_fake(heatmaps, beta, backend)
    if heatmaps.numel():
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        for kept_for_backward in outputs[1:]:
            scratch(kept_for_backward)
        kernels.soft_argmax_fwd(*outputs, heatmaps, beta)
    return outputs


def _soft_argmax_fake(heatmaps: Tensor, beta: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Make uninitialised outputs."""
    batch, num_keypoints = heatmaps.shape[:2]
    dtype = arithmetic_dtype(heatmaps)
    return (
        heatmaps.new_empty((batch, num_keypoints, 2), dtype=dtype),
        heatmaps.new_empty((batch, num_keypoints), dtype=dtype),
        heatmaps.new_empty((batch, num_keypoints), dtype=dtype),
    )


def _soft_argmax_backward(
    grad_coords: Tensor, heatmaps: Tensor, coords: Tensor, peaks: Tensor, totals: Tensor, beta: float, backend: str
) -> Tensor:
    serves = choose(backend, heatmaps.device.type, heatmaps.dtype).backend
    if heatmaps.is_contiguous():
        gradient = empty_in_huge_pages(heatmaps.shape, heatmaps.dtype, heatmaps.device)
    else:
        gradient = torch.empty_like(heatmaps)
    if heatmaps.numel() == 0:
        return gradient
    if serves == "triton":
        from . import kernels

        kernels.soft_argmax_bwd(gradient, grad_coords, heatmaps, coords, peaks, totals, beta)
    else:
        eager.soft_argmax_bwd(gradient, grad_coords, heatmaps, coords, peaks, totals, beta)
    return gradient


def _soft_argmax_backward_fake(grad_coords: Tensor, heatmaps: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(heatmaps)


_call_soft_argmax = register(_library, "soft_argmax", _soft_argmax, _soft_argmax_fake)
_call_soft_argmax_backward = register(
    _library, "soft_argmax_backward", _soft_argmax_backward, _soft_argmax_backward_fake
)


class _SoftArgmaxBackward(OnceDifferentiable):
    @staticmethod
    def forward(
        grad_coords: Tensor,
        heatmaps: Tensor,
        coords: Tensor,
        peaks: Tensor,
        totals: Tensor,
        beta: float,
        backend: str,
    ) -> Tensor:
        return _call_soft_argmax_backward(grad_coords, heatmaps, coords, peaks, totals, beta, backend)


class _SoftArgmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(heatmaps: Tensor, beta: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        return _call_soft_argmax(heatmaps, beta, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        heatmaps, ctx.beta, ctx.backend = inputs
        coords, peaks, totals = output
        ctx.mark_non_differentiable(peaks, totals)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(heatmaps, coords, peaks, totals)

    @staticmethod
    def backward(ctx: Any, grad_coords: Tensor | None, *unused: Any) -> tuple[Tensor | None, None, None]:
        if grad_coords is None:
            return None, None, None
        return _SoftArgmaxBackward.run(grad_coords, *ctx.saved_tensors, ctx.beta, ctx.backend), None, None


def soft_argmax_function(heatmaps: Tensor, beta: float, backend: str) -> Tensor:
    """The operator's coordinates, with their gradient."""
    if not torch.is_grad_enabled():
        return _call_soft_argmax(heatmaps, beta, backend)[0]
    return _SoftArgmax.apply(heatmaps, beta, backend)[0]


cache_signatures(_SoftArgmax, _SoftArgmaxBackward)
