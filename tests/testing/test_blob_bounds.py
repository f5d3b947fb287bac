"""The bounds of a fitted blob: they hold for float32 arithmetic and for pixels that are off, and are small on blobs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.testing import tolerances
from dark_kernels.testing.blob_bounds import bound_blob

MATCHED = recipes.MATCHED
FLOAT32 = testing.Arithmetic(torch.float32, torch.float32)
FLOAT64 = testing.Arithmetic(torch.float64, torch.float64)
KINDS = ["noise", "signed_noise", "noisy_blob", "two_blobs", "blob", "ties", "plateau", "one_pixel", "blob_on_negative"]


def of_width(sigma: float) -> Recipe:
    return dataclasses.replace(MATCHED, blob_sigma=sigma)


def peaks(maps: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    _, x, y = reference.find_peak(reference.match_blobs(maps.double(), recipe.expected_sigma))
    return x, y


def noisy_blobs(peak: float, noise: float, margin: float = 8.0) -> Tensor:
    maps = testing.gaussian_blobs(2, 16, 40, 32, sigma=2.3, margin=margin, peak=peak, seed=1).heatmaps
    return maps + noise * torch.randn(maps.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("size", [(24, 20), (5, 3), (1, 9)])
def test_float32_stays_within(size: tuple[int, int], sigma: float) -> None:
    """And the iterations are those of the reference."""
    recipe = of_width(sigma)
    maps = testing.heatmaps_of_kinds(KINDS, 6, 9, *size, seed=5)
    x, y = peaks(maps, recipe)
    bounds = bound_blob(maps.double(), x, y, recipe, FLOAT32, 6e-8)
    hessian, offset, exists = reference.fit_blob(maps.double(), x, y, sigma)
    single_hessian, single_offset, single_exists = reference.fit_blob(maps, x, y, sigma)
    assert not (bounds.succeeds & ~(exists & single_exists)).any()
    assert not (bounds.fails & (exists | single_exists)).any()
    assert ((bounds.step - offset).abs() < 1e-11)[bounds.succeeds].all()
    assert ((single_offset - offset).abs() <= bounds.step_bounds)[bounds.succeeds].all()
    off = (single_hessian.double().inverse() - hessian.inverse()).abs() <= bounds.covariance_bounds
    assert off[bounds.succeeds].all()
    assert (bounds.succeeds | bounds.fails).double().mean() > (0.9 if size == (24, 20) else 0.75)
    assert bounds.fails.all() == (size[0] == 1)


def test_pixels_that_are_off_move_it_within() -> None:
    maps = testing.heatmaps_of_kinds(KINDS, 6, 9, 24, 20, seed=6, dtype=torch.float64)
    x, y = peaks(maps, MATCHED)
    off = 1e-6
    errors = off * maps.abs().amax((-2, -1), keepdim=True).expand_as(maps)
    bounds = bound_blob(maps, x, y, MATCHED, FLOAT64, 1e-16, errors)
    generator = torch.Generator().manual_seed(7)
    largest = torch.zeros(())
    for _ in range(10):
        signs = torch.randint(0, 2, maps.shape, generator=generator) * 2 - 1
        signs[maps == maps.amax((-2, -1), keepdim=True)] = 0  # what all are relative to
        _, offset, exists = reference.fit_blob(maps + errors * signs, x, y, MATCHED.expected_sigma)
        moved = (offset - bounds.step).abs()
        assert (moved <= bounds.step_bounds)[bounds.succeeds].all()
        assert not (exists & bounds.fails).any()
        assert not (~exists & bounds.succeeds).any()
        largest = torch.maximum(largest, (moved / bounds.step_bounds)[bounds.succeeds].max())
    assert largest > 0.05  # not far off
    assert (bounds.succeeds | bounds.fails).double().mean() > 0.9


@pytest.mark.parametrize("arithmetic", [FLOAT32, testing.TRITON, testing.EAGER], ids=["reference", "triton", "eager"])
@pytest.mark.parametrize(
    ("peak", "noise", "margin"), [(1.0, 0.0, 8.0), (1.0, 0.05, 8.0), (0.25, 0.05, 8.0), (1.0, 0.02, 0.0)]
)
def test_is_small_on_noisy_blobs(peak: float, noise: float, margin: float, arithmetic: testing.Arithmetic) -> None:
    bounds = testing.decode_bounds(noisy_blobs(peak, noise, margin).float(), MATCHED, arithmetic)
    assert bounds.coords.max() < 1e-4
    assert bounds.covariances.max() < 1e-3


@pytest.mark.parametrize(
    ("constant", "value"),
    [("BLOB_ITERATIONS", 7), ("BLOB_TOLERATED_NOISE", 2.7), ("BLOB_DAMPING", 0.01)],
)
def test_sees_another_fit(constant: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that comparisons can fail: on weak blobs a fit with another constant is off by more than rounding."""
    maps = noisy_blobs(0.25, 0.05).float()
    bounds = testing.decode_bounds(maps, MATCHED, testing.TRITON).coords
    exact = reference.decode_reference(maps.double(), MATCHED)[0]
    monkeypatch.setattr(reference, constant, value)
    other = reference.decode_reference(maps.double(), MATCHED)[0]
    assert ((other - exact).abs() > bounds).any()


def test_fails_or_is_open_where_rounding_decides() -> None:
    """Around a pixel whose amplitude is negative, about zero, and positive."""
    maps = torch.zeros(1, 3, 41, 41, dtype=torch.float64)
    maps[..., 4, 4] = 1.0
    maps[..., 30, 30] = torch.tensor([-0.5, 0.0, 0.5])
    at = torch.full((1, 3), 30)
    bounds = bound_blob(maps, at, at, MATCHED, testing.TRITON, 6e-8)
    assert bounds.fails.tolist() == [[True, False, False]]
    assert bounds.succeeds.tolist() == [[False, False, True]]
    coords = testing.decode_bounds(maps, MATCHED, testing.TRITON, peaks_at=(at, at)).coords
    assert coords[0, 1].tolist() == [math.inf] * 2
    assert coords[0, 2].max() < 0.02 * 2.5  # beyond which it is open


def test_a_covariance_is_open_about_nothing() -> None:
    """Where the fitted variance is what is known of it there may be one or none."""
    recipe = dataclasses.replace(MATCHED, target_sigma=1.0, blob_sigma=2.5)  # which holds the width above 1
    maps = testing.gaussian_blobs(1, 4, 32, 32, sigma=0.6, seed=3).heatmaps.float()
    bounds = testing.decode_bounds(maps, recipe, testing.TRITON)
    assert bounds.coords.max() < 1e-4
    assert (bounds.covariances[..., 0, 0] == math.inf).all()


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_the_searchs_bound_holds_and_is_not_far_off(sigma: float) -> None:
    maps = testing.heatmaps_of_kinds(["signed_noise", "huge", "tiny", "blob"], 2, 4, 31, 29, seed=2)
    exact = reference.match_blobs(maps.double(), sigma)
    error = (reference.match_blobs(maps, sigma).double() - exact).abs()
    bound = tolerances._response_error(maps.double(), sigma, FLOAT32, torch.zeros_like(maps).double())
    assert (error <= bound).all()
    assert (error / bound)[:, 0].max() > 0.005


def test_other_peaks_are_those_that_respond_alike() -> None:
    heatmap = torch.zeros(24, 24)
    heatmap[6, 6] = heatmap[17, 17] = 1.0
    first, second = 6 * 24 + 6, 17 * 24 + 17
    assert tolerances.other_peaks(heatmap, MATCHED, testing.TRITON).tolist() == [first, second]
    heatmap[17, 17] = 0.999
    assert tolerances.other_peaks(heatmap, MATCHED, testing.TRITON).tolist() == [first]


def test_another_peak_is_accepted_only_within_rounding() -> None:
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(36.0), indexing="ij")
    one, other = (torch.exp(-((x - a) ** 2 + (y - a) ** 2) / 8) for a in (9, 26))
    maps = (one + other)[None, None]
    actual = dark_kernels.decode(maps, MATCHED, backend="reference")
    arithmetic = testing.arithmetic_of("reference", "cpu", torch.float32)
    assert actual.coords[0, 0].tolist() == pytest.approx([9, 9], abs=1e-3)
    assert testing.assert_decodes_like_reference(actual, maps, MATCHED, arithmetic).bounded == 1
    elsewhere = actual._replace(coords=35 - actual.coords)
    assert testing.assert_decodes_like_reference(elsewhere, maps, MATCHED, arithmetic).other_peaks == 1
    weaker = (one + 0.999 * other)[None, None]
    with pytest.raises(AssertionError, match="matched"):
        testing.assert_decodes_like_reference(elsewhere, weaker, MATCHED, arithmetic)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("recipe", [
    MATCHED,
    dataclasses.replace(MATCHED, argmax_on="raw", name="gaussian on raw"),
    dataclasses.replace(MATCHED, argmax_on="blurred", name="gaussian on blurred"),
    dataclasses.replace(recipes.FIT, argmax_on="blurred", name="fit on blurred"),
    dataclasses.replace(recipes.MMPOSE_DARK, argmax_on="matched", name="wide on matched"),
    dataclasses.replace(recipes.QUARTER, argmax_on="matched", name="quarter on matched"),
], ids=lambda recipe: recipe.name)  # fmt: skip
def test_the_reference_in_float32_decodes_like_itself(recipe: Recipe, activation: str) -> None:
    """Every stencil with every search, whatever is in a map."""
    recipe = dataclasses.replace(recipe, activation=activation)
    maps = testing.heatmaps_of_kinds(sorted(testing.VALUE_KINDS), 2, 26, 21, 18, seed=8)
    actual = dark_kernels.decode(maps, recipe, recipe.has_hessian, backend="reference")
    arithmetic = testing.arithmetic_of("reference", "cpu", torch.float32)
    compared = testing.assert_decodes_like_reference(actual, maps, recipe, arithmetic)
    assert compared.bounded > 0.4 * compared.refined > 10
