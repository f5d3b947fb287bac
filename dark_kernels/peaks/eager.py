"""find_peaks in vectorised PyTorch, for CPU and for any device without Triton.

Suppression takes maxima along rows and then along columns, and the refinement is that of decode, at as many places of a
map as there are peaks. Shapes do not depend on values, but on CPU, where nothing has to wait, only slots that hold a
peak are refined.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..decode.eager import Found, refine
from ..decode.eager_plan import make_plan
from ..decode.eager_scores import activate_maps, activation_of, mass_around
from ..decode.eager_search import blur_of, smooth
from ..decode.eager_steps import differences_of
from ..recipes import OperatorRecipe
from .options import Rule

# Pixels of the maps that are searched at once on CPU, so that a dozen passes find them in the cache.
_SEARCH_BLOCK = 2**17


def find_peaks_fwd(
    heatmaps: Tensor,  # [B, K, H, W]
    rule: Rule,
    recipe: OperatorRecipe,
    covariance: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """coords [B, K, P, 2], scores [B, K, P], counts [B, K] and covariances [B, K, P, 2, 2] (None unless asked for).

    float64 for float64 heatmaps, else float32.
    """
    max_peaks, activation = rule.max_peaks, recipe.activation
    shape, width = heatmaps.shape[:2], heatmaps.shape[3]
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    maxima = heatmaps.amax((2, 3)).flatten().to(dtype)
    is_finite = maxima < math.inf
    activate = None
    if activation != "none":
        if recipe.argmax_on == "blurred":
            heatmaps = activate_maps(heatmaps, maxima, activation)
            maxima = heatmaps.amax((2, 3)).flatten()
        else:
            activate = activation_of(heatmaps, maxima, activation)
    searched, searched_maxima, scale = heatmaps, maxima, None
    if recipe.argmax_on == "blurred":
        searched = smooth(heatmaps.flatten(0, 1).to(dtype), blur_of(recipe)).view(heatmaps.shape)
        searched_maxima = searched.amax((2, 3)).flatten()
        if recipe.rescale:
            scale = torch.where(searched_maxima > 0, maxima / searched_maxima, 1.0)
    lowest = rule.threshold if scale is None and activate is None else -math.inf
    values, index = _search(searched.flatten(0, 1), rule._replace(threshold=lowest), dtype)
    exists = values > -math.inf
    if activate is not None:
        values, maxima = activate(values), activate(maxima)
    if scale is not None:
        values = values * scale[:, None]
    found = exists & (values > rule.threshold) & searched_maxima.isnan().logical_not_()[:, None]
    y = index.div(width, rounding_mode="floor")
    x = index - y * width

    coords = torch.stack([x, y], -1).view(-1, 2)
    covariances = values.new_full((values.numel(), 2, 2), math.nan) if covariance else None
    refinable = (found & (values > 0) & is_finite[:, None]).view(-1)
    plan = make_plan(heatmaps, recipe)
    slots = torch.arange(values.numel(), device=values.device)
    if slots.device.type == "cpu":
        slots = slots[refinable]
    if slots.numel() > 0 and recipe.stencil != "none":
        map_index = slots.div(max_peaks, rounding_mode="floor")
        peaks, peak_y, peak_x = (each.reshape(-1).index_select(0, slots) for each in (values, y, x))
        at_peaks = Found(
            peaks,
            peak_y,
            peak_x,
            maxima.index_select(0, map_index),
            None if scale is None else scale.index_select(0, map_index),
            None if searched is heatmaps else differences_of(searched, peak_y, peak_x, map_index),
            map_index,
        )
        offset, covariances_found = refine(heatmaps, at_peaks, recipe, covariance, plan.stencil, activate)
        assert offset is not None
        moves = refinable.index_select(0, slots)
        offset = torch.where(moves, offset, 0.0).t()
        coords = coords.to(offset.dtype).index_copy_(0, slots, coords.index_select(0, slots) + offset)
        if covariances is not None and covariances_found is not None:
            covariances.index_copy_(0, slots, torch.where(moves[:, None, None], covariances_found, math.nan))
    if recipe.mass_radius > 0:
        slots = torch.arange(values.numel(), device=values.device)
        if slots.device.type == "cpu":
            slots = slots[found.view(-1)]
        of_slots = slots.div(max_peaks, rounding_mode="floor")
        peak_y, peak_x = (each.reshape(-1).index_select(0, slots) for each in (y, x))
        masses = mass_around(heatmaps, maxima, peak_y, peak_x, recipe.mass_radius, plan, activate, of_slots)
        values = torch.zeros_like(values).view(-1).index_copy_(0, slots, masses).view(found.shape)
    scores = torch.where(found, values * recipe.score_scale + recipe.score_offset, 0.0)
    coords = torch.where(found.view(-1, 1), coords.to(dtype), recipe.invalid)
    return (
        coords.view(*shape, max_peaks, 2),
        scores.view(*shape, max_peaks),
        found.sum(-1).view(shape),
        None if covariances is None else covariances.view(*shape, max_peaks, 2, 2),
    )


def _search(maps: Tensor, rule: Rule, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and flat indices of the best local maxima of [N, H, W] maps: [N, P] each, -inf in unused slots.

    They are in order, and those above the threshold come first: it is the caller's to draw the line.
    """
    num_pixels = maps.shape[1] * maps.shape[2]
    block = maps.shape[0]
    if maps.device.type == "cpu":
        block = max(1, _SEARCH_BLOCK // num_pixels)
    found = []
    for part in maps.split(block):
        suppressed = _suppress(part.to(dtype), rule.window, rule.plateau)
        found.append(_best(suppressed.flatten(1), min(rule.max_peaks, num_pixels), rule.threshold))
    values, index = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))
    missing = max(rule.max_peaks - num_pixels, 0)
    return torch.nn.functional.pad(values, (0, missing), value=-math.inf), torch.nn.functional.pad(index, (0, missing))


def _suppress(maps: Tensor, window: int, plateau: str) -> Tensor:
    """[N, H, W] maps with -inf in all pixels that are no local maxima."""
    height, width = maps.shape[1:]
    radius = window // 2
    if radius == 0:
        return maps
    padded = torch.nn.functional.pad(maps, (radius,) * 4, value=-math.inf)
    left = _maximum(padded, 2, 0, radius, width)
    right = _maximum(padded, 2, radius + 1, radius, width)
    rows = torch.maximum(torch.maximum(left, right), padded.narrow(2, radius, width))
    earlier = torch.maximum(_maximum(rows, 1, 0, radius, height), left.narrow(1, radius, height))
    later = torch.maximum(_maximum(rows, 1, radius + 1, radius, height), right.narrow(1, radius, height))
    if plateau == "first":
        is_peak = (maps > earlier) & (maps >= later)
    else:
        around = torch.maximum(earlier, later)
        is_peak = maps >= around if plateau == "all" else maps > around
    return torch.where(is_peak, maps, -math.inf)


def _maximum(maps: Tensor, axis: int, first: int, count: int, size: int) -> Tensor:
    """The largest of `count` neighbours along an axis, of which the first begins at `first`."""
    largest = maps.narrow(axis, first, size)
    for start in range(first + 1, first + count):
        largest = torch.maximum(largest, maps.narrow(axis, start, size))
    return largest


def _best(values: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, of equal ones the first, in this order: values and indices [N, count]."""
    best, index = values.topk(count)
    # Of those that equal the last of them topk takes any, and the first of them are due.
    is_last = values == best[:, -1:]
    num_due = (best == best[:, -1:]).sum(-1)
    # Elsewhere than on CPU the host would have to wait to learn whether there is a choice.
    if values.device.type != "cpu" or bool(((is_last.sum(-1) > num_due) & (best[:, -1] > threshold)).any()):
        num_pixels = values.shape[1]
        pixel = torch.arange(num_pixels, device=values.device)
        firsts = torch.where(is_last, pixel, num_pixels).topk(count, largest=False).values
        number = torch.arange(count, device=values.device) - (count - num_due[:, None])
        index = torch.where(number < 0, index, firsts.gather(1, number.clamp_(min=0)))
    index, order = index.sort(-1)
    best, order = best.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return best, index.gather(1, order)
