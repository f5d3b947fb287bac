"""decode of a flip test: both outputs of a network in one call, against merging them first and against reading both.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps. Keypoints are compared with those of the
float64 reference before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, rows, workloads
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, Workload
from dark_kernels.decode.reference import merge_flipped

READ_ONLY, OURS, MERGED, REFERENCE = "read both", "decode(flipped=...)", "merge, then decode", "reference"
# What is left of a merged blob is a network's, so the error is that of rounding.
_TOLERANCE = 1e-4
# Half precision rounds a mean that is stored, by up to half a thousandth of a peak.
_MERGED_TOLERANCE = 1e-1
_COMPARED_IMAGES = 1


class Pair(NamedTuple):
    """A network's outputs for images and for the mirrored images."""

    heatmaps: Tensor  # [B, K, H, W]
    flipped: Tensor  # [B, K, H, W]


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    workload: Workload
    dtype: str = "float32"
    rows: tuple[str, ...] = (READ_ONLY, OURS, MERGED)

    def __str__(self) -> str:
        return f"decode, flip test {self.workload.name} {self.dtype}"


CPU_CASES = (Case(W1, rows=(READ_ONLY, OURS, MERGED, REFERENCE)), Case(W2))
CUDA_CASES = tuple(
    Case(workload, dtype, (READ_ONLY, OURS, MERGED, REFERENCE))
    for workload, dtype in itertools.product((W1, W2), ("float32", "float16"))
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, CPU_CASES if rows.device_of(metafunc) == "cpu" else CUDA_CASES)


@functools.lru_cache(maxsize=1)
def _inputs(workload: Workload, dtype: str, device: str) -> list[Pair]:
    heatmaps = workloads.make_heatmaps(workload, workloads.DTYPES[dtype], "contiguous", "blobs", device)
    # A network that were perfect would see the mirrored image so, left and right swapped.
    flipped = heatmaps[:, _flip_indices(workload)].flip(-1).contiguous()
    copies = workloads.num_copies(2 * heatmaps.numel() * heatmaps.itemsize, measure.cache_bytes(device))
    pairs = [Pair(heatmaps, flipped)]
    return [*pairs, *(Pair(heatmaps.clone(), flipped.clone()) for _ in range(copies - 1))]


def _flip_indices(workload: Workload) -> list[int]:
    """Neighbouring channels swap, the first stays: as left and right of the body do."""
    count = workload.shape[1]
    return [0, *(min(count - 1, k + 1 if k % 2 else k - 1) for k in range(1, count))]


@functools.lru_cache(maxsize=1)
def _truth(workload: Workload, dtype: str, device: str) -> Tensor:
    maps, flipped = (each[:_COMPARED_IMAGES].cpu().double() for each in _inputs(workload, dtype, device)[0])
    merged = merge_flipped(maps, flipped, torch.tensor(_flip_indices(workload)), False)
    return dark_kernels.decode(merged, backend="reference").coords


def _row(case: Case, device: str, call: Callable[[Pair], Any], tolerance: float = _TOLERANCE, **fields: Any) -> Row:
    def compare(keypoints: Any) -> tuple[float, str]:
        truth = _truth(case.workload, case.dtype, device)
        error = float((keypoints.coords[:_COMPARED_IMAGES].cpu().double() - truth).abs().max())
        assert error <= tolerance, f"keypoints are off by up to {error:.3g} px"
        return error, "keypoints in px, against the float64 reference"

    dtype = workloads.DTYPES[case.dtype]
    size = case.workload.decode_bytes(dtype) + case.workload.input_bytes(dtype)
    return Row(call, compare, size, **fields)


def _ours_row(case: Case, device: str) -> Row:
    indices = _flip_indices(case.workload)
    return _row(
        case,
        device,
        lambda pair: dark_kernels.decode(pair.heatmaps, flipped=pair.flipped, flip_indices=indices),
        role="ours",
        capture="always",
    )


def _merged_row(case: Case, device: str) -> Row:
    indices = torch.tensor(_flip_indices(case.workload), device=device)

    def call(pair: Pair) -> Any:
        return dark_kernels.decode((pair.heatmaps + pair.flipped[:, indices].flip(-1)) * 0.5)

    return _row(case, device, call, _TOLERANCE if case.dtype == "float32" else _MERGED_TOLERANCE)


def _reference_row(case: Case, device: str) -> Row:
    indices = torch.tensor(_flip_indices(case.workload), device=device)
    return _row(
        case,
        device,
        lambda pair: dark_kernels.decode(
            pair.heatmaps, flipped=pair.flipped, flip_indices=indices, backend="reference"
        ),
    )


def _read_only_row(case: Case, device: str) -> Row:
    """Both maps behind each other, in one pass."""
    joined = [torch.cat(pair) for pair in _inputs(case.workload, case.dtype, device)]
    following = itertools.cycle(joined)
    read = measure.read_once(joined[0])

    def compare(output: Tensor) -> tuple[None, str]:
        assert output.numel() == 2 * case.workload.num_maps
        return None, "nothing"

    size = joined[0].numel() * joined[0].itemsize
    return Row(lambda _: read(next(following)), compare, size, role="floor", capture="always")


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_only_row,
    OURS: _ours_row,
    MERGED: _merged_row,
    REFERENCE: _reference_row,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_flip(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        _inputs(case.workload, case.dtype, device),
        device,
        group=str(case),
        identity={
            "operation": "decode, flip test",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "blobs",
            "variant": "darkpose",
            "row": row,
        },
    )
