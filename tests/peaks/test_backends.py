"""Eager and Triton, compiled or interpreted, against the reference: pixels exactly, what follows within derived bounds.

In the interpreter a search takes tens of milliseconds, and every refined peak as long again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dark_kernels
from dark_kernels import Peaks, Recipe, recipes, testing
from dark_kernels.backends import choose
from dark_kernels.decode.reference import blur
from dark_kernels.peaks.options import Rule

from ..conftest import SERVICES, is_compiled, require_service
from ..strategies import SIZES, Case, cases
from .cases import PIXELS, Options, assert_like_reference, expected_peaks, find, listed, on_blurred

Service = tuple[str, torch.device]
FUSED = SERVICES[1:]
EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", FUSED, indirect=True)
PLATEAUS = ("first", "all", "none")
PADDINGS = ("zeros", "reflect", "symmetric")
# The pixels of the smoothed map. The weights of this blur are 1/4 and 1/2: of small multiples of 1/16 no sum rounds.
SMOOTHED = Recipe(kernel_size=3, rescale=False, stencil="none", argmax_on="blurred")


def is_interpreted(service: Service) -> bool:
    return service[0] == "triton" and service[1].type == "cpu"


def arithmetic_for(service: Service, dtype: torch.dtype) -> testing.Arithmetic:
    backend, device = service
    return testing.arithmetic_of(choose(backend, device.type, dtype).backend, device.type, dtype)


def same(one: Peaks, other: Peaks) -> bool:
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)))
        for a, b in zip(one, other, strict=True)
    )


# --- which pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "plateau"), [*itertools.product((1, 3, 5), PLATEAUS), (7, "first"), (7, "all"), (13, "first")]
)
@EVERY_FUSED
def test_peaks_are_those_of_a_count_of_pixels(window: int, plateau: str, service: Service) -> None:
    """Windows up to one that is larger than the maps; more slots than peaks, and fewer."""
    maps = testing.heatmaps_of_kinds(
        ["ties", "plateau", "one_pixel", "noise"], 1, 4, 9, 7, seed=11, dtype=torch.float16
    )
    for max_peaks in (3, 100) if window < 7 else (3,):
        options = Options(max_peaks, 0.25, window, PIXELS, plateau)
        assert listed(find(maps, options, service)) == [expected_peaks(each, options) for each in maps[0]]


@pytest.mark.parametrize(("window", "plateau"), [*itertools.product((3, 5), PLATEAUS), (1, "first"), (13, "first")])
@pytest.mark.parametrize("padding", PADDINGS)
@EVERY
def test_peaks_of_the_smoothed_map_are_those_of_a_count_of_pixels(
    padding: str, window: int, plateau: str, service: Service
) -> None:
    """Of two levels and with rows that repeat, so that there are ties and plateaus, and with more than the kernel
    smooths at once, so that it does not come to them in the order of their pixels."""
    if is_interpreted(service) and (window > 3 or (padding != "zeros" and (window, plateau) != (3, "all"))):
        pytest.skip("one padding will do: every neighbour takes the interpreter a smoothed tile")
    recipe = dataclasses.replace(SMOOTHED, padding=padding)
    height, width = (5, 19) if is_interpreted(service) else (9, 35)
    maps = torch.randint(0, 2, (1, 1, height, width), generator=torch.Generator().manual_seed(21)) / 16
    maps[:, :, height // 3 :] = maps[:, :, height // 3, None]
    smoothed = blur(maps, recipe)[0, 0]
    for max_peaks in (3, 100) if window == 3 else (100,):
        options = Options(max_peaks, 0.015625, window, recipe, plateau)
        assert listed(find(maps, options, service)) == [expected_peaks(smoothed, options)]
        every, single = (expected_peaks(smoothed, options._replace(plateau=rule)) for rule in ("all", "none"))
        assert every != single or window == 1
        assert len({value for _, _, value in every}) < len(every) or window == 13


@EVERY
def test_equal_blobs_are_equal_once_they_are_smoothed(service: Service) -> None:
    """Single pixels, of which the smoothed map shows the kernel. The first in the map is neither in the first tile nor
    alone in its row, and the weights round."""
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=5, blur="gaussian")
    maps = torch.zeros(1, 1, 17, 40)
    places = [(9, 35), (10, 20), (12, 4), (12, 28)]
    for y, x in places:
        maps[0, 0, y, x] = 0.7
    found = find(maps, Options(2, 0.5, 3, recipe), service)
    assert found.counts.tolist() == [[2]]
    assert (found.coords[0, 0] - 0.5).tolist() == [[float(x), float(y)] for y, x in places[:2]]
    assert len(set(found.scores[0, 0].tolist())) == 1


@pytest.mark.parametrize("plateau", PLATEAUS)
@EVERY
def test_a_flat_map_stays_flat_once_it_is_smoothed(plateau: str, service: Service) -> None:
    """Also of a number that does not divide by two, and weights that round."""
    height, width = (3, 5) if is_interpreted(service) else (23, 37)
    maps = torch.full((1, 1, height, width), 0.3)
    for padding in ("reflect", "symmetric"):
        recipe = dataclasses.replace(recipes.MEGVII, blur="gaussian", kernel_size=5, padding=padding, stencil="none")
        found = find(maps, Options(7, 0.0, 3, recipe, plateau), service)
        assert found.counts.tolist() == [[{"first": 1, "all": 7, "none": 0}[plateau]]]
        if plateau != "none":
            assert found.coords[0, 0, 0].tolist() == [0.0, 0.0]


def full_of_peaks(order: str, height: int = 29, width: int = 37) -> Tensor:
    """Every other pixel of every other row is a peak, so 285 of 1073; the values come in this order."""
    maps = torch.zeros(1, 1, height, width)
    peaks = maps[0, 0, ::2, ::2]
    generator = torch.Generator().manual_seed(12)
    rising = torch.arange(1, peaks.numel() + 1) / 1024
    values = {
        "rising": rising,
        "falling": rising.flip(0),
        "any": rising[torch.randperm(peaks.numel(), generator=generator)],
        "equal": torch.full_like(rising, 0.5),
        "few levels": torch.randint(1, 5, rising.shape, generator=generator) / 4,
    }[order]
    peaks.copy_(values.view(peaks.shape))
    return maps


@pytest.mark.parametrize("order", ["rising", "falling", "any", "equal", "few levels"])
@EVERY
def test_maps_full_of_peaks(order: str, service: Service) -> None:
    """More peaks than slots, over several blocks of the kernel's scan; of equal ones the first are kept."""
    maps = full_of_peaks(order)
    for max_peaks in (7, 128):
        options = Options(max_peaks, 0.0, 3, PIXELS)
        found = find(maps, options, service)
        assert found.counts.tolist() == [[max_peaks]]
        assert listed(found) == [expected_peaks(maps[0, 0], options)]


@EVERY
def test_peaks_at_the_border(service: Service) -> None:
    """Beyond it there is nothing, also where a row of memory goes on into the next."""
    places = [(0, 0), (0, 4), (0, 8), (3, 8), (4, 0), (6, 4), (6, 8), (6, 0)]
    maps = torch.zeros(1, 1, 7, 9)
    for number, (y, x) in enumerate(places):
        maps[0, 0, y, x] = 1 - number / 16
    for plateau in PLATEAUS:
        found = find(maps, Options(10, 0.0, 3, PIXELS, plateau), service)
        # (4, 0) is what follows (3, 8) in memory.
        assert [(y, x) for y, x, _ in listed(found)[0]] == places


@EVERY
def test_the_threshold_is_exceeded_and_not_met(service: Service) -> None:
    maps = torch.zeros(1, 1, 3, 7)
    maps[0, 0, 1, [1, 3, 5]] = torch.tensor([0.25, 0.5, 0.125])
    counts = {
        threshold: int(find(maps, Options(4, threshold, 3, PIXELS), service).counts)
        for threshold in (0.0, 0.125, 0.25, math.nextafter(0.5, 0), 0.5, 1e300)
    }
    assert counts == {0.0: 3, 0.125: 2, 0.25: 1, math.nextafter(0.5, 0): 0, 0.5: 0, 1e300: 0}


@EVERY
def test_a_threshold_below_zero_admits_peaks_that_stay_on_their_pixels(service: Service) -> None:
    maps = torch.full((1, 1, 9, 9), -2.0)
    maps[0, 0, 4, 3:6] = torch.tensor([-1.0, -0.5, -0.75])
    found = find(maps, Options(3, -1.5, 3, dataclasses.replace(recipes.MMPOSE_UDP, invalid=math.nan)), service, True)
    assert found.counts.tolist() == [[1]]
    assert found.coords[0, 0, 0].tolist() == [4.0, 4.0]
    assert found.scores[0, 0].tolist() == [-0.5, 0.0, 0.0]
    assert found.covariances is not None
    assert bool(found.covariances.isnan().all())
    assert bool(found.coords[0, 0, 1:].isnan().all())
    zeros = torch.zeros(1, 1, 3, 4)
    assert find(zeros, Options(2, -1.0, 3, PIXELS), service).coords[0, 0, 0].tolist() == [0.0, 0.0]
    negative_zero = torch.tensor([[[[-0.0, -1.0, 0.0, -1.0, -0.0]]]])
    assert find(negative_zero, Options(5, -0.5, 3, PIXELS), service).coords[0, 0, :3, 0].tolist() == [0.0, 2.0, 4.0]


@EVERY
def test_the_threshold_of_smoothed_maps_is_exceeded_by_what_is_rescaled(service: Service) -> None:
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=3)
    maps = torch.zeros(1, 1, 4, 24)
    maps[0, 0, 1, [2, 6]] = torch.tensor([1.0, 0.5])  # smoothed to a quarter, and scaled back
    maps[0, 0, :3, 19:22] = 0.1875  # smoothed to itself, and scaled to more than a pixel in sight of it
    counts = {limit: int(find(maps, Options(4, limit, 3, recipe), service).counts) for limit in (0.25, 0.5, 0.75)}
    assert counts == {0.25: 3, 0.5: 2, 0.75: 1}
    scores = find(maps, Options(4, 0.25, 3, recipe), service).scores[0, 0, :3]
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.75, 0.5]) / 255 + 0.5, rtol=2e-7, atol=0)
    assert int(find(maps, Options(4, 0.25, 3, dataclasses.replace(recipe, rescale=False)), service).counts) == 0
    negative = torch.full((1, 1, 4, 6), -2.0)
    negative[0, 0, 2, 3] = -1.0
    admitted = find(negative, Options(1, -1e30, 3, dataclasses.replace(recipe, padding="reflect")), service)
    assert admitted.coords[0, 0].tolist() == [[3.0, 2.0]]
    torch.testing.assert_close(admitted.scores, torch.tensor([[[-1.75 / 255 + 0.5]]]), rtol=2e-7, atol=0)


@EVERY
def test_smoothed_maps_with_nan_have_no_peaks_and_infinite_ones_no_refinement(service: Service) -> None:
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=3)
    maps = torch.zeros(1, 3, 6, 7)
    maps[..., 2, 3] = 1.0
    maps[0, 0, 5, 6] = math.nan
    maps[0, 1, 4, 3] = math.inf
    maps[0, 2, 5, 6] = -math.inf
    found = find(maps, Options(2, 0.25, 3, recipe), service)
    assert found.counts.tolist() == [[0, 1, 1]]
    assert bool((found.coords[0, 0] == -1).all())
    assert found.coords[0, 1, 0].tolist() == [3.0, 4.0]
    assert found.scores[0, :, 0].tolist() == [0.0, math.inf, found.scores[0, 2, 0]]
    assert found.coords[0, 2, 0].tolist() == [3.5, 2.5]


@EVERY
def test_maps_with_nan_have_no_peaks_and_infinite_ones_no_refinement(service: Service) -> None:
    blob = testing.gaussian_blobs(1, 1, 17, 13, 1.5, 6.0, seed=1, dtype=torch.float32).heatmaps
    maps = blob.repeat(1, 4, 1, 1)
    maps[0, 0, 16, 12] = math.nan
    maps[0, 1, 0, 0] = math.nan
    maps[0, 2, 1, 1] = math.inf
    maps[0, 3, 0, 0] = -math.inf  # beyond what the blur sees
    found = find(maps, Options(2, 0.25), service, covariance=True)
    assert found.counts.tolist() == [[0, 0, 2, 1]]
    assert bool((found.coords[:, :2] == 0).all())
    assert bool((found.scores[:, :2] == 0).all())
    y, x = divmod(int(blob.argmax()), 13)
    assert found.coords[0, 2].tolist() == [[1.0, 1.0], [x, y]]
    assert found.scores[0, 2, 0] == math.inf
    assert found.covariances is not None
    assert bool(found.covariances[0, :3].isnan().all())
    alone = find(blob, Options(2, 0.25), service, covariance=True)
    torch.testing.assert_close(found.coords[0, 3], alone.coords[0, 0], rtol=0, atol=1e-5)
    assert bool(found.covariances[0, 3, 0].isfinite().all())


# --- where between pixels --------------------------------------------------------------------------------

KINDS = ["two_blobs", "noisy_blob", "ties", "noise"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
@EVERY_FUSED
def test_equals_the_reference_with_each_recipe(recipe: Recipe, dtype: torch.dtype, service: Service) -> None:
    if is_interpreted(service) and dtype == torch.bfloat16 and recipe != recipes.DARKPOSE:
        pytest.skip("one recipe will do: a map takes the interpreter a second")
    if is_interpreted(service) and dtype != torch.float32 and on_blurred(recipe):
        pytest.skip("one dtype will do: a smoothed map takes the interpreter seconds")
    size = (17, 15) if is_interpreted(service) else (40, 33)
    num_maps = 2 if is_interpreted(service) else 8
    heatmaps = testing.heatmaps_of_kinds(KINDS, 1, num_maps, *size, seed=13).to(dtype)
    options = Options(3 if is_interpreted(service) else 12, 2**-4, 3, recipe)
    actual = find(heatmaps, options, service, recipe.has_hessian)
    compared = assert_like_reference(actual, heatmaps, options, arithmetic_for(service, dtype))
    assert compared.bounded > 0.5 * compared.peaks > 0


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@EVERY_FUSED
def test_layout_does_not_matter(layout: str, service: Service) -> None:
    maps = testing.heatmaps_of_kinds(["two_blobs", "ties"], 2, 2, 13, 11, seed=14)
    heatmaps = testing.with_layout(maps.to(service[1]), layout)
    for recipe in (PIXELS,) if is_interpreted(service) else (recipes.DARKPOSE, recipes.QUARTER):
        options = Options(3, 2**-4, 3, recipe)
        with testing.assert_unchanged(heatmaps):
            found = find(heatmaps, options, service)
        assert_like_reference(found, heatmaps, options, arithmetic_for(service, heatmaps.dtype))
        assert int(found.counts.sum()) >= 4


@pytest.mark.parametrize(
    ("recipe", "height"),
    [(recipes.MMPOSE_UDP, 1.97e-3), (recipes.MMPOSE_UDP, 100.0), (recipes.DARKPOSE, 4e-10)],
    ids=["udp-lower", "udp-upper", "darkpose-lower"],
)
@EVERY_FUSED
def test_the_scale_is_that_of_the_whole_map_for_every_peak(recipe: Recipe, height: float, service: Service) -> None:
    """A clip binds at two narrow blobs, whose surroundings do not show the maximum of the smoothed map."""
    if is_interpreted(service) and height != 1.97e-3:
        pytest.skip("one recipe will do: smoothing a whole map takes the interpreter seconds")
    x, y = torch.arange(48.0), torch.arange(16.0)
    maps = torch.zeros(1, 1, 16, 48)
    for center_x, center_y, sigma, peak in ((8.3, 7.4, 1.2, 1.0), (24.2, 7.8, 2.2, 0.97), (39.6, 8.3, 1.25, 0.98)):
        blob = torch.exp(-0.5 * ((x - center_x) ** 2 + (y[:, None] - center_y) ** 2) / sigma**2)
        maps = torch.maximum(maps, peak * height / blob.max() * blob)
    options = Options(3, 0.5 * height, 5, recipe)
    actual = find(maps, options, service)
    unscaled = find(maps, options._replace(recipe=dataclasses.replace(recipe, rescale=False)), service)
    assert assert_like_reference(actual, maps, options, arithmetic_for(service, maps.dtype)).bounded == 3
    # So the test can fail, and not at the first peak alone.
    assert int(((actual.coords - unscaled.coords).abs().amax(-1) > 1e-3).sum()) >= 2


@pytest.mark.parametrize("stencil", ["wide", "compact", "quarter", "quarter_legacy", "none"])
@pytest.mark.parametrize("padding", PADDINGS)
@EVERY_FUSED
def test_equals_the_reference_on_smoothed_maps(padding: str, stencil: str, service: Service) -> None:
    if is_interpreted(service) and (padding, stencil) not in {("reflect", "wide"), ("symmetric", "compact")}:
        pytest.skip("one stencil of each padding will do: smoothing a whole map takes the interpreter seconds")
    size, num_maps, kernel_size = ((7, 9), 2, 5) if is_interpreted(service) else ((40, 33), 8, 11)
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=kernel_size, padding=padding, stencil=stencil)
    heatmaps = testing.heatmaps_of_kinds(["two_blobs", "noise", "noisy_blob", "weak_blob"], 1, num_maps, *size, seed=22)
    options = Options(3 if is_interpreted(service) else 12, 2**-4, 3, recipe)
    actual = find(heatmaps, options, service, recipe.has_hessian)
    compared = assert_like_reference(actual, heatmaps, options, arithmetic_for(service, heatmaps.dtype))
    assert compared.bounded > 0.5 * compared.peaks > 0


FIRST_PEAKS = [
    recipes.DARKPOSE,
    recipes.MMPOSE_UDP,
    recipes.QUARTER,
    dataclasses.replace(recipes.MMPOSE_UDP, name="mmpose_udp on blurred", kernel_size=3, argmax_on="blurred"),
]


@pytest.mark.parametrize("recipe", FIRST_PEAKS, ids=lambda recipe: recipe.name)
@EVERY_FUSED
def test_the_first_peak_is_the_keypoint_of_decode(recipe: Recipe, service: Service) -> None:
    backend, device = service
    kinds = ["noisy_blob", "two_blobs", "noise", "negative", "some_nan"]
    maps = testing.heatmaps_of_kinds(kinds, 1, 5, 15, 13, seed=15)
    keypoints = dark_kernels.decode(maps.to(device), recipe, backend=backend)
    found = find(maps, Options(2, recipe=recipe), service)
    assert found.counts.tolist()[0][3:] == [0, 0]
    # Both compute alike, but batches of another size and another kernel may fuse in another order.
    torch.testing.assert_close(found.coords[:, :, 0], keypoints.coords.cpu(), rtol=1e-4, atol=1e-4)
    if not recipe.has_hessian:
        assert torch.equal(found.coords[:, :, 0], keypoints.coords.cpu())
    rtol = 1e-6 if is_compiled(device) and recipe.argmax_on == "blurred" else 0
    torch.testing.assert_close(found.scores[:, :3, 0], keypoints.scores[:, :3].cpu(), rtol=rtol, atol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@EVERY
def test_without_a_threshold_the_first_peak_of_a_smoothed_map_is_the_keypoint_of_decode(
    padding: str, service: Service
) -> None:
    """Whatever the map: of one without a positive peak as well, which stays on its pixel here."""
    backend, device = service
    kinds = [kind for kind in sorted(testing.VALUE_KINDS) if "inf" not in kind]
    size, kernel_size = (33, 23), 11
    if is_interpreted(service):
        kinds, size, kernel_size = ["noise", "negative", "ties"], (4, 11), 5
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=kernel_size, padding=padding)
    maps = testing.heatmaps_of_kinds(kinds, 1, len(kinds), *size, seed=23)
    keypoints = dark_kernels.decode(maps.to(device), recipe, backend=backend)
    coords, scores = keypoints.coords.cpu(), keypoints.scores.cpu()
    found = find(maps, Options(1, -1e30, 3, recipe), service)
    assert torch.equal(found.counts == 1, ~scores.isnan())
    # On a device these are two kernels, each of which fuses as it likes.
    rtol, atol = (1e-6, 1e-4) if is_compiled(device) else (0, 0)
    torch.testing.assert_close(found.scores[..., 0], scores.nan_to_num(0.0), rtol=rtol, atol=0)
    is_valid = scores > recipe.score_offset
    torch.testing.assert_close(found.coords[:, :, 0][is_valid], coords[is_valid], rtol=0, atol=atol)
    assert 2 <= int(is_valid.sum()) < len(kinds)


@EVERY_FUSED
def test_a_map_alone_and_a_second_run_agree_bit_for_bit(service: Service) -> None:
    maps = testing.heatmaps_of_kinds(["two_blobs", "noise"], 1, 2, 13, 11, seed=16)
    options = Options(3, recipe=recipes.MMPOSE_UDP)
    together = find(maps, options, service, covariance=True)
    assert same(find(maps, options, service, covariance=True), together)
    if service[0] == "triton":
        alone = find(maps[:, 1:], options, service, covariance=True)
        assert same(alone, Peaks(*(None if each is None else each[:, 1:] for each in together)))


@EVERY_FUSED
def test_max_offset_bounds_the_steps_of_all_peaks(service: Service) -> None:
    maps = testing.heatmaps_of_kinds(["noise"], 1, 1, 14, 13, seed=17)
    free, held, pixels = (
        find(maps, Options(4, recipe=recipe), service).coords
        for recipe in (recipes.DARKPOSE, dataclasses.replace(recipes.DARKPOSE, max_offset=0.5), PIXELS)
    )
    assert bool(((free - pixels).abs() > 0.5).any())
    torch.testing.assert_close(held, pixels + (free - pixels).clamp(-0.5, 0.5), rtol=0, atol=2e-6)


# --- any map ---------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn, maps: st.SearchStrategy[Case], most_peaks: int) -> tuple[Case, Options]:
    case = draw(maps)
    options = Options(
        draw(st.integers(1, most_peaks)),
        draw(st.sampled_from((0.0, 0.0, 0.25, 2**-10, -0.5))),
        draw(st.sampled_from((1, 3, 3, 5, 7))),
        case.recipe,
        draw(st.sampled_from(PLATEAUS)),
    )
    return case, options


def check_any_map(service: Service, call: tuple[Case, Options], tally: Counter[str]) -> None:
    case, options = call
    heatmaps = case.heatmaps(service[1])
    with testing.assert_unchanged(heatmaps):
        actual = find(heatmaps, options, service, case.covariance)
    arithmetic = arithmetic_for(service, heatmaps.dtype)
    tally.update(assert_like_reference(actual, heatmaps, options, arithmetic)._asdict())


def test_eager_equals_the_reference_for_any_map(device: torch.device) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=150)
    @given(calls(cases(), 20))
    def check(call: tuple[Case, Options]) -> None:
        check_any_map(("eager", device), call, tally)

    check()
    assert tally["bounded"] > 0.5 * tally["peaks"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_triton_equals_the_reference_for_any_map(kind: str) -> None:
    service = "triton", require_service("triton", kind)
    tally: Counter[str] = Counter()
    sizes, num_peaks = ((1, 2, 3, 5, 8, 11), 3) if kind == "cpu" else (SIZES, 20)
    dtypes = (torch.float32, torch.float32, torch.float16, torch.bfloat16)

    def takes_seconds(case: Case) -> bool:
        return kind == "cpu" and on_blurred(case.recipe) and math.prod(case.shape) * case.recipe.kernel_size > 800

    @settings(max_examples=75)
    @given(calls(cases(sizes=sizes, max_maps=2, dtypes=dtypes).filter(lambda case: not takes_seconds(case)), num_peaks))
    def check(call: tuple[Case, Options]) -> None:
        check_any_map(service, call, tally)

    check()
    assert tally["bounded"] > 0.5 * tally["peaks"] > 20


# --- the kernel ------------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the kernel runs: interpreted on the CPU, or compiled."""
    return require_service("triton", request.param)


@pytest.mark.parametrize("max_peaks", [1, 5, 8])
def test_outputs_are_written_whole_and_nothing_beside_them(max_peaks: int, triton_device: torch.device) -> None:
    """Poisoned with NaN, and with guards before and behind."""
    from dark_kernels.peaks import kernels

    maps = testing.heatmaps_of_kinds(["two_blobs", "zeros", "some_nan"], 1, 3, 11, 9, seed=18).to(triton_device)
    guarded, outputs = [], []
    for shape, dtype in (
        ((1, 3, max_peaks, 2), torch.float32),
        ((1, 3, max_peaks), torch.float32),
        ((1, 3), torch.int64),
        ((1, 3, max_peaks, 2, 2), torch.float32),
    ):
        size = math.prod(shape)
        memory = torch.full((size + 16,), 12345, dtype=dtype, device=triton_device)
        memory[8 : 8 + size] = math.nan if dtype.is_floating_point else -1
        guarded.append(memory)
        outputs.append(memory[8 : 8 + size].view(shape))
    kernels.find_peaks_fwd(
        *outputs, maps, Rule(max_peaks, 0.0, 3, "first"), recipes.MMPOSE_UDP.operator_arguments, True
    )
    for memory in guarded:
        assert bool((memory[:8] == 12345).all() & (memory[-8:] == 12345).all())
    found = Peaks(*(each.cpu() for each in outputs))
    options = Options(max_peaks, recipe=recipes.MMPOSE_UDP)
    assert_like_reference(found, maps, options, testing.TRITON)
    assert not bool(found.coords.isnan().any() | found.scores.isnan().any())


def test_64_bit_offsets_inside_a_map_give_the_same_numbers(
    triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dark_kernels.peaks import kernels

    maps = testing.heatmaps_of_kinds(["two_blobs", "ties"], 1, 2, 13, 11, seed=19).to(triton_device)
    index_flags = kernels.index_flags

    def widened(*arguments: Any) -> dict[str, bool]:
        return {**index_flags(*arguments), "WIDE_INDEX": True}

    for heatmaps, recipe in ((maps, recipes.DARKPOSE), (maps.mT, PIXELS), (maps, SMOOTHED)):
        options = Options(3, recipe=recipe)
        narrow = find(heatmaps, options, ("triton", triton_device))
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "index_flags", widened)
            patch.setattr(kernels, "launch_key", lambda *_: None)
            assert same(find(heatmaps, options, ("triton", triton_device)), narrow)


@pytest.mark.slow
def test_64_bit_offsets_compile_for_strides_of_one() -> None:
    """Triton turns an argument of 1 into a constant, which has no `.to`. A contiguous map has a stride of 1."""
    script = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dark_kernels import recipes
from dark_kernels._triton.launch import constant
from dark_kernels._triton.maps import Heatmaps, Scan
from dark_kernels.peaks import kernels

kernel = kernels._find_peaks_fwd_kernel
sizes = {"width", "height"}
for ones, recipe in ((set(), recipes.DARKPOSE), (sizes, recipes.DARKPOSE), (sizes, recipes.MEGVII)):
    shape = kernels.launch_shape(2**32, 4, on_blurred=recipe is recipes.MEGVII)
    options = {"num_warps": shape["num_warps"]}
    scan = Scan(shape["BLOCK_SIZE"], shape["LOADS"], IS_FLAT=True, USES_RECIPROCAL=False, WIDE_INDEX=True)
    struct = kernels.recipe_constants(recipe.operator_arguments, recipe.has_hessian)
    struct = struct._replace(BLUR=struct.BLUR._replace(POINTS_AT_ONCE=shape["POINTS_AT_ONCE"]))
    constants = {"LENGTH": 32, "SQUARE": constant(kernels.Square(3, "first")), "SCAN": constant(scan),
                 "RECIPE": constant(struct), **dict.fromkeys(ones, 1)}
    if not recipe.has_hessian:
        constants["covariances_ptr"] = None
    types = {argument: "constexpr" if argument in constants else "*fp32" if argument.endswith("_ptr") else "i64"
             for argument in kernel.arg_names}
    types |= {"counts_ptr": "*i64", "threshold": "fp32", "max_peaks": "i32"}
    types["heatmaps"] = Heatmaps("*fp32", "i64", "i64", "i64", "constexpr")
    constants[(kernel.arg_names.index("heatmaps"), Heatmaps._fields.index("stride_w"))] = 1
    triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32), options=options)
print("compiled")
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]


# --- on a device -----------------------------------------------------------------------------------------

DEVICE_OPTIONS: dict[str, Any] = {"max_peaks": 30, "threshold": 0.0625, "covariance": True}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("plateau", PLATEAUS)
def test_all_kinds_of_maps_on_a_device(plateau: str, layout: str, dtype: torch.dtype, gpu: torch.device) -> None:
    kinds = sorted(testing.VALUE_KINDS)
    maps = testing.heatmaps_of_kinds(kinds, 2, len(kinds), 64, 48, seed=20, dtype=torch.float64)
    heatmaps = testing.with_layout(maps.to(gpu, dtype), layout)
    smoothed = dataclasses.replace(recipes.MMPOSE_UDP, argmax_on="blurred")
    for recipe, window in (
        (recipes.DARKPOSE, 3), (recipes.MMPOSE_UDP, 5), (recipes.QUARTER, 7), (recipes.MEGVII, 3), (smoothed, 5),
    ):  # fmt: skip
        options = Options(30, 0.0, window, recipe, plateau)
        actual = find(heatmaps, options, ("triton", gpu), recipe.has_hessian)
        compared = assert_like_reference(actual, heatmaps, options, testing.TRITON)
        assert compared.bounded > 0.5 * compared.peaks > 0


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_a_cuda_graph_replays_on_changed_inputs(backend: str, gpu: torch.device) -> None:
    first, second = (testing.heatmaps_of_kinds(KINDS, 4, 4, 64, 48, seed=seed).to(gpu) for seed in (1, 2))
    held = first.clone()
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        for _ in range(2):
            dark_kernels.find_peaks(held, **DEVICE_OPTIONS, backend=backend)
    torch.cuda.current_stream(gpu).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = dark_kernels.find_peaks(held, **DEVICE_OPTIONS, backend=backend)
    for maps in (second, first):
        held.copy_(maps)
        graph.replay()
        torch.cuda.synchronize(gpu)
        assert same(captured, dark_kernels.find_peaks(maps, **DEVICE_OPTIONS, backend=backend))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_nothing_waits_for_the_device(backend: str, gpu: torch.device) -> None:
    heatmaps = testing.heatmaps_of_kinds(KINDS, 4, 4, 64, 48, seed=3).to(gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for plateau in PLATEAUS:
                dark_kernels.find_peaks(heatmaps, **DEVICE_OPTIONS, plateau=plateau, backend=backend)
            dark_kernels.find_peaks(heatmaps, 30, 0.0625, recipe=recipes.MEGVII, backend=backend)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_one_launch_whatever_the_layout(gpu: torch.device) -> None:
    heatmaps = torch.rand(8, 17, 64, 48, device=gpu)
    smoothed: dict[str, Any] = {"max_peaks": 30, "recipe": recipes.MEGVII}
    for maps, options in itertools.product(
        (heatmaps, heatmaps.to(memory_format=torch.channels_last)), (DEVICE_OPTIONS, smoothed)
    ):
        dark_kernels.find_peaks(maps, **options)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            dark_kernels.find_peaks(maps, **options)
            torch.cuda.synchronize()
        assert sum(event.count for event in profile.key_averages() if event.device_time_total > 0) == 1


@pytest.mark.gpu
def test_new_batch_sizes_thresholds_and_counts_compile_nothing(gpu: torch.device) -> None:
    from triton import knobs

    compiled: list[object] = []
    heatmaps = torch.rand(37, 5, 33, 29, device=gpu)
    dark_kernels.find_peaks(heatmaps[:3], 30, 0.5)
    knobs.runtime.jit_post_compile_hook = lambda **arguments: compiled.append(arguments["key"])
    try:
        for batch, num_keypoints, max_peaks, threshold in ((1, 1, 17, 0.0), (2, 1, 32, 1.0), (16, 5, 31, 0.25)):
            dark_kernels.find_peaks(heatmaps[:batch, :num_keypoints].contiguous(), max_peaks, threshold)
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_one_map_of_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    side = 46400
    if torch.cuda.mem_get_info(gpu)[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of free device memory")
    heatmaps = torch.zeros(1, 1, side, side, dtype=torch.float16, device=gpu)
    heatmaps[0, 0, 5, 7] = 0.5
    heatmaps[0, 0, -3, -2] = 1.0
    found = dark_kernels.find_peaks(heatmaps, 3, recipe=PIXELS)
    assert found.counts.tolist() == [[2]]
    assert found.coords[0, 0, :2].tolist() == [[side - 2, side - 3], [7, 5]]
