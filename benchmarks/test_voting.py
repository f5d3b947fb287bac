"""vote: 100 samples of each keypoint put together, against torch's own sums and against one read of the samples.

Run by `python -m benchmarks.run`. Keypoints are compared with those of the reference in float64 before anything is
timed.
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
from benchmarks.workloads import W1, Workload
from dark_kernels import Keypoints, sample_keypoints, vote

NUM_SAMPLES = 100
BANDWIDTH = 2.0
READ_ONLY, EMPTY, OURS, REFERENCE = "read only", "empty kernel", "vote", "reference"
GRID_SAMPLE = "torch grid_sample and sums"


class Case(NamedTuple):
    """A group of rows."""

    workload: Workload
    weights: str  # "heatmaps" or "density"

    def __str__(self) -> str:
        return f"vote {self.workload.name} {self.weights}"

    @property
    def rows(self) -> tuple[str, ...]:
        return READ_ONLY, EMPTY, OURS, REFERENCE, *((GRID_SAMPLE,) if self.weights == "heatmaps" else ())


CASES = [Case(W1, "heatmaps"), Case(W1, "density")]


class Samples(NamedTuple):
    """Arguments of vote."""

    samples: Tensor  # [B, K, S, 2]
    heatmaps: Tensor | None  # [B, K, H, W]


@functools.lru_cache(maxsize=1)
def inputs_of(case: Case, device: str) -> list[Samples]:
    """Rotated inputs: samples of three pixels of standard deviation around pixels of the maps."""
    generator = torch.Generator().manual_seed(11)
    batch, num_keypoints, height, width = case.workload.shape
    means = torch.rand(batch, num_keypoints, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    samples = sample_keypoints(means, 9 * torch.eye(2).expand(batch, num_keypoints, 2, 2), NUM_SAMPLES, 5).to(device)
    heatmaps = None
    if case.weights == "heatmaps":
        heatmaps = workloads.blobs(case.workload.shape, torch.Generator(device=device).manual_seed(12))
    copies = workloads.num_copies(vote_bytes(case), measure.cache_bytes(device))
    copied = (Samples(samples.clone(), None if heatmaps is None else heatmaps.clone()) for _ in range(copies - 1))
    return [Samples(samples, heatmaps), *copied]


def vote_bytes(case: Case) -> int:
    """Size of the samples, and of the keypoints' coordinates, scores and covariances.

    Of the maps a few pixels are read, a sector of 32 bytes and more for each, of which many are shared; they are not
    counted.
    """
    return case.workload.num_maps * (NUM_SAMPLES * 8 + 28)


def _vote(inputs: Samples, backend: str = "auto") -> Keypoints:
    bandwidth = BANDWIDTH if inputs.heatmaps is None else None
    return vote(*inputs, bandwidth=bandwidth, backend=backend)


def _torch_vote(inputs: Samples) -> Keypoints:
    """Bilinear weights by torch's own sampling; maps end in zeros beyond the border, as for vote."""
    samples, heatmaps = inputs.samples.flatten(0, 1), inputs.heatmaps
    assert heatmaps is not None
    batch, num_keypoints, height, width = heatmaps.shape
    x, y = samples.unbind(-1)  # a tensor of two numbers would be a copy from the host, which nothing can capture
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    maps = heatmaps.flatten(0, 1)[:, None]
    weights = torch.nn.functional.grid_sample(maps, grid[:, None], align_corners=True)[:, 0, 0]
    weights = weights.clamp(min=0)[..., None]
    total = weights.sum(1)
    mean = (weights * samples).sum(1) / total
    difference = samples - mean[:, None]
    covariance = (weights * difference).mT @ difference / total[..., None]
    shape = batch, num_keypoints
    scores = (total / NUM_SAMPLES).view(shape)
    return Keypoints(mean.view(*shape, 2), scores, covariance.view(*shape, 2, 2))


@functools.lru_cache(maxsize=1)
def _truth(case: Case, device: str) -> Keypoints:
    samples, heatmaps = inputs_of(case, device)[0]
    return _vote(Samples(samples.double(), None if heatmaps is None else heatmaps.double()), "reference")


def _compare(keypoints: Keypoints, case: Case, device: str) -> tuple[float, str]:
    """Compare positions and covariances, but where next to no sample votes."""
    truth = _truth(case, device)
    votes = truth.scores > 1e-3
    assert votes.double().mean() > 0.5
    assert keypoints.covariances is not None
    assert truth.covariances is not None
    error = float((keypoints.coords - truth.coords)[votes].abs().max())
    spread = float((keypoints.covariances - truth.covariances)[votes].abs().max())
    if not max(error, spread) <= 1e-2:
        raise Wrong(f"keypoints are off by up to {error:.3g} pixels, covariances by {spread:.3g}")
    return error, "positions in pixels, against the float64 reference"


def _vote_row(case: Case, device: str, call: Callable[[Samples], Keypoints], **fields: Any) -> Row:
    return Row(call, lambda keypoints: _compare(keypoints, case, device), bytes=vote_bytes(case), **fields)


def _read_row(case: Case, device: str) -> Row:
    samples = inputs_of(case, device)[0].samples
    read = measure.read_once(samples)
    return Row(
        lambda inputs: read(inputs.samples),
        lambda _: (None, "nothing"),
        bytes=samples.numel() * samples.itemsize,
        role="floor",
        capture="always",
    )


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    OURS: lambda case, device: _vote_row(case, device, _vote, role="ours", capture="always"),
    REFERENCE: lambda case, device: _vote_row(case, device, functools.partial(_vote, backend="reference")),
    GRID_SAMPLE: lambda case, device: _vote_row(case, device, _torch_vote, role="other"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    left_out = EMPTY if rows.device_of(metafunc) == "cpu" else None
    rows.parametrize(metafunc, CASES, lambda case: [name for name in case.rows if name != left_out])


def test_voting(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=str(case),
        identity={
            "operation": "vote",
            "workload": case.workload.name,
            "shape": [*case.workload.shape[:2], NUM_SAMPLES, 2],
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "normal",
            "variant": f"{NUM_SAMPLES} samples, weights of {case.weights}",
            "row": row,
        },
    )
