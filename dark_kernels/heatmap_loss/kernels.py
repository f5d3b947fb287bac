"""The heatmap losses as Triton kernels, and their launchers: one kernel forward and one backward for all of them.

A program takes some keypoints of an image, one where maps are contiguous, and walks over their pixels. Targets are
computed where they are needed. How a loss compares a pixel with its target is a constant of the kernel, LOSS.KIND.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import lanes_of, launch, on_device_of
from .._triton.maps import heatmaps_of, is_flat, map_of
from .._triton.registers import register_limit
from .._triton.targets import draw_targets, find_pixels, load_keypoints, load_person, targets_of, weight_of_crowd
from .options import HIGHEST_PROBABILITY, LOWEST_PROBABILITY, Options

_LOWEST = tl.constexpr(LOWEST_PROBABILITY)
_HIGHEST = tl.constexpr(HIGHEST_PROBABILITY)
# Stands for the maximum of nothing: a difference from it is finite, or an infinity of the right sign.
_NO_MAXIMUM = tl.constexpr(-3.4028234663852886e38)
_LOG_2 = tl.constexpr(0.6931471805599453)


class Wing(NamedTuple):
    """Numbers of the adaptive wing loss. Other losses do not look at them."""

    alpha: Any
    omega: Any
    epsilon: Any
    theta: Any


class Loss(NamedTuple):
    """Way of a loss to compare and weight maps, a constant. See `Options`."""

    KIND: str
    IS_SOFTMAX: bool  # compares the softmax of a map with its target over the target's sum
    SQUARES_WEIGHT: bool
    KEEPS_EMPTY: bool
    NUM_SAVED: int


class Walk(NamedTuple):
    """A program's walk over maps, a constant."""

    BLOCK_KEYPOINTS: int
    BLOCK_PIXELS: int
    IS_FLAT: bool  # rows of a map follow each other in memory


class PerMap(NamedTuple):
    """A number for each map: [B, K]."""

    ptr: Any
    stride_b: Any
    stride_k: Any


# --- a pixel -----------------------------------------------------------------------------------------------


@triton.jit
def _log1p(x):
    """log(1 + x) for x > -1, accurate for small x as well.

    What is lost in the sum is added, over 1 + x: 1 - x is near enough, since where x is not small it does not count, or
    nothing is lost.
    """
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) * tl.maximum(1.0 - x, 0.0)


@triton.jit
def _focal_log(p, is_positive):
    """log(p) of a positive pixel, log(1 - p) of others."""
    # A logarithm takes longer than to choose what it is of: this is `_log1p`.
    rest = 1.0 - p
    lost = tl.where(is_positive, 0.0, (1.0 - rest) - p)
    return tl.log(tl.where(is_positive, p, rest)) + lost * (1.0 + p)


@triton.jit
def _power(base, exponent):
    """base^exponent of numbers that are not negative; 0^0 is 0, where it is multiplied by 0."""
    return tl.where(base == 0.0, 0.0, tl.exp2(exponent * tl.log2(base)))


@triton.jit
def _clamp(p):
    """A probability whose logarithms are finite, and a NaN where there is one."""
    return tl.where(p < _LOWEST, _LOWEST, tl.where(p > _HIGHEST, _HIGHEST, p))


@triton.jit
def _pixel_loss(heatmap, target, wing, KIND: tl.constexpr):
    """Loss of a pixel, for losses that are sums over pixels."""
    if KIND == "mse":
        difference = heatmap - target
        loss = difference * difference
    elif KIND == "adaptive_wing":
        difference = tl.abs(target - heatmap)
        exponent = wing.alpha - target
        # Above theta: the logarithm at theta, and from there the slope that it has there. A NaN is above.
        is_small = difference < wing.theta
        power = _power(tl.where(is_small, difference, wing.theta) / wing.epsilon, exponent)
        slope = wing.omega * exponent * power / (wing.theta * (1.0 + power))
        loss = wing.omega * _log1p(power) + tl.where(is_small, 0.0, slope * (difference - wing.theta))
    else:
        p = _clamp(heatmap)
        distance = 1.0 - target
        distance = distance * distance
        is_positive = target == 1.0
        factor = tl.where(is_positive, 1.0 - p, distance * p)
        loss = -factor * factor * _focal_log(p, is_positive)
    return loss


@triton.jit
def _pixel_slope(heatmap, target, wing, KIND: tl.constexpr):
    """Derivative of `_pixel_loss`."""
    if KIND == "mse":
        slope = 2.0 * (heatmap - target)
    elif KIND == "adaptive_wing":
        difference = heatmap - target
        exponent = wing.alpha - target
        size = tl.abs(difference)
        size = tl.where(size > wing.theta, wing.theta, size) / wing.epsilon
        power = _power(size, exponent - 1.0)
        slope = (wing.omega / wing.epsilon) * exponent * power / (1.0 + power * size)
        # A NaN is neither above nor below zero, and stays.
        slope *= tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
    else:
        p = _clamp(heatmap)
        rest = 1.0 - p
        distance = 1.0 - target
        distance = distance * distance
        is_positive = target == 1.0
        own = tl.where(is_positive, rest, p)
        slope = 2.0 * own * _focal_log(p, is_positive) - own * own / tl.where(is_positive, p, rest)
        slope *= tl.where(is_positive, 1.0, -distance * distance)
        slope = tl.where((heatmap < _LOWEST) | (heatmap > _HIGHEST), 0.0, slope)
    return slope


@triton.jit
def _log_middle(p, q):
    """log((p + q) / 2), and a finite number where both are 0."""
    return tl.log(tl.maximum(p + q, 1.1754943508222875e-38)) - _LOG_2


# --- many pixels -------------------------------------------------------------------------------------------


@triton.jit
def _load_pixels(maps, pixels, mask, OTHER: tl.constexpr, IS_FLAT: tl.constexpr):
    """Pixels of M maps: [M, P], float32. OTHER where masked."""
    if IS_FLAT:
        offset = pixels.index.to(tl.int64) * maps.stride_w
    else:
        offset = pixels.row.to(tl.int64) * maps.stride_h + pixels.column.to(tl.int64) * maps.stride_w
    return tl.load(maps.ptr[:, None] + offset[None, :], mask=mask, other=OTHER).to(tl.float32)


@triton.jit
def _keypoint_weight(keypoints, weight, given, KEEPS_EMPTY: tl.constexpr):
    """Weight of the loss of each map, 0 where it is ignored: [M]. From that of its target, and a `PerMap` or None."""
    exists = keypoints.exists
    if KEEPS_EMPTY:
        weight = tl.where(exists & (weight == 0), 1.0, weight)
    if given is not None:
        pointer = given.ptr + keypoints.batch * given.stride_b + keypoints.index * given.stride_k
        factor = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        weight = tl.where(factor > 0, weight * factor, 0.0)  # a NaN is not above 0
    return weight


@triton.jit
def _find_keypoints(targets, group, num_keypoints, BLOCK_KEYPOINTS: tl.constexpr):
    """Keypoints of a group, of which an image has as many as it takes."""
    num_groups = tl.cdiv(num_keypoints, BLOCK_KEYPOINTS)
    batch = (group // num_groups).to(tl.int64)
    keypoint = (group % num_groups).to(tl.int64) * BLOCK_KEYPOINTS + tl.arange(0, BLOCK_KEYPOINTS)
    return load_keypoints(targets, batch, keypoint, keypoint < num_keypoints)


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _heatmap_loss_fwd_kernel(
    losses_ptr,  # [B, K], contiguous
    saved_ptr,  # [B, K, NUM_SAVED], contiguous
    heatmaps,  # Heatmaps [B, K, H, W]
    targets,  # Targets
    given_weight,  # PerMap, or None
    wing,  # Wing
    num_people,
    num_keypoints,
    DRAWING: tl.constexpr,
    LOSS: tl.constexpr,
    WALK: tl.constexpr,
):
    """Weighted losses of BLOCK_KEYPOINTS maps of an image.

    Must read each element of the maps that count once, and does: maps that are ignored are not read at all. The
    divergence needs the softmax before it can compare, so "js" walks over its map twice; the second time it comes from
    the cache.
    """
    BLOCK_PIXELS: tl.constexpr = WALK.BLOCK_PIXELS
    keypoints = _find_keypoints(targets, tl.program_id(0), num_keypoints, WALK.BLOCK_KEYPOINTS)
    exists = keypoints.exists
    first_person = load_person(targets, keypoints, 0, DRAWING)
    weight = weight_of_crowd(targets, keypoints, first_person, num_people, DRAWING)
    weight = _keypoint_weight(keypoints, weight, given_weight, LOSS.KEEPS_EMPTY)
    counts = weight > 0
    maps = map_of(heatmaps, keypoints.batch, keypoints.index)

    num_pixels = targets.height * targets.width
    # Nothing where all maps of the program are ignored.
    end = tl.where(tl.max(counts.to(tl.int32), axis=0) > 0, num_pixels, 0)
    lane = tl.arange(0, BLOCK_PIXELS)
    zeros = tl.zeros([WALK.BLOCK_KEYPOINTS, BLOCK_PIXELS], dtype=tl.float32)
    total = zeros  # of the loss, or of the exponentials
    num_positives = zeros
    maximum = zeros + _NO_MAXIMUM
    target_total = zeros
    product = zeros  # of target and heatmap, less the maximum
    for start in range(0, end, BLOCK_PIXELS):
        pixels = find_pixels(start + lane, targets, DRAWING)
        mask = counts[:, None] & (pixels.index < num_pixels)[None, :]
        target = draw_targets(targets, keypoints, first_person, num_people, pixels, DRAWING)
        if LOSS.IS_SOFTMAX:
            heatmap = _load_pixels(maps, pixels, mask, float("-inf"), WALK.IS_FLAT)
            target = tl.where(mask, target, 0.0)
            # Every lane has a maximum of its own, and sums relative to it.
            higher = tl.maximum(maximum, heatmap)
            total = total * tl.exp(maximum - higher) + tl.exp(heatmap - higher)
            if LOSS.KIND == "cross_entropy":
                # An infinitely unlikely pixel costs nothing where no target is.
                product -= tl.where(target_total > 0, target_total * (higher - maximum), 0.0)
                product += tl.where(target > 0, target * (heatmap - higher), 0.0)
            target_total += target
            maximum = higher
        else:
            heatmap = _load_pixels(maps, pixels, mask, 0.0, WALK.IS_FLAT)
            total += tl.where(mask, _pixel_loss(heatmap, target, wing, LOSS.KIND), 0.0)
            if LOSS.KIND == "focal":
                num_positives += tl.where(mask & (target == 1.0), 1.0, 0.0)

    map_index = keypoints.batch * num_keypoints + keypoints.index
    saved_ptr += map_index * LOSS.NUM_SAVED
    if LOSS.IS_SOFTMAX:
        top_of_map = tl.max(maximum, axis=1)
        rise = top_of_map[:, None] - maximum
        sum_of_target = tl.sum(target_total, axis=1)
        sum_of_map = tl.sum(total * tl.exp(-rise), axis=1)
        scale = tl.where(sum_of_target > 0, 1.0 / sum_of_target, 0.0)
        inverse_sum = 1.0 / sum_of_map
        if LOSS.KIND == "cross_entropy":
            product -= tl.where(target_total > 0, target_total * rise, 0.0)
            loss_of_map = tl.log(sum_of_map) - tl.sum(product, axis=1) * scale
        else:
            of_p = zeros
            of_q = zeros
            shift = tl.log(sum_of_map)
            for start in range(0, end, BLOCK_PIXELS):
                pixels = find_pixels(start + lane, targets, DRAWING)
                mask = counts[:, None] & (pixels.index < num_pixels)[None, :]
                target = draw_targets(targets, keypoints, first_person, num_people, pixels, DRAWING)
                heatmap = _load_pixels(maps, pixels, mask, float("-inf"), WALK.IS_FLAT)
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
        if LOSS.KIND == "focal":
            tl.store(saved_ptr, tl.sum(num_positives, axis=1), mask=exists)
        else:
            loss_of_map = loss_of_map / num_pixels
    if LOSS.SQUARES_WEIGHT:
        weight = 0.5 * weight * weight
    # Not a product with 0, which would keep a NaN.
    tl.store(losses_ptr + map_index, tl.where(counts, loss_of_map * weight, 0.0), mask=exists)


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _heatmap_loss_bwd_kernel(
    grad_heatmaps,  # Heatmaps [B, K, H, W], dense: stride_w leads to the next row as well
    grad_losses,  # PerMap
    saved_ptr,  # [B, K, NUM_SAVED], contiguous
    heatmaps,  # Heatmaps [B, K, H, W]
    targets,  # Targets
    given_weight,  # PerMap, or None
    wing,  # Wing
    num_people,
    num_keypoints,
    scale,
    DRAWING: tl.constexpr,
    LOSS: tl.constexpr,
    WALK: tl.constexpr,
):
    """BLOCK_PIXELS pixels of the gradients of BLOCK_KEYPOINTS maps of an image.

    Must read each element of the maps that count once and write each element of the gradient once, and does.
    """
    BLOCK_PIXELS: tl.constexpr = WALK.BLOCK_PIXELS
    num_pixels = targets.height * targets.width
    num_blocks = tl.cdiv(num_pixels, BLOCK_PIXELS)
    block = tl.program_id(0) % num_blocks
    keypoints = _find_keypoints(targets, tl.program_id(0) // num_blocks, num_keypoints, WALK.BLOCK_KEYPOINTS)
    first_person = load_person(targets, keypoints, 0, DRAWING)
    weight = weight_of_crowd(targets, keypoints, first_person, num_people, DRAWING)
    weight = _keypoint_weight(keypoints, weight, given_weight, LOSS.KEEPS_EMPTY)
    counts = weight > 0
    pixels = find_pixels(block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS), targets, DRAWING)
    mask = counts[:, None] & (pixels.index < num_pixels)[None, :]
    target = draw_targets(targets, keypoints, first_person, num_people, pixels, DRAWING)
    heatmap = _load_pixels(map_of(heatmaps, keypoints.batch, keypoints.index), pixels, mask, 0.0, WALK.IS_FLAT)

    if LOSS.SQUARES_WEIGHT:
        weight = 0.5 * weight * weight
    pointer = grad_losses.ptr + keypoints.batch * grad_losses.stride_b + keypoints.index * grad_losses.stride_k
    factor = weight * scale * tl.load(pointer, mask=counts, other=0.0).to(tl.float32)
    if LOSS.IS_SOFTMAX:
        saved_ptr += (keypoints.batch * num_keypoints + keypoints.index) * LOSS.NUM_SAVED
        top_of_map = tl.load(saved_ptr, mask=counts, other=0.0)[:, None]
        inverse_sum = tl.load(saved_ptr + 1, mask=counts, other=1.0)[:, None]
        target_scale = tl.load(saved_ptr + 2, mask=counts, other=0.0)[:, None]
        log_p = heatmap - top_of_map
        p = tl.exp(log_p) * inverse_sum
        q = target * target_scale
        if LOSS.KIND == "cross_entropy":
            slope = p - q
        else:
            divergence_of_p = tl.load(saved_ptr + 3, mask=counts, other=0.0)[:, None]
            log_p += tl.log(inverse_sum)
            slope = tl.where(p == 0, 0.0, 0.5 * p * (log_p - _log_middle(p, q) - divergence_of_p))
        mask = mask & (target_scale > 0)
    else:
        slope = _pixel_slope(heatmap, target, wing, LOSS.KIND)
        if LOSS.KIND != "focal":
            factor = factor / num_pixels
    # Not a product with 0, which would keep a NaN.
    gradient = tl.where(mask, slope * factor[:, None], 0.0)

    pointers = map_of(grad_heatmaps, keypoints.batch, keypoints.index).ptr[:, None]
    pointers += (pixels.index.to(tl.int64) * grad_heatmaps.stride_w)[None, :]
    mask = keypoints.exists[:, None] & (pixels.index < num_pixels)[None, :]
    tl.store(pointers, gradient.to(grad_heatmaps.ptr.dtype.element_ty), mask=mask)


# --- launchers ---------------------------------------------------------------------------------------------

# Bytes that a thread reads at a time, and warps a program; what decode reads its maps with. A program of several
# interleaved maps has more, since there are few of them, but not so many that registers are too few.
_BYTES_A_THREAD = 32
_NUM_WARPS, _WARPS_INTERLEAVED, _FEWER_INTERLEAVED = 4, 16, 8
# More pixels a thread than these do not fit into the registers: of a softmax or of several people, and of several
# keypoints at once.
_MOST_PIXELS, _MOST_INTERLEAVED = 8, 4
_SECTOR = 32  # bytes, the least that memory gives


def launch_shape(heatmaps: Tensor, kind: str, num_people: int) -> dict[str, int]:
    """BLOCK_KEYPOINTS, BLOCK_PIXELS and num_warps: a run of pixels of one map, or of interleaved maps as many as share
    a sector."""
    _, num_keypoints, height, width = heatmaps.shape
    pixels = _BYTES_A_THREAD // heatmaps.element_size()
    takes_registers = num_people > 1 or kind in ("cross_entropy", "js")
    if takes_registers:
        pixels = min(pixels, _MOST_PIXELS)
    block_keypoints, num_warps = 1, _NUM_WARPS
    if heatmaps.stride(1) < heatmaps.stride(3):
        block_keypoints = min(_SECTOR // heatmaps.element_size(), triton.next_power_of_2(num_keypoints))
        pixels = _MOST_INTERLEAVED
        num_warps = _FEWER_INTERLEAVED if takes_registers else _WARPS_INTERLEAVED
    block_size = lanes_of(heatmaps.device) * num_warps * pixels
    block_pixels = min(triton.next_power_of_2(height * width), block_size // block_keypoints)
    return {"BLOCK_KEYPOINTS": block_keypoints, "BLOCK_PIXELS": block_pixels, "num_warps": num_warps}


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
    inputs, constants = _arguments(heatmaps, keypoints, visible, weight, sigmas, sigma, options)
    batch, num_keypoints = losses.shape
    grid = (batch * triton.cdiv(num_keypoints, constants["WALK"].BLOCK_KEYPOINTS), 1, 1)
    with on_device_of(heatmaps):
        launch(_heatmap_loss_fwd_kernel, grid, (losses, saved, *inputs), constants)


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
    inputs, constants = _arguments(heatmaps, keypoints, visible, weight, sigmas, sigma, options)
    batch, num_keypoints, height, width = heatmaps.shape
    walk = constants["WALK"]
    num_programs = batch * triton.cdiv(num_keypoints, walk.BLOCK_KEYPOINTS)
    grid = (num_programs * triton.cdiv(height * width, walk.BLOCK_PIXELS), 1, 1)
    grad_losses = PerMap(grad_loss, *(grad_loss.stride() if grad_loss.dim() else (0, 0)))
    with on_device_of(heatmaps):
        launch(_heatmap_loss_bwd_kernel, grid, (heatmaps_of(gradient), grad_losses, saved, *inputs, scale), constants)


def _arguments(
    heatmaps: Tensor,
    keypoints: Tensor,
    visible: Tensor | None,
    weight: Tensor | None,
    sigmas: Tensor | None,
    sigma: float,
    options: Options,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of both kernels, and their constants."""
    _, num_keypoints, height, width = heatmaps.shape
    num_people = keypoints.shape[1]
    targets, drawing = targets_of(keypoints, visible, sigmas, sigma, options.encoding, height, width)
    given_weight = None if weight is None else PerMap(weight, *weight.stride())
    wing = Wing(options.alpha, options.omega, options.epsilon, options.theta)
    shape = launch_shape(heatmaps, options.kind, num_people)
    constants = {
        "DRAWING": drawing,
        "LOSS": Loss(
            KIND=options.kind,
            IS_SOFTMAX=options.compares_distributions,
            SQUARES_WEIGHT=options.squares_weight,
            KEEPS_EMPTY=options.keeps_empty,
            NUM_SAVED=options.num_saved,
        ),
        "WALK": Walk(shape["BLOCK_KEYPOINTS"], shape["BLOCK_PIXELS"], is_flat(heatmaps)),
        "num_warps": shape["num_warps"],
    }
    if num_people > 1:  # a loop in a loop, which would spill
        interleaved = ", interleaved" if shape["BLOCK_KEYPOINTS"] > 1 else ""
        constants.update(register_limit(f"heatmap_loss of several people{interleaved}"))
    return (heatmaps_of(heatmaps), targets, given_weight, wing, num_people, num_keypoints), constants
