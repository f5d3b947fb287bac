"""decode_simcc as one Triton kernel, and its launcher."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import Taps, tap_weight, taps_of
from .._triton.launch import launch, launch_again, launch_key, on_device_of
from .._triton.logs import clip_may_bind, log_ratio
from .._triton.registers import register_limit
from .._triton.search import first_maximum
from .._triton.sums import sum_of_products

CLIP_MIN = tl.constexpr(1e-3)
CLIP_MAX = tl.constexpr(50.0)
CURVATURE_EPSILON = tl.constexpr(1e-9)
INVALID = tl.constexpr(-1.0)
# Stands for an infinity that is averaged.
LARGEST = tl.constexpr(3.4028234663852886e38)
# How far the step's stencil reaches.
REACH = tl.constexpr(2)


class Axes(NamedTuple):
    """The axes x, or y, of all keypoints: [B, K, W]."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_w: Any
    width: Any


class Axis(NamedTuple):
    """The axis x, or y, of one keypoint."""

    ptr: Any
    stride: Any
    width: Any


class AxisPlan(NamedTuple):
    """A program for an axis, a constant."""

    BLOCK_BINS: int
    IS_WHOLE: bool  # whether the first block is all of it
    ACTIVATION: str
    LOGIT_SCALE: float
    SHARPNESS: float  # of the softmax that a visibility is, or 0
    WINDOW: int  # a power of two, more than 2 (radius + REACH)
    TAPS: Taps


class AxisPeak(NamedTuple):
    """The first maximum of an axis. NaN is the largest value of all."""

    logit: Any  # as it is
    value: Any  # activated
    index: Any
    probability: Any  # the largest one of the softmax that a visibility is


@triton.jit
def _axis_of(axes, batch, keypoint):
    return Axis(axes.ptr + batch * axes.stride_b + keypoint * axes.stride_k, axes.stride_w, axes.width)


@triton.jit
def _load_bins(axis, start, BLOCK_BINS: tl.constexpr):
    """Bins from `start` on, -inf beyond the end: the loads of the streaming loop."""
    index = start + tl.arange(0, BLOCK_BINS)
    pointers = axis.ptr + index.to(tl.int64) * axis.stride
    return tl.load(pointers, mask=index < axis.width, other=float("-inf")).to(tl.float32)


@triton.jit
def _term(value, largest, EXPONENT: tl.constexpr):
    """2^(EXPONENT (value - largest)), and 1 where they are equal, as two infinities are."""
    return tl.where(value == largest, 1.0, tl.exp2((value - largest) * EXPONENT))


@triton.jit
def _sigmoid(logit, LOGIT_SCALE: tl.constexpr):
    EXPONENT: tl.constexpr = -LOGIT_SCALE * 1.4426950408889634
    # Rounded: none is more than 1.
    return tl.div_rn(1.0, 1.0 + tl.exp2(logit * EXPONENT))


@triton.jit
def _merged(total, best, value, better, exists, EXPONENT: tl.constexpr):
    """A softmax's sum of terms with those of other bins, all of them relative to the better of both."""
    term = tl.where(exists, _term(value, better, EXPONENT), 0.0)
    return total * _term(best, better, EXPONENT) + term


@triton.jit
def _scan_axis(value, axis, PLAN: tl.constexpr):
    """Find an `AxisPeak` in one pass. `value`: the first bins, loaded already."""
    BLOCK_BINS: tl.constexpr = PLAN.BLOCK_BINS
    ACTIVATION: tl.constexpr = PLAN.ACTIVATION
    EXPONENT: tl.constexpr = PLAN.SHARPNESS * 1.4426950408889634
    LOGIT_EXPONENT: tl.constexpr = PLAN.LOGIT_SCALE * 1.4426950408889634
    lane = tl.arange(0, BLOCK_BINS)
    best = value
    best_start = tl.zeros([BLOCK_BINS], dtype=tl.int32)
    total = tl.where(lane < axis.width, 1.0, 0.0)  # of a lane's terms, with its best as 1
    logit_total = total
    if not PLAN.IS_WHOLE:
        for start in range(BLOCK_BINS, axis.width, BLOCK_BINS):
            value = _load_bins(axis, start, BLOCK_BINS)
            best_start = tl.where(value > best, start, best_start)
            better = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
            if PLAN.SHARPNESS != 0.0:
                total = _merged(total, best, value, better, start + lane < axis.width, EXPONENT)
            if ACTIVATION == "softmax":
                logit_total = _merged(logit_total, best, value, better, start + lane < axis.width, LOGIT_EXPONENT)
            best = better
    found = first_maximum(best, best_start + lane, 0x7FFFFFFF)
    probability = 0.0
    if PLAN.SHARPNESS != 0.0:
        # Rounded: one bin alone has all of it, and none has more.
        probability = tl.div_rn(1.0, tl.sum(total * _term(best, found.value, EXPONENT), axis=0))
    activated = found.value
    if ACTIVATION == "softmax":
        # The same for every thread: whether a clip may bind depends on it.
        activated = tl.div_rn(1.0, sum_of_products(logit_total, _term(best, found.value, LOGIT_EXPONENT)))
        # Bins of -inf have no probability, even if there are no others.
        activated = tl.where(found.value == float("-inf"), 0.0, activated)
    elif ACTIVATION == "sigmoid":
        activated = _sigmoid(found.value, PLAN.LOGIT_SCALE)
    return AxisPeak(found.value, activated, found.index, probability)


@triton.jit
def _load_activated(axis, index, peak, PLAN: tl.constexpr):
    """Bins as a blur sees them: activated, with zeros beyond the ends."""
    EXPONENT: tl.constexpr = PLAN.LOGIT_SCALE * 1.4426950408889634
    pointers = axis.ptr + index.to(tl.int64) * axis.stride
    exists = (index >= 0) & (index < axis.width)
    value = tl.load(pointers, mask=exists, other=0.0).to(tl.float32)
    if PLAN.ACTIVATION == "softmax":
        value = tl.where(exists, _term(value, peak.logit, EXPONENT) * peak.value, 0.0)
    elif PLAN.ACTIVATION == "sigmoid":
        value = tl.where(exists, _sigmoid(value, PLAN.LOGIT_SCALE), 0.0)
    return value


@triton.jit
def _blurred_maximum(axis, peak, PLAN: tl.constexpr):
    """The largest value of the whole blurred axis."""
    BLOCK_BINS: tl.constexpr = 256
    TAPS: tl.constexpr = PLAN.TAPS
    lane = tl.arange(0, BLOCK_BINS)
    largest = tl.full([BLOCK_BINS], float("-inf"), dtype=tl.float32)
    # Farther there are no bins. And of a loop whose end the compiler knew it would make one long line of code.
    farthest = tl.minimum(axis.width - 1, TAPS.RADIUS)
    for start in range(0, axis.width, BLOCK_BINS):
        blurred = tl.zeros([BLOCK_BINS], dtype=tl.float32)
        for place in range(0, 2 * farthest + 1):
            value = _load_activated(axis, start + lane + (place - farthest), peak, PLAN)
            distance = tl.full([1], 0, dtype=tl.int32) + (place - farthest)
            blurred += tap_weight(distance, TAPS) * tl.maximum(value, -LARGEST)
        largest = tl.maximum(largest, tl.where(start + lane < axis.width, blurred, float("-inf")))
    return tl.max(largest, axis=0)


@triton.jit
def _blurred_bin(window, distance, value, TAPS: tl.constexpr):
    """A bin from half of the distances of others from `value`, and how far from it they are: [WINDOW] each."""
    return value + 2.0 * sum_of_products(window, tap_weight(distance, TAPS))


@triton.jit
def _clipped(value, scale):
    return tl.minimum(tl.maximum(value * scale, CLIP_MIN), CLIP_MAX)


@triton.jit
def _dark_step(axis, peak, is_valid, PLAN: tl.constexpr):
    """A step to subtract from the index of a peak: to the maximum of the log of the smoothed axis."""
    TAPS: tl.constexpr = PLAN.TAPS
    value = peak.value
    column = tl.arange(0, PLAN.WINDOW) - (TAPS.RADIUS + REACH)
    window = _load_activated(axis, peak.index + column, peak, PLAN)
    # What is blurred is the distance from the peak: the flatter the axis, the smaller are the sums and their rounding.
    # Half of it, which can't overflow.
    window = 0.5 * tl.maximum(window, -LARGEST) - 0.5 * value
    # Beyond an end of the axis the log of the end itself is repeated.
    last = axis.width - 1 - peak.index
    after = _blurred_bin(window, column - tl.minimum(last, 1), value, TAPS)
    after_2 = _blurred_bin(window, column - tl.minimum(last, 2), value, TAPS)
    before = _blurred_bin(window, column + tl.minimum(peak.index, 1), value, TAPS)
    before_2 = _blurred_bin(window, column + tl.minimum(peak.index, 2), value, TAPS)
    center = _blurred_bin(window, column, value, TAPS)

    scale = 1.0
    is_refinable = is_valid & (peak.logit < float("inf"))
    lowest = tl.minimum(tl.minimum(tl.minimum(before, before_2), tl.minimum(after, after_2)), center)
    needs_scale = is_refinable & clip_may_bind(lowest, value, CLIP_MIN, CLIP_MAX)
    if needs_scale:
        blurred = _blurred_maximum(axis, peak, PLAN)
        scale = tl.where(blurred > 0, value / blurred, 1.0)

    # Relative to the centre, whose own log is then zero.
    center = _clipped(center, scale)
    log_after = log_ratio(_clipped(after, scale), center)
    log_before = log_ratio(_clipped(before, scale), center)
    log_after_2 = log_ratio(_clipped(after_2, scale), center)
    log_before_2 = log_ratio(_clipped(before_2, scale), center)
    first = 0.5 * (log_after - log_before)
    second = 0.25 * (log_after_2 + log_before_2)
    step = first / (second + CURVATURE_EPSILON)
    return tl.where(is_refinable & (tl.abs(step) < float("inf")), step, 0.0)


@triton.jit(do_not_specialize=["num_keypoints"])
def _decode_simcc_fwd_kernel(
    coords_ptr,  # [B, K, 2]
    scores_ptr,  # [B, K]
    visibility_ptr,  # [B, K], or None
    simcc_x,  # Axes [B, K, Wx]
    simcc_y,  # Axes [B, K, Wy]
    num_keypoints,
    SPLIT_RATIO: tl.constexpr,
    MEAN_SCORE: tl.constexpr,
    DARK: tl.constexpr,
    X: tl.constexpr,  # AxisPlan
    Y: tl.constexpr,  # AxisPlan
):
    """One program decodes both axes of one keypoint.

    Bytes it must move: B K (Wx + Wy) elements read, B K (12 or 16) bytes written. What it moves from device memory: the
    same: a softmax's sum comes out of the scan for the maximum. With DARK it then reads the k + 4 bins around each
    peak, which the scan has just brought into the cache, and only where a clip could bind it walks that axis a second
    time.
    """
    keypoint_index = tl.program_id(0).to(tl.int64)
    batch = keypoint_index // num_keypoints
    keypoint = keypoint_index - batch * num_keypoints
    x_axis = _axis_of(simcc_x, batch, keypoint)
    y_axis = _axis_of(simcc_y, batch, keypoint)

    # Both axes are under way before anything waits for one.
    x_values = _load_bins(x_axis, 0, X.BLOCK_BINS)
    y_values = _load_bins(y_axis, 0, Y.BLOCK_BINS)
    x_peak = _scan_axis(x_values, x_axis, X)
    y_peak = _scan_axis(y_values, y_axis, Y)
    if MEAN_SCORE:
        score = 0.5 * x_peak.value + 0.5 * y_peak.value  # halved before the sum, which could overflow
    else:
        score = tl.minimum(x_peak.value, y_peak.value, propagate_nan=tl.PropagateNan.ALL)
    # A NaN is not above anything.
    if X.ACTIVATION == "none":
        is_valid = score > 0
    else:
        is_valid = (x_peak.logit > float("-inf")) & (y_peak.logit > float("-inf"))

    # Around a NaN bins are read as well; whatever comes of them is not stored.
    x_coord = x_peak.index.to(tl.float32)
    y_coord = y_peak.index.to(tl.float32)
    if DARK:
        x_coord -= _dark_step(x_axis, x_peak, is_valid, X)
        y_coord -= _dark_step(y_axis, y_peak, is_valid, Y)
    split_ratio = tl.full([], SPLIT_RATIO, dtype=tl.float32)
    tl.store(coords_ptr + keypoint_index * 2, tl.where(is_valid, tl.div_rn(x_coord, split_ratio), INVALID))
    tl.store(coords_ptr + keypoint_index * 2 + 1, tl.where(is_valid, tl.div_rn(y_coord, split_ratio), INVALID))
    tl.store(scores_ptr + keypoint_index, score)
    if visibility_ptr is not None:
        visibility = tl.minimum(x_peak.probability, y_peak.probability, propagate_nan=tl.PropagateNan.ALL)
        tl.store(visibility_ptr + keypoint_index, visibility)


# Axes of up to so many bins are held in registers whole, as those of networks are: both are under way at once, and
# nothing is carried from block to block.
_MOST_WHOLE = 2048
_BLOCK_BINS = 1024


@functools.lru_cache(maxsize=64)
def _plan_of(
    width: int, taps: tuple[float, ...] | None, sharpness: float, activation: str, logit_scale: float
) -> tuple[AxisPlan, int]:
    """Plan an axis of that many bins, and count the warps that it takes.

    A warp holds 512 bins, 16 a thread, and half as many of an axis that it has to walk along.
    """
    is_whole = width <= _MOST_WHOLE
    block_bins = max(triton.next_power_of_2(width), 16) if is_whole else _BLOCK_BINS
    weights = taps_of(taps or (1.0,))
    window = max(16, triton.next_power_of_2(2 * (weights.RADIUS + REACH.value) + 1))
    plan = AxisPlan(block_bins, is_whole, activation, logit_scale, sharpness, window, weights)
    return plan, max(1, block_bins // (512 if is_whole else 256))


def _axes_of(simcc: Tensor) -> Axes:
    stride_b, stride_k, stride_w = simcc.stride()
    return Axes(simcc, stride_b, stride_k, stride_w, simcc.shape[2])


def decode_simcc_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    visibility: Tensor,  # [B, K]; any tensor if the sharpness is 0
    simcc_x: Tensor,  # [B, K, Wx]
    simcc_y: Tensor,  # [B, K, Wy]
    taps_x: tuple[float, ...] | None,
    taps_y: tuple[float, ...] | None,
    sharpness_x: float,
    sharpness_y: float,
    split_ratio: float,
    mean_score: bool,
    activation: str,
    logit_scale: float,
) -> None:
    """Fill the outputs (float32, contiguous). Taps are half of a blur kernel, centre first; None: no refinement."""
    with on_device_of(simcc_x):
        outputs = (coords, scores, visibility if sharpness_x != 0.0 else None)
        tensors = (*(tensor for tensor in outputs if tensor is not None), simcc_x, simcc_y)
        options = (taps_x, taps_y, sharpness_x, sharpness_y, split_ratio, mean_score, activation, logit_scale)
        axes = ((axis.dtype, axis.shape, axis.stride()) for axis in (simcc_x, simcc_y))
        key = launch_key(_decode_simcc_fwd_kernel, tensors, simcc_x.device, *axes, options)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, x_width = simcc_x.shape
        x_plan, x_warps = _plan_of(x_width, taps_x, sharpness_x, activation, logit_scale)
        y_plan, y_warps = _plan_of(simcc_y.shape[2], taps_y, sharpness_y, activation, logit_scale)
        launch(
            _decode_simcc_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*outputs, _axes_of(simcc_x), _axes_of(simcc_y), num_keypoints),
            {
                "SPLIT_RATIO": split_ratio,
                "MEAN_SCORE": mean_score,
                "DARK": taps_x is not None,
                "X": x_plan,
                "Y": y_plan,
                "num_warps": max(x_warps, y_warps),
                **register_limit("decode_simcc"),
            },
            key,
        )
