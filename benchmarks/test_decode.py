"""decode: what it costs on every workload, against its definition and against what others do.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps. Every row's output is compared
with the truth before it is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, W3, W4, W5, MemoryFormat, Values, Workload
from dark_kernels import Recipe, recipes, testing
from dark_kernels.backends import choose
from dark_kernels.decode import reference as definition

# Maps whose keypoints are compared with the float64 reference: spread evenly over the batch.
_COMPARED_MAPS = 256
_COMPARED_PIXELS = 4_000_000
# Where a decoder's error is its rounding, as on maps that a network could have made.
_TOLERANCE = 1e-4
# Others may round as they like (a blur in TF32 is off by 1e-3 px); what reads a wrong pixel is off by more than this.
_PEER_TOLERANCE = 1e-2
# Of the maps of a workload that show a keypoint: those without have a peak of a few hundredths, which is noise.
_LOWEST_PEAK = 0.1

READ_ONLY, EMPTY, OURS, REFERENCE = "read only", "empty kernel", "decode", "reference"
COMPILED = "torch.compile of the reference"
BLUR_LOOP, DARK_LOOP = "cv2.GaussianBlur loop", "NumPy + OpenCV DARK loop"
VITPOSE, SAPIENS = "transformers ViTPose", "transformers Sapiens2"
SOFT_ARGMAX = "kornia soft-argmax"


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    workload: Workload
    dtype: str = "float32"
    memory_format: MemoryFormat = "contiguous"
    values: Values = "blobs"
    recipe: Recipe = recipes.DARKPOSE
    rows: tuple[str, ...] = (READ_ONLY, OURS)

    def __str__(self) -> str:
        usual = Case(self.workload)
        parts = [self.workload.name, self.dtype]
        parts += [self.memory_format] if self.memory_format != usual.memory_format else []
        parts += [self.values] if self.values != usual.values else []
        parts += [self.recipe.name] if self.recipe != usual.recipe else []
        return " ".join(parts)


_MINIMUM = (READ_ONLY, OURS, REFERENCE)
# What else a pass over the maps may find: the sum of a softmax, and what a mass is a share of.
_SOFTMAX = dataclasses.replace(recipes.DARKPOSE, name="darkpose softmax", activation="softmax")
_MASS = dataclasses.replace(recipes.DARKPOSE, name="darkpose mass", score="mass")
# Decoders that the recipes are named after, on their own recipe.
_PUBLISHED = {recipes.VITPOSE_HF: VITPOSE, recipes.SAPIENS_HF: SAPIENS}


def _published_cases(*workload: Workload) -> Iterator[Case]:
    for (recipe, peer), size in itertools.product(_PUBLISHED.items(), workload):
        yield Case(size, recipe=recipe, rows=(READ_ONLY, OURS, peer))


CPU_CASES: tuple[Case, ...] = (
    Case(W1, rows=(*_MINIMUM, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX)),
    # Compiling takes 20 s on two cores: one workload will do.
    Case(W2, rows=(*_MINIMUM, COMPILED, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX)),
    Case(W3, rows=(*_MINIMUM, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX)),
    Case(W4, rows=(*_MINIMUM, BLUR_LOOP, DARK_LOOP, SOFT_ARGMAX)),
    Case(W1, "float16"),
    Case(W1, "bfloat16"),
    Case(W2, "float16"),
    Case(W2, "bfloat16"),
    Case(W2, memory_format="channels_last", rows=_MINIMUM),
    Case(W2, values="real"),
    Case(W2, values="noise"),
    Case(W2, recipe=recipes.MMPOSE_UDP),
    Case(W2, recipe=recipes.ARGMAX),
    Case(W1, recipe=recipes.FIT, rows=_MINIMUM),
    Case(W2, recipe=recipes.FIT),
    Case(W1, recipe=recipes.MEGVII, rows=_MINIMUM),
    Case(W2, recipe=_SOFTMAX),
    Case(W2, recipe=_MASS),
    *_published_cases(W1, W2),
)
CUDA_CASES: tuple[Case, ...] = (
    Case(W1, rows=(*_MINIMUM, EMPTY, COMPILED, DARK_LOOP, SOFT_ARGMAX)),
    Case(W2, rows=(*_MINIMUM, COMPILED, DARK_LOOP, SOFT_ARGMAX)),
    Case(W3, rows=(*_MINIMUM, COMPILED, DARK_LOOP, SOFT_ARGMAX)),
    Case(W4, rows=(*_MINIMUM, EMPTY, DARK_LOOP, SOFT_ARGMAX)),
    Case(W5, rows=_MINIMUM),
    *(
        Case(workload, dtype, rows=(*_MINIMUM, EMPTY) if workload in (W1, W4) else _MINIMUM)
        for workload in (W1, W2, W3, W4, W5)
        for dtype in ("float16", "bfloat16")
    ),
    *(Case(W2, dtype, memory_format="channels_last", rows=_MINIMUM) for dtype in workloads.DTYPES),
    Case(W2, values="real"),
    Case(W2, values="noise"),
    Case(W2, recipe=recipes.MMPOSE_UDP, rows=_MINIMUM),
    Case(W2, recipe=recipes.ARGMAX, rows=_MINIMUM),
    Case(W2, recipe=recipes.MEGVII, rows=_MINIMUM),
    *(
        Case(W2, dtype, recipe=recipe, rows=_MINIMUM)
        for recipe in (_SOFTMAX, _MASS)
        for dtype in ("float32", "float16")
    ),
    Case(W2, memory_format="channels_last", recipe=_SOFTMAX, rows=_MINIMUM),
    *(Case(workload, recipe=recipes.FIT, rows=_MINIMUM) for workload in (W1, W2, W3)),
    *_published_cases(W1, W2, W3),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, CPU_CASES if rows.device_of(metafunc) == "cpu" else CUDA_CASES)


# --- inputs, and the truth about them -----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # rows of a group follow each other
def _inputs(case: Case, device: str) -> list[Tensor]:
    heatmaps = workloads.make_heatmaps(
        case.workload, workloads.DTYPES[case.dtype], case.memory_format, case.values, device
    )
    return workloads.rotated_inputs(heatmaps, measure.cache_bytes(device))


@functools.lru_cache(maxsize=1)
def _compared(case: Case) -> Tensor:
    """Flat indices of the maps that are compared."""
    _, _, height, width = case.workload.shape
    count = min(case.workload.num_maps, _COMPARED_MAPS, math.ceil(_COMPARED_PIXELS / (height * width)))
    return torch.linspace(0, case.workload.num_maps - 1, count, dtype=torch.float64).round().long()


def _pick(batch: Tensor, case: Case) -> Tensor:
    """The compared maps (or keypoints) of [B, K, ...], as [1, N, ...]."""
    index = _compared(case).to(batch.device)
    num_keypoints = case.workload.shape[1]
    return batch[index // num_keypoints, index % num_keypoints][None]


@functools.lru_cache(maxsize=1)
def _truth(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates and scores of the reference in float64, and how far either may be from float32 ones.

    The distance allowed is 1e-4 px. On noise a Newton step can be a thousand pixels long, and the last bit
    of a log moves it by more: there it is as many times more as the reference's own float32 is off, and in maps
    without a blob what `testing.decode_bounds` derives.
    """
    maps = _pick(_inputs(case, device)[0], case).cpu()
    coords, scores, _ = definition.decode_reference(maps.double(), case.recipe)
    single, _, _ = definition.decode_reference(maps, case.recipe)
    own_error = (single - coords).abs().amax(-1, keepdim=True)
    steps = (coords - coords.round()).abs().amax(-1, keepdim=True)
    tolerance = (_TOLERANCE * (1 + steps) + 10 * own_error).expand_as(coords).clone()
    score_tolerance = torch.full_like(scores, 1e-6 * max(1.0, float(scores.abs().max())))
    is_empty = scores[0] < _LOWEST_PEAK
    if case.recipe.activation != "none" or case.recipe.score != "peak":  # sums of whole maps
        is_empty = torch.ones_like(is_empty)
    if is_empty.any():
        for backend in ("auto", "reference"):
            arithmetic = testing.arithmetic_of(choose(backend, device, maps.dtype).backend, device, maps.dtype)
            bounds = testing.decode_bounds(maps[:, is_empty], case.recipe, arithmetic)
            tolerance[:, is_empty] = torch.maximum(tolerance[:, is_empty], bounds.coords)
            score_tolerance[:, is_empty] = torch.maximum(score_tolerance[:, is_empty], bounds.scores)
    return coords, scores, tolerance, score_tolerance


def _compare_keypoints(keypoints: Any, case: Case, device: str) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where one is larger than it may be."""
    coords, scores, tolerance, score_tolerance = _truth(case, device)
    error = (_pick(keypoints[0], case).cpu().double() - coords).abs()
    wrong = (error > tolerance).any(-1) | error.isnan().any(-1)
    # Ill-conditioned steps have no right answer to compare: a few of them may miss any tolerance.
    allowed = 0.01 if case.values == "noise" else 0.0
    assert wrong.float().mean() <= allowed, (
        f"{int(wrong.sum())} of {wrong.numel()} compared keypoints are wrong, by up to {error.max():.3g} px"
    )
    score_error = (_pick(keypoints[1], case).cpu().double() - scores).abs()
    assert bool((score_error <= score_tolerance).all()), f"scores are off by {score_error.max():.3g}"
    return float(error[~wrong].max()), "keypoints in px, against the float64 reference"


def _compare_peer(keypoints: Any, case: Case, device: str) -> tuple[float, str]:
    """Largest error in pixels; raises Wrong where a keypoint is off by more than any rounding."""
    coords, _, tolerance, _ = _truth(case, device)
    error = (_pick(keypoints[0], case).cpu().double() - coords).abs()
    wrong = ~(error <= tolerance.clamp(min=_PEER_TOLERANCE)).all(-1)
    if wrong.any():
        raise Wrong(f"{int(wrong.sum())} of {wrong.numel()} compared keypoints are off, by up to {error.max():.3g} px")
    return float(error.max()), "keypoints in px, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _decode_row(case: Case, device: str) -> Row:
    return Row(
        lambda maps: dark_kernels.decode(maps, case.recipe),
        lambda output: _compare_keypoints((output.coords, output.scores), case, device),
        _bytes(case),
        role="ours",
        capture="always",
    )


def _reference_row(case: Case, device: str) -> Row:
    needed = 16 * case.workload.num_elements * 4
    if device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
        pytest.skip(f"the reference needs about {needed / 1e9:.0f} GB of device memory")
    return Row(
        lambda maps: dark_kernels.decode(maps, case.recipe, backend="reference"),
        lambda output: _compare_keypoints((output.coords, output.scores), case, device),
        _bytes(case),
    )


def _compiled_row(case: Case, device: str) -> Row:
    example = _inputs(case, device)[0]
    compiled = peers.compiled(
        lambda maps: definition.decode_reference(maps, case.recipe)[:2], lambda function: function(example)
    )
    return Row(compiled, lambda output: _compare_peer(output, case, device), _bytes(case))


def _read_only_row(case: Case, device: str) -> Row:
    maps = _inputs(case, device)[0]

    def compare(output: Tensor) -> tuple[None, str]:
        elements = maps.as_strided((maps.numel(),), (1,))
        expected = (elements.view(torch.int32) if device == "cpu" else elements).max()
        assert float(output.max()) == float(expected), "the read-only pass does not read all of the maps"
        return None, "nothing but the largest value of all maps"

    size = case.workload.input_bytes(workloads.DTYPES[case.dtype])
    return Row(measure.read_once(maps), compare, size, role="floor", capture="always")


def _blur_loop_row(case: Case, device: str) -> Row:
    recipe = dataclasses.replace(case.recipe, padding="reflect")

    def compare(output: Tensor) -> tuple[float, str]:
        expected = definition.blur(_pick(_inputs(case, device)[0], case).double(), recipe)
        error = float((_pick(output, case).double() - expected).abs().max())
        if not error <= 1e-5:
            raise Wrong(f"blurred maps are off by {error:.3g}")
        return error, "blurred maps, against the blur of the float64 reference"

    loop = peers.opencv_blur_loop(case.recipe.kernel_size)
    return Row(loop, compare, _bytes(case), role="other", note="a part of the job", capture="never")


def _peer_row(case: Case, device: str, make: Callable[[], peers.Decoder], on_host: bool) -> Row:
    copied = on_host and device != "cpu"
    return Row(
        make(),
        lambda output: _compare_peer(output, case, device),
        _bytes(case),
        note="on the host, with the copy to it" if copied else None,
        # Nobody has promised that others can be captured, and a capture that fails leaves PyTorch's allocator astray.
        capture="never",
    )


def _soft_argmax_row(case: Case, device: str) -> Row:
    def compare(output: Tensor) -> tuple[float, str]:
        maps = _pick(_inputs(case, device)[0], case).double()
        height, width = maps.shape[-2:]
        probability = maps.flatten(2).softmax(-1).view(maps.shape)
        x = probability.sum(-2) @ torch.arange(width, dtype=torch.float64, device=maps.device)
        y = probability.sum(-1) @ torch.arange(height, dtype=torch.float64, device=maps.device)
        error = float((_pick(output, case).double() - torch.stack([x, y], dim=-1)).abs().max())
        if not error <= _PEER_TOLERANCE:
            raise Wrong(f"mean positions are off by up to {error:.3g} px")
        return error, "mean positions in px, against their own definition in float64"

    return Row(
        peers.kornia_soft_argmax(), compare, _bytes(case), role="other", note="another estimator", capture="never"
    )


def _bytes(case: Case) -> int:
    return case.workload.decode_bytes(workloads.DTYPES[case.dtype])


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_only_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    OURS: _decode_row,
    REFERENCE: _reference_row,
    COMPILED: _compiled_row,
    BLUR_LOOP: _blur_loop_row,
    DARK_LOOP: lambda case, device: _peer_row(case, device, lambda: peers.opencv_dark_loop(case.recipe), on_host=True),
    VITPOSE: lambda case, device: _peer_row(case, device, peers.transformers_vitpose, on_host=True),
    SAPIENS: lambda case, device: _peer_row(case, device, peers.transformers_sapiens, on_host=False),
    SOFT_ARGMAX: _soft_argmax_row,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_decode(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        _inputs(case, device),
        device,
        group=f"decode {case}",
        identity={
            "operation": "decode",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": case.memory_format,
            "values": case.values,
            "variant": case.recipe.name,
            "row": row,
        },
    )
