"""oks of all pairs of poses, and the votes of similar poses about their keypoints, against one write of what comes out.

Run by `python -m benchmarks.run`. Outputs are compared with those of the reference in float64 before anything is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from torch import Tensor

from benchmarks import measure, rows, test_nms, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import Workload
from dark_kernels import oks, variance_voting

WORKLOAD = test_nms.P1
FILL, EMPTY, OURS, REFERENCE = "write the output once (fill)", "empty kernel", "ours", "reference"
NAMES = (FILL, EMPTY, OURS, REFERENCE)


class Poses(NamedTuple):
    """Arguments of both."""

    poses: Tensor  # [B, N, K, 2]
    areas: Tensor  # [B, N]
    variances: Tensor  # [B, N, K]
    similarities: Tensor  # [B, N, N]


def _oks(inputs: Poses, backend: str) -> Tensor:
    return oks(inputs.poses, inputs.poses, inputs.areas, inputs.areas, backend=backend)


def _vote(inputs: Poses, backend: str) -> Tensor:
    return variance_voting(inputs.poses, inputs.variances, inputs.similarities, backend=backend)


OPERATIONS: dict[str, Callable[[Poses, str], Tensor]] = {"oks": _oks, "variance_voting": _vote}


def output_bytes(operation: str, workload: Workload) -> int:
    """Size of the similarities, or of the poses, in float32."""
    batch, num_poses, num_keypoints, _ = workload.shape
    return batch * num_poses * 4 * (num_poses if operation == "oks" else 2 * num_keypoints)


def step_bytes(operation: str, workload: Workload) -> int:
    """And of what is read: poses and areas, or poses, variances and similarities."""
    batch, num_poses, num_keypoints, _ = workload.shape
    read = 2 * num_keypoints + 1 if operation == "oks" else 3 * num_keypoints + num_poses
    return output_bytes(operation, workload) + batch * num_poses * 4 * read


@functools.lru_cache(maxsize=1)
def inputs_of(workload: Workload, device: str) -> list[Poses]:
    """Rotated inputs."""
    poses, scores, areas, _ = test_nms.make_poses(workload, device)
    variances = (4.0 / scores)[..., None].expand(poses.shape[:-1]).contiguous()
    inputs = Poses(poses, areas, variances, oks(poses, poses, areas, areas))
    copies = workloads.num_copies(step_bytes("variance_voting", workload), measure.cache_bytes(device))
    return [inputs, *(Poses(*(tensor.clone() for tensor in inputs)) for _ in range(copies - 1))]


@functools.lru_cache(maxsize=2)
def _truth(operation: str, workload: Workload, device: str) -> Tensor:
    return OPERATIONS[operation](Poses(*(tensor.double() for tensor in inputs_of(workload, device)[0])), "reference")


def _compare(output: Tensor, operation: str, workload: Workload, device: str) -> tuple[float, str]:
    error = float((output - _truth(operation, workload, device)).abs().max())
    # Of similarities up to 1 in some hundred units of rounding, and of positions up to 700 in as many.
    if not error <= (1e-4 if operation == "oks" else 1e-2):
        raise Wrong(f"{operation} is off by up to {error:.3g}")
    return error, ("similarities" if operation == "oks" else "positions in pixels") + ", against the float64 reference"


def make_row(operation: str, name: str, workload: Workload, device: str) -> Row:
    """A row of a group."""
    if name == FILL:
        return rows.write_row(output_bytes(operation, workload), len(inputs_of(workload, device)), device)
    if name == EMPTY:
        return rows.empty_row(workload.shape[0], device)
    backend = "auto" if name == OURS else "reference"
    return Row(
        lambda inputs: OPERATIONS[operation](inputs, backend),
        lambda output: _compare(output, operation, workload, device),
        bytes=step_bytes(operation, workload),
        role="ours" if name == OURS else "peer",
        capture="always" if name == OURS else "try",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--bench-device", default="cpu") != "cpu"
    names = [name for name in NAMES if on_gpu or name != EMPTY]
    metafunc.parametrize(
        ("operation", "row"),
        [
            pytest.param(operation, row, id=f"{operation} {WORKLOAD.name} {row}")
            for operation in OPERATIONS
            for row in names
        ],
    )


def test_oks(benchmark: Any, request: pytest.FixtureRequest, operation: str, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: make_row(operation, row, WORKLOAD, device),
        inputs_of(WORKLOAD, device),
        device,
        group=f"{operation} {WORKLOAD.name}",
        identity={
            "operation": operation,
            "workload": WORKLOAD.name,
            "shape": list(WORKLOAD.shape),
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "people",
            "variant": "all pairs",
            "row": operation if row == OURS else row,
        },
    )
