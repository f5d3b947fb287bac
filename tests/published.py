"""Published target makers, told once more in NumPy, one keypoint at a time: for the tests of `encode` and of the losses
that never draw what it draws.

Of MMPose (`generate_gaussian_heatmaps` and its unbiased and UDP siblings), which for one person does what HRNet's and
DARK's datasets do.
"""

from __future__ import annotations

import math

import numpy as np


def draw_one(keypoint: np.ndarray, size: tuple[int, int], sigma: float, encoding: str) -> tuple[np.ndarray, bool]:
    """The map [H, W] of one keypoint, and whether it counts."""
    heatmap = np.zeros(size)
    if not np.isfinite(keypoint).all():
        return heatmap, False
    height, width = size
    windows, center = [], []
    for coordinate in keypoint.tolist():
        if encoding == "unbiased":
            windows.append((coordinate - 3 * sigma, coordinate + 3 * sigma + 1))
            center.append(coordinate)
            continue
        pixel = int(coordinate + 0.5)
        windows.append((int(pixel - 3 * sigma), int(pixel + 3 * sigma + 1)))
        center.append(pixel if encoding == "biased" else coordinate)
    (left, right), (top, bottom) = windows
    if left >= width or top >= height or right < 0 or bottom < 0:
        return heatmap, False
    if encoding == "unbiased":
        left, right, top, bottom = 0, width, 0, height
    for y in range(max(top, 0), min(bottom, height)):
        for x in range(max(left, 0), min(right, width)):
            square = (x - center[0]) ** 2 + (y - center[1]) ** 2
            heatmap[y, x] = math.exp(-square / (2 * sigma**2))
    return heatmap, True


def draw(
    keypoints: np.ndarray,  # [B, N, K, 2]
    size: tuple[int, int],
    sigma: float | np.ndarray,  # a number or [K]
    encoding: str,
    visible: np.ndarray | None = None,  # [B, N, K]
) -> tuple[np.ndarray, np.ndarray]:
    """Targets [B, K, H, W] and weights [B, K] in float64: of several people the largest of each."""
    batch, num_people, num_keypoints, _ = keypoints.shape
    sigmas = np.broadcast_to(sigma, num_keypoints).tolist()
    targets, weight = np.zeros((batch, num_keypoints, *size)), np.zeros((batch, num_keypoints))
    for b, n, k in np.ndindex(batch, num_people, num_keypoints):
        visibility = 1.0 if visible is None else float(visible[b, n, k])
        if not visibility >= 0.5 or not sigmas[k] > 0:
            continue
        heatmap, counts = draw_one(keypoints[b, n, k].astype(np.float64), size, sigmas[k], encoding)
        if counts:
            targets[b, k] = np.maximum(targets[b, k], heatmap)
            weight[b, k] = max(weight[b, k], min(visibility, 1.0))
    return targets, weight
