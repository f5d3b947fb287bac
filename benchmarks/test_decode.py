"""decode: what it costs on every workload, against its definition and against a part of what others do.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps. Every row's output is compared
with the truth before it is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, results, workloads
from benchmarks.workloads import W1, W2, W3, W4, W5, MemoryFormat, Values, Workload
from dark_kernels import Recipe, recipes
from dark_kernels.decode import reference as definition

# Maps whose keypoints are compared with the float64 reference: spread evenly over the batch.
_COMPARED_MAPS = 256
_COMPARED_PIXELS = 4_000_000
# Where a decoder's error is its rounding, as on maps that a network could have made.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    workload: Workload
    dtype: str = "float32"
    memory_format: MemoryFormat = "contiguous"
    values: Values = "blobs"
    recipe: Recipe = recipes.DARKPOSE
    rows: tuple[str, ...] = (results.READ_ONLY, results.OURS)

    def __str__(self) -> str:
        usual = Case(self.workload)
        parts = [self.workload.name, self.dtype]
        parts += [self.memory_format] if self.memory_format != usual.memory_format else []
        parts += [self.values] if self.values != usual.values else []
        parts += [self.recipe.name] if self.recipe != usual.recipe else []
        return " ".join(parts)


_PEERS = ("reference", "cv2.GaussianBlur loop")
_ALL = (results.READ_ONLY, results.OURS, *_PEERS)
_WITH_REFERENCE = (results.READ_ONLY, results.OURS, "reference")

CPU_CASES: tuple[Case, ...] = (
    *(Case(workload, rows=_ALL) for workload in (W1, W2, W3, W4)),
    Case(W1, "float16"),
    Case(W1, "bfloat16"),
    Case(W2, "float16"),
    Case(W2, "bfloat16"),
    Case(W2, memory_format="channels_last", rows=_WITH_REFERENCE),
    Case(W2, values="real"),
    Case(W2, values="noise"),
    Case(W2, recipe=recipes.MMPOSE_UDP),
    Case(W2, recipe=recipes.ARGMAX),
    Case(W1, recipe=recipes.MEGVII, rows=_WITH_REFERENCE),
)
CUDA_CASES: tuple[Case, ...] = (
    *(Case(workload, dtype, rows=_WITH_REFERENCE) for workload in (W1, W2, W3, W4, W5) for dtype in workloads.DTYPES),
    *(Case(W2, dtype, memory_format="channels_last", rows=_WITH_REFERENCE) for dtype in workloads.DTYPES),
    Case(W2, values="real"),
    Case(W2, values="noise"),
    Case(W2, recipe=recipes.MMPOSE_UDP, rows=_WITH_REFERENCE),
    Case(W2, recipe=recipes.ARGMAX, rows=_WITH_REFERENCE),
    Case(W2, recipe=recipes.MEGVII, rows=_WITH_REFERENCE),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = metafunc.config.getoption("--bench-device", default="cpu")
    cases = CPU_CASES if device == "cpu" else CUDA_CASES
    rows = [pytest.param(case, row, id=f"{case} {row}") for case in cases for row in case.rows]
    metafunc.parametrize(("case", "row"), rows)


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
def _truth(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and scores of the reference in float64, and how far that may be from float32 ones.

    The distance allowed is 1e-4 px. On noise a Newton step can be a thousand pixels long, and the last bit
    of a log moves it by more: there it is as many times more as the reference's own float32 is off.
    """
    maps = _pick(_inputs(case, device)[0], case).cpu()
    coords, scores, _ = definition.decode_reference(maps.double(), case.recipe)
    single, _, _ = definition.decode_reference(maps, case.recipe)
    own_error = (single - coords).abs().amax(-1, keepdim=True)
    steps = (coords - coords.round()).abs().amax(-1, keepdim=True)
    return coords, scores, _TOLERANCE * (1 + steps) + 10 * own_error


def _compare_keypoints(keypoints: Any, case: Case, device: str) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where one is larger than it may be."""
    coords, scores, tolerance = _truth(case, device)
    error = (_pick(keypoints[0], case).cpu().double() - coords).abs()
    wrong = (error > tolerance).any(-1) | error.isnan().any(-1)
    # Ill-conditioned steps have no right answer to compare: a few of them may miss any tolerance.
    allowed = 0.01 if case.values == "noise" else 0.0
    assert wrong.float().mean() <= allowed, (
        f"{int(wrong.sum())} of {wrong.numel()} compared keypoints are wrong, by up to {error.max():.3g} px"
    )
    score_error = (_pick(keypoints[1], case).cpu().double() - scores).abs().max()
    assert score_error <= 1e-6 * max(1.0, float(scores.abs().max())), f"scores are off by {score_error:.3g}"
    return float(error[~wrong].max()), "keypoints in px, against the float64 reference"


# --- rows: each returns the function to time, and a function that compares its output -----------------------

Row = tuple[Callable[[Tensor], Any], Callable[[Any], tuple[float | None, str]]]


def _decode_row(case: Case, device: str) -> Row:
    return (
        lambda maps: dark_kernels.decode(maps, case.recipe),
        lambda output: _compare_keypoints((output.coords, output.scores), case, device),
    )


def _reference_row(case: Case, device: str) -> Row:
    needed = 16 * case.workload.num_elements * 4
    if device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
        pytest.skip(f"the reference needs about {needed / 1e9:.0f} GB of device memory")
    return (
        lambda maps: dark_kernels.decode(maps, case.recipe, backend="reference"),
        lambda output: _compare_keypoints((output.coords, output.scores), case, device),
    )


def _read_only_row(case: Case, device: str) -> Row:
    maps = _inputs(case, device)[0]
    read = measure.read_once(maps)

    def compare(output: Tensor) -> tuple[None, str]:
        elements = maps.as_strided((maps.numel(),), (1,))
        expected = (elements.view(torch.int32) if device == "cpu" else elements).max()
        assert float(output.max()) == float(expected), "the read-only pass does not read all of the maps"
        return None, "nothing but the largest value of all maps"

    return read, compare


def _opencv_row(case: Case, device: str) -> Row:
    try:
        loop = peers.opencv_blur_loop(case.recipe.kernel_size)
    except peers.NotInstalled as reason:
        pytest.skip(str(reason))
    recipe = dataclasses.replace(case.recipe, padding="reflect")

    def compare(output: Tensor) -> tuple[float, str]:
        expected = definition.blur(_pick(_inputs(case, device)[0], case).double(), recipe)
        error = float((_pick(output, case).double() - expected).abs().max())
        if not error <= 1e-5:
            pytest.skip(f"wrong: blurred maps are off by {error:.3g}")
        return error, "blurred maps, against the blur of the float64 reference"

    return loop, compare


ROWS: dict[str, Callable[[Case, str], Row]] = {
    results.READ_ONLY: _read_only_row,
    results.OURS: _decode_row,
    "reference": _reference_row,
    "cv2.GaussianBlur loop": _opencv_row,
}
# Long enough on a GPU for a clock on the host, and free to wait for it.
_NOT_CAPTURED = ("reference",)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_decode(benchmark: Any, case: Case, row: str, device: str) -> None:
    inputs = _inputs(case, device)
    call, compare = ROWS[row](case, device)
    error, error_of = compare(call(inputs[0]))

    dtype = workloads.DTYPES[case.dtype]
    read_only = row == results.READ_ONLY
    benchmark.group = f"decode {case}"
    benchmark.extra_info.update(
        operation="decode",
        workload=case.workload.name,
        shape=list(case.workload.shape),
        dtype=case.dtype,
        memory_format=case.memory_format,
        values=case.values,
        recipe=case.recipe.name,
        row=row,
        error=error,
        error_of=error_of,
        bytes=case.workload.input_bytes(dtype) if read_only else case.workload.decode_bytes(dtype),
        copies=len(inputs),
        calls_per_round=1,
        host_seconds=None,
        peak_bytes=None,
    )
    if device == "cpu":
        benchmark.extra_info["clock"] = "host"
        seconds, _ = measure.timed(lambda: call(inputs[-1]))
        rounds = measure.rounds_for(seconds, fewest=2 if seconds > 4 else 5)
        benchmark.pedantic(call, setup=measure.rotation(inputs), rounds=rounds, iterations=1)
        return

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(inputs[0])
    torch.cuda.synchronize()
    benchmark.extra_info["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    benchmark.extra_info["host_seconds"] = measure.host_seconds(call, inputs[0]) if row not in _NOT_CAPTURED else None
    if row in _NOT_CAPTURED:
        benchmark.extra_info["clock"] = "host, synchronised"

        def wait(maps: Tensor) -> None:
            call(maps)
            torch.cuda.synchronize()

        seconds, _ = measure.timed(lambda: wait(inputs[-1]))
        rounds = measure.rounds_for(seconds, budget=0.5)
        benchmark.pedantic(wait, setup=measure.rotation(inputs), rounds=rounds, iterations=1)
        return
    benchmark.extra_info["clock"] = "graph replay"
    replay = measure.GraphReplay(call, inputs)
    benchmark.extra_info["calls_per_round"] = replay.calls
    seconds, _ = measure.timed(replay)
    benchmark.pedantic(replay, rounds=measure.rounds_for(seconds, budget=0.5, fewest=10, most=100), iterations=1)
