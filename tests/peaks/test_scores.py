"""Several peaks of maps that are logits, and peaks whose scores are a share of their map: on every backend."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.backends import choose
from dark_kernels.decode import reference

from .cases import PIXELS, Options, assert_like_reference, find, listed

Service = tuple[str, torch.device]
ACTIVATIONS = ["sigmoid", "softmax"]
ON_BLURRED = dataclasses.replace(recipes.MEGVII, kernel_size=3, score_scale=1.0, score_offset=0.0)
SOME_RECIPES = [recipes.DARKPOSE, recipes.FIT, recipes.QUARTER, ON_BLURRED]


def logits(size: tuple[int, int] = (13, 11), keypoints: int = 2) -> Tensor:
    maps = testing.heatmaps_of_kinds(["two_blobs", "noisy_blob"], 1, keypoints, *size, seed=5, dtype=torch.float64)
    return (12.0 * maps - 4.0).float()


def arithmetic_for(service: Service, dtype: torch.dtype) -> testing.Arithmetic:
    backend, device = service
    return testing.arithmetic_of(choose(backend, device.type, dtype).backend, device.type, dtype)


@pytest.mark.parametrize(("activation", "score"), [("none", "mass"), ("sigmoid", "peak"), ("softmax", "mass")])
@pytest.mark.parametrize("recipe", SOME_RECIPES, ids=lambda recipe: recipe.name)
def test_equals_the_reference(recipe: Recipe, activation: str, score: str, service: Service) -> None:
    recipe = dataclasses.replace(recipe, activation=activation, score=score, max_offset=1.0)
    threshold = {"none": 0.125, "sigmoid": 0.25, "softmax": 2.0**-9}[activation]
    maps = logits()
    options = Options(4, threshold, recipe=recipe)
    found = find(maps, options, service, recipe.has_hessian)
    compared = assert_like_reference(found, maps, options, arithmetic_for(service, maps.dtype))
    assert compared.peaks >= 2
    assert found.counts.max() < 4  # so the threshold has kept something out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_in_each_dtype_and_layout(activation: str, dtype: torch.dtype, service: Service) -> None:
    recipe = dataclasses.replace(recipes.DARKPOSE, activation=activation, score="mass")
    maps = testing.with_layout(logits(keypoints=3).to(dtype), "channels_last")
    options = Options(3, 2.0**-9, recipe=recipe)
    found = find(maps, options, service, True)
    assert assert_like_reference(found, maps, options, arithmetic_for(service, dtype)).peaks >= 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_first_peak_is_the_keypoint_of_decode(activation: str, service: Service) -> None:
    for recipe in (recipes.DARKPOSE, ON_BLURRED):
        recipe = dataclasses.replace(recipe, activation=activation, score="mass")
        maps = logits((9, 8), keypoints=1)
        first = find(maps, Options(2, -1.0, recipe=recipe), service)
        keypoints = dark_kernels.decode(maps.to(service[1]), recipe, backend=service[0])
        torch.testing.assert_close(first.coords[:, :, 0], keypoints.coords.cpu(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(first.scores[:, :, 0], keypoints.scores.cpu(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_a_peak_exceeds_is_a_probability(activation: str, service: Service) -> None:
    """And saturation neither makes peaks equal nor puts them in another order: 1 / (1 + exp(-40)) is 1 in float32."""
    maps = torch.full((1, 1, 9, 9), -30.0)
    maps[0, 0, 1, 1], maps[0, 0, 1, 6], maps[0, 0, 6, 2], maps[0, 0, 6, 6] = 40.0, 41.0, 39.0, 1.0
    maps[0, 0, 6, 3] = 38.5
    recipe = dataclasses.replace(PIXELS, activation=activation)
    p = reference.activate(maps.double(), activation)[0, 0]
    for threshold, count in ((-0.5, 5), (0.0, 5), (0.125 if activation == "softmax" else 0.75, 2), (1.0, 0)):
        (peaks,) = listed(find(maps, Options(5, threshold, recipe=recipe), service))
        places = [(1, 6), (1, 1), (6, 2), (6, 6)]
        if threshold == 0.75:
            assert [peak[:2] for peak in peaks] == places[:3]
        elif threshold in (0.125, 1.0):
            assert [peak[:2] for peak in peaks] == places[:count]
        else:
            assert [peak[:2] for peak in peaks][:4] == places
        for y, x, score in peaks:
            assert score == pytest.approx(p[y, x].item(), rel=1e-5)


def test_what_is_no_logit(service: Service) -> None:
    for activation in ACTIVATIONS:
        recipe = dataclasses.replace(recipes.DARKPOSE, activation=activation, score="mass", invalid=-7.0)
        maps = logits(keypoints=1).expand(1, 4, -1, -1).contiguous()
        maps[0, 1, 2, 3] = math.nan
        maps[0, 2] = -math.inf
        maps[0, 3, 5, 6] = math.inf
        found = find(maps, Options(3, -1.0, plateau="all", recipe=recipe), service, True)
        assert found.counts[0, 1:3].tolist() == [0, 0]
        assert bool((found.coords[0, 1:3] == -7.0).all())
        assert found.coords[0, 3, 0].tolist() == [6.0, 5.0]
        assert found.covariances is not None
        assert bool(found.covariances[0, 3].isnan().all())
        assert bool(((found.scores >= 0) & (found.scores <= 1)).all())


def test_masses_of_two_people_and_of_clutter(service: Service) -> None:
    """Of two blobs each has half of the map, and a pixel has nothing."""
    x, y = torch.arange(48.0), torch.arange(32.0)[:, None]
    maps = torch.stack([torch.exp(-((x - center) ** 2 + (y - 15) ** 2) / 8) for center in (12, 35)]).amax(0)
    maps[3, 24] = 0.95
    recipe = dataclasses.replace(recipes.DARKPOSE, score="mass")
    found = find(maps[None, None], Options(3, 0.5, recipe=recipe), service)
    assert found.counts.item() == 3
    assert found.scores[0, 0].tolist() == pytest.approx([0.466, 0.466, 0.018], abs=0.01)
