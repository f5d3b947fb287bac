"""decode_offsets: heatmaps that are searched smoothed, with maps of offsets beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import dark_kernels
from benchmarks import suite
from benchmarks.suite import READ_ONLY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, Values, Workload
from dark_kernels import Keypoints

OURS = "decode_offsets"
# Keypoints are a pixel plus a number that is read: rounding alone.
_TOLERANCE = 1e-4
# On noise two smoothed pixels may be equal to within rounding.
_OF_NOISE = 0.01
_COMPARED_IMAGES = 1
_LARGEST_OFFSET = 0.3  # of what the network's are multiplied with


def case_of(workload: Workload, *others: str, values: Values = "blobs") -> Case:
    group = " ".join([OURS, workload.name, "float32", *([values] if values != "blobs" else [])])
    rows = (READ_ONLY, OURS, *others)
    return Case(group, OURS, workload, rows, "udp_combined", values=values)


def make_maps(case: Case, device: str) -> Tensor:
    """[B, 3 K, H, W]: each keypoint's heatmap, and offsets along x and y."""
    heatmaps = case.heatmaps(device)
    generator = torch.Generator().manual_seed(12)
    offsets = torch.rand((*heatmaps.shape[:2], 2, *heatmaps.shape[2:]), generator=generator) * _LARGEST_OFFSET
    return torch.cat([heatmaps[:, :, None], offsets.to(device)], 2).flatten(1, 2)


def decode_on(case: Case, backend: str) -> Callable[[Tensor], Keypoints]:
    return lambda maps: dark_kernels.decode_offsets(maps, backend=backend)


def find_truth(group: Group) -> Tensor:
    maps = group.inputs[0][:_COMPARED_IMAGES].cpu().double()
    return dark_kernels.decode_offsets(maps, backend="reference").coords


def compare(keypoints: Keypoints, group: Group) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where it is larger than it may be."""
    error = (keypoints.coords[:_COMPARED_IMAGES].cpu().double() - group.truth).abs()
    wrong = ~(error <= _TOLERANCE).all(-1)
    allowed = _OF_NOISE if group.case.values == "noise" else 0.0
    assert wrong.float().mean() <= allowed, f"{int(wrong.sum())} of {wrong.numel()} keypoints are wrong"
    return float(error[~wrong].max()), "keypoints in px, against the float64 reference"


SUITE = Suite(
    cases={
        "cpu": (case_of(W1, REFERENCE), case_of(W2), case_of(W2, values="noise")),
        "cuda": (case_of(W1, REFERENCE), case_of(W2, REFERENCE), case_of(W2, values="noise")),
    },
    inputs=make_maps,
    function=decode_on,
    truth=find_truth,
    compare=compare,
    num_bytes=lambda case: case.workload.decode_bytes(case.torch_dtype) + 8 * case.workload.num_maps,
    rows={
        READ_ONLY: suite.read_only(lambda maps, case: maps[:, ::3].contiguous()),
        OURS: suite.ours(),
        REFERENCE: suite.reference(),
    },
)
