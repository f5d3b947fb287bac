"""The stencil `fit`: a Gaussian fitted to the pixels around a peak.

Source: H. Guo, "A simple algorithm for fitting a Gaussian function", IEEE Signal Processing Magazine 28(5), 2011.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .covariance import covariance_of, no_covariance
from .equations import low_moments_of, moments_of, solve
from .logs import log_ratio
from .maps import load_pixels
from .peak import Step
from .sums import rounded_product, sum_of_products

# Of a diagonal element so much must be left as a pivot, or the equations are singular.
_PIVOT = tl.constexpr(1e-3)


class Window(NamedTuple):
    """Pixels around a peak, and those that the map does not have: [FIT_WINDOW, FIT_WINDOW] each."""

    inside: Any  # whether they exist
    is_positive: Any
    logs: Any  # over the peak's pixel; their value over its where they are not positive: it tells the noise
    num_below: Any  # half of those that exist: so many are expected below a fit


class RoundFit(NamedTuple):
    """A round Gaussian."""

    logs: Any  # [FIT_WINDOW, FIT_WINDOW] over its maximum
    maximum: Any  # its log over the peak's pixel
    guides: Any  # whether it is near enough to a peak to tell which pixels are


@triton.jit
def _load_window(maps, peak, distance, RECIPE: tl.constexpr):
    row = peak.y + distance
    column = peak.x + distance
    row_exists = (distance <= RECIPE.FIT_RADIUS) & (row >= 0) & (row < maps.height)
    column_exists = (distance <= RECIPE.FIT_RADIUS) & (column >= 0) & (column < maps.width)
    inside = row_exists[:, None] & column_exists[None, :]
    pixels = load_pixels(maps, row[:, None], column[None, :], inside, RECIPE.BLUR.READING)
    num_below = 0.5 * tl.sum(row_exists.to(tl.float32), axis=0) * tl.sum(column_exists.to(tl.float32), axis=0)
    is_positive = inside & (pixels > 0)
    logs = tl.where(is_positive, log_ratio(pixels, peak.level), tl.maximum(pixels / peak.level, -1.0))
    return Window(inside, is_positive, logs, num_below)


@triton.jit
def _fit_round(weights, logs, u, FIT_RADIUS: tl.constexpr):
    """A `RoundFit`. It has four equations: those of u^2 and v^2 have one factor, and so are one."""
    FARTHEST: tl.constexpr = 10.0  # from 0 that the log of the maximum over the peak's pixel may be
    m = moments_of(weights, u, u)
    b = low_moments_of(rounded_product(weights, logs), u, u)
    matrix = (
        (m.one,),
        (m.u, m.uu),
        (m.v, m.uv, m.vv),
        (m.uu + m.vv, m.uuu + m.uvv, m.uuv + m.vvv, m.uuuu + 2.0 * m.uuvv + m.vvvv),
    )
    solution, is_definite = solve(matrix, (b.one, b.u, b.v, b.uu + b.vv), _PIVOT)
    constant, along_u, along_v, square = solution
    offset_x = along_u / (-2.0 * square)
    offset_y = along_v / (-2.0 * square)
    maximum = constant + 0.5 * (along_u * offset_x + along_v * offset_y)
    guides = is_definite & (square < 0) & (tl.abs(maximum) <= FARTHEST)
    guides = guides & (tl.abs(offset_x) <= FIT_RADIUS) & (tl.abs(offset_y) <= FIT_RADIUS)
    v = u[:, None]
    logs_of_row = (constant - maximum) + along_v * v + square * (v * v)
    return RoundFit(logs_of_row + along_u * u[None, :] + square * (u * u)[None, :], maximum, guides)


@triton.jit
def _fit_any(weights, logs, u):
    """The coefficients of 1, u, v, u^2, u v and v^2 of a Gaussian's log, and whether the equations have them."""
    m = moments_of(weights, u, u)
    b = low_moments_of(rounded_product(weights, logs), u, u)
    matrix = (
        (m.one,),
        (m.u, m.uu),
        (m.v, m.uv, m.vv),
        (m.uu, m.uuu, m.uuv, m.uuuu),
        (m.uv, m.uuv, m.uvv, m.uuuv, m.uuvv),
        (m.vv, m.uvv, m.vvv, m.uuvv, m.uvvv, m.vvvv),
    )
    return solve(matrix, (b.one, b.u, b.v, b.uu, b.uv, b.vv), _PIVOT)


@triton.jit
def _share_of_peak(window, amplitude, fitted):
    """The share of each pixel that is the peak's, and not a neighbour's: little of what exceeds the fit by far."""
    values = tl.where(window.is_positive, tl.exp(window.logs), window.logs)
    residuals = tl.where(window.inside, values - amplitude * fitted, 0.0)
    below = tl.minimum(residuals, 0.0)
    variance = tl.sum(sum_of_products(below, below), axis=0) / window.num_below
    tolerated = tl.maximum(0.4 * amplitude, 3.0 * tl.sqrt(variance))
    excess = tl.maximum(residuals, 0.0) / tolerated
    excess *= excess
    excess *= excess
    excess *= excess
    return 1.0 / (1.0 + excess)


@triton.jit
def fit_step(maps, peak, RECIPE: tl.constexpr):
    """To the centre of a Gaussian fitted to the pixels around a peak: a `Step`, with its covariance.

    Least squares of a quadratic to the log of the positive pixels, weighted with the squares of values that were fitted
    before: three times of a round Gaussian, which tells a neighbour's pixels, then twice of one of any shape. See
    `fit_gaussian` of decode's reference. The pixels are read once, and stay in registers.
    """
    MOST: tl.constexpr = 0.5  # the log of what the maximum may be over the peak's pixel
    RADIUS: tl.constexpr = RECIPE.FIT_RADIUS
    SIZE: tl.constexpr = RECIPE.FIT_WINDOW
    START: tl.constexpr = 0.22 * RADIUS if RADIUS >= 5 else 1.0  # standard deviation of the first window, px
    distance = tl.arange(0, SIZE) - RADIUS
    window = _load_window(maps, peak, distance, RECIPE)
    u = distance.to(tl.float32)  # of columns, and of rows as v
    u2 = u * u
    v = u[:, None]
    v2 = u2[:, None]

    weights = tl.where(window.is_positive, tl.exp(2.0 * tl.minimum(window.logs, 0.0)), 0.0)
    sharpness = tl.full([], -0.5 / (START * START), dtype=tl.float32)
    share = tl.full([SIZE, SIZE], 1.0, dtype=tl.float32)
    for _ in range(3):
        near = tl.exp(sharpness * (v2 + u2[None, :]))
        sharpness *= 0.0  # the first fit alone starts in a window
        fit = _fit_round(tl.fma(weights, near, 0.0), window.logs, u, RADIUS)  # rounded, see sums.py
        fitted = tl.exp(fit.logs)
        share = tl.where(fit.guides, _share_of_peak(window, tl.exp(fit.maximum), fitted), share)
        weights = tl.where(fit.guides, tl.where(window.is_positive, fitted * fitted * share, 0.0), weights)

    is_peak = peak.refinable & (peak.level > 0)  # it need not be the raw map's maximum
    offset_x = tl.full([], 0.0, dtype=tl.float32)
    maximum = offset_x
    offset_y = offset_x
    dxx = offset_x
    dxy = offset_x
    dyy = offset_x
    for _ in range(2):
        solution, is_definite = _fit_any(weights, window.logs, u)
        constant, along_u, along_v, square_u, product, square_v = solution
        dxx = 2.0 * square_u
        dxy = product
        dyy = 2.0 * square_v
        determinant = dxx * dyy - dxy * dxy
        offset_x = (dxy * along_v - dyy * along_u) / determinant
        offset_y = (dxy * along_u - dxx * along_v) / determinant
        is_peak = is_peak & is_definite & (dxx < 0) & (determinant > 0)
        is_peak = is_peak & (tl.abs(offset_x) <= RADIUS) & (tl.abs(offset_y) <= RADIUS)
        maximum = constant + 0.5 * (along_u * offset_x + along_v * offset_y)
        logs_of_row = constant - maximum + along_v * v + square_v * v2
        logs = logs_of_row + (along_u + product * v) * u[None, :] + square_u * u2[None, :]
        weights = tl.where(window.is_positive, tl.exp(2.0 * logs) * share, 0.0)
    is_peak = is_peak & (maximum <= MOST)

    covariance = no_covariance()
    if RECIPE.HAS_COVARIANCE:
        covariance = covariance_of(dxx, dxy, dyy, is_peak, RECIPE.FIELDS.target_variance)
    return Step(offset_x, offset_y, is_peak, covariance)
