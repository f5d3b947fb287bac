"""decode: every recipe that differs in code, and what decode takes besides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import HUGE, Call, Room, empty_maps, ending
from benchmarks.workloads import W1, W2, W3, W5, Workload
from dark_kernels import recipes
from dark_kernels.recipes import DARKPOSE, FIT, MATCHED, MEGVII, MMPOSE_UDP, Recipe

_RECIPES = [recipe for recipe in recipes.ALL if recipe.name != "mmpose_dark"]  # DARKPOSE but for a number
_SIZES = [
    *(dataclasses.replace(DARKPOSE, name=f"darkpose k={size}", kernel_size=size) for size in (17, 61, 5)),
    dataclasses.replace(FIT, name="fit r=15", fit_radius=15),
]
_BOUNDED = dataclasses.replace(DARKPOSE, name="darkpose bounded", max_offset=1.0)
_OF_KNOWN_WIDTH = dataclasses.replace(FIT, name="fit of known width", target_sigma=2.0)
# Every stencil goes with every search.
_MIXED = [
    dataclasses.replace(MATCHED, name="gaussian on raw", argmax_on="raw"),
    dataclasses.replace(MATCHED, name="gaussian on blurred", argmax_on="blurred"),
    dataclasses.replace(FIT, name="fit on blurred", argmax_on="blurred"),
    dataclasses.replace(DARKPOSE, name="darkpose on matched", argmax_on="matched"),
]
_LARGE_BLOBS = [dataclasses.replace(MATCHED, name=f"matched s={sigma}", blob_sigma=sigma) for sigma in (4.0, 11.0)]
# Logits, which are summed or activated in the scan, and scores that are a share of the map.
_WITH_SCORES = [
    dataclasses.replace(recipe, name=f"{recipe.name} {activation} {score}", activation=activation, score=score)
    for recipe, activation, score in (
        (DARKPOSE, "none", "mass"),
        (DARKPOSE, "sigmoid", "peak"),
        (DARKPOSE, "sigmoid", "mass"),
        (DARKPOSE, "softmax", "peak"),
        (MMPOSE_UDP, "softmax", "mass"),
        (MEGVII, "softmax", "mass"),
        (FIT, "softmax", "mass"),
        (MATCHED, "sigmoid", "mass"),
    )
]
_EVERYWHERE = {
    ("darkpose none mass +cov", "W2", "float16"),
    ("mmpose_udp softmax mass", "W1", "float32"),
    ("darkpose +cov", "W1", "float32"),
    ("megvii", "W1", "float16"),
    ("mmpose_legacy_udp", "W2", "bfloat16"),
    ("mmpose_udp +cov", "W3", "float32"),
    ("darkpose k=17 +cov", "W2", "bfloat16"),
    ("fit +cov", "W1", "float32"),
    ("fit +cov", "W2", "float16"),
    ("fit r=15 +cov", "W2", "float32"),
    ("matched +cov", "W1", "float32"),
}
# Of W2 and W3 the short list has these.
_SOME_FLOAT32, _SOME_HALF = {"darkpose", "mmpose_udp", "megvii", "argmax"}, {"darkpose", "megvii"}


def _calls(full: bool) -> Iterator[Call]:
    """W1, W2 and W3 differ in launch shape and in divisibility."""
    for workload in (W1, W2, W3):
        for dtype in workloads.DTYPES:
            for recipe in (*_RECIPES, *_SIZES):
                is_whole = workload is W1 and dtype == "float32"
                some = _SOME_FLOAT32 if dtype == "float32" else _SOME_HALF
                is_first = recipe.name in some and workload is not W1
                call = _call(recipe, workload, dtype, recipe.has_hessian)
                if full or is_whole or is_first or call.everywhere:
                    yield call
                if recipe.has_hessian and (full or (is_whole and recipe.name in _SOME_FLOAT32)):
                    yield _call(recipe, workload, dtype, False)
    for dtype in workloads.DTYPES:
        for recipe in _RECIPES:
            is_first = recipe is DARKPOSE and dtype != "bfloat16"
            if full or is_first or (recipe in (MEGVII, FIT, MATCHED) and dtype == "float32"):
                yield _call(recipe, W2, dtype, False, "channels_last")
    for recipe in _WITH_SCORES:
        yield _call(recipe, W1, "float32", False)
        yield _call(recipe, W2, "float16", recipe.has_hessian)
        if full or recipe.stencil not in ("fit", "gaussian"):
            yield _call(recipe, W2, "float32", False, "channels_last")
    for recipe in (*_MIXED, *_LARGE_BLOBS):
        yield _call(recipe, W2, "float32", recipe.has_hessian)
    for recipe in _BOUNDED, _OF_KNOWN_WIDTH:
        yield _call(recipe, W1, "float32", True)
    for layout in ("contiguous", "channels_last"):
        yield _call(DARKPOSE, HUGE, "float16", False, layout)
    for layout in ("cropped", "cropped channels_last"):
        yield _call(DARKPOSE, W1, "float32", False, layout)
    yield from _calls_with_extras(full)
    if full:
        yield _call(DARKPOSE, W5, "float32", False)


def _call(recipe: Recipe, workload: Workload, dtype: str, covariance: bool, layout: str = "contiguous") -> Call:
    def launch(module: ModuleType) -> None:
        from dark_kernels.decode import library

        heatmaps = empty_maps(workload.shape, dtype, layout)
        outputs = library.empty_outputs(heatmaps, covariance)
        module.decode_fwd(*outputs, heatmaps, recipe.operator_arguments, covariance)

    name = recipe.name + (" +cov" if covariance else "")
    label = f"{name} {workload.name} {dtype}{ending(layout)}"
    everywhere = layout == "contiguous" and (name, workload.name, dtype) in _EVERYWHERE
    return Call(label, launch, layout == "contiguous", everywhere)


def _calls_with_extras(full: bool) -> Iterator[Call]:
    """Mirrored maps, chosen channels, a way to the image, offset maps."""
    from dark_kernels.decode.api import UDP_COMBINED

    flip, everything = "flipped flip_indices", "flipped flip_indices shift_flipped keypoint_indices image_transform"
    for dtype in workloads.DTYPES:
        yield _call_with_extras("flip", DARKPOSE, W2, dtype, flip, full or dtype == "float16")
    yield _call_with_extras("offsets", UDP_COMBINED, W1, "float32", "offsets offset_scale", full)
    yield _call_with_extras("flip, indices, image", MMPOSE_UDP, W1, "float16", everything, True)
    yield _call_with_extras("flip, indices, image", DARKPOSE, W1, "float32", everything, full, layout="channels_last")
    yield _call_with_extras("softmax and mass, flip, image", _WITH_SCORES[4], W2, "float32", everything, full)
    yield _call_with_extras("fit, flip, image", FIT, W2, "float32", everything, True)
    yield _call_with_extras("matched, flip, image", MATCHED, W2, "float32", everything, full)
    for recipe in _WITH_SCORES:
        # A search in strips takes ten times as long to compile.
        is_everywhere = full or (recipe.score == "mass" and recipe.argmax_on == "raw")
        yield _call_with_extras(f"{recipe.name} flip", recipe, W1, "float32", flip, is_everywhere)
    if full:
        for recipe in recipes.ALL:
            yield _call_with_extras(f"{recipe.name} flip", recipe, W3, "float32", flip, full)


def _call_with_extras(
    name: str,
    recipe: Recipe,
    workload: Workload,
    dtype: str,
    extras: str,
    everywhere: bool,
    layout: str = "contiguous",
) -> Call:
    """`extras`: the names of those given."""

    def launch(module: ModuleType) -> None:
        from dark_kernels.decode import library
        from dark_kernels.decode.options import Extras

        batch, channels, height, width = workload.shape
        heatmaps = empty_maps(workload.shape, dtype, layout)
        values = {
            "flipped": torch.empty_like(heatmaps),
            "flip_indices": torch.empty(channels, dtype=torch.int64),
            "shift_flipped": True,
            "keypoint_indices": torch.empty(5, dtype=torch.int64),
            "image_transform": torch.empty(batch, 2, 3),
            "offsets": heatmaps.new_empty((batch, channels, 2, height, width)),
            "offset_scale": 3.5,
        }
        given = Extras(**{name: values[name] for name in extras.split()})
        outputs = library.empty_outputs(heatmaps, recipe.has_hessian, given)
        module.decode_fwd(*outputs, heatmaps, recipe.operator_arguments, recipe.has_hessian, given)

    label = f"{name} {workload.name} {dtype}{ending(layout)}"
    return Call(label, launch, layout == "contiguous", everywhere)


ROOM = Room(
    "decode",
    "dark_kernels.decode.kernels",
    _calls,
    # Interleaved maps are read by a kernel of their own, and decode then has no streaming loop.
    loads={"_decode_fwd_kernel": ("load_whole",), "_scan_parts_kernel": ("load_rest",)},
)
