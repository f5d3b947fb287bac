"""The definition: once more one pixel at a time, and all of its derivatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dark_kernels import soft_argmax, testing
from dark_kernels.soft_argmax import soft_argmax_reference


@pytest.mark.parametrize("beta", [0.5, 7.0])
def test_one_pixel_at_a_time(beta: float) -> None:
    maps = testing.heatmaps_of_kinds(["noise", "blob", "negative"], 1, 3, 4, 6, dtype=torch.float64)
    coords = soft_argmax_reference(maps, beta)
    for k in range(3):
        pixels = list(itertools.product(range(4), range(6)))
        weights = [math.exp(beta * maps[0, k, y, x].item()) for y, x in pixels]
        expected = [sum(w * pixel[i] for w, pixel in zip(weights, pixels, strict=True)) / sum(weights) for i in (1, 0)]
        assert coords[0, k].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_centre_of_a_blob() -> None:
    blobs = testing.gaussian_blobs(2, 3, 40, 40, margin=15.0)
    assert (soft_argmax_reference(blobs.heatmaps, 20.0) - blobs.centers).abs().max() < 0.1
    # The softmax of the log of a Gaussian is that Gaussian.
    logs = blobs.heatmaps.log().clamp(min=-1e4)
    torch.testing.assert_close(soft_argmax_reference(logs), blobs.centers, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("beta", [1.0, 8.0])
def test_gradcheck(beta: float, backend: str) -> None:
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: soft_argmax(each, beta, backend), maps)


def test_second_derivatives() -> None:
    maps = torch.randn(1, 1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda each: soft_argmax(each, 2.0, "reference"), maps)
