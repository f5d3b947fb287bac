"""The definition: written-out maps, a count of pixels one by one, and decode's numbers."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode.reference import blur, rescale
from dark_kernels.peaks.reference import find_peaks_reference, is_local_peak

from .cases import PIXELS, Options, expected_peaks, find, listed

REFERENCE = ("reference", torch.device("cpu"))

# A plateau of five pixels, one of two beside something higher, one of four in a corner, and single pixels.
PLATEAUS = torch.tensor(
    [
        [0, 0, 0, 0, 0, 9],
        [0, 5, 5, 5, 0, 0],
        [0, 5, 5, 0, 0, 0],
        [0, 0, 0, 0, 6, 6],
        [4, 4, 0, 0, 0, 8],
        [4, 4, 0, 7, 0, 0],
    ],
    dtype=torch.float64,
)
SINGLE = [(0, 5), (4, 5), (5, 3)]
MARKS = {
    "first": [*SINGLE, (1, 1), (4, 0)],
    "all": [*SINGLE, *[(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)], *[(4, 0), (4, 1), (5, 0), (5, 1)]],
    "none": SINGLE,
}


@pytest.mark.parametrize("plateau", sorted(MARKS))
def test_one_peak_of_a_plateau_or_all_or_none(plateau: str) -> None:
    is_peak = is_local_peak(PLATEAUS[None, None], 3, plateau)[0, 0] & (PLATEAUS > 0)
    assert sorted(tuple(place) for place in is_peak.nonzero().tolist()) == sorted(MARKS[plateau])


@pytest.mark.parametrize(
    ("rows", "window", "expected"),
    [
        ([[5.0, 5.0, 6.0, 1.0]], 3, [[True, False, True, False]]),  # a plateau that goes up beyond the window
        ([[5.0, 5.0, 6.0, 1.0]], 5, [[False, False, True, False]]),
        (
            [[5.0, 1.0, 1.0, 5.0], [5.0, 5.0, 5.0, 5.0]],
            3,
            [[True, False, False, True], [False] * 4],
        ),  # both arms of a U
    ],
)
def test_only_pairs_of_pixels_are_compared(rows: list[list[float]], window: int, expected: list[list[bool]]) -> None:
    assert is_local_peak(torch.tensor(rows)[None, None], window, "first")[0, 0].tolist() == expected


@pytest.mark.parametrize("plateau", ["first", "all", "none"])
@pytest.mark.parametrize("window", [1, 3, 5, 7, 11])
def test_is_the_count_of_pixels(window: int, plateau: str) -> None:
    maps = testing.heatmaps_of_kinds(["ties", "noise", "plateau", "one_pixel"], 1, 8, 9, 7, seed=3, dtype=torch.float64)
    for max_peaks in (1, 4, 100):
        options = Options(max_peaks, 0.25, window, PIXELS, plateau)
        assert listed(find(maps, options, REFERENCE)) == [expected_peaks(each, options) for each in maps[0]]


@pytest.mark.parametrize("plateau", ["first", "all", "none"])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_is_the_count_of_pixels_of_the_smoothed_and_rescaled_map(padding: str, plateau: str) -> None:
    maps = testing.heatmaps_of_kinds(["two_blobs", "noise", "ties", "blob"], 1, 8, 15, 13, seed=3, dtype=torch.float64)
    for kernel_size, rescales in itertools.product((3, 11), (True, False)):
        recipe = dataclasses.replace(
            recipes.MEGVII, kernel_size=kernel_size, padding=padding, rescale=rescales, stencil="none",
            score_scale=1.0, score_offset=0.0,
        )  # fmt: skip
        smoothed = blur(maps, recipe)
        smoothed = rescale(smoothed, maps) if rescales else smoothed
        options = Options(4, 0.25, 3, recipe, plateau)
        assert listed(find(maps, options, REFERENCE)) == [expected_peaks(each, options) for each in smoothed[0]]


ON_BLURRED = [
    dataclasses.replace(recipe, name=f"{recipe.name} {padding} on blurred", padding=padding, argmax_on="blurred")
    for recipe in (recipes.MEGVII, recipes.DARKPOSE, recipes.MMPOSE_LEGACY_UDP)
    for padding in ("zeros", "reflect", "symmetric")
]


@pytest.mark.parametrize("recipe", [*recipes.ALL, *ON_BLURRED], ids=lambda recipe: recipe.name)
def test_the_first_peak_is_the_keypoint_of_decode(recipe: Recipe) -> None:
    """Of any map: the first maximum is a local peak by the rule for plateaus, and ties go to the first.

    With a matched filter it is that of the same stencil on the raw map, which is what find_peaks searches.
    """
    maps = testing.heatmaps_of_kinds(sorted(testing.VALUE_KINDS), 2, len(testing.VALUE_KINDS), 13, 11, seed=5)
    covariance = recipe.has_hessian
    recipe = dataclasses.replace(recipe, score_offset=0.0)  # so that scores tell which keypoints are valid
    of_decode = dataclasses.replace(recipe, argmax_on="raw") if recipe.argmax_on == "matched" else recipe
    keypoints = dark_kernels.decode(maps, of_decode, covariance, "reference")
    coords, scores, counts, covariances = find_peaks_reference(maps, 3, 0.0, 3, recipe, "first", covariance)
    valid = keypoints.scores > 0
    assert ((counts > 0) == valid).all()
    assert torch.equal(coords[:, :, 0], keypoints.coords)
    assert torch.equal(scores[:, :, 0][valid], keypoints.scores[valid])
    if covariances is not None and keypoints.covariances is not None:
        assert torch.equal(covariances[:, :, 0].nan_to_num(-1.0), keypoints.covariances.nan_to_num(-1.0))


def test_every_blob_has_its_own_place_and_covariance() -> None:
    """Three blobs that are far from each other: of each what decode says of it alone."""
    blobs = testing.gaussian_blobs(1, 3, 24, 24, (1.5, 2.5), 9.0, seed=4)
    heights = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)[None, :, None, None]
    side_by_side = (blobs.heatmaps * heights).permute(0, 2, 1, 3).reshape(1, 1, 24, 72)
    peaks = find(side_by_side, Options(5, 2**-10, 5), REFERENCE, covariance=True)
    assert peaks.counts.tolist() == [[3]]
    shift = torch.tensor([[0.0, 0.0], [24.0, 0.0], [48.0, 0.0]], dtype=torch.float64)
    # Zeros beyond a border and another blob's tail beyond it differ by e^-9 of a peak or so.
    torch.testing.assert_close(peaks.coords[0, 0, :3], blobs.centers[0] + shift, rtol=0, atol=0.02)
    assert peaks.covariances is not None
    torch.testing.assert_close(peaks.covariances[0, 0, :3], blobs.covariances[0], rtol=0, atol=0.1)
    torch.testing.assert_close(peaks.scores[0, 0, :3], side_by_side.view(24, 3, 24).amax((0, 2)))
