"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dark_kernels.nll import gaussian_nll, linear_gaussian_nll

from .. import launches
from ..conftest import SERVICES
from .cases import REDUCTIONS, Case, make_inputs

FUSED = SERVICES[1:]


def maps(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, log variance, target and weight."""
    inputs = make_inputs(Case("cholesky", weighted=True), batch, 2, 3, 4, dtype=dtype).to(device)
    inputs.target = torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)).to(device) * 12
    weight = torch.ones(batch, 2, device=device)
    return inputs.mean, inputs.log_var, inputs.target, weight


def head(batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Features, weight, bias, target."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 3, 3, 4, generator=generator)
    weight = torch.randn(2 * 4, 3, generator=generator)
    bias = torch.randn(2 * 4, generator=generator)
    target = torch.rand(batch, 2, 2, generator=generator) * 12
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in (features, weight, bias)]
    return (*leaves, target.to(device))


# --- torch.compile ---------------------------------------------------------------------------------------


def test_compiles_with_every_size_dynamic_but_the_parameters() -> None:
    """The number of keypoints is known of the head, and open in the targets."""
    torch._dynamo.reset()
    layer = nn.Conv2d(4, 2 * 3, 1)

    def loss(image: Tensor, target: Tensor) -> Tensor:
        return linear_gaussian_nll(image, layer.weight, layer.bias, target)

    image, target = torch.randn(3, 4, 3, 5), torch.rand(3, 2, 2) * 12
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, target), loss(image, target))


# --- autograd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_maps_may_change_after_the_forward_pass(service: tuple[str, torch.device]) -> None:
    """Keep what backward needs of them, and not them."""
    backend, device = service
    mean, log_var, target, _ = maps(2, device)
    expected = torch.autograd.grad(gaussian_nll(mean, log_var, target, backend=backend), (mean, log_var))
    maps_ = [mean * 1, log_var * 1]
    loss = gaussian_nll(*maps_, target, backend=backend)
    assert all(saved.shape != mean.shape for saved in loss.grad_fn.saved_tensors if saved is not None)  # type: ignore
    for each in maps_:
        each.detach().fill_(float("nan"))
    for one, other in zip(torch.autograd.grad(loss, (mean, log_var)), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", SERVICES[2:3], indirect=True)
def test_one_launch_forward_and_one_or_two_backward(reduction: str, service: tuple[str, torch.device]) -> None:
    """Two for a head: all gradients of values and the zeros, then the cells. For any number of keypoints."""
    from dark_kernels.nll import kernels, kernels_linear

    mean, log_var, target, _ = maps(70)
    with launches.recorded(kernels) as launched:
        gaussian_nll(mean, log_var, target, reduction=reduction, backend="triton").sum().backward()
    assert launched == ["_gaussian_nll_fwd_kernel", "_gaussian_nll_bwd_kernel"]
    features, weight, bias, target = head(20)
    with launches.recorded(kernels_linear) as launched:
        linear_gaussian_nll(features, weight, bias, target, reduction=reduction, backend="triton").sum().backward()
    assert launched[0] == "_linear_gaussian_nll_fwd_kernel"
    assert len(launched) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [2, 300])
def test_launches(batch: int, gpu: torch.device) -> None:
    """One forward and one backward for maps; one and two for a head."""
    mean, log_var, target, _ = maps(batch, gpu)
    features, weight, bias, _ = head(batch, gpu)
    loss = gaussian_nll(mean, log_var, target)
    grad_loss = torch.ones_like(loss)
    assert launches.count(lambda: gaussian_nll(mean, log_var, target)) == 1
    assert launches.count(lambda: torch.autograd.grad(loss, (mean, log_var), grad_loss, retain_graph=True)) == 1
    other = linear_gaussian_nll(features, weight, bias, target)
    assert launches.count(lambda: linear_gaussian_nll(features, weight, bias, target)) == 1
    inputs = (features, weight, bias)
    assert launches.count(lambda: torch.autograd.grad(other, inputs, grad_loss, retain_graph=True)) == 2
