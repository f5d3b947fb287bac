"""The matched filter's search and the fit of a round Gaussian in Triton: the reference's numbers.

In the interpreter a fit takes a third of a second, and a search of 16 x 16 pixels as long.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.recipes import blur_taps

from ..conftest import is_compiled, require_service

pytest.importorskip("triton", reason="Triton is not installed")

MATCHED = recipes.MATCHED
ON_RAW = dataclasses.replace(MATCHED, argmax_on="raw")
# The pixel alone.
SEARCH = dataclasses.replace(MATCHED, stencil="none")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Inside, on the border, in a corner, beside the map.
CENTERS = [(7.3, 5.6), (0.2, 8.5), (13.9, 0.1), (-0.4, 12.6)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return require_service("triton", request.param)


def blobs(
    centers: list[tuple[float, float]] = CENTERS, sigma: float = 2.3, size: tuple[int, int] = (16, 15), seed: int = 0
) -> Tensor:
    """Blobs in noise of a hundredth: [1, K, H, W]."""
    y, x = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in size), indexing="ij")
    maps = [torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centers]
    noise = torch.randn(1, len(centers), *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.8 * torch.stack(maps)[None] + 0.01 * noise).float()


def decode_both(maps: Tensor, recipe: Recipe, **extras: Any) -> tuple[Keypoints, Keypoints]:
    """What the kernel makes of the maps, and the reference in float64, on the CPU."""
    with testing.assert_unchanged(maps):
        actual = dark_kernels.decode(maps, recipe, recipe.has_hessian, "triton", **extras)
    for name in ("flipped", "image_transform"):
        if name in extras:
            extras[name] = extras[name].double()
    expected = dark_kernels.decode(maps.double(), recipe, recipe.has_hessian, "reference", **extras)
    return (
        Keypoints(*(None if each is None else each.double().cpu() for each in actual)),
        Keypoints(*(None if each is None else each.cpu() for each in expected)),
    )


def assert_equals_the_reference(maps: Tensor, recipe: Recipe, **extras: Any) -> Keypoints:
    """Of maps whose fit is well conditioned, and whose peak no rounding moves."""
    actual, expected = decode_both(maps, recipe, **extras)
    assert (actual.coords - expected.coords).abs().max() < 1e-4
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-5, atol=1e-6)
    if recipe.has_hessian:
        torch.testing.assert_close(actual.covariances, expected.covariances, rtol=1e-3, atol=1e-3, equal_nan=True)
    return actual


# --- the fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_blobs_wherever_they_are(dtype: torch.dtype, device: torch.device) -> None:
    actual = assert_equals_the_reference(blobs().to(device, dtype), ON_RAW)
    assert (actual.coords[0] - torch.tensor(CENTERS)).abs().max() < 0.1


@pytest.mark.parametrize(("sigma", "size"), [(0.3, (9, 8)), (1.0, (9, 8)), (4.0, (27, 24)), (11.0, (70, 67))])
def test_blobs_of_any_expected_width(sigma: float, size: tuple[int, int], device: torch.device) -> None:
    """Patches of 16 to 64 pixels."""
    maps = blobs([(size[1] / 2 + 0.3, size[0] / 2 - 0.2)], max(sigma, 0.6), size).to(device)
    assert_equals_the_reference(maps, dataclasses.replace(ON_RAW, blob_sigma=sigma, target_sigma=sigma / 4))


def test_a_neighbour_does_not_bend_it(device: torch.device) -> None:
    maps = torch.maximum(blobs([(5.2, 8.4)], 2.0), 0.9 * blobs([(10.4, 7.1)], 2.0, seed=1)).to(device)
    actual = assert_equals_the_reference(maps, ON_RAW)
    assert (actual.coords[0, 0] - torch.tensor([5.2, 8.4])).abs().max() < 0.15


@pytest.mark.parametrize("argmax_on", ["raw", "blurred", "matched"])
def test_the_wide_step_stands_for_a_fit_that_fails(argmax_on: Any, device: torch.device) -> None:
    """A spike in a hole: what fits the pixels around best is below zero."""
    maps = torch.full((1, 1, 16, 13), -0.8)
    maps[..., 7, 6] = 1.0
    maps[..., 6:9, 5:8] += torch.tensor([[0.0, 0.1, 0.0], [0.3, 0.0, 0.1], [0.0, 0.1, 0.0]])
    recipe = dataclasses.replace(MATCHED, argmax_on=argmax_on, kernel_size=3)
    x, y = (torch.tensor([[place]]) for place in (6, 7))
    assert not reference.fit_blob(maps.double(), x, y, 2.5)[2].any()
    actual = assert_equals_the_reference(maps.to(device), recipe)
    assert_equals_the_reference(maps.to(device), dataclasses.replace(recipe, stencil="wide"))
    assert actual.coords.isfinite().all()


def test_flat_and_tiny_maps(device: torch.device) -> None:
    for size in ((1, 1), (1, 7), (6, 1), (2, 2), (3, 5)):
        maps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 1, *size, seed=2).to(device)
        actual, expected = decode_both(maps, ON_RAW)
        # A handful of pixels tells little: the fit may be anywhere, but not far, and the pixel is the same.
        assert (actual.coords - expected.coords).abs().max() < 0.05, size
    assert_equals_the_reference(torch.full((1, 1, 12, 11), 0.4, device=device), ON_RAW)


# --- the search ------------------------------------------------------------------------------------------


def assert_finds_the_maximum(maps: Tensor, recipe: Recipe) -> None:
    """The pixel found has the largest response to within rounding, and where no other comes as close is the same."""
    actual, expected = decode_both(maps, recipe)
    responses = reference.match_blobs(maps.double().cpu(), recipe.expected_sigma)
    x, y = actual.coords.long().unbind(-1)
    found = responses.flatten(2).gather(-1, (y * maps.shape[-1] + x)[..., None])[..., 0]
    largest = responses.amax(dim=(-2, -1))
    scale = responses.abs().amax(dim=(-2, -1))
    assert (found >= largest - 3e-6 * scale).all()
    is_tied = ((responses >= (largest - 6e-6 * scale)[..., None, None]).sum(dim=(-2, -1)) > 1)[..., None]
    assert ((actual.coords == expected.coords) | is_tied).all()
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["noise", "signed_noise", "noisy_blob", "blob_on_negative"])
def test_the_filter_finds_what_the_reference_finds(kind: str, device: torch.device) -> None:
    for size in ((1, 1), (1, 9), (8, 1), (2, 3), (7, 13), (16, 16), (18, 33)):
        maps = testing.heatmaps_of_kinds([kind], 1, 1, *size, seed=sum(size)).to(device)
        assert_finds_the_maximum(maps, SEARCH)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 11.0])
def test_a_filter_of_any_width(sigma: float, device: torch.device) -> None:
    maps = testing.heatmaps_of_kinds(["signed_noise"], 1, 1, 11, 14, seed=4).to(device)
    assert_finds_the_maximum(maps, dataclasses.replace(SEARCH, blob_sigma=sigma))


def test_no_response_exceeds_the_largest_pixel() -> None:
    """Relative to that of a filter inside the map: what a tile is passed over by."""
    for sigma in (0.05, 0.4, 0.8, 1.3, 2.0, 2.5, 3.0, 4.4, 7.0, 11.0):
        radius = math.ceil(reference.FILTER_REACH * sigma)
        halves = torch.tensor(blur_taps(2 * radius + 1, sigma), dtype=torch.float64)
        sums, powers = halves.cumsum(0), halves.square().cumsum(0)
        inside = powers[-1] + powers[-1] - powers[0]
        seen = (sums[:, None] + sums - halves[0]) / (powers[:, None] + powers - powers[0]).sqrt()
        assert (seen * inside.sqrt()).max() < 1 + 1e-9


def test_of_equal_responses_the_first_is_found(device: torch.device) -> None:
    """Places that mirror each other, at borders and inside."""
    blob = torch.tensor([[0.3, 0.6, 0.3], [0.6, 0.9, 0.6], [0.3, 0.6, 0.3]])
    maps = torch.zeros(1, 4, 16, 40, device=device)
    for k, places in enumerate([((8, 33), (8, 6)), ((14, 38), (14, 1)), ((1, 20), (14, 20)), ((1, 38), (14, 1))]):
        for y, x in places:
            maps[0, k, y - 1 : y + 2, x - 1 : x + 2] = blob
    coords = dark_kernels.decode(maps, SEARCH, backend="triton").coords
    assert coords.tolist() == [[[6, 8], [0, 15], [20, 0], [39, 0]]]


def test_a_plateau_has_the_first_place_that_sees_no_border(device: torch.device) -> None:
    coords = dark_kernels.decode(torch.full((1, 1, 16, 14), 0.4, device=device), SEARCH, backend="triton").coords
    assert coords.tolist() == [[[6, 6]]]


def awkward(size: tuple[int, int] = (12, 11)) -> dict[str, Tensor]:
    base = testing.heatmaps_of_kinds(["signed_noise"], 1, 1, *size, seed=7)
    maps = {name: base.clone() for name in ("inf", "two inf", "nan", "-inf", "negative", "zeros", "huge", "drowned")}
    maps["inf"][..., 3, 2] = math.inf
    maps["two inf"][..., 3, 2] = maps["two inf"][..., 8, 8] = math.inf
    maps["nan"][..., 3, 2] = math.nan
    maps["-inf"][..., 2:9, 2:5] = -math.inf
    maps["negative"] -= 2
    maps["zeros"] *= 0
    maps["huge"] *= 3e37
    maps["drowned"] = torch.full_like(base, -1.0)  # no response is positive, though a pixel is
    maps["drowned"][..., 9, 3] = 0.1
    return maps


@pytest.mark.parametrize("why", awkward())
def test_awkward_maps(why: str, device: torch.device) -> None:
    maps = awkward()[why].to(device)
    actual, expected = decode_both(maps, SEARCH)
    torch.testing.assert_close(actual.coords, expected.coords, rtol=0, atol=0)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-6, atol=0, equal_nan=True)
    refined, _ = decode_both(maps, MATCHED)
    assert refined.coords.isfinite().all()
    if why in ("inf", "two inf"):
        assert refined.coords.tolist() == [[[2, 3]]]
    if why in ("nan", "negative", "zeros"):
        assert refined.coords.tolist() == [[[-1, -1]]]


# --- both, and with all else -----------------------------------------------------------------------------

COMBINATIONS = {
    "matched": MATCHED,
    "wide": dataclasses.replace(recipes.MMPOSE_DARK, argmax_on="matched"),
    "compact": dataclasses.replace(recipes.MMPOSE_UDP, argmax_on="matched"),
    "quarter": dataclasses.replace(recipes.QUARTER, argmax_on="matched"),
    "fit": dataclasses.replace(recipes.FIT, argmax_on="matched"),
    "fit on blurred": dataclasses.replace(recipes.FIT, argmax_on="blurred"),
    "gaussian on blurred": dataclasses.replace(MATCHED, argmax_on="blurred"),
    "bounded": dataclasses.replace(MATCHED, max_offset=0.2),
    "mass": dataclasses.replace(MATCHED, score="mass"),
    "sigmoid": dataclasses.replace(MATCHED, activation="sigmoid"),
    "softmax": dataclasses.replace(MATCHED, activation="softmax", score="mass"),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_stencil_goes_with_every_search(name: str, device: torch.device) -> None:
    recipe = COMBINATIONS[name]
    maps = blobs(CENTERS[:2]).to(device)
    assert_equals_the_reference(maps if recipe.activation == "none" else 6 * maps - 3, recipe)


def test_a_fit_fails_where_the_pixel_found_is_not_positive(device: torch.device) -> None:
    """A ring, whose smoothed maximum is the hole in its middle."""
    maps = torch.zeros(1, 1, 15, 15)
    maps[..., 4:11, 4:11] = 1.0
    maps[..., 6:9, 6:9] = -0.1
    for argmax_on in ("blurred", "matched"):
        recipe = dataclasses.replace(recipes.FIT, argmax_on=argmax_on)
        pixel = dark_kernels.decode(maps, dataclasses.replace(recipe, stencil="none"), backend="reference").coords
        assert pixel.tolist() == [[[7, 7]]]
        actual = assert_equals_the_reference(maps.to(device), recipe)
        assert (actual.coords - 7).abs().max() < 1e-3


def test_flip_tests_subsets_and_images(device: torch.device) -> None:
    maps = blobs()
    flipped = blobs([(14 - x, y) for x, y in CENTERS], seed=1)[:, [1, 0, 2, 3]]
    matrix = torch.tensor([[[3.0, 0.2, 10.0], [-0.1, 4.0, 20.0]]])
    for layout in ("contiguous", "channels_last"):
        actual = assert_equals_the_reference(
            testing.with_layout(maps, layout).to(device),
            MATCHED,
            flipped=testing.with_layout(flipped, layout).to(device),
            flip_indices=[1, 0, 2, 3],
            keypoint_indices=[2, 0],
            image_transform=matrix.to(device),
        )
        assert actual.coords.shape == (1, 2, 2)


def test_layouts_and_companions_do_not_matter(device: torch.device) -> None:
    maps = blobs(CENTERS[:2]).to(device)
    together = dark_kernels.decode(maps, MATCHED, True, "triton")
    for layout in ("channels_last", "sliced"):
        same = dark_kernels.decode(testing.with_layout(maps, layout), MATCHED, True, "triton")
        torch.testing.assert_close(same.coords, together.coords, rtol=0, atol=1e-4 if is_compiled(device) else 0)
    alone = dark_kernels.decode(maps[:, 1:], MATCHED, True, "triton")
    testing.assert_same_keypoints(alone, Keypoints(*(each[:, 1:] for each in together if each is not None)))


def test_each_peak_has_its_own_fit(device: torch.device) -> None:
    """find_peaks takes the peaks of the raw map: the filter makes one of two that are close."""
    maps = torch.maximum(blobs([(4.3, 5.2)], 1.6), 0.7 * blobs([(10.6, 9.1)], 1.6, seed=1)).to(device)
    options: Any = {"max_peaks": 3, "threshold": 0.3, "recipe": MATCHED, "covariance": True, "window": 5}
    actual = dark_kernels.find_peaks(maps, backend="triton", **options)
    expected = dark_kernels.find_peaks(maps.double(), backend="reference", **options)
    assert actual.counts.tolist() == expected.counts.tolist() == [[2]]
    assert (actual.coords.cpu() - expected.coords.cpu()).abs().max() < 1e-4
    assert actual.covariances is not None
    assert expected.covariances is not None
    torch.testing.assert_close(
        actual.covariances.double().cpu(), expected.covariances.cpu(), rtol=1e-3, atol=1e-3, equal_nan=True
    )
    assert (actual.coords[0, 0, :2].cpu() - torch.tensor([[4.3, 5.2], [10.6, 9.1]])).abs().max() < 0.1


def test_peaks_of_the_blurred_map_are_fitted_to_the_raw_one(device: torch.device) -> None:
    maps = blobs([(7.3, 5.6)]).to(device)
    options: Any = {"max_peaks": 1, "threshold": 0.3}
    for stencil in ("fit", "gaussian"):
        recipe = dataclasses.replace(recipes.FIT, stencil=stencil, argmax_on="blurred", kernel_size=3)
        actual = dark_kernels.find_peaks(maps, backend="triton", recipe=recipe, **options)
        expected = dark_kernels.find_peaks(maps.double(), backend="reference", recipe=recipe, **options)
        assert (actual.coords.cpu() - expected.coords.cpu()).abs().max() < 1e-4


def test_larger_patches_get_more_warps() -> None:
    """find_peaks has no more than 8: its registers, which more of them would have to share, are all in use."""
    from dark_kernels.decode import kernels as decode_kernels
    from dark_kernels.peaks import kernels as peaks_kernels

    for sigma, window, for_decode, for_peaks in ((2.5, 16, 1, 1), (5.0, 32, 4, 4), (11.0, 64, 16, 8)):
        recipe = dataclasses.replace(ON_RAW, blob_sigma=sigma)
        struct = decode_kernels.recipe_constants(recipe.operator_arguments, False)
        assert struct.FIT_WINDOW == window > 2 * struct.FIT_RADIUS
        for module, num_warps in ((decode_kernels, for_decode), (peaks_kernels, for_peaks)):
            assert module.launch_shape(3072, 4, fit_window=window)["num_warps"] == num_warps
