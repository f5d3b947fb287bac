"""eager's search of smoothed maps: what it finds in a band is what it finds in the whole map, to the last bit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import recipes, testing
from dark_kernels.decode import eager_search, reference
from dark_kernels.decode.eager_search import Smoothing

PADDINGS = ["zeros", "reflect", "symmetric"]
MATCHED_FILTER = eager_search.matched_filter_of(recipes.MATCHED.operator_arguments)
ANY = sorted(testing.VALUE_KINDS)


def blur(kernel_size: int, padding: str) -> Smoothing:
    return Smoothing(recipes.opencv_taps(kernel_size), padding, False)


SMOOTHINGS = [*(blur(size, padding) for size in (1, 3, 11, 17) for padding in PADDINGS), MATCHED_FILTER]


def reference_smoothing(maps: Tensor, smoothing: Smoothing) -> Tensor:
    """[B, K, H, W] maps as the definition smooths them."""
    if smoothing.is_matched:
        responses = reference.match_blobs(maps, recipes.MATCHED.expected_sigma)
        return responses / reference.match_blobs(torch.ones_like(maps), recipes.MATCHED.expected_sigma).amax()
    kernel_size = 2 * smoothing.radius + 1
    changes = {"kernel_size": kernel_size, "padding": smoothing.padding}
    return reference.blur(maps, dataclasses.replace(recipes.MEGVII, **changes))  # type: ignore[arg-type]


def assert_finds_what_the_whole_map_has(heatmaps: Tensor, smoothing: Smoothing) -> None:
    found = eager_search.search_smoothed(heatmaps, smoothing)
    maps = heatmaps.flatten(0, 1)
    smoothed = eager_search.smooth(maps, smoothing)
    width = maps.shape[2]
    values, index = smoothed.flatten(1).max(1)
    for name, expected in (("peaks", values), ("y", index // width), ("x", index % width)):
        actual = getattr(found, name)
        same = (actual == expected) | (values.isnan() & actual.isnan()) | (values.isnan() & (name != "peaks"))
        assert bool(same.all()), f"{name}: {smoothing}, maps {(~same).nonzero().flatten().tolist()}"
    padded = torch.nn.functional.pad(smoothed[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    number = torch.arange(maps.shape[0])
    y, x = found.y + 1, found.x + 1
    differences = [
        padded[number, y, x + 1] - padded[number, y, x - 1],
        padded[number, y + 1, x] - padded[number, y - 1, x],
    ]
    known = ~values.isnan()
    assert torch.equal(found.differences[:, known].nan_to_num(), torch.stack(differences)[:, known].nan_to_num())
    raw, index = maps.flatten(1).max(1)
    assert torch.equal(found.raw_maxima.nan_to_num(), raw.nan_to_num())
    assert torch.equal(found.raw_y * width + found.raw_x, index)


@pytest.fixture
def certain(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how many maps a band was enough, for each block that was searched in bands."""
    shares = []
    search = eager_search._search_bands

    def counted(*arguments: object) -> object:
        found, is_certain = search(*arguments)  # type: ignore[arg-type]
        shares.append(is_certain.float().mean().item())
        return found, is_certain

    monkeypatch.setattr(eager_search, "_search_bands", counted)
    return shares


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
def test_thousands_of_maps(smoothing: Smoothing, certain: list[float]) -> None:
    for seed, (height, width) in enumerate([(64, 48), (96, 72), (42, 37), (64, 200)]):
        kinds = ["blob", "noisy_blob", "two_blobs", "blob_on_negative", "weak_blob"]
        heatmaps = testing.heatmaps_of_kinds(kinds, 2, 50, height, width, seed=seed)
        assert_finds_what_the_whole_map_has(heatmaps, smoothing)
    assert len(certain) >= 2
    assert 0.4 * len(certain) < sum(certain)


@pytest.mark.parametrize("smoothing", SMOOTHINGS[6:], ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_of_any_content(smoothing: Smoothing, dtype: torch.dtype) -> None:
    heatmaps = testing.heatmaps_of_kinds(ANY, 3, len(ANY), 64, 48, seed=1, dtype=dtype)
    assert_finds_what_the_whole_map_has(heatmaps, smoothing)


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (2, 3), (5, 90), (13, 13), (23, 24), (90, 20)])
def test_maps_smaller_than_the_filter(smoothing: Smoothing, size: tuple[int, int]) -> None:
    heatmaps = testing.heatmaps_of_kinds(ANY, 2, len(ANY), *size, seed=2)
    assert_finds_what_the_whole_map_has(heatmaps, smoothing)
    exact = testing.heatmaps_of_kinds(["noise", "negative", "ties", "huge_and_tiny"], 1, 4, *size, dtype=torch.float64)
    smoothed = eager_search.smooth(exact.flatten(0, 1), smoothing).view(exact.shape)
    assert torch.allclose(smoothed, reference_smoothing(exact, smoothing), rtol=1e-13, atol=0)


@pytest.mark.parametrize("smoothing", SMOOTHINGS[6:], ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
def test_of_equal_maxima_the_first(smoothing: Smoothing) -> None:
    """Copies and mirror images of one blob, far apart and close, inside and at mirrored places of the border."""
    blob = testing.gaussian_blobs(1, 1, 11, 11, sigma=1.7, margin=4.0, seed=3).heatmaps[0, 0].float()
    places = [(0, 0), (0, 61), (85, 0), (85, 61), (20, 40), (50, 10), (60, 40)]
    for i, first in enumerate(places):
        for second in places[i + 1 :]:
            maps = torch.zeros(4, 1, 96, 72)
            for number, axes in enumerate([(), (0,), (1,), (0, 1)]):
                for (y, x), one in ((first, blob), (second, blob.flip(axes))):
                    maps[number, 0, y : y + 11, x : x + 11] = one
            assert_finds_what_the_whole_map_has(maps, smoothing)
            inside = all(20 <= y <= 60 and 10 <= x <= 40 for y, x in (first, second))
            found = eager_search.search_smoothed(maps[:1], smoothing)
            if inside:
                y, x = min(first, second)
                assert y <= found.y < y + 11
                assert x <= found.x < x + 11


@pytest.mark.parametrize("smoothing", SMOOTHINGS[6:], ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
def test_a_wide_blob_beats_a_high_one(smoothing: Smoothing) -> None:
    """The smoothed maximum is far from the raw one: what a band around that shows is not enough."""
    maps = torch.zeros(1, 1, 96, 72)
    maps[0, 0, 10, 10] = 1.0
    maps[0, 0, 60:75, 40:55] = 0.5
    found = eager_search.search_smoothed(maps, smoothing)
    assert 60 <= found.y < 75
    assert (int(found.raw_y), int(found.raw_x)) == (10, 10)
    assert_finds_what_the_whole_map_has(maps, smoothing)


@pytest.mark.parametrize("shift", [0, 3, 6, 9, 12])
def test_just_outside_a_band_nothing_is_missed(shift: int) -> None:
    """Two pixels, of which the second is lower and wins with its neighbour: at each distance from the first."""
    for padding in PADDINGS:
        maps = torch.zeros(40, 1, 64, 48)
        for dy in range(40):
            maps[dy, 0, 10, 10] = 1.0
            maps[dy, 0, 10 + dy, 10 + shift] += 0.8
            maps[dy, 0, 11 + dy, 10 + shift] += 0.8
        assert_finds_what_the_whole_map_has(maps, blur(11, padding))


def test_noise_is_tried_on_few_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each block, once bands were in vain; where they are enough again, all that follow are tried."""
    tried = []
    search = eager_search._search_bands

    def counted(maps: Tensor, *arguments: object) -> object:
        tried.append(maps.shape[0])
        return search(maps, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(eager_search, "_search_bands", counted)
    monkeypatch.setattr(eager_search, "_SEARCH_BLOCK", 50 * 64 * 48)
    noise = torch.rand(2, 50, 64, 48, generator=torch.Generator().manual_seed(0))
    blobs = testing.gaussian_blobs(2, 50, 64, 48, sigma=2.0).heatmaps.float()
    assert_finds_what_the_whole_map_has(torch.cat([noise, blobs]), blur(11, "zeros"))
    few = eager_search._FEW_MAPS
    assert tried == [few, few, few, 50 - few, 50]


def test_products_are_enough_for_noise_and_not_for_what_is_nearly_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    certain: list[float] = []
    search = eager_search._search_by_products

    def counted(*arguments: object) -> object:
        index, is_certain = search(*arguments)  # type: ignore[arg-type]
        certain.append(is_certain.float().mean().item())
        return index, is_certain

    monkeypatch.setattr(eager_search, "_search_by_products", counted)
    monkeypatch.setattr(eager_search, "_FEW_MAPS", 1)
    noise = torch.rand(2, 50, 64, 48, generator=torch.Generator().manual_seed(0))
    flat = torch.full_like(noise, 0.7)
    # Two blobs of which the second is higher by less than what products may round.
    twins = torch.zeros(1, 50, 64, 48)
    twins[..., 20:25, 20:25] = testing.gaussian_blobs(1, 50, 5, 5, sigma=1.2).heatmaps.float()
    twins[..., 40:45, 20:25] = twins[..., 20:25, 20:25] * (1 + 2e-7)
    with_nan = noise.clone()
    with_nan[..., 3, 3] = math.nan
    for maps, is_enough in ((noise, True), (flat, False), (twins, False), (with_nan, False)):
        certain.clear()
        for smoothing in (blur(11, "zeros"), blur(11, "symmetric"), MATCHED_FILTER):
            assert_finds_what_the_whole_map_has(maps, smoothing)
        assert certain
        assert min(certain) > 0.9 if is_enough else max(certain) < 0.1


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=lambda one: f"{one.padding}-{one.radius}-{one.is_matched}")
def test_products_round_less_than_they_are_said_to(smoothing: Smoothing) -> None:
    """The two ways differ by less than half of what decides whether a pixel is certain."""
    maps = testing.heatmaps_of_kinds(["noise", "noisy_blob", "negative"], 1, 60, 96, 72, seed=8).flatten(0, 1)
    over_y, over_x = (eager_search._matrix_of(size, smoothing, maps.dtype) for size in maps.shape[1:])
    difference = over_y.t() @ (maps @ over_x) - eager_search.smooth(maps, smoothing)
    bound = (2 * (2 * smoothing.radius + 1) + 8) * torch.finfo(maps.dtype).eps * maps.abs().amax((1, 2))
    assert bool((difference.abs().amax((1, 2)) <= bound).all())


def test_chosen_maps_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "noise", "some_nan"], 3, 7, 64, 48, seed=5)
    whole = eager_search.search_smoothed(heatmaps, MATCHED_FILTER)
    chosen = torch.tensor([20, 0, 3, 3, 11])
    for pixels in (1, 64 * 48, 4 * 64 * 48 + 7):
        monkeypatch.setattr(eager_search, "_SEARCH_BLOCK", pixels)
        monkeypatch.setattr(eager_search, "_SMOOTH_BLOCK", pixels)
        for layout in ("contiguous", "channels_last", "sliced"):
            laid_out = testing.with_layout(heatmaps, layout)
            for subset in (None, chosen):
                found = eager_search.search_smoothed(laid_out, MATCHED_FILTER, None, subset)
                for one, expected in zip(found, whole, strict=True):
                    of_subset = expected if subset is None else expected[..., subset]
                    assert torch.equal(one.nan_to_num(), of_subset.nan_to_num())


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_scale_where_a_clip_binds(padding: str) -> None:
    """DARK's rescaling needs the smoothed maximum there."""
    recipe = dataclasses.replace(recipes.MMPOSE_UDP, padding=padding)  # type: ignore[arg-type]
    heatmaps = testing.heatmaps_of_kinds(["strong_blob", "weak_blob", "strong_noise"], 2, 12, 64, 48, seed=6)
    keypoints = dark_kernels.decode(heatmaps, recipe, True, backend="eager")
    testing.assert_decodes_like_reference(keypoints, heatmaps, recipe)


def test_a_number_is_the_same_wherever_it_lies() -> None:
    """Vectors and what is left over of them round alike, in rows of any length."""
    generator = torch.Generator().manual_seed(0)
    patch = torch.rand(23, 23, generator=generator)
    values = set()
    for width in range(40, 60):
        for x in range(0, width - 23, 3):
            maps = torch.zeros(1, 50, width)
            maps[0, 13:36, x : x + 23] = patch
            values.add(eager_search.smooth(maps, blur(11, "zeros"))[0, 24, x + 11].item())
    assert len(values) == 1
    assert math.isfinite(values.pop())
