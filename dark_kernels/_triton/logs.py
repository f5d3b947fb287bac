"""Logarithms of a smoothed map around its peak: if a clip could be seen in them, and their differences."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clip_may_bind(lowest, peak, CLIP_MIN: tl.constexpr, CLIP_MAX: tl.constexpr):
    """Tell if the step depends on the scale of a clipped map: on the largest value of the whole blurred map.

    `lowest`: of the blurred values that the step depends on. `peak`: of the raw map.

    The log of a rescaled map differs from the log of the map by a constant, which the derivatives do not see, unless
    a clip binds. The scale lies between 1 (an average never exceeds the largest value) and peak / max(points). So no
    clip binds if CLIP_MIN <= points and peak <= CLIP_MAX, and all points clip to one number if peak <= CLIP_MIN or
    CLIP_MAX <= points. MARGIN is generous: a map sent the exact way without need costs time and not accuracy.
    """
    MARGIN: tl.constexpr = 1e-5
    low_binds = (lowest < CLIP_MIN * (1 + MARGIN)) & (peak > CLIP_MIN * (1 - MARGIN))
    high_binds = (peak > CLIP_MAX * (1 - MARGIN)) & (lowest < CLIP_MAX * (1 + MARGIN))
    return low_binds | high_binds


@triton.jit
def log_ratio(value, center):
    """log(value / center), exact to float32 rounding where the two are close.

    The derivatives are differences of logs that differ little. Hardware logarithms have an absolute error
    near 1, so close values take the series of 2 artanh(z) instead; at |z| = 1/4 its remainder is 5e-9.
    """
    z = (0.5 * value - 0.5 * center) / (0.5 * value + 0.5 * center)  # halves: a sum could overflow
    square = z * z
    series = 1.0 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square * (1 / 11)))))
    # Of two logs and not of the ratio, which could underflow.
    return tl.where(tl.abs(z) < 0.25, 2.0 * z * series, tl.log(value) - tl.log(center))
