"""The definition, held against other tellings: torch's mixtures, the Gaussian loss, the spec's gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from dark_kernels.nll import gaussian_mixture_nll, gaussian_mixture_nll_reference, gaussian_nll

from .cases_mixture import REDUCTIONS, STRIDE, Case, call, counted_cells, every_case, loss_and_gradients, make_inputs

BOTH = pytest.mark.parametrize("backend", ["reference", "eager"])


@BOTH
@pytest.mark.parametrize("num_components", [1, 2, 5])
def test_is_minus_the_log_density_of_torchs_mixture(num_components: int, backend: str) -> None:
    """Values and gradients of every keypoint that counts; zeros for the others."""
    case = Case(num_components)
    inputs = make_inputs(case, 4, 5, dtype=torch.float64, seed=1).to()
    loss = call(inputs, case, backend)
    expected = torch.zeros_like(loss)
    for (b, k), (row, column) in counted_cells(inputs, STRIDE).items():
        logits, mean, log_var = (maps[b, k, ..., row, column] for maps in inputs.maps)
        components = Independent(Normal(mean, torch.exp(log_var / 2)[:, None].expand(-1, 2)), 1)
        mixture = MixtureSameFamily(Categorical(logits=logits), components)
        expected[b, k] = -mixture.log_prob(inputs.target[b, k].double())
    torch.testing.assert_close(loss, expected)
    assert int((loss != 0).sum()) > 10
    for gradient, other in zip(
        torch.autograd.grad(loss.sum(), inputs.maps), torch.autograd.grad(expected.sum(), inputs.maps), strict=True
    ):
        torch.testing.assert_close(gradient, other)


@BOTH
@pytest.mark.parametrize("coordinates", ["absolute", "offset"])
@pytest.mark.parametrize("log_var_bounds", [None, (-0.5, 0.6)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_component_is_the_gaussian_loss(
    coordinates: str, log_var_bounds: tuple[float, float] | None, reduction: str, backend: str
) -> None:
    """With its constant, whatever the logit is, which gets no gradient."""
    case = Case(1, coordinates, log_var_bounds, reduction, weighted=True)
    inputs = make_inputs(case, dtype=torch.float64, seed=2).to()
    loss, for_logits, for_mean, for_log_var = loss_and_gradients(inputs, case, backend)
    maps = inputs.mean[:, :, 0], inputs.log_var
    options = dict(weight=inputs.weight, full=True, reduction=reduction, backend=backend, **case.options)
    expected = gaussian_nll(*maps, inputs.target, **options)
    torch.testing.assert_close(loss, expected)
    assert bool((for_logits == 0).all())
    grad_loss = (torch.arange(loss.numel(), dtype=loss.dtype).view(loss.shape) + 1).cos() + 1.5
    expected_gradients = torch.autograd.grad(expected, (inputs.mean, inputs.log_var), grad_loss)
    torch.testing.assert_close((for_mean, for_log_var), expected_gradients)
    assert bool((for_mean != 0).any())


@BOTH
def test_centres_of_cells_are_float64_for_float64_maps(backend: str) -> None:
    """Of a stride that float32 does not hold, where small variances show it."""
    stride, cell = 255 / 63, torch.tensor([3, 1])
    center = (cell.double() + 0.5) * stride
    logits = torch.zeros(1, 1, 1, 2, 4, dtype=torch.float64)
    mean = torch.zeros(1, 1, 1, 2, 2, 4, dtype=torch.float64)
    options = dict(stride=stride, coordinates="offset", backend=backend)
    loss = gaussian_mixture_nll(logits, mean, logits - 20.0, center[None, None], **options)
    assert loss.item() == pytest.approx(-20.0 + math.log(2 * math.pi), abs=1e-12)


@BOTH
def test_gradients_are_those_of_the_formulas(backend: str) -> None:
    """One cell, two components, by hand: r = softmax(l); p: softmax(p) - r; mean: -r d / v; s: r (1 - q / 2v)."""
    p, s = [0.4, -0.3], [0.5, -0.2]
    means = [[1.0, 0.5], [3.0, 2.5]]
    target = [2.0, 1.5]
    d = [[target[i] - mean[i] for i in range(2)] for mean in means]
    q = [x * x + y * y for x, y in d]
    total = math.exp(p[0]) + math.exp(p[1])
    prior = [math.exp(each) / total for each in p]
    log_joint = [math.log(prior[j]) - s[j] - q[j] * math.exp(-s[j]) / 2 - math.log(2 * math.pi) for j in range(2)]
    joint = [math.exp(each) for each in log_joint]
    r = [each / sum(joint) for each in joint]

    logits, log_var = (torch.tensor(x, dtype=torch.float64)[None, None, :, None, None] for x in (p, s))
    mean = torch.tensor(means, dtype=torch.float64)[None, None, :, :, None, None]
    maps = tuple(each.requires_grad_() for each in (logits, mean, log_var))
    loss = gaussian_mixture_nll(*maps, torch.tensor([[target]]), backend=backend)
    assert loss.item() == pytest.approx(-math.log(sum(joint)))
    for_logits, for_mean, for_log_var = (gradient.flatten().tolist() for gradient in torch.autograd.grad(loss, maps))
    assert for_logits == pytest.approx([prior[j] - r[j] for j in range(2)])
    assert for_mean == pytest.approx([-r[j] * d[j][i] * math.exp(-s[j]) for j in range(2) for i in range(2)])
    assert for_log_var == pytest.approx([r[j] * (1 - q[j] * math.exp(-s[j]) / 2) for j in range(2)])


@BOTH
def test_what_does_not_change_a_mixture(backend: str) -> None:
    """A constant added to the logits; another order; a component that is there twice with half its weight."""
    case = Case(3)
    inputs = make_inputs(case, 3, 3, dtype=torch.float64, seed=3)
    loss = call(inputs, case, backend)
    shifted = inputs.with_maps(inputs.logits + 100, inputs.mean, inputs.log_var)
    torch.testing.assert_close(call(shifted, case, backend), loss)
    turned = inputs.with_maps(*(maps.roll(1, dims=2) for maps in inputs.maps))
    torch.testing.assert_close(call(turned, case, backend), loss)
    logits, mean, log_var = (torch.cat([maps, maps[:, :, :1]], dim=2) for maps in inputs.maps)
    logits[:, :, ::3] -= math.log(2)
    torch.testing.assert_close(call(inputs.with_maps(logits, mean, log_var), case, backend), loss)


@BOTH
def test_a_component_that_is_off_is_not_there(backend: str) -> None:
    """The loss and the gradients of the mixture without it, and zeros for it, whatever it holds."""
    case = Case(2)
    inputs = make_inputs(case, 3, 3, dtype=torch.float64, seed=4).to()
    expected, *expected_gradients = loss_and_gradients(inputs, case, backend)
    for rest in (1.0, math.nan, math.inf, -math.inf):
        maps = [torch.cat([torch.full_like(each[:, :, :1], rest), each], dim=2).detach() for each in inputs.maps]
        maps[0][:, :, 0] = -math.inf
        more = inputs.with_maps(*maps).to()
        loss, *gradients = loss_and_gradients(more, case, backend)
        torch.testing.assert_close(loss, expected)
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            assert bool((gradient[:, :, 0] == 0).all())
            torch.testing.assert_close(gradient[:, :, 1:], other)


@BOTH
@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_gradcheck(case: Case, backend: str) -> None:
    inputs = make_inputs(case, 2, 2, 2, 2, dtype=torch.float64, seed=5).to()

    def loss(*maps: Tensor) -> Tensor:
        return call(inputs.with_maps(*maps), case, backend)

    assert torch.autograd.gradcheck(loss, inputs.maps)


@BOTH
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_of_reductions(reduction: str, weighted: bool, backend: str) -> None:
    case = Case(2, reduction=reduction, weighted=weighted)
    inputs = make_inputs(case, 2, 2, 2, 2, dtype=torch.float64, seed=6).to()

    def loss(*maps: Tensor) -> Tensor:
        return call(inputs.with_maps(*maps), case, backend)

    assert torch.autograd.gradcheck(loss, inputs.maps)


def test_reference_has_second_derivatives_and_gradients_for_labels() -> None:
    case = Case(2, reduction="sum")
    inputs = make_inputs(case, 1, 2, 2, 2, dtype=torch.float64, seed=7).to()
    target = torch.tensor([[[1.0, 2.0], [5.0, 6.0]]], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)

    def loss(logits: Tensor, mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return gaussian_mixture_nll_reference(logits, mean, log_var, target, weight=weight, reduction="sum")

    variables = (*inputs.maps, target, weight)
    assert torch.autograd.gradcheck(loss, variables)
    assert torch.autograd.gradgradcheck(loss, variables)


def test_descent_finds_two_places() -> None:
    """Targets in one of two places, one component for each: what a single Gaussian puts between them."""
    generator = torch.Generator().manual_seed(0)
    is_first = torch.rand(400, 1, generator=generator) < 0.75
    target = torch.where(is_first[..., None], torch.tensor([1.0, 1.0]), torch.tensor([3.0, 2.0]))
    target = target + 0.1 * torch.randn(400, 1, 2, generator=generator)
    # One cell, the same for all targets.
    logits = torch.zeros(1, 1, 2, 1, 1, requires_grad=True)
    mean = torch.tensor([[0.5, 2.0], [2.5, 2.0]])[None, None, :, :, None, None].requires_grad_()
    log_var = torch.zeros(1, 1, 2, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, mean, log_var], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        maps = (each.expand(400, *each.shape[1:]) for each in (logits, mean, log_var))
        gaussian_mixture_nll(*maps, target).backward()
        optimizer.step()
    torch.testing.assert_close(
        mean.detach()[0, 0, :, :, 0, 0], torch.tensor([[1.0, 1.0], [3.0, 2.0]]), atol=0.05, rtol=0
    )
    share = is_first.float().mean().item()
    assert torch.softmax(logits.detach().flatten(), 0).tolist() == pytest.approx([share, 1 - share], abs=0.02)
    assert torch.exp(log_var.detach() / 2).flatten().tolist() == pytest.approx([0.1, 0.1], abs=0.02)
