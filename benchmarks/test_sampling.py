"""sample_keypoints: 100 samples of each keypoint, against torch's own generator and against one write of them.

Run by `python -m benchmarks.run`. Samples are compared with those of the reference in float64 before anything is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import measure, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, Workload
from dark_kernels import sample_keypoints

NUM_SAMPLES = 100
SEED = 3
FILL, EMPTY, OURS, REFERENCE = "write samples once (fill)", "empty kernel", "sample_keypoints", "reference"
RANDN = "torch.randn and a product"


class Distributions(NamedTuple):
    """Arguments of sample_keypoints."""

    means: Tensor  # [B, K, 2]
    covariances: Tensor  # [B, K, 2, 2]


@functools.lru_cache(maxsize=1)
def inputs_of(workload: Workload, device: str) -> list[Distributions]:
    """Rotated inputs."""
    generator = torch.Generator().manual_seed(10)
    shape = workload.shape[:2]
    factors = torch.randn(*shape, 2, 2, generator=generator)
    covariances = factors @ factors.mT + torch.eye(2)
    means = 50 * torch.rand(*shape, 2, generator=generator)
    copies = workloads.num_copies(sample_bytes(workload), measure.cache_bytes(device))
    return [Distributions(means.to(device), covariances.to(device)) for _ in range(copies)]


def sample_bytes(workload: Workload) -> int:
    """Size of the samples in float32."""
    return workload.num_maps * NUM_SAMPLES * 8


def _sample(inputs: Distributions, backend: str = "auto") -> Tensor:
    return sample_keypoints(*inputs, NUM_SAMPLES, SEED, backend=backend)


def _torch_sample(inputs: Distributions) -> Tensor:
    normals = torch.randn(*inputs.means.shape[:-1], NUM_SAMPLES, 2, device=inputs.means.device)
    factors = torch.linalg.cholesky_ex(inputs.covariances).L
    return torch.baddbmm(inputs.means.flatten(0, 1)[:, None], normals.flatten(0, 1), factors.flatten(0, 1).mT)


@functools.lru_cache(maxsize=1)
def _truth(workload: Workload, device: str) -> Tensor:
    return _sample(Distributions(*(tensor.double() for tensor in inputs_of(workload, device)[0])), "reference")


def _compare(samples: Tensor, workload: Workload, device: str) -> tuple[float, str]:
    error = float((samples - _truth(workload, device)).abs().max())
    if not error <= 1e-4:  # of positions up to 50, and some tens of sigmas of 5 at most
        raise Wrong(f"samples are off by up to {error:.3g} pixels")
    return error, "positions in pixels, against the float64 reference"


def _compare_moments(samples: Tensor, workload: Workload, device: str) -> tuple[None, str]:
    """Other numbers, of the same distribution: the mean of all samples within 5 standard errors."""
    means = inputs_of(workload, device)[0].means.mean((0, 1))
    if not bool(((samples.mean((0, 1)) - means).abs() < 0.2).all()):
        raise Wrong("samples have another mean")
    return None, "the mean"


def _sampling_row(workload: Workload, device: str, backend: str, **fields: Any) -> Row:
    return Row(
        lambda inputs: _sample(inputs, backend),
        lambda samples: _compare(samples, workload, device),
        bytes=sample_bytes(workload) + workload.num_maps * 24,
        **fields,
    )


def _randn_row(workload: Workload, device: str) -> Row:
    return Row(
        _torch_sample,
        lambda samples: _compare_moments(samples, workload, device),
        bytes=sample_bytes(workload) + workload.num_maps * 24,
        role="other",
        note="other numbers on every device, and on no covariance of rank one",
    )


ROWS: dict[str, Callable[[Workload, str], Row]] = {
    FILL: lambda workload, device: rows.write_row(sample_bytes(workload), len(inputs_of(workload, device)), device),
    EMPTY: lambda workload, device: rows.empty_row(workload.num_maps, device),
    OURS: lambda workload, device: _sampling_row(workload, device, "auto", role="ours", capture="always"),
    REFERENCE: lambda workload, device: _sampling_row(workload, device, "reference"),
    RANDN: _randn_row,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--bench-device", default="cpu") != "cpu"
    names = [name for name in ROWS if on_gpu or name != EMPTY]
    metafunc.parametrize(
        ("workload", "row"),
        [
            pytest.param(workload, row, id=f"sample_keypoints {workload.name} {row}")
            for workload in (W1, W2)
            for row in names
        ],
    )


def test_sampling(benchmark: Any, request: pytest.FixtureRequest, workload: Workload, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](workload, device),
        inputs_of(workload, device),
        device,
        group=f"sample_keypoints {workload.name}",
        identity={
            "operation": "sample_keypoints",
            "workload": workload.name,
            "shape": [*workload.shape[:2], NUM_SAMPLES, 2],
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "normal",
            "variant": f"{NUM_SAMPLES} samples",
            "row": row,
        },
    )
