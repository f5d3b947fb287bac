"""find_peaks, against its definition, torch's max-pooling and top-k, and one read of the maps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite, workloads
from benchmarks.suite import EMPTY, READ_ONLY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, W3, W4, MemoryFormat, Values, Workload
from dark_kernels import Peaks

MAX_PEAKS = 30
# Maps whose peaks are compared: their definition blurs whole maps in float64.
_COMPARED_MAPS = 32
# Of places between pixels, on maps that a network could have made, and where a step is ill-conditioned this many times
# the reference's own error in float32.
_TOLERANCE, _OWN_ERRORS = 1e-4, 10.0
# Of the peaks: on the slope of a smoothed blob a little peak of noise has a step of any length.
_ILL_CONDITIONED = 0.02

OURS, POOL, COMPILED_POOL = "find_peaks", "max_pool2d + topk", "torch.compile of max_pool2d + topk"


def case_of(
    workload: Workload,
    *rows: str,
    dtype: str = "float32",
    memory_format: MemoryFormat = "contiguous",
    values: Values = "blobs",
) -> Case:
    """A case, by default of our own row, the floor and torch. Of noise every ninth pixel is a peak, of blobs a few."""
    unusual = [word for word in (memory_format, values) if word not in ("contiguous", "blobs")]
    group = " ".join(["find_peaks", workload.name, dtype, *unusual])
    rows = rows or (READ_ONLY, OURS, POOL)
    return Case(group, "find_peaks", workload, rows, f"{MAX_PEAKS} peaks", dtype, memory_format, values)


_ALL_ROWS = (READ_ONLY, OURS, REFERENCE, POOL)
CPU_CASES = (case_of(W1, *_ALL_ROWS), case_of(W1, values="noise"), case_of(W2), case_of(W4))
CUDA_CASES = (
    case_of(W1, *_ALL_ROWS, EMPTY),
    case_of(W2, *_ALL_ROWS, COMPILED_POOL),  # compiling takes ten seconds and more
    case_of(W3),
    case_of(W4, *_ALL_ROWS, EMPTY),
    case_of(W2, dtype="float16"),
    case_of(W2, memory_format="channels_last"),
    case_of(W2, values="noise"),
    case_of(W2, values="real"),
)


def threshold_of(case: Case) -> float:
    """Half of what the weakest blob reaches; for noise all."""
    return 0.125 if case.values == "blobs" else 0.0


def find_peaks_on(case: Case, backend: str) -> Callable[[Tensor], Peaks]:
    threshold = threshold_of(case)
    return lambda maps: dark_kernels.find_peaks(maps, MAX_PEAKS, threshold, backend=backend)


def num_bytes(case: Case) -> int:
    """Bytes that must be moved: every map read once; coordinates, scores and counts written."""
    return case.workload.input_bytes(case.torch_dtype) + case.workload.num_maps * (MAX_PEAKS * 12 + 8)


def find_truth(group: Group) -> tuple[Peaks, Tensor]:
    """The reference's peaks in float64, and how far coordinates may be from them."""
    maps = workloads.spread(group.inputs[0], _COMPARED_MAPS).cpu()
    exact, single = (find_peaks_on(group.case, "reference")(each) for each in (maps.double(), maps))
    own_error = (single.coords - exact.coords).abs().amax(-1, keepdim=True)
    steps = (exact.coords - exact.coords.round()).abs().amax(-1, keepdim=True)
    return exact, _TOLERANCE * (1 + steps) + _OWN_ERRORS * own_error


def compare(peaks: Peaks, group: Group) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where one is larger than it may be."""
    exact, tolerance = group.truth
    counts, coords, scores = (
        workloads.spread(each, _COMPARED_MAPS).cpu() for each in (peaks.counts, peaks.coords, peaks.scores)
    )
    assert torch.equal(counts, exact.counts), f"{int((counts != exact.counts).sum())} maps have other numbers of peaks"
    assert torch.equal(scores.double(), exact.scores), "other peaks were found"
    error = (coords.double() - exact.coords).abs()
    wrong = ~(error <= tolerance).all(-1)
    num_wrong, num_peaks = int(wrong.sum()), int(counts.sum())
    assert num_wrong <= _ILL_CONDITIONED * num_peaks, (
        f"{num_wrong} of {num_peaks} compared peaks are wrong, by up to {error.max():.3g} px"
    )
    return float(error[~wrong].max()), "coordinates in px, against the float64 reference"


def compare_pixels(output: tuple[Tensor, Tensor], group: Group) -> tuple[float, str]:
    """Compare pixels alone: no refinement, of a plateau all, and of ties any."""
    found = workloads.spread(output[0], _COMPARED_MAPS).cpu().double()
    kept = torch.where(found > threshold_of(group.case), found, 0.0)
    error = suite.within(0.0, "values of peaks are", kept, group.truth[0].scores)
    return error, "values of peaks, against the float64 reference"


def _pool(group: Group) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return functools.partial(peers.max_pool_and_topk, max_peaks=MAX_PEAKS)


_PIXELS_ALONE = {"role": "other", "note": "pixels alone, not refined"}

SUITE = Suite(
    cases={"cpu": CPU_CASES, "cuda": CUDA_CASES},
    inputs=Case.heatmaps,
    function=find_peaks_on,
    truth=find_truth,
    compare=compare,
    num_bytes=num_bytes,
    rows={
        READ_ONLY: suite.read_only(),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(capture="never"),
        POOL: suite.calls(_pool, compare_pixels, **_PIXELS_ALONE),
        COMPILED_POOL: suite.compiled(_pool, compare_pixels, **_PIXELS_ALONE),
    },
)
