"""How far off, and how honest: the numbers of the training example."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = (50, 90, 95)
"""Per cents of the ellipses whose coverage is measured."""


def errors(
    coords: Tensor,  # [N, 2]
    keypoints: Tensor,  # [N, 2]
) -> Tensor:
    """Distances [N], infinite where nothing was found: a missing keypoint is not a good one."""
    return torch.nan_to_num((coords - keypoints).norm(dim=-1).double(), nan=math.inf)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's: the correlation of ranks, equal values sharing the mean of theirs. NaN if all are equal."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def sigmas(
    covariances: Tensor,  # [N, 2, 2]
) -> Tensor:
    """One standard deviation for each covariance [N], det(Sigma)^(1/4): that of the circle of the same area."""
    return torch.linalg.det(covariances.double()) ** 0.25


def squared_distances(
    coords: Tensor,  # [N, 2]
    covariances: Tensor,  # [N, 2, 2]
    keypoints: Tensor,  # [N, 2]
) -> Tensor:
    """Squared Mahalanobis distances [N]; chi-square with 2 degrees of freedom if the distributions are true."""
    difference = (keypoints - coords).double()
    return torch.einsum("ni,nij,nj->n", difference, torch.linalg.inv(covariances.double()), difference)


def coverage(squared: Tensor, scale: float = 1.0) -> dict[str, float]:
    """Share of keypoints inside the ellipses that should hold 50, 90 and 95 % of them, covariances times `scale`."""
    return {str(level): float((squared / scale <= chi_square(level)).double().mean()) for level in LEVELS}


def chi_square(level: float) -> float:
    """Square of the radius, in standard deviations, within which `level` per cent of a 2-d Gaussian lie."""
    return -2 * math.log1p(-level / 100)
