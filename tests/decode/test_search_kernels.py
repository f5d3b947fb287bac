"""The search of a whole smoothed map in Triton: in strips, and where these would not do in tiles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, testing
from dark_kernels.decode import reference

from ..conftest import require_service

pytest.importorskip("triton", reason="Triton is not installed")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return require_service("triton", request.param)


def on_blurred(kernel_size: int, padding: Any = "zeros", activation: Any = "none") -> Recipe:
    """The pixel alone, and the smoothed map there."""
    return Recipe(
        kernel_size=kernel_size,
        padding=padding,
        activation=activation,
        argmax_on="blurred",
        stencil="none",
        rescale=False,
    )


def assert_finds_the_maximum(maps: Tensor, recipe: Recipe, **extras: Any) -> None:
    """The value found is the largest to within rounding, and where no other comes as close its pixel is the same."""
    actual = dark_kernels.decode(maps, recipe, backend="triton", **extras)
    limit = torch.finfo(torch.float32).max / 4  # of what is averaged
    seen = maps.double().cpu().clamp(-limit, limit)
    if extras:
        flipped = extras["flipped"].double().cpu()
        seen = reference.merge_flipped(seen, flipped, torch.tensor(extras["flip_indices"]), extras["shift_flipped"])
    blurred = reference.blur(reference.activate(seen, recipe.activation), recipe)
    largest, x, y = reference.find_peak(blurred)
    scale = blurred.abs().amax(dim=(-2, -1))
    assert ((actual.scores.cpu() - largest).abs() <= 2e-6 * scale).all()
    is_tied = (blurred >= (largest - 4e-6 * scale)[..., None, None]).sum(dim=(-2, -1)) > 1
    is_same = (actual.coords.cpu() == torch.stack([x, y], dim=-1)).all(dim=-1)
    assert (is_same | is_tied | (largest <= 0)).all()


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
@pytest.mark.parametrize("kernel_size", [5, 23, 25])
def test_finds_the_maximum(kernel_size: int, padding: str, device: torch.device) -> None:
    """The last size is blurred in tiles; in reflect and symmetric so are the maps that are smaller than a blur."""
    recipe = on_blurred(kernel_size, padding)
    for kind, size in (("noise", (5, 13)), ("noisy_blob", (14, 34))):
        maps = testing.heatmaps_of_kinds([kind], 1, 1, *size, seed=kernel_size).to(device)
        assert_finds_the_maximum(maps, recipe)


@pytest.mark.parametrize("place", [(0, 0), (4, 31), (11, 69)])
def test_a_blob_in_any_strip(place: tuple[int, int], device: torch.device) -> None:
    """At the borders, and where one strip is moved to lie inside; a single pixel is the raw maximum."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(70.0), indexing="ij")
    maps = torch.exp(-((x - place[1]) ** 2 + (y - place[0]) ** 2) / 18)[None, None]
    maps[..., 10, 35] = 1.01
    assert_finds_the_maximum(maps.to(device), on_blurred(5))


@pytest.mark.parametrize("shift_flipped", [False, True])
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_of_two_maps(activation: str, shift_flipped: bool, device: torch.device) -> None:
    maps, flipped = testing.heatmaps_of_kinds(["noise"], 2, 2, 9, 41, seed=3).to(device).split(1)
    extras = {"flipped": flipped, "flip_indices": [1, 0], "shift_flipped": shift_flipped}
    assert_finds_the_maximum(maps, on_blurred(5, "zeros", activation), **extras)


def test_of_equal_maxima_in_two_strips_the_first_is_found(device: torch.device) -> None:
    maps = torch.zeros(1, 3, 20, 80, device=device)
    for k, places in enumerate([((6, 70), (6, 9)), ((12, 9), (6, 40)), ((1, 78), (1, 1))]):
        for y, x in places:
            maps[0, k, y - 1 : y + 2, x - 1 : x + 2] = torch.tensor([[0.3, 0.6, 0.3], [0.6, 0.9, 0.6], [0.3, 0.6, 0.3]])
    coords = dark_kernels.decode(maps, on_blurred(5), backend="triton").coords
    assert coords.tolist() == [[[9, 6], [40, 6], [1, 1]]]


def test_awkward_maps(device: torch.device) -> None:
    maps = testing.heatmaps_of_kinds(["signed_noise"], 1, 1, 12, 37, seed=5).to(device)
    for change in (-math.inf, -3e38, 3e38):
        changed = maps.clone()
        changed[..., 4:6, 7] = change
        assert_finds_the_maximum(changed, on_blurred(5))
    assert_finds_the_maximum(maps - 2, on_blurred(5))  # beyond the border lie zeros, which are larger
    assert_finds_the_maximum(maps - 2, on_blurred(5, "symmetric"))
    plateau = torch.full_like(maps, 0.3)
    assert dark_kernels.decode(plateau, on_blurred(5), backend="triton").coords.tolist() == [[[2, 2]]]
    assert dark_kernels.decode(plateau, on_blurred(5, "reflect"), backend="triton").coords.tolist() == [[[0, 0]]]
    maps[..., 11, 36] = math.nan
    keypoints = dark_kernels.decode(maps, on_blurred(5), backend="triton")
    assert keypoints.coords.tolist() == [[[-1, -1]]]
    assert keypoints.scores.isnan().all()
