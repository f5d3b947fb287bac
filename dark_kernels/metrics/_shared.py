"""Shared by the metrics: the keypoints that count, and means over them."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from .._common import checks
from .._common.names import Average

AVERAGES: tuple[Average, ...] = get_args(Average)


def check_coords(coords: Tensor) -> None:
    """[..., 2]."""
    checks.check_tensor("coords", coords, coords.dim() if isinstance(coords, Tensor) else 1, "[..., 2]")
    if coords.dim() == 0 or coords.shape[-1] != 2:
        raise ValueError(f"coords: got shape {list(coords.shape)}, expected [..., 2], (x, y) of every keypoint")


def check_pairs(coords: Tensor, targets: Tensor) -> None:
    """[..., 2] both."""
    check_coords(coords)
    check_targets(coords, targets)


def check_poses(coords: Tensor, targets: Tensor) -> None:
    """[..., K, D] both, in 2 or 3 dimensions."""
    shape = "[..., K, 2] or [..., K, 3]"
    checks.check_tensor("coords", coords, max(coords.dim(), 2) if isinstance(coords, Tensor) else 2, shape)
    if coords.shape[-1] not in (2, 3):
        raise ValueError(f"coords: got shape {list(coords.shape)}, expected {shape}")
    check_targets(coords, targets)


def check_targets(coords: Tensor, targets: Tensor) -> None:
    """One for each of coords."""
    checks.check_tensor("targets", targets, coords.dim(), "as coords")
    checks.check_shape("targets", targets, coords.shape, "one for each prediction")
    checks.check_devices(coords=coords, targets=targets)


def distances_between(coords: Tensor, targets: Tensor) -> Tensor:
    """[...], infinite where a prediction is missing, NaN where a target is."""
    found = (coords.detach().double() - targets.detach().double()).norm(dim=-1)
    found = torch.where(coords.isfinite().all(-1), found, math.inf)
    return torch.where(targets.isfinite().all(-1), found, math.nan)


def which_count(targets: Tensor, mask: Tensor | None) -> Tensor:
    """Mask of the keypoints that count, [...]."""
    counts = targets.isfinite().all(-1)
    checks.check_flags("mask", mask, counts.shape, "one for each keypoint")
    checks.check_devices(targets=targets, mask=mask)
    return counts if mask is None else counts & (mask > 0)


def mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of the values that count, []; NaN if none does."""
    return torch.where(counts, values, 0.0).sum() / counts.sum()


def average_of(values: Tensor, counts: Tensor, average: Average) -> Tensor:
    """Average values [..., K] that count: one number over all keypoints ("micro"), the mean of the keypoints' means
    ("macro"), or those, [K] ("none"). NaN where none counts."""
    if average == "micro":
        return mean(values, counts)
    leading = tuple(range(values.dim() - 1))
    values = torch.where(counts, values, 0.0)
    if leading:  # an empty tuple would reduce them all
        values, counts = values.sum(leading), counts.sum(leading)
    of_keypoints = values / counts
    return of_keypoints if average == "none" else of_keypoints.nanmean()
