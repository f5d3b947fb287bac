"""The stencil "gaussian" in eager: a round Gaussian fitted around each of many peaks at once, which lie innermost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product
from .eager_plan import BlobPlan, StencilPlan, evenly
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
# Pixels that are fitted to at once on CPU, and peaks whose pixels are gone through at once, in the cache. Rows of as
# many as a line of it holds, or a multiple, begin with a line: stores then take a third less.
_FIT_BLOCK, _PASS_PEAKS, _IN_LINE = 2**20, 384, 16


class _Pass(NamedTuple):
    """Peaks whose pixels are gone through at once: views of what belongs to them."""

    pixels: Tensor  # [side * side, n]: over the map's maximum, and 0 outside the map
    noise_scale: Tensor  # [n]
    across: Tensor  # [side, n]: the exponentials of columns
    down: Tensor  # [side, 1, n]: and of rows
    power: Tensor  # [n]: the sum of the squares of their products
    amplitude: Tensor  # [n]
    sums: tuple[Tensor, Tensor]  # [10, n] of products of terms, and [4, n] of terms with residuals
    e: Tensor  # [side, side, n]
    memory: tuple[Tensor, Tensor, Tensor]  # [side * side, n] each, the first where `e` lies
    one: Tensor  # []


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
    width. A pixel that exceeds the blob by far, as a neighbour's does, counts little. Computed in float64 for float64
    maps, else in float32.
    """
    count = y.shape[0]
    if heatmaps.device.type == "cpu":
        count = evenly(count, max(1, _FIT_BLOCK // blob.patch.rows.shape[1] ** 2))
    parts = []
    for first in range(0, y.shape[0], count):
        peaks = slice(first, first + count)
        exist = torch.stack(
            [
                blob.patch.columns_exist.index_select(0, x[peaks]).t(),
                blob.patch.rows_exist.index_select(0, y[peaks]).t(),
            ]
        ).to(blob.distance.dtype)
        starts = plan.window_starts[peaks]
        of_peaks = None if activate is None else activate.of(peaks)
        pixels = _read_patches(heatmaps, raw_maxima[peaks], y[peaks], x[peaks], starts, exist, plan, blob, of_peaks)
        parts.append(_fit(pixels, exist, sigma, blob))
    centers, log_s, exists = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    dtype = plan.derivative_weights.dtype
    centers, precision = centers.to(dtype), log_s.to(dtype).mul_(-2).exp_()
    curvature = -precision
    derivatives = torch.stack([*(centers * precision), curvature, curvature, torch.zeros_like(curvature)])
    return derivatives, exists & derivatives.isfinite().all(0)


def _read_patches(
    heatmaps: Tensor,
    raw_maxima: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    starts: Tensor,
    exist: Tensor,  # [2, side, N]
    plan: StencilPlan,
    blob: BlobPlan,
    activate: Activation | None,
) -> list[Tensor]:
    """The pixels around peaks, over the map's maximum and 0 outside the map: [side * side, n] for each pass."""
    (_, side, num_peaks), dtype = exist.shape, exist.dtype
    size = min(num_peaks, evenly(num_peaks, _PASS_PEAKS, _IN_LINE)) if heatmaps.device.type == "cpu" else num_peaks
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset())
    # Pixels are read in half the time by numbers of half the size.
    counts = torch.int32 if plan.extent < 2**31 else torch.int64
    rows = blob.patch.rows.index_select(0, y).add_(starts.unsqueeze(1)).t().to(counts).contiguous()
    columns = blob.patch.columns.index_select(0, x).t().to(counts).contiguous()
    memory = torch.empty(side * side * size, dtype=counts, device=y.device)
    patches = []
    for first in range(0, num_peaks, size):
        some = slice(first, first + size)
        n = min(size, num_peaks - first)
        index = memory[: side * side * n]
        torch.add(rows[:, None, some], columns[:, some], out=index.view(side, side, n))
        patch = pixels.index_select(0, index).to(dtype).view(-1, n)
        if activate is not None:
            patch = activate.of(some)(patch.t()).t().contiguous()
        # Relative to the map's maximum, so that squares stay far from overflow. Far below zero nothing more is said.
        patch = patch.div_(raw_maxima[some].to(dtype)).clamp_(min=-1.0)
        across, down = exist[..., some]
        patch.view(side, side, n).mul_(across).mul_(down.unsqueeze(1))
        patches.append(patch)
    return patches


def _fit(patches: list[Tensor], exist: Tensor, sigma: float, blob: BlobPlan) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [2, N], logs of the widths [N], and whether there is a blob: [N].

    `exist`: which columns and rows there are around each peak, 0 or 1: [2, side, N].
    """
    num_peaks = exist.shape[2]
    centers, log_s = exist.new_zeros(2, num_peaks), exist.new_full((num_peaks,), math.log(_START * sigma))
    exists = torch.ones_like(log_s, dtype=torch.bool)
    exponentials, squared = torch.empty_like(exist), torch.empty_like(exist)
    power, sums = torch.empty_like(log_s), exist.new_empty(15, num_peaks)
    passes = list(_passes(patches, exist, exponentials, power, sums))
    terms, products = blob.equations.terms.t(), blob.equations.products.t()
    for _ in range(_ITERATIONS):
        variance = (2 * log_s).exp_()
        torch.sub(blob.distance, centers.unsqueeze(1), out=exponentials)
        exponentials.square_().div_(-2 * variance).exp_().mul_(exist)
        torch.prod(torch.square(exponentials, out=squared).sum(1), 0, out=power)
        for each in passes:
            _sum(each, terms, products)
        amplitude, equations = sums[0], sums[1:]
        exists &= amplitude > 0
        change = equations[10] / equations[0]
        equations[10:].addcmul_(change, equations[:4], value=-1)
        amplitude = amplitude + change
        exists &= amplitude > 0
        equations = equations.index_select(0, blob.equations.places).view(4, 5, num_peaks)
        doubled, squares = 2 * centers.unsqueeze(1), centers.square().sum(0)
        _move_origin(equations, doubled, squares)
        _move_origin(equations[:, :4].transpose(0, 1), doubled, squares)
        equations.diagonal(dim1=0, dim2=1).mul_(_DAMPING)
        solution, is_regular = eliminate(equations, 0.0)
        exists &= is_regular
        steps = solution[1:] * (variance / amplitude)
        centers += steps[:2].clamp_(-_STEP * sigma, _STEP * sigma)
        centers.clamp_(-_FARTHEST * sigma, _FARTHEST * sigma)
        log_s += steps[2].clamp_(-_LOG_STEP, _LOG_STEP)
        log_s.clamp_(math.log(_NARROWEST * sigma), math.log(_WIDEST * sigma))
    return centers, log_s, exists


def _passes(patches: list[Tensor], exist: Tensor, exponentials: Tensor, power: Tensor, sums: Tensor) -> Iterator[_Pass]:
    """Cut what is computed of all peaks into passes, which share memory: fresh one is handed out page by page."""
    side = exist.shape[1]
    noise_scale = 2 * (_TOLERATED_NOISE / _TOLERATED) ** 2 / exist.sum(1).prod(0)
    memory = [torch.empty(patches[0].numel(), dtype=exist.dtype, device=exist.device) for _ in range(3)]
    one = exist.new_ones(())
    first = 0
    for pixels in patches:
        some = slice(first, first + pixels.shape[1])
        e, residuals, work = (each[: pixels.numel()].view(pixels.shape) for each in memory)
        across, down = exponentials[..., some]
        yield _Pass(
            pixels,
            noise_scale[some],
            across,
            down.unsqueeze(1),
            power[some],
            sums[0, some],
            (sums[1:11, some], sums[11:, some]),
            e.view(side, side, -1),
            (e, residuals, work),
            one,
        )
        first = some.stop


def _sum(of: _Pass, terms: Tensor, products: Tensor) -> None:
    """The amplitude of all pixels, and with what each of them then counts the sums that the equations consist of.

    In terms of 1, u, v and u^2 + v^2 from the peak's pixel all equations are sums of the same numbers. The residuals
    are those of the first amplitude: hardly anything cancels where they become those of the second.
    """
    pixels, amplitude, (e, residuals, work) = of.pixels, of.amplitude, of.memory
    torch.mul(of.down, of.across, out=of.e)
    torch.sum(torch.mul(e, pixels, out=work), 0, out=amplitude).div_(of.power)
    torch.addcmul(pixels, e, amplitude, value=-1, out=residuals)
    # As much noise lies above the model as below it, where there is no neighbour.
    noise = torch.clamp(residuals, max=0, out=work).mul_(residuals).sum(0).mul_(of.noise_scale).sqrt_()
    torch.clamp(residuals, min=0, out=work).div_(torch.maximum(amplitude, noise))
    torch.addcmul(of.one, work, work, value=_TOLERATED**-2, out=work)
    weighted = torch.div(e, work, out=work)
    of.sums[1].copy_(product(terms, residuals.mul_(weighted)))
    of.sums[0].copy_(product(products, weighted.mul_(e)))


def _move_origin(rows: Tensor, doubled: Tensor, squares: Tensor) -> None:
    """Make rows [4, M, N] that belong to 1, x, y and x^2 + y^2 those of the distances from centres, in place.

    `doubled`: twice the centres [2, 1, N]; `squares`: x^2 + y^2 of them [N].
    """
    one, by_axes, by_square = rows[0], rows[1:3], rows[3]
    by_axes.addcmul_(doubled, one, value=-0.5)
    by_square.sub_((doubled * by_axes).sum(0)).addcmul_(squares, one, value=-1)
