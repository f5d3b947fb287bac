"""vote: 100 samples of each keypoint put together, against torch's own sums and one read of the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import peers, suite, workloads
from benchmarks.peers import Wrong
from benchmarks.suite import EMPTY, READ_ONLY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1
from dark_kernels import Keypoints, sample_keypoints, vote

NUM_SAMPLES, BANDWIDTH = 100, 2.0
OURS, GRID_SAMPLE = "vote", "torch grid_sample and sums"


class Samples(NamedTuple):
    """Arguments of vote."""

    samples: Tensor  # [B, K, S, 2]
    heatmaps: Tensor | None  # [B, K, H, W]


def case_of(weights: str, *others: str) -> Case:
    rows, shape = (READ_ONLY, EMPTY, OURS, REFERENCE, *others), (*W1.shape[:2], NUM_SAMPLES, 2)
    variant = f"{NUM_SAMPLES} samples, weights of {weights}"
    return Case(f"vote {W1.name} {weights}", "vote", W1, rows, variant, values="normal", shape=shape)


def make_samples(case: Case, device: str) -> Samples:
    """Samples of three pixels of standard deviation around pixels of the maps."""
    generator = torch.Generator().manual_seed(11)
    batch, num_keypoints, height, width = case.workload.shape
    means = torch.rand(batch, num_keypoints, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    samples = sample_keypoints(means, 9 * torch.eye(2).expand(batch, num_keypoints, 2, 2), NUM_SAMPLES, 5).to(device)
    if case.variant.endswith("density"):
        return Samples(samples, None)
    return Samples(samples, workloads.blobs(case.workload.shape, torch.Generator(device=device).manual_seed(12)))


def vote_on(case: Case, backend: str) -> Callable[[Samples], Keypoints]:
    bandwidth = BANDWIDTH if case.variant.endswith("density") else None
    return lambda inputs: vote(*inputs, bandwidth=bandwidth, backend=backend)


def vote_bytes(case: Case) -> int:
    """Size of the samples, and of the keypoints' coordinates, scores and covariances.

    Of the maps a few pixels are read, a sector of 32 bytes and more for each, of which many are shared; they are not
    counted.
    """
    return case.workload.num_maps * (NUM_SAMPLES * 8 + 28)


def compare(keypoints: Keypoints, group: Group) -> tuple[float, str]:
    """Compare positions and covariances, but where next to no sample votes."""
    votes = group.truth.scores > 1e-3
    assert votes.double().mean() > 0.5
    assert keypoints.covariances is not None
    error = float((keypoints.coords - group.truth.coords)[votes].abs().max())
    spread = float((keypoints.covariances - group.truth.covariances)[votes].abs().max())
    if not max(error, spread) <= 1e-2:
        raise Wrong(f"keypoints are off by up to {error:.3g} pixels, covariances by {spread:.3g}")
    return error, "positions in pixels, against the float64 reference"


SUITE = Suite(
    cases=dict.fromkeys(suite.DEVICES, (case_of("heatmaps", GRID_SAMPLE), case_of("density"))),
    inputs=make_samples,
    function=vote_on,
    compare=compare,
    num_bytes=vote_bytes,
    rotated_bytes=vote_bytes,
    rows={
        READ_ONLY: suite.read_only(lambda inputs, case: inputs.samples),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(),
        GRID_SAMPLE: suite.calls(lambda _: lambda inputs: peers.grid_sample_and_sums(*inputs), role="other"),
    },
)
