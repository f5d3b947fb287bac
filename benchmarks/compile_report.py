"""Compile every kernel at its real configurations for many GPUs, without a GPU, and say what came out.

    python -m benchmarks.compile_report [--json PATH] [--targets sm_90,gfx942] [-k WORDS] [--full]

Prints a table: registers, spills, shared memory and the widths of the loads in the streaming loop. Fails
(exit code 1, naming the offender) on a spill, on a streaming loop over contiguous and aligned maps whose loads are
narrower than 16 bytes, on a sum over lanes that is not the same in all of them, and on a target that does not compile.
Exit code 2 says that it could not run.

The configurations are those of the launchers themselves: a launcher is called on fake tensors with its
kernels replaced by recorders, and what it would have launched is compiled through Triton's own
specialisation. To add a room, add a row to `ROOMS`; a `kernels.py` or `kernels_<part>.py` of the package without
a row is an error.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import math
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import dark_kernels
from benchmarks import workloads
from dark_kernels import recipes

NVIDIA_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120")
AMD_TARGETS = ("gfx90a", "gfx942", "gfx1100")
TARGETS = NVIDIA_TARGETS + AMD_TARGETS
# The long list of configurations is compiled for one GPU of each maker, the short one for all.
LONG_LIST_TARGETS = ("sm_90", "gfx942")

# A load or store of the streaming loop is at least this wide where the map is one aligned run of memory.
WIDE_ACCESS = 16


# --- the rooms, and what they launch ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a launcher, to be recorded.

    Attributes:
        label: For the table: what is decoded, from what.
        launch: Calls the launcher of the given module on tensors that it makes itself.
        contiguous: Whether the kernel's maps are one run of memory, so that wide loads are due.
        everywhere: Compiled for every target, not only for `LONG_LIST_TARGETS`.
    """

    label: str
    launch: Callable[[ModuleType], None]
    contiguous: bool = True
    everywhere: bool = False


@dataclasses.dataclass(frozen=True)
class Room:
    """A module with kernels.

    Attributes:
        name: For the table.
        module: Its import name.
        loads: For each kernel that walks over maps, the functions, of the module or imported by it, in which its loop's
            `tl.load`s stand. Kernels that are not named are not judged by their loads.
        stores: The same for the `tl.store`s of a kernel that fills maps.
        calls: The calls to record; True asks for all of them, False for a selection that CI has time for.
    """

    name: str
    module: str
    calls: Callable[[bool], Iterable[Call]]
    loads: dict[str, tuple[str, ...]]
    stores: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def _decode_calls(full: bool) -> Iterator[Call]:
    """Every recipe that differs in code; W1, W2 and W3 differ in launch shape and in divisibility."""
    all_recipes = [recipe for recipe in recipes.ALL if recipe.name != "mmpose_dark"]  # DARKPOSE but for a number
    taps_17 = dataclasses.replace(recipes.DARKPOSE, name="darkpose k=17", kernel_size=17)
    taps_61 = dataclasses.replace(recipes.DARKPOSE, name="darkpose k=61", kernel_size=61)
    taps_5 = dataclasses.replace(recipes.DARKPOSE, name="darkpose k=5", kernel_size=5)
    fit_15 = dataclasses.replace(recipes.FIT, name="fit r=15", fit_radius=15)
    w1, w2, w3 = workloads.W1, workloads.W2, workloads.W3
    everywhere = {
        ("darkpose +cov", "W1", "float32"),
        ("megvii", "W1", "float16"),
        ("mmpose_legacy_udp", "W2", "bfloat16"),
        ("mmpose_udp +cov", "W3", "float32"),
        ("darkpose k=17 +cov", "W2", "bfloat16"),
        ("fit +cov", "W1", "float32"),
        ("fit +cov", "W2", "float16"),
        ("fit r=15 +cov", "W2", "float32"),
    }
    some, two = {"darkpose", "mmpose_udp", "megvii", "argmax"}, {"darkpose", "megvii"}

    def call(recipe: Any, workload: Any, dtype: str, covariance: bool, memory_format: str = "contiguous") -> Call:
        def launch(module: ModuleType) -> None:
            from dark_kernels.decode import library

            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            if memory_format == "channels_last":
                heatmaps = heatmaps.to(memory_format=torch.channels_last)
            outputs = library.empty_outputs(heatmaps, covariance)
            module.decode_fwd(*outputs, heatmaps, *recipe.operator_arguments, covariance)

        name = recipe.name + (" +cov" if covariance else "")
        contiguous = memory_format == "contiguous"
        label = f"{name} {workload.name} {dtype}" + ("" if contiguous else " channels_last")
        return Call(label, launch, contiguous, contiguous and (name, workload.name, dtype) in everywhere)

    for workload in (w1, w2, w3):
        for dtype in workloads.DTYPES:
            for recipe in [*all_recipes, taps_17, taps_61, taps_5, fit_15]:
                is_whole = workload is w1 and dtype == "float32"
                is_first = recipe.name in (some if dtype == "float32" else two) and workload is not w1
                name = recipe.name + (" +cov" if recipe.has_hessian else "")
                if full or is_whole or is_first or (name, workload.name, dtype) in everywhere:
                    yield call(recipe, workload, dtype, recipe.has_hessian)
                if recipe.has_hessian and (full or (is_whole and recipe.name in some)):
                    yield call(recipe, workload, dtype, False)
    for dtype in workloads.DTYPES:
        for recipe in all_recipes:
            if full or (recipe.name == "darkpose" and dtype != "bfloat16"):
                yield call(recipe, w2, dtype, False, "channels_last")
    yield from _decode_extras_calls(full)
    if full:
        yield call(recipes.DARKPOSE, workloads.W5, "float32", False)


def _decode_extras_calls(full: bool) -> Iterator[Call]:
    """What decode takes besides: mirrored maps, chosen channels, a way to the image, offset maps."""
    from dark_kernels.decode.api import UDP_COMBINED

    def call(label: str, recipe: Any, workload: Any, dtype: str, names: str, memory_format: str = "contiguous") -> Call:
        def launch(module: ModuleType) -> None:
            from dark_kernels.decode import library
            from dark_kernels.decode.options import Extras

            batch, channels, height, width = workload.shape
            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            if memory_format == "channels_last":
                heatmaps = heatmaps.to(memory_format=torch.channels_last)
            values = {
                "flipped": torch.empty_like(heatmaps),
                "flip_indices": torch.empty(channels, dtype=torch.int64),
                "shift_flipped": True,
                "keypoint_indices": torch.empty(5, dtype=torch.int64),
                "image_transform": torch.empty(batch, 2, 3),
                "offsets": heatmaps.new_empty((batch, channels, 2, height, width)),
                "offset_scale": 3.5,
            }
            extras = Extras(**{name: values[name] for name in names.split()})
            outputs = library.empty_outputs(heatmaps, recipe.has_hessian, extras)
            module.decode_fwd(*outputs, heatmaps, *recipe.operator_arguments, recipe.has_hessian, extras=extras)

        contiguous = memory_format == "contiguous"
        name = f"{label} {workload.name} {dtype}" + ("" if contiguous else " channels_last")
        return Call(name, launch, contiguous, everywhere=full)

    flip, everything = "flipped flip_indices", "flipped flip_indices shift_flipped keypoint_indices image_transform"
    for dtype in workloads.DTYPES:
        yield call("flip", recipes.DARKPOSE, workloads.W2, dtype, flip)
    yield call("offsets", UDP_COMBINED, workloads.W1, "float32", "offsets offset_scale")
    yield call("flip, indices, image", recipes.MMPOSE_UDP, workloads.W1, "float16", everything)
    yield call("flip, indices, image", recipes.DARKPOSE, workloads.W1, "float32", everything, "channels_last")
    yield call("fit, flip, image", recipes.FIT, workloads.W2, "float32", everything)
    if full:
        for recipe in recipes.ALL:
            yield call(f"{recipe.name} flip", recipe, workloads.W3, "float32", flip)


def _nll_calls(full: bool) -> Iterator[Call]:
    """Every form of the loss; W1 contiguous and channels_last, W3 for its 308 keypoints."""

    def call(workload: Any, dtype: str, form: int, distribution: str, channels_last: bool) -> Call:
        def launch(module: ModuleType) -> None:
            batch, num_keypoints, height, width = workload.shape
            kind = workloads.DTYPES[dtype]
            options = _nll_options(distribution)

            def maps(channels: int) -> torch.Tensor:
                if channels_last:
                    empty = torch.empty((batch, height, width, num_keypoints, channels), dtype=kind)
                    return empty.permute(0, 3, 4, 1, 2)
                return torch.empty((batch, num_keypoints, channels, height, width), dtype=kind)

            target, weight = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
            loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
            for reduction in ("none", "mean_valid"):
                output = weight if reduction == "none" else loss
                module.gaussian_nll_fwd(output, loss, values, maps(2), maps(form), target, weight, options, reduction)
            module.gaussian_nll_bwd(maps(2), maps(form), loss, values, target, weight, loss, height, width, options)

        label = f"{distribution} {form} {workload.name} {dtype}" + (" channels_last" if channels_last else "")
        return Call(label, launch, not channels_last, everywhere=True)

    yield call(workloads.W1, "float32", 1, "gaussian", False)
    yield call(workloads.W1, "float16", 3, "gaussian", True)
    yield call(workloads.W3, "bfloat16", 2, "laplace", False)
    if full:
        for form, distribution in _NLL_FORMS:
            for dtype, channels_last in itertools.product(workloads.DTYPES, (False, True)):
                yield call(workloads.W2, dtype, form, distribution, channels_last)


def _linear_nll_calls(full: bool) -> Iterator[Call]:
    """The same of the linear form; W3 for its 308 keypoints and 768 features."""

    def call(workload: Any, dtype: str, form: int, distribution: str, channels_last: bool, features: int) -> Call:
        def launch(module: ModuleType) -> None:
            batch, num_keypoints, height, width = workload.shape
            options = _nll_options(distribution)
            image = torch.empty((batch, features, height, width), dtype=workloads.DTYPES[dtype])
            if channels_last:
                image = image.to(memory_format=torch.channels_last)
            head, bias = torch.empty(num_keypoints * (2 + form), features), torch.empty(num_keypoints * (2 + form))
            target, weight = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
            loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
            for reduction in ("none", "mean_valid"):
                output = weight if reduction == "none" else loss
                inputs = (image, head, bias, target, weight, options, reduction)
                module.linear_gaussian_nll_fwd(output, loss, values, *inputs)
            module.linear_gaussian_nll_bwd(image, head, bias, loss, values, image, head, target, weight, loss, options)

        label = f"linear {distribution} {form} {workload.name} {dtype}" + (" channels_last" if channels_last else "")
        return Call(label, launch, not channels_last, everywhere=True)

    yield call(workloads.W1, "float32", 1, "gaussian", False, 32)
    yield call(workloads.W1, "float16", 3, "gaussian", True, 32)
    yield call(workloads.W3, "bfloat16", 2, "laplace", False, 768)
    if full:
        for form, distribution in _NLL_FORMS:
            for dtype, channels_last in itertools.product(workloads.DTYPES, (False, True)):
                yield call(workloads.W2, dtype, form, distribution, channels_last, 48)


_NLL_FORMS = ((1, "gaussian"), (2, "gaussian"), (3, "gaussian"), (1, "laplace"), (2, "laplace"))


def _nll_options(distribution: str) -> Any:
    from dark_kernels.nll.options import Options

    return Options(4.0, True, distribution, 0.5, None, -7.0, 7.0, True)


def _mixture_nll_calls(full: bool) -> Iterator[Call]:
    """1 to 8 components; W1 contiguous and channels_last, W3 for its 308 keypoints."""

    def call(workload: Any, dtype: str, num_components: int, bounds: float, channels_last: bool) -> Call:
        def launch(module: ModuleType) -> None:
            batch, num_keypoints, height, width = workload.shape

            def maps(*channels: int) -> torch.Tensor:
                shape = (batch, num_keypoints, *channels, height, width)
                if channels_last:
                    empty = torch.empty((batch, height, width, num_keypoints, *channels), dtype=workloads.DTYPES[dtype])
                    return empty.movedim((1, 2), (-2, -1))
                return torch.empty(shape, dtype=workloads.DTYPES[dtype])

            three = maps(num_components), maps(num_components, 2), maps(num_components)
            target, weight = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
            number, cells = torch.empty(()), torch.empty(batch, num_keypoints, dtype=torch.int64)
            slopes = torch.empty(batch, num_keypoints, 4 * num_components)
            for reduction in ("none", "mean_valid"):
                outputs = (weight if reduction == "none" else number, number, slopes, cells)
                module.gaussian_mixture_nll_fwd(*outputs, *three, target, weight, 4.0, True, -bounds, bounds, reduction)
            module.gaussian_mixture_nll_bwd(*three, number, number, slopes, cells, height, width, channels_last)

        label = f"mixture of {num_components} {workload.name} {dtype}" + (" channels_last" if channels_last else "")
        return Call(label, launch, not channels_last, everywhere=True)

    yield call(workloads.W1, "float32", 3, 7.0, False)
    yield call(workloads.W1, "float16", 8, 7.0, True)
    yield call(workloads.W3, "bfloat16", 1, math.inf, False)
    yield call(workloads.W2, "float16", 8, math.inf, False)
    if full:
        for num_components in range(1, 9):
            for dtype in workloads.DTYPES:
                for channels_last in (False, True):
                    yield call(workloads.W2, dtype, num_components, 7.0, channels_last)


def _simcc_calls(full: bool) -> Iterator[Call]:
    """With and without DARK and visibility, with a Gaussian blur and with a table; 1024 bins take more warps, 4096 a
    loop."""

    def call(shape: tuple[int, int, int, int], dtype: str, kernel_size: int, visibility: bool, mean: bool) -> Call:
        def launch(module: ModuleType) -> None:
            *keypoints, x_width, y_width = shape
            axes = [torch.empty((*keypoints, width), dtype=workloads.DTYPES[dtype]) for width in (x_width, y_width)]
            taps = recipes.opencv_taps(kernel_size) if kernel_size else None
            sharpness = 735.0 if visibility else 0.0
            outputs = torch.empty((*keypoints, 2)), torch.empty(keypoints), torch.empty(keypoints)
            module.decode_simcc_fwd(*outputs, *axes, taps, taps, sharpness, sharpness, 2.0, mean)

        options = f"k={kernel_size}" + (" +visibility" if visibility else "") + (" mean" if mean else "")
        return Call(f"simcc {options} {list(shape)} {dtype}", launch, everywhere=True)

    yield call((64, 17, 384, 512), "float32", 29, True, False)
    yield call((64, 133, 384, 512), "float16", 29, True, False)
    yield call((64, 17, 384, 512), "bfloat16", 0, False, True)
    yield call((64, 17, 768, 1024), "float32", 7, False, False)
    yield call((4, 17, 4096, 4096), "float32", 601, True, False)
    if full:
        for dtype in workloads.DTYPES:
            for kernel_size in (0, 1, 9, 29, 35):
                for visibility in (False, True):
                    yield call((64, 17, 384, 512), dtype, kernel_size, visibility, False)


def _nms_calls(full: bool) -> Iterator[Call]:
    """A few and many poses an image; each method, with image ids and without, with and without what is optional."""

    def call(num_poses: int, num_keypoints: int, dtype: str, method: str, optional: bool, is_flat: bool) -> Call:
        def launch(module: ModuleType) -> None:
            shape = (1 if is_flat else 64, num_poses)
            kappas = torch.empty(num_keypoints)
            poses = torch.empty((*shape, num_keypoints, 2), dtype=workloads.DTYPES[dtype])
            scores, areas = torch.empty(shape), torch.empty(shape)
            visible = torch.empty((*shape, num_keypoints), dtype=torch.bool) if optional else None
            module.oks_fwd(torch.empty(*shape, num_poses), poses, poses, areas, areas, kappas, visible, visible)
            keep, indices = torch.empty(shape, dtype=torch.bool), torch.empty(shape, dtype=torch.int64)
            image_ids = torch.empty(num_poses, dtype=torch.int64) if is_flat else None
            mask = scores if optional else None
            inputs = (poses, scores, areas, kappas, visible, mask, image_ids)
            module.oks_nms_fwd(keep, indices, indices[:, 0], scores, *inputs, 0.9, method, num_poses)

        label = f"{method} NMS of {num_poses} {dtype}" + (" with image ids" if is_flat else "")
        return Call(label, launch, everywhere=True)

    yield call(30, 17, "float32", "hard", True, False)
    yield call(100, 17, "float16", "gaussian", False, False)
    yield call(1000, 133, "bfloat16", "linear", True, False)
    yield call(2000, 17, "float32", "hard", False, True)
    yield call(300, 17, "float16", "gaussian", True, True)
    if full:
        for dtype, method in itertools.product(workloads.DTYPES, ("hard", "gaussian", "linear")):
            for optional, is_flat in itertools.product((False, True), repeat=2):
                yield call(300, 17, dtype, method, optional, is_flat)


def _sampling_calls(full: bool) -> Iterator[Call]:
    """Even and odd numbers of samples; the keypoints of W1 and W3."""

    def call(workload: Any, dtype: str, n: int) -> Call:
        def launch(module: ModuleType) -> None:
            means = torch.empty((workload.num_maps, 2), dtype=workloads.DTYPES[dtype])
            covariances = torch.empty((workload.num_maps, 2, 2), dtype=workloads.DTYPES[dtype])
            module.sample_keypoints_fwd(torch.empty(workload.num_maps, n, 2), means, covariances, 1, 2**40, 1e-6)

        return Call(f"{n} samples {workload.name} {dtype}", launch, everywhere=True)

    yield call(workloads.W1, "float32", 100)
    for dtype in workloads.DTYPES if full else ("float16",):
        yield call(workloads.W3, dtype, 33)


def _voting_calls(full: bool) -> Iterator[Call]:
    """Votes by heatmap and by density, few and many."""

    def call(workload: Any, dtype: str, num_samples: int) -> Call:
        def launch(module: ModuleType) -> None:
            shape = workload.shape[:2]
            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            outputs = torch.empty(*shape, 2), torch.empty(shape), torch.empty(*shape, 2, 2)
            samples = torch.empty(*shape, num_samples, 2)
            for maps, bandwidth in ((heatmaps, None), (None, 2.0), (None, None)):
                module.vote_fwd(*outputs, samples, maps, bandwidth)

        return Call(f"{num_samples} votes {workload.name} {dtype}", launch, everywhere=True)

    yield call(workloads.W1, "float32", 100)
    for dtype in workloads.DTYPES if full else ("float16",):
        yield call(workloads.W3, dtype, 1000)


def _soft_argmax_calls(full: bool) -> Iterator[Call]:
    """W1, W2 and W3 differ in width and launch shape; a wide map is walked line by line."""

    def call(shape: Sequence[int], dtype: str, memory_format: str = "contiguous") -> Call:
        def launch(module: ModuleType) -> None:
            heatmaps = torch.empty(tuple(shape), dtype=workloads.DTYPES[dtype])
            if memory_format == "channels_last":
                heatmaps = heatmaps.to(memory_format=torch.channels_last)
            coords, numbers = torch.empty((*shape[:2], 2)), torch.empty(tuple(shape[:2]))
            module.soft_argmax_fwd(coords, numbers, numbers, heatmaps, 10.0)
            gradient = torch.empty_like(heatmaps)
            module.soft_argmax_bwd(gradient, coords, heatmaps, coords, numbers, numbers, 10.0)

        contiguous = memory_format == "contiguous"
        label = f"soft-argmax {list(shape)} {dtype}" + ("" if contiguous else " channels_last")
        return Call(label, launch, contiguous, everywhere=True)

    yield call(workloads.W1.shape, "float32")
    yield call(workloads.W2.shape, "float16")
    yield call(workloads.W3.shape, "bfloat16")
    yield call(workloads.W2.shape, "float32", "channels_last")
    yield call((1, 17, 3000, 4096), "float32")
    if full:
        for workload in (workloads.W1, workloads.W2, workloads.W3):
            for dtype in workloads.DTYPES:
                yield call(workload.shape, dtype)


def _find_peaks_calls(full: bool) -> Iterator[Call]:
    """Rules, windows and lengths of the list; W1, W2 and W3 differ in launch shape and in divisibility."""

    def call(recipe: Any, workload: Any, dtype: str, max_peaks: int, window: int, plateau: str, layout: str) -> Call:
        def launch(module: ModuleType) -> None:
            from dark_kernels.peaks import library

            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            if layout == "channels_last":
                heatmaps = heatmaps.to(memory_format=torch.channels_last)
            outputs = library.empty_outputs(heatmaps, max_peaks, recipe.has_hessian)
            options = (max_peaks, 0.1, window, plateau, *recipe.operator_arguments, recipe.has_hessian)
            module.find_peaks_fwd(*outputs, heatmaps, *options)

        contiguous = layout == "contiguous"
        label = f"{recipe.name} {max_peaks} peaks, {plateau} of {window} {workload.name} {dtype}"
        return Call(label + ("" if contiguous else f" {layout}"), launch, contiguous, everywhere=contiguous)

    wide_blur = dataclasses.replace(recipes.MMPOSE_UDP, name="mmpose_udp on blurred k=61", kernel_size=61)
    wide_blur = dataclasses.replace(wide_blur, padding="reflect", argmax_on="blurred")
    yield call(recipes.DARKPOSE, workloads.W1, "float32", 30, 3, "first", "contiguous")
    yield call(recipes.MMPOSE_UDP, workloads.W2, "bfloat16", 100, 5, "all", "contiguous")
    yield call(recipes.MMPOSE_LEGACY_UDP, workloads.W3, "float16", 128, 7, "none", "contiguous")
    yield call(recipes.QUARTER, workloads.W2, "float32", 1, 3, "first", "contiguous")
    yield call(recipes.MEGVII, workloads.W1, "float32", 30, 3, "first", "contiguous")
    yield call(wide_blur, workloads.W3, "float16", 128, 5, "all", "contiguous")
    yield call(recipes.DARKPOSE, workloads.W2, "float16", 30, 3, "first", "channels_last")
    if full:
        for recipe in recipes.ALL:
            for dtype in workloads.DTYPES:
                yield call(recipe, workloads.W3, dtype, 30, 3, "first", "contiguous")


def _encode_calls(full: bool) -> Iterator[Call]:
    """Every encoding; one person and several, W2 and W3, which differ in divisibility."""

    def call(workload: Any, dtype: str, encoding: str, num_people: int) -> Call:
        def launch(module: ModuleType) -> None:
            batch, num_keypoints, *_ = workload.shape
            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            keypoints, visible = torch.empty(batch, num_people, num_keypoints, 2), None
            if num_people > 1:
                visible = torch.empty(batch, num_people, num_keypoints)
            module.encode_fwd(heatmaps, torch.empty(batch, num_keypoints), keypoints, visible, None, 2.0, encoding)

        label = f"{encoding} {workload.name} {dtype}" + (f" {num_people} people" if num_people > 1 else "")
        return Call(label, launch, everywhere=True)

    yield call(workloads.W2, "float32", "unbiased", 1)
    yield call(workloads.W3, "float16", "udp", 4)
    if full:
        for encoding in ("unbiased", "biased", "udp"):
            for dtype in workloads.DTYPES:
                yield call(workloads.W1, dtype, encoding, 1)


def _heatmap_loss_calls(full: bool) -> Iterator[Call]:
    """Every loss; W2 and W3 contiguous, where all of them have to read and write wide, W2 channels_last."""

    def call(workload: Any, dtype: str, kind: str, encoding: str, num_people: int, channels_last: bool) -> Call:
        def launch(module: ModuleType) -> None:
            from dark_kernels.heatmap_loss.options import Options

            batch, num_keypoints, *_ = workload.shape
            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            if channels_last:
                heatmaps = heatmaps.to(memory_format=torch.channels_last)
            options = Options(kind, encoding, encoding == "biased", num_people > 1, 2.1, 14.0, 1.0, 0.5)
            losses, saved = torch.empty(batch, num_keypoints), torch.empty(batch, num_keypoints, options.num_saved)
            keypoints = torch.empty(batch, num_people, num_keypoints, 2)
            visible = torch.empty(batch, num_people, num_keypoints)
            inputs = (heatmaps, keypoints, visible, losses, None, 2.0, options)
            module.heatmap_loss_fwd(losses, saved, *inputs)
            module.heatmap_loss_bwd(heatmaps, torch.empty(()), 0.1, saved, *inputs)

        label = f"{kind} {encoding} {workload.name} {dtype}" + (f" {num_people} people" if num_people > 1 else "")
        label += " channels_last" if channels_last else ""
        everywhere = (encoding == "unbiased" and not channels_last) or (encoding == "biased" and kind == "mse")
        return Call(label, launch, not channels_last, everywhere)

    w2, w3 = workloads.W2, workloads.W3
    for kind in ("mse", "adaptive_wing", "focal", "cross_entropy", "js"):
        yield call(w2, "float32", kind, "unbiased", 1, False)
        yield call(w3, "float16", kind, "udp", 4, False)
        if full:
            for dtype in workloads.DTYPES:
                yield call(w3, dtype, kind, "biased", 1, False)
                yield call(w2, dtype, kind, "udp", 1, True)
    for kind in ("mse", "adaptive_wing", "focal", "js"):
        yield call(w3, "bfloat16", kind, "biased", 1, False)
    yield call(w2, "float16", "mse", "unbiased", 1, True)


def _read_calls(full: bool) -> Iterator[Call]:
    """The read-only kernel that decode is measured against must not be a slow one."""

    def call(workload: Any, dtype: str) -> Call:
        def launch(module: ModuleType) -> None:
            heatmaps = torch.empty(workload.shape, dtype=workloads.DTYPES[dtype])
            module.read_maps(torch.empty(workload.shape[:2]), heatmaps)
            module.launch_nothing(heatmaps, workload.num_maps)

        return Call(f"read only {workload.name} {dtype}", launch)

    for workload in (workloads.W1, workloads.W2, workloads.W3) if full else (workloads.W2, workloads.W3):
        for dtype in workloads.DTYPES if full else ("float32", "float16"):
            yield call(workload, dtype)


ROOMS: tuple[Room, ...] = (
    Room(
        "decode",
        "dark_kernels.decode.kernels",
        _decode_calls,
        # Interleaved maps are read by a kernel of their own, and decode then has no streaming loop.
        loads={"_decode_fwd_kernel": ("load_whole",), "_scan_parts_kernel": ("load_rest",)},
    ),
    Room(
        "nll",
        "dark_kernels.nll.kernels",
        _nll_calls,
        loads={},
        stores={"_gaussian_nll_bwd_kernel": ("store_tile",)},
    ),
    Room("nll, linear", "dark_kernels.nll.kernels_linear", _linear_nll_calls, loads={}),
    Room(
        "mixture_nll",
        "dark_kernels.mixture_nll.kernels",
        _mixture_nll_calls,
        loads={},
        stores={"_gaussian_mixture_nll_bwd_kernel": ("store_tile",)},
    ),
    Room("simcc", "dark_kernels.simcc.kernels", _simcc_calls, loads={"_decode_simcc_fwd_kernel": ("_load_bins",)}),
    Room("nms", "dark_kernels.nms.kernels", _nms_calls, loads={}),
    Room("sampling", "dark_kernels.sampling.kernels", _sampling_calls, loads={}),
    Room("voting", "dark_kernels.voting.kernels", _voting_calls, loads={}),
    Room(
        "soft_argmax",
        "dark_kernels.soft_argmax.kernels",
        _soft_argmax_calls,
        loads={"_soft_argmax_fwd_kernel": ("_load_pixels",), "_soft_argmax_bwd_kernel": ("_load_pixels",)},
        stores={"_soft_argmax_bwd_kernel": ("_store_pixels",)},
    ),
    Room(
        "peaks",
        "dark_kernels.peaks.kernels",
        _find_peaks_calls,
        loads={"_find_peaks_fwd_kernel": ("load_whole",)},
    ),
    Room(
        "encode",
        "dark_kernels.encode.kernels",
        _encode_calls,
        loads={},
        stores={"_encode_fwd_kernel": ("_store_pixels",)},
    ),
    Room(
        "heatmap_loss",
        "dark_kernels.heatmap_loss.kernels",
        _heatmap_loss_calls,
        loads={"_heatmap_loss_fwd_kernel": ("_load_pixels",), "_heatmap_loss_bwd_kernel": ("_load_pixels",)},
        stores={"_heatmap_loss_bwd_kernel": ("_heatmap_loss_bwd_kernel",)},
    ),
    Room("benchmark", "benchmarks.kernels", _read_calls, loads={"_read_maps_kernel": ("_read_maps_kernel",)}),
)


# --- recording ----------------------------------------------------------------------------------------------


class Pointer:
    """What Triton's specialisation asks of a tensor, in a form that can be sent to another process.

    Allocators align to 16 bytes and more, so alignment follows from the storage offset.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype = tensor.dtype
        self._offset = tensor.storage_offset() * tensor.itemsize
        self._storage_bytes = tensor.untyped_storage().nbytes()

    def data_ptr(self) -> int:
        return self._offset

    def ptr_range(self) -> int:
        """The AMD backend addresses storages below 2^31 bytes with 32-bit offsets."""
        return self._storage_bytes


@dataclasses.dataclass(frozen=True)
class Launch:
    """A recorded launch: enough to compile it elsewhere."""

    room: str
    module: str
    kernel: str
    label: str
    contiguous: bool
    everywhere: bool
    loads: tuple[str, ...]
    stores: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Recorder:
    """Stands in for a kernel: `recorder[grid](...)` notes the arguments and launches nothing."""

    def __init__(self, kernel: str, launches: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def record(*args: Any, **kwargs: Any) -> None:
            def portable(value: Any) -> Any:
                return Pointer(value) if isinstance(value, torch.Tensor) else value

            noted = {name: portable(value) for name, value in kwargs.items()}
            self._launches.append((self._kernel, tuple(map(portable, args)), noted))

        return record


def _kernels_of(module: ModuleType) -> dict[str, Any]:
    """The jitted functions that a module defines and launches: those named `..._kernel`."""
    from triton.runtime.jit import JITFunction

    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith("_kernel") and value.module == module.__name__
    }


@contextlib.contextmanager
def _recorded(module: ModuleType) -> Iterator[list[tuple[str, tuple[Any, ...], dict[str, Any]]]]:
    kernels = _kernels_of(module)
    launches: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    try:
        for name in kernels:
            setattr(module, name, _Recorder(name, launches))
        yield launches
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)


def record_launches(room: Room, full: bool = False, lanes: int = 32) -> list[Launch]:
    """Everything that the launchers of a room would launch, from fake tensors, on a GPU with so many lanes a warp."""
    module = importlib.import_module(room.module)
    found: list[Launch] = []
    for call in room.calls(full):
        elsewhere = mock.patch("dark_kernels._triton.launch.LANES_ELSEWHERE", lanes)
        with FakeTensorMode(), elsewhere, _recorded(module) as launches:
            call.launch(module)
        if not launches:
            raise RuntimeError(f"{room.name}: {call.label} launches no kernel; nothing was recorded")
        for kernel, args, kwargs in launches:
            streaming = (room.loads.get(kernel, ()), room.stores.get(kernel, ()))
            about = (room.name, room.module, kernel, call.label, call.contiguous, call.everywhere)
            found.append(Launch(*about, *streaming, args, kwargs))
    forgotten = set(_kernels_of(module)) - {launch.kernel for launch in found}
    if forgotten:
        raise RuntimeError(f"{room.name}: no call of it launches {', '.join(sorted(forgotten))}")
    return found


def unregistered_modules() -> list[str]:
    """Modules of the package named `kernels` that no room registers."""
    known = {room.module for room in ROOMS}
    modules = pkgutil.walk_packages(dark_kernels.__path__, dark_kernels.__name__ + ".")
    return sorted(m.name for m in modules if m.name.rsplit(".", 1)[-1].startswith("kernels") and m.name not in known)


# --- compiling ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """One line of the table. None where a number does not apply or was not found."""

    kernel: str
    configuration: str
    target: str
    registers: int | None = None
    spilled_bytes: int | None = None
    scalar_spills: int = 0
    shared_bytes: int | None = None
    narrowest_load: int | None = None
    widest_load: int | None = None
    narrowest_store: int | None = None
    widest_store: int | None = None
    bytes_per_element: float | None = None
    resident_warps: int | None = None
    seconds: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)


def _gpu_target(name: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 32 if name.startswith(("gfx10", "gfx11", "gfx12")) else 64)


def _specialised(launch: Launch, target: Any) -> tuple[Any, dict[str, Any]]:
    """Source and options as `kernel[grid](...)` would hand them to the compiler on that target."""
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    # The launcher ran here, where PyTorch is not built for AMD; there it leaves out what is NVIDIA's alone.
    kwargs = {name: value for name, value in launch.kwargs.items() if target.backend == "cuda" or name != "maxnreg"}
    bound, specialisation, options = bind(*launch.args, **kwargs)
    options, signature, constants, attributes = kernel._pack_args(backend, dict(kwargs), bound, specialisation, options)
    return ASTSource(kernel, signature, constants, attributes), options.__dict__


def compile_launch(launch: Launch, target_name: str) -> Row:
    """Compile one launch for one target and judge it. Runs in a worker process."""
    import triton

    row = Row(launch.kernel, launch.label, target_name)
    target = _gpu_target(target_name)
    started = time.perf_counter()
    try:
        source, options = _specialised(launch, target)
        compiled = triton.compile(source, target=target, options=options)
    except Exception as error:
        row.failures.append(f"does not compile: {type(error).__name__}: {_last_line(str(error))}")
        return row
    row.seconds = time.perf_counter() - started
    num_warps = compiled.metadata.num_warps
    row.shared_bytes = compiled.metadata.shared
    if target.backend == "cuda":
        assembly = compiled.asm["ptx"]
        _read_cubin(row, compiled.asm["cubin"])
        row.resident_warps = _resident_warps(row, target.arch, num_warps)
        if count := fused_exchanges(assembly):
            row.failures.append(f"{count} sums over lanes are fused with a lane's product, see _triton/sums.py")
    else:
        assembly = compiled.asm["amdgcn"]
        _read_amdgcn(row, assembly)
    if row.spilled_bytes:
        row.failures.append(f"spills {row.spilled_bytes} bytes")

    row.narrowest_load, row.widest_load, loaded = _judge(row, launch, assembly, "load", launch.loads)
    row.narrowest_store, row.widest_store, _ = _judge(row, launch, assembly, "store", launch.stores)
    step = launch.kwargs.get("BLOCK_SIZE", 0) * launch.kwargs.get("LOADS", 1) * launch.kwargs.get("MAPS", 1)
    if loaded and step:
        row.bytes_per_element = loaded * num_warps * target.warp_size / step
    return row


def _judge(
    row: Row, launch: Launch, assembly: str, access: str, functions: tuple[str, ...]
) -> tuple[int | None, int | None, int]:
    """Narrowest and widest access (load or store) in those functions, and the bytes of all of them."""
    if not functions:
        return None, None, 0
    lines = _lines_of(launch.module, functions, access)
    widths = [width for where, width in access_widths(assembly, access) if where in lines]
    if not widths and not launch.contiguous:
        return None, None, 0
    if not widths:
        row.failures.append(f"no {access} of {' or '.join(functions)} found in the assembly")
        return None, None, 0
    if launch.contiguous and min(widths) < WIDE_ACCESS:
        row.failures.append(
            f"a {access} of {min(widths)} bytes in the streaming loop over contiguous maps, expected {WIDE_ACCESS}"
        )
    return min(widths), max(widths), sum(widths)


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@functools.lru_cache(maxsize=8)
def _lines_of(module_name: str, functions: tuple[str, ...], access: str) -> frozenset[tuple[str, int]]:
    """(file name, line) of every `tl.<access>` in those functions. File names with their last folder only."""
    module = importlib.import_module(module_name)
    lines = set()
    for name in functions:
        function = getattr(module, name).fn  # of the module itself, or one that it shares with others
        source, first_line = inspect.getsourcelines(function)
        for node in ast.walk(ast.parse(textwrap.dedent("".join(source)))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == access:
                lines.add((_short_path(inspect.getfile(function)), first_line + node.lineno - 1))
    if not lines:
        raise RuntimeError(f"{module_name}: no tl.{access} in {', '.join(functions)}")
    return frozenset(lines)


def _short_path(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?')
_LOCATION = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")
_PTX_ACCESS = re.compile(r"\b(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bfus](\d+)\s")
_PTX_ASYNC_COPY = re.compile(r"\bcp\.async\.\w+\.shared\S*\.global\S*\s+\[[^\]]*\],\s*\[[^\]]*\],\s*(0x[0-9a-f]+|\d+)")
_AMD_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(?:lds_)?([a-z]+[a-z0-9_]*)")
_AMD_WIDTHS = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


def access_widths(assembly: str, access: str = "load") -> list[tuple[tuple[str, int], int]]:
    """((file, line), bytes a thread) of every load from (or store to) global memory.

    Reads PTX and AMD assembly with line information. The line is that of the innermost inlined function.
    """
    lines = assembly.splitlines()
    files = {}
    for line in lines:  # PTX lists them last
        if match := _FILE.match(line):
            number, folder, name = match.groups()
            files[number] = _short_path(f"{folder}/{name}" if name else folder)
    found = []
    where = ("", 0)
    for line in lines:
        if match := _LOCATION.match(line):
            where = (files.get(match[1], ""), int(match[2]))
        elif match := _PTX_ACCESS.search(line):
            if match[1] == {"load": "ld", "store": "st"}[access]:
                found.append((where, int(match[2] or 1) * int(match[3]) // 8))
        elif match := _PTX_ASYNC_COPY.search(line):
            if access == "load":
                found.append((where, int(match[1], 0)))
        elif (match := _AMD_ACCESS.search(line)) and match[1] == access:
            found.append((where, _amd_width(match[2])))
    return found


_PTX_EXCHANGE = re.compile(r"\bshfl\.sync\.bfly\S*\s+(%\w+), (%\w+),")
_PTX_PRODUCT = re.compile(r"\bmul(?:\.rn)?(?:\.ftz)?\.f32\s+(%\w+),")
_PTX_FUSED = re.compile(r"\bfma\.rn(?:\.ftz)?\.f32\s+%\w+, \S+, \S+, (%\w+);")


def fused_exchanges(ptx: str) -> int:
    """How many sums over lanes add what another lane has sent of its product, rounded, to an exact product."""
    products, received, found = set(), set(), 0
    for line in ptx.splitlines():
        if match := _PTX_PRODUCT.search(line):
            products.add(match[1])
        elif match := _PTX_EXCHANGE.search(line):
            if match[2] in products:
                received.add(match[1])
        elif match := _PTX_FUSED.search(line):
            found += match[1] in received
    return found


def _amd_width(suffix: str) -> int:
    if suffix in _AMD_WIDTHS:
        return _AMD_WIDTHS[suffix]
    return 1 if "byte" in suffix or suffix.endswith("8") else 2


@functools.lru_cache(maxsize=1)
def _cuobjdump() -> str:
    import triton.backends.nvidia

    return str(Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump")


def _read_cubin(row: Row, cubin: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [_cuobjdump(), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if match is None:
        row.failures.append("cuobjdump names no resource usage")
        return
    row.registers = int(match[1])
    row.spilled_bytes = int(match[2]) + int(match[4])


def _resident_warps(row: Row, arch: int, num_warps: int) -> int | None:
    """Warps that an SM holds at once (CUDA programming guide, compute capabilities): of 32, 48 or 64."""
    if row.registers is None:
        return None
    most = {75: 32, 86: 48, 87: 48, 89: 48, 120: 48}.get(arch, 64)
    registers_of_a_warp = math.ceil(row.registers * 32 / 256) * 256
    return min(most, 65536 // registers_of_a_warp) // num_warps * num_warps


def _read_amdgcn(row: Row, assembly: str) -> None:
    def number(pattern: str) -> int | None:
        match = re.search(pattern, assembly)
        return int(match[1]) if match else None

    row.registers = number(r"\.vgpr_count:\s+(\d+)")
    vectors, scalars = (number(rf"\.{kind}_spill_count:\s+(\d+)") for kind in ("vgpr", "sgpr"))
    scratch = number(r"\.private_segment_fixed_size:\s+(\d+)")
    if row.registers is None or vectors is None or scalars is None or scratch is None:
        row.failures.append("the assembly names no resource usage")
        return
    row.spilled_bytes = max(scratch, 4 * vectors)
    row.scalar_spills = scalars  # into lanes of a vector register: no memory is touched
    row.resident_warps = number(r";\s*Occupancy:\s+(\d+)")


# --- the report ---------------------------------------------------------------------------------------------


def _jobs(full: bool, targets: Sequence[str], words: str = "") -> list[tuple[Launch, str]]:
    jobs = []
    for room in ROOMS:
        recorded = {lanes: record_launches(room, full, lanes) for lanes in {_gpu_target(t).warp_size for t in targets}}
        for i in range(len(next(iter(recorded.values())))):
            for target in targets:
                launch = recorded[_gpu_target(target).warp_size][i]
                if words not in f"{launch.kernel} {launch.label}":
                    continue
                if full or launch.everywhere or target in LONG_LIST_TARGETS or len(targets) == 1:
                    jobs.append((launch, target))
    return jobs


def _compile_all(jobs: list[tuple[Launch, str]], processes: int) -> list[Row]:
    """Rows in the order of the jobs. A job that takes its process down is named, and the others go on."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[Row | None] = [None] * len(jobs)
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        futures = [pool.submit(compile_launch, *job) for job in jobs]
        for i, future in enumerate(futures):
            with contextlib.suppress(BrokenProcessPool):
                rows[i] = future.result()
    for i, job in enumerate(jobs):
        if rows[i] is None:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                try:
                    rows[i] = pool.submit(compile_launch, *job).result()
                except BrokenProcessPool:
                    failure = "does not compile: the compiler's process died"
                    rows[i] = Row(job[0].kernel, job[0].label, job[1], failures=[failure])
    return [row for row in rows if row is not None]


def _table(rows: list[Row]) -> str:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:g}"

    numbers = ("registers", "spilled", "shared", "resident", "loads", "stores", "B/element")
    header = ("kernel", "configuration", "target", *numbers, "")
    cells = [
        (
            row.kernel,
            row.configuration,
            row.target,
            text(row.registers),
            text(row.spilled_bytes) + (f"+{row.scalar_spills}s" if row.scalar_spills else ""),
            text(row.shared_bytes),
            text(row.resident_warps),
            _range(row.widest_load, row.narrowest_load),
            _range(row.widest_store, row.narrowest_store),
            text(row.bytes_per_element),
            "FAIL" if row.failures else "",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = []
    for line in [header, *cells]:
        padded = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _range(widest: int | None, narrowest: int | None) -> str:
    if widest is None or narrowest is None:
        return "-"
    return f"{widest}" if widest == narrowest else f"{widest}..{narrowest}"


_LEGEND = """\
spilled: bytes of local memory a thread (NVIDIA), bytes of spilled vector registers or scratch a lane (AMD); "+4s":
four scalar registers kept in lanes of a vector register, which is no failure. shared: bytes a program.
resident: warps an SM holds at once (NVIDIA), waves a SIMD holds at once (AMD); registers decide.
loads, stores: bytes that a thread's access moves in the loop over the map, widest..narrowest. B/element: bytes
that those loads ask for, for each element of the map; more than an element has would mean that it is read twice."""


def _problem() -> str | None:
    """Why the report can't run here, in one line, or None."""
    interpret = os.environ.get("TRITON_INTERPRET", "")
    if interpret.lower() in ("1", "true", "on", "yes", "y"):
        return f"TRITON_INTERPRET={interpret} replaces the compiler by an interpreter: unset it to compile"
    try:
        import triton
    except Exception as error:  # a broken install raises more than ImportError
        return f"triton cannot be imported ({type(error).__name__}: {error}): install it to compile"
    from triton.runtime.jit import JITFunction

    if not hasattr(JITFunction, "_pack_args"):
        return f"triton {triton.__version__} is too old for this report, which needs triton 3.4 or newer"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_report", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated, by default all: %(default)s")
    parser.add_argument("--full", action="store_true", help="every configuration for every target: takes many minutes")
    parser.add_argument("-k", dest="words", default="", metavar="WORDS", help="only configurations with these words")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    targets = options.targets.split(",")
    if unknown := [target for target in targets if target not in TARGETS]:
        parser.error(f"--targets: got {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")
    if (problem := _problem()) is not None:
        print(f"compile_report: {problem}", file=sys.stderr)
        return 2

    import triton

    started = time.perf_counter()
    jobs = _jobs(options.full, targets, options.words)
    if not jobs:
        parser.error(f"-k: got {options.words!r}, which no configuration has in its name")
    print(f"compiling {len(jobs)} kernels for {len(targets)} targets with triton {triton.__version__}", file=sys.stderr)
    rows = _compile_all(jobs, options.jobs)
    seconds = time.perf_counter() - started
    print(_table(rows))
    print(f"\n{_LEGEND}\n\n{len(rows)} kernels compiled with triton {triton.__version__} in {seconds:.0f} s.")
    if options.json:
        report = {"triton": triton.__version__, "rows": [dataclasses.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")

    failures = [f"{row.target}, {row.kernel}, {row.configuration}: {text}" for row in rows for text in row.failures]
    failures += [f"{module}: no room of compile_report.py registers its kernels" for module in unregistered_modules()]
    for failure in failures:
        print(f"FAIL {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
