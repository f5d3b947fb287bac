"""The stencil "fit": exact on any Gaussian wherever its centre is, close to the bound in noise, and DARK elsewhere."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.testing.fit_bounds import bound_fit

from .cases import assert_agree, gaussians, mirrored_disagreements, off_and_astray, pairs

FIT = recipes.FIT
# What stands for a fit that fails: all else of the row.
WIDE = dataclasses.replace(FIT, stencil="wide")


def covariance_of(sigmas: tuple[float, float], angle: float) -> Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    return rotation @ torch.diag(torch.tensor(sigmas, dtype=torch.float64) ** 2) @ rotation.mT


# Inside, on the border, in a corner, and beside the map.
CENTERS = [(15.3, 11.6), (0.2, 8.5), (1.4, 22.8), (29.6, 0.1), (-0.7, 10.2), (-0.4, -0.6), (30.1, 23.4)]


@pytest.mark.parametrize("radius", [2, 5, 9])
def test_is_exact_on_any_gaussian_wherever_its_centre_is(radius: int, service: tuple[str, torch.device]) -> None:
    backend, device = service
    sigmas, angle = (2.6, 1.9), 0.7
    heatmaps = 0.8 * gaussians(CENTERS, sigmas, angle, (24, 31))
    recipe = dataclasses.replace(FIT, fit_radius=radius)
    if backend != "triton":
        coords, _, covariances = dark_kernels.decode(heatmaps.to(device), recipe, True, backend)
        assert (coords.cpu() - torch.tensor(CENTERS, dtype=torch.float64)).abs().max() < 1e-9
        assert covariances is not None
        assert (covariances.cpu() - covariance_of(sigmas, angle)).abs().max() < 1e-9
    single = heatmaps.float().to(device)
    keypoints = dark_kernels.decode(single, recipe, True, backend)
    testing.assert_decodes_like_reference(
        keypoints, single, recipe, testing.arithmetic_of(backend, device.type, single.dtype)
    )
    assert (keypoints.coords.cpu() - torch.tensor(CENTERS)).abs().max() < 2e-3


def noisy_blobs(border: bool, count: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps as in the decoders' accuracy test, with sigma 2 to 3, peak 0.5 to 1 and noise 0.01, and their centres.

    At the border centres are within 2.4 px of one of its four sides.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = 64, 48
    uniform = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    sigma, peak = 2 + uniform[:, 0], 0.5 + uniform[:, 1] / 2
    centers = torch.stack([8 + uniform[:, 2] * (width - 17), 8 + uniform[:, 3] * (height - 17)], -1)
    if border:
        axis = torch.randint(0, 2, (count,), generator=generator)
        near = 2.4 * uniform[:, 4]
        far = torch.tensor([width - 1.0, height - 1.0]).double()[axis] - near
        side = torch.where(torch.rand(count, generator=generator) < 0.5, near, far)
        centers[torch.arange(count), axis] = side
    x = torch.arange(width) - centers[:, 0, None, None]
    y = torch.arange(height)[:, None] - centers[:, 1, None, None]
    maps = peak[:, None, None] * torch.exp(-0.5 * (x**2 + y**2) / sigma[:, None, None] ** 2)
    noise = torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    return (maps + 0.01 * noise)[None], centers[None]


@pytest.mark.parametrize(("border", "limit", "darks"), [(False, 0.0145, 0.0142), (True, 0.028, 0.38)])
def test_accuracy_in_noise(border: bool, limit: float, darks: float) -> None:
    """A prototype had 0.0142 inside (DARK 0.0151) and 0.027 at the border (DARK 0.43)."""
    heatmaps, centers = noisy_blobs(border)
    errors = {
        recipe.stencil: (dark_kernels.decode(heatmaps, recipe, backend="eager").coords - centers).norm(dim=-1).mean()
        for recipe in (FIT, WIDE)
    }
    assert errors["fit"] < limit
    assert errors["wide"] > darks
    assert errors["fit"] < 0.98 * errors["wide"]


def test_reweighting_is_worth_it() -> None:
    """One solution weighted with noisy pixels is worse than those that are weighted with what was fitted before."""
    heatmaps, centers = noisy_blobs(border=False)
    _, x, y = reference.find_peak(heatmaps)

    def error() -> float:
        return float(
            (torch.stack([x, y], -1) + reference.fit_gaussian(heatmaps, x, y, 5).offset - centers).norm(dim=-1).mean()
        )

    with pytest.MonkeyPatch.context() as patch:
        solve_once(patch)
        once = error()
    assert error() < 0.995 * once


def solve_once(patch: pytest.MonkeyPatch) -> None:
    """The definition, with one solution alone."""
    patch.setattr(reference, "FIT_ROUND_SOLUTIONS", 0)
    patch.setattr(reference, "FIT_SOLUTIONS", 1)


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 32), (0.7, 21)])
def test_no_worse_than_dark_on_real_maps(threshold: float, count: int) -> None:
    """How far keypoints are from those of the mirrored image, mirrored back, in four pairs of real maps.

    Keypoints count whose peak is above the threshold in both. These networks' mirrored maps lie about a pixel to the
    side, which adds to all distances alike, whoever decodes: it is taken off, first as a pixel, then as the mean.
    """
    ours, darks = (mirrored_disagreements(recipe, threshold, "eager") for recipe in (FIT, recipes.MMPOSE_DARK))
    assert len(ours) == count
    a_pixel = torch.tensor([1.0, 0.0])
    for of_ours, of_darks in ((a_pixel, a_pixel), (ours.mean(0), darks.mean(0))):
        our_distances, dark_distances = (ours - of_ours).norm(dim=-1), (darks - of_darks).norm(dim=-1)
        assert our_distances.mean() <= dark_distances.mean()
        assert our_distances.median() <= dark_distances.median()


# --- where nothing can be fitted --------------------------------------------------------------------------


def squares(size: tuple[int, int] = (17, 15)) -> tuple[Tensor, Tensor]:
    """Distances (y, x) from the middle of a map."""
    y, x = torch.meshgrid(*(torch.arange(float(length)) - length // 2 for length in size), indexing="ij")
    return y, x


def with_peak(maps: Tensor) -> Tensor:
    """The same below 0.95, with 1 at its middle."""
    maps = maps.clamp(max=0.95)
    maps[maps.shape[0] // 2, maps.shape[1] // 2] = 1.0
    return maps


def hopeless() -> dict[str, Tensor]:
    """Maps of which no Gaussian around the peak can be fitted, and why."""
    y, x = squares()
    generator = torch.Generator().manual_seed(3)
    narrow = torch.rand(13, 2, generator=generator)
    return {
        "flat": torch.full((17, 15), 0.4),
        "a single pixel": with_peak(torch.zeros(17, 15)),
        "a single row": torch.exp(-0.1 * x**2) * (y == 0),
        "five pixels": torch.where(x.abs() + y.abs() <= 1, 0.9, 0.0) + 0.1 * (x.abs() + y.abs() == 0),
        "a hole": with_peak(0.2 * torch.exp(0.01 * (x**2 + y**2))),
        "a saddle": with_peak(0.4 * torch.exp(0.01 * (x**2 - y**2))),
        "a ridge": with_peak(0.4 * torch.exp(-0.2 * (x - y) ** 2 + 0.005 * (x + y) ** 2)),
        "a slope": with_peak(0.4 * torch.exp(0.12 * x - 0.004 * (x**2 + y**2))),
        "two columns": narrow,
        "a point": torch.exp(-((x - 0.3) ** 2 + (y + 0.1) ** 2) / (2 * 0.25**2)),
    }


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("why", hopeless())
def test_is_dark_where_nothing_can_be_fitted(why: str, covariance: bool, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmap = hopeless()[why].to(device)[None, None]
    _, x, y = reference.find_peak(heatmap)
    assert not reference.fit_gaussian(heatmap.double(), x, y, 5).is_peak.any()
    actual = dark_kernels.decode(heatmap, FIT, covariance, backend)
    assert actual.coords.isfinite().all()
    assert_agree(actual, service, heatmap, WIDE)


def test_a_map_that_is_fitted_does_not_depend_on_the_blur(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = gaussians(CENTERS[:3], (2.0, 2.0), 0.0, (24, 31)).float().to(device)
    other = dataclasses.replace(
        FIT, kernel_size=3, padding="reflect", rescale=False, clip_min=0.1, clip_max=0.2, fit_radius=5
    )
    assert_agree(dark_kernels.decode(heatmaps, other, True, backend), service, heatmaps, FIT)


def test_only_the_targets_variance_is_subtracted(service: tuple[str, torch.device]) -> None:
    """The covariance is that of the blob: there was no blur. Where a fit fails there was one."""
    backend, device = service
    recipe = dataclasses.replace(FIT, target_sigma=1.5)
    heatmaps = gaussians([(15.3, 11.6)], (2.5, 2.5), 0.0, (24, 31)).float().to(device)
    covariances = dark_kernels.decode(heatmaps, recipe, True, backend).covariances
    assert covariances is not None
    expected = (2.5**2 - 1.5**2) * torch.eye(2, device=device)
    torch.testing.assert_close(covariances[0, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sigma", "noise"), [(1.0, 0.03), (1.0, 0.0), (2.0, 0.03)])
def test_a_centre_beyond_the_border_is_not_far_beyond(sigma: float, noise: float) -> None:
    """Of a narrow blob whose centre is outside there is little to see, and a fit of that could put it anywhere."""
    generator = torch.Generator().manual_seed(0)
    heatmaps = gaussians([(-0.3, 20.3)], (sigma, sigma), 0.0, (41, 41)).expand(1, 400, 41, 41)
    heatmaps = heatmaps + noise * torch.randn(heatmaps.shape, generator=generator, dtype=torch.float64)
    errors = (dark_kernels.decode(heatmaps, FIT).coords - torch.tensor([-0.3, 20.3])).norm(dim=-1)
    darks = (dark_kernels.decode(heatmaps, WIDE).coords - torch.tensor([-0.3, 20.3])).norm(dim=-1)
    assert errors.max() < 1.5
    assert errors.mean() < 0.7 * darks.mean()


# --- beside another person ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "most_astray"), [(4, 8), (5, 0), (6, 0), (7, 0), (8, 0)])
def test_a_keypoint_is_not_moved_onto_a_neighbours(distance: int, most_astray: int) -> None:
    """Weighted with the squares of the pixels, 388, 173, 22 and 0 of 600 went astray from 4 to 7 px."""
    maps, centers = pairs(distance)
    ours, astray = off_and_astray(maps, centers, FIT)
    darks, _ = off_and_astray(maps, centers, recipes.DARKPOSE)
    assert astray <= most_astray
    assert ours.mean() < 0.6 * darks.mean()


def test_nor_onto_a_stronger_one() -> None:
    maps, centers = pairs(6, second=0.5)
    ours, astray = off_and_astray(maps, centers, FIT)
    assert astray == 0
    assert ours.mean() < 0.2


def test_a_neighbour_in_every_backend(service: tuple[str, torch.device]) -> None:
    backend, device = service
    maps = gaussians([(20.5, 20.0), (26.5, 20.0)], (2.0, 2.0), 0.0, (41, 48)) * torch.tensor([1.0, 0.9])[:, None, None]
    maps = maps.amax(1, keepdim=True).float().to(device)
    peaks = dark_kernels.find_peaks(maps, 2, recipe=FIT, backend=backend)
    assert peaks.coords[0, 0, :, 0].tolist() == pytest.approx([20.5, 26.5], abs=0.2)
    assert peaks.coords[0, 0, :, 1].tolist() == pytest.approx([20.0, 20.0], abs=0.11)
    keypoints = dark_kernels.decode(maps, FIT, True, backend)
    compared = testing.assert_decodes_like_reference(
        keypoints, maps, FIT, testing.arithmetic_of(backend, device.type, maps.dtype)
    )
    assert compared.bounded == 1
    assert keypoints.coords[0, 0].tolist() == pytest.approx([20.5, 20.0], abs=0.2)


def test_decode_with_a_second_peak() -> None:
    """Weighted with the squares of the pixels, the worst error was 6.3 px."""
    maps, centers = pairs(6)
    errors = {
        recipe.name: (dark_kernels.decode(maps, recipe).coords[0] - centers[:, 0]).norm(dim=-1)
        for recipe in (FIT, recipes.DARKPOSE)
    }
    assert errors["fit"].mean() < 0.5 * errors["darkpose"].mean()
    assert errors["fit"].max() < 0.5


def test_the_bounds_see_a_fit_that_minds_no_neighbours() -> None:
    """So that comparisons of maps with neighbours can fail."""
    maps, _ = pairs(6, count=20)
    maps = maps.float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "FIT_TOLERATED", 100.0)
        other = reference.decode_reference(maps.double(), FIT)[0]
    bounds = testing.decode_bounds(maps, FIT, testing.TRITON).coords
    exact = reference.decode_reference(maps.double(), FIT)[0]
    assert bounds.max() < 1e-2
    assert ((other - exact).abs() > 10 * bounds).any(-1).all()


# --- which pixels, of what size ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -0.3, -1e30, -math.inf])
def test_pixels_that_are_not_positive_are_left_out(value: float, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmap = gaussians([(15.3, 11.6)], (2.2, 2.2), 0.0, (24, 31)).float()
    heatmap[..., 9, 12:14] = value
    heatmap[..., 14, 18] = value
    coords = dark_kernels.decode(heatmap.to(device), FIT, backend=backend).coords
    assert coords[0, 0].tolist() == pytest.approx([15.3, 11.6], abs=1e-4)


def test_pixels_beyond_the_radius_do_not_count(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmap = gaussians([(15.3, 11.6)], (2.2, 2.2), 0.0, (24, 31)).float()
    others = torch.full_like(heatmap, 0.9)
    others[..., 12 - 3 : 12 + 4, 15 - 3 : 15 + 4] = heatmap[..., 12 - 3 : 12 + 4, 15 - 3 : 15 + 4]
    recipe = dataclasses.replace(FIT, fit_radius=3)
    testing.assert_same_keypoints(
        *(dark_kernels.decode(maps.to(device), recipe, True, backend)._replace(scores=torch.zeros(1, 1))
          for maps in (heatmap, others))
    )  # fmt: skip
    assert heatmap.max() > 0.9


@pytest.mark.parametrize("exponent", [-100, -20, 60, 120])
def test_the_scale_of_a_map_does_not_matter(exponent: int, service: tuple[str, torch.device]) -> None:
    """As long as its clips do not: 2^120 squared is beyond float32."""
    backend, device = service
    heatmaps = gaussians(CENTERS, (2.6, 1.9), 0.7, (24, 31)).float().to(device)
    plain = dark_kernels.decode(heatmaps, FIT, True, backend)
    scaled = dark_kernels.decode(heatmaps * 2.0**exponent, FIT, True, backend)
    assert (plain.coords - scaled.coords).abs().max() < 2e-3
    assert plain.covariances is not None
    assert scaled.covariances is not None
    assert (plain.covariances - scaled.covariances).abs().max() < 1e-2


def test_a_flip_test_fits_the_mean(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps, _ = noisy_blobs(border=True, count=3, seed=2)
    flipped, _ = noisy_blobs(border=True, count=3, seed=2)
    flipped = 0.9 * flipped[:, [0, 2, 1]].flip(-1)
    heatmaps, flipped = heatmaps.float().to(device), flipped.float().to(device)
    merged = reference.merge_flipped(heatmaps, flipped, torch.tensor([0, 2, 1], device=device), False)
    actual = dark_kernels.decode(heatmaps, FIT, True, backend, flipped=flipped, flip_indices=[0, 2, 1])
    compared = testing.assert_decodes_like_reference(
        actual, merged, FIT, testing.arithmetic_of(backend, device.type, merged.dtype)
    )
    assert compared.bounded == 3


# --- the bounds --------------------------------------------------------------------------------------------


def test_the_bounds_see_a_fit_that_is_not_reweighted() -> None:
    """So that comparisons can fail: it is off by tens of times what rounding may do."""
    heatmaps, _ = noisy_blobs(border=False, count=20)
    heatmaps = heatmaps.float()
    with pytest.MonkeyPatch.context() as patch:
        solve_once(patch)
        other = Keypoints(*reference.decode_reference(heatmaps.double(), FIT))
    bounds = testing.decode_bounds(heatmaps, FIT, testing.TRITON).coords
    exact = reference.decode_reference(heatmaps.double(), FIT)[0]
    assert bounds.max() < 1e-3
    assert ((other.coords - exact).abs() > 10 * bounds).any(-1).float().mean() > 0.8


def test_the_bounds_are_open_where_rounding_decides() -> None:
    """A ridge whose curvature along itself is a rounding error may be a maximum or none."""
    y, x = squares((31, 31))
    for along, is_open in ((0.0, True), (-0.01, False), (0.01, False)):
        heatmap = (0.5 * torch.exp(along * y.double() ** 2 - 0.1 * x.double() ** 2))[None, None]
        at = torch.tensor([[15]])
        bounds = testing.decode_bounds(heatmap, FIT, testing.TRITON, peaks_at=(at, at))
        assert bool((bounds.coords == math.inf).all()) == is_open


def test_the_bounds_hold_for_maps_that_are_off_and_do_not_grow_from_solution_to_solution() -> None:
    """Signs of errors are followed: of noise, too, a fit makes little more than what its pixels are off by."""
    kinds = ["noise", "noisy_blob", "two_blobs", "weak_blob", "blob", "signed_noise"]
    heatmaps = testing.heatmaps_of_kinds(kinds, 20, 6, 24, 20, seed=5, dtype=torch.float64)
    x, y = reference.find_peak(heatmaps)[1:]
    off = 1e-6
    errors = torch.full_like(heatmaps, 2 * off)
    bounds = bound_fit(heatmaps, x, y, FIT, testing.EAGER, 1e-16, errors)
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        signs = torch.randint(0, 2, heatmaps.shape, generator=generator) * 2 - 1
        fit = reference.fit_gaussian(heatmaps * (1 + off * signs), x, y, FIT.fit_radius)
        moved = (fit.offset - bounds.step).abs()
        assert (moved <= bounds.step_bounds)[fit.is_peak & bounds.succeeds].all()
        assert not (fit.is_peak & bounds.fails).any()
        assert not (~fit.is_peak & bounds.succeeds).any()
    assert (bounds.succeeds | bounds.fails).double().mean() > 0.95
    assert bounds.step_bounds[bounds.succeeds].quantile(0.9) < 1e3 * off
