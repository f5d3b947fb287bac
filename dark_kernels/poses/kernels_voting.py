"""Votes of samples as a Triton kernel, and its launcher."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import launch, on_device_of
from .._triton.registers import register_limit
from .._triton.sums import sum_of_products


class Samples(NamedTuple):
    """Samples of all keypoints, or of one."""

    ptr: Any  # [B, K, S, 2], or [S, 2]
    stride_b: Any
    stride_k: Any
    stride_s: Any
    stride_c: Any


class Maps(NamedTuple):
    """Heatmaps of all keypoints, or of one."""

    ptr: Any  # [B, K, H, W], or [H, W]
    stride_b: Any
    stride_k: Any
    stride_h: Any
    stride_w: Any
    height: Any
    width: Any


class Moments(NamedTuple):
    """The weight, the mean and the covariance of a group of votes."""

    weight: Any
    x: Any
    y: Any
    xx: Any
    xy: Any
    yy: Any


@triton.jit
def _load_samples(samples, first, num_samples, BLOCK_SIZE: tl.constexpr):
    """Load samples: x, y and a mask of those that exist and are finite. Others are 0."""
    INFINITY: tl.constexpr = float("inf")
    index = (first + tl.arange(0, BLOCK_SIZE)).to(tl.int64)
    exists = index < num_samples
    sample_ptr = samples.ptr + index * samples.stride_s
    x = tl.load(sample_ptr, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(sample_ptr + samples.stride_c, mask=exists, other=0.0).to(tl.float32)
    valid = exists & (tl.abs(x) < INFINITY) & (tl.abs(y) < INFINITY)
    return tl.where(valid, x, 0.0), tl.where(valid, y, 0.0), valid


# exp(-d^2 / 2) is 2^-(d * this)^2.
_ROOT_HALF_LOG2_E = (0.5 / math.log(2)) ** 0.5
# For infinitely far to be so.
_LEAST_SCALE = 2.0**-126


@triton.jit
def _pixel(maps, row, column, share):
    """Weigh a pixel with its share in the value between pixels. Without a share it is not read."""
    counts = (share > 0) & (row >= 0) & (row < maps.height) & (column >= 0) & (column < maps.width)
    offset = row.to(tl.int64) * maps.stride_h + column.to(tl.int64) * maps.stride_w
    value = tl.load(maps.ptr + offset, mask=counts, other=0.0).to(tl.float32)
    return tl.where(counts, share * value, 0.0)


@triton.jit
def _bilinear(maps, x, y, valid):
    """Read a keypoint's map between its pixels, 0 beyond its border."""
    inside = valid & (x > -1) & (x < maps.width) & (y > -1) & (y < maps.height)
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    left = tl.floor(x)
    top = tl.floor(y)
    right_share = x - left
    below_share = y - top
    left_share = 1.0 - right_share
    above_share = tl.where(inside, 1.0 - below_share, 0.0)
    below_share = tl.where(inside, below_share, 0.0)
    column = left.to(tl.int32)
    row = top.to(tl.int32)
    value = _pixel(maps, row, column, above_share * left_share)
    value += _pixel(maps, row, column + 1, above_share * right_share)
    value += _pixel(maps, row + 1, column, below_share * left_share)
    value += _pixel(maps, row + 1, column + 1, below_share * right_share)
    return value


@triton.jit
def _density(samples, x, y, num_samples, scale, OTHER_SIZE: tl.constexpr):
    """Estimate the density of all samples of a keypoint at some of them."""
    weight = tl.zeros(x.shape, dtype=tl.float32)
    for first in range(0, num_samples, OTHER_SIZE):
        other_x, other_y, other_valid = _load_samples(samples, first, num_samples, OTHER_SIZE)
        other_x = tl.where(other_valid, other_x, float("inf"))  # what does not exist is infinitely far
        across = (x[None, :] - other_x[:, None]) * scale
        down = (y[None, :] - other_y[:, None]) * scale
        weight += tl.sum(tl.exp2(-(across * across + down * down)), axis=0)  # in a thread, not over lanes
    return weight / num_samples


@triton.jit
def _moments_of(weight, x, y):
    """Reduce a block of votes to `Moments`. It may be that none counts."""
    total = tl.sum(weight, axis=0)
    # Rounded, for the only vote to have a share of 1, and a group without others before it as well.
    share = tl.div_rn(weight, tl.where(total > 0, total, 1.0))
    mean_x = sum_of_products(share, x)
    mean_y = sum_of_products(share, y)
    from_x = x - mean_x
    from_y = y - mean_y
    xx = sum_of_products(share * from_x, from_x)
    xy = sum_of_products(share * from_x, from_y)
    yy = sum_of_products(share * from_y, from_y)
    return Moments(total, mean_x, mean_y, xx, xy, yy)


@triton.jit
def _joined(rest, block):
    """Join two groups: their covariances by their shares, and the distance of their means."""
    total = rest.weight + block.weight
    of_block = tl.where(block.weight > 0, tl.div_rn(block.weight, total), 0.0)
    of_rest = 1.0 - of_block
    between_x = block.x - rest.x
    between_y = block.y - rest.y
    return Moments(
        total,
        rest.x + of_block * between_x,
        rest.y + of_block * between_y,
        of_rest * (rest.xx + of_block * between_x * between_x) + of_block * block.xx,
        of_rest * (rest.xy + of_block * between_x * between_y) + of_block * block.xy,
        of_rest * (rest.yy + of_block * between_y * between_y) + of_block * block.yy,
    )


@triton.jit(do_not_specialize=["num_keypoints", "num_samples"])
def _vote_fwd_kernel(
    coords_ptr,  # [B, K, 2], contiguous
    scores_ptr,  # [B, K], contiguous
    covariances_ptr,  # [B, K, 2, 2], contiguous
    samples,  # Samples
    maps,  # Maps, or None
    scale,  # of distances, for the density, or None: without maps all weights are 1 then
    num_keypoints,
    num_samples,
    BLOCK_SIZE: tl.constexpr,
    OTHER_SIZE: tl.constexpr,
):
    """Count the votes of one keypoint, BLOCK_SIZE at a time; moments of a block join those so far.

    Must read 8 bytes (float32) a sample and the pixels around them, and write 28 a keypoint. With heatmaps it reads
    each sample once and four pixels for it, which its neighbours read as well. A density reads the samples once more
    for each block of them, from cache, and nothing of S x S numbers is stored.
    """
    batch = (tl.program_id(0) // num_keypoints).to(tl.int64)
    keypoint = (tl.program_id(0) % num_keypoints).to(tl.int64)
    samples_ptr = samples.ptr + batch * samples.stride_b + keypoint * samples.stride_k
    samples = Samples(samples_ptr, samples.stride_b, samples.stride_k, samples.stride_s, samples.stride_c)
    if maps is not None:
        map_ptr = maps.ptr + batch * maps.stride_b + keypoint * maps.stride_k
        maps = Maps(map_ptr, maps.stride_b, maps.stride_k, maps.stride_h, maps.stride_w, maps.height, maps.width)

    zero = tl.full([], 0.0, dtype=tl.float32)
    moments = Moments(zero, zero, zero, zero, zero, zero)
    for first in range(0, num_samples, BLOCK_SIZE):
        x, y, valid = _load_samples(samples, first, num_samples, BLOCK_SIZE)
        weight = tl.full([BLOCK_SIZE], 1.0, dtype=tl.float32)
        if maps is not None:
            weight = _bilinear(maps, x, y, valid)
        elif scale is not None:
            weight = _density(samples, x, y, num_samples, scale, OTHER_SIZE)
        weight = tl.where(valid & (weight > 0) & (weight < float("inf")), weight, 0.0)
        moments = _joined(moments, _moments_of(weight, x, y))

    NOBODY: tl.constexpr = float("nan")
    voted = moments.weight > 0
    program = tl.program_id(0).to(tl.int64)
    tl.store(scores_ptr + program, tl.div_rn(moments.weight, num_samples.to(tl.float32)))
    tl.store(coords_ptr + 2 * program, tl.where(voted, moments.x, NOBODY))
    tl.store(coords_ptr + 2 * program + 1, tl.where(voted, moments.y, NOBODY))
    covariances_ptr += 4 * program
    xy = tl.where(voted, moments.xy, NOBODY)
    tl.store(covariances_ptr, tl.where(voted, moments.xx, NOBODY))
    tl.store(covariances_ptr + 1, xy)
    tl.store(covariances_ptr + 2, xy)
    tl.store(covariances_ptr + 3, tl.where(voted, moments.yy, NOBODY))


# --- launcher ----------------------------------------------------------------------------------------------


def vote_shape(num_samples: int, weights: str) -> dict[str, int]:
    """Choose BLOCK_SIZE, OTHER_SIZE and num_warps: four samples a thread at most, of a density two, which meet four
    others at a time."""
    is_density = weights == "density"
    block_size = min(128 if is_density else 256, max(32, triton.next_power_of_2(num_samples)))
    num_warps = max(1, block_size // (64 if is_density else 128))
    return {"BLOCK_SIZE": block_size, "OTHER_SIZE": 4, "num_warps": num_warps}


def vote_fwd(
    coords: Tensor,  # [B, K, 2]
    scores: Tensor,  # [B, K]
    covariances: Tensor,  # [B, K, 2, 2]
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None,  # [B, K, H, W]
    bandwidth: float | None,
) -> None:
    """Fill the outputs (float32, contiguous)."""
    batch, num_keypoints, num_samples, _ = samples.shape
    weights = "heatmap" if heatmaps is not None else "none" if bandwidth is None else "density"
    with on_device_of(samples):
        launch(
            _vote_fwd_kernel,
            (batch * num_keypoints, 1, 1),
            (
                coords,
                scores,
                covariances,
                Samples(samples, *samples.stride()),
                None if heatmaps is None else Maps(heatmaps, *heatmaps.stride(), *heatmaps.shape[2:]),
                None if bandwidth is None else max(_ROOT_HALF_LOG2_E / bandwidth, _LEAST_SCALE),
                num_keypoints,
                num_samples,
            ),
            {**vote_shape(num_samples, weights), **register_limit("vote")},
        )
