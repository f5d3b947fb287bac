"""The compiled loops: the reference's numbers for any map, in any memory layout, with any number of threads."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings

import dark_kernels
from dark_kernels import Recipe, recipes, testing

from ..strategies import Case, cases

pytest.importorskip("numba", reason="Numba is not installed")

from dark_kernels._common import compiled as threads
from dark_kernels.decode import compiled, compiled_loops, eager

KINDS = ["noisy_blob", "noise", "weak_blob"]
# Where a clip binds, and what a matched filter or a blurred search finds by other paddings and stencils.
RECIPES = (
    *recipes.ALL,
    dataclasses.replace(recipes.FIT, argmax_on="blurred", padding="reflect"),
    dataclasses.replace(recipes.MMPOSE_UDP, argmax_on="matched", padding="symmetric", clip_min=0.2),
    dataclasses.replace(recipes.QUARTER, argmax_on="matched", max_offset=0.1),
    dataclasses.replace(recipes.DARKPOSE, kernel_size=23, padding="symmetric", clip_max=0.5, argmax_on="blurred"),
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_equals_the_reference_for_any_map() -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=400)
    @given(cases(dtypes=(torch.float32,)))
    def check(case: Case) -> None:
        heatmaps = case.heatmaps()
        with testing.assert_unchanged(heatmaps):
            actual = dark_kernels.decode(heatmaps, case.recipe, case.covariance, backend="numba")
        compared = testing.assert_decodes_like_reference(actual, heatmaps, case.recipe)
        event(f"stencil {case.recipe.stencil}")
        tally.update(compared._asdict())

    check()
    # What cannot be bounded is not compared; this has to be the exception.
    assert tally["refined"] > 300
    assert tally["bounded"] > 0.65 * tally["refined"]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_equals_the_reference(recipe: Recipe) -> None:
    for size in ((41, 38), (9, 70), (6, 5), (3, 1)):
        maps = testing.heatmaps_of_kinds(sorted(testing.VALUE_KINDS), 3, 9, *size, seed=3).float()
        actual = dark_kernels.decode(maps, recipe, recipe.has_hessian, backend="numba")
        testing.assert_decodes_like_reference(actual, maps, recipe)


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_layout_does_not_matter(recipe: Recipe, layout: str) -> None:
    maps = testing.with_layout(testing.heatmaps_of_kinds(KINDS, 3, 4, 21, 18, seed=5), layout)
    actual = dark_kernels.decode(maps, recipe, recipe.has_hessian, backend="numba")
    expected = dark_kernels.decode(maps.contiguous(), recipe, recipe.has_hessian, backend="numba")
    testing.assert_same_keypoints(actual, expected)


@pytest.mark.usefixtures("two_threads")
def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = testing.heatmaps_of_kinds(KINDS, 4, 5, 31, 22, seed=2)
    for recipe in recipes.ALL:
        with mock.patch.object(threads, "ThreadPoolExecutor", side_effect=AssertionError("too few maps")):
            alone = dark_kernels.decode(maps, recipe, recipe.has_hessian, backend="numba")
        with mock.patch.object(compiled, "_BLOCK", 3 * 31 * 22):
            testing.assert_same_keypoints(dark_kernels.decode(maps, recipe, recipe.has_hessian, backend="numba"), alone)


@pytest.mark.usefixtures("two_threads")
def test_many_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_BLOCK", 2 * 31 * 22)
    maps = testing.heatmaps_of_kinds(KINDS, 4, 5, 31, 22, seed=2)
    expected = dark_kernels.decode(maps, recipes.MATCHED, backend="numba")
    results: list[dark_kernels.Keypoints] = []

    def call() -> None:
        for _ in range(20):
            results.append(dark_kernels.decode(maps, recipes.MATCHED, backend="numba"))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 80
    for result in results:
        testing.assert_same_keypoints(result, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.usefixtures("two_threads")
def test_a_fork_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_BLOCK", 2 * 31 * 22)
    maps = testing.heatmaps_of_kinds(KINDS, 4, 5, 31, 22, seed=2)
    expected = dark_kernels.decode(maps, backend="numba")
    child = os.fork()
    if child == 0:  # whatever happens, it must not run the other tests
        status = 1
        try:
            status = 0 if torch.equal(dark_kernels.decode(maps, backend="numba").coords, expected.coords) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_the_loops_do_not_do_is_eagers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise AssertionError("eager was called")

    maps = testing.heatmaps_of_kinds(KINDS, 1, 3, 12, 9, seed=2)
    others = [
        (maps.half(), recipes.DARKPOSE),
        (maps.double(), recipes.DARKPOSE),
        (maps, dataclasses.replace(recipes.DARKPOSE, activation="softmax")),
        (maps, dataclasses.replace(recipes.DARKPOSE, score="mass")),
    ]
    for given_maps, recipe in others:
        testing.assert_same_keypoints(
            dark_kernels.decode(given_maps, recipe, backend="numba"),
            dark_kernels.decode(given_maps, recipe, backend="eager"),
        )
    monkeypatch.setattr(eager, "decode_fwd", fails)
    dark_kernels.decode(maps, backend="numba")
    for given_maps, recipe in others:
        with pytest.raises(AssertionError, match="eager was called"):
            dark_kernels.decode(given_maps, recipe, backend="numba")


def test_ties_go_to_the_first() -> None:
    maps = torch.zeros(1, 3, 40, 30)
    for y, x in ((33, 4), (20, 21), (20, 9)):
        maps[0, 0, y, x] = 1.0
        maps[0, 1, y - 3 : y + 4, x - 3 : x + 4] = 1.0
    maps[0, 2] = -1.0
    maps[0, 2, 30, 5], maps[0, 2, 2, 7] = 0.0, -0.0  # which are equal
    for searched in ("raw", "blurred", "matched"):
        recipe = dataclasses.replace(recipes.MMPOSE_DARK, stencil="none", argmax_on=searched)
        coords = dark_kernels.decode(maps[:, :2], recipe, backend="numba").coords
        expected = dark_kernels.decode(maps[:, :2], recipe, backend="reference").coords
        assert torch.equal(coords, expected), searched
    _, place, _ = compiled_loops._find_maximum(maps[0, 2].numpy(), np.empty(5, np.float32))
    assert divmod(place, 30) == (2, 7)


def test_indices_that_nobody_has_checked_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a compiled model: the loops would read what there is."""
    maps = torch.rand(1, 3, 8, 8)
    for wrong in (-1, 3):
        indices = torch.tensor([0, wrong])
        numbers = recipes.DARKPOSE.operator_arguments
        with pytest.raises(IndexError, match="expected 0 to 2"):
            torch.ops.dark_kernels.decode(maps, *numbers, False, "numba", keypoint_indices=indices)


def test_no_cache_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither the source's folder nor the user's can be written to, each process compiles."""
    compile_ = threads.numba.njit

    def njit(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    monkeypatch.setattr(threads.numba, "njit", njit)
    assert threads.entry(lambda number: number + 1)(2) == 3
