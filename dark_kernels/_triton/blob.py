"""The stencil `gaussian`: a round Gaussian fitted to all pixels around a peak, by maximum likelihood in white noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .covariance import covariance_of, no_covariance
from .equations import low_moments_of, moments_of, solve
from .maps import load_pixels
from .peak import Step
from .sums import rounded_product, sum_of_products


class Patch(NamedTuple):
    """Pixels around a peak."""

    pixels: Any  # [FIT_WINDOW, FIT_WINDOW] over the map's maximum; 0 where there are none
    row_exists: Any  # [FIT_WINDOW]
    column_exists: Any  # [FIT_WINDOW]
    num_below: Any  # half of those that exist: so many are expected below a fit


@triton.jit
def _load_patch(maps, peak, distance, RECIPE: tl.constexpr):
    row = peak.y + distance
    column = peak.x + distance
    row_exists = (distance <= RECIPE.FIT_RADIUS) & (row >= 0) & (row < maps.height)
    column_exists = (distance <= RECIPE.FIT_RADIUS) & (column >= 0) & (column < maps.width)
    inside = row_exists[:, None] & column_exists[None, :]
    pixels = load_pixels(maps, row[:, None], column[None, :], inside, RECIPE.BLUR.READING)
    # Relative to the maximum squares stay far from overflow. Far below zero nothing more is said.
    pixels = tl.where(inside, tl.maximum(pixels / peak.raw_maximum, -1.0), 0.0)
    num_below = 0.5 * tl.sum(row_exists.to(tl.float32), axis=0) * tl.sum(column_exists.to(tl.float32), axis=0)
    return Patch(pixels, row_exists, column_exists, num_below)


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
    reference. The pixels are read once, and stay in registers. A Gaussian is a product, of a number for each column and
    another for each row, which is 0 where the map has none: what lies beyond the border adds nothing to any sum.
    """
    ITERATIONS: tl.constexpr = 8
    DAMPING: tl.constexpr = 1.001  # of the equations' diagonal
    LARGEST_GROWTH: tl.constexpr = 0.3  # of the log of the width in an iteration
    TOLERATED: tl.constexpr = 0.025  # share of the amplitude that a pixel may exceed it by
    TOLERATED_NOISE: tl.constexpr = 2.6  # or so many standard deviations
    SIGMA: tl.constexpr = RECIPE.FIELDS.blob_sigma
    NARROWEST: tl.constexpr = 0.4 * SIGMA
    WIDEST: tl.constexpr = 2.0 * SIGMA
    START: tl.constexpr = 0.8 * SIGMA
    distance = tl.arange(0, RECIPE.FIT_WINDOW) - RECIPE.FIT_RADIUS
    patch = _load_patch(maps, peak, distance, RECIPE)
    pixels = patch.pixels

    exists = peak.refinable
    center_x = tl.full([], 0.0, dtype=tl.float32)
    center_y = center_x
    sigma = center_x + START
    for _ in range(ITERATIONS):
        u = distance - center_x
        v = distance - center_y
        variance = sigma * sigma
        along_x = tl.where(patch.column_exists, tl.exp(u * u * (-0.5 / variance)), 0.0)
        along_y = tl.where(patch.row_exists, tl.exp(v * v * (-0.5 / variance)), 0.0)
        shape = along_y[:, None] * along_x[None, :]

        in_columns = sum_of_products(pixels, along_y[:, None])
        power = sum_of_products(along_x, along_x) * sum_of_products(along_y, along_y)
        amplitude = sum_of_products(in_columns, along_x) / power
        exists = exists & (amplitude > 0)
        residuals = pixels - amplitude * shape
        below = tl.minimum(residuals, 0.0)
        noise = tl.sqrt(tl.sum(sum_of_products(below, below), axis=0) / patch.num_below)
        excess = tl.maximum(residuals, 0.0) / tl.maximum(TOLERATED * amplitude, TOLERATED_NOISE * noise)
        weighted = shape / (1.0 + excess * excess)

        m = moments_of(rounded_product(weighted, shape), u, v)
        amplitude = tl.sum(sum_of_products(weighted, pixels), axis=0) / m.one
        exists = exists & (amplitude > 0)
        b = low_moments_of(rounded_product(weighted, pixels - amplitude * shape), u, v)
        matrix = (
            (m.one * DAMPING,),
            (m.u, m.uu * DAMPING),
            (m.v, m.uv, m.vv * DAMPING),
            (m.uu + m.vv, m.uuu + m.uvv, m.uuv + m.vvv, (m.uuuu + 2.0 * m.uuvv + m.vvvv) * DAMPING),
        )
        solution, is_definite = solve(matrix, (b.one, b.u, b.v, b.uu + b.vv), 0.0)
        exists = exists & is_definite
        scale = variance / amplitude
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
