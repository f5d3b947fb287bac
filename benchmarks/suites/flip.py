"""decode of a flip test: both outputs of a network in one call, against merging them first and reading both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dark_kernels
from benchmarks import suite
from benchmarks.suite import REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, Workload
from dark_kernels.decode.reference import merge_flipped

READ_ONLY, OURS, MERGED = "read both", "decode(flipped=...)", "merge, then decode"
# What is left of a merged blob is a network's, so the error is that of rounding.
_TOLERANCE = 1e-4
# Half precision rounds a mean that is stored, by up to half a thousandth of a peak.
_MERGED_TOLERANCE = 1e-1
_COMPARED_IMAGES = 1


class Pair(NamedTuple):
    """A network's outputs for images and for the mirrored images."""

    heatmaps: Tensor  # [B, K, H, W]
    flipped: Tensor  # [B, K, H, W]


def case_of(workload: Workload, dtype: str = "float32", *others: str) -> Case:
    operation = "decode, flip test"
    rows = (READ_ONLY, OURS, MERGED, *others)
    return Case(f"{operation} {workload.name} {dtype}", operation, workload, rows, "darkpose", dtype)


def make_pair(case: Case, device: str) -> Pair:
    """Outputs that a perfect network would make of images and mirrored images, left and right swapped."""
    heatmaps = case.heatmaps(device)
    return Pair(heatmaps, heatmaps[:, _flip_indices(case.workload)].flip(-1).contiguous())


def _flip_indices(workload: Workload) -> list[int]:
    """Neighbouring channels swap, the first stays: as left and right of the body do."""
    count = workload.shape[1]
    return [0, *(min(count - 1, k + 1 if k % 2 else k - 1) for k in range(1, count))]


def decode_on(case: Case, backend: str) -> Callable[[Pair], Any]:
    return _decode(_flip_indices(case.workload), backend)


def _decode(indices: Any, backend: str) -> Callable[[Pair], Any]:
    return lambda pair: dark_kernels.decode(pair.heatmaps, flipped=pair.flipped, flip_indices=indices, backend=backend)


def find_truth(group: Group) -> Tensor:
    maps, flipped = (each[:_COMPARED_IMAGES].cpu().double() for each in group.inputs[0])
    merged = merge_flipped(maps, flipped, torch.tensor(_flip_indices(group.case.workload)), False)
    return dark_kernels.decode(merged, backend="reference").coords


def compare(keypoints: Any, group: Group, tolerance: float = _TOLERANCE) -> tuple[float, str]:
    """Largest error in pixels; raises AssertionError where it is larger than it may be."""
    error = float((keypoints.coords[:_COMPARED_IMAGES].cpu().double() - group.truth).abs().max())
    assert error <= tolerance, f"keypoints are off by up to {error:.3g} px"
    return error, "keypoints in px, against the float64 reference"


def compare_merged(keypoints: Any, group: Group) -> tuple[float, str]:
    return compare(keypoints, group, _TOLERANCE if group.case.dtype == "float32" else _MERGED_TOLERANCE)


def _indices_on_device(group: Group) -> Tensor:
    return torch.tensor(_flip_indices(group.case.workload), device=group.device)


def _merged(group: Group) -> Callable[[Pair], Any]:
    indices = _indices_on_device(group)
    return lambda pair: dark_kernels.decode((pair.heatmaps + pair.flipped[:, indices].flip(-1)) * 0.5)


def num_bytes(case: Case) -> int:
    return case.workload.decode_bytes(case.torch_dtype) + case.workload.input_bytes(case.torch_dtype)


SUITE = Suite(
    cases={
        "cpu": (case_of(W1, "float32", REFERENCE), case_of(W2)),
        "cuda": tuple(
            case_of(workload, dtype, REFERENCE)
            for workload, dtype in itertools.product((W1, W2), ("float32", "float16"))
        ),
    },
    inputs=make_pair,
    function=decode_on,
    truth=find_truth,
    compare=compare,
    num_bytes=num_bytes,
    rows={
        READ_ONLY: suite.read_only(lambda pair, case: torch.cat(pair)),
        OURS: suite.ours(),
        MERGED: suite.calls(_merged, compare_merged),
        REFERENCE: suite.calls(lambda group: _decode(_indices_on_device(group), "reference")),
    },
)
