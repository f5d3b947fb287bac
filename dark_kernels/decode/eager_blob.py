"""The stencil "gaussian" in eager: a round Gaussian fitted around each of many peaks at once, which lie innermost."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._common.products import product
from .eager_plan import BlobPlan, StencilPlan
from .eager_scores import Activation
from .eager_steps import eliminate

# In units of the standard deviation that is expected: where the width starts, what it is held to, how far the centre
# may come, and how far in one iteration.
_START, _NARROWEST, _WIDEST, _FARTHEST, _STEP = 0.8, 0.4, 2.0, 1.2, 0.4
# How much the log of the width changes in one iteration at most, and what the equations' diagonal is multiplied with.
_ITERATIONS, _LOG_STEP, _DAMPING = 8, 0.3, 1 + 1e-3
# What a pixel may exceed the blob by before it counts less: a share of the amplitude, or so many deviations of the
# noise.
_TOLERATED, _TOLERATED_NOISE = 0.025, 2.6
# Pixels that are fitted to at once on CPU.
_FIT_BLOCK = 2**18


def fit_blob(
    heatmaps: Tensor,  # [B, K, H, W]
    raw_maxima: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    sigma: float,
    plan: StencilPlan,
    blob: BlobPlan,
    activate: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Derivatives [5, N] of the log of a blob fitted around each peak, and whether there is one: [N].

    Maximum likelihood in white noise: Gauss and Newton's iterations in the amplitude, the centre and the log of the
    width. A pixel that exceeds the blob by far, as a neighbour's does, counts little.
    """
    count = y.shape[0]
    if heatmaps.device.type == "cpu":
        count = min(count, max(1, _FIT_BLOCK // blob.patch.rows.shape[1] ** 2))
    parts = []
    for first in range(0, y.shape[0], count):
        peaks = slice(first, first + count)
        pixels, exist_y, exist_x = _read_patches(heatmaps, y[peaks], x[peaks], plan.window_starts[peaks], plan, blob)
        if activate is not None:
            pixels = activate.of(peaks)(pixels.t()).t().contiguous()
        # Relative to the map's maximum, so that squares stay far from overflow. Far below zero nothing more is said.
        pixels = (pixels / raw_maxima[peaks].to(pixels.dtype)).clamp_(min=-1.0)
        exist = (exist_y.unsqueeze(1) * exist_x).view(pixels.shape)
        parts.append(_fit(torch.where(exist > 0, pixels, 0.0), exist_y, exist_x, sigma, blob))
    derivatives, exists = zip(*parts, strict=True)
    return torch.cat(derivatives, 1), torch.cat(exists)


def _read_patches(
    heatmaps: Tensor, y: Tensor, x: Tensor, starts: Tensor, plan: StencilPlan, blob: BlobPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels around N peaks [side * side, N], and which rows and columns there are, 0 or 1: [side, N] each."""
    patch, dtype = blob.patch, blob.distance.dtype
    rows, columns = patch.rows.index_select(0, y).add_(starts.unsqueeze(1)), patch.columns.index_select(0, x)
    index = rows.t().contiguous().unsqueeze(1) + columns.t().contiguous()
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset()).index_select(0, index.view(-1))
    exist_y, exist_x = patch.rows_exist.index_select(0, y), patch.columns_exist.index_select(0, x)
    return pixels.to(dtype).view(-1, y.shape[0]), exist_y.t().to(dtype).contiguous(), exist_x.t().to(dtype).contiguous()


def _fit(pixels: Tensor, exist_y: Tensor, exist_x: Tensor, sigma: float, blob: BlobPlan) -> tuple[Tensor, Tensor]:
    """`fit_blob` from pixels that are 0 outside the map."""
    num_peaks = pixels.shape[1]
    count = exist_y.sum(0) * exist_x.sum(0)
    center_x, center_y, log_s = pixels.new_zeros(3, num_peaks)
    log_s = log_s + math.log(_START * sigma)
    exists = torch.ones_like(center_x, dtype=torch.bool)
    e, residuals, work = (torch.empty_like(pixels) for _ in range(3))  # fresh memory is handed out page by page
    for _ in range(_ITERATIONS):
        variance = (2 * log_s).exp_()
        across, down = (
            (blob.distance - center).square_().div_(-2 * variance).exp_().mul_(exist)
            for center, exist in ((center_x, exist_x), (center_y, exist_y))
        )
        torch.mul(down.unsqueeze(1), across, out=e.view(*across.shape[:1], *across.shape))
        amplitude = torch.mul(e, pixels, out=work).sum(0) / (down.square().sum(0) * across.square().sum(0))
        exists &= amplitude > 0
        torch.addcmul(pixels, e, amplitude, value=-1, out=residuals)
        # As much noise lies above the model as below it, where there is no neighbour.
        noise = torch.clamp(residuals, max=0, out=work).square_().sum(0).mul_(2).div_(count).sqrt_()
        tolerated = torch.maximum(_TOLERATED * amplitude, _TOLERATED_NOISE * noise)
        weighted = residuals.clamp_(min=0).div_(tolerated).square_().add_(1).reciprocal_().mul_(e)

        # In terms of 1, u, v and u^2 + v^2 from the peak's pixel all equations are sums of the same numbers.
        values = product(blob.equations.terms.t(), torch.mul(weighted, pixels, out=work))
        products = product(blob.equations.products.t(), weighted.mul_(e))
        amplitude = values[0] / products[0]
        exists &= amplitude > 0
        values -= amplitude * products[:4]
        equations = torch.cat([products, values]).index_select(0, blob.equations.places).view(4, 5, num_peaks)
        _move_origin(equations, center_x, center_y)
        _move_origin(equations[:, :4].transpose(0, 1), center_x, center_y)
        equations.diagonal(dim1=0, dim2=1).mul_(_DAMPING)
        solution, is_regular = eliminate(equations, 0.0)
        exists &= is_regular
        _, step_x, step_y, step_s = solution * (variance / amplitude)

        def moved(center: Tensor, step: Tensor) -> Tensor:
            step = step.clamp(-_STEP * sigma, _STEP * sigma)
            return (center + step).clamp_(-_FARTHEST * sigma, _FARTHEST * sigma)

        center_x, center_y = moved(center_x, step_x), moved(center_y, step_y)
        log_s = log_s + step_s.clamp(-_LOG_STEP, _LOG_STEP)
        log_s = log_s.clamp_(math.log(_NARROWEST * sigma), math.log(_WIDEST * sigma))
    precision = (-2 * log_s).exp_()
    derivatives = torch.stack(
        [center_x * precision, center_y * precision, -precision, -precision, torch.zeros_like(precision)]
    )
    return derivatives, exists & derivatives.isfinite().all(0)


def _move_origin(rows: Tensor, center_x: Tensor, center_y: Tensor) -> None:
    """Make rows [4, ...] that belong to 1, x, y and x^2 + y^2 those of the distances from a centre, in place."""
    rows[1] -= center_x * rows[0]
    rows[2] -= center_y * rows[0]
    rows[3] -= 2 * (center_x * rows[1] + center_y * rows[2]) + (center_x.square() + center_y.square()) * rows[0]
