"""Mixtures whose variances have collapsed: one component is `gaussian_nll`, to the ends of the range."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dark_kernels.nll import gaussian_mixture_nll, gaussian_nll

from ..conftest import SERVICES, is_compiled
from .collapse import assert_number, keypoints, learn_by_heart, make

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
Service = tuple[str, torch.device]


@DTYPES
@EVERY
def test_one_component_is_exact(dtype: torch.dtype, service: Service) -> None:
    backend, device = service
    found = keypoints("isotropic", dtype)
    mean, log_var, target = make(found, dtype, device)
    losses = gaussian_mixture_nll(
        torch.zeros_like(log_var), mean[:, :, None], log_var, target, reduction="none", backend=backend
    )
    gradients = torch.autograd.grad(losses.sum(), (mean, log_var))
    gaussian = gaussian_nll(mean, log_var, target, full=True, reduction="none", backend=backend)
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(losses, gaussian, rtol=8 * epsilon, atol=8 * epsilon)
    expected = torch.autograd.grad(gaussian.sum(), (mean, log_var))
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=8 * epsilon, atol=8 * epsilon)

    at_cells = torch.cat([gradient[0, :, :, 0, 0] for gradient in gradients], dim=1)
    roundings = 512 if is_compiled(device) else 32  # a GPU's exponentials round the argument
    for keypoint, numbers in zip(found, at_cells.tolist(), strict=True):
        _, exact, _ = keypoint.exact("gaussian", 0.0, dtype)
        for number, exact_number in zip(numbers, exact, strict=True):
            assert_number(number, exact_number, dtype, roundings, False, str(keypoint))


@pytest.mark.parametrize("log_var", [-80.0, -89.0, -100.0, -178.0, -360.0, -800.0, -1500.0, -3000.0, -1e30])
@DTYPES
@EVERY
def test_the_component_at_the_target_has_collapsed(log_var: float, dtype: torch.dtype, service: Service) -> None:
    """It takes all responsibility; the others, collapsed elsewhere or not at all, have no gradient."""
    backend, device = service
    maps = (torch.zeros(3), torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.0, 1.0]]), torch.tensor([log_var, log_var, 0.0]))
    logits, mean, log_vars = (each.to(device, dtype)[None, None, ..., None, None].requires_grad_() for each in maps)
    target = torch.zeros(1, 1, 2, device=device)
    loss = gaussian_mixture_nll(logits, mean, log_vars, target, backend=backend)
    gradients = [each.flatten().tolist() for each in torch.autograd.grad(loss, (logits, mean, log_vars))]
    assert loss.item() == pytest.approx(log_var + math.log(3) + math.log(2 * math.pi), rel=1e-6)
    third = pytest.approx(1 / 3, rel=1e-6)
    assert gradients[0] == [pytest.approx(-2 / 3, rel=1e-6), third, third]
    assert gradients[1] == [0.0] * 4 + [0.0, pytest.approx(0.0, abs=1e-30)]
    assert gradients[2] == [pytest.approx(1.0, rel=1e-6), 0.0, pytest.approx(0.0, abs=1e-30)]


@EVERY
def test_nothing_is_asked_of_an_infinite_loss(service: Service) -> None:
    backend, device = service
    maps = (torch.zeros(2), torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.full((2,), -300.0))
    maps = tuple(each.to(device)[None, None, ..., None, None].requires_grad_() for each in maps)
    loss = gaussian_mixture_nll(*maps, torch.zeros(1, 1, 2, device=device), backend=backend)
    assert loss.item() == math.inf
    for gradient in torch.autograd.grad(loss, maps, torch.zeros_like(loss)):
        assert bool((gradient == 0).all())


@pytest.mark.parametrize("num_components", [1, 2])
@DTYPES
@EVERY
def test_a_batch_is_learnt_by_heart(num_components: int, dtype: torch.dtype, service: Service) -> None:
    """Components that start alike share each step: descent takes as many at once."""
    backend, device = service
    generator = torch.Generator().manual_seed(44)
    target = (torch.rand(2, 3, 2, generator=generator) * 8).to(device)
    start = torch.randn(2, 3, 1, 2, 2, 2, generator=generator).expand(-1, -1, num_components, -1, -1, -1)
    mean = start.to(device, dtype, copy=True).requires_grad_()
    logits, log_var = (
        torch.zeros(2, 3, num_components, 2, 2, dtype=dtype, device=device, requires_grad=True) for _ in range(2)
    )

    def loss() -> Tensor:
        return gaussian_mixture_nll(logits, mean, log_var, target, reduction="sum", backend=backend)

    learn_by_heart(loss, [mean], [logits, log_var], rate=float(num_components))
