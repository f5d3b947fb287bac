"""Bounds of a step, the solution of two equations, and of a covariance, the inverse of their matrix.

Step 5 of `tolerances.py`, and its words about covariances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._common.products import product


def matrix_of(second: Tensor) -> Tensor:
    """[..., 2, 2] from (xx, yy, xy)."""
    xx, yy, xy = second.unbind(-1)
    return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)


def _inverse(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse and determinant of symmetric 2 x 2 matrices, and the sum of the two products it is made of."""
    xx, xy, yy = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = xx * yy - xy * xy
    adjugate = matrix_of(torch.stack([yy, xx, -xy], -1))
    return adjugate / determinant[..., None, None], determinant, (xx * yy).abs() + xy * xy


def norm(matrix: Tensor) -> Tensor:
    """The infinity norm."""
    return matrix.abs().sum(-1).amax(-1)


def bound_step(
    gradient: Tensor, gradient_off: Tensor, hessian: Tensor, hessian_off: Tensor, roundoff: float
) -> tuple[Tensor, Tensor]:
    """-hessian^-1 gradient [..., 2], and its bounds: infinite where that is singular in this arithmetic."""
    inverse, determinant, products = _inverse(hessian)
    step = -product(inverse, gradient[..., None])[..., 0]
    rho = norm(product(inverse.abs(), hessian_off))
    direct = product(inverse.abs(), gradient_off[..., None] + product(hessian_off, step.abs()[..., None]))[..., 0]
    bound = direct + (rho / (1 - rho))[..., None] * direct.amax(-1, keepdim=True)
    # Cramer's rule: three roundings in each determinant, one in the division. The determinants are those of the
    # perturbed problem, within a factor of two or so since rho < 1/2.
    numerators = product(inverse.abs(), (gradient.abs() + gradient_off)[..., None])[..., 0]
    lost = 4 * roundoff * products / determinant.abs()
    bound = bound + 8 * roundoff * numerators + (2 * lost[..., None] + 4 * roundoff) * (step.abs() + bound)
    singular = ~((rho < 0.5) & (lost < 0.25))
    return step, bound.masked_fill(singular[..., None], math.inf)


def bound_covariance(
    hessian: Tensor, hessian_off: Tensor, known_variance: float, roundoff: float, out_roundoff: float
) -> Tensor:
    """Bounds of -hessian^-1 - known_variance [..., 2, 2]: infinite also where its existence is open."""
    inverse, determinant, products = _inverse(hessian)
    rho = norm(product(inverse.abs(), hessian_off))
    direct = product(inverse.abs(), hessian_off, inverse.abs())
    bound = direct + (rho / (1 - rho))[..., None, None] * direct.amax((-2, -1), keepdim=True) * 2
    lost = 4 * roundoff * products / determinant.abs()
    bound = bound + (2 * lost[..., None, None] + 8 * roundoff) * (inverse.abs() + bound) + 8 * roundoff * known_variance
    singular = ~((rho < 0.5) & (lost < 0.25))
    # Within rho < 1/2 the signs of the Hessian's eigenvalues are certain, so only the sign of the covariance's
    # smallest one is open. The test xx yy >= xy^2 rounds too: 4 u times the largest eigenvalue.
    rest = -inverse - known_variance * torch.eye(2, dtype=inverse.dtype, device=inverse.device)
    safe = torch.where(singular[..., None, None], 0.0, rest).nan_to_num(0.0, 0.0, 0.0)
    smallest = torch.linalg.eigvalsh(safe)[..., 0]
    undecided = smallest.abs() <= norm(bound) + 8 * roundoff * norm(safe)
    bound = bound + 2 * out_roundoff * rest.abs()
    is_maximum = (hessian[..., 0, 0] < 0) & (determinant > 0)
    bound = torch.where((is_maximum & undecided)[..., None, None], math.inf, bound)
    return bound.masked_fill(singular[..., None, None], math.inf)
