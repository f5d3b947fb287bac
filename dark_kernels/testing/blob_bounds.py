"""Bounds a fitted blob's distance from the float64 reference.

In the notation of `tolerances.py`. An iteration of the fit is a function F of the state t = (x, y, log s), continuous
and piecewise smooth, so that an error d of a state becomes

    d' = (I + J) d + (J(z) - J) d + e,    J the derivatives of the step at t, z between t and t + d,

where e is what the iteration's own roundings add.

*Roundings.* Whatever an iteration computes on its way is off by some size: that of a pixel, an exponential, a sum. What
an error there makes of the step is the derivative of the step by it, which automatic differentiation gives, so

    |e| <= sum |d step / d number| * size

over all numbers. Their sizes: n u sum |addends| for a sum of n, with the roundings of its products besides (as in
`fit_bounds.py`); 4 u for exp, and 2 |a| u for its argument a; 4 u for a quotient, and 7 u for a product with a
reciprocal that is the square of an inverse root; (3 m + 1) u sqrt(G_ii G_jj) for the elimination of m equations with
the matrix G, and 12 u more where its quotients are such products. Where a backend sums over distances from the peak's
pixel and over the residuals of the first amplitude, and has the equations of the centre and of the second amplitude
from these (`Arithmetic.shifts_sums`), the addends are larger than what is left of them: |u| + |x| for u - x, and
|r| + |da| e for r - da e, with the difference da of the amplitudes. Beyond first order in these the equations are off
by rho / (1 - rho) of it, rho being the norm of |G^-1| dG. Signs count: the error of an amplitude, for one, hardly moves
the centre.

*Errors keep their signs*, as in `fit_bounds.py`: the state's error is S b, a matrix S of sensitivities and sizes b of
what each iteration so far has added. An iteration at its fixed point forgets nearly all of what came before, and in the
first ones, of noise, errors that grow in one direction shrink in another.

*The second order* is J(z) - J, at most the sum over the three numbers of what J changes if one of them moves by its
error, which is half of it more than there is; e is the largest at these points.

*Pieces.* The weights and the noise have continuous derivatives. max(0.025 a, 2.6 n) and the limits of steps, centre and
width do not: on either side of such a corner, if it is certain on which, the derivative is that side's. Where that is
open, the larger error of both bounds it, and its sign is lost.

The fit is certain while amplitudes exceed their errors and rho is below 1/2. It certainly fails where an amplitude
is below zero by more than its error, or a map has but one row or column, so that the matrix has zeros on its diagonal.
In between it may be either answer, and so it may once the error of a state has grown to a fiftieth of a blob's width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product
from ..decode import reference
from ..recipes import Recipe
from .arithmetic import Arithmetic, unit_roundoff
from .fit_bounds import FitBounds
from .systems import bound_covariance, norm

# Beyond this share of the expected width (of log s: of one) an error is too large to say anything.
_OPEN = 0.02
# Pixels of patches that are bounded at once.
_BLOCK = 20_000


def bound_blob(
    maps: Tensor,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    arithmetic: Arithmetic,
    out_roundoff: float,
    errors: Tensor | None = None,  # [B, K, H, W]
) -> FitBounds:
    """Bound the fit of a blob as derived above. `errors`: of the pixels that a backend fits to."""
    side = 2 * math.ceil(reference.BLOB_REACH * recipe.expected_sigma) + 1
    dtype = arithmetic.step if arithmetic.blob is None else arithmetic.blob
    roundoff = unit_roundoff(dtype) + unit_roundoff(torch.float64)
    tiny = torch.finfo(dtype).tiny
    patches = _cut(maps, x, y, side // 2, roundoff, tiny, errors)
    sums_rows_first = arithmetic.sums_rows_first and not arithmetic.shifts_sums
    rules = _Rules(2 * side if sums_rows_first else side * side, arithmetic, roundoff, tiny)
    blocks = zip(*(each.split(max(_BLOCK // side**2, 1)) for each in patches), strict=True)
    with torch.enable_grad():
        sigma = recipe.expected_sigma
        bounds = [_bound(_Patches(*block), sigma, rules) for block in blocks]
    state, off, succeeds, fails = (torch.cat(each) if each else maps.new_zeros(0) for each in _transposed(bounds))
    log_s, log_off = state[:, 2], off[:, 2]
    curvature = (-2 * log_s).exp()
    curvature_off = curvature * ((2 * log_off).expm1() + (8 + 4 * log_s.abs()) * roundoff)
    identity = torch.eye(2, dtype=maps.dtype, device=maps.device)
    covariance_bounds = bound_covariance(
        -curvature[:, None, None] * identity,
        curvature_off[:, None, None] * identity,
        recipe.target_variance, roundoff, out_roundoff,
    )  # fmt: skip
    return FitBounds(
        state[:, :2].view(*x.shape, 2), off[:, :2].view(*x.shape, 2), covariance_bounds.view(*x.shape, 2, 2),
        succeeds.bool().view(x.shape), fails.bool().view(x.shape),
    )  # fmt: skip


class _Rules(NamedTuple):
    """The rounding of a backend."""

    num_additions: int  # of a sum over a patch, one after the other
    arithmetic: Arithmetic
    roundoff: float
    tiny: float


class _Patches(NamedTuple):
    """Pixels that are fitted to: [maps, side, side]."""

    pixels: Tensor  # over the map's maximum
    wrong: Tensor  # how far off they are
    inside: Tensor  # 1 in the map and 0 beyond


class _Bound(NamedTuple):
    """The fits' last state in float64, how far off it may be, and whether there certainly is a blob or none."""

    state: Tensor  # [maps, 3]
    off: Tensor  # [maps, 3]
    succeeds: Tensor  # [maps]
    fails: Tensor  # [maps]


def _transposed(bounds: list[_Bound]) -> list[tuple[Tensor, ...]]:
    return list(zip(*bounds, strict=True)) if bounds else [()] * 4


def _cut(
    maps: Tensor, x: Tensor, y: Tensor, radius: int, roundoff: float, tiny: float, errors: Tensor | None
) -> _Patches:
    height, width = maps.shape[-2:]
    distance = torch.arange(-radius, radius + 1, device=maps.device)
    row, column = y[..., None, None] + distance[:, None], x[..., None, None] + distance
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(2)
    largest = maps.amax((-2, -1))[..., None]
    pixels = maps.flatten(2).gather(-1, index) / largest
    wrong = 4 * roundoff * pixels.abs().clamp(max=1.0) + tiny
    if errors is not None:
        wrong = wrong + errors.flatten(2).gather(-1, index) / largest
    shape = (-1, 2 * radius + 1, 2 * radius + 1)
    inside = inside.reshape(shape)
    pixels, wrong = (torch.where(inside, each.reshape(shape), 0.0) for each in (pixels.clamp(min=-1.0), wrong))
    return _Patches(pixels, wrong, inside.to(maps.dtype))


class _Number(NamedTuple):
    """A number of each map and point that an iteration computes.

    Attributes:
        value: [maps].
        derivatives: [maps, 3], by the state.
        new: [maps], its error to which that of the state does not contribute to first order.
        error: [maps], the most that it may be off.
    """

    value: Tensor
    derivatives: Tensor
    new: Tensor
    error: Tensor


class _Errors(NamedTuple):
    """The state's errors: `sensitivities` times numbers of which no more than their sizes, `boxes`, is known."""

    sensitivities: Tensor  # [maps, 3, errors]
    boxes: Tensor  # [maps, errors]

    def reach(self) -> Tensor:
        """The most that each number of the state is off: [maps, 3]."""
        return _reach(self.sensitivities, self.boxes)


def _reach(sensitivities: Tensor, boxes: Tensor) -> Tensor:
    return product(sensitivities.abs(), boxes[..., None])[..., 0].nan_to_num(math.inf, math.inf)


def _bound(patches: _Patches, sigma: float, rules: _Rules) -> _Bound:
    """Follow the fit and its error through all iterations."""
    roundoff = rules.roundoff
    count, log_sigma = patches.pixels.shape[0], math.log(sigma)
    new = patches.pixels.new_zeros
    state = new(count, 3)
    state[:, 2] = math.log(reference.BLOB_START * sigma)
    errors = _Errors(new(count, 3, 0), new(count, 0))
    scales = state.new_tensor([0.0, 0.0, 1.0])  # a width of its own is relative, whatever its log
    errors = _with(errors, errors.sensitivities, 4 * roundoff * (state.abs() + scales))  # the start is rounded
    limits = state.new_tensor([_OPEN * sigma, _OPEN * sigma, _OPEN])
    unknown = state.new_tensor([0.0, 0.0, log_sigma])
    valid = certain = new(count) == 0
    fails = ~valid
    step_limits = (reference.BLOB_STEP * sigma, reference.BLOB_STEP * sigma, reference.BLOB_LOG_STEP)
    farthest = reference.BLOB_FARTHEST * sigma
    ends = (
        (-farthest, farthest), (-farthest, farthest),
        (math.log(reference.BLOB_NARROWEST) + log_sigma, math.log(reference.BLOB_WIDEST) + log_sigma),
    )  # fmt: skip
    for iteration in range(reference.BLOB_ITERATIONS):
        found = _iterate(patches, state, errors, rules)
        if iteration == 0:  # where distances are whole numbers, and a sum of zeros is zero
            fails = fails | found.has_zeros
        for amplitude in found.amplitudes:
            fails = fails | (valid & (amplitude.value + amplitude.error <= 0))
            certain = certain & (amplitude.value - amplitude.error > 0)
        certain = certain & (found.rho < 0.5)
        moved = [_move(state[:, i], errors, i, found.steps[i], step_limits[i], ends[i], roundoff) for i in range(3)]
        rows, fresh, states = zip(*moved, strict=True)
        errors = _with(errors, torch.stack(rows, 1), torch.stack(fresh, -1) + 8 * roundoff * scales)
        state = torch.stack(states, -1)
        valid = valid & certain & (errors.reach() <= limits).all(-1)
        # What is open stays so; numbers that mean nothing any more must not stop the others.
        errors = _Errors(*(torch.where(valid.view(-1, *[1] * (e.dim() - 1)), e, 0.0) for e in errors))
        state = torch.where(valid[:, None], state, unknown)
    return _Bound(state, errors.reach(), valid, fails)


def _with(errors: _Errors, rows: Tensor, fresh: Tensor) -> _Errors:
    """The errors of a state that is moved: the old ones by `rows`, and one of its own for each number."""
    return _Errors(
        torch.cat([rows, torch.diag_embed(torch.ones_like(fresh))], -1), torch.cat([errors.boxes, fresh], -1)
    )


def _move(
    value: Tensor, errors: _Errors, i: int, step: _Number, limit: float, ends: tuple[float, float], roundoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Move one number of the state by a step, both of them limited: its sensitivities, its new error, its value."""
    before = errors.sensitivities[:, i]
    both = before + product(step.derivatives[:, None], errors.sensitivities)[:, 0]
    free, held = step.value.abs() + step.error < limit, step.value.abs() - step.error > limit
    is_open = ~(free | held)
    row = torch.where(free[:, None], both, torch.where(held[:, None], before, 0.0))
    reached, reached_with = (_reach(each[:, None], errors.boxes)[:, 0] for each in (before, both))
    fresh = torch.where(free, step.new, torch.where(is_open, torch.maximum(reached, reached_with + step.new), 0.0))

    moved = value + step.value.clamp(-limit, limit)
    fresh = fresh + 4 * roundoff * (value.abs() + step.value.abs().clamp(max=limit))
    low, high = ends
    error = _reach(row[:, None], errors.boxes)[:, 0] + fresh
    between = (moved - error > low) & (moved + error < high)
    beyond = (moved + error < low) | (moved - error > high)
    row = torch.where(between[:, None], row, 0.0)
    rounded_ends = 4 * roundoff * max(map(abs, ends))
    fresh = torch.where(between, fresh, torch.where(beyond, 0.0, error) + rounded_ends)
    return row, fresh, moved.clamp(low, high)


class _Iteration(NamedTuple):
    """The findings of an iteration."""

    steps: list[_Number]
    amplitudes: list[_Number]  # of all pixels, and with the weights
    rho: Tensor  # [maps], relative error of the equations' matrix
    has_zeros: Tensor  # [maps], whether one of its diagonal elements is zero


def _iterate(patches: _Patches, state: Tensor, errors: _Errors, rules: _Rules) -> _Iteration:
    """One iteration as `reference.fit_blob` has it, but for its limits, with every number's error on the way."""
    roundoff, arithmetic = rules.roundoff, rules.arithmetic
    quotient = 7 if arithmetic.uses_inverse_roots else 4
    off = errors.reach()
    shifts = torch.cat([torch.zeros_like(off)[None], torch.diag_embed(off).movedim(1, 0)])
    points = (state + shifts).detach().requires_grad_()  # [4, maps, 3]
    pixels = patches.pixels.expand(points.shape[0], -1, -1, -1).clone().requires_grad_()
    inside = patches.inside
    numbers: list[tuple[Tensor, Tensor]] = [(pixels, patches.wrong.expand_as(pixels))]

    def rounded(number: Tensor, size: Tensor) -> Tensor:
        numbers.append((number, size.detach()))
        return number

    def total(values: Tensor) -> Tensor:
        return values.sum((-2, -1), keepdim=True)

    def summed(addends: Tensor, num_products: int) -> Tensor:
        return rounded(total(addends), (num_roundings + num_products) * roundoff * total(addends.abs()))

    def amplitude_of(weights: Tensor) -> Tensor:
        amplitude = summed(weights * e * pixels, 6) / summed(weights * e * e, 6)
        return rounded(amplitude, quotient * roundoff * amplitude.abs())

    def residuals_of(amplitude: Tensor) -> Tensor:
        residuals = pixels - amplitude * e
        return rounded(residuals, roundoff * (residuals.abs() + (amplitude * e).abs()))

    def bounded(number: Tensor) -> _Number:
        return _differentiate(number, points, numbers, errors, off)

    num_pixels = total(inside)
    num_roundings = num_pixels.clamp(max=rules.num_additions)
    center_x, center_y, log_s = (each[..., None, None] for each in points.unbind(-1))
    radius = inside.shape[-1] // 2
    distance = torch.arange(-radius, radius + 1, dtype=points.dtype, device=points.device)
    u, v = distance - center_x, distance[:, None] - center_y
    q = u * u + v * v
    variance = (2 * log_s).exp()
    variance = rounded(variance, (8 + 4 * log_s.abs()) * roundoff * variance)
    # Two exponentials and their product; distance, square, the quotient with the variance and log2(e) in each argument.
    argument = q / (2 * variance)
    e = (-argument).exp()
    e = rounded(e, (12 + 10 * argument) * roundoff * e + rules.tiny)
    first = amplitude_of(inside)
    residuals = residuals_of(first)
    noise = 2 * summed(inside * residuals.clamp(max=0).square(), 6) / num_pixels  # squared

    first_bounded, noise_bounded = bounded(first), bounded(noise)
    by_amplitude, by_noise = (reference.BLOB_TOLERATED * first).square(), reference.BLOB_TOLERATED_NOISE**2 * noise
    error = first_bounded.error
    amplitude_off = reference.BLOB_TOLERATED**2 * (2 * first_bounded.value.abs() + error) * error
    noise_off = reference.BLOB_TOLERATED_NOISE**2 * noise_bounded.error
    apart = (by_amplitude - by_noise)[0, :, 0, 0].detach().abs()
    is_open = ~(apart > amplitude_off + noise_off)[:, None, None]
    either = torch.where(is_open, torch.maximum(amplitude_off, noise_off)[:, None, None], 0.0)
    tolerated = torch.maximum(by_amplitude, by_noise)  # squared
    tolerated = torch.where(is_open, tolerated.detach(), tolerated)
    tolerated = rounded(tolerated, either + 12 * roundoff * tolerated)
    weights = inside / (1 + residuals.clamp(min=0).square() / tolerated)
    weights = rounded(weights, 16 * roundoff * weights)
    if arithmetic.shifts_sums:
        change = summed(weights * e * residuals, 6) / summed(weights * e * e, 6)
        change = rounded(change, quotient * roundoff * change.abs())
        second = rounded(first + change, roundoff * (first + change).abs())
        sources = residuals.abs() + (change * e).abs()
        residuals = residuals - change * e
    else:
        second = amplitude_of(weights)
        residuals = residuals_of(second)
        sources = residuals.abs()

    terms = torch.stack(torch.broadcast_tensors(torch.ones_like(q), u, v, q), -1) * e[..., None]
    terms = terms.flatten(-3, -2)  # [4, maps, pixels, 4]
    weighted = weights.flatten(-2)[..., None] * terms
    matrix = product(weighted.mT, terms)
    matrix = matrix + reference.BLOB_DAMPING * torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    eliminated = 3 * diagonal.shape[-1] + 1 + arithmetic.eliminates_with
    sizes, sources = terms.abs(), sources.flatten(-2)
    if arithmetic.shifts_sums:  # a distance from the centre is made of two
        far_x, far_y = distance.abs() + center_x.abs(), distance.abs()[:, None] + center_y.abs()
        sizes = torch.stack(torch.broadcast_tensors(torch.ones_like(q), far_x, far_y, far_x**2 + far_y**2), -1)
        sizes = (sizes * e[..., None]).flatten(-3, -2)
    weighted_sizes = weights.flatten(-2)[..., None] * sizes
    matrix_off = (num_roundings + 14) * product(weighted_sizes.mT, sizes)
    matrix_off = roundoff * (matrix_off + eliminated * (diagonal[..., None] * diagonal[..., None, :]).sqrt())
    matrix = rounded(matrix, matrix_off)
    right = product(weighted.mT, residuals.flatten(-2)[..., None])
    right_off = product(weighted_sizes.mT, sources[..., None])
    right = rounded(right, (num_roundings + 10) * roundoff * right_off)
    solution = torch.linalg.solve_ex(matrix, right)[0]
    steps = solution[..., 1:, :] * variance / second
    steps = rounded(steps, (4 + quotient) * roundoff * steps.abs())

    scale = diagonal[0].detach().rsqrt()
    scales = scale[..., None] * scale[..., None, :]
    inverse = torch.linalg.inv_ex(matrix[0].detach() * scales)[0]
    rho = norm(product(inverse.abs(), matrix_off[0].detach() * scales)).nan_to_num(math.inf, math.inf)
    found = [bounded(steps[:, :, i : i + 1]) for i in range(3)]
    beyond = torch.where(rho < 0.5, 1 / (1 - rho), math.inf)
    found = [step._replace(new=step.new * beyond, error=step.error + step.new * (beyond - 1)) for step in found]
    return _Iteration(found, [first_bounded, bounded(second)], rho, (diagonal[0] == 0).any(-1))


def _differentiate(
    number: Tensor, points: Tensor, numbers: list[tuple[Tensor, Tensor]], errors: _Errors, off: Tensor
) -> _Number:
    """A number [4, maps, 1, 1] of an iteration, at the state and at three points beside it, with its derivatives."""
    inputs = [points, *(each for each, _ in numbers)]
    by_points, *by_numbers = torch.autograd.grad(number.sum(), inputs, retain_graph=True, allow_unused=True)
    rounded = torch.zeros_like(number[..., 0, 0])
    for derivatives, (_, size) in zip(by_numbers, numbers, strict=True):
        if derivatives is not None:
            rounded = rounded + (derivatives.abs() * size).sum((-2, -1))
    derivatives = by_points[0]
    varied = (by_points[1:] - derivatives).abs().sum(0)
    new = ((varied * off).sum(-1) + 1.01 * rounded.amax(0)).nan_to_num(math.inf, math.inf)
    moved = _reach(product(derivatives[:, None], errors.sensitivities), errors.boxes)[:, 0]
    return _Number(number[0, :, 0, 0].detach(), derivatives, new, moved + new)
