"""decode_simcc as one Triton kernel, and its launcher."""

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.blur import first_maximum, tap_constants, tap_weight
from .._triton.launch import launch, launch_again, launch_key, on_device_of, register_limit
from .._triton.logs import clip_may_bind, log_ratio
from .._triton.sums import sum_of_products

CLIP_MIN = tl.constexpr(1e-3)
CLIP_MAX = tl.constexpr(50.0)
CURVATURE_EPSILON = tl.constexpr(1e-9)
INVALID = tl.constexpr(-1.0)
# Stands for an infinity that is averaged.
LARGEST = tl.constexpr(3.4028234663852886e38)
# How far the step's stencil reaches.
REACH = tl.constexpr(2)


@triton.jit
def _load_bins(axis_ptr, stride_w, width, start, BLOCK_SIZE: tl.constexpr):
    """Bins from `start` on, -inf beyond the end: the loads of the streaming loop."""
    index = start + tl.arange(0, BLOCK_SIZE)
    pointers = axis_ptr + index.to(tl.int64) * stride_w
    return tl.load(pointers, mask=index < width, other=float("-inf")).to(tl.float32)


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
def _scan_axis(
    value,  # [BLOCK_SIZE] the first bins, loaded already
    axis_ptr,
    stride_w,
    width,
    SHARPNESS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LOGIT_SCALE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    IS_WHOLE: tl.constexpr,  # whether the first bins are all
):
    """Value and index of the first maximum, what that is activated, and the largest probability of the softmax that a
    visibility is (if SHARPNESS is not 0), in one pass. NaN is the largest value of all."""
    EXPONENT: tl.constexpr = SHARPNESS * 1.4426950408889634
    LOGIT_EXPONENT: tl.constexpr = LOGIT_SCALE * 1.4426950408889634
    lane = tl.arange(0, BLOCK_SIZE)
    best = value
    best_start = tl.zeros([BLOCK_SIZE], dtype=tl.int32)
    total = tl.where(lane < width, 1.0, 0.0)  # of a lane's terms, with its best as 1
    logit_total = total
    if not IS_WHOLE:
        for start in range(BLOCK_SIZE, width, BLOCK_SIZE):
            value = _load_bins(axis_ptr, stride_w, width, start, BLOCK_SIZE)
            best_start = tl.where(value > best, start, best_start)
            better = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
            if SHARPNESS != 0.0:
                total = _merged(total, best, value, better, start + lane < width, EXPONENT)
            if ACTIVATION == "softmax":
                logit_total = _merged(logit_total, best, value, better, start + lane < width, LOGIT_EXPONENT)
            best = better
    peak, index = first_maximum(best, best_start + lane, 0x7FFFFFFF)
    probability = 0.0
    if SHARPNESS != 0.0:
        # Rounded: one bin alone has all of it, and none has more.
        probability = tl.div_rn(1.0, tl.sum(total * _term(best, peak, EXPONENT), axis=0))
    score = peak
    if ACTIVATION == "softmax":
        # The same for every thread: whether a clip may bind depends on it.
        score = tl.div_rn(1.0, sum_of_products(logit_total, _term(best, peak, LOGIT_EXPONENT)))
        # Bins of -inf have no probability, even if there are no others.
        score = tl.where(peak == float("-inf"), 0.0, score)
    elif ACTIVATION == "sigmoid":
        score = _sigmoid(peak, LOGIT_SCALE)
    return peak, index, score, probability


@triton.jit
def _read_bins(
    axis_ptr,
    stride_w,
    width,
    seen,
    largest,  # of the axis
    score,  # what that is activated
    ACTIVATION: tl.constexpr,
    LOGIT_SCALE: tl.constexpr,
):
    """Bins as a blur sees them: activated, with zeros beyond the ends."""
    EXPONENT: tl.constexpr = LOGIT_SCALE * 1.4426950408889634
    pointers = axis_ptr + seen.to(tl.int64) * stride_w
    exists = (seen >= 0) & (seen < width)
    value = tl.load(pointers, mask=exists, other=0.0).to(tl.float32)
    if ACTIVATION == "softmax":
        value = tl.where(exists, _term(value, largest, EXPONENT) * score, 0.0)
    elif ACTIVATION == "sigmoid":
        value = tl.where(exists, _sigmoid(value, LOGIT_SCALE), 0.0)
    return value


@triton.jit
def _blurred_maximum(
    axis_ptr,
    stride_w,
    width,
    largest_bin,
    score,
    ACTIVATION: tl.constexpr,
    LOGIT_SCALE: tl.constexpr,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """The largest value of the whole blurred axis."""
    BLOCK_SIZE: tl.constexpr = 256
    lane = tl.arange(0, BLOCK_SIZE)
    largest = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    # Farther there are no bins. And of a loop whose end the compiler knew it would make one long line of code.
    farthest = tl.minimum(width - 1, RADIUS)
    for start in range(0, width, BLOCK_SIZE):
        blurred = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
        for place in range(0, 2 * farthest + 1):
            seen = start + lane + (place - farthest)
            value = _read_bins(axis_ptr, stride_w, width, seen, largest_bin, score, ACTIVATION, LOGIT_SCALE)
            distance = tl.full([1], 0, dtype=tl.int32) + (place - farthest)
            weight = tap_weight(distance, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
            blurred += weight * tl.maximum(value, -LARGEST)
        largest = tl.maximum(largest, tl.where(start + lane < width, blurred, float("-inf")))
    return tl.max(largest, axis=0)


@triton.jit
def _blurred_bin(
    window,  # [WINDOW] half of the distances of bins from the peak
    distance,  # [WINDOW] of the bins from the one that is wanted
    peak,
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    weight = tap_weight(distance, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)
    return peak + 2.0 * sum_of_products(window, weight)


@triton.jit
def _clipped(value, scale):
    return tl.minimum(tl.maximum(value * scale, CLIP_MIN), CLIP_MAX)


@triton.jit
def _dark_step(
    axis_ptr,
    stride_w,
    width,
    index,
    largest,  # of the axis
    peak,  # what that is activated
    is_valid,
    ACTIVATION: tl.constexpr,
    LOGIT_SCALE: tl.constexpr,
    WINDOW: tl.constexpr,  # a power of two, more than 2 (RADIUS + REACH)
    RADIUS: tl.constexpr,
    EXPONENT: tl.constexpr,
    TAP_0: tl.constexpr,
    TAP_1: tl.constexpr,
    TAP_2: tl.constexpr,
    TAP_3: tl.constexpr,
    TAP_4: tl.constexpr,
):
    """What to subtract from the index of a peak to get to the maximum of the log of the smoothed axis."""
    column = tl.arange(0, WINDOW) - (RADIUS + REACH)
    window = _read_bins(axis_ptr, stride_w, width, index + column, largest, peak, ACTIVATION, LOGIT_SCALE)
    # What is blurred is the distance from the peak: the flatter the axis, the smaller are the sums and their rounding.
    # Half of it, which can't overflow.
    window = 0.5 * tl.maximum(window, -LARGEST) - 0.5 * peak
    # Beyond an end of the axis the log of the end itself is repeated.
    last = width - 1 - index
    after = _blurred_bin(
        window, column - tl.minimum(last, 1), peak, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4
    )
    after_2 = _blurred_bin(
        window, column - tl.minimum(last, 2), peak, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4
    )
    before = _blurred_bin(
        window, column + tl.minimum(index, 1), peak, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4
    )
    before_2 = _blurred_bin(
        window, column + tl.minimum(index, 2), peak, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4
    )
    center = _blurred_bin(window, column, peak, RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4)

    scale = 1.0
    is_refinable = is_valid & (largest < float("inf"))
    lowest = tl.minimum(tl.minimum(tl.minimum(before, before_2), tl.minimum(after, after_2)), center)
    needs_scale = is_refinable & clip_may_bind(lowest, peak, CLIP_MIN, CLIP_MAX)
    if needs_scale:
        blurred = _blurred_maximum(
            axis_ptr, stride_w, width, largest, peak, ACTIVATION, LOGIT_SCALE,
            RADIUS, EXPONENT, TAP_0, TAP_1, TAP_2, TAP_3, TAP_4,
        )  # fmt: skip
        scale = tl.where(blurred > 0, peak / blurred, 1.0)

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
    visibility_ptr,  # [B, K], if X_SHARPNESS is not 0
    simcc_x_ptr,  # [B, K, Wx]
    simcc_x_stride_b,
    simcc_x_stride_k,
    simcc_x_stride_w,
    simcc_y_ptr,  # [B, K, Wy]
    simcc_y_stride_b,
    simcc_y_stride_k,
    simcc_y_stride_w,
    num_keypoints,
    x_width,
    y_width,
    SPLIT_RATIO: tl.constexpr,
    MEAN_SCORE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    LOGIT_SCALE: tl.constexpr,
    DARK: tl.constexpr,
    X_BLOCK_SIZE: tl.constexpr,
    X_IS_WHOLE: tl.constexpr,
    X_SHARPNESS: tl.constexpr,
    X_WINDOW: tl.constexpr,
    X_RADIUS: tl.constexpr,
    X_EXPONENT: tl.constexpr,
    X_TAP_0: tl.constexpr,
    X_TAP_1: tl.constexpr,
    X_TAP_2: tl.constexpr,
    X_TAP_3: tl.constexpr,
    X_TAP_4: tl.constexpr,
    Y_BLOCK_SIZE: tl.constexpr,
    Y_IS_WHOLE: tl.constexpr,
    Y_SHARPNESS: tl.constexpr,
    Y_WINDOW: tl.constexpr,
    Y_RADIUS: tl.constexpr,
    Y_EXPONENT: tl.constexpr,
    Y_TAP_0: tl.constexpr,
    Y_TAP_1: tl.constexpr,
    Y_TAP_2: tl.constexpr,
    Y_TAP_3: tl.constexpr,
    Y_TAP_4: tl.constexpr,
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
    x_ptr = simcc_x_ptr + batch * simcc_x_stride_b + keypoint * simcc_x_stride_k
    y_ptr = simcc_y_ptr + batch * simcc_y_stride_b + keypoint * simcc_y_stride_k

    # Both axes are under way before anything waits for one.
    x_values = _load_bins(x_ptr, simcc_x_stride_w, x_width, 0, X_BLOCK_SIZE)
    y_values = _load_bins(y_ptr, simcc_y_stride_w, y_width, 0, Y_BLOCK_SIZE)
    x_largest, x, x_peak, x_probability = _scan_axis(
        x_values, x_ptr, simcc_x_stride_w, x_width, X_SHARPNESS, ACTIVATION, LOGIT_SCALE, X_BLOCK_SIZE, X_IS_WHOLE
    )
    y_largest, y, y_peak, y_probability = _scan_axis(
        y_values, y_ptr, simcc_y_stride_w, y_width, Y_SHARPNESS, ACTIVATION, LOGIT_SCALE, Y_BLOCK_SIZE, Y_IS_WHOLE
    )
    if MEAN_SCORE:
        score = 0.5 * x_peak + 0.5 * y_peak  # halved before the sum, which could overflow
    else:
        score = tl.minimum(x_peak, y_peak, propagate_nan=tl.PropagateNan.ALL)
    # A NaN is not above anything.
    if ACTIVATION == "none":
        is_valid = score > 0
    else:
        is_valid = (x_largest > float("-inf")) & (y_largest > float("-inf"))

    # Around a NaN bins are read as well; whatever comes of them is not stored.
    x_coord = x.to(tl.float32)
    y_coord = y.to(tl.float32)
    if DARK:
        x_coord -= _dark_step(
            x_ptr, simcc_x_stride_w, x_width, x, x_largest, x_peak, is_valid, ACTIVATION, LOGIT_SCALE, X_WINDOW,
            X_RADIUS, X_EXPONENT, X_TAP_0, X_TAP_1, X_TAP_2, X_TAP_3, X_TAP_4,
        )  # fmt: skip
        y_coord -= _dark_step(
            y_ptr, simcc_y_stride_w, y_width, y, y_largest, y_peak, is_valid, ACTIVATION, LOGIT_SCALE, Y_WINDOW,
            Y_RADIUS, Y_EXPONENT, Y_TAP_0, Y_TAP_1, Y_TAP_2, Y_TAP_3, Y_TAP_4,
        )  # fmt: skip
    split_ratio = tl.full([], SPLIT_RATIO, dtype=tl.float32)
    tl.store(coords_ptr + keypoint_index * 2, tl.where(is_valid, tl.div_rn(x_coord, split_ratio), INVALID))
    tl.store(coords_ptr + keypoint_index * 2 + 1, tl.where(is_valid, tl.div_rn(y_coord, split_ratio), INVALID))
    tl.store(scores_ptr + keypoint_index, score)
    if X_SHARPNESS != 0.0:
        visibility = tl.minimum(x_probability, y_probability, propagate_nan=tl.PropagateNan.ALL)
        tl.store(visibility_ptr + keypoint_index, visibility)


# Axes of up to so many bins are held in registers whole, as those of networks are: both are under way at once, and
# nothing is carried from block to block.
_MOST_WHOLE = 2048
_BLOCK_SIZE = 1024


def launch_shape(x_width: int, y_width: int) -> dict[str, int]:
    """How a program goes about two axes of that many bins.

    A warp holds 512 bins of each, 16 a thread, and half as many of axes that it has to walk along.
    """
    shape: dict[str, int] = {}
    num_warps = 1
    for axis, width in (("X", x_width), ("Y", y_width)):
        is_whole = width <= _MOST_WHOLE
        block_size = max(triton.next_power_of_2(width), 16) if is_whole else _BLOCK_SIZE
        num_warps = max(num_warps, block_size // (512 if is_whole else 256))
        shape |= {f"{axis}_BLOCK_SIZE": block_size, f"{axis}_IS_WHOLE": is_whole}
    return {**shape, "num_warps": num_warps}


@functools.lru_cache(maxsize=64)
def _axis_constants(axis: str, taps: tuple[float, ...] | None, sharpness: float) -> dict[str, Any]:
    """The constexprs of one axis, by name."""
    taps = taps or (1.0,)
    constants = {
        "SHARPNESS": sharpness,
        "WINDOW": max(16, triton.next_power_of_2(2 * (len(taps) - 1 + REACH.value) + 1)),
        **tap_constants(taps),
    }
    return {f"{axis}_{name}": value for name, value in constants.items()}


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
        tensors = (coords, scores, visibility, simcc_x, simcc_y)
        options = (taps_x, taps_y, sharpness_x, sharpness_y, split_ratio, mean_score, activation, logit_scale)
        axes = ((axis.dtype, axis.shape, axis.stride()) for axis in (simcc_x, simcc_y))
        key = launch_key(_decode_simcc_fwd_kernel, tensors, simcc_x.device, *axes, options)
        if launch_again(key, tensors):
            return
        batch, num_keypoints, x_width = simcc_x.shape
        y_width = simcc_y.shape[2]
        launch(
            _decode_simcc_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (*tensors[:4], *simcc_x.stride(), simcc_y, *simcc_y.stride(), num_keypoints, x_width, y_width),
            {
                "SPLIT_RATIO": split_ratio,
                "MEAN_SCORE": mean_score,
                "ACTIVATION": activation,
                "LOGIT_SCALE": logit_scale,
                "DARK": taps_x is not None,
                **launch_shape(x_width, y_width),
                **_axis_constants("X", taps_x, sharpness_x),
                **_axis_constants("Y", taps_y, sharpness_y),
                **register_limit(96),
            },
            key,
        )
