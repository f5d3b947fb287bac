"""Variances that have collapsed, or exploded: what is finite by definition is finite, and nothing is NaN."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from dark_kernels.nll import gaussian_nll, linear_gaussian_nll

from ..conftest import SERVICES
from .cases import FORMS
from .collapse import Keypoint, Number, assert_number, keypoints, learn_by_heart, make

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
Service = tuple[str, torch.device]
# A keypoint, its exact loss and gradients, and whether gradients may be infinite that need not be: a number that they
# are made of is.
Row = tuple[Keypoint, Number, list[Number], bool]


@cache
def expected(form: str, dtype: torch.dtype, beta: float) -> list[Row]:
    rows = []
    for keypoint in keypoints(form, dtype):
        loss, gradients, largest = keypoint.exact(FORMS[form][1], beta, dtype)
        rows.append((keypoint, loss, gradients, largest > torch.finfo(dtype).max))
    return rows


def roundings(device: torch.device) -> float:
    """Relative to a term: four exponentials and the operations around them. A GPU's exponentials round the argument,
    which is 355 at most before all else is infinite."""
    return 32 if device.type == "cpu" else 512


def assert_exact(losses: Tensor, gradients: Tensor, rows: list[Row]) -> None:
    """`gradients`: [K, 2 + C]."""
    dtype, device = losses.dtype, losses.device
    for loss, at_cell, (keypoint, exact_loss, exact, may_overflow) in zip(
        losses.flatten().tolist(), gradients.tolist(), rows, strict=True
    ):
        what = str(keypoint)
        assert_number(loss, exact_loss, dtype, roundings(device), False, what)
        for i, (number, exact_number) in enumerate(zip(at_cell, exact, strict=True)):
            assert_number(number, exact_number, dtype, roundings(device), may_overflow, f"{what}: gradient {i}")


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("form", FORMS)
@DTYPES
@EVERY
def test_loss_and_gradient_are_exact(form: str, beta: float, dtype: torch.dtype, service: Service) -> None:
    """Log variances of -10000 to 2000 with residuals of 0, of almost nothing, and of 1e30."""
    backend, device = service
    rows = expected(form, dtype, beta)
    mean, log_var, target = make([row[0] for row in rows], dtype, device)
    options = {"distribution": FORMS[form][1], "beta": beta, "reduction": "none", "backend": backend}
    losses = gaussian_nll(mean, log_var, target, **options)
    gradients = torch.autograd.grad(losses.sum(), (mean, log_var))
    assert losses.dtype == dtype
    at_cells = torch.cat([gradient[0, :, :, 0, 0] for gradient in gradients], dim=1)
    assert_exact(losses.detach(), at_cells, rows)


@pytest.mark.parametrize("form", FORMS)
@DTYPES
@EVERY
def test_loss_and_gradient_of_the_linear_form_are_exact(form: str, dtype: torch.dtype, service: Service) -> None:
    """Means and log variances are the bias of a head whose weights are 0: infinite gradients times 0 are 0."""
    backend, device = service
    rows = expected(form, dtype, 0.0)[::16]  # strides that meet every residual
    found = [row[0] for row in rows]
    mean, log_var, target = make(found, dtype, device)
    bias = torch.cat([mean.detach().flatten(), log_var.detach().flatten()]).requires_grad_()
    features = torch.tensor([0.0, 1.0], dtype=dtype, device=device).view(1, 2, 1, 1).requires_grad_()
    weight = torch.zeros(len(bias), 2, dtype=dtype, device=device, requires_grad=True)
    options = {"distribution": FORMS[form][1], "reduction": "none", "backend": backend}
    losses = linear_gaussian_nll(features, weight, bias, target, **options)
    for_bias, for_features, for_weight = torch.autograd.grad(losses.sum(), (bias, features, weight))
    means, log_vars = for_bias.split([2 * len(found), len(bias) - 2 * len(found)])
    at_cells = torch.cat([means.view(len(found), 2), log_vars.view(len(found), -1)], dim=1)
    assert_exact(losses.detach(), at_cells, rows)
    assert bool((for_features == 0).all())
    assert bool((for_weight[:, 0] == 0).all())
    assert not bool(for_weight.isnan().any())


@pytest.mark.parametrize("log_var", [-80.0, -89.0, -100.0, -178.0, -360.0, -800.0, -1500.0, -3000.0, -1e30])
@pytest.mark.parametrize("form", FORMS)
@DTYPES
@EVERY
def test_a_residual_of_0(form: str, log_var: float, dtype: torch.dtype, service: Service) -> None:
    """The loss is the logarithm alone: its gradient is 0 for the mean, and for each log variance how often it counts.
    Bounds, a fixed log variance and weights have nothing to do with it."""
    backend, device = service
    channels, distribution = FORMS[form]
    values = [log_var / 2, 0.5, log_var / 2] if form == "cholesky" else [log_var] * channels
    slopes = [1.0, 0.0, 1.0] if form == "cholesky" else [2.0 / channels if distribution == "laplace" else 1 / channels]
    slopes = (slopes * channels)[:channels]
    loss_is = 2 * (log_var + math.log(2)) if distribution == "laplace" else log_var
    mean, log_vars, target = make([Keypoint((0.0, 0.0), tuple(values))], dtype, device)
    for options, loss_, slopes_ in (
        ({}, loss_is, slopes),
        ({"log_var_bounds": (-math.inf, 7.0)}, loss_is, slopes),
        ({"fixed_log_var": log_var}, loss_is, [0.0] * channels),
        ({"weight": torch.full((1, 1), 0.25, device=device)}, loss_is / 4, [slope / 4 for slope in slopes]),
        ({"reduction": "mean_valid"}, loss_is, slopes),
    ):
        options = {"distribution": distribution, "backend": backend, **options}
        loss = gaussian_nll(mean, log_vars, target, **options)
        for_mean, for_log_vars = torch.autograd.grad(loss, (mean, log_vars))
        assert loss.item() == pytest.approx(loss_, rel=1e-6)
        assert for_mean.flatten().tolist() == [0.0, 0.0]
        assert for_log_vars.flatten().tolist() == slopes_


@DTYPES
@EVERY
def test_what_a_factor_takes_away_is_a_residual_of_0(dtype: torch.dtype, service: Service) -> None:
    """The residual of y is that of x times b, exactly: however small its variance is, the loss is that of x."""
    backend, device = service
    mean, log_var, target = make([Keypoint((1.0, 0.5), (0.0, 0.5, -2000.0))], dtype, device)
    loss = gaussian_nll(mean, log_var, target, backend=backend)
    for_mean, for_log_var = torch.autograd.grad(loss, (mean, log_var))
    assert loss.item() == -1999.5
    assert for_mean.flatten().tolist() == [-1.0, 0.0]
    assert for_log_var.flatten().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("form", FORMS)
@DTYPES
@EVERY
def test_no_nan_of_finite_maps(form: str, beta: float, dtype: torch.dtype, service: Service) -> None:
    """Two hundred distributions of what over- and underflows, and losses of which nothing is asked."""
    backend, device = service
    generator = torch.Generator().manual_seed(41)
    largest = torch.finfo(dtype).max
    numbers = torch.tensor([0, 0, 1, 1e-30, 88, 103, 200, 800, 1e4, 1e30, largest], dtype=dtype)
    numbers = torch.cat([numbers, -numbers])

    def draw(channels: int) -> Tensor:
        maps = numbers[torch.randint(len(numbers), (10, 20, channels, 1, 1), generator=generator)]
        return maps.to(device).requires_grad_()

    channels, distribution = FORMS[form]
    mean, log_var = draw(2), draw(channels)
    target = torch.zeros(10, 20, 2, dtype=dtype, device=device)
    losses = gaussian_nll(
        mean, log_var, target, distribution=distribution, beta=beta, full=distribution == "gaussian", reduction="none",
        backend=backend,
    )  # fmt: skip
    grad_losses = (torch.rand(10, 20, generator=generator) * torch.tensor([0.0, 1e-3, 1.0, -1.0]).repeat(5)).to(losses)
    gradients = torch.autograd.grad(losses, (mean, log_var), grad_losses)
    assert not bool(losses.isnan().any())
    for gradient in gradients:
        assert not bool(gradient.isnan().any())
        assert bool((gradient[grad_losses == 0] == 0).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("residual", [0.0, 1.5])
def test_the_reference_has_second_derivatives(residual: float, form: str) -> None:
    """Backwards twice, and forwards over backwards; where the residual is 0 as well, but for Laplace's peak."""
    channels, distribution = FORMS[form]
    if distribution == "laplace" and residual == 0:
        pytest.skip("no derivative")

    def loss(values: Tensor) -> Tensor:
        maps = values[None, None, :, None, None]
        target = torch.zeros(1, 1, 2, dtype=values.dtype)
        options = {"distribution": distribution, "reduction": "sum", "backend": "reference"}
        return gaussian_nll(maps[:, :, :2], maps[:, :, 2:], target, **options)

    def formula(values: Tensor) -> Tensor:
        d, s = -values[:2], values[2:]
        if form == "cholesky":
            z1 = d[0] * torch.exp(-s[0])
            z2 = (d[1] - s[1] * z1) * torch.exp(-s[2])
            return s[0] + s[2] + (z1 * z1 + z2 * z2) / 2
        s = s.expand(2)
        return (s + d.abs() * torch.exp(-s) if distribution == "laplace" else (s + d * d * torch.exp(-s)) / 2).sum()

    values = torch.tensor([-residual, residual, *[-0.5, 0.0, 0.25][:channels]], dtype=torch.float64)
    expected_ = torch.autograd.functional.hessian(formula, values)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, values), expected_)
    torch.testing.assert_close(torch.func.hessian(loss)(values), expected_)


@DTYPES
@EVERY
def test_a_batch_is_learnt_by_heart(dtype: torch.dtype, service: Service) -> None:
    """Down to log variances of -2500, in which nothing is left of e^-s or of its root."""
    backend, device = service
    generator = torch.Generator().manual_seed(42)
    target = (torch.rand(2, 3, 2, generator=generator) * 8).to(device)
    mean = torch.randn(2, 3, 2, 2, 2, generator=generator).to(device, dtype).requires_grad_()
    log_var = torch.zeros(2, 3, 1, 2, 2, dtype=dtype, device=device, requires_grad=True)

    def loss() -> Tensor:
        return gaussian_nll(mean, log_var, target, reduction="sum", backend=backend)

    learn_by_heart(loss, [mean], [log_var])


@DTYPES
@EVERY
def test_a_linear_head_learns_a_batch_by_heart(dtype: torch.dtype, service: Service) -> None:
    backend, device = service
    generator = torch.Generator().manual_seed(43)
    target = (torch.rand(1, 1, 2, generator=generator) * 8).to(device)
    features = torch.rand(1, 4, 2, 2, generator=generator).to(device, dtype)
    weight = torch.zeros(3, 4, dtype=dtype, device=device, requires_grad=True)
    of_means = torch.zeros(2, dtype=dtype, device=device, requires_grad=True)
    of_log_vars = torch.zeros(1, dtype=dtype, device=device, requires_grad=True)

    def loss() -> Tensor:
        bias = torch.cat([of_means, of_log_vars])
        return linear_gaussian_nll(features, weight, bias, target, reduction="sum", backend=backend)

    learn_by_heart(loss, [of_means], [weight, of_log_vars])
