"""soft_argmax: what a training step costs, against what PyTorch and kornia do and against one read of the maps.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps. Coordinates and gradients are compared
with those of the reference in float64 before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, W3, Workload

BETA = 10.0

READ_ONLY, EMPTY, OURS, REFERENCE = "read only", "empty kernel", "soft_argmax", "reference"
COMPILED, TORCH, KORNIA = "torch.compile of the reference", "torch softmax and grids", "kornia soft-argmax"

# Largest error of coordinates in pixels, and of a gradient relative to its largest number. In float16 gradients are
# rounded to 11 bits, and so is what others do in between.
_TOLERANCES = {"float32": (1e-3, 1e-4), "float16": (1e-3, 2e-3)}
_PEER_TOLERANCE = 0.2


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    workload: Workload
    dtype: str = "float32"
    backward: bool = True
    rows: tuple[str, ...] = (READ_ONLY, OURS)

    @property
    def operation(self) -> str:
        """The function, and which passes are timed."""
        return f"soft_argmax forward{' + backward' if self.backward else ''}"

    @property
    def num_bytes(self) -> int:
        """Bytes that must move: the maps read once a pass, the gradient written; four numbers a map."""
        maps = self.workload.input_bytes(workloads.DTYPES[self.dtype])
        return (3 if self.backward else 1) * maps + 16 * self.workload.num_maps

    def __str__(self) -> str:
        return f"{self.operation} {self.workload.name} {self.dtype}"


CPU_CASES = (
    Case(W1, backward=False, rows=(READ_ONLY, OURS, REFERENCE, TORCH, KORNIA)),
    # Compiling takes ten seconds and more.
    Case(W1, rows=(READ_ONLY, OURS, REFERENCE, COMPILED, TORCH, KORNIA)),
    Case(W2, rows=(READ_ONLY, OURS, TORCH)),
)
CUDA_CASES = tuple(
    Case(workload, dtype, backward, names)
    for workload, dtype, backward in itertools.product((W1, W2, W3), ("float32", "float16"), (False, True))
    # All peers in a few groups, and the usual one in all of them.
    for names in [
        (READ_ONLY, EMPTY, OURS, REFERENCE, COMPILED, TORCH, KORNIA)
        if dtype == "float32" and workload is not W3
        else (READ_ONLY, OURS, TORCH)
    ]
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, CPU_CASES if rows.device_of(metafunc) == "cpu" else CUDA_CASES)


# --- inputs, and the truth about them -----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # a case with and one without a backward pass share them
def inputs_of(workload: Workload, dtype: str, device: str) -> list[Tensor]:
    """Rotated maps, which require grad."""
    maps = workloads.make_heatmaps(workload, workloads.DTYPES[dtype], device=device)
    rotated = workloads.rotated_inputs(maps, measure.cache_bytes(device))
    return [each.requires_grad_() for each in rotated]


def run_step(function: Callable[[Tensor], Tensor], maps: Tensor, backward: bool) -> tuple[Tensor, ...]:
    """The coordinates, and the gradient of the mean of their squares."""
    if not backward:
        with torch.no_grad():
            return (function(maps),)
    coords = function(maps)
    grad_coords = coords.detach() * (2 / coords.numel())
    return coords.detach(), *torch.autograd.grad(coords, maps, grad_coords)


@functools.lru_cache(maxsize=1)
def _truth(workload: Workload, dtype: str, device: str) -> tuple[Tensor, ...]:
    maps = inputs_of(workload, dtype, device)[0].detach().double().requires_grad_()
    return run_step(_function(REFERENCE), maps, backward=True)


def compare(output: tuple[Tensor, ...], case: Case, device: str, tolerances: tuple[float, float]) -> tuple[float, str]:
    """Largest error of the coordinates in pixels; raises Wrong where they, or the gradient, are off by too much."""
    coords, gradient = _truth(case.workload, case.dtype, device)
    error = float((output[0] - coords).abs().max())
    if not error <= tolerances[0]:
        raise Wrong(f"coordinates are off by up to {error:.3g} px")
    if len(output) > 1:
        gradient_error = float((output[1] - gradient).abs_().max() / gradient.abs().max())
        if not gradient_error <= tolerances[1]:
            raise Wrong(f"the gradient is off by {gradient_error:.3g} of its largest number")
    return error, "coordinates in px, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _function(row: str) -> Callable[[Tensor], Tensor]:
    if row == TORCH:
        return functools.partial(peers.softmax_and_grid, beta=BETA)
    if row == KORNIA:
        return peers.kornia_soft_argmax(BETA)
    backend = "reference" if row in (REFERENCE, COMPILED) else "auto"
    return functools.partial(dark_kernels.soft_argmax, beta=BETA, backend=backend)


def _step_row(case: Case, device: str, row: str) -> Row:
    function = _function(row)
    tolerances = _TOLERANCES[case.dtype]
    if row == COMPILED:
        example = inputs_of(case.workload, case.dtype, device)[0]
        function = peers.compiled(function, lambda compiled: run_step(compiled, example, case.backward))
    if row in (TORCH, KORNIA) and case.dtype != "float32":
        tolerances = (_PEER_TOLERANCE, _PEER_TOLERANCE)
    return Row(
        lambda maps: run_step(function, maps, case.backward),
        lambda output: compare(output, case, device, tolerances),
        case.num_bytes,
        role="ours" if row == OURS else "peer",
        capture="always" if row == OURS else "never" if row == KORNIA else "try",
    )


def _read_only_row(case: Case, device: str) -> Row:
    read = measure.read_once(inputs_of(case.workload, case.dtype, device)[0].detach())

    def compare(output: Tensor) -> tuple[None, str]:
        assert output.numel() == case.workload.num_maps
        return None, "nothing"

    size = case.workload.input_bytes(workloads.DTYPES[case.dtype])
    return Row(lambda maps: read(maps.detach()), compare, size, role="floor", capture="always")


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_only_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    **{
        row: functools.partial(lambda case, device, row: _step_row(case, device, row), row=row)
        for row in (OURS, REFERENCE, COMPILED, TORCH, KORNIA)
    },
}


def test_soft_argmax(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case.workload, case.dtype, device),
        device,
        group=str(case),
        identity={
            "operation": case.operation,
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "blobs",
            "variant": f"beta={BETA:g}",
            "row": row,
        },
    )
