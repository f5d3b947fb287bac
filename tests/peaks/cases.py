"""What the peaks of a map are, once more and one pixel at a time, and how far a backend may be from the reference."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Peaks, Recipe, recipes, testing


class Options(NamedTuple):
    """What `find_peaks` takes besides maps."""

    max_peaks: int = 4
    threshold: float = 0.0  # a number that float16 can hold, so that no rounding decides
    window: int = 3
    recipe: Recipe = recipes.DARKPOSE
    plateau: str = "first"


PIXELS = recipes.ARGMAX


def find(heatmaps: Tensor, options: Options, service: tuple[str, torch.device], covariance: bool = False) -> Peaks:
    backend, device = service
    found = dark_kernels.find_peaks(heatmaps.to(device), *options, backend, covariance=covariance)
    return Peaks(*(None if each is None else each.cpu() for each in found))


def listed(peaks: Peaks) -> list[list[tuple[int, int, float]]]:
    """(y, x, score) of the peaks of each map, in the order of the slots. For the recipe ARGMAX."""
    maps = zip(peaks.coords.flatten(0, 1), peaks.scores.flatten(0, 1), peaks.counts.flatten().tolist(), strict=True)
    return [
        [
            (int(y), int(x), value)
            for (x, y), value in zip(coords[:count].tolist(), scores[:count].tolist(), strict=True)
        ]
        for coords, scores, count in maps
    ]


def expected_peaks(heatmap: Tensor, options: Options) -> list[tuple[int, int, float]]:
    """(y, x, value) of the peaks of one map [H, W], the best first."""
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


class Compared(NamedTuple):
    """How many peaks were compared, and how many of these are determined to better than 0.01 pixels."""

    peaks: int
    bounded: int


def assert_like_reference(
    actual: Peaks, heatmaps: Tensor, options: Options, arithmetic: testing.Arithmetic
) -> Compared:
    """Assert that `actual` is what the float64 reference finds: the same pixels, and places and covariances within the
    bounds of `dark_kernels.testing`."""
    heatmaps, covariance = heatmaps.cpu(), actual.covariances is not None
    batch, num_keypoints = heatmaps.shape[:2]
    expected = find(heatmaps.double(), options, ("reference", torch.device("cpu")), covariance)
    assert actual.counts.tolist() == expected.counts.tolist()
    out_dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    assert actual.coords.dtype == actual.scores.dtype == out_dtype
    assert actual.counts.dtype == torch.int64
    if heatmaps.numel() == 0:
        assert actual.coords.shape == expected.coords.shape
        return Compared(0, 0)

    pixels = find(heatmaps.double(), options._replace(recipe=PIXELS), ("reference", torch.device("cpu")))
    x, y = pixels.coords.clamp(min=0).long().flatten(1, 2).unbind(-1)
    repeated = heatmaps[:, :, None].expand(-1, -1, options.max_peaks, -1, -1).flatten(1, 2)
    bounds = testing.decode_bounds(repeated, options.recipe, arithmetic, peaks_at=(x, y))
    shape = (batch, num_keypoints, options.max_peaks)
    is_used = torch.arange(options.max_peaks) < expected.counts[..., None]

    def compare(name: str, got: Tensor, wanted: Tensor, bound: Tensor) -> None:
        bound = torch.where(is_used.view(*shape, *[1] * (got.dim() - 3)), bound.view(got.shape), 0.0)
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
    assert bool((actual.coords.isfinite() | ~is_used[..., None]).all())
    return Compared(int(is_used.sum()), int((bounds.coords.amax(-1).view(shape) < 0.01)[is_used].sum()))
