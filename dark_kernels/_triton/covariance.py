"""The covariance of a blob from the second derivatives of its log."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def covariance_of(dxx, dxy, dyy, exists, KNOWN_VARIANCE: tl.constexpr):
    """-Hessian^-1 - KNOWN_VARIANCE I: xx, xy and yy, NaN where that is no covariance or not `exists`."""
    determinant = dxx * dyy - dxy * dxy
    covariance_xx = -dyy / determinant - KNOWN_VARIANCE
    covariance_yy = -dxx / determinant - KNOWN_VARIANCE
    covariance_xy = dxy / determinant
    exists = exists & (dxx < 0) & (determinant > 0)
    exists = exists & (covariance_xx >= 0) & (covariance_yy >= 0)
    exists = exists & (covariance_xx * covariance_yy >= covariance_xy * covariance_xy)
    exists = exists & (covariance_xx + covariance_yy < float("inf"))
    covariance_xx = tl.where(exists, covariance_xx, float("nan"))
    covariance_xy = tl.where(exists, covariance_xy, float("nan"))
    covariance_yy = tl.where(exists, covariance_yy, float("nan"))
    return covariance_xx, covariance_xy, covariance_yy
