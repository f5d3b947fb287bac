"""Votes of samples as a Triton kernel, and its launcher."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import on_device_of, register_limit
from .._triton.sums import sum_of_products


@triton.jit
def _load_samples(samples_ptr, stride_s, stride_c, first, num_samples, BLOCK_SIZE: tl.constexpr):
    """x, y and whether there is such a sample and both are finite; zeros where not."""
    INFINITY: tl.constexpr = float("inf")
    index = (first + tl.arange(0, BLOCK_SIZE)).to(tl.int64)
    exists = index < num_samples
    x = tl.load(samples_ptr + index * stride_s, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(samples_ptr + index * stride_s + stride_c, mask=exists, other=0.0).to(tl.float32)
    valid = exists & (tl.abs(x) < INFINITY) & (tl.abs(y) < INFINITY)
    return tl.where(valid, x, 0.0), tl.where(valid, y, 0.0), valid


@triton.jit
def _pixel(heatmap_ptr, stride_h, stride_w, height, width, row, column, share):
    """What a pixel adds to the value between it and others; one without a share is not looked at."""
    counts = (share > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    value = tl.load(heatmap_ptr + offset, mask=counts, other=0.0).to(tl.float32)
    return tl.where(counts, share * value, 0.0)


@triton.jit
def _bilinear(heatmap_ptr, stride_h, stride_w, height, width, x, y, valid):
    """The map between its pixels, 0 beyond its border."""
    inside = valid & (x > -1) & (x < width) & (y > -1) & (y < height)
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
    value = _pixel(heatmap_ptr, stride_h, stride_w, height, width, row, column, above_share * left_share)
    value += _pixel(heatmap_ptr, stride_h, stride_w, height, width, row, column + 1, above_share * right_share)
    value += _pixel(heatmap_ptr, stride_h, stride_w, height, width, row + 1, column, below_share * left_share)
    value += _pixel(heatmap_ptr, stride_h, stride_w, height, width, row + 1, column + 1, below_share * right_share)
    return value


@triton.jit(do_not_specialize=["num_keypoints", "num_samples"])
def _vote_fwd_kernel(
    coords_ptr,  # [B, K, 2], contiguous
    scores_ptr,  # [B, K], contiguous
    covariances_ptr,  # [B, K, 2, 2], contiguous
    samples_ptr,  # [B, K, S, 2]
    samples_stride_b,
    samples_stride_k,
    samples_stride_s,
    samples_stride_c,
    heatmaps_ptr,  # [B, K, H, W]
    heatmaps_stride_b,
    heatmaps_stride_k,
    heatmaps_stride_h,
    heatmaps_stride_w,
    num_keypoints,
    num_samples,
    height,
    width,
    scale,  # of distances, for the density
    BLOCK_SIZE: tl.constexpr,
    OTHER_SIZE: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    """The votes of one keypoint, BLOCK_SIZE at a time; mean and covariance of a block join those so far.

    Must read 8 bytes (float32) a sample and the pixels around them, and write 28 a keypoint. With heatmaps it reads
    each sample once and four pixels for it, which its neighbours read as well. A density reads the samples once more
    for each block of them, from cache, and nothing of S x S numbers is stored.
    """
    batch = (tl.program_id(0) // num_keypoints).to(tl.int64)
    keypoint = (tl.program_id(0) % num_keypoints).to(tl.int64)
    samples_ptr += batch * samples_stride_b + keypoint * samples_stride_k
    heatmaps_ptr += batch * heatmaps_stride_b + keypoint * heatmaps_stride_k

    total = tl.full([], 0.0, dtype=tl.float32)
    mean_x = total
    mean_y = total
    xx = total
    xy = total
    yy = total
    for first in range(0, num_samples, BLOCK_SIZE):
        x, y, valid = _load_samples(samples_ptr, samples_stride_s, samples_stride_c, first, num_samples, BLOCK_SIZE)
        weight = tl.full([BLOCK_SIZE], 1.0, dtype=tl.float32)
        if WEIGHTS == "heatmap":
            weight = _bilinear(heatmaps_ptr, heatmaps_stride_h, heatmaps_stride_w, height, width, x, y, valid)
        elif WEIGHTS == "density":
            weight = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
            for other in range(0, num_samples, OTHER_SIZE):
                other_x, other_y, other_valid = _load_samples(
                    samples_ptr, samples_stride_s, samples_stride_c, other, num_samples, OTHER_SIZE
                )
                across = (x[:, None] - other_x[None, :]) * scale
                down = (y[:, None] - other_y[None, :]) * scale
                kernel = tl.exp(-(across * across + down * down))
                weight += tl.sum(tl.where(other_valid[None, :], kernel, 0.0), axis=1)
            weight = weight / num_samples
        weight = tl.where(valid & (weight > 0) & (weight < float("inf")), weight, 0.0)

        block_total = tl.sum(weight, axis=0)
        # Rounded, for the only vote to have a share of 1, and a group without others before it as well.
        share = tl.div_rn(weight, tl.where(block_total > 0, block_total, 1.0))
        block_x = sum_of_products(share, x)
        block_y = sum_of_products(share, y)
        from_x = x - block_x
        from_y = y - block_y
        # Two groups of votes: their covariances by their shares, and what lies between their means.
        total += block_total
        of_block = tl.where(block_total > 0, tl.div_rn(block_total, total), 0.0)
        of_rest = 1.0 - of_block
        between_x = block_x - mean_x
        between_y = block_y - mean_y
        mean_x += of_block * between_x
        mean_y += of_block * between_y
        xx = of_rest * (xx + of_block * between_x * between_x) + of_block * sum_of_products(share * from_x, from_x)
        xy = of_rest * (xy + of_block * between_x * between_y) + of_block * sum_of_products(share * from_x, from_y)
        yy = of_rest * (yy + of_block * between_y * between_y) + of_block * sum_of_products(share * from_y, from_y)

    NOBODY: tl.constexpr = float("nan")
    voted = total > 0
    program = tl.program_id(0).to(tl.int64)
    tl.store(scores_ptr + program, tl.div_rn(total, num_samples.to(tl.float32)))
    tl.store(coords_ptr + 2 * program, tl.where(voted, mean_x, NOBODY))
    tl.store(coords_ptr + 2 * program + 1, tl.where(voted, mean_y, NOBODY))
    xy = tl.where(voted, xy, NOBODY)
    tl.store(covariances_ptr + 4 * program, tl.where(voted, xx, NOBODY))
    tl.store(covariances_ptr + 4 * program + 1, xy)
    tl.store(covariances_ptr + 4 * program + 2, xy)
    tl.store(covariances_ptr + 4 * program + 3, tl.where(voted, yy, NOBODY))


# --- launcher ----------------------------------------------------------------------------------------------


def vote_shape(num_samples: int, weights: str) -> dict[str, int]:
    """BLOCK_SIZE, OTHER_SIZE and num_warps: four samples a thread at most, 16 pairs of a density."""
    block_size = min(128 if weights == "density" else 256, max(32, triton.next_power_of_2(num_samples)))
    num_warps = max(1, block_size // (32 if weights == "density" else 128))
    return {"BLOCK_SIZE": block_size, "OTHER_SIZE": 16, "num_warps": num_warps}


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
    # Where there are no maps, a pointer that is not read.
    maps = (samples, 0, 0, 0, 0, 1, 1) if heatmaps is None else (heatmaps, *heatmaps.stride(), *heatmaps.shape[2:])
    with on_device_of(samples):
        _vote_fwd_kernel[(batch * num_keypoints,)](
            coords,
            scores,
            covariances,
            samples,
            *samples.stride(),
            *maps[:5],
            num_keypoints,
            num_samples,
            *maps[5:],
            0.0 if bandwidth is None else 0.5**0.5 / bandwidth,
            WEIGHTS=weights,
            **vote_shape(num_samples, weights),
            **register_limit(96),
        )
