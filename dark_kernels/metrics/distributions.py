"""Calibration of the uncertainty of keypoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._common import checks
from .._common.inputs import call_with_tensors
from .._common.names import ArrayT
from ._shared import check_coords, check_pairs, mean, which_count

LEVELS = (0.5, 0.9, 0.95)
"""Shares of the ellipses whose coverage is measured."""


def squared_distances(
    coords: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
    targets: ArrayT,  # [..., 2]
) -> ArrayT:
    """Squared Mahalanobis distances of targets from predictions, [...]: chi-square with 2 degrees of freedom if the
    distributions are true. Infinite where there is no distribution, NaN for a target that is not finite.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(squared_distances, coords=coords, covariances=covariances, targets=targets)
    check_pairs(coords, targets)
    x, y = (targets.double() - coords.detach().double()).unbind(-1)
    xx, xy, yy, determinant = _elements(covariances, coords)
    squared = (yy * x * x - 2 * xy * x * y + xx * y * y) / determinant
    exists = coords.isfinite().all(-1) & _is_definite(xx, yy, determinant)
    squared = torch.where(exists, squared, math.inf)
    return torch.where(targets.isfinite().all(-1), squared, math.nan)


def has_distribution(
    coords: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
) -> ArrayT:
    """True where a prediction is finite and its covariance positive definite: bool [...].

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(has_distribution, coords=coords, covariances=covariances)
    check_coords(coords)
    xx, _, yy, determinant = _elements(covariances, coords)
    return coords.isfinite().all(-1) & _is_definite(xx, yy, determinant)


def chi_square(level: float) -> float:
    """Squared radius, in standard deviations, of the ellipse that holds the share `level` of a 2-d Gaussian: -2 ln(1 -
    level).

    Raises:
        TypeError: `level` is not a number.
        ValueError: It is not a share, from 0 and below 1.
    """
    level = checks.to_number("level", level)
    if not 0 <= level < 1:
        raise ValueError(f"level: got {level}, expected a share from 0 and below 1")
    return -2 * math.log1p(-level)


def coverage(
    coords: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
    targets: ArrayT,  # [..., 2]
    levels: Sequence[float] = LEVELS,
    mask: ArrayT | None = None,  # [...]
) -> ArrayT:
    """The share of targets inside the ellipse that should hold the share `level` of them, [len(levels)]: equal to the
    level if the distributions are true, below it if they are too sure of themselves.

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        levels: Shares from 0 and below 1.
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor, or a level not a number.
        ValueError: Shapes or devices differ, or a level is out of range.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            coverage, coords=coords, covariances=covariances, targets=targets, levels=levels, mask=mask
        )
    if isinstance(checks.plain(levels), (int, float)):
        raise TypeError(f"levels: got {levels!r}, expected a sequence of numbers")
    squared = squared_distances(coords, covariances, targets)
    counts = which_count(targets, mask)
    shares = [mean((squared <= chi_square(level)).double(), counts) for level in levels]
    return torch.stack(shares) if shares else squared.new_zeros(0)


def calibration_error(
    coords: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
    targets: ArrayT,  # [..., 2]
    bins: int = 15,
    mask: ArrayT | None = None,  # [...]
) -> ArrayT:
    """Error of the cumulative distributions of each axis, [2] for x and y.

    With u the value of the predicted cumulative distribution (of the axis alone, with the square root of its
    variance) at the target, the share of targets with u <= p should be p: the error is the mean of their absolute
    differences at the centres p of `bins` equal bins of [0, 1]. 0 is perfect; distributions that are far too wide or
    far too narrow have about a quarter, means that are far off a half. (V. Kuleshov et al., "Accurate Uncertainties for
    Deep Learning Using Calibrated Regression", ICML 2018, with absolute differences.)

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        bins: At least 1.
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor, or `bins` not an integer.
        ValueError: Shapes or devices differ, or `bins` is below 1.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            calibration_error, coords=coords, covariances=covariances, targets=targets, bins=bins, mask=mask
        )
    check_pairs(coords, targets)
    bins = checks.to_count("bins", bins)
    counts = which_count(targets, mask) & has_distribution(coords, covariances)
    sigma = covariances.detach().double().diagonal(dim1=-2, dim2=-1).sqrt()
    u = torch.special.ndtr((targets.double() - coords.detach().double()) / sigma)  # [..., 2]
    centers = (torch.arange(bins, dtype=torch.float64, device=u.device) + 0.5) / bins
    below = (u[..., None] <= centers).double()  # [..., 2, bins]
    shares = (below * counts[..., None, None]).flatten(0, -3).sum(0) / counts.sum()
    return (shares - centers).abs().mean(-1)


def negative_log_likelihood(
    coords: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
    targets: ArrayT,  # [..., 2]
    mask: ArrayT | None = None,  # [...]
) -> ArrayT:
    """The mean of minus the log of the predicted densities at the targets, []: m^2 / 2 + log |Sigma| / 2 + log 2 pi, of
    squared pixels. The lower, the better; it may be negative.

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            negative_log_likelihood, coords=coords, covariances=covariances, targets=targets, mask=mask
        )
    squared = squared_distances(coords, covariances, targets)
    _, _, _, determinant = _elements(covariances, coords)
    losses = 0.5 * (squared + determinant.log()) + math.log(2 * math.pi)
    return mean(losses, which_count(targets, mask) & has_distribution(coords, covariances))


def sigmas(
    covariances: ArrayT,  # [..., 2, 2]
) -> ArrayT:
    """One standard deviation for each covariance, [...]: |Sigma|^(1/4), that of the circle of the same area. NaN where
    the determinant is negative.

    Raises:
        TypeError: `covariances` is not a dense floating tensor.
        ValueError: It is not [..., 2, 2].
    """
    if isinstance(covariances, np.ndarray):
        return call_with_tensors(sigmas, covariances=covariances)
    _, _, _, determinant = _elements(covariances)
    return determinant.sqrt().sqrt()


def sharpness(
    covariances: ArrayT,  # [..., 2, 2]
    mask: ArrayT | None = None,  # [...]
) -> ArrayT:
    """The mean of `sigmas`, [], in pixels: of two that are calibrated, the lower is the better. Covariances that are
    not positive definite are left out.

    Raises:
        TypeError: `covariances` is not a dense floating tensor.
        ValueError: It is not [..., 2, 2], or `mask` not [...].
    """
    if isinstance(covariances, np.ndarray):
        return call_with_tensors(sharpness, covariances=covariances, mask=mask)
    xx, _, yy, determinant = _elements(covariances)
    counts = _is_definite(xx, yy, determinant)
    if mask is not None:
        checks.check_flags("mask", mask, counts.shape, "one for each keypoint")
        counts = counts & (mask > 0)
    return mean(sigmas(covariances), counts)


def rank_correlation(
    first: ArrayT,  # [N]
    second: ArrayT,  # [N]
) -> ArrayT:
    """Spearman's, []: the correlation of ranks, equal values sharing the mean of theirs, such as of sigmas and
    distances. NaN if all are equal.

    Raises:
        TypeError: An argument is not a dense tensor of floats.
        ValueError: The shapes are not [N], or differ.
    """
    if isinstance(first, np.ndarray):
        return call_with_tensors(rank_correlation, first=first, second=second)
    checks.check_tensor("first", first, 1, "[N]")
    checks.check_tensor("second", second, 1, "[N]")
    checks.check_shape("second", second, first.shape, "as first")
    ranks = torch.stack([_ranks(first), _ranks(second)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    squares = ranks.square().sum(1)
    return ((ranks[0] * ranks[1]).sum() / (squares[0] * squares[1]).sqrt()).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values.detach().double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def _elements(covariances: Tensor, coords: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xx, xy, yy and the determinant of covariances [..., 2, 2]."""
    dim = covariances.dim() if isinstance(covariances, Tensor) else 2
    checks.check_tensor("covariances", covariances, dim, "[..., 2, 2]")
    if dim < 2 or covariances.shape[-2:] != (2, 2):
        raise ValueError(f"covariances: got shape {list(covariances.shape)}, expected [..., 2, 2]")
    if coords is not None:
        checks.check_shape("covariances", covariances, (*coords.shape, 2), "one for each of coords")
        checks.check_devices(coords=coords, covariances=covariances)
    xx, xy, _, yy = covariances.detach().double().flatten(-2).unbind(-1)
    return xx, xy, yy, xx * yy - xy * xy


def _is_definite(xx: Tensor, yy: Tensor, determinant: Tensor) -> Tensor:
    """True for covariances that are positive definite; NaN and infinite ones are not."""
    return (xx > 0) & (yy > 0) & (determinant > 0) & (determinant < math.inf)
