"""find_peaks: what it costs, against its definition, torch's max-pooling and top-k, and one read of the maps.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps. Every row's output is compared with the
float64 reference before it is timed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, W3, W4, MemoryFormat, Values, Workload
from dark_kernels import Peaks

MAX_PEAKS = 30
# Maps whose peaks are compared, spread evenly over the batch: their definition blurs whole maps in float64.
_COMPARED_MAPS = 32
# Of places between pixels, on maps that a network could have made, and where a step is ill-conditioned this many times
# the reference's own error in float32.
_TOLERANCE, _OWN_ERRORS = 1e-4, 10.0
# Of the peaks: on the slope of a smoothed blob a little peak of noise has a step of any length.
_ILL_CONDITIONED = 0.02

READ_ONLY, EMPTY, OURS, REFERENCE = "read only", "empty kernel", "find_peaks", "reference"
POOL, COMPILED_POOL = "max_pool2d + topk", "torch.compile of max_pool2d + topk"


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows. Of noise every ninth pixel is a peak, of blobs a few."""

    workload: Workload
    dtype: str = "float32"
    memory_format: MemoryFormat = "contiguous"
    values: Values = "blobs"
    rows: tuple[str, ...] = (READ_ONLY, OURS, POOL)

    @property
    def threshold(self) -> float:
        """Half of what the weakest blob reaches; for noise all."""
        return 0.125 if self.values == "blobs" else 0.0

    def __str__(self) -> str:
        parts = [self.workload.name, self.dtype]
        parts += [self.memory_format] if self.memory_format != "contiguous" else []
        parts += [self.values] if self.values != "blobs" else []
        return " ".join(parts)


_ALL_ROWS = (READ_ONLY, OURS, REFERENCE, POOL)
CPU_CASES: tuple[Case, ...] = (
    Case(W1, rows=_ALL_ROWS),
    Case(W1, values="noise"),
    Case(W2),
    Case(W4),
)
CUDA_CASES: tuple[Case, ...] = (
    Case(W1, rows=(*_ALL_ROWS, EMPTY)),
    Case(W2, rows=(*_ALL_ROWS, COMPILED_POOL)),  # compiling takes ten seconds and more
    Case(W3),
    Case(W4, rows=(*_ALL_ROWS, EMPTY)),
    Case(W2, "float16"),
    Case(W2, memory_format="channels_last"),
    Case(W2, values="noise"),
    Case(W2, values="real"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, CPU_CASES if rows.device_of(metafunc) == "cpu" else CUDA_CASES)


# --- inputs, and the truth about them -----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # rows of a group follow each other
def inputs_of(case: Case, device: str) -> list[Tensor]:
    heatmaps = workloads.make_heatmaps(
        case.workload, workloads.DTYPES[case.dtype], case.memory_format, case.values, device
    )
    return workloads.rotated_inputs(heatmaps, measure.cache_bytes(device))


def peaks_bytes(case: Case) -> int:
    """Bytes that must be moved: every map read once; coordinates, scores and counts written."""
    written = MAX_PEAKS * 12 + 8
    return case.workload.input_bytes(workloads.DTYPES[case.dtype]) + case.workload.num_maps * written


def _pick(batch: Tensor, case: Case) -> Tensor:
    """The compared maps (or what belongs to them) of [B, K, ...], as [1, N, ...]."""
    count = min(case.workload.num_maps, _COMPARED_MAPS)
    index = torch.linspace(0, case.workload.num_maps - 1, count, dtype=torch.float64).round().long().to(batch.device)
    num_keypoints = case.workload.shape[1]
    return batch[index // num_keypoints, index % num_keypoints][None]


@functools.lru_cache(maxsize=1)
def _truth(case: Case, device: str) -> tuple[Peaks, Tensor]:
    """The reference's peaks in float64, and how far coordinates may be from them."""
    maps = _pick(inputs_of(case, device)[0], case).cpu()
    exact, single = (
        dark_kernels.find_peaks(each, MAX_PEAKS, case.threshold, backend="reference") for each in (maps.double(), maps)
    )
    own_error = (single.coords - exact.coords).abs().amax(-1, keepdim=True)
    steps = (exact.coords - exact.coords.round()).abs().amax(-1, keepdim=True)
    return exact, _TOLERANCE * (1 + steps) + _OWN_ERRORS * own_error


def _compare_peaks(peaks: Peaks, case: Case, device: str) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where one is larger than it may be."""
    exact, tolerance = _truth(case, device)
    counts, coords, scores = (_pick(each, case).cpu() for each in (peaks.counts, peaks.coords, peaks.scores))
    assert torch.equal(counts, exact.counts), f"{int((counts != exact.counts).sum())} maps have other numbers of peaks"
    assert torch.equal(scores.double(), exact.scores), "other peaks were found"
    error = (coords.double() - exact.coords).abs()
    wrong = ~(error <= tolerance).all(-1)
    num_wrong, num_peaks = int(wrong.sum()), int(counts.sum())
    assert num_wrong <= _ILL_CONDITIONED * num_peaks, (
        f"{num_wrong} of {num_peaks} compared peaks are wrong, by up to {error.max():.3g} px"
    )
    return float(error[~wrong].max()), "coordinates in px, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _find_peaks_row(case: Case, device: str, backend: str = "auto") -> Row:
    return Row(
        lambda maps: dark_kernels.find_peaks(maps, MAX_PEAKS, case.threshold, backend=backend),
        lambda output: _compare_peaks(output, case, device),
        peaks_bytes(case),
        role="ours" if backend == "auto" else "peer",
        capture="always" if backend == "auto" else "never",
    )


def _pool_row(case: Case, device: str, compiles: bool = False) -> Row:
    """Pixels alone: no refinement, of a plateau all, and of ties any."""

    def compare(output: tuple[Tensor, Tensor]) -> tuple[float, str]:
        expected = _truth(case, device)[0].scores
        found = _pick(output[0], case).cpu().double()
        error = float((torch.where(found > case.threshold, found, 0.0) - expected).abs().max())
        if error != 0:
            raise Wrong(f"values of peaks are off by {error:.3g}")
        return error, "values of peaks, against the float64 reference"

    call: Callable[[Tensor], tuple[Tensor, Tensor]] = functools.partial(peers.max_pool_and_topk, max_peaks=MAX_PEAKS)
    if compiles:
        example = inputs_of(case, device)[0]
        call = peers.compiled(call, lambda function: function(example))
    return Row(call, compare, peaks_bytes(case), role="other", note="pixels alone, not refined")


def _read_only_row(case: Case, device: str) -> Row:
    size = case.workload.input_bytes(workloads.DTYPES[case.dtype])
    return Row(
        measure.read_once(inputs_of(case, device)[0]),
        lambda _: (None, "nothing"),
        size,
        role="floor",
        capture="always",
    )


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_only_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    OURS: _find_peaks_row,
    REFERENCE: functools.partial(_find_peaks_row, backend="reference"),
    POOL: _pool_row,
    COMPILED_POOL: functools.partial(_pool_row, compiles=True),
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_peaks(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=f"find_peaks {case}",
        identity={
            "operation": "find_peaks",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": case.memory_format,
            "values": case.values,
            "variant": f"{MAX_PEAKS} peaks",
            "row": row,
        },
    )
