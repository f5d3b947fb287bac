"""encode: target maps of keypoints, against the way of data loaders and against one write of them.

Run by `python -m benchmarks.run`. Maps and weights are compared with those of the reference in float64 before anything
is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, Workload
from dark_kernels import encode

SIGMA = 2.0
FILL, EMPTY, OURS, REFERENCE = "write maps once (fill)", "empty kernel", "encode", "reference"
COMPILED, NUMPY = "torch.compile of the reference", "NumPy loop of a data loader"
ROW_NAMES = (FILL, EMPTY, OURS, REFERENCE, COMPILED, NUMPY)

# exp in float32 of what is rounded to float32: some units of 1.2e-7, at values up to 1. float16 rounds the result.
_TOLERANCE = {"float32": 2e-6, "float16": 5e-4}


class Case(NamedTuple):
    """One group of rows."""

    workload: Workload
    encoding: str
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"encode {self.workload.name} {self.dtype} {self.encoding}"

    @property
    def size(self) -> tuple[int, int]:
        return self.workload.shape[2], self.workload.shape[3]

    @property
    def num_bytes(self) -> int:
        """Size of the maps. Keypoints and weights are less than a hundredth of them."""
        return self.workload.input_bytes(workloads.DTYPES[self.dtype])


def _cases(device: str) -> list[Case]:
    cases = [Case(W1, "unbiased"), Case(W2, "unbiased"), Case(W2, "biased"), Case(W2, "udp")]
    return cases if device == "cpu" else [*cases, Case(W2, "unbiased", "float16")]


def _rows_of(case: Case, device: str) -> list[str]:
    left_out = set()
    if device == "cpu":
        left_out.add(EMPTY)
    if case.encoding == "udp" or case.dtype != "float32":
        left_out.add(NUMPY)
    if case != Case(W1 if device == "cpu" else W2, "unbiased"):  # it takes seconds to compile
        left_out.add(COMPILED)
    return [name for name in ROW_NAMES if name not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = rows.device_of(metafunc)
    rows.parametrize(metafunc, _cases(device), lambda case: _rows_of(case, device))


# --- inputs, and the truth about them -----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def inputs_of(case: Case, device: str) -> list[Tensor]:
    """Rotated keypoints [B, K, 2] inside their maps. They are small; what they are drawn to is new each time."""
    height, width = case.size
    copies = workloads.num_copies(case.num_bytes, measure.cache_bytes(device))
    generator = torch.Generator().manual_seed(8)
    drawn = torch.rand((copies, *case.workload.shape[:2], 2), generator=generator)
    return list((drawn * torch.tensor([width - 1.0, height - 1.0])).to(device))


@functools.lru_cache(maxsize=1)
def _truth(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Maps (float32, computed in float64) and weights, some images at a time."""
    parts = [
        encode(keypoints.double(), case.size, SIGMA, case.encoding, dtype=torch.float64, backend="reference")
        for keypoints in inputs_of(case, device)[0].split(4)
    ]
    maps, weights = zip(*parts, strict=True)
    return torch.cat([part.float() for part in maps]), torch.cat(weights)


def compare(output: tuple[Tensor, Tensor], case: Case, device: str) -> tuple[float, str]:
    """Largest error of maps and weights; raises Wrong."""
    largest = 0.0
    for got, expected in zip(output, _truth(case, device), strict=True):
        assert got.shape == expected.shape
        error = float((got - expected).abs_().max())
        if not error <= _TOLERANCE[case.dtype]:
            raise Wrong(f"maps or weights are off by up to {error:.3g}")
        largest = max(largest, error)
    return largest, "maps and weights, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _encode(keypoints: Tensor, case: Case, backend: str = "auto") -> tuple[Tensor, Tensor]:
    return encode(keypoints, case.size, SIGMA, case.encoding, dtype=workloads.DTYPES[case.dtype], backend=backend)


def _row(case: Case, device: str, call: Callable[[Tensor], tuple[Tensor, Tensor]], **fields: Any) -> Row:
    return Row(call, lambda output: compare(output, case, device), case.num_bytes, **fields)


def _compiled_row(case: Case, device: str) -> Row:
    example = inputs_of(case, device)[0]
    reference = functools.partial(_encode, case=case, backend="reference")
    return _row(case, device, peers.compiled(reference, lambda function: function(example)))


def _numpy_row(case: Case, device: str) -> Row:
    def call(keypoints: Tensor) -> tuple[Tensor, Tensor]:
        maps = peers.numpy_targets(keypoints.cpu().numpy(), case.size, SIGMA, case.encoding)
        return torch.from_numpy(maps).to(device), torch.ones(keypoints.shape[:2], device=device)

    note = "on one core" if device == "cpu" else "on one core of the host, and the copy to the device"
    return _row(case, device, call, capture="never", note=note)


ROWS: dict[str, Callable[[Case, str], Row]] = {
    FILL: lambda case, device: rows.write_row(case.num_bytes, len(inputs_of(case, device)), device),
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    OURS: lambda case, device: _row(case, device, functools.partial(_encode, case=case), role="ours", capture="always"),
    REFERENCE: lambda case, device: _row(case, device, functools.partial(_encode, case=case, backend="reference")),
    COMPILED: _compiled_row,
    NUMPY: _numpy_row,
}


def test_encode(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=str(case),
        identity={
            "operation": "encode",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "keypoints",
            "variant": case.encoding,
            "row": row,
        },
    )
