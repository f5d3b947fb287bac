"""The matched decoder: at the Cramér-Rao bound inside a map and at its border, on one person, and DARK where it fails.

Accuracy is measured on the reference, of which the other backends are proved to have the numbers.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import reference

from .cases import assert_agree, gaussians, mirrored_disagreements, off_and_astray, pairs

Service = tuple[str, torch.device]

MATCHED = recipes.MATCHED
# What stands for a fit that fails: all else of the row.
WIDE = dataclasses.replace(MATCHED, stencil="wide")
# The stencil alone, and the search alone.
ON_RAW = dataclasses.replace(MATCHED, argmax_on="raw", name="gaussian on raw")
ON_BLURRED = dataclasses.replace(MATCHED, argmax_on="blurred", name="gaussian on blurred")
SEARCH = dataclasses.replace(recipes.ARGMAX, argmax_on="matched", name="argmax on matched")


def blobs(
    peak: float,
    noise: float,
    border: bool = False,
    count: int = 500,
    sigmas: tuple[float, float] = (2.0, 3.0),
    size: int = 64,
    margin: float = 7.0,
) -> tuple[Tensor, Tensor]:
    """Round Gaussians with noise, maps [1, N, H, W], and their centres [N, 2]: at the border within 2.4 px of one."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    sigma = sigmas[0] + (sigmas[1] - sigmas[0]) * uniform[:, 0]
    centers = margin + uniform[:, 1:3] * (size - 1 - 2 * margin)
    if border:
        near, axis = 2.4 * uniform[:, 3], (uniform[:, 4] < 0.5).long()
        is_first = torch.rand(count, generator=generator) < 0.5
        centers[torch.arange(count), axis] = torch.where(is_first, near, size - 1 - near)
    pixels = torch.arange(size, dtype=torch.float64)
    squares = (pixels - centers[:, 0, None, None]) ** 2 + (pixels[:, None] - centers[:, 1, None, None]) ** 2
    maps = peak * torch.exp(-squares / (2 * sigma[:, None, None] ** 2))
    return (maps + noise * torch.randn(maps.shape, generator=generator, dtype=torch.float64))[None].float(), centers


def is_interpreted(service: Service) -> bool:
    """Whether a map takes seconds."""
    return service[0] == "triton" and service[1].type == "cpu"


def mean_error(maps: Tensor, centers: Tensor, recipe: Recipe) -> float:
    coords = dark_kernels.decode(maps, recipe, backend="reference").coords[0]
    return float((coords - centers).norm(dim=-1).mean())


# --- accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peak", "noise", "border", "limit", "darks", "fits"),
    [
        (1.0, 0.01, False, 0.0104, 0.0101, 0.0098),
        (0.5, 0.05, False, 0.104, 0.105, 0.105),
        (0.25, 0.05, False, 0.208, 0.22, 0.24),
        (0.1, 0.05, False, 0.57, 10.0, 10.0),
        (0.05, 0.02, False, 0.43, 5.0, 5.0),
        (1.0, 0.01, True, 0.0148, 0.35, 0.018),
        (0.25, 0.05, True, 0.30, 0.8, 0.5),
        (0.1, 0.05, True, 0.84, 15.0, 15.0),
    ],
)
def test_is_at_the_bound(peak: float, noise: float, border: bool, limit: float, darks: float, fits: float) -> None:
    """Far from borders the bound is noise / peak, on weak maps as well, where a raw maximum is a pixel of the noise."""
    maps, centers = blobs(peak, noise, border)
    assert mean_error(maps, centers, MATCHED) < limit
    assert mean_error(maps, centers, recipes.DARKPOSE) > darks
    assert mean_error(maps, centers, recipes.FIT) > fits
    if not border:
        assert limit < (1.15 if peak <= 0.1 else 1.05) * noise / peak


@pytest.mark.parametrize(("sigma", "guess"), [(1.0, 1.1), (2.0, 1.05), (3.0, 1.05), (4.0, 1.1), (6.0, 1.5)])
def test_holds_for_targets_of_any_width(sigma: float, guess: float) -> None:
    """And what it costs not to say which: times the bound."""
    maps, centers = blobs(1.0, 0.01, count=200, sigmas=(sigma, sigma), size=96, margin=20.0)
    told = dataclasses.replace(MATCHED, target_sigma=sigma)
    assert mean_error(maps, centers, told) < 1.06 * 0.01
    assert mean_error(maps, centers, MATCHED) < guess * 0.01
    if sigma > 3:
        assert mean_error(maps, centers, recipes.DARKPOSE) > guess * 0.01


@pytest.mark.parametrize(("distance", "limit"), [(4, 0.5), (5, 0.08), (6, 0.03), (7, 0.02)])
def test_a_keypoint_is_not_moved_onto_a_neighbours(distance: int, limit: float) -> None:
    maps, centers = pairs(distance)
    ours, astray = off_and_astray(maps, centers, MATCHED, "reference")
    others = [off_and_astray(maps, centers, recipe, "reference")[0] for recipe in (recipes.DARKPOSE, recipes.FIT)]
    assert astray == 0
    assert ours.mean() < limit
    assert ours.mean() < (0.7 if distance == 4 else 0.5) * min(other.mean() for other in others)


@pytest.mark.parametrize(
    ("threshold", "count", "share"), [(0.7, 21, (1.02, 1.06)), (0.5, 32, (0.7, 0.7)), (0.2, 68, (0.7, 0.8))]
)
def test_on_real_maps(threshold: float, count: int, share: tuple[float, float]) -> None:
    """Distances between keypoints and those of the mirrored image, less the mean shift, over DARK's and FIT's.

    Of clear peaks all three are as far: what differs there is the network's.
    """
    distances = {}
    for recipe in (MATCHED, recipes.DARKPOSE, recipes.FIT):
        off = mirrored_disagreements(recipe, threshold, "reference")
        assert len(off) == count
        distances[recipe.name] = (off - off.mean(0)).norm(dim=-1)
    ours = distances.pop("matched")
    for other in distances.values():
        assert ours.mean() < share[0] * other.mean()
        assert ours.median() < share[1] * other.median()


@pytest.mark.parametrize(("peak", "noise", "limit"), [(1.0, 0.01, 0.07), (0.25, 0.05, 0.31)])
def test_costs_little_on_blobs_that_are_not_round(peak: float, noise: float, limit: float) -> None:
    """Twice as long as wide, in any direction."""
    maps, centers, _ = testing.gaussian_blobs(1, 400, 48, 40, sigma=(3.0, 1.5), peak=peak, seed=4)
    generator = torch.Generator().manual_seed(5)
    maps = maps + noise * torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    assert mean_error(maps, centers[0], MATCHED) < limit


def test_the_covariance_is_that_of_a_round_blob(service: Service) -> None:
    backend, device = service
    centers = [(15.3, 11.6), (0.2, 8.5), (30.1, 22.8)]
    maps = 0.7 * gaussians(centers, (2.2, 2.2), 0.0, (24, 31)).float().to(device)
    coords, scores, covariances = dark_kernels.decode(
        maps, dataclasses.replace(MATCHED, target_sigma=1.5), True, backend
    )
    assert covariances is not None
    expected = (2.2**2 - 1.5**2) * torch.eye(2, device=device).expand(1, 3, 2, 2)
    torch.testing.assert_close(covariances, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coords.cpu(), torch.tensor([centers]), rtol=0, atol=1e-4)
    assert torch.equal(scores, maps.amax((-2, -1)))
    # A blob that is narrower than its targets has none.
    narrow = dataclasses.replace(MATCHED, target_sigma=2.5)
    found = dark_kernels.decode(maps, narrow, True, backend).covariances
    assert found is not None
    assert found.isnan().all()


# --- the search --------------------------------------------------------------------------------------------


def test_a_border_neither_pulls_nor_pushes() -> None:
    """In white noise alone any pixel may respond most, one at the border no more and no less often than others."""
    noise = torch.randn(1, 3000, 20, 20, generator=torch.Generator().manual_seed(1))
    responses = reference.match_blobs(noise.double(), 1.0)[0]
    variances = responses.square().mean(0)
    assert variances.div(variances.mean()).sub(1).abs().max() < 0.12  # the same everywhere
    constant = reference.match_blobs(torch.ones(1, 1, 20, 20), 1.0)[0, 0]
    assert constant[0, 0] < constant[0, 10] < constant[10, 10]  # a corner sees less of what is there
    corner = gaussians([(0.0, 0.0)], (1.0, 1.0), 0.0, (20, 20))
    assert dark_kernels.decode(corner, SEARCH, backend="reference").coords.tolist() == [[[0.0, 0.0]]]


def test_large_numbers_respond_like_small_ones(service: Service) -> None:
    backend, device = service
    maps = gaussians([(9.3, 5.4), (4.0, 7.0)], (6.0, 6.0), 0.0, (15, 13)).float().to(device)
    expected = dark_kernels.decode(maps, MATCHED, backend=backend)
    large = maps * (2.0**126 / maps.abs().max())
    actual = dark_kernels.decode(large, MATCHED, backend=backend)
    torch.testing.assert_close(actual.coords, expected.coords, rtol=0, atol=1e-3)


def test_a_pixel_of_noise_is_not_the_peak(service: Service) -> None:
    """And the score is the raw maximum, where no keypoint need be."""
    backend, device = service
    maps = gaussians([(20.3, 11.4), (8.7, 9.1)], (2.5, 2.5), 0.0, (24, 31)).float()
    maps[..., 3, 5] = 1.5
    coords, scores, _ = dark_kernels.decode(maps.to(device), MATCHED, backend=backend)
    torch.testing.assert_close(coords.cpu(), torch.tensor([[[20.3, 11.4], [8.7, 9.1]]]), rtol=0, atol=0.05)
    assert scores.tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("recipe", [MATCHED, SEARCH, WIDE, dataclasses.replace(recipes.QUARTER, argmax_on="matched")])
def test_bad_pixels(recipe: Recipe, service: Service) -> None:
    backend, device = service
    maps = gaussians([(14.3, 11.4)] * 6, (2.5, 2.5), 0.0, (24, 31)).float()
    maps[0, 0, 3, 5] = math.nan
    maps[0, 1, 3, 5] = maps[0, 1, 4, 4] = math.inf
    maps[0, 2, 3, 5] = -math.inf
    maps[0, 3] -= 2
    maps[0, 4] = 0
    coords, scores, _ = dark_kernels.decode(maps.to(device), recipe, backend=backend)
    assert coords[0, [0, 3, 4]].tolist() == [[-1.0, -1.0]] * 3
    assert coords[0, 1].tolist() == [5.0, 3.0]
    assert scores[0, 1] == math.inf
    assert scores[0, 0].isnan()
    tolerance = {"gaussian": 1e-4, "quarter": 0.5, "wide": 0.2, "none": 0.5}[recipe.stencil]
    for k in (2, 5):
        assert coords[0, k].tolist() == pytest.approx([14.3, 11.4], abs=tolerance)


def test_a_quarter_step_reads_the_raw_map(service: Service) -> None:
    """Beside the pixel that the filter has found."""
    backend, device = service
    recipe = dataclasses.replace(recipes.QUARTER, argmax_on="matched")
    maps = gaussians([(14.0, 11.0)], (2.5, 2.5), 0.0, (24, 31)).float()
    maps[0, 0, 2, 2] = 3.0
    maps[0, 0, 11, 13] += 0.02
    coords = dark_kernels.decode(maps.to(device), recipe, backend=backend).coords
    assert coords.tolist() == [[[13.75, 11.0]]]


def test_ties_go_to_the_first(service: Service) -> None:
    backend, device = service
    maps = gaussians([(8.0, 9.0)], (2.0, 2.0), 0.0, (40, 40)) + gaussians([(30.0, 30.0)], (2.0, 2.0), 0.0, (40, 40))
    coords = dark_kernels.decode(maps.float().to(device), SEARCH, backend=backend).coords
    assert coords.tolist() == [[[8.0, 9.0]]]
    flat = torch.full((1, 1, 9, 9), 0.5, device=device)
    assert dark_kernels.decode(flat, SEARCH, backend=backend).coords.isfinite().all()


# --- what does not matter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-100, -20, 60, 110])
def test_the_scale_of_a_map(exponent: int, service: Service) -> None:
    backend, device = service
    maps = blobs(1.0, 0.05, count=1 if is_interpreted(service) else 6, size=32)[0].to(device)
    plain, scaled = (dark_kernels.decode(each, MATCHED, True, backend) for each in (maps, maps * 2.0**exponent))
    torch.testing.assert_close(plain.coords, scaled.coords, rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.covariances, scaled.covariances, rtol=1e-3, atol=1e-3)


def test_mirrors_and_exchanged_axes(service: Service) -> None:
    backend, device = service
    maps = blobs(0.5, 0.05, count=1 if is_interpreted(service) else 8, size=32, border=True)[0].to(device)

    def decoded(each: Tensor) -> Tensor:
        return dark_kernels.decode(each, MATCHED, backend=backend).coords

    coords = decoded(maps)
    last = torch.tensor([31.0, 0.0], device=device)
    torch.testing.assert_close(decoded(maps.mT), coords.flip(-1), rtol=0, atol=1e-4)
    mirrored = coords * torch.tensor([-1.0, 1.0], device=device) + last
    torch.testing.assert_close(decoded(maps.flip(-1)), mirrored, rtol=0, atol=1e-4)


def test_pixels_beyond_the_reach_do_not_count(service: Service) -> None:
    """Of the fit, that is ceil(2.8 s) on each axis."""
    backend, device = service
    maps = gaussians([(15.3, 11.6)], (2.2, 2.2), 0.0, (24, 31)).float()
    maps[0, 0, 11, 15] = 1.0  # the largest stays the largest
    maps[0, 0, 12, 15] = 0.99
    others = torch.full_like(maps, 0.7)
    others[..., 11 - 7 : 11 + 8, 15 - 7 : 15 + 8] = maps[..., 11 - 7 : 11 + 8, 15 - 7 : 15 + 8]
    testing.assert_same_keypoints(*(
        dark_kernels.decode(each.to(device), dataclasses.replace(ON_RAW, blur="none"), True, backend)
        for each in (maps, others)
    ))  # fmt: skip


# --- where nothing can be fitted ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_maps_of_one_row_are_dark(size: tuple[int, int], service: Service) -> None:
    backend, device = service
    maps = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3)).to(device)
    for recipe in (MATCHED, ON_RAW):
        other = dataclasses.replace(recipe, stencil="wide", blob_sigma=2.5)
        assert_agree(dark_kernels.decode(maps, recipe, True, backend), service, maps, other)


def test_a_blob_of_negative_amplitude_is_dark(service: Service) -> None:
    """A pixel that stands out of a hole: around it a blob could only be turned over."""
    backend, device = service
    y, x = torch.meshgrid(torch.arange(31.0) - 15, torch.arange(31.0) - 15, indexing="ij")
    maps = (-torch.exp(-(x**2 + y**2) / 18)).to(device)[None, None]
    maps[..., 15, 15] = 0.01
    at = torch.tensor([[15]])
    assert not reference.fit_blob(maps.cpu().double(), at, at, 2.5)[2].any()
    for recipe in (ON_RAW, dataclasses.replace(ON_RAW, clip_min=1e-3)):
        wide = dataclasses.replace(recipe, stencil="wide")
        assert_agree(dark_kernels.decode(maps, recipe, True, backend), service, maps, wide)


def test_where_it_fits_nothing_depends_on_the_blur(service: Service) -> None:
    backend, device = service
    maps = blobs(1.0, 0.02, count=1 if is_interpreted(service) else 4, size=32)[0].to(device)
    other = dataclasses.replace(MATCHED, kernel_size=3, padding="reflect", rescale=False, clip_min=0.1, clip_max=0.2)
    assert_agree(dark_kernels.decode(maps, other, True, backend), service, maps, MATCHED)


def test_max_offset_bounds_it(service: Service) -> None:
    backend, device = service
    maps = gaussians([(14.4, 11.4)], (2.5, 2.5), 0.0, (24, 31)).float().to(device)
    recipe = dataclasses.replace(MATCHED, max_offset=0.25)
    assert dark_kernels.decode(maps, recipe, backend=backend).coords.tolist() == [[[14.25, 11.25]]]


# --- with what else there is -------------------------------------------------------------------------------

EVERYTHING = [
    MATCHED,
    ON_RAW,
    ON_BLURRED,
    SEARCH,
    dataclasses.replace(recipes.FIT, argmax_on="blurred", name="fit on blurred"),
    dataclasses.replace(recipes.FIT, argmax_on="matched", name="fit on matched"),
    dataclasses.replace(recipes.VITPOSE_HF, argmax_on="matched", name="compact on matched"),
    dataclasses.replace(MATCHED, blob_sigma=0.8, name="narrow"),
    dataclasses.replace(MATCHED, blob_sigma=3.5, name="wide"),
]


@pytest.mark.parametrize("recipe", EVERYTHING, ids=lambda recipe: recipe.name)
def test_every_backend_is_the_reference(recipe: Recipe, service: Service) -> None:
    backend, device = service
    kinds = ["noisy_blob", "two_blobs", "weak_blob", "signed_noise", "some_nan", "some_infinite", "negative", "blob"]
    shape = (1, 2, 15, 13) if is_interpreted(service) else (2, 8, 25, 22)
    maps = testing.heatmaps_of_kinds(kinds, *shape, seed=4).to(device)
    keypoints = dark_kernels.decode(maps, recipe, recipe.has_hessian, backend)
    arithmetic = testing.arithmetic_of(backend, device.type, maps.dtype)
    compared = testing.assert_decodes_like_reference(keypoints, maps, recipe, arithmetic)
    assert compared.bounded > 0.6 * compared.refined > (0 if is_interpreted(service) else 5)


@pytest.mark.parametrize("recipe", EVERYTHING[:4], ids=lambda recipe: recipe.name)
def test_with_logits_and_masses(recipe: Recipe, service: Service) -> None:
    backend, device = service
    shape = (1, 1, 15, 13) if is_interpreted(service) else (1, 6, 25, 22)
    maps = (6 * testing.heatmaps_of_kinds(["noisy_blob", "two_blobs", "blob"], *shape, seed=5) - 3).to(device)
    for activation in ("sigmoid", "softmax"):
        changed = dataclasses.replace(recipe, activation=activation, score="mass")
        keypoints = dark_kernels.decode(maps, changed, recipe.has_hessian, backend)
        arithmetic = testing.arithmetic_of(backend, device.type, maps.dtype)
        assert testing.assert_decodes_like_reference(keypoints, maps, changed, arithmetic).refined == shape[1]


def test_a_flip_test_matches_the_mean(service: Service) -> None:
    backend, device = service
    maps = blobs(0.5, 0.05, count=3, size=32)[0].to(device)
    flipped = 0.9 * maps[:, [0, 2, 1]].flip(-1) + 0.01
    merged = reference.merge_flipped(maps, flipped, torch.tensor([0, 2, 1], device=device), False)
    actual = dark_kernels.decode(maps, MATCHED, True, backend, flipped=flipped, flip_indices=[0, 2, 1])
    arithmetic = testing.arithmetic_of(backend, device.type, merged.dtype)
    assert testing.assert_decodes_like_reference(actual, merged, MATCHED, arithmetic).bounded == 3


def test_find_peaks_searches_the_raw_map(service: Service) -> None:
    """A filter's response has one peak where two are close. Each has its own fit."""
    backend, device = service
    maps = gaussians([(20.5, 20.0), (26.5, 20.0)], (2.0, 2.0), 0.0, (41, 48)) * torch.tensor([1.0, 0.9])[:, None, None]
    maps = maps.amax(1, keepdim=True).float().to(device)
    found = {
        recipe.name: dark_kernels.find_peaks(maps, 3, 0.3, recipe=recipe, backend=backend, covariance=True)
        for recipe in (MATCHED, ON_RAW)
    }
    peaks = found["matched"]
    assert peaks.counts.tolist() == [[2]]
    assert peaks.coords[0, 0, :2, 0].tolist() == pytest.approx([20.5, 26.5], abs=0.03)
    assert peaks.coords[0, 0, :2, 1].tolist() == pytest.approx([20.0, 20.0], abs=0.03)
    for one, other in zip(peaks, found["gaussian on raw"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
