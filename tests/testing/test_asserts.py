"""The assertions can fail, and say where."""

from __future__ import annotations

import math

import pytest
import torch

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.testing import asserts

# A blob, and a map without a keypoint.
MAPS = testing.gaussian_blobs(1, 2, 24, 20, seed=1, dtype=torch.float32).heatmaps
MAPS[:, 1] -= 2


def decoded(recipe: Recipe = recipes.MMPOSE_UDP) -> Keypoints:
    return dark_kernels.decode(MAPS, recipe, recipe.has_hessian, "eager")


def test_counts_what_it_compares() -> None:
    assert testing.assert_decodes_like_reference(decoded(), MAPS, recipes.MMPOSE_UDP) == (2, 1, 1, 0)
    empty = MAPS[:0]
    assert testing.assert_decodes_like_reference(
        dark_kernels.decode(empty, recipes.MMPOSE_UDP), empty, recipes.MMPOSE_UDP
    ) == (0, 0, 0, 0)


@pytest.mark.parametrize("arithmetic", [testing.EAGER, testing.TRITON], ids=["eager", "triton"])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_sees_a_coordinate_that_is_off_by_a_thousandth(recipe: Recipe, arithmetic: testing.Arithmetic) -> None:
    for axis in (0, 1):
        actual = decoded(recipe)
        actual.coords[0, 0, axis] += 1e-3
        with pytest.raises(AssertionError, match=rf"{recipe.name}, map \[0, 0\]"):
            testing.assert_decodes_like_reference(actual, MAPS, recipe, arithmetic)


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_sees_the_smallest_change_of_a_score(recipe: Recipe) -> None:
    actual = decoded(recipe)
    factor = 1 + (3e-5 if recipe == recipes.MEGVII else 1.2e-7)
    with pytest.raises(AssertionError, match="score"):
        testing.assert_decodes_like_reference(actual._replace(scores=actual.scores * factor), MAPS, recipe)


def test_sees_covariances_that_are_off_or_missing() -> None:
    good = decoded()
    assert good.covariances is not None
    for change in (1e-2, math.nan):
        covariances = good.covariances.clone()
        covariances[0, 0, 0, 0] += change
        with pytest.raises(AssertionError, match="covariance"):
            testing.assert_decodes_like_reference(good._replace(covariances=covariances), MAPS, recipes.MMPOSE_UDP)
    invented = good.covariances.nan_to_num(1.0)
    with pytest.raises(AssertionError, match=r"map \[0, 1\]"):
        testing.assert_decodes_like_reference(good._replace(covariances=invented), MAPS, recipes.MMPOSE_UDP)


def test_sees_an_invalid_keypoint_that_is_valid_and_the_reverse() -> None:
    for k, wrong in ((0, -1.0), (1, 0.0)):
        actual = decoded()
        actual.coords[0, k] = wrong
        with pytest.raises(AssertionError, match=rf"map \[0, {k}\]"):
            testing.assert_decodes_like_reference(actual, MAPS, recipes.MMPOSE_UDP)


def test_singular_problems_have_to_be_finite() -> None:
    constant = torch.full((1, 1, 16, 16), 0.5)
    actual = dark_kernels.decode(constant, recipes.VITPOSE_HF)
    actual.coords[0, 0, 0] = 5.0
    testing.assert_decodes_like_reference(actual, constant, recipes.VITPOSE_HF)
    actual.coords[0, 0, 0] = math.inf
    with pytest.raises(AssertionError, match="vitpose_hf"):
        testing.assert_decodes_like_reference(actual, constant, recipes.VITPOSE_HF)


def test_sees_wrong_shapes_dtypes_and_gradients() -> None:
    good = decoded()
    for actual, message in (
        (good._replace(coords=good.coords[:, :1]), "coords: got shape"),
        (good._replace(scores=good.scores.double()), "scores: got torch.float64, expected torch.float32"),
        (good._replace(coords=good.coords.clone().requires_grad_()), "coords carries a gradient"),
    ):
        with pytest.raises(AssertionError, match=message):
            testing.assert_decodes_like_reference(actual, MAPS, recipes.MMPOSE_UDP)


def test_another_peak_is_accepted_only_within_rounding() -> None:
    maps = torch.zeros(1, 1, 30, 30)
    maps[0, 0, 8, 8] = maps[0, 0, 20, 20] = 100.0
    actual = dark_kernels.decode(maps, recipes.MEGVII)
    assert testing.assert_decodes_like_reference(actual, maps, recipes.MEGVII).other_peaks == 0
    actual.coords[0, 0] = 20.5
    assert testing.assert_decodes_like_reference(actual, maps, recipes.MEGVII).other_peaks == 1
    maps[0, 0, 20, 20] = 99.0
    with pytest.raises(AssertionError, match="megvii"):
        testing.assert_decodes_like_reference(actual, maps, recipes.MEGVII)


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_decoding_at_the_peak_is_decoding(recipe: Recipe) -> None:
    maps = testing.heatmaps_of_kinds(["noisy_blob", "noise", "negative", "strong_blob"], 1, 8, 22, 19, seed=2).double()
    searched = asserts._searched(maps, recipe)
    if recipe.argmax_on == "matched":
        searched = reference.match_blobs(maps, recipe.expected_sigma)
    _, x, y = reference.find_peak(searched)
    expected = Keypoints(*reference.decode_reference(maps, recipe, recipe.has_hessian))
    testing.assert_same_keypoints(asserts._decode_at(maps, recipe, recipe.has_hessian, x, y), expected)


def test_assert_same_keypoints() -> None:
    good = decoded()
    testing.assert_same_keypoints(good, decoded())
    for other, message in (
        (good._replace(coords=good.coords + 1e-6), "coords: "),
        (good._replace(scores=good.scores.double()), "scores: got torch.float32, expected torch.float64"),
        (good._replace(covariances=None), "covariances: got"),
        (good._replace(scores=good.scores[0]), "scores: got"),
    ):
        with pytest.raises(AssertionError, match=message):
            testing.assert_same_keypoints(good, other)


def test_assert_unchanged_sees_a_byte_beside_the_view() -> None:
    storage = torch.zeros(10)
    view = storage[3:5]
    with testing.assert_unchanged(view):
        storage.sum()
    with pytest.raises(AssertionError, match="bytes of the input"), testing.assert_unchanged(view):
        storage[9] = 1.0
    with pytest.raises(AssertionError, match="bytes of the input"), testing.assert_unchanged(view):
        view += 0.5
