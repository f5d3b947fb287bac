"""soft_argmax in vectorised PyTorch, for CPU and for any device without Triton.

The gradient is written out by hand: one map of temporary numbers, and no softmax that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# e^-80 is nothing beside the 1 of the largest, and a CPU takes far longer over numbers that are less than normal.
_LOWEST_EXPONENT, _LOWEST_WEIGHT = -80.0, 2e-35

# Pixels that are dealt with at once on CPU, where each is passed over ten times: few enough for the cache.
_BLOCK_SIZE = 2**18


def soft_argmax_fwd(heatmaps: Tensor, beta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """coords [B, K, 2], largest values [B, K] and the sums [B, K] of what `_weights` gives, of `dtype`.

    A largest value of infinity is replaced by the largest finite number.
    """
    (batch, num_keypoints), (height, width) = heatmaps.shape[:2], heatmaps.shape[2:]
    limits = torch.finfo(dtype)
    peaks = heatmaps.amax((-2, -1)).to(dtype).clamp_(limits.min, limits.max)
    of_columns = heatmaps.new_empty((batch, num_keypoints, width), dtype=dtype)
    of_rows = heatmaps.new_empty((batch, num_keypoints, height), dtype=dtype)
    for block in _blocks(heatmaps):
        weights = _weights(heatmaps[block].to(dtype), peaks[block], beta)
        torch.sum(weights, -2, out=of_columns[block])
        torch.sum(weights, -1, out=of_rows[block])
    x, y = (torch.arange(size, dtype=dtype, device=heatmaps.device) for size in (width, height))
    totals = of_rows.sum(-1)
    coords = torch.stack([(of_columns * x).sum(-1), (of_rows * y).sum(-1)], dim=-1)
    return coords.div_(totals[..., None]), peaks, totals


def _blocks(heatmaps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and keypoints that are dealt with at once."""
    batch, num_keypoints, height, width = heatmaps.shape
    num_maps = max(1, _BLOCK_SIZE // (height * width)) if heatmaps.device.type == "cpu" else batch * num_keypoints
    images, keypoints = max(1, num_maps // max(num_keypoints, 1)), max(1, min(num_maps, num_keypoints))
    for image in range(0, batch, images):
        for keypoint in range(0, num_keypoints, keypoints):
            yield slice(image, image + images), slice(keypoint, keypoint + keypoints)


def _weights(maps: Tensor, peaks: Tensor, beta: float) -> Tensor:
    """e^(beta (map - peak)): 1 for the largest, infinities included; where all are -inf, the same next to nothing."""
    return maps.sub(peaks[..., None, None]).mul_(beta).clamp_(_LOWEST_EXPONENT, 0.0).exp_()


def soft_argmax_bwd(
    gradient: Tensor,  # [B, K, H, W]
    grad_coords: Tensor,  # [B, K, 2]
    heatmaps: Tensor,  # [B, K, H, W]
    coords: Tensor,  # [B, K, 2]
    peaks: Tensor,  # [B, K]
    totals: Tensor,  # [B, K]
    beta: float,
) -> None:
    """Fill the gradient."""
    height, width = heatmaps.shape[-2:]
    dtype, device = coords.dtype, coords.device
    # Without a finite largest value, which alone adds 1 to the total, nothing depends on the map.
    is_constant = (peaks == torch.finfo(dtype).max) | (totals < 1)
    factor = torch.where(is_constant, 0.0, beta / totals)[..., None] * grad_coords
    x, y = (torch.arange(size, dtype=dtype, device=device) for size in (width, height))
    along_x = factor[..., :1] * (x - coords[..., :1])
    along_y = factor[..., 1:] * (y - coords[..., 1:])
    for block in _blocks(heatmaps):
        weights = _weights(heatmaps[block].to(dtype), peaks[block], beta)
        weights = torch.threshold_(weights, _LOWEST_WEIGHT, 0.0)  # what is next to nothing is nothing
        slopes = along_x[block][..., None, :] + along_y[block][..., None]
        if gradient.dtype == dtype:
            torch.mul(weights, slopes, out=gradient[block])
        else:
            gradient[block] = weights.mul_(slopes)
