"""Metrics of uncertainty on inputs whose numbers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dark_kernels import metrics, testing

COUNT = 20_000


def true_gaussians(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Means, covariances times `scale` and targets that are drawn from them: float64 [COUNT, ...]."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(COUNT, 2, 2, generator=generator, dtype=torch.float64)
    factors = factors + 2 * torch.eye(2)
    means = 100 * torch.rand(COUNT, 2, generator=generator, dtype=torch.float64)
    normals = torch.randn(COUNT, 2, 1, generator=generator, dtype=torch.float64)
    covariances = factors @ factors.mT
    return means, covariances * scale, means + (factors @ normals)[..., 0]


def test_squared_distances_by_hand() -> None:
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 9.0]], [[2.0, 1.0], [1.0, 2.0]]])
    targets = torch.tensor([[2.0, 3.0], [1.0, 1.0]])
    assert metrics.squared_distances(torch.zeros(2, 2), covariances, targets).tolist() == pytest.approx([2, 2 / 3])


def test_chi_square_is_the_quantile() -> None:
    assert metrics.chi_square(0.95) == pytest.approx(5.991464547)
    assert metrics.chi_square(0) == 0
    for level in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="level: got"):
            metrics.chi_square(level)


@pytest.mark.parametrize("scale", [1.0, 0.25, 4.0])
def test_coverage_of_a_gaussian(scale: float) -> None:
    """With covariances that are off by a factor, the ellipse of level p holds 1 - (1 - p)^factor."""
    levels = (0.1, *metrics.LEVELS)
    shares = metrics.coverage(*true_gaussians(scale), levels)
    for level, share in zip(levels, shares.tolist(), strict=True):
        expected = 1 - (1 - level) ** scale
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / COUNT))


def test_calibration_error_of_a_gaussian() -> None:
    coords, covariances, targets = true_gaussians()
    # A share is off by less than half a standard error of a coin on average.
    assert metrics.calibration_error(coords, covariances, targets).max() < 2 / math.sqrt(COUNT)
    centers = (torch.arange(15, dtype=torch.float64) + 0.5) / 15
    wide = metrics.calibration_error(coords, covariances * 1e8, targets)
    # All at one half, as many above as below: a step.
    step = torch.heaviside(centers - 0.5, torch.tensor(0.5, dtype=torch.float64))
    assert wide.tolist() == pytest.approx([float((centers - step).abs().mean())] * 2, abs=0.001)
    far = metrics.calibration_error(coords, covariances, targets + torch.tensor([1e6, 0.0]))
    assert far[0] == pytest.approx(0.5)
    assert far[1] < 0.02


def test_calibration_error_by_hand() -> None:
    """Three targets at the quantiles .1, .2 and .6 of x, and two bins: the centres are .25 and .75."""
    normal = torch.distributions.Normal(0.0, 2.0)
    x = normal.icdf(torch.tensor([0.1, 0.2, 0.6]))
    targets = torch.stack([x, torch.zeros(3)], dim=-1)
    covariances = torch.tensor([[4.0, 1.0], [1.0, 9.0]]).expand(3, 2, 2)
    found = metrics.calibration_error(torch.zeros(3, 2), covariances, targets, bins=2)
    assert float(found[0]) == pytest.approx(((2 / 3 - 0.25) + (1 - 0.75)) / 2)
    assert float(found[1]) == pytest.approx((0.25 + (1 - 0.75)) / 2)  # all at one half


def test_negative_log_likelihood_is_the_distributions() -> None:
    coords, covariances, targets = (each[:50] for each in true_gaussians())
    expected = -torch.distributions.MultivariateNormal(coords, covariances).log_prob(targets).mean()
    torch.testing.assert_close(metrics.negative_log_likelihood(coords, covariances, targets), expected)


def test_sigma_is_that_of_the_circle_of_the_same_area() -> None:
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 4.0]], [[16.0, 0.0], [0.0, 1.0]], [[25.0, 0.0], [0.0, 25.0]]])
    assert metrics.sigmas(covariances).tolist() == pytest.approx([2.0, 2.0, 5.0])
    assert float(metrics.sharpness(covariances)) == pytest.approx(3.0)
    assert float(metrics.sharpness(covariances, torch.tensor([1, 0, 1]))) == pytest.approx(3.5)


MEANS: dict[str, Callable[..., Tensor]] = {
    "coverage": metrics.coverage,
    "calibration_error": metrics.calibration_error,
    "negative_log_likelihood": metrics.negative_log_likelihood,
    "sharpness": lambda coords, covariances, targets, mask=None: metrics.sharpness(covariances, mask),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_masks_leave_out(name: str, dtype: torch.dtype) -> None:
    measure, (coords, covariances, targets) = MEANS[name], (each[:60].clone() for each in true_gaussians())
    expected = measure(coords[:40], covariances[:40], targets[:40])
    mask = (torch.arange(60) < 40).to(dtype)
    for bad in (0.0, math.nan, math.inf):
        for each in (coords, covariances, targets):
            each[40:] = bad
        torch.testing.assert_close(measure(coords, covariances, targets, mask=mask), expected)
    leading = (each.unflatten(0, (3, 20)) for each in (coords, covariances, targets))
    torch.testing.assert_close(measure(*leading, mask=mask.unflatten(0, (3, 20))), expected)


@pytest.mark.parametrize("name", MEANS)
def test_what_has_no_distribution(name: str) -> None:
    """A missing prediction is outside of every ellipse, and left out of what is about its distribution."""
    measure, (coords, covariances, targets) = MEANS[name], (each[:60].clone() for each in true_gaussians())
    expected = measure(coords[:57], covariances[:57], targets[:57])
    covariances[57] = math.nan
    covariances[58] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    coords[59], covariances[59] = math.nan, math.nan
    assert metrics.has_distribution(coords, covariances).tolist() == [True] * 57 + [False] * 3
    found = measure(coords, covariances, targets)
    torch.testing.assert_close(found, expected * (57 / 60 if name == "coverage" else 1))
    nobody = measure(coords, covariances, targets, mask=torch.zeros(60))
    assert bool(nobody.isnan().all())
    assert measure(coords[:0], covariances[:0], targets[:0]).isnan().all()


def test_float64_inside_and_inputs_untouched(device: torch.device) -> None:
    """Of halves and of what requires grad."""
    inputs = [each[:100].half().to(device) for each in true_gaussians()]
    doubled = [each.double().cpu() for each in inputs]
    for measure in MEANS.values():
        with testing.assert_unchanged(inputs[0]), testing.assert_unchanged(inputs[1]):
            found = measure(inputs[0].clone().requires_grad_(), *inputs[1:])
        assert found.dtype == torch.float64
        assert not found.requires_grad
        torch.testing.assert_close(found.cpu(), measure(*doubled))


def test_rank_correlation() -> None:
    values = torch.tensor([0.1, 0.5, 0.2, 9.0])
    assert float(metrics.rank_correlation(values, values.exp())) == pytest.approx(1)
    assert float(metrics.rank_correlation(values, -values)) == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: worked out by hand.
    tied = metrics.rank_correlation(torch.tensor([0.0, 1, 1, 2]), torch.tensor([0.0, 1, 2, 3]))
    assert float(tied) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    infinite = metrics.rank_correlation(torch.tensor([1.0, 2, math.inf]), torch.tensor([1.0, 2, 3]))
    assert float(infinite) == pytest.approx(1)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"coords: got shape \[3\], expected \[..., 2\]", lambda: metrics.distances(torch.ones(3), torch.ones(3))),
        (r"targets: got shape \[2, 2\], expected \[3, 2\]",
         lambda: metrics.distances(torch.ones(3, 2), torch.ones(2, 2))),
        (r"coords: got shape \[3\], expected \[..., 2\]",
         lambda: metrics.has_distribution(torch.ones(3), torch.ones(3, 2, 2))),
        (r"covariances: got shape \[3, 2\], expected \[..., 2, 2\]", lambda: metrics.sigmas(torch.ones(3, 2))),
        (r"covariances: got shape \[2, 2, 2\], expected \[3, 2, 2\]",
         lambda: metrics.coverage(torch.ones(3, 2), torch.ones(2, 2, 2), torch.ones(3, 2))),
        (r"mask: got shape \[2\], expected \[3\]",
         lambda: metrics.coverage(torch.ones(3, 2), torch.ones(3, 2, 2), torch.ones(3, 2), mask=torch.ones(2))),
        ("bins: got 0, expected at least 1",
         lambda: metrics.calibration_error(torch.ones(3, 2), torch.ones(3, 2, 2), torch.ones(3, 2), bins=0)),
    ],
)  # fmt: skip
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_levels_are_several() -> None:
    with pytest.raises(TypeError, match=r"levels: got 0\.5, expected a sequence"):
        metrics.coverage(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1, 2), levels=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [
    lambda coords, covariances, targets, mask: metrics.squared_distances(coords, covariances, targets),
    lambda coords, covariances, targets, mask: metrics.has_distribution(coords, covariances),
    lambda coords, covariances, targets, mask: metrics.coverage(coords, covariances, targets, mask=mask),
    lambda coords, covariances, targets, mask: metrics.coverage(coords, covariances, targets, np.array([0.5, 0.9])),
    lambda coords, covariances, targets, mask: metrics.calibration_error(coords, covariances, targets, mask=mask),
    lambda coords, covariances, targets, mask: metrics.negative_log_likelihood(coords, covariances, targets, mask),
    lambda coords, covariances, targets, mask: metrics.sigmas(covariances),
    lambda coords, covariances, targets, mask: metrics.sharpness(covariances, mask),
    lambda coords, covariances, targets, mask: metrics.rank_correlation(coords.reshape(-1), targets.reshape(-1)),
])  # fmt: skip
def test_arrays_give_arrays(call: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    coords, targets = (torch.rand(5, 4, 2, generator=generator) * 20 for _ in range(2))
    covariances, mask = 9 * torch.eye(2).expand(5, 4, 2, 2), torch.rand(5, 4, generator=generator) > 0.3
    found = call(*(each.numpy() for each in (coords, covariances, targets, mask)))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, call(coords, covariances, targets, mask).numpy())
