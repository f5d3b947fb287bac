"""The definition of find_peaks: every pair of pixels in a window, a stable sort, and decode's steps from there.

Slow on purpose and readable on purpose. Every other backend is proved against this file in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..decode.reference import activate, blur, mass_around, rescale, rescale_factor, take_step
from ..recipes import Recipe


def find_peaks_reference(
    heatmaps: Tensor,  # [B, K, H, W]
    max_peaks: int,
    threshold: float,
    window: int,
    recipe: Recipe,
    plateau: str,
    covariance: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The peaks of whole maps, step by step.

    Args:
        heatmaps: [B, K, H, W] of a floating dtype. float16 and bfloat16 are computed in float32.
        max_peaks: P, how many peaks of a map are kept.
        threshold: What the value of a peak has to exceed, after an activation, and after rescaling where the recipe
            searches the smoothed map.
        window: Width of the square, in pixels, in which a peak stands out. Odd.
        recipe: Which map is searched, the raw or the smoothed one, and how a peak is refined.
        plateau: "first", "all" or "none": see `is_local_peak`.
        covariance: Whether to return covariances as well.

    Returns:
        coords [B, K, P, 2] in heatmap pixels, scores [B, K, P], counts [B, K] (int64) and covariances
        [B, K, P, 2, 2] or None, in float64 for float64 maps and in float32 for all others.
    """
    given = heatmaps if heatmaps.dtype == torch.float64 else heatmaps.float()
    width = given.shape[-1]
    maps = activate(given, recipe.activation)
    blurred = blur(maps, recipe)
    searched = blurred if recipe.argmax_on == "blurred" and recipe.blur_kernel_size > 1 else given
    has_nan = searched.isnan().flatten(2).any(dim=-1)  # such a map has no peaks, as it has no keypoint
    is_peak = is_local_peak(searched, window, plateau) & ~has_nan[..., None, None]

    values, index = searched.where(is_peak, -math.inf).flatten(2).sort(dim=-1, descending=True, stable=True)
    missing = max(max_peaks - values.shape[-1], 0)
    values = torch.nn.functional.pad(values[..., :max_peaks], (0, missing), value=-math.inf)
    index = torch.nn.functional.pad(index[..., :max_peaks], (0, missing))
    exists = values > -math.inf
    if searched is given:
        values = maps.flatten(2).gather(-1, index)
    if recipe.rescale:
        if searched is blurred:
            values = values * rescale_factor(blurred, maps)[..., None]  # which changes no order
        blurred = rescale(blurred, maps)
    found = exists & (values > threshold)
    x, y = index % width, index // width

    # The log of a map that is not positive means nothing; beside an infinite pixel no other has a place.
    refinable = found & (values > 0) & (given.amax(dim=(-2, -1)) < math.inf)[..., None]
    offset, covariances, refinable = take_step(searched, maps, blurred, x, y, refinable, recipe)
    coords = torch.stack([x, y], dim=-1).to(maps.dtype)
    coords = torch.where(refinable[..., None], coords + offset, coords)
    coords = torch.where(found[..., None], coords, recipe.invalid)
    if recipe.score == "mass":
        values = mass_around(maps, x, y, recipe.mass_radius)
    scores = torch.where(found, values * recipe.score_scale + recipe.score_offset, 0.0)
    return coords, scores, found.sum(dim=-1), covariances if covariance else None


def is_local_peak(maps: Tensor, window: int, plateau: str) -> Tensor:
    """Mask of the pixels of [B, K, H, W] that stand out of the window x window square around them.

    A pixel exceeds all its neighbours in the square, but an equal neighbour does no harm if `plateau` is "all", or
    "first" and the neighbour comes later in row-major order. Beyond the border there are no neighbours.
    """
    height, width = maps.shape[-2:]
    radius = window // 2
    padded = torch.nn.functional.pad(maps, (radius,) * 4, value=-math.inf)
    is_peak = torch.ones_like(maps, dtype=torch.bool)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if (dy, dx) == (0, 0):
                continue
            neighbour = padded.narrow(-2, radius + dy, height).narrow(-1, radius + dx, width)
            is_earlier = (dy, dx) < (0, 0)
            if plateau == "none" or (plateau == "first" and is_earlier):
                is_peak = is_peak & (maps > neighbour)
            else:
                is_peak = is_peak & (maps >= neighbour)
    return is_peak
