"""How far a fit's step and covariance may be from those of the float64 reference.

In the notation of `tolerances.py`, whose steps these are. Each of the five solutions of a fit, three of a round
Gaussian and two of one of any shape, has equations G c = b with G = sum w f f', b = sum w z f over pixels, weights w,
logs z and terms f. With fitted values q = f' c the errors of weights and logs, dw and dz, and of sums and solution make

    (G + dG) dc = sum (dw (z - q) + w dz) f + db - dG' c,

where db and dG' are what rounding adds: n u sum |w z f| and n u sum w |f f'| for sums with n roundings each, and
(3 m + 1) u sqrt(G_ii G_jj) for an elimination without pivoting of m equations (Higham, theorems 10.3 and 10.4), and
dG = dG' + sum dw f f'. Neumann's series bounds dc as in step 5, with a matrix that is scaled to a diagonal of one.
Weights depend on logs: dw = w (exp(2 dz + (6 + 4 |z|) u) - 1), in later solutions with dq = |f|' |dc| of the solution
before, and a rounding, for dz; a factor that all weights share changes nothing. Maximum and Hessian follow from c as
in step 5. Whether the fit is a peak is certain if each of its conditions holds with more than what it may be off, or
one fails so; in between it may be either answer, and so may the fit if it is open whether a round one guides.

After a round solution a pixel keeps 1 / (1 + t^8) of its weight, with t = max(r, 0) / c, residual r = h - e^q and
c = max(0.4 e^m, 3 n) for a maximum m and noise n. Errors dh, e^q (exp(dq) - 1) and e^m (exp(dm) - 1) give dr and dc, of
n^2, a mean of squares, sum (2 |r| + dr) dr over the pixels below, and dt = (dr + t dc) / (c - dc). The share falls with
t: its error is the larger of those at t - dt and t + dt.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._products import product
from ..decode import reference
from ..recipes import Recipe
from .arithmetic import Arithmetic, unit_roundoff
from .systems import bound_covariance, bound_step, matrix_of, norm


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
    pixels_there, pixels = pixels, torch.where(taken, pixels, peaks)
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

    # Additions, and the products with powers and logs before them; in a round Gaussian's, two more for sums of sums.
    num_roundings = 4 + (2 * len(distance) if arithmetic.sums_rows_first else terms.shape[0])
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    values, value_errors = (
        (pixels_there / peaks).clamp(min=-1.0),
        4 * roundoff * (pixels_there / peaks).clamp(-1, 0).abs(),
    )
    values = torch.where(taken, logs.exp(), values)
    value_errors = torch.where(taken, values * torch.expm1(log_errors + (6 + 2 * logs.abs()) * roundoff), value_errors)

    def solve(weights: Tensor, wrong: Tensor, is_round: bool) -> _Solution:
        chosen, more_roundings = (_round(terms), 2) if is_round else (terms, 0)
        num = num_roundings + more_roundings
        return _bound_solution(weights, wrong, logs, log_errors, chosen, radius, num, roundoff, is_round)

    weights, wrong = _exponentials(logs.clamp(max=0), torch.where(logs > 0, 0.0, log_errors), taken, roundoff, tiny)
    squares = u * u + v * v
    window = torch.exp(-squares.double() / (2 * reference.fit_start(radius) ** 2))
    started, started_wrong = weights * window, wrong * window + weights * window * (6 + squares) * roundoff + tiny
    kept, kept_errors = torch.ones_like(weights), torch.zeros_like(weights)
    is_open = torch.zeros_like(x, dtype=torch.bool)
    for step in range(reference.FIT_ROUND_SOLUTIONS):
        fit = solve(*((started, started_wrong) if step == 0 else (weights, wrong)), is_round=True)
        near, far = _is_at_most(fit.maximum.abs(), fit.maximum_errors, reference.FIT_FARTHEST)
        guides = fit.is_peak & near
        is_open = is_open | ~(guides | fit.is_none | (fit.is_peak & far))
        now_kept, now_errors = _bound_kept(values, value_errors, inside, fit, num_roundings, roundoff)
        kept = torch.where(guides[..., None], now_kept, kept)
        kept_errors = torch.where(guides[..., None], now_errors, kept_errors)
        now, now_wrong = _exponentials(fit.logs, fit.log_errors, taken, roundoff, tiny)
        now, now_wrong = now * kept, now_wrong * (kept + kept_errors) + now * (kept_errors + 2 * roundoff * kept)
        weights, wrong = torch.where(guides[..., None], now, weights), torch.where(guides[..., None], now_wrong, wrong)

    succeeds, fails = torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    for _ in range(reference.FIT_SOLUTIONS):
        fit = solve(weights, wrong, is_round=False)
        fails = fails | (succeeds & fit.is_none)
        succeeds = succeeds & fit.is_peak
        weights, wrong = _exponentials(fit.logs, fit.log_errors, taken, roundoff, tiny)
        weights, wrong = weights * kept, wrong * (kept + kept_errors) + weights * (kept_errors + 2 * roundoff * kept)
    small, large = _is_at_most(fit.maximum, fit.maximum_errors, reference.FIT_MOST)
    succeeds, fails = succeeds & small, fails | (succeeds & large)
    covariance_bounds = bound_covariance(
        fit.hessian, fit.hessian_errors, recipe.target_variance, roundoff, out_roundoff
    )
    return FitBounds(fit.step, fit.step_bounds, covariance_bounds, succeeds & ~is_open, fails & ~is_open)


class _Solution(NamedTuple):
    """A solution in float64 and how far off each of its numbers may be; whether it certainly is a peak, or none."""

    hessian: Tensor
    hessian_errors: Tensor
    step: Tensor
    step_bounds: Tensor
    logs: Tensor  # over the maximum
    log_errors: Tensor
    maximum: Tensor
    maximum_errors: Tensor
    is_peak: Tensor
    is_none: Tensor


def _bound_solution(
    weights: Tensor, wrong: Tensor, logs: Tensor, log_errors: Tensor, terms: Tensor, radius: int, num_roundings: int,
    roundoff: float, is_round: bool,
) -> _Solution:  # fmt: skip
    matrix = _moments(weights, terms)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    rounded = num_roundings * roundoff * _moments(weights, terms.abs())
    eliminated = (3 * terms.shape[1] + 1) * roundoff
    rounded = rounded + eliminated * (diagonal[..., None] * diagonal[..., None, :]).sqrt()
    matrix_errors = rounded + _moments(wrong, terms.abs())
    right = product(weights * logs, terms)
    coefficients = torch.linalg.solve_ex(matrix, right)[0]

    residuals = (logs - product(coefficients, terms.mT)).abs()
    off = product(wrong * residuals + weights * log_errors, terms.abs())
    off = off + num_roundings * roundoff * product(weights * logs.abs(), terms.abs())
    off = off + product(rounded, coefficients.abs()[..., None])[..., 0]
    errors = _solution_errors(matrix, matrix_errors, off)

    regular, singular = _pivots_are_certain(matrix, matrix_errors, roundoff)
    gradient, hessian = coefficients[..., 1:3], _quadratic_matrix(coefficients, is_round)
    gradient_errors, hessian_errors = errors[..., 1:3], _quadratic_matrix(errors, is_round)
    step, step_bounds = bound_step(gradient, gradient_errors, hessian, hessian_errors, roundoff)
    products = hessian[..., 0, 0] * hessian[..., 1, 1], hessian[..., 0, 1] ** 2
    determinant = products[0] - products[1]
    wrong_products = _products_error(hessian, hessian_errors) + 4 * roundoff * (products[0].abs() + products[1])
    curvature, curvature_errors = hessian[..., 0, 0], hessian_errors[..., 0, 0]
    is_peak = (curvature + curvature_errors < 0) & (step.abs() + step_bounds <= radius).all(-1)
    is_none = (curvature - curvature_errors >= 0) | (step.abs() - step_bounds > radius).any(-1)
    if not is_round:  # whose determinant is the square of its curvature
        is_peak = is_peak & (determinant - wrong_products > 0)
        is_none = is_none | (determinant + wrong_products <= 0)

    slope = (gradient * step).sum(-1) / 2
    maximum = coefficients[..., 0] + slope
    maximum_errors = errors[..., 0] + (gradient_errors * (step.abs() + step_bounds) + gradient.abs() * step_bounds).sum(
        -1
    )
    maximum_errors = maximum_errors + 8 * roundoff * (coefficients[..., 0].abs() + slope.abs())
    fitted = product(coefficients, terms.mT) - maximum[..., None]
    fitted_errors = product(errors, terms.abs().mT) + 8 * roundoff * (
        product(coefficients.abs(), terms.abs().mT) + maximum.abs()[..., None]
    )
    return _Solution(
        hessian, hessian_errors, step, step_bounds, fitted, fitted_errors, maximum, maximum_errors,
        regular & is_peak, singular | (regular & is_none),
    )  # fmt: skip


def _is_at_most(values: Tensor, errors: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Whether that is certain, and whether the contrary is."""
    return values + errors <= limit, values - errors > limit


def _bound_kept(
    values: Tensor, value_errors: Tensor, inside: Tensor, fit: _Solution, num_roundings: int, roundoff: float
) -> tuple[Tensor, Tensor]:
    """What share of its weight each pixel keeps after a round solution, and how far off that is."""
    logs = fit.logs + fit.maximum[..., None]
    log_errors = fit.log_errors + fit.maximum_errors[..., None]
    fitted = logs.exp()
    fitted_errors = fitted * torch.expm1(
        log_errors + (8 + 4 * (fit.logs.abs() + fit.maximum.abs()[..., None])) * roundoff
    )
    residuals = torch.where(inside, values - fitted, 0.0)
    errors = torch.where(inside, value_errors + fitted_errors + roundoff * residuals.abs(), 0.0)
    below = residuals.clamp(max=0).abs()
    count = inside.sum(-1)
    variance = 2 * below.square().sum(-1) / count
    variance_errors = 2 * ((2 * below + errors) * errors).sum(-1) / count + num_roundings * roundoff * variance
    noise = variance.sqrt()
    above = (variance + variance_errors).sqrt() - noise
    noise_errors = torch.maximum(above, noise - (variance - variance_errors).clamp(min=0).sqrt())
    amplitude = fit.maximum.exp()
    amplitude_errors = amplitude * torch.expm1(fit.maximum_errors + (6 + 2 * fit.maximum.abs()) * roundoff)
    tolerated = torch.maximum(reference.FIT_TOLERATED * amplitude, reference.FIT_TOLERATED_NOISE * noise)
    tolerated_errors = torch.maximum(
        reference.FIT_TOLERATED * amplitude_errors, reference.FIT_TOLERATED_NOISE * noise_errors
    )
    tolerated_errors = (tolerated_errors + 4 * roundoff * tolerated)[..., None]
    tolerated = tolerated[..., None]
    excess = residuals.clamp(min=0) / tolerated
    excess_errors = (errors + excess * tolerated_errors) / (tolerated - tolerated_errors).clamp(min=0)
    excess_errors = torch.where(excess_errors.isnan(), math.inf, excess_errors + 4 * roundoff * excess)

    def share(excess: Tensor) -> Tensor:
        return 1 / (1 + excess**8)

    kept = share(excess)
    more, less = share((excess - excess_errors).clamp(min=0)), share(excess + excess_errors)
    return kept, torch.maximum(more - kept, kept - less) + 16 * roundoff * kept


def _exponentials(logs: Tensor, errors: Tensor, taken: Tensor, roundoff: float, tiny: float) -> tuple[Tensor, Tensor]:
    """Weights exp(2 logs) of the pixels that are taken, and how far off they are."""
    weights = torch.where(taken, (2 * logs).exp(), 0.0)
    wrong = weights * torch.expm1(2 * errors + (6 + 4 * logs.abs()) * roundoff)
    return weights, torch.where(taken, wrong + tiny, 0.0)


def _round(terms: Tensor) -> Tensor:
    """The terms [pixels, 4] of a round Gaussian, from those of any."""
    return torch.cat([terms[:, :3], terms[:, 3:4] + terms[:, 5:6]], 1)


def _moments(weights: Tensor, terms: Tensor) -> Tensor:
    return product((weights[..., None] * terms).mT, terms)


def _quadratic_matrix(coefficients: Tensor, is_round: bool) -> Tensor:
    """The Hessian of the fitted quadratic, or how far it is off if that is given."""
    xx = 2 * coefficients[..., 3]
    yy, xy = (xx, torch.zeros_like(xx)) if is_round else (2 * coefficients[..., 5], coefficients[..., 4])
    return matrix_of(torch.stack([xx, yy, xy], -1))


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
    rho = norm(product(inverse, matrix_errors * scales))
    direct = product(inverse, (off * scale)[..., None])[..., 0]
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
        error = (product(matrix_errors[..., : i + 1, : i + 1], y.abs()[..., None])[..., 0] * y.abs()).sum(-1)
        # To first order, times what the inverse of a perturbed L may be larger: less than two, or all is open.
        error = 2 * error + reference.FIT_PIVOT * (matrix_errors[..., i, i] + 2 * roundoff * matrix[..., i, i])
        lowest = reference.FIT_PIVOT * matrix[..., i, i]
        singular = singular | (regular & (pivot + error <= lowest))
        regular = regular & (pivot - error > lowest)
    return regular, singular
