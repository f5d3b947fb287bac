"""The stencil `gaussian`: a round Gaussian fitted to all pixels around a peak, by maximum likelihood in white noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .covariance import covariance_of, no_covariance
from .equations import solve
from .maps import load_pixels
from .peak import Step
from .sums import reciprocal, rounded_product, sum_of_products


class Patch(NamedTuple):
    """Pixels around a peak, in parts of columns: one to each of FIT_LANES lanes, which come row after row of parts."""

    pixels: Any  # [ROWS, FIT_LANES] over the map's maximum; 0 where there are none
    across: Any  # [FIT_LANES], how far to the right of the peak; far from all blobs where there are none
    down: Any  # [ROWS, FIT_LANES], how far below
    num_below: Any  # half of those that exist: so many are expected below a fit


@triton.jit
def _load_patch(maps, peak, RECIPE: tl.constexpr):
    RADIUS: tl.constexpr = RECIPE.FIT_RADIUS
    WINDOW: tl.constexpr = RECIPE.FIT_WINDOW
    ROWS: tl.constexpr = WINDOW * WINDOW // RECIPE.FIT_LANES
    FAR: tl.constexpr = 128.0 * RECIPE.FIELDS.blob_sigma  # 64 of the widest blob, of which the exponential is 0
    lane = tl.arange(0, RECIPE.FIT_LANES)
    across = lane % WINDOW - RADIUS
    down = (lane // WINDOW * ROWS)[None, :] + tl.arange(0, ROWS)[:, None] - RADIUS
    row = peak.y + down
    column = peak.x + across
    row_exists = (down <= RADIUS) & (row >= 0) & (row < maps.height)
    column_exists = (across <= RADIUS) & (column >= 0) & (column < maps.width)
    inside = row_exists & column_exists[None, :]
    pixels = load_pixels(maps, row, column[None, :], inside, RECIPE.BLUR.READING)
    # Relative to the maximum squares stay far from overflow. Far below zero nothing more is said.
    pixels = tl.where(inside, tl.maximum(pixels / peak.raw_maximum, -1.0), 0.0)
    num_rows = tl.minimum(peak.y + RADIUS, maps.height - 1) - tl.maximum(peak.y - RADIUS, 0) + 1
    num_columns = tl.minimum(peak.x + RADIUS, maps.width - 1) - tl.maximum(peak.x - RADIUS, 0) + 1
    num_below = 0.5 * (num_rows.to(tl.float32) * num_columns.to(tl.float32))
    return Patch(
        pixels,
        tl.where(column_exists, across.to(tl.float32), FAR),
        tl.where(row_exists, down.to(tl.float32), FAR),
        num_below,
    )


@triton.jit
def _total(one, other):
    """The sum of products over a patch."""
    return tl.sum(sum_of_products(one, other), axis=0)


@triton.jit
def _moved(center, step, SIGMA: tl.constexpr):
    """The centre after a step, both of which are held to what a blob may do."""
    FARTHEST: tl.constexpr = 1.2 * SIGMA
    LONGEST: tl.constexpr = 0.4 * SIGMA
    center += tl.minimum(tl.maximum(step, -LONGEST), LONGEST)
    return tl.minimum(tl.maximum(center, -FARTHEST), FARTHEST)


@triton.jit
def blob_step(maps, peak, RECIPE: tl.constexpr):
    """To the centre of a round Gaussian fitted to all pixels around a peak: a `Step`, with its covariance.

    Gauss and Newton's iterations, in which pixels that exceed the fit by far count little: see `fit_blob` of decode's
    reference. The pixels are read once, and stay in registers. Each lane adds up its part of a column first, so that no
    more than 17 sums of an iteration are exchanged.
    """
    ITERATIONS: tl.constexpr = 8
    DAMPING: tl.constexpr = 1.001  # of the equations' diagonal
    LARGEST_GROWTH: tl.constexpr = 0.3  # of the log of the width in an iteration
    LEAST_TOLERATED: tl.constexpr = 1 / 0.025  # of a share of the amplitude that a pixel may exceed it by
    LEAST_TOLERATED_NOISE: tl.constexpr = 1 / 2.6  # or of so many standard deviations
    EXPONENT: tl.constexpr = -0.5 * 1.4426950408889634  # of 2
    SIGMA: tl.constexpr = RECIPE.FIELDS.blob_sigma
    NARROWEST: tl.constexpr = 0.4 * SIGMA
    WIDEST: tl.constexpr = 2.0 * SIGMA
    START: tl.constexpr = 0.8 * SIGMA
    patch = _load_patch(maps, peak, RECIPE)
    pixels = patch.pixels
    over_noise = tl.sqrt(patch.num_below) * LEAST_TOLERATED_NOISE

    exists = peak.refinable
    center_x = tl.full([], 0.0, dtype=tl.float32)
    center_y = center_x
    sigma = center_x + START
    for _ in range(ITERATIONS):
        u = patch.across - center_x
        v = patch.down - center_y
        uu = u * u
        vv = v * v
        variance = sigma * sigma
        exponent = EXPONENT / variance
        shape = tl.exp2(vv * exponent + (uu * exponent)[None, :])

        amplitude = _total(shape, pixels) * reciprocal(_total(shape, shape))
        exists = exists & (amplitude > 0)
        residuals = pixels - amplitude * shape
        below = tl.minimum(residuals, 0.0)
        per_tolerated = tl.minimum(LEAST_TOLERATED / amplitude, over_noise * tl.rsqrt(_total(below, below)))
        excess = tl.maximum(residuals, 0.0) * per_tolerated
        weighted = shape * reciprocal(1.0 + excess * excess)

        # Sums of each part of a column, with powers of v.
        squares = rounded_product(weighted, shape)
        squares_vv = rounded_product(squares, vv)
        m = tl.sum(squares, axis=0)
        m_v = sum_of_products(squares, v)
        m_vv = tl.sum(squares_vv, axis=0)
        m_vvv = sum_of_products(squares_vv, v)
        m_vvvv = sum_of_products(squares_vv, vv)
        m_q = uu * m + m_vv
        one_sum = tl.sum(m, axis=0)
        amplitude = _total(weighted, pixels) * reciprocal(one_sum)
        exists = exists & (amplitude > 0)
        products = rounded_product(weighted, pixels - amplitude * shape)
        b = tl.sum(products, axis=0)
        b_v = sum_of_products(products, v)
        b_vv = sum_of_products(products, vv)

        # And of all, with q = u^2 + v^2.
        u_sum = tl.sum(rounded_product(u, m), axis=0)
        v_sum = tl.sum(m_v, axis=0)
        uu_sum = tl.sum(rounded_product(uu, m), axis=0)
        uv_sum = tl.sum(rounded_product(u, m_v), axis=0)
        vv_sum = tl.sum(m_vv, axis=0)
        uq_sum = tl.sum(rounded_product(u, m_q), axis=0)
        vq_sum = tl.sum(uu * m_v + m_vvv, axis=0)
        qq_sum = tl.sum(uu * (m_q + m_vv) + m_vvvv, axis=0)
        matrix = (
            (one_sum * DAMPING,),
            (u_sum, uu_sum * DAMPING),
            (v_sum, uv_sum, vv_sum * DAMPING),
            (uu_sum + vv_sum, uq_sum, vq_sum, qq_sum * DAMPING),
        )
        right = (
            tl.sum(b, axis=0),
            tl.sum(rounded_product(u, b), axis=0),
            tl.sum(b_v, axis=0),
            tl.sum(uu * b + b_vv, axis=0),
        )
        solution, is_definite = solve(matrix, right, 0.0)
        exists = exists & is_definite
        scale = variance * reciprocal(amplitude)
        center_x = _moved(center_x, solution[1] * scale, SIGMA)
        center_y = _moved(center_y, solution[2] * scale, SIGMA)
        growth = tl.minimum(tl.maximum(solution[3] * scale, -LARGEST_GROWTH), LARGEST_GROWTH)
        sigma = tl.minimum(tl.maximum(sigma * tl.exp(growth), NARROWEST), WIDEST)
    exists = exists & (tl.abs(center_x) + tl.abs(center_y) + sigma < float("inf"))

    covariance = no_covariance()
    if RECIPE.HAS_COVARIANCE:
        curvature = -1.0 / (sigma * sigma)
        covariance = covariance_of(curvature, 0.0, curvature, exists, RECIPE.FIELDS.target_variance)
    return Step(center_x, center_y, exists, covariance)
