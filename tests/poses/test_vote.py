"""Votes against closed forms, backends against the reference, and who has no vote."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import Keypoints, sample_keypoints, testing, vote
from dark_kernels.poses import eager_voting

from ..conftest import SERVICES

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
WEIGHTS = pytest.mark.parametrize("weights", ["heatmaps", "density", "none"])
Service = tuple[str, torch.device]
HEIGHT, WIDTH = 24, 20


def some_votes(batch: int = 2, num_keypoints: int = 3, num_samples: int = 40) -> tuple[Tensor, Tensor]:
    """Samples around the middle of maps of noise, some of them outside."""
    generator = torch.Generator().manual_seed(6)
    middle = torch.tensor([WIDTH, HEIGHT]) / 2
    samples = middle + 5 * torch.randn(batch, num_keypoints, num_samples, 2, generator=generator)
    return samples, torch.randn(batch, num_keypoints, HEIGHT, WIDTH, generator=generator) + 0.5


def options(weights: str, heatmaps: Tensor | None) -> dict[str, Any]:
    return {"heatmaps": {"heatmaps": heatmaps}, "density": {"bandwidth": 1.5}, "none": {}}[weights]


def assert_like_reference(samples: Tensor, heatmaps: Tensor, weights: str, service: Service) -> None:
    """Within float32 roundings of the reference in float64. Sums of weighted positions are off by some units of the
    farthest one; what is subtracted of them for a covariance is off by as much, and is multiplied by a distance."""
    backend, device = service
    expected = vote(samples.double(), **options(weights, heatmaps.double()), backend="reference")
    actual = vote(samples.to(device), **options(weights, heatmaps.to(device)), backend=backend)
    eps = 64 * torch.finfo(torch.float32).eps
    farthest = float(samples.abs().max())
    widest = float((samples.double() - expected.coords[:, :, None]).nan_to_num().abs().max())
    bounds = (eps * farthest, eps * float(expected.scores.max()), eps * widest * (farthest + widest))
    for name, one, other, bound in zip(Keypoints._fields, actual, expected, bounds, strict=True):
        assert one.dtype == torch.float32, name
        torch.testing.assert_close(
            one.cpu().double(), other, rtol=0, atol=bound, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}"
        )
    xx, xy, yx, yy = actual.covariances.nan_to_num().flatten(-2).unbind(-1)
    assert torch.equal(xy, yx)
    assert bool(((xx >= 0) & (yy >= 0)).all())


# --- closed forms ------------------------------------------------------------------------------------------


def test_votes_of_a_gaussian_by_a_gaussian_heatmap() -> None:
    """The product of the two, within 5 standard errors. A map that is interpolated is wider by 1/6 on each axis."""
    count, center = 200_000, torch.tensor([70.0, 90.0], dtype=torch.float64)
    q = torch.tensor([[300.0, 60.0], [60.0, 200.0]], dtype=torch.float64)
    p = torch.tensor([[150.0, -70.0], [-70.0, 250.0]], dtype=torch.float64)
    m = torch.tensor([80.0, 84.0], dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(180.0), torch.arange(160.0), indexing="ij")
    difference = torch.stack([columns, rows], dim=-1).double() - center
    heatmap = torch.exp(-0.5 * torch.einsum("hwi,ij,hwj->hw", difference, q.inverse(), difference))
    samples = sample_keypoints(m, p, count, 1)[None, None]
    found = vote(samples, heatmap[None, None])

    amplitude, q = math.sqrt(float(q.det() / (q + torch.eye(2) / 6).det())), q + torch.eye(2) / 6
    covariance = (p.inverse() + q.inverse()).inverse()
    mean = covariance @ (p.inverse() @ m + q.inverse() @ center)
    share = amplitude * float(
        (q.det() / (p + q).det()).sqrt() * torch.exp(-0.5 * (m - center) @ (p + q).inverse() @ (m - center))
    )
    effective = count * share**2  # no weight is above 1
    variances = covariance.diagonal()
    assert float((found.coords[0, 0] - mean).abs().max()) < 5 * float((variances.max() / effective).sqrt())
    errors = ((variances[:, None] * variances + covariance**2) / effective).sqrt()
    assert float(((found.covariances[0, 0] - covariance) / errors).abs().max()) < 5
    assert float(found.scores) == pytest.approx(share, abs=5 * math.sqrt(0.25 / count))


@EVERY
def test_votes_of_a_gaussian_by_its_density(service: Service) -> None:
    """The same with the density in the place of the map: narrower than the samples, around the same mean."""
    backend, device = service
    count = 400 if backend == "triton" and device.type == "cpu" else 2000
    p = torch.tensor([[9.0, 4.0], [4.0, 6.0]], dtype=torch.float64)
    bandwidth = 2.0
    samples = sample_keypoints(torch.tensor([50.0, 20.0], dtype=torch.float64), p, count, 2)
    found = vote(samples[None, None].float().to(device), bandwidth=bandwidth, backend=backend)
    q = p + bandwidth**2 * torch.eye(2)
    covariance = (p.inverse() + q.inverse()).inverse()
    pairs = bandwidth**2 / float((2 * p + bandwidth**2 * torch.eye(2)).det().sqrt())
    share = (1 + (count - 1) * pairs) / count  # its own kernel included
    assert found.coords[0, 0].tolist() == pytest.approx([50, 20], abs=5 * math.sqrt(9 / (count * share**2)))
    assert float(found.scores) == pytest.approx(share, abs=5 * math.sqrt(1 / count) * share)
    relative = (found.covariances[0, 0].cpu().double() - covariance).abs().max() / covariance.max()
    assert float(relative) < 5 * math.sqrt(2 / (count * share))


@EVERY
def test_without_weights_it_is_mean_and_covariance(service: Service) -> None:
    backend, device = service
    samples, _ = some_votes(num_samples=70)
    found = vote(samples.to(device), backend=backend)
    torch.testing.assert_close(found.coords.cpu(), samples.mean(2))
    expected = torch.stack([torch.stack([votes.T.cov(correction=0) for votes in image]) for image in samples])
    torch.testing.assert_close(found.covariances.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert bool((found.scores == 1).all())


@pytest.mark.parametrize(
    ("x", "y", "weight"),
    [
        (1.0, 0.0, 2.0),
        (0.5, 0.0, 1.5),
        (0.25, 0.5, 0.75 * (0.5 * 1 + 0.5 * 4) + 0.25 * (0.5 * 2 + 0.5 * 8)),
        (1.0, 1.0, 8.0),
        (-0.5, 0.0, 0.5),  # half a pixel beyond the border
        (1.25, 1.5, 0.75 * 0.5 * 8),
        (-1.0, 0.0, 0.0),
        (1.0, 2.0, 0.0),
        (1e30, 0.0, 0.0),
        (-3e38, 3e38, 0.0),
    ],
)
@EVERY
def test_bilinear_weights(x: float, y: float, weight: float, service: Service) -> None:
    backend, device = service
    heatmap = torch.tensor([[1.0, 2.0], [4.0, 8.0]], device=device)[None, None]
    found = vote(torch.tensor([x, y], device=device)[None, None, None], heatmap, backend=backend)
    assert float(found.scores) == pytest.approx(weight)
    if weight:
        assert found.coords.flatten().tolist() == [x, y]
        assert found.covariances.flatten().tolist() == [0.0] * 4
    else:
        assert bool(found.coords.isnan().all())
        assert bool(found.covariances.isnan().all())


# --- backends against the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 2, 33, 300])
@WEIGHTS
@EVERY
def test_backends_are_the_reference(weights: str, num_samples: int, service: Service) -> None:
    assert_like_reference(*some_votes(num_samples=num_samples), weights, service)


@pytest.mark.gpu
@WEIGHTS
def test_triton_on_a_gpu_is_the_reference(weights: str, gpu: torch.device) -> None:
    assert_like_reference(*some_votes(8, 17, 1000), weights, ("triton", gpu))


@WEIGHTS
@EVERY_FUSED
def test_float64_is_computed_in_float64(weights: str, service: Service) -> None:
    backend, device = service
    samples, heatmaps = (each.double().to(device) for each in some_votes())
    expected = vote(samples, **options(weights, heatmaps), backend="reference")
    actual = vote(samples, **options(weights, heatmaps), backend=backend)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@EVERY_FUSED
def test_half_precision(service: Service) -> None:
    """Arithmetic is float32: of the numbers that the halves are."""
    backend, device = service
    samples, heatmaps = (each.half().to(device) for each in some_votes())
    expected = vote(samples.float(), heatmaps.float(), backend=backend)
    for one, other in zip(vote(samples, heatmaps, backend=backend), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layout", sorted({*testing.LAYOUTS} - {"contiguous"}))
@EVERY_FUSED
def test_any_strides(layout: str, service: Service) -> None:
    backend, device = service
    samples, heatmaps = (each.to(device) for each in some_votes())
    odd_samples, odd_maps = testing.with_layout(samples, layout), testing.with_layout(heatmaps, layout)
    with testing.assert_unchanged(odd_samples), testing.assert_unchanged(odd_maps):
        actual = vote(odd_samples, odd_maps, backend=backend)
    expected = vote(odd_samples.contiguous(), odd_maps.contiguous(), backend=backend)
    for one, other in zip(actual, expected, strict=True):
        # Sums over other strides may take another order.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4, equal_nan=True)


def test_densities_take_keypoints_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = some_votes(2, 5, 30)
    whole = vote(samples, bandwidth=2.0, backend="eager")
    monkeypatch.setattr(eager_voting, "_PAIRS", 2 * 30**2 + 1)
    for one, other in zip(vote(samples, bandwidth=2.0, backend="eager"), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@WEIGHTS
@EVERY
def test_no_keypoints(weights: str, shape: tuple[int, int], service: Service) -> None:
    backend, device = service
    samples, heatmaps = (each.to(device) for each in some_votes(*shape))
    found = vote(samples, **options(weights, heatmaps), backend=backend)
    assert [tuple(each.shape) for each in found] == [(*shape, 2), shape, (*shape, 2, 2)]


# --- who has no vote ---------------------------------------------------------------------------------------


@WEIGHTS
@EVERY
def test_samples_that_are_not_finite_do_not_vote(weights: str, service: Service) -> None:
    backend, device = service
    samples, heatmaps = (each.to(device) for each in some_votes())
    dirty = torch.cat([samples, samples[:, :, :4]], dim=2)
    dirty[:, :, -4:, 0] = torch.tensor([math.nan, math.inf, -math.inf, 1.0], device=device)
    dirty[:, :, -1, 1] = math.nan
    clean, found = (vote(each, **options(weights, heatmaps), backend=backend) for each in (samples, dirty))
    torch.testing.assert_close(found.coords, clean.coords)
    torch.testing.assert_close(found.covariances, clean.covariances, rtol=1e-4, atol=1e-4)
    lost = 40 / 44 if weights != "density" else (40 / 44) ** 2  # of the votes, and of the kernels
    torch.testing.assert_close(found.scores, clean.scores * lost)


@EVERY
def test_weights_that_are_not_positive_and_finite_give_no_vote(service: Service) -> None:
    """A pixel without a share in a sample is not looked at, whatever it holds."""
    backend, device = service
    heatmap = torch.tensor([[1.0, math.nan, 1.0, -1.0, math.inf, 3.0]], device=device)[None, None]
    xs = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 2.25]
    samples = torch.tensor([[x, 0.0] for x in xs], device=device)[None, None]
    found = vote(samples, heatmap, backend=backend)
    assert float(found.scores) * len(xs) == pytest.approx(1 + 1 + 3 + 0.5)
    assert found.coords.flatten().tolist() == pytest.approx([(0 + 2 + 15 + 2.25 / 2) / 5.5, 0])


@WEIGHTS
@EVERY
def test_nobody_votes(weights: str, service: Service) -> None:
    """One keypoint of nothing does not disturb the others."""
    backend, device = service
    samples, heatmaps = (each.to(device) for each in some_votes())
    clean = vote(samples, **options(weights, heatmaps), backend=backend)
    samples[0, 1] = math.nan
    found = vote(samples, **options(weights, heatmaps), backend=backend)
    assert bool(found.coords[0, 1].isnan().all())
    assert bool(found.covariances[0, 1].isnan().all())
    assert float(found.scores[0, 1]) == 0
    for one, other in zip(found, clean, strict=True):
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[0, ::2], other[0, ::2])


@settings(max_examples=40)
@given(
    weights=st.sampled_from(["heatmaps", "density", "none"]),
    backend=st.sampled_from(["eager", "reference"]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_a_vote_is_within_its_samples(weights: str, backend: str, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand(1, 2, 9, 2, generator=generator) * 8
    heatmaps = torch.rand(1, 2, 9, 9, generator=generator) * scale
    found = vote(samples, **options(weights, heatmaps), backend=backend)
    low, high = samples.amin(2), samples.amax(2)
    assert bool(((found.coords >= low - 1e-5) & (found.coords <= high + 1e-5)).all())
    assert bool((torch.linalg.det(found.covariances) >= -1e-3).all())
    assert bool(found.scores.isfinite().all())


# --- what is refused, and PyTorch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "samples: got builtins.list", {"samples": [1.0]}),
        (ValueError, r"samples: got shape \[2, 3, 2\], expected 4", {"samples": torch.ones(2, 3, 2)}),
        (ValueError, r"samples: got shape \[2, 3, 0, 2\], expected .* S >= 1", {"samples": torch.ones(2, 3, 0, 2)}),
        (ValueError, r"samples: got shape \[2, 3, 4, 3\], expected", {"samples": torch.ones(2, 3, 4, 3)}),
        (ValueError, r"heatmaps: got shape \[2, 4, 5, 6\], expected", {"heatmaps": torch.ones(2, 4, 5, 6)}),
        (ValueError, r"heatmaps: got shape \[2, 3, 0, 6\], expected H >= 1", {"heatmaps": torch.ones(2, 3, 0, 6)}),
        (ValueError, "heatmaps: got a tensor on meta", {"heatmaps": torch.ones(2, 3, 5, 6, device="meta")}),
        (ValueError, "bandwidth: got 0.0, expected a positive number", {"bandwidth": 0.0}),
        (ValueError, "bandwidth: got 1.0 with heatmaps", {"bandwidth": 1.0, "heatmaps": torch.ones(2, 3, 5, 6)}),
        (TypeError, "bandwidth: got str", {"bandwidth": "1"}),
        (ValueError, "backend: got 'best'", {"backend": "best"}),
    ],
)  # fmt: skip
def test_refuses(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        vote(**{"samples": torch.ones(2, 3, 4, 2), **change})


def test_signature() -> None:
    assert list(inspect.signature(vote).parameters) == ["samples", "heatmaps", "bandwidth", "backend"]
