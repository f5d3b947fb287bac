"""The covariance of a blob from the second derivatives of its log."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Covariance(NamedTuple):
    """A covariance of x and y; NaN where there is none."""

    xx: Any
    xy: Any
    yy: Any


@triton.jit
def no_covariance():
    """NaN, where none is asked for."""
    nan = tl.full([], float("nan"), dtype=tl.float32)
    return Covariance(nan, nan, nan)


@triton.jit
def covariance_of(dxx, dxy, dyy, exists, KNOWN_VARIANCE: tl.constexpr):
    """-Hessian^-1 - KNOWN_VARIANCE I, NaN where that is no covariance or not `exists`."""
    determinant = dxx * dyy - dxy * dxy
    xx = -dyy / determinant - KNOWN_VARIANCE
    yy = -dxx / determinant - KNOWN_VARIANCE
    xy = dxy / determinant
    exists = exists & (dxx < 0) & (determinant > 0)
    exists = exists & (xx >= 0) & (yy >= 0)
    exists = exists & (xx * yy >= xy * xy)
    exists = exists & (xx + yy < float("inf"))
    nan = float("nan")
    return Covariance(tl.where(exists, xx, nan), tl.where(exists, xy, nan), tl.where(exists, yy, nan))


@triton.jit
def store_covariance(matrix_ptr, covariance):
    """Write a matrix [2, 2]."""
    tl.store(matrix_ptr, covariance.xx)
    tl.store(matrix_ptr + 1, covariance.xy)
    tl.store(matrix_ptr + 2, covariance.xy)
    tl.store(matrix_ptr + 3, covariance.yy)
