"""What the peaks of a map are, once more and one pixel at a time, and how far a backend may be from the reference."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Peaks, Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.testing import tolerances


class Options(NamedTuple):
    """What `find_peaks` takes besides maps."""

    max_peaks: int = 4
    threshold: float = 0.0  # a number that float16 can hold, so that no rounding decides
    window: int = 3
    recipe: Recipe = recipes.DARKPOSE
    plateau: str = "first"


PIXELS = recipes.ARGMAX


def on_blurred(recipe: Recipe) -> bool:
    """Whether the recipe searches the smoothed map."""
    return recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1


def find(heatmaps: Tensor, options: Options, service: tuple[str, torch.device], covariance: bool = False) -> Peaks:
    backend, device = service
    found = dark_kernels.find_peaks(heatmaps.to(device), *options, backend, covariance=covariance)
    return Peaks(*(None if each is None else each.cpu() for each in found))


def listed(peaks: Peaks) -> list[list[tuple[int, int, float]]]:
    """(y, x, score) of the peaks of each map, in the order of the slots. For recipes that stay on the pixel."""
    maps = zip(peaks.coords.flatten(0, 1), peaks.scores.flatten(0, 1), peaks.counts.flatten().tolist(), strict=True)
    return [
        [
            (int(y), int(x), value)
            for (x, y), value in zip(coords[:count].tolist(), scores[:count].tolist(), strict=True)
        ]
        for coords, scores, count in maps
    ]


def expected_peaks(heatmap: Tensor, options: Options) -> list[tuple[int, int, float]]:
    """(y, x, value) of the peaks of one map [H, W] as it is, the best first."""
    rows = heatmap.double().tolist()
    height, width = heatmap.shape
    reach = options.window // 2
    found = []
    for y, x in itertools.product(range(height), range(width)):
        value = rows[y][x]
        square = itertools.product(range(y - reach, y + reach + 1), range(x - reach, x + reach + 1))
        neighbours = [(j, i) for j, i in square if 0 <= j < height and 0 <= i < width and (j, i) != (y, x)]
        stands_out = all(
            value > rows[j][i]
            or (value == rows[j][i] and (options.plateau == "all" or (options.plateau == "first" and (j, i) > (y, x))))
            for j, i in neighbours
        )
        if stands_out and value > options.threshold:
            found.append((y, x, value))
    return sorted(found, key=lambda peak: -peak[2])[: options.max_peaks]


def searches_are_certain(heatmaps: Tensor, options: Options, arithmetic: testing.Arithmetic) -> Tensor:
    """Whether rounding can make no other pixels peaks of a map, nor put them in another order: [B, K].

    On raw maps it never can. A smoothed pixel certainly is a peak, by each rule for plateaus, if it exceeds its
    neighbours and the threshold by more than the rounding of both sides, and certainly is none if one falls short so.
    """
    recipe, reach = options.recipe, options.window // 2
    if not on_blurred(recipe) and recipe.activation == "none":
        return torch.ones(heatmaps.shape[:2], dtype=torch.bool)
    has_nan = heatmaps.isnan().flatten(2).any(-1)
    maps = reference.activate(heatmaps.double().nan_to_num(0.0), recipe.activation)
    errors, common = tolerances._activation_errors(heatmaps.double().nan_to_num(0.0), maps, recipe, arithmetic)
    if not on_blurred(recipe):  # what exceeds the threshold is rounded, and what else is a peak is not
        off = errors + common * maps
        return ((maps - options.threshold).abs() > off).flatten(2).all(-1) | has_nan | (options.threshold < 0)
    blurred = reference.blur(maps, recipe)
    error = tolerances._blur_error(maps, recipe, arithmetic, input_errors=errors)
    _, low_scale, high_scale = tolerances._scale_interval(maps, blurred, error, recipe, arithmetic.blur, errors)
    low_scale, high_scale = low_scale * (1 - common), high_scale * (1 + common)
    error = torch.where(reference.blur(maps.abs(), recipe) == 0, 0.0, error)  # of zeros
    low, high = blurred - error, blurred + error
    low_around, high_around = (
        torch.stack(
            [
                padded.narrow(-2, dy, maps.shape[-2]).narrow(-1, dx, maps.shape[-1])
                for dy, dx in itertools.product(range(options.window), repeat=2)
                if (dy, dx) != (reach, reach) or reach == 0
            ]
        ).amax(0)
        for padded in (torch.nn.functional.pad(each, (reach,) * 4, value=-math.inf) for each in (low, high))
    )
    scaled = torch.stack([each * scale for each in (low, high) for scale in (low_scale, high_scale)])
    is_over, is_under = scaled.amin(0) > options.threshold, scaled.amax(0) <= options.threshold
    is_peak = is_over & ((low > high_around) | (reach == 0)) & ((low > 0) | (high <= 0))
    is_none = is_under | ((low_around > high) & (reach > 0))
    values, index = blurred.where(is_peak, -math.inf).flatten(2).sort(-1, descending=True)
    values, errors = (each[..., : options.max_peaks + 1] for each in (values, error.flatten(2).gather(-1, index)))
    is_lower = values[..., :-1] - errors[..., :-1] > values[..., 1:] + errors[..., 1:]
    in_order = (is_lower | (values[..., 1:] == -math.inf)).all(-1)
    is_certain = (is_peak | is_none).flatten(2).all(-1) & in_order & heatmaps.isfinite().flatten(2).all(-1)
    return is_certain | has_nan


class Compared(NamedTuple):
    """How many peaks were compared, and how many of these are determined to better than 0.01 pixels."""

    peaks: int
    bounded: int


def assert_like_reference(
    actual: Peaks, heatmaps: Tensor, options: Options, arithmetic: testing.Arithmetic
) -> Compared:
    """Assert that `actual` is what the float64 reference finds: the same pixels, and places and covariances within the
    bounds of `dark_kernels.testing`. Maps whose search is not certain are left out."""
    heatmaps, covariance = heatmaps.cpu(), actual.covariances is not None
    batch, num_keypoints = heatmaps.shape[:2]
    expected = find(heatmaps.double(), options, ("reference", torch.device("cpu")), covariance)
    is_certain = searches_are_certain(heatmaps, options, arithmetic)
    assert actual.counts[is_certain].tolist() == expected.counts[is_certain].tolist()
    out_dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    assert actual.coords.dtype == actual.scores.dtype == out_dtype
    assert actual.counts.dtype == torch.int64
    if heatmaps.numel() == 0:
        assert actual.coords.shape == expected.coords.shape
        return Compared(0, 0)

    recipe = dataclasses.replace(options.recipe, stencil="none", invalid=-1.0)
    pixels = find(heatmaps.double(), options._replace(recipe=recipe), ("reference", torch.device("cpu")))
    x, y = pixels.coords.clamp(min=0).long().flatten(1, 2).unbind(-1)
    repeated = heatmaps[:, :, None].expand(-1, -1, options.max_peaks, -1, -1).flatten(1, 2)
    searched = options.recipe.argmax_on.replace("matched", "raw")  # which is what find_peaks searches
    recipe = dataclasses.replace(options.recipe, argmax_on=searched)  # type: ignore[arg-type]
    bounds = testing.decode_bounds(repeated, recipe, arithmetic, peaks_at=(x, y))
    shape = (batch, num_keypoints, options.max_peaks)
    is_used = torch.arange(options.max_peaks) < expected.counts[..., None]

    def compare(name: str, got: Tensor, wanted: Tensor, bound: Tensor) -> None:
        of_slots = (*shape, *[1] * (got.dim() - 3))
        bound = torch.where(is_used.view(of_slots), bound.view(got.shape), 0.0)
        bound = torch.where(is_certain[..., None].expand(shape).reshape(of_slots), bound, math.inf)
        same = (got == wanted) | (got.isnan() & wanted.isnan())
        off = ~(same | ((got - wanted).abs() <= bound) | (bound == math.inf))
        assert not off.any(), (
            f"{name}: {int(off.sum())} of {off.numel()} differ, first {got[off][0]} for {wanted[off][0]} "
            f"within {bound[off][0]}; {options}"
        )

    compare("scores", actual.scores.double(), expected.scores, bounds.scores)
    compare("coords", actual.coords.double(), expected.coords, bounds.coords)
    if actual.covariances is not None and expected.covariances is not None:
        compare("covariances", actual.covariances.double(), expected.covariances, bounds.covariances)
    is_used = torch.arange(options.max_peaks) < actual.counts[..., None]
    assert bool((actual.coords.isfinite() | ~is_used[..., None]).all())
    is_used &= is_certain[..., None]
    return Compared(int(is_used.sum()), int((bounds.coords.amax(-1).view(shape) < 0.01)[is_used].sum()))
