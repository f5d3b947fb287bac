"""From the pixels around a peak to its step: Newton's, a fitted Gaussian's, a quarter of a pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eager_plan import FitPlan, StencilPlan
from .eager_scores import Activation

# A fit: how often it is solved, and what has to be left of a diagonal element of its matrix as a pivot.
_FIT_SOLUTIONS, _FIT_PIVOT = 3, 1e-3


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in full precision. Elsewhere than on CPU a user may have allowed TF32, which would cost four
    digits."""
    if left.device.type == "cpu":
        return left.bmm(right) if left.dim() == 3 else left.mm(right)
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)


def newton_step(derivatives: Tensor, plan: StencilPlan) -> Tensor:
    """-(Hessian + epsilon I)^-1 gradient: [2, N]. Not finite where that has no inverse."""
    if plan.epsilon is not None:
        derivatives = derivatives + plan.epsilon
    products = derivatives.index_select(0, plan.left_factors).mul_(derivatives.index_select(0, plan.right_factors))
    step = products.narrow(0, 0, 3).sub_(products.narrow(0, 3, 3))
    return step.narrow(0, 0, 2) / step.narrow(0, 2, 1)


def fit_gaussian(
    heatmaps: Tensor,  # [B, K, H, W]
    peaks: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    radius: int,
    plan: StencilPlan,
    fit: FitPlan,
    activate: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Derivatives [5, N] of the log of a Gaussian fitted around each peak, and whether that is a peak: [N].

    Weighted least squares of a quadratic to the log of the positive pixels, weighted first with their squares, then
    with those of the values fitted before.
    """
    dtype, num_maps, side = fit.powers.dtype, y.shape[0], fit.powers.shape[0]
    rows = fit.rows.index_select(0, y).add_(plan.window_starts.unsqueeze(1))
    index = rows.unsqueeze(2) + fit.columns.index_select(0, x).unsqueeze(1)
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset())
    pixels = pixels.index_select(0, index.view(-1)).to(dtype).view(num_maps, side, side)
    pixels = pixels if activate is None else activate(pixels)
    pixels = pixels / peaks.to(dtype).view(-1, 1, 1)
    taken = fit.rows_exist.index_select(0, y).unsqueeze(2) & fit.columns_exist.index_select(0, x).unsqueeze(1)
    ignored = taken.logical_and_(pixels > 0).logical_not_().view(num_maps, -1)
    logs = pixels.view(num_maps, -1).masked_fill_(ignored, 1.0).log_()
    relative_logs = logs  # of the pixels, then of what was fitted to them, over its maximum
    is_peak = (peaks > 0) & (peaks < math.inf)
    weighted = logs.new_empty(num_maps, 2, side * side)
    weights, weighted_logs = weighted.unbind(1)
    for step in range(_FIT_SOLUTIONS):
        torch.mul(relative_logs, 2, out=weights).exp_().masked_fill_(ignored, 0.0)
        torch.mul(weights, logs, out=weighted_logs)
        # Over columns [2 N side, side], then over rows [2 N 5, side].
        moments = product(weighted.view(-1, side), fit.powers)
        moments = product(moments.view(-1, side, 5).transpose(1, 2).reshape(-1, side), fit.powers)
        equations = moments.view(num_maps, -1).t().index_select(0, fit.equations).view(6, 7, -1)
        solution, is_regular = _eliminate(equations)
        c0, dx, dy, half_dxx, dxy, half_dyy = solution
        derivatives = torch.stack([dx, dy, 2 * half_dxx, 2 * half_dyy, dxy])
        offset = newton_step(derivatives, plan)
        is_peak &= is_regular & (half_dxx < 0) & (4 * half_dxx * half_dyy > dxy * dxy)
        is_peak &= (offset.abs() <= radius).all(0)
        if step + 1 < _FIT_SOLUTIONS:
            maxima = c0 + (dx * offset[0] + dy * offset[1]) / 2
            relative_logs = product(solution.t(), fit.terms).sub_(maxima.unsqueeze(1))
    return derivatives, is_peak


def _eliminate(equations: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions [6, N] of N symmetric systems of six equations [6, 7, N], and whether they are regular: [N].

    All at once, in place, and without pivoting, which positive definite matrices do not need. What is singular ends in
    infinities and NaN, and nobody has to wait to hear of it.
    """
    diagonals = equations.diagonal(dim1=0, dim2=1).t()  # [6, N]
    lowest_pivots = diagonals * _FIT_PIVOT
    for i in range(6):
        row = equations[i, i + 1 :]
        row /= equations[i, i]
        equations[i + 1 :, i + 1 :] -= equations[i + 1 :, i : i + 1] * row
    solutions = equations[:, 6]
    for i in range(5, 0, -1):
        solutions[:i] -= equations[:i, i] * solutions[i]
    return solutions, (diagonals > lowest_pivots).all(0)


def quarter_step(
    maps: Tensor,  # [B, K, H, W]
    raw_maxima: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    extra_shift: float,
    legacy: bool,
    map_index: Tensor | None,
) -> Tensor:
    """A quarter of a pixel towards the larger neighbour, and the extra shift, where the border rule acts: [2, N]."""
    _, num_keypoints, height, width = maps.shape
    index = torch.arange(y.shape[0], device=maps.device) if map_index is None else map_index
    keypoint = index % num_keypoints
    index = index.div(num_keypoints, rounding_mode="floor")
    left, right = (x - 1).clamp_(min=0), (x + 1).clamp_(max=width - 1)
    above, below = (y - 1).clamp_(min=0), (y + 1).clamp_(max=height - 1)
    horizontal = maps[index, keypoint, y, right] - maps[index, keypoint, y, left]
    vertical = maps[index, keypoint, below, x] - maps[index, keypoint, above, x]
    # Two infinite neighbours of one sign are as equal as two finite ones.
    sign = torch.stack([horizontal, vertical]).nan_to_num_(nan=0.0).sign_()
    moves_x, moves_y = (x > 1) & (x < width - 1), (y > 1) & (y < height - 1)
    if legacy:
        moves_x = moves_y = moves_x & moves_y
    else:
        moves_x, moves_y = moves_x & (y > 0), moves_y & (x > 0)
    moves = torch.stack([moves_x, moves_y])
    moves &= raw_maxima < math.inf
    return torch.where(moves, 0.25 * sign.to(raw_maxima.dtype) + extra_shift, 0.0)


def covariances_of(derivatives: Tensor, peaks: Tensor, known_variances: Tensor) -> Tensor:
    """-Hessian^-1 - known_variances I where that is positive semi-definite, NaN elsewhere: [N, 2, 2]."""
    _, _, dxx, dyy, dxy = derivatives.unbind(0)
    determinant = dxx * dyy - dxy * dxy
    xx, xy, yy = -dyy / determinant - known_variances, dxy / determinant, -dxx / determinant - known_variances
    exists = (peaks > 0) & (dxx < 0) & (determinant > 0) & (xx + yy < math.inf)
    exists &= (xx >= 0) & (yy >= 0) & (xx * yy >= xy * xy)
    covariances = torch.stack([xx, xy, xy, yy], dim=-1)
    return torch.where(exists[:, None], covariances, math.nan).view(-1, 2, 2)
