"""The stencil `fit`: a Gaussian fitted to the pixels around a peak.

Source: H. Guo, "A simple algorithm for fitting a Gaussian function", IEEE Signal Processing Magazine 28(5), 2011.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .covariance import covariance_of
from .logs import log_ratio
from .maps import load_pixels
from .sums import sum_of_products


@triton.jit
def _moments(weights, logs, u):
    """Sums over the pixels of weights times powers of u and v, and of weights times logs times such: the matrix of the
    least squares for the terms 1, u, v, u^2, u v, v^2, its lower triangle without what is there twice (a11 is a30, a21
    a40, a22 a50, a32 a41, a42 a51 and a44 a53), and the right side.

    Rows are summed first, for each power, and those sums over the columns.
    """
    u2 = u * u
    u3 = u2 * u
    u4 = u2 * u2
    rows_0 = tl.sum(weights, axis=0)
    rows_1 = sum_of_products(weights, u[:, None])
    rows_2 = sum_of_products(weights, u2[:, None])
    rows_3 = sum_of_products(weights, u3[:, None])
    rows_4 = sum_of_products(weights, u4[:, None])
    logs_0 = sum_of_products(weights, logs)
    weights *= logs
    logs_1 = sum_of_products(weights, u[:, None])
    logs_2 = sum_of_products(weights, u2[:, None])

    a00 = tl.sum(rows_0, axis=0)
    a10 = sum_of_products(rows_0, u)
    a20 = tl.sum(rows_1, axis=0)
    a30 = sum_of_products(rows_0, u2)
    a40 = sum_of_products(rows_1, u)
    a50 = tl.sum(rows_2, axis=0)
    a31 = sum_of_products(rows_0, u3)
    a41 = sum_of_products(rows_1, u2)
    a51 = sum_of_products(rows_2, u)
    a52 = tl.sum(rows_3, axis=0)
    a33 = sum_of_products(rows_0, u4)
    a43 = sum_of_products(rows_1, u3)
    a53 = sum_of_products(rows_2, u2)
    a54 = sum_of_products(rows_3, u)
    a55 = tl.sum(rows_4, axis=0)
    b0 = tl.sum(logs_0, axis=0)
    b1 = sum_of_products(logs_0, u)
    b2 = tl.sum(logs_1, axis=0)
    b3 = sum_of_products(logs_0, u2)
    b4 = sum_of_products(logs_1, u)
    b5 = tl.sum(logs_2, axis=0)
    return (
        a00, a10, a20, a30, a40, a50, a31, a41, a51, a52, a33, a43, a53, a54, a55, b0, b1, b2, b3, b4, b5,
    )  # fmt: skip


@triton.jit
def _fit_round(weights, logs, u, FIT_RADIUS: tl.constexpr):
    """Logs of a round Gaussian over their maximum, that maximum, and whether it guides.

    Four equations: those of u^2 and v^2 have one factor, and so are one.
    """
    PIVOT: tl.constexpr = 1e-3  # of a diagonal element that must be left of it, or the equations are singular
    FARTHEST: tl.constexpr = 10.0  # from 0 that the log of the maximum over the peak's pixel may be
    (
        a00, a10, a20, a30, a40, a50, a31, a41, a51, a52, a33, _a43, a53, _a54, a55, b0, b1, b2, b3, _b4, b5,
    ) = _moments(weights, logs, u)  # fmt: skip
    squares_0 = a30 + a50
    squares_1 = a31 + a51
    squares_2 = a41 + a52
    squares_3 = a33 + 2.0 * a53 + a55
    b3 += b5

    # Elimination without pivoting, which positive definite matrices do not need.
    c10 = a10 / a00
    c20 = a20 / a00
    c30 = squares_0 / a00
    p11 = a30 - c10 * a10
    p21 = a40 - c20 * a10
    p31 = squares_1 - c30 * a10
    p22 = a50 - c20 * a20
    p32 = squares_2 - c30 * a20
    p33 = squares_3 - c30 * squares_0
    b1 -= c10 * b0
    b2 -= c20 * b0
    b3 -= c30 * b0

    c21 = p21 / p11
    c31 = p31 / p11
    p22 -= c21 * p21
    p32 -= c31 * p21
    p33 -= c31 * p31
    b2 -= c21 * b1
    b3 -= c31 * b1

    c32 = p32 / p22
    p33 -= c32 * p32
    b3 -= c32 * b2

    b3 = b3 / p33
    b2 = b2 / p22 - c32 * b3
    b1 = b1 / p11 - c21 * b2 - c31 * b3
    b0 = b0 / a00 - c10 * b1 - c20 * b2 - c30 * b3

    offset_x = b1 / (-2.0 * b3)
    offset_y = b2 / (-2.0 * b3)
    maximum = b0 + 0.5 * (b1 * offset_x + b2 * offset_y)
    guides = (a00 > 0) & (p11 > PIVOT * a30) & (p22 > PIVOT * a50) & (p33 > PIVOT * squares_3) & (b3 < 0)
    guides = (
        guides & (tl.abs(offset_x) <= FIT_RADIUS) & (tl.abs(offset_y) <= FIT_RADIUS) & (tl.abs(maximum) <= FARTHEST)
    )
    v = u[:, None]
    along_v = (b0 - maximum) + b2 * v + b3 * (v * v)
    return along_v + b1 * u[None, :] + b3 * (u * u)[None, :], maximum, guides


@triton.jit
def fit_step(
    map_ptr,  # this to `refinable` as in `refine.py`
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    height,
    width,
    y,
    x,
    level,
    refinable,
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_COVARIANCE: tl.constexpr,
    FIT_RADIUS: tl.constexpr,
    FIT_WINDOW: tl.constexpr,  # a power of two, more than 2 * FIT_RADIUS
    TARGET_VARIANCE: tl.constexpr,
):
    """The centre of a Gaussian fitted to the pixels around a peak, x and y from it; its covariance; whether it is one.

    Least squares of a quadratic to the log of the positive pixels, weighted with the squares of values that were fitted
    before: three times of a round Gaussian, which tells a neighbour's pixels, then twice of one of any shape. See
    `fit_gaussian` of decode's reference. The pixels are read once, and stay in registers.
    """
    PIVOT: tl.constexpr = 1e-3  # as in `_fit_round`
    MOST: tl.constexpr = 0.5  # the log of what the maximum may be over the peak's pixel
    START: tl.constexpr = 0.22 * FIT_RADIUS if FIT_RADIUS >= 5 else 1.0  # standard deviation of the first window, px
    distance = tl.arange(0, FIT_WINDOW) - FIT_RADIUS
    row = y + distance
    column = x + distance
    row_exists = (distance <= FIT_RADIUS) & (row >= 0) & (row < height)
    column_exists = (distance <= FIT_RADIUS) & (column >= 0) & (column < width)
    exists = row_exists[:, None] & column_exists[None, :]
    pixels = load_pixels(
        map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor,
        row[:, None], column[None, :], exists, FLIP, ACTIVATION,
    )  # fmt: skip
    halves = 0.5 * tl.sum(row_exists.to(tl.float32), axis=0) * tl.sum(column_exists.to(tl.float32), axis=0)
    inside = exists
    exists = exists & (pixels > 0)
    # Pixels that are not positive have no weight, and in the place of a log their value: it tells the noise.
    logs = tl.where(exists, log_ratio(pixels, level), tl.maximum(pixels / level, -1.0))
    u = distance.to(tl.float32)  # of columns, and of rows as v
    u2 = u * u
    v = u[:, None]
    v2 = u2[:, None]

    weights = tl.where(exists, tl.exp(2.0 * tl.minimum(logs, 0.0)), 0.0)
    sharpness = tl.full([], -0.5 / (START * START), dtype=tl.float32)
    kept = tl.full([FIT_WINDOW, FIT_WINDOW], 1.0, dtype=tl.float32)
    for _ in range(3):
        window = tl.exp(sharpness * (v2 + u2[None, :]))
        sharpness *= 0.0  # the first fit alone starts in a window
        relative_logs, maximum, guides = _fit_round(weights * window, logs, u, FIT_RADIUS)
        amplitude = tl.exp(maximum)
        fitted = tl.exp(relative_logs)
        values = tl.where(exists, tl.exp(logs), logs)
        residuals = tl.where(inside, values - amplitude * fitted, 0.0)
        below = tl.minimum(residuals, 0.0)
        variance = tl.sum(sum_of_products(below, below), axis=0) / halves
        # What exceeds the fit by more than this is a neighbour's.
        tolerated = tl.maximum(0.4 * amplitude, 3.0 * tl.sqrt(variance))
        excess = tl.maximum(residuals, 0.0) / tolerated
        excess *= excess
        excess *= excess
        excess *= excess
        kept = tl.where(guides, 1.0 / (1.0 + excess), kept)
        weights = tl.where(guides, tl.where(exists, fitted * fitted * kept, 0.0), weights)

    is_peak = refinable
    offset_x = tl.full([], 0.0, dtype=tl.float32)
    maximum = offset_x
    offset_y = offset_x
    dxx = offset_x
    dxy = offset_x
    dyy = offset_x
    for _ in range(2):
        (
            a00, a10, a20, a30, a40, a50, a31, a41, a51, a52, a33, a43, a53, a54, a55, b0, b1, b2, b3, b4, b5,
        ) = _moments(weights, logs, u)  # fmt: skip
        a11 = a30
        a21 = a40
        a22 = a50
        a32 = a41
        a42 = a51
        a44 = a53

        # Elimination without pivoting, which positive definite matrices do not need.
        c10 = a10 / a00
        c20 = a20 / a00
        c30 = a30 / a00
        c40 = a40 / a00
        c50 = a50 / a00
        p11 = a11 - c10 * a10
        p21 = a21 - c20 * a10
        p31 = a31 - c30 * a10
        p41 = a41 - c40 * a10
        p51 = a51 - c50 * a10
        p22 = a22 - c20 * a20
        p32 = a32 - c30 * a20
        p42 = a42 - c40 * a20
        p52 = a52 - c50 * a20
        p33 = a33 - c30 * a30
        p43 = a43 - c40 * a30
        p53 = a53 - c50 * a30
        p44 = a44 - c40 * a40
        p54 = a54 - c50 * a40
        p55 = a55 - c50 * a50
        b1 -= c10 * b0
        b2 -= c20 * b0
        b3 -= c30 * b0
        b4 -= c40 * b0
        b5 -= c50 * b0

        c21 = p21 / p11
        c31 = p31 / p11
        c41 = p41 / p11
        c51 = p51 / p11
        p22 -= c21 * p21
        p32 -= c31 * p21
        p42 -= c41 * p21
        p52 -= c51 * p21
        p33 -= c31 * p31
        p43 -= c41 * p31
        p53 -= c51 * p31
        p44 -= c41 * p41
        p54 -= c51 * p41
        p55 -= c51 * p51
        b2 -= c21 * b1
        b3 -= c31 * b1
        b4 -= c41 * b1
        b5 -= c51 * b1

        c32 = p32 / p22
        c42 = p42 / p22
        c52 = p52 / p22
        p33 -= c32 * p32
        p43 -= c42 * p32
        p53 -= c52 * p32
        p44 -= c42 * p42
        p54 -= c52 * p42
        p55 -= c52 * p52
        b3 -= c32 * b2
        b4 -= c42 * b2
        b5 -= c52 * b2

        c43 = p43 / p33
        c53 = p53 / p33
        p44 -= c43 * p43
        p54 -= c53 * p43
        p55 -= c53 * p53
        b4 -= c43 * b3
        b5 -= c53 * b3

        c54 = p54 / p44
        p55 -= c54 * p54
        b5 -= c54 * b4

        b5 = b5 / p55
        b4 = b4 / p44 - c54 * b5
        b3 = b3 / p33 - c43 * b4 - c53 * b5
        b2 = b2 / p22 - c32 * b3 - c42 * b4 - c52 * b5
        b1 = b1 / p11 - c21 * b2 - c31 * b3 - c41 * b4 - c51 * b5
        b0 = b0 / a00 - c10 * b1 - c20 * b2 - c30 * b3 - c40 * b4 - c50 * b5

        dxx = 2.0 * b3
        dxy = b4
        dyy = 2.0 * b5
        determinant = dxx * dyy - dxy * dxy
        offset_x = (dxy * b2 - dyy * b1) / determinant
        offset_y = (dxy * b1 - dxx * b2) / determinant
        is_peak = is_peak & (a00 > 0) & (p11 > PIVOT * a11) & (p22 > PIVOT * a22) & (p33 > PIVOT * a33)
        is_peak = is_peak & (p44 > PIVOT * a44) & (p55 > PIVOT * a55) & (dxx < 0) & (determinant > 0)
        is_peak = is_peak & (tl.abs(offset_x) <= FIT_RADIUS) & (tl.abs(offset_y) <= FIT_RADIUS)
        maximum = b0 + 0.5 * (b1 * offset_x + b2 * offset_y)
        relative_logs = (b0 - maximum + b2 * v + b5 * v2) + (b1 + b4 * v) * u[None, :] + b3 * u2[None, :]
        weights = tl.where(exists, tl.exp(2.0 * relative_logs) * kept, 0.0)
    is_peak = is_peak & (maximum <= MOST)

    covariance_xx = float("nan")
    covariance_xy = float("nan")
    covariance_yy = float("nan")
    if HAS_COVARIANCE:
        covariance_xx, covariance_xy, covariance_yy = covariance_of(dxx, dxy, dyy, is_peak, TARGET_VARIANCE)
    return offset_x, offset_y, covariance_xx, covariance_xy, covariance_yy, is_peak
