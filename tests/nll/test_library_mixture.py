"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dark_kernels.nll import gaussian_mixture_nll

from .. import launches
from ..conftest import SERVICES
from .cases_mixture import REDUCTIONS, Case, make_inputs

EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def some_inputs(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, means, log variances and targets that all count."""
    inputs = make_inputs(Case(3), batch, 2, 3, 4, dtype=dtype).to(device)
    target = torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)) * 12
    return (*inputs.maps, target.to(device))


# --- torch.compile ---------------------------------------------------------------------------------------


# --- autograd --------------------------------------------------------------------------------------------


@EVERY_FUSED
def test_maps_may_change_after_the_forward_pass(service: Service) -> None:
    """Keep what backward needs of them, and not them."""
    backend, device = service
    *maps, target = some_inputs(2, device)
    expected = torch.autograd.grad(gaussian_mixture_nll(*maps, target, backend=backend), maps)
    copies = [each * 1 for each in maps]
    loss = gaussian_mixture_nll(*copies, target, backend=backend)
    assert all(saved.dim() <= 3 for saved in loss.grad_fn.saved_tensors)  # type: ignore[union-attr]
    for each in (*copies, target):
        each.detach().fill_(math.nan)
    for one, other in zip(torch.autograd.grad(loss, maps), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", SERVICES[2:3], indirect=True)
def test_one_launch_forward_and_one_backward_of_many_keypoints(
    reduction: str, service: tuple[str, torch.device]
) -> None:
    from dark_kernels.nll import kernels_mixture

    *maps, target = some_inputs(70)
    with launches.recorded(kernels_mixture) as launched:
        gaussian_mixture_nll(*maps, target, reduction=reduction, backend="triton").sum().backward()
    assert launched == ["_gaussian_mixture_nll_fwd_kernel", "_gaussian_mixture_nll_bwd_kernel"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 3, (torch.float32, torch.float16, torch.bfloat16)])
def test_one_launch_forward_and_one_backward(dtypes: tuple[torch.dtype, ...], gpu: torch.device) -> None:
    *maps, target = some_inputs(2, gpu)
    maps = [each.detach().to(dtype).requires_grad_() for each, dtype in zip(maps, dtypes, strict=True)]

    loss = gaussian_mixture_nll(*maps, target)
    grad_loss = torch.ones_like(loss)
    assert launches.count(lambda: gaussian_mixture_nll(*maps, target)) == 1
    assert launches.count(lambda: torch.autograd.grad(loss, maps, grad_loss, retain_graph=True)) == 1
