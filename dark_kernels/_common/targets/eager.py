"""Target maps as products of rows and columns, for CPU and for any device without Triton.

Two exponentials for each row and column of a map instead of one for each pixel; the maps themselves are made a block at
a time, which stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Pixels of the maps that are made at once. On a device without Triton kernels launches cost more than memory.
_BLOCK, _BLOCK_ON_DEVICE = 2**18, 2**24


class Targets(NamedTuple):
    """Target maps in factors: the map of a keypoint is the largest over people of row times column."""

    rows: Tensor  # [B, N, K, H]
    columns: Tensor  # [B, N, K, W]
    weight: Tensor  # [B, K], 0 where nothing is drawn


def make_targets(
    keypoints: Tensor,  # [B, N, K, 2]
    size: tuple[int, int],
    sigma: float,
    sigmas: Tensor | None,  # [K], in place of `sigma`
    encoding: str,
    visible: Tensor | None,  # [B, N, K]
    dtype: torch.dtype,
) -> Targets:
    """The targets of a batch, in factors of `dtype`. N is at least 1."""
    height, width = size
    keypoints = keypoints.to(dtype)
    spread = keypoints.new_full((1,), sigma) if sigmas is None else sigmas.to(dtype)
    is_spread = spread > 0
    spread = torch.where(is_spread, spread, 1.0)
    radius = 3 * spread
    is_windowed = encoding != "unbiased"
    windows = []
    is_drawn = is_spread.expand(keypoints.shape[:-1])
    for axis, pixels in ((1, height), (0, width)):
        center = keypoints[..., axis]
        pixel = (center + 0.5).trunc_() if is_windowed else center
        first, end = pixel - radius, pixel + radius + 1
        if is_windowed:
            first, end = first.trunc_(), end.trunc_()
        is_drawn = is_drawn & (first < pixels) & (end >= 0)  # not for a NaN
        windows.append((pixel if encoding == "biased" else center, first, end))
    if visible is not None:
        is_drawn = is_drawn & (visible >= 0.5)

    exponent = (-0.5 / (spread * spread))[:, None]
    factors = []
    for (center, first, end), pixels in zip(windows, size, strict=True):
        pixel = torch.arange(pixels, dtype=dtype, device=keypoints.device)
        distance = pixel - torch.where(is_drawn, center, 0.0)[..., None]
        values = distance.mul_(distance).mul_(exponent).exp_()
        if is_windowed:
            values = torch.where((pixel >= first[..., None]) & (pixel < end[..., None]), values, 0.0)
        factors.append(values)
    rows, columns = factors
    weight = is_drawn.to(dtype) if visible is None else torch.where(is_drawn, visible.to(dtype).clamp(max=1), 0.0)
    return Targets(torch.where(is_drawn[..., None], rows, 0.0), columns, weight.amax(1))


def draw(targets: Targets, images: slice, keypoints: slice) -> Tensor:
    """The maps of some images and keypoints: [b, k, H, W], new."""
    rows, columns = targets.rows[images, :, keypoints], targets.columns[images, :, keypoints]
    maps = rows[:, 0, :, :, None] * columns[:, 0, :, None, :]
    for person in range(1, rows.shape[1]):
        torch.maximum(maps, rows[:, person, :, :, None] * columns[:, person, :, None, :], out=maps)
    return maps


def subtract(
    maps: Tensor,  # [b, k, H, W]
    targets: Targets,
    images: slice,
    keypoints: slice,
    out: Tensor | None = None,
) -> Tensor:
    """The maps of some images and keypoints minus their targets; new, or in `out`."""
    if targets.rows.shape[1] > 1:
        return torch.sub(maps, draw(targets, images, keypoints), out=out)
    rows, columns = targets.rows[images, 0, keypoints], targets.columns[images, 0, keypoints]
    return torch.addcmul(maps, rows[..., :, None], columns[..., None, :], value=-1, out=out)


def blocks(maps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of keypoints that cover [B, K, H, W], each about as large as a cache."""
    batch, num_keypoints, height, width = maps.shape
    most = max(1, (_BLOCK if maps.device.type == "cpu" else _BLOCK_ON_DEVICE) // (height * width))
    images, keypoints = max(1, most // num_keypoints), min(most, num_keypoints)
    for first_image in range(0, batch, images):
        for first_keypoint in range(0, num_keypoints, keypoints):
            yield slice(first_image, first_image + images), slice(first_keypoint, first_keypoint + keypoints)


def keypoint_weight(targets: Targets, weight: Tensor | None, keeps_empty: bool) -> Tensor:
    """Weight of the loss of each map [B, K], 0 where it is ignored."""
    counted = targets.weight
    if keeps_empty:
        counted = torch.where(counted > 0, counted, 1.0)
    if weight is None:
        return counted
    weight = weight.to(counted.dtype)
    return torch.where(weight > 0, weight * counted, 0.0)  # a NaN is not above 0
