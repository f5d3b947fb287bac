"""decode on every workload, against its definition, one read of the maps and what others do."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite, workloads
from benchmarks.peers import NotInstalled, Wrong
from benchmarks.suite import COMPILED, EMPTY, READ_ONLY, REFERENCE, Case, Entry, Group, Suite
from benchmarks.workloads import W1, W2, W3, W4, W5, MemoryFormat, Values, Workload
from dark_kernels import Recipe, recipes, testing
from dark_kernels.backends import choose
from dark_kernels.decode import reference as definition

# Maps whose keypoints are compared with the float64 reference.
_COMPARED_MAPS = 256
_COMPARED_PIXELS = 4_000_000
# Where a decoder's error is its rounding, as on maps that a network could have made.
_TOLERANCE = 1e-4
# Others may round as they like (a blur in TF32 is off by 1e-3 px); what reads a wrong pixel is off by more than this.
_PEER_TOLERANCE = 1e-2
# Of the maps of a workload that show a keypoint: those without have a peak of a few hundredths, which is noise.
_LOWEST_PEAK = 0.1

OURS = "decode"
BLUR_LOOP, DARK_LOOP = "cv2.GaussianBlur loop", "NumPy + OpenCV DARK loop"
VITPOSE, SAPIENS = "transformers ViTPose", "transformers Sapiens2"
SOFT_ARGMAX = "kornia soft-argmax"
NUMBA, DISTURBED, NUMBA_DISTURBED = "numba", "beside a busy process", "numba beside a busy process"

# What else a pass over the maps may find: the sum of a softmax, and what a mass is a share of.
SOFTMAX = dataclasses.replace(recipes.DARKPOSE, name="darkpose softmax", activation="softmax")
MASS = dataclasses.replace(recipes.DARKPOSE, name="darkpose mass", score="mass")
RECIPES = {recipe.name: recipe for recipe in (*recipes.ALL, SOFTMAX, MASS)}
# Those that search a smoothed map, of which less can be passed over where all is noise.
_SMOOTHED = (recipes.MEGVII, recipes.MATCHED)
# Decoders that the recipes are named after, on their own recipe.
_PUBLISHED = {recipes.VITPOSE_HF: VITPOSE, recipes.SAPIENS_HF: SAPIENS}


def case_of(
    workload: Workload,
    *rows: str,
    dtype: str = "float32",
    memory_format: MemoryFormat = "contiguous",
    values: Values = "blobs",
    recipe: Recipe = recipes.DARKPOSE,
) -> Case:
    """A case, by default of our own row and the floor; its group is named after what is unusual about it."""
    unusual = [word for word in (memory_format, values, recipe.name) if word not in ("contiguous", "blobs", "darkpose")]
    group = " ".join(["decode", workload.name, dtype, *unusual])
    return Case(group, "decode", workload, rows or (READ_ONLY, OURS), recipe.name, dtype, memory_format, values)


_MINIMUM = (READ_ONLY, OURS, REFERENCE)
_HALF = ("float16", "bfloat16")


def _published_cases(*workload: Workload) -> Iterator[Case]:
    for (recipe, peer), size in itertools.product(_PUBLISHED.items(), workload):
        yield case_of(size, READ_ONLY, OURS, peer, recipe=recipe)


_ON_CPU = (*_MINIMUM, NUMBA, DISTURBED, NUMBA_DISTURBED)
CPU_CASES = (
    case_of(W1, *_ON_CPU, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX),
    # Compiling takes 20 s on two cores: one workload will do.
    case_of(W2, *_ON_CPU, COMPILED, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX),
    case_of(W3, *_MINIMUM, NUMBA, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX),
    case_of(W4, *_ON_CPU, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX),
    *(case_of(workload, dtype=dtype) for workload in (W1, W2) for dtype in _HALF),
    case_of(W2, *_MINIMUM, memory_format="channels_last"),
    case_of(W2, values="real"),
    case_of(W2, values="noise"),
    case_of(W2, recipe=recipes.MMPOSE_UDP),
    case_of(W2, recipe=recipes.ARGMAX),
    case_of(W1, *_MINIMUM, recipe=recipes.FIT),
    case_of(W2, recipe=recipes.FIT),
    case_of(W1, *_MINIMUM, recipe=recipes.MEGVII),
    case_of(W2, recipe=recipes.MEGVII),
    *(case_of(workload, *_MINIMUM, recipe=recipes.MATCHED) for workload in (W1, W4)),
    *(case_of(workload, recipe=recipes.MATCHED) for workload in (W2, W3)),
    *(case_of(W2, values="noise", recipe=recipe) for recipe in _SMOOTHED),
    case_of(W2, recipe=SOFTMAX),
    case_of(W2, recipe=MASS),
    *_published_cases(W1, W2),
)
CUDA_CASES = (
    case_of(W1, *_MINIMUM, EMPTY, COMPILED, DARK_LOOP, SOFT_ARGMAX),
    case_of(W2, *_MINIMUM, COMPILED, DARK_LOOP, SOFT_ARGMAX),
    case_of(W3, *_MINIMUM, COMPILED, DARK_LOOP, SOFT_ARGMAX),
    case_of(W4, *_MINIMUM, EMPTY, DARK_LOOP, SOFT_ARGMAX),
    case_of(W5, *_MINIMUM),
    *(
        case_of(workload, *_MINIMUM, *([EMPTY] if workload in (W1, W4) else []), dtype=dtype)
        for workload in (W1, W2, W3, W4, W5)
        for dtype in _HALF
    ),
    *(case_of(W2, *_MINIMUM, dtype=dtype, memory_format="channels_last") for dtype in workloads.DTYPES),
    case_of(W2, values="real"),
    case_of(W2, values="noise"),
    *(case_of(W2, *_MINIMUM, recipe=recipe) for recipe in (recipes.MMPOSE_UDP, recipes.ARGMAX, recipes.MEGVII)),
    *(
        case_of(W2, *_MINIMUM, dtype=dtype, recipe=recipe)
        for recipe in (SOFTMAX, MASS)
        for dtype in ("float32", "float16")
    ),
    case_of(W2, *_MINIMUM, memory_format="channels_last", recipe=SOFTMAX),
    *(case_of(workload, *_MINIMUM, recipe=recipes.FIT) for workload in (W1, W2, W3)),
    *(case_of(workload, *_MINIMUM, recipe=recipes.MATCHED) for workload in (W1, W2, W3, W4)),
    *(case_of(W2, *_MINIMUM, dtype=dtype, recipe=recipes.MATCHED) for dtype in _HALF),
    *(case_of(W2, values="noise", recipe=recipe) for recipe in _SMOOTHED),
    *_published_cases(W1, W2, W3),
)


def decode_on(case: Case, backend: str) -> Callable[[Tensor], Any]:
    recipe = RECIPES[case.variant]
    return lambda maps: dark_kernels.decode(maps, recipe, backend=backend)


# --- the truth ----------------------------------------------------------------------------------------------


def _compared(batch: Tensor, case: Case) -> Tensor:
    """The compared maps (or keypoints) of [B, K, ...], as [1, N, ...]."""
    _, _, height, width = case.workload.shape
    return workloads.spread(batch, min(_COMPARED_MAPS, math.ceil(_COMPARED_PIXELS / (height * width))))


def find_truth(group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates and scores of the reference in float64, and how far either may be from float32 ones.

    The distance allowed is 1e-4 px. On noise a Newton step can be a thousand pixels long, and the last bit
    of a log moves it by more: there it is as many times more as the reference's own float32 is off, and in maps
    without a blob what `testing.decode_bounds` derives.
    """
    recipe = RECIPES[group.case.variant]
    maps = _compared(group.inputs[0], group.case).cpu()
    coords, scores, _ = definition.decode_reference(maps.double(), recipe)
    single, _, _ = definition.decode_reference(maps, recipe)
    own_error = (single - coords).abs().amax(-1, keepdim=True)
    steps = (coords - coords.round()).abs().amax(-1, keepdim=True)
    tolerance = (_TOLERANCE * (1 + steps) + 10 * own_error).expand_as(coords).clone()
    score_tolerance = torch.full_like(scores, 1e-6 * max(1.0, float(scores.abs().max())))
    is_empty = scores[0] < _LOWEST_PEAK
    if recipe.activation != "none" or recipe.score != "peak":  # sums of whole maps
        is_empty = torch.ones_like(is_empty)
    if is_empty.any():
        for backend in ("auto", "reference"):
            chosen = choose(backend, group.device, maps.dtype).backend
            arithmetic = testing.arithmetic_of(chosen, group.device, maps.dtype)
            bounds = testing.decode_bounds(maps[:, is_empty], recipe, arithmetic)
            tolerance[:, is_empty] = torch.maximum(tolerance[:, is_empty], bounds.coords)
            score_tolerance[:, is_empty] = torch.maximum(score_tolerance[:, is_empty], bounds.scores)
    return coords, scores, tolerance, score_tolerance


def compare(keypoints: Any, group: Group) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where one is larger than it may be."""
    coords, scores, tolerance, score_tolerance = group.truth
    error = (_compared(keypoints[0], group.case).cpu().double() - coords).abs()
    wrong = (error > tolerance).any(-1) | error.isnan().any(-1)
    # Ill-conditioned steps have no right answer to compare: a few of them may miss any tolerance.
    allowed = 0.01 if group.case.values == "noise" else 0.0
    assert wrong.float().mean() <= allowed, (
        f"{int(wrong.sum())} of {wrong.numel()} compared keypoints are wrong, by up to {error.max():.3g} px"
    )
    score_error = (_compared(keypoints[1], group.case).cpu().double() - scores).abs()
    assert bool((score_error <= score_tolerance).all()), f"scores are off by {score_error.max():.3g}"
    return float(error[~wrong].max()), "keypoints in px, against the float64 reference"


def compare_peer(keypoints: Any, group: Group) -> tuple[float, str]:
    """Largest error in pixels; raises Wrong where a keypoint is off by more than any rounding."""
    coords, _, tolerance, _ = group.truth
    error = (_compared(keypoints[0], group.case).cpu().double() - coords).abs()
    wrong = ~(error <= tolerance.clamp(min=_PEER_TOLERANCE)).all(-1)
    if wrong.any():
        raise Wrong(f"{int(wrong.sum())} of {wrong.numel()} compared keypoints are off, by up to {error.max():.3g} px")
    return float(error.max()), "keypoints in px, against the float64 reference"


def compare_blur(blurred: Tensor, group: Group) -> tuple[float, str]:
    recipe = dataclasses.replace(RECIPES[group.case.variant], padding="reflect")
    expected = definition.blur(_compared(group.inputs[0], group.case).double(), recipe)
    error = suite.within(1e-5, "blurred maps are", _compared(blurred, group.case).double(), expected)
    return error, "blurred maps, against the blur of the float64 reference"


def compare_means(coords: Tensor, group: Group) -> tuple[float, str]:
    maps = _compared(group.inputs[0], group.case).double()
    height, width = maps.shape[-2:]
    probability = maps.flatten(2).softmax(-1).view(maps.shape)
    x = probability.sum(-2) @ torch.arange(width, dtype=torch.float64, device=maps.device)
    y = probability.sum(-1) @ torch.arange(height, dtype=torch.float64, device=maps.device)
    found = _compared(coords, group.case).double()
    error = suite.within(_PEER_TOLERANCE, "mean positions are", found, torch.stack([x, y], dim=-1))
    return error, "mean positions in px, against their own definition in float64"


# --- rows ---------------------------------------------------------------------------------------------------


def _reference(group: Group) -> Callable[[Tensor], Any]:
    needed = 16 * group.case.workload.num_elements * 4
    if group.device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
        raise NotInstalled(f"the reference needs about {needed / 1e9:.0f} GB of device memory")
    return decode_on(group.case, "reference")


def _definition(group: Group) -> Callable[[Tensor], Any]:
    recipe = RECIPES[group.case.variant]
    return lambda maps: definition.decode_reference(maps, recipe)[:2]


def _peer(make: Callable[[Recipe], Callable[[Tensor], Any]], compare: Any = compare_peer, **fields: Any) -> Entry:
    # Nobody has promised that others can be captured, and a capture that fails leaves PyTorch's allocator astray.
    return suite.calls(lambda group: make(RECIPES[group.case.variant]), compare, capture="never", **fields)


_ON_HOST = "on the host, with the copy to it"

SUITE = Suite(
    cases={"cpu": CPU_CASES, "cuda": CUDA_CASES},
    inputs=Case.heatmaps,
    function=decode_on,
    truth=find_truth,
    compare=compare,
    num_bytes=lambda case: case.workload.decode_bytes(case.torch_dtype),
    rows={
        READ_ONLY: suite.read_only(),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.calls(_reference),
        NUMBA: suite.backend("numba"),
        DISTURBED: suite.backend("auto", is_disturbed=True),
        NUMBA_DISTURBED: suite.backend("numba", is_disturbed=True),
        COMPILED: suite.compiled(_definition, compare_peer),
        BLUR_LOOP: _peer(
            lambda recipe: peers.opencv_blur_loop(recipe.kernel_size),
            compare_blur,
            role="other",
            note="a part of the job",
        ),
        DARK_LOOP: _peer(peers.opencv_dark_loop, device_note=_ON_HOST),
        VITPOSE: _peer(lambda _: peers.transformers_vitpose(), device_note=_ON_HOST),
        SAPIENS: _peer(lambda _: peers.transformers_sapiens()),
        SOFT_ARGMAX: _peer(lambda _: peers.kornia_soft_argmax(), compare_means, role="other", note="another estimator"),
    },
)
