"""eager's matched decoder against the reference in float64: the same pixel, and from there the same iterations."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode import eager_blob

MATCHED = recipes.MATCHED
# In which the fit is determined: a step of it that is known to 1e-12 is one that the next ones bring to the same place.
BLOBS = ["blob", "noisy_blob", "two_blobs", "strong_blob", "weak_blob", "plateau"]
ANY = sorted(testing.VALUE_KINDS)
SIZES = [(64, 48), (40, 33), (13, 13), (7, 11), (3, 5), (1, 9), (9, 1), (2, 2), (1, 1)]


def both(heatmaps: Tensor, recipe: Recipe) -> tuple[Keypoints, Keypoints]:
    covariance = recipe.has_hessian
    actual, expected = (dark_kernels.decode(heatmaps, recipe, covariance, name) for name in ("eager", "reference"))
    return actual, expected


def differs(actual: Keypoints, expected: Keypoints, tolerance: float) -> Tensor:
    """Mask of the keypoints that differ by more: [B, K]. NaN equals NaN."""
    off = torch.zeros(actual.scores.shape, dtype=torch.bool)
    for one, other in zip(actual, expected, strict=True):
        if one is not None and other is not None:
            near = torch.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
            off |= ~near.view(*off.shape, -1).all(-1)
    return off


def searched(recipe: Recipe) -> list[Recipe]:
    return [dataclasses.replace(recipe, argmax_on=searched_map) for searched_map in ("raw", "blurred", "matched")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stencil", ["gaussian", "fit", "wide", "compact", "quarter", "quarter_legacy", "none"])
def test_every_stencil_combines_with_every_search(stencil: str, size: tuple[int, int]) -> None:
    if stencil == "compact" and 1 in size:
        return  # of one row its Hessian is UDP's epsilon, by which all roundings are divided
    heatmaps = testing.heatmaps_of_kinds(BLOBS, 3, 20, *size, seed=sum(size), dtype=torch.float64)
    row = dataclasses.replace(MATCHED, stencil=stencil)  # type: ignore[arg-type]
    for recipe in searched(row):
        off = differs(*both(heatmaps, recipe), 1e-9)
        # Two pixels of a small map may be equal to the last bit but one, and a fit that just fails just succeed.
        assert off.sum() <= 1, f"{recipe.argmax_on}: {off.nonzero().tolist()}"


@pytest.mark.parametrize("size", SIZES)
def test_finds_the_references_pixel_in_any_map(size: tuple[int, int]) -> None:
    heatmaps = testing.heatmaps_of_kinds(ANY, 4, len(ANY), *size, seed=1, dtype=torch.float64)
    for recipe in searched(dataclasses.replace(MATCHED, stencil="none"))[1:]:
        off = differs(*both(heatmaps, recipe), 1e-12)
        assert off.float().mean() < 0.02, f"{recipe.argmax_on}: {off.nonzero().tolist()}"


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 6.0, 11.0])
def test_any_width_is_fitted_as_by_the_reference(sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    blobs = testing.gaussian_blobs(4, 10, 40, 33, sigma=max(sigma, 0.5), margin=0.0, seed=3)
    noise = torch.randn(blobs.heatmaps.shape, generator=generator, dtype=torch.float64)
    recipe = dataclasses.replace(MATCHED, blob_sigma=sigma)
    actual, expected = both(blobs.heatmaps + 0.01 * noise, recipe)
    assert not differs(actual, expected, 1e-9).any()
    if sigma >= 1:
        assert (actual.coords - blobs.centers).norm(dim=-1).median() < 0.1


def test_covariance_is_that_of_the_fitted_blob() -> None:
    blobs = testing.gaussian_blobs(2, 8, 40, 33, sigma=2.2, seed=3)
    coords, scores, covariances = dark_kernels.decode(blobs.heatmaps, MATCHED, True, backend="eager")
    assert covariances is not None
    assert (coords - blobs.centers).abs().max() < 1e-6
    assert torch.allclose(covariances, 2.2**2 * torch.eye(2, dtype=torch.float64), atol=1e-6)
    assert torch.equal(scores, blobs.heatmaps.amax((2, 3)))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("recipe", [MATCHED, dataclasses.replace(recipes.FIT, argmax_on="blurred"), recipes.MEGVII])
def test_activations(recipe: Recipe, activation: str) -> None:
    recipe = dataclasses.replace(recipe, activation=activation, score="mass")  # type: ignore[arg-type]
    logits = 20 * testing.heatmaps_of_kinds(BLOBS, 3, 10, 40, 33, seed=4, dtype=torch.float64) - 6
    logits[0, 0, 3, 4] = math.inf
    logits[0, 1] = -math.inf
    logits[0, 2, 7, 7] = math.nan
    off = differs(*both(logits, recipe), 1e-9)
    assert not off.any(), off.nonzero().tolist()


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_layouts_and_dtypes(layout: str, dtype: torch.dtype) -> None:
    maps = testing.heatmaps_of_kinds(BLOBS[:3], 2, 6, 40, 33, seed=4).to(dtype)
    laid_out = testing.with_layout(maps, layout)
    with testing.assert_unchanged(laid_out):
        actual = dark_kernels.decode(laid_out, MATCHED, True, backend="eager")
    expected = dark_kernels.decode(laid_out.contiguous().to(actual.coords.dtype), MATCHED, True, backend="eager")
    testing.assert_same_keypoints(actual, expected)


def test_flips_subsets_and_transforms() -> None:
    heatmaps = testing.heatmaps_of_kinds(BLOBS[:3], 2, 4, 40, 33, seed=5, dtype=torch.float64)
    flipped = testing.heatmaps_of_kinds(BLOBS[:3], 2, 4, 40, 33, seed=6, dtype=torch.float64)
    matrices = torch.tensor([[[3.0, 0.5, 7.0], [-0.2, 4.0, 1.0]]], dtype=torch.float64).expand(2, -1, -1)
    actual, expected = (
        dark_kernels.decode(
            heatmaps, MATCHED, True, backend, flipped=flipped, flip_indices=[0, 2, 1, 3], shift_flipped=True,
            keypoint_indices=[3, 1], image_transform=matrices,
        )
        for backend in ("eager", "reference")
    )  # fmt: skip
    assert not differs(actual, expected, 1e-9).any()


def test_an_infinite_pixel_is_the_peak() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 3, 40, 33, seed=5)
    heatmaps[0, 0, 2, 30] = math.inf
    heatmaps[0, 1, 9, 9] = math.nan
    heatmaps[0, 2] = -0.5
    coords, scores, covariances = dark_kernels.decode(heatmaps, MATCHED, True, backend="eager")
    assert covariances is not None
    assert coords[0].tolist() == [[30, 2], [-1, -1], [-1, -1]]
    assert scores[0, 0] == math.inf
    assert scores[0, 1].isnan()
    assert covariances.isnan().all()


def test_where_no_blob_is_fitted_the_wide_step_stands() -> None:
    heatmaps = testing.heatmaps_of_kinds(["blob"], 1, 6, 1, 40, seed=5)  # one row tells nothing of y
    wide = dark_kernels.decode(heatmaps, dataclasses.replace(MATCHED, stencil="wide"), backend="eager")
    testing.assert_same_keypoints(dark_kernels.decode(heatmaps, MATCHED, backend="eager"), wide)


@pytest.mark.parametrize("recipe", [MATCHED, dataclasses.replace(recipes.FIT, argmax_on="blurred"), recipes.MEGVII])
def test_peaks_are_fitted_each_for_itself(recipe: Recipe) -> None:
    heatmaps = testing.heatmaps_of_kinds(["two_blobs", "noisy_blob", "some_infinite"], 3, 6, 40, 33, seed=7).double()
    actual, expected = (
        dark_kernels.find_peaks(
            heatmaps, max_peaks=4, threshold=0.2, recipe=recipe, covariance=recipe.has_hessian, backend=backend
        )
        for backend in ("eager", "reference")
    )
    assert torch.equal(actual.counts, expected.counts)
    assert actual.counts.sum() > 40
    for name in ("coords", "scores", "covariances"):
        one, other = getattr(actual, name), getattr(expected, name)
        if one is not None:
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_empty_batches() -> None:
    for shape in ((0, 3, 8, 8), (3, 0, 8, 8)):
        coords, scores, covariances = dark_kernels.decode(torch.empty(shape), MATCHED, True, backend="eager")
        assert covariances is not None
        assert coords.shape[:2] == scores.shape == covariances.shape[:2] == shape[:2]


def test_blocks_of_peaks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heatmaps = testing.heatmaps_of_kinds(BLOBS, 2, 9, 40, 33, seed=8, dtype=torch.float64)
    whole = dark_kernels.decode(heatmaps, MATCHED, True, backend="eager")
    monkeypatch.setattr(eager_blob, "_FIT_BLOCK", 5 * 15 * 15)
    assert not differs(dark_kernels.decode(heatmaps, MATCHED, True, backend="eager"), whole, 1e-12).any()
