"""find_peaks: rules, windows and lengths of the list."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from types import ModuleType

from benchmarks import workloads
from benchmarks.static.calls import HUGE, Call, Room, empty_maps, ending
from benchmarks.workloads import W1, W2, W3, Workload
from dark_kernels import recipes
from dark_kernels.peaks.options import Rule
from dark_kernels.recipes import Recipe

_WIDE_BLUR = dataclasses.replace(
    recipes.MMPOSE_UDP, name="mmpose_udp on blurred k=61", kernel_size=61, padding="reflect", argmax_on="blurred"
)
_FIT_ON_BLURRED = dataclasses.replace(recipes.FIT, name="fit on blurred", argmax_on="blurred")
_LARGE_BLOBS = dataclasses.replace(recipes.MATCHED, name="matched s=11", blob_sigma=11.0)
_WITH_SCORES = [
    dataclasses.replace(recipe, name=f"{recipe.name} {activation} {score}", activation=activation, score=score)
    for recipe, activation, score in (
        (recipes.DARKPOSE, "none", "mass"),
        (recipes.DARKPOSE, "sigmoid", "peak"),
        (recipes.DARKPOSE, "softmax", "mass"),
        (recipes.MEGVII, "softmax", "mass"),
        (recipes.FIT, "softmax", "mass"),
        (recipes.MATCHED, "softmax", "mass"),
    )
]


def _calls(full: bool) -> Iterator[Call]:
    """W1, W2 and W3 differ in launch shape and in divisibility."""
    yield _call(recipes.DARKPOSE, W1, "float32", 30)
    yield _call(recipes.MMPOSE_UDP, W2, "bfloat16", 100, 5, "all")
    yield _call(recipes.MMPOSE_LEGACY_UDP, W3, "float16", 128, 7, "none")
    yield _call(recipes.QUARTER, W2, "float32", 1)
    yield _call(recipes.MEGVII, W1, "float32", 30)
    yield _call(_WIDE_BLUR, W3, "float16", 128, 5, "all")
    yield _call(recipes.DARKPOSE, W2, "float16", 30, layout="channels_last")
    yield _call(recipes.FIT, W2, "float32", 30)
    yield _call(_FIT_ON_BLURRED, W2, "float32", 30)
    yield _call(recipes.MATCHED, W2, "float32", 30)
    yield _call(recipes.MATCHED, W1, "float16", 30)
    yield _call(_LARGE_BLOBS, W2, "float32", 30)
    yield _call(recipes.DARKPOSE, W1, "float32", 30, layout="cropped")
    yield _call(recipes.DARKPOSE, HUGE, "float16", 30)
    for recipe in _WITH_SCORES:
        yield _call(recipe, W2, "float32", 30)
    yield _call(_WITH_SCORES[2], W1, "float16", 30)
    if full:
        for recipe, dtype in itertools.product(recipes.ALL, workloads.DTYPES):
            yield _call(recipe, W3, dtype, 30)


def _call(
    recipe: Recipe,
    workload: Workload,
    dtype: str,
    max_peaks: int,
    window: int = 3,
    plateau: str = "first",
    layout: str = "contiguous",
) -> Call:
    def launch(module: ModuleType) -> None:
        from dark_kernels.peaks import library

        heatmaps = empty_maps(workload.shape, dtype, layout)
        outputs = library.empty_outputs(heatmaps, max_peaks, recipe.has_hessian)
        options = (Rule(max_peaks, 0.1, window, plateau), recipe.operator_arguments, recipe.has_hessian)
        module.find_peaks_fwd(*outputs, heatmaps, *options)

    label = f"{recipe.name} {max_peaks} peaks, {plateau} of {window} {workload.name} {dtype}{ending(layout)}"
    # A search in strips, and a fit of a blob, take ten times as long to compile as others.
    is_quick = recipe.argmax_on == "raw" or recipe in (recipes.MEGVII, recipes.MATCHED)
    everywhere = layout == "contiguous" and workload is not HUGE and is_quick
    return Call(label, launch, layout == "contiguous", everywhere)


ROOM = Room("peaks", "dark_kernels.peaks.kernels", _calls, loads={"_find_peaks_fwd_kernel": ("load_whole",)})
