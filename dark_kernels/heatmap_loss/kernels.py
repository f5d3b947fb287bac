"""The heatmap losses as Triton kernels, and their launchers: one kernel forward and one backward for all of them.

A program takes some keypoints of an image, one where maps are contiguous, and walks over their pixels. Targets are
computed where they are needed. How a loss compares a pixel with its target is a constant of the kernel, LOSS.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import lanes_of, launch, on_device_of, register_limit
from .._triton.targets import EXACT_PIXELS, draw_targets, find_pixels, load_person, load_spread, weight_of_crowd
from .options import HIGHEST_PROBABILITY, LOWEST_PROBABILITY, Options

_LOWEST = tl.constexpr(LOWEST_PROBABILITY)
_HIGHEST = tl.constexpr(HIGHEST_PROBABILITY)
# What stands for the maximum of nothing: a difference from it is finite, or an infinity of the right sign.
_NO_MAXIMUM = tl.constexpr(-3.4028234663852886e38)
_LOG_2 = tl.constexpr(0.6931471805599453)


# --- a pixel -----------------------------------------------------------------------------------------------


@triton.jit
def _log1p(x):
    """log(1 + x), accurate for small x as well: the rounding of 1 + x cancels."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, x * tl.log(u) / (u - 1.0))


@triton.jit
def _power(base, exponent):
    """base^exponent of numbers that are not negative; 0^0 is 0, where it is multiplied by 0."""
    return tl.where(base == 0.0, 0.0, tl.exp2(exponent * tl.log2(base)))


@triton.jit
def _clamp(p):
    """A probability whose logarithms are finite, and a NaN where there is one."""
    return tl.where(p < _LOWEST, _LOWEST, tl.where(p > _HIGHEST, _HIGHEST, p))


@triton.jit
def _pixel_loss(heatmap, target, alpha, omega, epsilon, theta, LOSS: tl.constexpr):
    """Loss of a pixel, for losses that are sums over pixels."""
    if LOSS == "mse":
        difference = heatmap - target
        loss = difference * difference
    elif LOSS == "adaptive_wing":
        difference = tl.abs(target - heatmap)
        exponent = alpha - target
        # Above theta: the logarithm at theta, and from there the slope that it has there. A NaN is above.
        is_small = difference < theta
        power = _power(tl.where(is_small, difference, theta) / epsilon, exponent)
        slope = omega * exponent * power / (theta * (1.0 + power))
        loss = omega * _log1p(power) + tl.where(is_small, 0.0, slope * (difference - theta))
    else:
        p = _clamp(heatmap)
        distance = 1.0 - target
        distance = distance * distance
        of_positive = (1.0 - p) * (1.0 - p) * tl.log(p)
        of_negative = distance * distance * p * p * _log1p(-p)
        loss = -tl.where(target == 1.0, of_positive, of_negative)
    return loss


@triton.jit
def _pixel_slope(heatmap, target, alpha, omega, epsilon, theta, LOSS: tl.constexpr):
    """Derivative of `_pixel_loss`."""
    if LOSS == "mse":
        slope = 2.0 * (heatmap - target)
    elif LOSS == "adaptive_wing":
        difference = heatmap - target
        exponent = alpha - target
        size = tl.abs(difference)
        size = tl.where(size > theta, theta, size) / epsilon
        power = _power(size, exponent - 1.0)
        slope = (omega / epsilon) * exponent * power / (1.0 + power * size)
        # A NaN is neither above nor below zero, and stays.
        slope *= tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
    else:
        p = _clamp(heatmap)
        rest = 1.0 - p
        distance = 1.0 - target
        distance = distance * distance
        of_positive = 2.0 * rest * tl.log(p) - rest * rest / p
        of_negative = distance * distance * (p * p / rest - 2.0 * p * _log1p(-p))
        slope = tl.where(target == 1.0, of_positive, of_negative)
        slope = tl.where((heatmap < _LOWEST) | (heatmap > _HIGHEST), 0.0, slope)
    return slope


@triton.jit
def _log_middle(p, q):
    """log((p + q) / 2), and a finite number where both are 0."""
    return tl.log(tl.maximum(p + q, 1.1754943508222875e-38)) - _LOG_2


# --- many pixels -------------------------------------------------------------------------------------------


@triton.jit
def _load_pixels(
    map_ptr,  # [M]
    stride_h,
    stride_w,
    pixel,  # [P]
    row,
    column,
    mask,  # [M, P]
    OTHER: tl.constexpr,
    IS_FLAT: tl.constexpr,
):
    """Pixels of M maps: [M, P], float32."""
    if IS_FLAT:  # rows follow each other in memory
        offset = pixel.to(tl.int64) * stride_w
    else:
        offset = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    return tl.load(map_ptr[:, None] + offset[None, :], mask=mask, other=OTHER).to(tl.float32)


@triton.jit
def _keypoint_weight(
    weight,  # [M] of the targets
    weight_ptr,
    weight_stride_b,
    weight_stride_k,
    batch,
    keypoint,
    exists,
    HAS_WEIGHT: tl.constexpr,
    KEEPS_EMPTY: tl.constexpr,
):
    """What the loss of each map counts, 0 where it is ignored: [M]."""
    if KEEPS_EMPTY:
        weight = tl.where(exists & (weight == 0), 1.0, weight)
    if HAS_WEIGHT:
        pointer = weight_ptr + batch * weight_stride_b + keypoint * weight_stride_k
        given = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        weight = tl.where(given > 0, weight * given, 0.0)  # a NaN is not above 0
    return weight


@triton.jit
def _find_maps(index, num_keypoints, BLOCK_KEYPOINTS: tl.constexpr):
    """Image (int64), keypoints (int64 [M]) and whether they exist."""
    num_groups = tl.cdiv(num_keypoints, BLOCK_KEYPOINTS)
    batch = (index // num_groups).to(tl.int64)
    keypoint = (index % num_groups).to(tl.int64) * BLOCK_KEYPOINTS + tl.arange(0, BLOCK_KEYPOINTS)
    return batch, keypoint, keypoint < num_keypoints


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _heatmap_loss_fwd_kernel(
    losses_ptr,  # [B, K], contiguous
    saved_ptr,  # [B, K, NUM_SAVED], contiguous
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    keypoints_ptr,  # [B, N, K, 2]
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,  # [B, N, K]
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    sigmas_ptr,  # [K]
    sigmas_stride_k,
    num_people,
    num_keypoints,
    height,
    width,
    sigma,
    alpha,
    omega,
    epsilon,
    theta,
    BLOCK_KEYPOINTS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    LOSS: tl.constexpr,
    ENCODING: tl.constexpr,
    SQUARES_WEIGHT: tl.constexpr,
    KEEPS_EMPTY: tl.constexpr,
    NUM_SAVED: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_SIGMAS: tl.constexpr,
    SEVERAL: tl.constexpr,
    IS_SMALL: tl.constexpr,
    IS_FLAT: tl.constexpr,
):
    """Weighted losses of BLOCK_KEYPOINTS maps of an image.

    Must read each element of the maps that count once, and does: maps that are ignored are not read at all. The
    divergence needs the softmax before it can compare, so "js" walks over its map twice; the second time it comes from
    the cache.
    """
    IS_SOFTMAX: tl.constexpr = (LOSS == "cross_entropy") | (LOSS == "js")
    batch, keypoint, exists = _find_maps(tl.program_id(0), num_keypoints, BLOCK_KEYPOINTS)
    radius, exponent = load_spread(sigma, sigmas_ptr, sigmas_stride_k, keypoint, exists, HAS_SIGMAS)
    first_weight, x, y, left, right, top, bottom = load_person(
        keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c, visible_ptr,
        visible_stride_b, visible_stride_n, visible_stride_k, batch, 0, keypoint, exists, height, width, radius,
        ENCODING, HAS_VISIBLE,
    )  # fmt: skip
    weight = weight_of_crowd(
        first_weight, keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c,
        visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k, num_people, batch, keypoint, exists, height,
        width, radius, ENCODING, HAS_VISIBLE, SEVERAL,
    )  # fmt: skip
    weight = _keypoint_weight(
        weight, weight_ptr, weight_stride_b, weight_stride_k, batch, keypoint, exists, HAS_WEIGHT, KEEPS_EMPTY
    )
    counts = weight > 0
    map_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k

    num_pixels = height * width
    # Nothing where all maps of the program are ignored.
    end = tl.where(tl.max(counts.to(tl.int32), axis=0) > 0, num_pixels, 0)
    lane = tl.arange(0, BLOCK_PIXELS)
    zeros = tl.zeros([BLOCK_KEYPOINTS, BLOCK_PIXELS], dtype=tl.float32)
    total = zeros  # of the loss, or of the exponentials
    num_positives = zeros
    maximum = zeros + _NO_MAXIMUM
    target_total = zeros
    product = zeros  # of target and heatmap, less the maximum
    for start in range(0, end, BLOCK_PIXELS):
        pixel = start + lane
        row, column = find_pixels(pixel, width, IS_SMALL)
        mask = counts[:, None] & (pixel < num_pixels)[None, :]
        target = draw_targets(
            first_weight, x, y, left, right, top, bottom, keypoints_ptr, keypoints_stride_b, keypoints_stride_n,
            keypoints_stride_k, keypoints_stride_c, visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k,
            num_people, batch, keypoint, exists, height, width, radius, exponent, row, column, ENCODING, HAS_VISIBLE,
            SEVERAL,
        )  # fmt: skip
        if IS_SOFTMAX:
            heatmap = _load_pixels(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, pixel, row, column, mask, float("-inf"), IS_FLAT
            )
            target = tl.where(mask, target, 0.0)
            # Every lane has a maximum of its own, and sums relative to it.
            higher = tl.maximum(maximum, heatmap)
            total = total * tl.exp(maximum - higher) + tl.exp(heatmap - higher)
            if LOSS == "cross_entropy":
                # An infinitely unlikely pixel costs nothing where no target is.
                product -= tl.where(target_total > 0, target_total * (higher - maximum), 0.0)
                product += tl.where(target > 0, target * (heatmap - higher), 0.0)
            target_total += target
            maximum = higher
        else:
            heatmap = _load_pixels(
                map_ptr, heatmaps_stride_h, heatmaps_stride_w, pixel, row, column, mask, 0.0, IS_FLAT
            )
            loss = _pixel_loss(heatmap, target, alpha, omega, epsilon, theta, LOSS)
            total += tl.where(mask, loss, 0.0)
            if LOSS == "focal":
                num_positives += tl.where(mask & (target == 1.0), 1.0, 0.0)

    index = batch * num_keypoints + keypoint
    saved_ptr += index * NUM_SAVED
    if IS_SOFTMAX:
        top_of_map = tl.max(maximum, axis=1)
        rise = top_of_map[:, None] - maximum
        sum_of_target = tl.sum(target_total, axis=1)
        sum_of_map = tl.sum(total * tl.exp(-rise), axis=1)
        scale = tl.where(sum_of_target > 0, 1.0 / sum_of_target, 0.0)
        inverse_sum = 1.0 / sum_of_map
        if LOSS == "cross_entropy":
            product -= tl.where(target_total > 0, target_total * rise, 0.0)
            loss_of_map = tl.log(sum_of_map) - tl.sum(product, axis=1) * scale
        else:
            of_p = zeros
            of_q = zeros
            shift = tl.log(sum_of_map)
            for start in range(0, end, BLOCK_PIXELS):
                pixel = start + lane
                row, column = find_pixels(pixel, width, IS_SMALL)
                mask = counts[:, None] & (pixel < num_pixels)[None, :]
                target = draw_targets(
                    first_weight, x, y, left, right, top, bottom, keypoints_ptr, keypoints_stride_b,
                    keypoints_stride_n, keypoints_stride_k, keypoints_stride_c, visible_ptr, visible_stride_b,
                    visible_stride_n, visible_stride_k, num_people, batch, keypoint, exists, height, width, radius,
                    exponent, row, column, ENCODING, HAS_VISIBLE, SEVERAL,
                )  # fmt: skip
                heatmap = _load_pixels(
                    map_ptr, heatmaps_stride_h, heatmaps_stride_w, pixel, row, column, mask, float("-inf"), IS_FLAT
                )
                log_p = heatmap - top_of_map[:, None] - shift[:, None]
                p = tl.exp(log_p)
                q = tl.where(mask, target, 0.0) * scale[:, None]
                log_middle = _log_middle(p, q)
                of_p += tl.where(p != 0, p * (log_p - log_middle), 0.0)
                of_q += tl.where(q > 0, q * (tl.log(q) - log_middle), 0.0)
            divergence_of_p = tl.sum(of_p, axis=1)
            loss_of_map = 0.5 * (divergence_of_p + tl.sum(of_q, axis=1))
            tl.store(saved_ptr + 3, tl.where(counts, divergence_of_p, 0.0), mask=exists)
        loss_of_map = tl.where(scale > 0, loss_of_map, 0.0)
        tl.store(saved_ptr, tl.where(counts, top_of_map, 0.0), mask=exists)
        tl.store(saved_ptr + 1, tl.where(counts, inverse_sum, 0.0), mask=exists)
        tl.store(saved_ptr + 2, tl.where(counts, scale, 0.0), mask=exists)
    else:
        loss_of_map = tl.sum(total, axis=1)
        if LOSS == "focal":
            tl.store(saved_ptr, tl.sum(num_positives, axis=1), mask=exists)
        else:
            loss_of_map = loss_of_map / num_pixels
    if SQUARES_WEIGHT:
        weight = 0.5 * weight * weight
    # Not a product with 0, which would keep a NaN.
    tl.store(losses_ptr + index, tl.where(counts, loss_of_map * weight, 0.0), mask=exists)


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _heatmap_loss_bwd_kernel(
    gradient_ptr,  # [B, K, H, W], dense
    gradient_stride_b,
    gradient_stride_k,
    gradient_stride_w,  # from one pixel to the next, also where that is in the next row
    grad_loss_ptr,  # [] or [B, K]
    grad_loss_stride_b,
    grad_loss_stride_k,
    saved_ptr,  # [B, K, NUM_SAVED], contiguous
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    keypoints_ptr,  # [B, N, K, 2]
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,  # [B, N, K]
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    sigmas_ptr,  # [K]
    sigmas_stride_k,
    num_people,
    num_keypoints,
    height,
    width,
    scale,
    sigma,
    alpha,
    omega,
    epsilon,
    theta,
    BLOCK_KEYPOINTS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    LOSS: tl.constexpr,
    ENCODING: tl.constexpr,
    SQUARES_WEIGHT: tl.constexpr,
    KEEPS_EMPTY: tl.constexpr,
    NUM_SAVED: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_SIGMAS: tl.constexpr,
    SEVERAL: tl.constexpr,
    IS_SMALL: tl.constexpr,
    IS_FLAT: tl.constexpr,
):
    """BLOCK_PIXELS pixels of the gradients of BLOCK_KEYPOINTS maps of an image.

    Must read each element of the maps that count once and write each element of the gradient once, and does.
    """
    num_pixels = height * width
    num_blocks = tl.cdiv(num_pixels, BLOCK_PIXELS)
    block = tl.program_id(0) % num_blocks
    batch, keypoint, exists = _find_maps(tl.program_id(0) // num_blocks, num_keypoints, BLOCK_KEYPOINTS)
    radius, exponent = load_spread(sigma, sigmas_ptr, sigmas_stride_k, keypoint, exists, HAS_SIGMAS)
    first_weight, x, y, left, right, top, bottom = load_person(
        keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c, visible_ptr,
        visible_stride_b, visible_stride_n, visible_stride_k, batch, 0, keypoint, exists, height, width, radius,
        ENCODING, HAS_VISIBLE,
    )  # fmt: skip
    weight = weight_of_crowd(
        first_weight, keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c,
        visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k, num_people, batch, keypoint, exists, height,
        width, radius, ENCODING, HAS_VISIBLE, SEVERAL,
    )  # fmt: skip
    weight = _keypoint_weight(
        weight, weight_ptr, weight_stride_b, weight_stride_k, batch, keypoint, exists, HAS_WEIGHT, KEEPS_EMPTY
    )
    counts = weight > 0
    pixel = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    row, column = find_pixels(pixel, width, IS_SMALL)
    mask = counts[:, None] & (pixel < num_pixels)[None, :]
    map_ptr = heatmaps_ptr + batch * heatmaps_stride_b + keypoint * heatmaps_stride_k
    target = draw_targets(
        first_weight, x, y, left, right, top, bottom, keypoints_ptr, keypoints_stride_b, keypoints_stride_n,
        keypoints_stride_k, keypoints_stride_c, visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k,
        num_people, batch, keypoint, exists, height, width, radius, exponent, row, column, ENCODING, HAS_VISIBLE,
        SEVERAL,
    )  # fmt: skip
    heatmap = _load_pixels(map_ptr, heatmaps_stride_h, heatmaps_stride_w, pixel, row, column, mask, 0.0, IS_FLAT)

    if SQUARES_WEIGHT:
        weight = 0.5 * weight * weight
    pointer = grad_loss_ptr + batch * grad_loss_stride_b + keypoint * grad_loss_stride_k
    factor = weight * scale * tl.load(pointer, mask=counts, other=0.0).to(tl.float32)
    if (LOSS == "cross_entropy") | (LOSS == "js"):
        saved_ptr += (batch * num_keypoints + keypoint) * NUM_SAVED
        top_of_map = tl.load(saved_ptr, mask=counts, other=0.0)[:, None]
        inverse_sum = tl.load(saved_ptr + 1, mask=counts, other=1.0)[:, None]
        target_scale = tl.load(saved_ptr + 2, mask=counts, other=0.0)[:, None]
        log_p = heatmap - top_of_map
        p = tl.exp(log_p) * inverse_sum
        q = target * target_scale
        if LOSS == "cross_entropy":
            slope = p - q
        else:
            divergence_of_p = tl.load(saved_ptr + 3, mask=counts, other=0.0)[:, None]
            log_p += tl.log(inverse_sum)
            slope = tl.where(p == 0, 0.0, 0.5 * p * (log_p - _log_middle(p, q) - divergence_of_p))
        mask = mask & (target_scale > 0)
    else:
        slope = _pixel_slope(heatmap, target, alpha, omega, epsilon, theta, LOSS)
        if LOSS != "focal":
            factor = factor / num_pixels
    # Not a product with 0, which would keep a NaN.
    gradient = tl.where(mask, slope * factor[:, None], 0.0)

    pointers = gradient_ptr + batch * gradient_stride_b + (keypoint * gradient_stride_k)[:, None]
    pointers += (pixel.to(tl.int64) * gradient_stride_w)[None, :]
    mask = exists[:, None] & (pixel < num_pixels)[None, :]
    tl.store(pointers, gradient.to(gradient_ptr.dtype.element_ty), mask=mask)


# --- launchers ---------------------------------------------------------------------------------------------

# Bytes that a thread reads at a time, and warps a program; what decode reads its maps with.
_BYTES_A_THREAD = 32
_NUM_WARPS = 4
# More pixels a thread than these do not fit into the registers: of a softmax or of several people, and of several
# keypoints at once.
_MOST_PIXELS, _MOST_INTERLEAVED = 8, 4
_SECTOR = 32  # bytes, the least that memory gives


def launch_shape(heatmaps: Tensor, kind: str, num_people: int) -> dict[str, int]:
    """BLOCK_KEYPOINTS, BLOCK_PIXELS and num_warps: a run of pixels of one map, or of interleaved maps as many as share
    a sector."""
    _, num_keypoints, height, width = heatmaps.shape
    pixels = _BYTES_A_THREAD // heatmaps.element_size()
    if num_people > 1 or kind in ("cross_entropy", "js"):
        pixels = min(pixels, _MOST_PIXELS)
    block_keypoints = 1
    if heatmaps.stride(1) < heatmaps.stride(3):
        block_keypoints = min(_SECTOR // heatmaps.element_size(), triton.next_power_of_2(num_keypoints))
        pixels = _MOST_INTERLEAVED
    block_size = lanes_of(heatmaps.device) * _NUM_WARPS * pixels
    block_pixels = min(triton.next_power_of_2(height * width), block_size // block_keypoints)
    return {"BLOCK_KEYPOINTS": block_keypoints, "BLOCK_PIXELS": block_pixels, "num_warps": _NUM_WARPS}


def heatmap_loss_fwd(
    losses: Tensor,  # [B, K]
    saved: Tensor,  # [B, K, options.num_saved]
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    weight: Tensor | None,  # [B, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    options: Options,
) -> None:
    """Fill the weighted loss of each map, and what is saved of it (float32, contiguous)."""
    inputs, sizes, numbers, constants = _arguments(heatmaps, keypoints, visible, weight, sigmas, sigma, options)
    batch, num_keypoints = losses.shape
    grid = (batch * triton.cdiv(num_keypoints, constants["BLOCK_KEYPOINTS"]), 1, 1)
    with on_device_of(heatmaps):
        launch(_heatmap_loss_fwd_kernel, grid, [losses, saved, *inputs, *sizes, *numbers], constants)


def heatmap_loss_bwd(
    gradient: Tensor,  # [B, K, H, W]
    grad_loss: Tensor,  # [] or [B, K]
    scale: float,
    saved: Tensor,  # [B, K, options.num_saved]
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    weight: Tensor | None,  # [B, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    options: Options,
) -> None:
    """Fill the gradient, which is dense: contiguous, or [B, H, W, K] in memory. `scale` is the factor of each weighted
    loss in what `grad_loss` is the gradient of."""
    inputs, sizes, numbers, constants = _arguments(heatmaps, keypoints, visible, weight, sigmas, sigma, options)
    batch, num_keypoints, height, width = heatmaps.shape
    num_programs = batch * triton.cdiv(num_keypoints, constants["BLOCK_KEYPOINTS"])
    grid = (num_programs * triton.cdiv(height * width, constants["BLOCK_PIXELS"]), 1, 1)
    outputs = [gradient, gradient.stride(0), gradient.stride(1), gradient.stride(3)]
    outputs += [grad_loss, *(grad_loss.stride() if grad_loss.dim() else (0, 0)), saved]
    with on_device_of(heatmaps):
        launch(_heatmap_loss_bwd_kernel, grid, [*outputs, *inputs, *sizes, scale, *numbers], constants)


def _arguments(
    heatmaps: Tensor,
    keypoints: Tensor,
    visible: Tensor | None,
    weight: Tensor | None,
    sigmas: Tensor | None,
    sigma: float,
    options: Options,
) -> tuple[list[Any], list[int], list[float], dict[str, Any]]:
    """What both kernels take: tensors with their strides, sizes, numbers and constants."""
    _, num_keypoints, height, width = heatmaps.shape
    inputs: list[Any] = []
    for tensor, num_strides in ((heatmaps, 4), (keypoints, 4), (visible, 3), (weight, 2), (sigmas, 1)):
        # Where there is none, a pointer that is not read.
        inputs += [keypoints, *(0,) * num_strides] if tensor is None else [tensor, *tensor.stride()]
    constants = {
        **launch_shape(heatmaps, options.kind, keypoints.shape[1]),
        "LOSS": options.kind,
        "ENCODING": options.encoding,
        "SQUARES_WEIGHT": options.squares_weight,
        "KEEPS_EMPTY": options.keeps_empty,
        "NUM_SAVED": options.num_saved,
        "HAS_VISIBLE": visible is not None,
        "HAS_WEIGHT": weight is not None,
        "HAS_SIGMAS": sigmas is not None,
        "SEVERAL": keypoints.shape[1] > 1,
        "IS_SMALL": height * width <= EXACT_PIXELS,
        "IS_FLAT": heatmaps.stride(2) == width * heatmaps.stride(3),
    }
    if keypoints.shape[1] > 1:  # a loop in a loop, which would spill
        constants.update(register_limit(96))
    sizes = [keypoints.shape[1], num_keypoints, height, width]
    return inputs, sizes, [sigma, options.alpha, options.omega, options.epsilon, options.theta], constants
