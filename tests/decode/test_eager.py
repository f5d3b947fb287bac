"""eager: the reference's numbers for any map, in any memory layout."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import eager, eager_plan

from ..strategies import Case, cases

# Up to how many pixels all are searched at once: none, for maps as small as a test's go by groups of rows only then.
SEARCHES = st.sampled_from([0, eager._FEW_PIXELS])


@pytest.mark.slow
def test_equals_the_reference_for_any_map() -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=400)
    @given(cases(), SEARCHES)
    def check(case: Case, few_pixels: int) -> None:
        heatmaps = case.heatmaps()
        with mock.patch.object(eager, "_FEW_PIXELS", few_pixels), testing.assert_unchanged(heatmaps):
            actual = dark_kernels.decode(heatmaps, case.recipe, case.covariance, backend="eager")
        compared = testing.assert_decodes_like_reference(actual, heatmaps, case.recipe)
        event(f"stencil {case.recipe.stencil}")
        tally.update(compared._asdict())

    check()
    # What cannot be bounded is not compared; this has to be the exception.
    assert tally["refined"] > 300
    assert tally["bounded"] > 0.65 * tally["refined"]


@pytest.mark.gpu
def test_equals_the_reference_on_a_device(gpu: torch.device) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(cases())
    def check(case: Case) -> None:
        heatmaps = case.heatmaps(gpu)
        actual = dark_kernels.decode(heatmaps, case.recipe, case.covariance, backend="eager")
        arithmetic = testing.arithmetic_of("eager", gpu.type, heatmaps.dtype)
        tally.update(testing.assert_decodes_like_reference(actual, heatmaps, case.recipe, arithmetic)._asdict())

    check()
    assert tally["bounded"] > 0.5 * tally["refined"] > 0


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_layout_does_not_matter(recipe: Recipe, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_FEW_PIXELS", 0)
    maps = testing.heatmaps_of_kinds(["noisy_blob", "noise", "weak_blob"], 3, 4, 21, 18, seed=5)
    laid_out = testing.with_layout(maps, layout)
    actual = dark_kernels.decode(laid_out, recipe, recipe.has_hessian, backend="eager")
    expected = dark_kernels.decode(laid_out.contiguous(), recipe, recipe.has_hessian, backend="eager")
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5, equal_nan=True)


def test_runs_agree_bit_for_bit() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "noise", "weak_blob"], 4, 5, 31, 22, seed=2)
    for recipe in recipes.ALL:
        once, again = (dark_kernels.decode(heatmaps, recipe, recipe.has_hessian, backend="eager") for _ in range(2))
        testing.assert_same_keypoints(once, again)


@pytest.mark.parametrize("kind", ["noise", "ties", "plateau", "some_nan", "all_minus_infinite", "negative"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_groups_of_rows_find_the_same_maximum(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("contiguous", "channels_last", "transposed"):
        maps = testing.with_layout(testing.heatmaps_of_kinds([kind], 2, 3, 48, 24, seed=5).to(dtype), layout)
        plan = eager_plan.make_plan(maps, recipes.ARGMAX.operator_arguments)
        assert 1 < plan.rows < 48
        at_once = eager._first_maximum(maps, plan)
        monkeypatch.setattr(eager, "_FEW_PIXELS", 0)
        in_groups = eager._first_maximum(maps, plan)
        monkeypatch.undo()
        for expected, actual in zip(at_once, in_groups, strict=True):
            assert torch.equal(expected.nan_to_num(), actual.nan_to_num())
