"""sample_keypoints: 100 samples of each keypoint, against torch's own generator and one write of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import peers, suite
from benchmarks.peers import Wrong
from benchmarks.suite import EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, Workload
from dark_kernels import sample_keypoints

NUM_SAMPLES, SEED = 100, 3
FILL, OURS, RANDN = "write samples once (fill)", "sample_keypoints", "torch.randn and a product"


class Distributions(NamedTuple):
    """Arguments of sample_keypoints."""

    means: Tensor  # [B, K, 2]
    covariances: Tensor  # [B, K, 2, 2]


def case_of(workload: Workload) -> Case:
    rows, shape = (FILL, EMPTY, OURS, REFERENCE, RANDN), (*workload.shape[:2], NUM_SAMPLES, 2)
    return Case(f"{OURS} {workload.name}", OURS, workload, rows, f"{NUM_SAMPLES} samples", values="normal", shape=shape)


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
    # Of positions up to 50, and some tens of sigmas of 5 at most.
    return suite.within(1e-4, "samples are", samples, group.truth), "positions in pixels, against the float64 reference"


def compare_means(samples: Tensor, group: Group) -> tuple[None, str]:
    """Compare other numbers of the same distribution: the mean of all samples within 5 standard errors."""
    means = group.inputs[0].means.mean((0, 1))
    if not bool(((samples.mean((0, 1)) - means).abs() < 0.2).all()):
        raise Wrong("samples have another mean")
    return None, "the mean"


SUITE = Suite(
    cases=dict.fromkeys(suite.DEVICES, (case_of(W1), case_of(W2))),
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
            lambda _: lambda inputs: peers.randn_and_product(*inputs, NUM_SAMPLES),
            compare_means,
            role="other",
            note="other numbers on every device, and on no covariance of rank one",
        ),
    },
)
