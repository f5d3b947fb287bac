"""The definition, held against other tellings of the same formulas: a plain loop, torch's losses and distributions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, MultivariateNormal, Normal

from dark_kernels.nll import gaussian_nll, gaussian_nll_reference

from ..cells import find_cell
from .cases import FORMS, REDUCTIONS, STRIDE, Case, Inputs, call, counted_cells, every_case, make_inputs


def loop_nll(mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None, stride: float) -> Tensor:
    """The usual per-keypoint code: a variance and a squared distance at the cell, summed and averaged.

    Its defects repaired: both ends of the map are checked, before an index can wrap; the two axes are summed, so
    that the loss is a number; no valid keypoint gives a zero with a graph; NaN targets are skipped.
    """
    total = mean.sum() * 0.0
    batch, num_keypoints, _, height, width = mean.shape
    for b in range(batch):
        for k in range(num_keypoints):
            cell = find_cell(target[b, k], stride, height, width)
            if cell is None or (weight is not None and not weight[b, k] > 0):
                continue
            row, column = cell
            variance = torch.exp(log_var[b, k, 0, row, column])
            squared = (target[b, k] - mean[b, k, :, row, column]) ** 2
            loss = (torch.log(variance) / 2 + squared / (2 * variance)).sum()
            total = total + (loss if weight is None else loss * weight[b, k])
    return total / (batch * num_keypoints)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("weighted", [False, True])
def test_isotropic_form_is_the_loop(backend: str, weighted: bool) -> None:
    case = Case(reduction="mean", weighted=weighted)
    inputs = make_inputs(case, 3, 4, dtype=torch.float64, seed=5).to()
    expected = loop_nll(inputs.mean, inputs.log_var, inputs.target, inputs.weight, STRIDE)
    expected_gradients = torch.autograd.grad(expected, (inputs.mean, inputs.log_var))
    loss = call(inputs, case, backend)
    gradients = torch.autograd.grad(loss, (inputs.mean, inputs.log_var))
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other)
        assert torch.equal(gradient != 0, other != 0)


def at_cells(inputs: Inputs, stride: float = STRIDE) -> list[tuple[tuple[int, int], Tensor, Tensor, Tensor]]:
    """Key, means, log variances and target of each keypoint that counts."""
    return [
        ((b, k), inputs.mean[b, k, :, row, column], inputs.log_var[b, k, :, row, column], inputs.target[b, k].double())
        for (b, k), (row, column) in counted_cells(inputs, stride).items()
    ]


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("form", FORMS)
def test_full_loss_is_minus_a_log_density(form: str, backend: str) -> None:
    """Also at 3 sigma and more, where a wrong factor shows."""
    case = Case(form, full=True)
    inputs = make_inputs(case, 4, 5, dtype=torch.float64, seed=6)
    loss = call(inputs, case, backend)
    for key, mean, log_var, target in at_cells(inputs):
        if form == "cholesky":
            a, b, c = log_var.tolist()
            factor = torch.tensor([[math.exp(a), 0.0], [b, math.exp(c)]], dtype=torch.float64)
            expected = -MultivariateNormal(mean, scale_tril=factor).log_prob(target)
        elif FORMS[form][1] == "gaussian":
            expected = -Normal(mean, torch.exp(log_var / 2)).log_prob(target).sum()
        else:
            expected = -Laplace(mean, torch.exp(log_var)).log_prob(target).sum()
        torch.testing.assert_close(loss[key], expected)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_diagonal_form_is_torchs_gaussian_nll_loss_inside_its_bounds(backend: str) -> None:
    case = Case("diagonal", reduction="none")
    inputs = make_inputs(case, 4, 5, dtype=torch.float64, seed=7).to()
    loss = call(inputs, case, backend)
    expected = torch.zeros_like(loss)
    for key, mean, log_var, target in at_cells(inputs):
        # Far above its eps of 1e-6, which it would clamp to.
        expected[key] = torch.nn.functional.gaussian_nll_loss(mean, target, log_var.exp(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(
        torch.autograd.grad(loss.sum(), (inputs.mean, inputs.log_var)),
        torch.autograd.grad(expected.sum(), (inputs.mean, inputs.log_var)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("form", ["isotropic", "diagonal", "cholesky"])
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_equal_covariances_give_equal_losses_in_all_forms(form: str, backend: str) -> None:
    inputs = make_inputs(Case(), dtype=torch.float64, seed=8)
    expected = call(inputs, Case(reduction="none", beta=0.5), backend)
    s = inputs.log_var
    inputs.log_var = {"isotropic": s, "diagonal": s.expand(-1, -1, 2, -1, -1)}.get(
        form, torch.cat([s / 2, torch.zeros_like(s), s / 2], dim=2)
    )
    if form == "diagonal":
        expected = call(make_inputs(Case(), dtype=torch.float64, seed=8), Case(reduction="none", beta=0.5), backend)
    torch.testing.assert_close(call(inputs, Case(form, reduction="none", beta=0.5), backend), expected)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_centres_of_cells_are_float64_for_float64_maps(backend: str) -> None:
    """Of a stride that float32 does not hold, where small variances show it."""
    stride, cell = 255 / 63, torch.tensor([3, 1])
    center = (cell.double() + 0.5) * stride
    mean = torch.zeros(1, 1, 2, 2, 4, dtype=torch.float64)
    log_var = torch.full((1, 1, 1, 2, 4), -20.0, dtype=torch.float64)
    loss = gaussian_nll(mean, log_var, center[None, None], stride=stride, coordinates="offset", backend=backend)
    assert loss.item() == pytest.approx(-20.0, abs=1e-12)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_gradients_are_those_of_the_formulas(backend: str) -> None:
    """One keypoint, all numbers written out."""
    d, s = torch.tensor([1.5, -0.5], dtype=torch.float64), 0.3
    target = torch.tensor([[[9.0, 6.0]]], dtype=torch.float64)
    mean = torch.zeros(1, 1, 2, 2, 3, dtype=torch.float64)
    mean[0, 0, :, 1, 2] = target[0, 0] - d

    def gradients(log_var: list[float], **options: object) -> tuple[list[float], list[float]]:
        maps = torch.tensor(log_var, dtype=torch.float64).view(1, 1, -1, 1, 1).repeat(1, 1, 1, 2, 3)
        case = Case(reduction="sum")
        inputs = Inputs(mean.clone().requires_grad_(), maps.requires_grad_(), target, None)
        loss = call(inputs, case, backend) if not options else None
        if loss is None:
            from dark_kernels.nll import gaussian_nll

            loss = gaussian_nll(inputs.mean, inputs.log_var, target, reduction="sum", backend=backend, **options)
        g_mean, g_log_var = torch.autograd.grad(loss, (inputs.mean, inputs.log_var))
        return g_mean[0, 0, :, 1, 2].tolist(), g_log_var[0, 0, :, 1, 2].tolist()

    precision = math.exp(-s)
    dx, dy = d.tolist()
    q = dx * dx + dy * dy
    mean_gradient, log_var_gradient = gradients([s])
    assert mean_gradient == pytest.approx([-dx * precision, -dy * precision])
    assert log_var_gradient == pytest.approx([1 - q * precision / 2])

    mean_gradient, log_var_gradient = gradients([s, -s])
    assert mean_gradient == pytest.approx([-dx * precision, -dy / precision])
    assert log_var_gradient == pytest.approx([0.5 - dx * dx * precision / 2, 0.5 - dy * dy / precision / 2])

    a, b, c = 0.2, -0.7, -0.1
    z1 = dx * math.exp(-a)
    z2 = (dy - b * z1) * math.exp(-c)
    g = z2 * math.exp(-c)
    mean_gradient, log_var_gradient = gradients([a, b, c])
    assert mean_gradient == pytest.approx([-(z1 - b * g) * math.exp(-a), -g])
    assert log_var_gradient == pytest.approx([1 - z1 * (z1 - b * g), -z1 * g, 1 - z2 * z2])

    mean_gradient, log_var_gradient = gradients([s], distribution="laplace")
    assert mean_gradient == pytest.approx([-precision, precision])
    assert log_var_gradient == pytest.approx([2 - (abs(dx) + abs(dy)) * precision])

    # beta-NLL at 1: the mean has the gradient of half the squared error.
    assert gradients([s], beta=1.0)[0] == pytest.approx([-dx, -dy])
    assert gradients([s, -s], beta=1.0)[0] == pytest.approx([-dx, -dy])


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("case", [case for case in every_case() if not case.beta], ids=lambda case: case.id)
def test_gradcheck(case: Case, backend: str) -> None:
    """Beta-NLL's gradient is not that of its value, by definition: see test_gradcheck_of_beta."""
    inputs = make_inputs(case, 2, 2, 2, 3, dtype=torch.float64, seed=11).to()

    def loss(mean: Tensor, log_var: Tensor) -> Tensor:
        return call(Inputs(mean, log_var, inputs.target, inputs.weight), case, backend)

    assert torch.autograd.gradcheck(loss, (inputs.mean, inputs.log_var))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize(("form", "reduction", "weighted"), list(itertools.product(FORMS, REDUCTIONS, (False, True))))
def test_gradcheck_of_reductions(form: str, reduction: str, weighted: bool, backend: str) -> None:
    case = Case(form, reduction=reduction, weighted=weighted)
    inputs = make_inputs(case, 2, 2, 2, 2, dtype=torch.float64, seed=12).to()

    def loss(mean: Tensor, log_var: Tensor) -> Tensor:
        return call(Inputs(mean, log_var, inputs.target, inputs.weight), case, backend)

    assert torch.autograd.gradcheck(loss, (inputs.mean, inputs.log_var))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_beta(form: str, backend: str) -> None:
    """Of beta-NLL as the function of two copies of the log variances, of which one is held constant."""
    case = Case(form, beta=0.5, reduction="sum")
    inputs = make_inputs(case, 2, 2, 2, 2, dtype=torch.float64, seed=14).to()
    loss = call(inputs, case, backend)
    gradients = torch.autograd.grad(loss, (inputs.mean, inputs.log_var))
    s = inputs.log_var.detach()
    exponent = 0.5 * (s[:, :, :1] + s[:, :, 2:] if form == "cholesky" else s)
    factor = torch.exp(exponent).expand(-1, -1, 2, -1, -1)

    def loss_of_axes(mean: Tensor, log_var: Tensor) -> Tensor:
        """The plain loss, each axis times its constant."""
        if form == "cholesky":
            losses = call(Inputs(mean, log_var, inputs.target, None), Case(form), backend)
            at_cell = [factor[b, k, 0, row, column] for (b, k), (row, column) in cells]
            return sum((losses[b, k] * f for ((b, k), _), f in zip(cells, at_cell, strict=True)), losses.sum() * 0)
        total = mean.sum() * 0
        for (b, k), (row, column) in cells:
            for axis in range(2):
                s = log_var[b, k, min(axis, log_var.shape[2] - 1), row, column]
                d = inputs.target[b, k, axis].double() - mean[b, k, axis, row, column]
                if FORMS[form][1] == "gaussian":
                    one = s / 2 + d * d * torch.exp(-s) / 2
                else:
                    one = math.log(2) + s + d.abs() * torch.exp(-s)
                total = total + one * factor[b, k, axis, row, column]
        return total

    cells = list(counted_cells(inputs, case.stride).items())
    assert len(cells) == 2
    torch.testing.assert_close(loss_of_axes(inputs.mean, inputs.log_var), loss)
    assert torch.autograd.gradcheck(loss_of_axes, (inputs.mean, inputs.log_var))
    expected = torch.autograd.grad(loss_of_axes(inputs.mean, inputs.log_var), (inputs.mean, inputs.log_var))
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_beta_is_a_constant_factor(form: str, beta: float, backend: str) -> None:
    """The gradient of beta-NLL is that of the axes' losses times numbers that happen to be variance^beta."""
    plain, case = Case(form, reduction="none"), Case(form, reduction="none", beta=beta)
    inputs = make_inputs(case, dtype=torch.float64, seed=13).to()
    loss = call(inputs, case, backend)
    gradients = torch.autograd.grad(loss.sum(), (inputs.mean, inputs.log_var))
    plain_loss = call(inputs, plain, backend)
    plain_gradients = torch.autograd.grad(plain_loss.sum(), (inputs.mean, inputs.log_var))
    compared = 0
    for (b, k), (row, column) in counted_cells(inputs, STRIDE).items():
        s = inputs.log_var[b, k, :, row, column].detach()
        if form == "cholesky":
            factors = torch.exp(beta * (s[0] + s[2])).expand(2)
            torch.testing.assert_close(loss[b, k], plain_loss[b, k] * factors[0])
        else:
            factors = torch.exp(beta * s).expand(2)
        torch.testing.assert_close(
            gradients[0][b, k, :, row, column], plain_gradients[0][b, k, :, row, column] * factors
        )
        if form not in ("isotropic", "laplace"):
            expected = plain_gradients[1][b, k, :, row, column] * (factors[0] if form == "cholesky" else factors)
            torch.testing.assert_close(gradients[1][b, k, :, row, column], expected)
        compared += 1
    assert compared > 2


def test_reference_has_second_derivatives_and_gradients_for_labels() -> None:
    case = Case("cholesky", reduction="sum")
    inputs = make_inputs(case, 1, 2, 2, 2, dtype=torch.float64).to()
    target = torch.tensor([[[1.0, 2.0], [5.0, 6.0]]], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)

    def loss(mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return gaussian_nll_reference(mean, log_var, target, weight=weight, reduction="sum")

    variables = (inputs.mean, inputs.log_var, target, weight)
    assert torch.autograd.gradcheck(loss, variables)
    assert torch.autograd.gradgradcheck(loss, variables)
