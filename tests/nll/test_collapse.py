"""Variances that have collapsed, or exploded: what is finite by definition is finite, and nothing is NaN."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from dark_kernels.nll import gaussian_nll, linear_gaussian_nll

from ..conftest import SERVICES, is_compiled
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
    for keypoint in keypoints(form, dtype)[:: 2 if beta else 1]:  # a stride that meets every residual
        loss, gradients, largest = keypoint.exact(FORMS[form][1], beta, dtype)
        rows.append((keypoint, loss, gradients, largest > torch.finfo(dtype).max))
    return rows


def roundings(device: torch.device) -> float:
    """Relative to a term: four exponentials and the operations around them. A GPU's exponentials round the argument,
    which is 355 at most before all else is infinite."""
    return 512 if is_compiled(device) else 32


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
    rows = expected(form, dtype, 0.0)[::31]  # a stride that meets every residual
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


@pytest.mark.parametrize("form", FORMS)
@DTYPES
@EVERY
def test_a_residual_of_0(form: str, dtype: torch.dtype, service: Service) -> None:
    """The loss is the logarithm alone: its gradient is 0 for the mean, and for each log variance how often it counts.
    Bounds, a fixed log variance and weights have nothing to do with it."""
    backend, device = service
    channels, distribution = FORMS[form]
    numbers = [-80.0, -89.0, -100.0, -178.0, -360.0, -800.0, -1500.0, -3000.0, -1e30]
    slopes = [1.0, 0.0, 1.0] if form == "cholesky" else [2.0 / channels if distribution == "laplace" else 1 / channels]
    slopes = (slopes * channels)[:channels]
    found = [
        Keypoint((0.0, 0.0), (number / 2, 0.5, number / 2) if form == "cholesky" else (number,) * channels)
        for number in numbers
    ]
    mean, log_vars, target = make(found, dtype, device)

    def loss_of(log_var: float) -> float:
        return 2 * (log_var + math.log(2)) if distribution == "laplace" else log_var

    for options, losses, slopes_ in (
        ({}, [loss_of(number) for number in numbers], slopes),
        ({"log_var_bounds": (-math.inf, 7.0)}, [loss_of(number) for number in numbers], slopes),
        ({"fixed_log_var": -100.0}, [loss_of(-100.0)] * len(numbers), [0.0] * channels),
        ({"fixed_log_var": -1500.0}, [loss_of(-1500.0)] * len(numbers), [0.0] * channels),
        (
            {"weight": torch.full((1, len(numbers)), 0.25, device=device)},
            [loss_of(number) / 4 for number in numbers],
            [slope / 4 for slope in slopes],
        ),
    ):
        options = {"distribution": distribution, "reduction": "none", "backend": backend, **options}
        loss = gaussian_nll(mean, log_vars, target, **options)
        for_mean, for_log_vars = torch.autograd.grad(loss.sum(), (mean, log_vars))
        assert loss[0].tolist() == pytest.approx(losses, rel=1e-6)
        assert bool((for_mean == 0).all())
        assert for_log_vars[0, :, :, 0, 0].tolist() == [slopes_] * len(numbers)


@dataclasses.dataclass
class Opposites:
    """A head for one feature whose means miss by a millionth, where a gradient of Laplace's loss is infinite."""

    features: list[float]  # one for each image
    weight: list[list[float]]  # [K, 2]: rows of the means
    side: list[list[float]]  # [K, 2]: where the targets lie
    sides: tuple[float, ...] = (1.0,)  # the same for each image
    zero: str = "features"  # which gradient is 0; of none, that of the features is the largest number


OPPOSITES = {
    "small-weights": Opposites([1.0], [[2**-10, 2**-10]], [[1.0, -1.0]]),
    "products-overflow": Opposites([1.0], [[3.0, 3.0]], [[1.0, -1.0]]),
    "one-direction": Opposites([1.0], [[3.0, 3.0]], [[1.0, 1.0]], zero="none"),
    "keypoints-in-a-cell": Opposites([1.0], [[3.0, 3.0], [-3.0, -3.0]], [[1.0, 1.0], [1.0, 1.0]]),
    "images": Opposites([3.0, -3.0], [[0.0, 0.0]], [[1.0, 1.0]], (1.0, 1.0), "weight"),
    "images-of-a-bias": Opposites([0.0, 0.0], [[0.0, 0.0]], [[1.0, 1.0]], (1.0, -1.0), "bias"),
}


@pytest.mark.parametrize("half_features", [False, True])
@pytest.mark.parametrize("case", OPPOSITES)
@DTYPES
@EVERY
def test_opposite_gradients_of_a_heads_outputs_leave_0(
    case: str, half_features: bool, dtype: torch.dtype, service: Service
) -> None:
    """Of a finite loss whose gradients are beyond the range. Another cell's are as they would be alone."""
    backend, device = service
    opposites = OPPOSITES[case]
    miss = 2.0**-20
    batch, num_keypoints = len(opposites.features), len(opposites.weight)
    means = torch.tensor([*opposites.weight, [0.0, 0.0]], dtype=dtype)
    side = torch.tensor(opposites.side, dtype=dtype)
    bias = 2 - means * opposites.features[0]
    bias[-1] = 6.0  # met exactly in the other cell
    target = bias + means * opposites.features[0] + torch.zeros(batch, 1, 1, dtype=dtype)
    target[:, :-1] += miss * side * torch.tensor(opposites.sides, dtype=dtype)[:, None, None]
    features = torch.tensor(opposites.features, dtype=torch.float16 if half_features else dtype)
    features = features[:, None, None, None].repeat(1, 1, 2, 2).to(device).requires_grad_()
    log_var = -89.0 if dtype == torch.float32 else -710.0
    log_vars = torch.full((num_keypoints + 1,), log_var, dtype=dtype)
    weight = torch.cat([means.flatten(), torch.zeros_like(log_vars)])[:, None].to(device).requires_grad_()
    bias = torch.cat([bias.flatten(), log_vars]).to(device).requires_grad_()
    options = {"distribution": "laplace", "reduction": "none", "backend": backend}
    losses = linear_gaussian_nll(features, weight, bias, target.to(device), **options)
    assert bool(losses.isfinite().all())
    gradients = torch.autograd.grad(losses.sum(), (features, weight, bias))
    assert not any(bool(gradient.isnan().any()) for gradient in gradients)
    for_features, for_weight, for_bias = gradients
    assert bool((for_features[:, :, 1, 1] == 0).all())
    rows = 2 * num_keypoints
    zeros = {"features": for_features[:, :, 0, 0], "weight": for_weight[:rows], "bias": for_bias[:rows]}
    if opposites.zero == "none":
        assert for_features[0, 0, 0, 0].item() == (-math.inf if half_features else -torch.finfo(dtype).max)
    else:
        assert bool((zeros[opposites.zero] == 0).all())
    if opposites.zero != "bias":
        assert for_bias[:rows].isinf().all()


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
        maps = numbers[torch.randint(len(numbers), (2, 100, channels, 1, 1), generator=generator)]
        return maps.to(device).requires_grad_()

    channels, distribution = FORMS[form]
    mean, log_var = draw(2), draw(channels)
    target = torch.zeros(2, 100, 2, dtype=dtype, device=device)
    losses = gaussian_nll(
        mean, log_var, target, distribution=distribution, beta=beta, full=distribution == "gaussian", reduction="none",
        backend=backend,
    )  # fmt: skip
    grad_losses = (torch.rand(2, 100, generator=generator) * torch.tensor([0.0, 1e-3, 1.0, -1.0]).repeat(25)).to(losses)
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


def test_the_reference_of_a_head_has_second_derivatives() -> None:
    """As those of maps; keypoints share a cell, and images the head."""
    generator = torch.Generator().manual_seed(45)
    sizes = [(2, 2, 1, 1), (2 * 3, 2), (2 * 3,)]
    tensors = [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]
    target = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64) * 4

    def loss(values: Tensor) -> Tensor:
        parts = values.split([each.numel() for each in tensors])
        features, weight, bias = (part.view(size) for part, size in zip(parts, sizes, strict=True))
        return linear_gaussian_nll(features, weight, bias, target, reduction="sum", backend="reference")

    def formula(values: Tensor) -> Tensor:
        parts = values.split([each.numel() for each in tensors])
        features, weight, bias = (part.view(size) for part, size in zip(parts, sizes, strict=True))
        outputs = features[:, :, 0, 0] @ weight.T + bias
        squares = (target - outputs[:, :4].view(2, 2, 2)).square().sum(-1)
        return (outputs[:, 4:] + squares * torch.exp(-outputs[:, 4:]) / 2).sum()

    values = torch.cat([each.flatten() for each in tensors])
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
