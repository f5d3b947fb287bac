"""What users call: shapes, dtypes, defaults, and what is refused with which words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import dark_kernels
from dark_kernels import Peaks, Recipe, recipes, testing
from dark_kernels.peaks.api import MOST_PEAKS

from .cases import Options, find, listed


@pytest.mark.parametrize("shape", [(0, 17, 64, 48), (2, 0, 64, 48), (0, 0, 1, 1), (2, 1, 5, 4), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    """Also of maps that have no peak, and of more slots than pixels."""
    backend, device = service
    heatmaps = torch.zeros(shape, dtype=dtype, device=device)
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_LEGACY_UDP, recipes.QUARTER, recipes.MEGVII):
        for covariance in (False, True) if recipe.has_hessian else (False,):
            actual = dark_kernels.find_peaks(heatmaps, 30, recipe=recipe, backend=backend, covariance=covariance)
            assert isinstance(actual, Peaks)
            assert actual.coords.shape == (*shape[:2], 30, 2)
            assert actual.scores.shape == (*shape[:2], 30)
            assert actual.counts.shape == shape[:2]
            assert (actual.coords == recipe.invalid).all()
            assert not actual.scores.any()
            assert not actual.counts.any()
            assert actual.counts.dtype == torch.int64
            assert (actual.covariances is not None) == covariance
            if actual.covariances is not None:
                assert actual.covariances.shape == (*shape[:2], 30, 2, 2)
                assert actual.covariances.isnan().all()
            for each in actual:
                if each is not None:
                    assert each.dtype in (out_dtype, torch.int64)
                    assert each.device.type == device.type
                    assert each.is_contiguous()


def test_defaults() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noise"], 1, 2, 16, 12)
    actual = dark_kernels.find_peaks(heatmaps, 5)
    expected = dark_kernels.find_peaks(heatmaps, 5, 0.0, 3, recipes.DARKPOSE, "first", "eager", covariance=False)
    for one, other in zip(actual, expected, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_inputs_are_never_written_to_and_carry_no_gradient(service: tuple[str, torch.device]) -> None:
    maps = testing.heatmaps_of_kinds(["two_blobs"], 1, 1, 12, 11, seed=2)
    expected = find(maps, Options(), service)
    read_only = np.array(maps.numpy())
    read_only.flags.writeable = False
    held = torch.from_numpy(np.broadcast_to(read_only, (2, *read_only.shape[1:])))
    assert torch.equal(find(held, Options(), service).coords[1:], expected.coords)
    assert read_only.tobytes() == maps.numpy().tobytes()
    leaf = maps.clone().requires_grad_()
    for each in dark_kernels.find_peaks(leaf * 1, 4):
        assert each is None or not each.requires_grad


def test_scores_are_those_of_the_recipe(service: tuple[str, torch.device]) -> None:
    scaled = dataclasses.replace(recipes.ARGMAX, score_scale=0.5, score_offset=0.25)
    maps = torch.zeros(1, 1, 3, 5)
    maps[0, 0, 1, [1, 3]] = torch.tensor([0.5, 1.0])
    found = find(maps, Options(3, recipe=scaled), service)
    assert listed(found) == [[(1, 3, 0.75), (1, 1, 0.5)]]
    assert found.scores[0, 0, 2] == 0


GOOD = torch.rand(1, 2, 8, 6)
REFUSED: list[Any] = [
    ("rank 5", {"heatmaps": GOOD[None]}, ValueError, ["heatmaps", "[1, 1, 2, 8, 6]", "[B, K, H, W]"]),
    ("no columns", {"heatmaps": GOOD[..., :0]}, ValueError, ["heatmaps", "[1, 2, 8, 0]", "W >= 1"]),
    ("integers", {"heatmaps": GOOD.int()}, TypeError, ["heatmaps", "torch.int32", "torch.float16"]),
    ("list", {"heatmaps": [GOOD]}, TypeError, ["heatmaps", "builtins.list", "torch.stack"]),
    ("sparse", {"heatmaps": GOOD.to_sparse()}, TypeError, ["heatmaps", "sparse", "to_dense()"]),
    ("no peaks", {"max_peaks": 0}, ValueError, ["max_peaks", "got 0", "at least 1"]),
    ("too many peaks", {"max_peaks": 129}, ValueError, ["max_peaks", "got 129", f"at most {MOST_PEAKS}"]),
    ("half a peak", {"max_peaks": 1.5}, TypeError, ["max_peaks", "float", "integer"]),
    ("a bool", {"max_peaks": True}, TypeError, ["max_peaks", "bool", "integer"]),
    ("even window", {"window": 4}, ValueError, ["window", "got 4", "odd"]),
    ("no window", {"window": -1}, ValueError, ["window", "got -1", "at least 1"]),
    ("float window", {"window": 3.0}, TypeError, ["window", "float", "integer"]),
    ("no number", {"threshold": "0.1"}, TypeError, ["threshold", "str", "number"]),
    ("nan", {"threshold": float("nan")}, ValueError, ["threshold", "nan", "finite"]),
    ("tensor", {"threshold": torch.tensor(0.5)}, TypeError, ["threshold", "Tensor", "number"]),
    ("plateau", {"plateau": "last"}, ValueError, ["plateau", "'last'", "'first'", "'all'", "'none'"]),
    ("backend", {"backend": "cuda"}, ValueError, ["backend", "'cuda'", "'auto'", "'reference'"]),
    ("unknown recipe", {"recipe": "dark"}, ValueError, ["recipe", "'dark'", "darkpose"]),
    ("covariance", {"recipe": recipes.QUARTER, "covariance": True}, ValueError, ["covariance", "'quarter'", "'wide'"]),
    ("covariance of what", {"covariance": 1}, TypeError, ["covariance", "got 1", "True or False"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refusals_say_what_came_and_what_was_expected(
    arguments: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        dark_kernels.find_peaks(**{"heatmaps": GOOD, "max_peaks": 3, **arguments})
    message = str(raised.value)
    assert raised.type is error
    for word in ("got", "expected", *words):
        assert word in message, message
    assert "\n" not in message


def test_a_recipe_that_smooths_nothing_searches_the_raw_map_whatever_it_says() -> None:
    recipe = Recipe(blur="none", rescale=False, stencil="quarter", argmax_on="blurred")
    expected = dark_kernels.find_peaks(GOOD, 3, recipe=dataclasses.replace(recipe, argmax_on="raw"))
    assert torch.equal(dark_kernels.find_peaks(GOOD, 3, recipe=recipe).coords, expected.coords)
