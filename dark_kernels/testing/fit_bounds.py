"""How far a fit's step and covariance may be from those of the float64 reference.

In the notation of `tolerances.py`, whose steps these are. Each of the three solutions of a fit has equations G c = b
with G = sum w f f', b = sum w z f over pixels, weights w, logs z and terms f. With fitted values q = f' c the errors of
weights and logs, dw and dz, and of sums and solution make

    (G + dG) dc = sum (dw (z - q) + w dz) f + db - dG' c,

where db and dG' are what rounding adds: n u sum |w z f| and n u sum w |f f'| for sums with n roundings each, and
19 u sqrt(G_ii G_jj) for an elimination without pivoting of six equations (Higham, theorems 10.3 and 10.4), and
dG = dG' + sum dw f f'. Neumann's series bounds dc as in step 5, with a matrix that is scaled to a diagonal of one.
Weights depend on logs: dw = w (exp(2 dz + (6 + 4 |z|) u) - 1), in later solutions with dq = |f|' |dc| of the solution
before, and a rounding, for dz; a factor that all weights share changes nothing. Maximum and Hessian follow from c as
in step 5. Whether the fit is a peak is certain if each of its conditions holds with more than what it may be off, or
one fails so; in between it may be either answer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..decode import reference
from ..recipes import Recipe
from .arithmetic import Arithmetic, unit_roundoff
from .systems import bound_covariance, bound_step, matrix_of, norm

_FIT_TERMS = 6


class FitBounds(NamedTuple):
    """A fit's step in float64, how far off it and its covariance may be, and whether there is a fit."""

    step: Tensor  # [B, K, 2]
    step_bounds: Tensor  # [B, K, 2]
    covariance_bounds: Tensor  # [B, K, 2, 2]
    succeeds: Tensor  # [B, K]: it certainly is a peak
    fails: Tensor  # [B, K]: it certainly is none


def choose(fit: FitBounds, fitted: Tensor, otherwise: Tensor) -> Tensor:
    """The bounds that hold: those of the fit, of what stands for it where it fails, or none where that is open."""
    shape = fit.fails.shape + (1,) * (fitted.dim() - fit.fails.dim())
    otherwise = torch.where(fit.fails.view(shape), otherwise, math.inf)
    return torch.where(fit.succeeds.view(shape), fitted, otherwise)


def bound_fit(
    maps: Tensor,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    arithmetic: Arithmetic,
    out_roundoff: float,
    relative_errors: Tensor | None = None,  # [B, K, H, W]
) -> FitBounds:
    """What this module's docstring derives. `relative_errors`: of the pixels that a backend fits to."""
    radius, (height, width) = recipe.fit_radius, maps.shape[-2:]
    roundoff = unit_roundoff(arithmetic.step) + unit_roundoff(torch.float64)
    tiny = torch.finfo(arithmetic.step).tiny
    distance = torch.arange(-radius, radius + 1, device=maps.device)
    v, u = (each.flatten() for each in torch.meshgrid(distance, distance, indexing="ij"))
    row, column = y[..., None] + v, x[..., None] + u
    terms = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], -1).double()
    pixels = maps.flatten(2).gather(-1, row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
    peaks = reference._read(maps, x, y, 0, 0)[..., None]
    taken = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (pixels / peaks > 0)
    pixels = torch.where(taken, pixels, peaks)
    logs = (pixels / peaks).log()
    if arithmetic.relative_logs:  # as in step 3
        absolute = 8 * roundoff * (1 + pixels.log().abs() + peaks.log().abs())
        log_errors = torch.where(logs.abs() < 0.5, 8 * roundoff * logs.abs(), absolute)
    else:
        log_errors = torch.where(pixels == peaks, 0.0, 2 * roundoff + 8 * roundoff * logs.abs())
    log_errors = log_errors + torch.where(pixels == peaks, 0.0, (tiny / (pixels / peaks)).clamp(max=1.0))

    if relative_errors is not None:
        of_pixels = relative_errors.flatten(2).gather(-1, row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
        log_errors = log_errors + of_pixels + reference._read(relative_errors, x, y, 0, 0)[..., None]

    # Additions, and the products with powers and logs before them.
    num_roundings = 4 + (2 * len(distance) if arithmetic.sums_rows_first else len(terms))
    succeeds, fails = torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    fitted, fitted_errors = logs, log_errors
    for _ in range(reference.FIT_SOLUTIONS):
        weights = torch.where(taken, (2 * fitted).exp(), 0.0)
        wrong = weights * torch.expm1(2 * fitted_errors + (6 + 4 * fitted.abs()) * roundoff)
        wrong = torch.where(taken, wrong + tiny, 0.0)
        matrix = _moments(weights, terms)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        rounded = num_roundings * roundoff * _moments(weights, terms.abs())
        rounded = rounded + (3 * _FIT_TERMS + 1) * roundoff * (diagonal[..., None] * diagonal[..., None, :]).sqrt()
        matrix_errors = rounded + _moments(wrong, terms.abs())
        right = (weights * logs) @ terms
        coefficients = torch.linalg.solve_ex(matrix, right)[0]

        residuals = (logs - coefficients @ terms.mT).abs()
        off = (wrong * residuals + weights * log_errors) @ terms.abs()
        off = off + num_roundings * roundoff * ((weights * logs.abs()) @ terms.abs())
        off = off + (rounded @ coefficients.abs()[..., None])[..., 0]
        errors = _solution_errors(matrix, matrix_errors, off)

        regular, singular = _pivots_are_certain(matrix, matrix_errors, roundoff)
        gradient, hessian = coefficients[..., 1:3], _quadratic_matrix(coefficients)
        gradient_errors, hessian_errors = errors[..., 1:3], _quadratic_matrix(errors)
        step, step_bounds = bound_step(gradient, gradient_errors, hessian, hessian_errors, roundoff)
        products = hessian[..., 0, 0] * hessian[..., 1, 1], hessian[..., 0, 1] ** 2
        determinant = products[0] - products[1]
        wrong_products = _products_error(hessian, hessian_errors) + 4 * roundoff * (products[0].abs() + products[1])
        is_peak = (hessian[..., 0, 0] + hessian_errors[..., 0, 0] < 0) & (determinant - wrong_products > 0)
        is_peak = is_peak & (step.abs() + step_bounds <= radius).all(-1)
        is_none = (hessian[..., 0, 0] - hessian_errors[..., 0, 0] >= 0) | (determinant + wrong_products <= 0)
        is_none = is_none | (step.abs() - step_bounds > radius).any(-1)
        fails = fails | (succeeds & (singular | (regular & is_none)))
        succeeds = succeeds & regular & is_peak

        maximum = coefficients[..., 0] + (gradient * step).sum(-1) / 2
        fitted = coefficients @ terms.mT - maximum[..., None]
        fitted_errors = errors @ terms.abs().mT + 8 * roundoff * (
            coefficients.abs() @ terms.abs().mT + maximum.abs()[..., None]
        )
    covariance_bounds = bound_covariance(hessian, hessian_errors, recipe.target_variance, roundoff, out_roundoff)
    return FitBounds(step, step_bounds, covariance_bounds, succeeds, fails)


def _moments(weights: Tensor, terms: Tensor) -> Tensor:
    return (weights[..., None] * terms).mT @ terms


def _quadratic_matrix(coefficients: Tensor) -> Tensor:
    """The Hessian of the fitted quadratic, or how far it is off if that is given."""
    return matrix_of(torch.stack([2 * coefficients[..., 3], 2 * coefficients[..., 5], coefficients[..., 4]], -1))


def _products_error(matrix: Tensor, off: Tensor) -> Tensor:
    """How far off the determinant of a symmetric 2 x 2 matrix is, rounding aside."""
    (xx, xy, yy), (dxx, dxy, dyy) = (
        (each[..., 0, 0].abs(), each[..., 0, 1].abs(), each[..., 1, 1].abs()) for each in (matrix, off)
    )
    return xx * dyy + yy * dxx + dxx * dyy + 2 * xy * dxy + dxy * dxy


def _solution_errors(matrix: Tensor, matrix_errors: Tensor, off: Tensor) -> Tensor:
    """How far the solution of equations with that matrix is off; infinite where it is singular in this arithmetic."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    scales = scale[..., None] * scale[..., None, :]
    inverse = torch.linalg.inv_ex(matrix * scales)[0].abs()
    rho = norm(inverse @ (matrix_errors * scales))
    direct = (inverse @ (off * scale)[..., None])[..., 0]
    errors = direct + (rho / (1 - rho))[..., None] * direct.amax(-1, keepdim=True)
    return torch.where((rho < 0.5)[..., None], errors * scale, math.inf)


def _pivots_are_certain(matrix: Tensor, matrix_errors: Tensor, roundoff: float) -> tuple[Tensor, Tensor]:
    """Whether all pivots of an elimination certainly are large enough, and whether one certainly is not: [B, K] each.

    A pivot is d = m - r' L^-1 r of the matrix [[L, r], [r', m]]. With y = (-L^-1 r, 1) the error is |y|' dG |y|, and
    more the closer L is to singular.
    """
    regular = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    singular = ~regular
    for i in range(matrix.shape[-1]):
        leading, beside = matrix[..., :i, :i], matrix[..., :i, i]
        y = torch.cat([-torch.linalg.solve_ex(leading, beside)[0], torch.ones_like(matrix[..., :1, 0])], -1)
        pivot = (matrix[..., i, : i + 1] * y).sum(-1)
        error = ((matrix_errors[..., : i + 1, : i + 1] @ y.abs()[..., None])[..., 0] * y.abs()).sum(-1)
        # To first order, times what the inverse of a perturbed L may be larger: less than two, or all is open.
        error = 2 * error + reference.FIT_PIVOT * (matrix_errors[..., i, i] + 2 * roundoff * matrix[..., i, i])
        lowest = reference.FIT_PIVOT * matrix[..., i, i]
        singular = singular | (regular & (pivot + error <= lowest))
        regular = regular & (pivot - error > lowest)
    return regular, singular
