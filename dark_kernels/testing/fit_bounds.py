"""Bounds a fit's distance from the float64 reference.

In the notation of `tolerances.py`, whose steps these are. Each of the five solutions of a fit, three of a round
Gaussian and two of one of any shape, has equations G c = b with G = sum w f f', b = sum w z f over pixels, weights w,
logs z and terms f. With fitted values q = f' c the errors of weights and logs, dw and dz, and of sums and solution make

    (G + dG) dc = sum (dw (z - q) + (w + dw) dz) f + db - dG' c,

where db and dG' are what rounding adds: n u sum |w z f| and n u sum w |f f'| for sums with n roundings each, and
(3 m + 1) u sqrt(G_ii G_jj) for an elimination without pivoting of m equations (Higham, theorems 10.3 and 10.4), with
12 u besides where factors and last quotients are off by 6 u more (`Arithmetic.uses_inverse_roots`), and
dG = dG' + sum dw f f'. An addition is off by no more than its smaller operand, so n counts pixels that weigh something,
and the others add their sum each time.

*Errors keep their signs.* Weights come from the solution before, dw = 2 w f' dc, and were sizes of errors all that is
known of it, each solution would make a hundred times the error of the one before, where in truth it makes hardly more
than the same. So a solution's error is S e: a matrix S of sensitivities, and e the sizes of what each solution so far
has added, of which no more than the size is known. The next has G^-1 sum 2 w (z - q) f f' S for a matrix, and adds what
is left: roundings, dz, and all that is beyond first order,

- of weights, w (exp(2 |dq|) - 1 - 2 |dq|);
- of solutions, dc - G^-1 (G + dG) dc, in the norm of G at most rho / (1 - rho) times the first order. rho is the
  norm of G^-1/2 dG G^-1/2: of relative errors of weights the largest, or their sum with each times its pixel's leverage
  w f' G^-1 f. An element is at most sqrt((G^-1)_ii) times the norm, and a pivot, which is a minimum of the quadratic
  form of G, is off by rho of itself.

The first weights have dw = w (exp(2 dz + (6 + 4 |z|) u) - 1); a factor that all weights share changes nothing. Maximum
and Hessian follow from c as in step 5. Whether the fit is a peak is certain if each of its conditions holds with more
than what it may be off, or one fails so; in between it may be either answer, and so may the fit if it is open whether a
round one guides.

*What pixels keep.* After a round solution a pixel keeps k = 1 / (1 + t^8) of its weight, with t = max(r, 0) / c,
residual r = h - e^q and c = max(0.4 e^m, 3 n) for a maximum m and noise n, n^2 being a mean of squares of min(r, 0). To
first order dr = -e^q dq, dm = f(step)' dc (at a maximum the step counts for nothing), and dn, dc and dt as these say.
Beyond that are, besides the roundings of each, e^q (exp(|dq|) - 1 - |dq|), |dc| times the step's error, sums of dr^2,
|dr + t dc| |dc| / c^2 and 4 dt^2, since |k''| < 8. Where it is open which of the two is larger, c is off by no more
than each of them may be, and the sign is lost.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .._common.products import product
from ..decode import reference
from ..recipes import Recipe
from .arithmetic import Arithmetic, unit_roundoff
from .systems import bound_covariance, bound_step, matrix_of, norm

_Of = TypeVar("_Of", "_Weights", "_Kept")

# A pixel of less leverage is one of those whose errors are summed. One of less weight, relative to a rounding of the
# largest, is one of those whose additions are not counted.
_LITTLE_LEVERAGE, _LITTLE_WEIGHT = 1e-3, 1e-6


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
    """Bound a fit as derived above. `relative_errors`: of the pixels that a backend fits to."""
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

    num_additions = 2 * len(distance) if arithmetic.sums_rows_first else terms.shape[0]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    values, value_errors = (
        (pixels_there / peaks).clamp(min=-1.0),
        4 * roundoff * (pixels_there / peaks).clamp(-1, 0).abs(),
    )
    values = torch.where(taken, logs.exp(), values)
    value_errors = torch.where(taken, values * torch.expm1(log_errors + (6 + 2 * logs.abs()) * roundoff), value_errors)

    def solve(weights: _Weights, is_round: bool) -> _Solution:
        chosen = _round(terms) if is_round else terms
        num_eliminated = 3 * chosen.shape[1] + 1 + arithmetic.eliminates_with
        return _bound_solution(
            weights, logs, log_errors, chosen, radius, num_additions, num_eliminated, roundoff, is_round
        )

    def weigh(fit: _Solution, kept: _Kept) -> _Weights:
        """exp(2 q) of the pixels that are taken, over their maximum, times what is kept of them."""
        values = torch.where(taken, (2 * fit.logs).exp(), 0.0)
        rounded = (2 * fit.rounded + (6 + 4 * fit.logs.abs()) * roundoff).expm1() + 2 * roundoff
        moved, kept_moved = 2 * fit.moved, _reach(kept.sensitivities, fit.boxes)
        most_kept = kept.values * (1 + kept_moved) + kept.wrong
        beyond = kept.values * (moved.expm1() - moved + kept_moved * moved.expm1()) + kept.wrong * moved.exp()
        wrong = torch.where(taken, values * (beyond + rounded * moved.exp() * most_kept) + tiny, 0.0)
        return _Weights(values * kept.values, wrong, 2 * fit.sensitivities + kept.sensitivities, fit.boxes)

    weights, wrong = _exponentials(logs.clamp(max=0), torch.where(logs > 0, 0.0, log_errors), taken, roundoff, tiny)
    squares = u * u + v * v
    window = torch.exp(-squares.double() / (2 * reference.fit_start(radius) ** 2))
    started, started_wrong = weights * window, wrong * window + weights * window * (6 + squares) * roundoff + tiny
    no_boxes, no_sensitivities = maps.new_zeros(*x.shape, 0), maps.new_zeros(*weights.shape, 0)
    current = _Weights(weights, wrong, no_sensitivities, no_boxes)
    kept = _Kept(torch.ones_like(weights), torch.zeros_like(weights), no_sensitivities)
    is_open = torch.zeros_like(x, dtype=torch.bool)
    for step in range(reference.FIT_ROUND_SOLUTIONS):
        fit = solve(current._replace(values=started, wrong=started_wrong) if step == 0 else current, is_round=True)
        near, far = _is_at_most(fit.maximum.abs(), fit.maximum_errors, reference.FIT_FARTHEST)
        guides = fit.is_peak & near
        is_open = is_open | ~(guides | fit.is_none | (fit.is_peak & far))
        kept = _where(
            guides, _bound_kept(values, value_errors, inside, fit, 4 + num_additions, roundoff), kept.padded(fit.boxes)
        )
        current = _where(guides, weigh(fit, kept), current.padded(fit.boxes))

    succeeds, fails = torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    for _ in range(reference.FIT_SOLUTIONS):
        fit = solve(current, is_round=False)
        fails = fails | (succeeds & fit.is_none)
        succeeds = succeeds & fit.is_peak
        kept = kept.padded(fit.boxes)
        current = weigh(fit, kept)
    small, large = _is_at_most(fit.maximum, fit.maximum_errors, reference.FIT_MOST)
    succeeds, fails = succeeds & small, fails | (succeeds & large)
    covariance_bounds = bound_covariance(
        fit.hessian, fit.hessian_errors, recipe.target_variance, roundoff, out_roundoff
    )
    # A smoothed map's peak need not be positive in the raw one.
    is_positive = peaks[..., 0] > 0
    return FitBounds(
        fit.step,
        fit.step_bounds,
        covariance_bounds,
        succeeds & ~is_open & is_positive,
        (fails & ~is_open) | ~is_positive,
    )


class _Weights(NamedTuple):
    """Weights in float64, and how far off they may be: by `wrong`, and by what the solutions before them have lost.

    The second is known to first order with its sign: the logs of the weights change by `sensitivities` times the errors
    of all coefficients so far, which are up to `boxes`.
    """

    values: Tensor  # [B, K, pixels]
    wrong: Tensor  # [B, K, pixels]
    sensitivities: Tensor  # [B, K, pixels, errors]
    boxes: Tensor  # [B, K, errors]

    def padded(self, boxes: Tensor) -> _Weights:
        """The same, where there are errors that came later."""
        return self._replace(sensitivities=_pad(self.sensitivities, boxes), boxes=boxes)


class _Kept(NamedTuple):
    """Share of its weight that each pixel keeps, and its error, as in _Weights."""

    values: Tensor
    wrong: Tensor
    sensitivities: Tensor

    def padded(self, boxes: Tensor) -> _Kept:
        """The same, where there are errors that came later."""
        return self._replace(sensitivities=_pad(self.sensitivities, boxes))


def _pad(sensitivities: Tensor, boxes: Tensor) -> Tensor:
    return torch.nn.functional.pad(sensitivities, (0, boxes.shape[-1] - sensitivities.shape[-1]))


def _where(condition: Tensor, these: _Of, others: _Of) -> _Of:
    """Choose for each map [B, K] these or the others."""
    return type(these)(
        *(
            torch.where(condition.view(*condition.shape, *[1] * (a.dim() - condition.dim())), a, b)
            for a, b in zip(these, others, strict=True)
        )
    )


class _Solution(NamedTuple):
    """A solution in float64 and how far off each of its numbers may be; whether it certainly is a peak, or none."""

    hessian: Tensor
    hessian_errors: Tensor
    step: Tensor
    step_bounds: Tensor
    logs: Tensor  # over the maximum
    moved: Tensor  # how far off they are for the coefficients' errors, but for what all pixels share
    rounded: Tensor  # and for their own roundings
    log_errors: Tensor  # all in all, what they share included
    maximum: Tensor
    maximum_sensitivities: Tensor
    maximum_wrong: Tensor
    maximum_errors: Tensor
    is_peak: Tensor
    is_none: Tensor
    sensitivities: Tensor  # of the logs, as in _Weights
    boxes: Tensor


def _bound_solution(
    weights: _Weights, logs: Tensor, log_errors: Tensor, terms: Tensor, radius: int, num_additions: int,
    num_eliminated: int, roundoff: float, is_round: bool,
) -> _Solution:  # fmt: skip
    matrix = _moments(weights.values, terms)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    little = weights.values <= _LITTLE_WEIGHT * roundoff * weights.values.amax(-1, keepdim=True)
    # Products with powers and logs come before additions; in a round Gaussian's equations there are sums of sums.
    num_products = 6 if is_round else 4
    num_roundings = num_products + (~little).sum(-1, keepdim=True).clamp(max=num_additions)
    lost = num_additions * torch.where(little, weights.values, 0.0)
    rounded = _moments(num_roundings * roundoff * weights.values + lost, terms.abs())
    rounded = rounded + num_eliminated * roundoff * (diagonal[..., None] * diagonal[..., None, :]).sqrt()
    right = product(weights.values * logs, terms)
    coefficients = torch.linalg.solve_ex(matrix, right)[0]
    scale = diagonal.clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    inverse = torch.linalg.inv_ex(matrix * scale[..., None] * scale[..., None, :])[0]
    inverse = inverse * scale[..., None] * scale[..., None, :]
    relative = _weights_error(weights, inverse, terms)

    residuals = logs - product(coefficients, terms.mT)
    most = weights.values * (1 + _reach(weights.sensitivities, weights.boxes)) + weights.wrong
    off = product(weights.wrong * residuals.abs() + most * log_errors, terms.abs())
    off = off + product((num_roundings * roundoff * weights.values + lost) * logs.abs(), terms.abs())
    off = off + product(rounded, coefficients.abs()[..., None])[..., 0]
    pulls = product(((weights.values * residuals)[..., None] * terms).mT, weights.sensitivities)
    new, sensitivities = _solution_errors(inverse, relative, rounded, off, pulls, weights, terms)
    boxes = torch.cat([weights.boxes, new], -1)
    sensitivities = torch.cat(
        [sensitivities, torch.eye(terms.shape[1], dtype=new.dtype, device=new.device).expand(*new.shape, -1)], -1
    )
    errors = _reach(sensitivities, boxes)

    regular, singular = _pivots_are_certain(matrix, relative, rounded, roundoff)
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
    along, across = step.unbind(-1)
    at_step = [torch.ones_like(along), along, across]
    at_step += [along**2 + across**2] if is_round else [along**2, along * across, across**2]
    maximum_sensitivities = product(torch.stack(at_step, -1)[..., None, :], sensitivities)[..., 0, :]
    slope_errors = gradient_errors + product(hessian_errors, (step.abs() + step_bounds)[..., None])[..., 0]
    maximum_wrong = (slope_errors * step_bounds).sum(-1)
    maximum_wrong = maximum_wrong + 8 * roundoff * (coefficients[..., 0].abs() + slope.abs())
    maximum_errors = _reach(maximum_sensitivities[..., None, :], boxes)[..., 0] + maximum_wrong
    fitted = product(coefficients, terms.mT) - maximum[..., None]
    of_logs = product(terms, sensitivities)
    moved = _reach(of_logs, boxes)
    rounded_logs = 8 * roundoff * (product(coefficients.abs(), terms.abs().mT) + maximum.abs()[..., None])
    return _Solution(
        hessian, hessian_errors, step, step_bounds, fitted, moved, rounded_logs, moved + rounded_logs,
        maximum, maximum_sensitivities, maximum_wrong, maximum_errors,
        regular & is_peak, singular | (regular & is_none), of_logs, boxes,
    )  # fmt: skip


def _reach(sensitivities: Tensor, boxes: Tensor) -> Tensor:
    """Bound of sensitivities times errors that are up to `boxes`."""
    return product(sensitivities.abs(), boxes[..., None])[..., 0].nan_to_num(math.inf, math.inf)


def _is_at_most(values: Tensor, errors: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Masks: where that is certain, and where the contrary is."""
    return values + errors <= limit, values - errors > limit


def _bound_kept(
    values: Tensor, value_errors: Tensor, inside: Tensor, fit: _Solution, num_roundings: int, roundoff: float
) -> _Kept:
    """Bound the share of its weight that each pixel keeps after a round solution."""
    boxes, maxima = fit.boxes, fit.maximum[..., None]
    rounded = fit.rounded + (8 + 4 * (fit.logs.abs() + maxima.abs())) * roundoff
    fitted = _exp(_Signed(fit.logs + maxima, fit.sensitivities, rounded), boxes)
    residuals = _Signed(
        torch.where(inside, values - fitted.value, 0.0),
        -fitted.sensitivities,
        torch.where(inside, value_errors + fitted.wrong + roundoff * (values - fitted.value).abs(), 0.0),
    )
    noise = _noise(residuals, inside.sum(-1), boxes, num_roundings * roundoff)
    rounded = fit.maximum_wrong + (6 + 2 * fit.maximum.abs()) * roundoff
    amplitude = _exp(_Signed(fit.maximum, fit.maximum_sensitivities, rounded), boxes)
    tolerated = _larger(
        amplitude.times(reference.FIT_TOLERATED, roundoff), noise.times(reference.FIT_TOLERATED_NOISE, roundoff), boxes
    )
    return _share(_quotient(residuals, tolerated.of_pixels(), boxes), boxes, roundoff)


class _Signed(NamedTuple):
    """A number in float64 and its error: `sensitivities` times the errors of coefficients, and no more than `wrong`."""

    value: Tensor
    sensitivities: Tensor  # [..., errors]
    wrong: Tensor

    def error(self, boxes: Tensor) -> Tensor:
        """The most that the number may be off."""
        return self.moved(boxes) + self.wrong

    def moved(self, boxes: Tensor) -> Tensor:
        """The most that it may be off to first order."""
        if self.value.dim() < boxes.dim():  # one number a map
            return _reach(self.sensitivities[..., None, :], boxes)[..., 0]
        return _reach(self.sensitivities, boxes)

    def of_pixels(self) -> _Signed:
        """One number a map as that of each of its pixels."""
        return _Signed(self.value[..., None], self.sensitivities[..., None, :], self.wrong[..., None])

    def times(self, factor: float, roundoff: float) -> _Signed:
        return _Signed(
            factor * self.value, factor * self.sensitivities, factor * self.wrong + 4 * roundoff * factor * self.value
        )


def _exp(number: _Signed, boxes: Tensor) -> _Signed:
    value, moved = number.value.exp(), number.moved(boxes)
    wrong = value * (moved.expm1() - moved + moved.exp() * number.wrong.expm1())
    return _Signed(value, value[..., None] * number.sensitivities, wrong)


def _noise(residuals: _Signed, count: Tensor, boxes: Tensor, rounded: float) -> _Signed:
    """The root of twice the mean square of what lies below a fit: one number a map."""
    below, errors = residuals.value.clamp(max=0), residuals.error(boxes)
    variance = 2 * below.square().sum(-1) / count
    value = variance.sqrt()
    wrong = (4 * (below.abs() * residuals.wrong).sum(-1) + 2 * errors.square().sum(-1)) / count + rounded * variance
    sensitivities = 2 * (below[..., None] * residuals.sensitivities).sum(-2) / (value * count)[..., None]
    # A root is off by half its argument's relative error d to first order, and by no more than d^2 / 2 beyond it while
    # d is no more than a half.
    half = _Signed(value, sensitivities, wrong / (2 * value)).error(boxes) / value
    wrong = value * 2 * half.square() + wrong / (2 * value) + 2 * rounded * value
    most = variance + (4 * (below.abs() * errors).sum(-1) + 2 * errors.square().sum(-1)) / count
    at_most = torch.maximum(most.sqrt() - value, value) + 2 * rounded * value
    keeps_sign = half < 0.25
    return _Signed(
        value, torch.where(keeps_sign[..., None], sensitivities, 0.0), torch.where(keeps_sign, wrong, at_most)
    )


def _larger(one: _Signed, other: _Signed, boxes: Tensor) -> _Signed:
    """Larger of two positive numbers. Where it is open which that is, the sign of its error is lost."""
    errors, other_errors = one.error(boxes), other.error(boxes)
    is_one = one.value - errors > other.value + other_errors
    is_other = other.value - other_errors > one.value + errors
    sensitivities = torch.where(is_other[..., None], other.sensitivities, 0.0)
    open_error = torch.maximum(errors, other_errors)
    wrong = torch.where(is_one, one.wrong, torch.where(is_other, other.wrong, open_error))
    return _Signed(
        torch.maximum(one.value, other.value), torch.where(is_one[..., None], one.sensitivities, sensitivities), wrong
    )


def _quotient(number: _Signed, divisor: _Signed, boxes: Tensor) -> _Signed:
    """Quotient of a number's part above zero and a positive number."""
    value = number.value.clamp(min=0) / divisor.value
    sensitivities = (number.sensitivities - value[..., None] * divisor.sensitivities) / divisor.value[..., None]
    errors, divisor_errors = number.error(boxes), divisor.error(boxes)
    least = (divisor.value - divisor_errors).clamp(min=0)
    wrong = (number.wrong + value * divisor.wrong) / divisor.value
    wrong = wrong + (errors + value * divisor_errors) * divisor_errors / (divisor.value * least)
    return _Signed(value, sensitivities, wrong.nan_to_num(math.inf, math.inf))


def _share(excess: _Signed, boxes: Tensor, roundoff: float) -> _Kept:
    """1 / (1 + t^8), whose second derivative is below 8. Its sensitivities are those of its log."""

    def share(excess: Tensor) -> Tensor:
        return 1 / (1 + excess**8)

    value = excess.value
    errors = excess.error(boxes) + 4 * roundoff * value
    kept = share(value)
    slope = -8 * value**7 * kept * kept
    more, less = share((value - errors).clamp(min=0)), share(value + errors)
    at_most = torch.maximum(more - kept, kept - less)
    beyond = slope.abs() * (excess.wrong + 4 * roundoff * value) + 4 * errors.square()
    keeps_sign = (value > errors) & (beyond < at_most)
    sensitivities = torch.where(keeps_sign, slope / kept, 0.0)[..., None] * excess.sensitivities
    wrong = torch.where(keeps_sign, beyond, at_most) + 16 * roundoff * kept
    return _Kept(kept, wrong, sensitivities)


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
    """Error of the determinant of a symmetric 2 x 2 matrix, rounding aside."""
    (xx, xy, yy), (dxx, dxy, dyy) = (
        (each[..., 0, 0].abs(), each[..., 0, 1].abs(), each[..., 1, 1].abs()) for each in (matrix, off)
    )
    return xx * dyy + yy * dxx + dxx * dyy + 2 * xy * dxy + dxy * dxy


def _weights_error(weights: _Weights, inverse: Tensor, terms: Tensor) -> Tensor:
    """Relative error of the equations' matrix G by its weights: ||G^-1/2 dG G^-1/2||.

    That is no more than the largest relative error of a weight, and no more than the sum of all, each times the
    leverage w f' G^-1 f of its pixel: the second is better for pixels that hardly count.
    """
    leverages = (product(terms, inverse) * terms).sum(-1).abs()
    wrong = weights.wrong + weights.values * _reach(weights.sensitivities, weights.boxes)
    counts = weights.values * leverages > _LITTLE_LEVERAGE
    largest = torch.where(counts, wrong / weights.values, 0.0).amax(-1)
    return largest + torch.where(counts, 0.0, wrong * leverages).sum(-1)


def _solution_errors(
    inverse: Tensor, relative: Tensor, rounded: Tensor, off: Tensor, pulls: Tensor, weights: _Weights, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Errors that a solution adds to those before it, and its sensitivities to these: infinite where it is singular.

    Its weights move its matrix by that relative error, and roundings by `rounded`. The right side is off by `off` for
    what is new and by `pulls` times the errors before.
    """
    direct = product(inverse.abs(), off[..., None])[..., 0]
    sensitivities = product(inverse, pulls)
    variances = inverse.diagonal(dim1=-2, dim2=-1).abs()
    scale = variances.sqrt()
    rho = relative + norm(product(inverse.abs(), rounded) / scale[..., None] * scale[..., None, :])
    moved = _reach(product(terms, sensitivities), weights.boxes) + product(direct, terms.abs().mT)
    length = (weights.values * moved.square()).sum(-1).sqrt()  # of the first order
    beyond = (rho / (1 - rho) * length)[..., None] * scale
    return torch.where((rho < 0.5)[..., None], direct + beyond, math.inf), sensitivities


def _pivots_are_certain(
    matrix: Tensor, relative: Tensor, matrix_errors: Tensor, roundoff: float
) -> tuple[Tensor, Tensor]:
    """Masks [B, K]: where all pivots of an elimination certainly are large enough, and where one certainly is not.

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
        error = error + relative * (pivot + reference.FIT_PIVOT * matrix[..., i, i])
        lowest = reference.FIT_PIVOT * matrix[..., i, i]
        singular = singular | (regular & (pivot + error <= lowest))
        regular = regular & (pivot - error > lowest)
    return regular, singular
