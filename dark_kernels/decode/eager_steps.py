"""From the pixels around a peak to its step: Newton's, a fitted Gaussian's, a quarter of a pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._common.products import product
from .eager_plan import Equations, FitPlan, StencilPlan
from .eager_scores import Activation

# A fit: how often it is solved for a round Gaussian and then for one of any shape, what has to be left of a diagonal
# element of its matrix as a pivot, what a pixel may exceed it by (a share of its maximum, or standard deviations of the
# noise), the log of what its maximum may be over the peak's pixel, and how far from 0 that may be for a round one to
# guide.
_ROUND_SOLUTIONS, _FIT_SOLUTIONS, _FIT_PIVOT = 3, 2, 1e-3
_TOLERATED, _TOLERATED_NOISE, _MOST, _FARTHEST = 0.4, 3.0, 0.5, 10.0


def newton_step(derivatives: Tensor, plan: StencilPlan) -> Tensor:
    """-(Hessian + epsilon I)^-1 gradient: [2, N]. Not finite where that has no inverse."""
    if plan.epsilon is not None:
        derivatives = derivatives + plan.epsilon
    products = derivatives.index_select(0, plan.left_factors).mul_(derivatives.index_select(0, plan.right_factors))
    step = products.narrow(0, 0, 3).sub_(products.narrow(0, 3, 3))
    return step.narrow(0, 0, 2) / step.narrow(0, 2, 1)


def fit_gaussian(
    heatmaps: Tensor,  # [B, K, H, W]
    y: Tensor,  # [N]
    x: Tensor,
    radius: int,
    plan: StencilPlan,
    fit: FitPlan,
    activate: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Derivatives [5, N] of the log of a Gaussian fitted around each peak, and whether that is a peak: [N].

    Weighted least squares of a quadratic to the log of the positive pixels: three times of a round one, then twice of
    one of any shape. Weights are the squares of the values fitted before, less where a pixel exceeds a round fit.
    """
    patch, dtype, num_maps = fit.patch, fit.start.dtype, y.shape[0]
    rows = patch.rows.index_select(0, y).add_(plan.window_starts.unsqueeze(1))
    index = rows.unsqueeze(2) + patch.columns.index_select(0, x).unsqueeze(1)
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset())
    pixels = pixels.index_select(0, index.view(-1)).to(dtype).view(num_maps, -1)
    pixels = pixels if activate is None else activate(pixels)
    peaks = pixels[:, pixels.shape[1] // 2].clone()  # which of a smoothed map's maximum need not be positive
    pixels = pixels / peaks.unsqueeze(1)
    inside = patch.rows_exist.index_select(0, y).unsqueeze(2) & patch.columns_exist.index_select(0, x).unsqueeze(1)
    inside = inside.view(num_maps, -1)
    ignored = (inside & (pixels > 0)).logical_not_()
    logs = pixels.masked_fill(ignored, 1.0).log_()
    pixels.clamp_(min=-1.0)
    halves = (0.5 * inside.sum(1)).to(dtype)  # of the pixels' number
    outside = inside.logical_not_()

    def solve(weights: Tensor, to: Equations) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives, logs and their maxima of a quadratic, and whether it is a peak."""
        sums = torch.cat([product(weights, to.products), product(weights * logs, to.terms)], 1)
        count = to.terms.shape[1]
        solution, is_regular = eliminate(sums.t().index_select(0, to.places).view(count, count + 1, -1), _FIT_PIVOT)
        c0, dx, dy, half_dxx, *others = solution
        dxy, half_dyy = others or (torch.zeros_like(half_dxx), half_dxx)
        derivatives = torch.stack([dx, dy, 2 * half_dxx, 2 * half_dyy, dxy])
        offset = newton_step(derivatives, plan)
        is_peak = is_regular & (half_dxx < 0) & (4 * half_dxx * half_dyy > dxy * dxy)
        is_peak &= (offset.abs() <= radius).all(0)
        maxima = c0 + (dx * offset[0] + dy * offset[1]) / 2
        return derivatives, product(solution.t(), to.terms.t()), maxima, is_peak

    weights, kept = logs.clamp(max=0).mul_(2).exp_().masked_fill_(ignored, 0.0), torch.ones_like(logs)
    for step in range(_ROUND_SOLUTIONS):
        _, fitted, maxima, guides = solve(weights * fit.start if step == 0 else weights, fit.round)
        guides = (guides & (maxima.abs() <= _FARTHEST)).unsqueeze(1)
        over_maximum = (fitted - maxima.unsqueeze(1)).exp_()
        amplitudes = maxima.exp().unsqueeze(1)
        residuals = (pixels - over_maximum * amplitudes).masked_fill_(outside, 0.0)
        noise = (residuals.clamp(max=0).square_().sum(1) / halves).sqrt_().unsqueeze(1)
        tolerated = torch.maximum(_TOLERATED * amplitudes, _TOLERATED_NOISE * noise)
        excess = residuals.clamp_(min=0).div_(tolerated).square_().square_().square_()
        kept = torch.where(guides, excess.add_(1).reciprocal_(), kept)
        weights = torch.where(guides, over_maximum.square_().mul_(kept).masked_fill_(ignored, 0.0), weights)
    all_peaks = (peaks > 0) & (peaks < math.inf)
    for step in range(_FIT_SOLUTIONS):
        derivatives, fitted, maxima, is_peak = solve(weights, fit.any)
        all_peaks &= is_peak
        if step + 1 < _FIT_SOLUTIONS:
            weights = fitted.sub_(maxima.unsqueeze(1)).mul_(2).exp_().mul_(kept).masked_fill_(ignored, 0.0)
    return derivatives, all_peaks & (maxima <= _MOST)


def eliminate(equations: Tensor, least_pivot: float) -> tuple[Tensor, Tensor]:
    """Solutions [M, N] of N symmetric systems of M equations [M, M + 1, N], and whether they are regular: [N].

    All at once, in place, and without pivoting, which positive definite matrices do not need. What is singular, with no
    more than `least_pivot` of a diagonal element left as a pivot, ends in infinities and NaN, and nobody has to wait to
    hear of it.
    """
    count = equations.shape[0]
    diagonals = equations.diagonal(dim1=0, dim2=1).t()  # [M, N]
    lowest_pivots = diagonals * least_pivot
    for i in range(count):
        row = equations[i, i + 1 :].div_(equations[i, i])
        # `rows -= ...` of a part would be stored a second time.
        equations[i + 1 :, i + 1 :].addcmul_(equations[i + 1 :, i : i + 1], row, value=-1)
    solutions = equations[:, count]
    for i in range(count - 1, 0, -1):
        solutions[:i].addcmul_(equations[:i, i], solutions[i], value=-1)
    return solutions, (diagonals > lowest_pivots).all(0)


def quarter_step(
    differences: Tensor,  # [2, N]: right less left and below less above neighbour
    raw_maxima: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    extra_shift: float,
    legacy: bool,
    size: tuple[int, int],
) -> Tensor:
    """A quarter of a pixel towards the larger neighbour, and the extra shift, where the border rule acts: [2, N]."""
    height, width = size
    # Two infinite neighbours of one sign are as equal as two finite ones.
    sign = differences.nan_to_num(nan=0.0).sign_()
    moves_x, moves_y = (x > 1) & (x < width - 1), (y > 1) & (y < height - 1)
    if legacy:
        moves_x = moves_y = moves_x & moves_y
    else:
        moves_x, moves_y = moves_x & (y > 0), moves_y & (x > 0)
    moves = torch.stack([moves_x, moves_y])
    moves &= raw_maxima < math.inf
    return torch.where(moves, 0.25 * sign.to(raw_maxima.dtype) + extra_shift, 0.0)


def differences_of(maps: Tensor, y: Tensor, x: Tensor, map_index: Tensor | None) -> Tensor:
    """Right less left and below less above neighbour of N pixels of [B, K, H, W] maps: [2, N]."""
    _, num_keypoints, height, width = maps.shape
    index = torch.arange(y.shape[0], device=maps.device) if map_index is None else map_index
    keypoint = index % num_keypoints
    index = index.div(num_keypoints, rounding_mode="floor")
    left, right = (x - 1).clamp_(min=0), (x + 1).clamp_(max=width - 1)
    above, below = (y - 1).clamp_(min=0), (y + 1).clamp_(max=height - 1)
    # All at once: for a person's keypoints each look-up costs as much as one for thousands.
    first, second = maps[index, keypoint, torch.stack([y, below, y, above]), torch.stack([right, x, left, x])].split(2)
    return first - second


def covariances_of(derivatives: Tensor, peaks: Tensor, known_variances: Tensor) -> Tensor:
    """-Hessian^-1 - known_variances I where that is positive semi-definite, NaN elsewhere: [N, 2, 2]."""
    _, _, dxx, dyy, dxy = derivatives.unbind(0)
    determinant = dxx * dyy - dxy * dxy
    xx, xy, yy = -dyy / determinant - known_variances, dxy / determinant, -dxx / determinant - known_variances
    exists = (peaks > 0) & (dxx < 0) & (determinant > 0) & (xx + yy < math.inf)
    exists &= (xx >= 0) & (yy >= 0) & (xx * yy >= xy * xy)
    covariances = torch.stack([xx, xy, xy, yy], dim=-1)
    return torch.where(exists[:, None], covariances, math.nan).view(-1, 2, 2)
