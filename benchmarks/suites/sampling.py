"""sample_keypoints: 100 samples of each keypoint, against torch's own generator and one write of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import suite
from benchmarks.peers import Wrong
from benchmarks.suite import EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2
from dark_kernels import sample_keypoints

NUM_SAMPLES, SEED = 100, 3
FILL, OURS, RANDN = "write samples once (fill)", "sample_keypoints", "torch.randn and a product"


class Distributions(NamedTuple):
    """Arguments of sample_keypoints."""

    means: Tensor  # [B, K, 2]
    covariances: Tensor  # [B, K, 2, 2]


def cases_on(device: str) -> tuple[Case, ...]:
    floors = (FILL,) if device == "cpu" else (FILL, EMPTY)
    rows = (*floors, OURS, REFERENCE, RANDN)
    return tuple(
        Case(
            f"sample_keypoints {workload.name}", "sample_keypoints", workload, rows, f"{NUM_SAMPLES} samples",
            values="normal", shape=(*workload.shape[:2], NUM_SAMPLES, 2),
        )
        for workload in (W1, W2)
    )  # fmt: skip


def make_distributions(case: Case, device: str) -> Distributions:
    generator = torch.Generator().manual_seed(10)
    shape = case.workload.shape[:2]
    factors = torch.randn(*shape, 2, 2, generator=generator)
    covariances = factors @ factors.mT + torch.eye(2)
    means = 50 * torch.rand(*shape, 2, generator=generator)
    return Distributions(means.to(device), covariances.to(device))


def sample_on(case: Case, backend: str) -> Callable[[Distributions], Tensor]:
    return lambda inputs: sample_keypoints(*inputs, NUM_SAMPLES, SEED, backend=backend)


def sample_bytes(case: Case) -> int:
    """Size of the samples in float32."""
    return case.workload.num_maps * NUM_SAMPLES * 8


def compare(samples: Tensor, group: Group) -> tuple[float, str]:
    error = float((samples - group.truth).abs().max())
    if not error <= 1e-4:  # of positions up to 50, and some tens of sigmas of 5 at most
        raise Wrong(f"samples are off by up to {error:.3g} pixels")
    return error, "positions in pixels, against the float64 reference"


def compare_means(samples: Tensor, group: Group) -> tuple[None, str]:
    """Compare other numbers of the same distribution: the mean of all samples within 5 standard errors."""
    means = group.inputs[0].means.mean((0, 1))
    if not bool(((samples.mean((0, 1)) - means).abs() < 0.2).all()):
        raise Wrong("samples have another mean")
    return None, "the mean"


def _torch_sample(inputs: Distributions) -> Tensor:
    normals = torch.randn(*inputs.means.shape[:-1], NUM_SAMPLES, 2, device=inputs.means.device)
    factors = torch.linalg.cholesky_ex(inputs.covariances).L
    return torch.baddbmm(inputs.means.flatten(0, 1)[:, None], normals.flatten(0, 1), factors.flatten(0, 1).mT)


SUITE = Suite(
    cases={device: cases_on(device) for device in ("cpu", "cuda")},
    inputs=make_distributions,
    function=sample_on,
    compare=compare,
    num_bytes=lambda case: sample_bytes(case) + case.workload.num_maps * 24,
    rotated_bytes=sample_bytes,
    rows={
        FILL: suite.write_once(sample_bytes),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(),
        RANDN: suite.calls(
            lambda _: _torch_sample,
            compare_means,
            role="other",
            note="other numbers on every device, and on no covariance of rank one",
        ),
    },
)
