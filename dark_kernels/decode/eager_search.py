"""The first maximum of smoothed maps, for decode in eager: of most maps only a crop is smoothed.

No smoothed pixel of a row exceeds the smoothed maxima of the rows around it, nor one of a column those of the columns.
Where these two bounds lie below what a crop around the raw maximum has, the maximum is in that crop; the other maps are
smoothed whole. All is added up in one order: a crop's numbers are those of the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.lines import argmax_of_lines
from ..recipes import OperatorRecipe
from .eager_plan import reflected, rows_per_group
from .eager_scores import Activation

# How far a matched filter reaches, in standard deviations of the blob that it expects.
_FILTER_REACH = 2.4
# How far from the raw maximum, in pixels on each axis, the smoothed one is looked for: what nearly all blobs need, and
# those smoothed more need more.
_MARGIN = 4
# Share by which rounding may push a smoothed pixel over its bound. Generous: what it costs is time.
_BOUND_MARGIN = 1e-5
# Pixels of the maps that are searched at once, and of those that are smoothed whole at once.
_SEARCH_BLOCK = 2**21
_SMOOTH_BLOCK = 2**17


class Smoothing(NamedTuple):
    """A separable filter with the weights of a Gaussian."""

    taps: tuple[float, ...]  # half of it, centre first
    padding: str
    is_matched: bool  # divided by what noise makes of it, with the weights inside the map

    @property
    def radius(self) -> int:
        """How far it reaches."""
        return len(self.taps) - 1

    @property
    def margin(self) -> int:
        """How far from the raw maximum the smoothed one is looked for."""
        return max(_MARGIN, (self.radius + 3) // 2)


class SmoothedMaxima(NamedTuple):
    """The first maximum of each of N smoothed maps, and of the maps themselves."""

    peaks: Tensor  # [N]: smoothed
    y: Tensor
    x: Tensor
    differences: Tensor  # [2, N]: right less left and below less above neighbour in the smoothed map
    raw_maxima: Tensor  # [N]
    raw_y: Tensor
    raw_x: Tensor


def blur_of(recipe: OperatorRecipe) -> Smoothing:
    """The recipe's blur."""
    return Smoothing(recipe.taps, recipe.padding, False)


def matched_filter_of(recipe: OperatorRecipe) -> Smoothing:
    """The filter that answers most to a blob of the width that the recipe expects."""
    radius = math.ceil(_FILTER_REACH * recipe.blob_sigma)
    taps = recipe._replace(kernel_size=2 * radius + 1, sigma=recipe.blob_sigma).taps
    return Smoothing(taps, "zeros", True)


# --- whole maps ------------------------------------------------------------------------------------------


def smooth(maps: Tensor, smoothing: Smoothing) -> Tensor:
    """Smooth whole [N, H, W] maps."""
    smoothed = torch.empty_like(maps)
    first = 0
    for part in _smoothed_blocks(maps, smoothing):
        smoothed[first : first + part.shape[0]].copy_(part)
        first += part.shape[0]
    return smoothed


def _smoothed_blocks(maps: Tensor, smoothing: Smoothing, chosen: Tensor | None = None) -> Iterator[Tensor]:
    """Smooth whole [N, H, W] maps, or the chosen ones.

    On CPU in blocks that stay in the cache, of which each lies where the last one did: each is passed over twenty
    times, and fresh memory is handed out page by page.
    """
    height, width = maps.shape[1:]
    taps, radius = smoothing.taps, smoothing.radius
    block = maps.shape[0] if chosen is None else chosen.shape[0]
    if maps.device.type == "cpu":
        block = min(block, max(1, _SMOOTH_BLOCK // (height * width)))
    limit, stride = _limit(maps), width + 2 * radius
    norms_y, norms_x = (_norms(size, smoothing, maps) if smoothing.is_matched else None for size in (height, width))
    rows, columns = maps.new_zeros(block, height, stride), maps.new_zeros(block, height + 2 * radius, width)
    # As one long row, of which the pixels between two maps' rows are not looked at: long rows are what vectors like.
    of_rows, of_columns = _pairs(rows.view(-1), 0, radius), _pairs(columns, 1, radius)
    sums, memory = torch.empty_like(of_rows.center), rows.new_empty(rows.numel())
    smoothed, pair = torch.empty_like(of_columns.center), memory[: block * height * width].view(block, height, width)
    inside_rows, inside_columns = rows.narrow(2, radius, width), columns.narrow(1, radius, height)
    along_x = sums.as_strided(smoothed.shape, (height * stride, stride, 1))
    parts = maps.split(block) if chosen is None else (maps.index_select(0, each) for each in chosen.split(block))
    for part in parts:
        # What the block before has left fills up the last one.
        torch.clamp(part, -limit, limit, out=inside_rows[: part.shape[0]])
        _fill_border(rows, 2, smoothing)
        _add(of_rows, taps, sums, memory[: sums.shape[0]])
        if norms_x is not None:
            along_x.div_(norms_x)
        inside_columns.copy_(along_x)
        _fill_border(columns, 1, smoothing)
        _add(of_columns, taps, smoothed, pair)
        if norms_y is not None:
            smoothed.div_(norms_y[:, None])
        yield smoothed[: part.shape[0]]


def _limit(maps: Tensor) -> float:
    """The number that stands for infinity: which would make NaN of zeros, and two of the largest make another."""
    return torch.finfo(maps.dtype).max / 4


def _fill_border(padded: Tensor, axis: int, smoothing: Smoothing) -> None:
    """Mirror pixels into the border of maps that are padded by the filter's radius, with zeros so far."""
    radius = smoothing.radius
    size = padded.shape[axis] - 2 * radius
    if smoothing.padding == "zeros" or radius == 0:
        return
    beyond = torch.arange(radius, device=padded.device)
    for first in (-radius, size):
        index = reflected(beyond + first, size, smoothing.padding).add_(radius)
        padded.narrow(axis, first + radius, radius).copy_(padded.index_select(axis, index))


def _pad(maps: Tensor, axis: int, smoothing: Smoothing) -> Tensor:
    shape = list(maps.shape)
    shape[axis] += 2 * smoothing.radius
    padded = maps.new_zeros(shape)
    padded.narrow(axis, smoothing.radius, maps.shape[axis]).copy_(maps)
    _fill_border(padded, axis, smoothing)
    return padded


class _Pairs(NamedTuple):
    """Views of maps that are padded along one axis."""

    center: Tensor
    at_distance: list[tuple[Tensor, Tensor]]  # 1, 2, ...: those before and behind


def _pairs(padded: Tensor, axis: int, radius: int) -> _Pairs:
    size = padded.shape[axis] - 2 * radius
    around = [padded.narrow(axis, first, size) for first in range(2 * radius + 1)]
    return _Pairs(around[radius], [(around[radius - i], around[radius + i]) for i in range(1, radius + 1)])


def _add(pairs: _Pairs, taps: tuple[float, ...], total: Tensor, pair: Tensor) -> Tensor:
    """Filter along an axis into `total`. `pair` is memory for as many numbers.

    The two pixels at one distance are added first, in the same order everywhere: equal or mirrored surroundings give
    equal numbers, so that of equal maxima the first is found.
    """
    torch.mul(pairs.center, taps[0], out=total)
    for tap, (before, behind) in zip(taps[1:], pairs.at_distance, strict=True):
        torch.add(before, behind, out=pair)
        total.add_(pair, alpha=tap)
    return total


def _filter(padded: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    """Filter along an axis, on both sides of which the radius is lost."""
    pairs = _pairs(padded, axis, len(taps) - 1)
    shape = pairs.center.shape
    return _add(pairs, taps, padded.new_empty(shape), padded.new_empty(shape))


def _norms(size: int, smoothing: Smoothing, like: Tensor) -> Tensor:
    """What a matched filter is divided by at each pixel of an axis: [size].

    The root of the sum of the squared weights inside the map, but for a factor that makes of ones no more than 1: large
    numbers do not overflow, and a bound on a map is one on what is made of it.
    """
    padded = _pad(like.new_ones(size), 0, smoothing)
    norms = _filter(padded, 0, tuple(tap**2 for tap in smoothing.taps)).sqrt_()
    return norms.mul_((_filter(padded, 0, smoothing.taps) / norms).amax())


# --- the search ------------------------------------------------------------------------------------------


def search_smoothed(
    heatmaps: Tensor,  # [B, K, H, W]
    smoothing: Smoothing,
    activate: Activation | None = None,
    chosen: Tensor | None = None,  # [N]
) -> SmoothedMaxima:
    """Find the first maximum of each map, or of those that are chosen among the B K.

    Computed in float64 for float64 maps, else in float32. NaN is the largest value.
    """
    blocks = [_search_block(maps, smoothing) for maps in _blocks(heatmaps, activate, chosen)]
    return SmoothedMaxima(*(torch.cat(fields, -1) for fields in zip(*blocks, strict=True)))


def _blocks(heatmaps: Tensor, activate: Activation | None, chosen: Tensor | None) -> Iterator[Tensor]:
    """Contiguous maps [n, H, W], activated. On CPU so many at once as stay in the cache."""
    batch, num_keypoints, height, width = heatmaps.shape
    size = batch * num_keypoints if chosen is None else chosen.shape[0]
    if heatmaps.device.type == "cpu":
        size = max(1, _SEARCH_BLOCK // (height * width))
    parts: Iterator[tuple[Tensor, Tensor | slice]]
    if chosen is not None:
        parts = ((heatmaps[each // num_keypoints, each % num_keypoints], each) for each in chosen.split(size))
    else:
        images, channels = max(1, size // num_keypoints), min(size, num_keypoints)
        parts = (
            (part.flatten(0, 1), slice(start, start + part.shape[0] * part.shape[1]))
            for b in range(0, batch, images)
            for k in range(0, num_keypoints, channels)
            for part, start in ((heatmaps[b : b + images, k : k + channels], b * num_keypoints + k),)
        )
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    for maps, index in parts:
        maps = maps.contiguous().to(dtype)
        yield maps if activate is None else activate.of(index)(maps)


def _search_block(maps: Tensor, smoothing: Smoothing) -> SmoothedMaxima:
    num_maps, height, width = maps.shape
    rows = rows_per_group(height, width, maps.dtype)
    group_maxima = maps.view(num_maps, height // rows, rows * width).amax(2)
    raw_maxima, group = group_maxima.max(1)
    lines = maps.view(-1, rows * width).index_select(
        0, torch.arange(num_maps, device=maps.device) * (height // rows) + group
    )
    index = argmax_of_lines(lines).add_(group, alpha=rows * width)
    raw_y = index.div(width, rounding_mode="floor")
    raw_x = index - raw_y * width

    crop_side = 2 * (smoothing.margin + smoothing.radius) + 1
    is_small = 2 * min(crop_side, height) * min(crop_side, width) > height * width
    # Elsewhere than on CPU the host would have to wait to learn which maps a crop is not enough for.
    if is_small or maps.device.type != "cpu":
        return SmoothedMaxima(*_search_whole(maps, smoothing), raw_maxima, raw_y, raw_x)
    row_maxima = group_maxima.t().repeat_interleave(rows, 0)
    found, is_certain = _search_crops(maps, raw_y, raw_x, row_maxima, smoothing)
    whole = is_certain.logical_not_().nonzero().squeeze(1)
    if whole.numel() > 0:
        for field, of_whole in zip(found, _search_whole(maps, smoothing, whole), strict=True):
            field.index_copy_(-1, whole, of_whole)
    return SmoothedMaxima(*found, raw_maxima, raw_y, raw_x)


def _search_whole(maps: Tensor, smoothing: Smoothing, chosen: Tensor | None = None) -> _Found:
    parts = [_find_first(smoothed) for smoothed in _smoothed_blocks(maps, smoothing, chosen)]
    return _Found(*(torch.cat(fields, -1) for fields in zip(*parts, strict=True)))


def _search_crops(
    maps: Tensor,  # [N, H, W]
    raw_y: Tensor,  # [N]
    raw_x: Tensor,
    row_maxima: Tensor,  # [H, N]: no pixel of a row is larger
    smoothing: Smoothing,
) -> tuple[_Found, Tensor]:
    """The first maximum of a crop around each raw maximum, and whether it is the map's: [N]. Maps lie innermost."""
    (num_maps, height, width), radius, taps = maps.shape, smoothing.radius, smoothing.taps
    sizes = height, width
    side_y, side_x = (min(2 * smoothing.margin + 1, size) for size in sizes)
    crop_y, crop_x = (
        (center - smoothing.margin).clamp_(0, size - side)
        for center, size, side in ((raw_y, height, side_y), (raw_x, width, side_x))
    )
    # The rows that the crop's pixels can see, whole.
    band_rows = min(side_y + 2 * radius, height)
    first_row = (crop_y - radius).clamp_(0, height - band_rows)
    starts = (torch.arange(num_maps, device=maps.device) * height + first_row) * width
    num_pixels = band_rows * width
    lines = maps.as_strided((maps.numel() - num_pixels + 1, num_pixels), (1, 1)).index_select(0, starts)
    stored = lines.new_empty(num_pixels * num_maps + 1)
    stored[-1] = 0.0  # what lies beyond the border
    band = stored[:-1].view(band_rows, width, num_maps)
    band.view(num_pixels, num_maps).copy_(lines.t())

    lane = torch.arange(num_maps, device=maps.device)
    seen_y = _seen(crop_y, side_y, smoothing)
    seen_x = _seen(crop_x, side_x, smoothing)
    rows = ((reflected(seen_y, height, smoothing.padding) - first_row) * (width * num_maps)).add_(lane)
    columns = reflected(seen_x, width, smoothing.padding) * num_maps
    beyond = num_pixels * num_maps
    if smoothing.padding == "zeros":
        rows.masked_fill_((seen_y < 0) | (seen_y >= height), beyond)
        columns.masked_fill_((seen_x < 0) | (seen_x >= width), beyond)
    index = rows.unsqueeze(1) + columns
    if smoothing.padding == "zeros":
        index.clamp_(max=beyond)
    limit = _limit(maps)
    crops = stored.index_select(0, index.view(-1)).clamp_(-limit, limit).view(index.shape)
    norms_y, norms_x = (_norms(size, smoothing, maps) if smoothing.is_matched else None for size in sizes)
    crops = _filter(crops, 1, taps)
    if norms_x is not None:
        crops = crops / norms_x[crop_x + torch.arange(side_x, device=maps.device).unsqueeze(1)]
    crops = _filter(crops, 0, taps)
    if norms_y is not None:
        crops = crops / norms_y[crop_y + torch.arange(side_y, device=maps.device).unsqueeze(1)].unsqueeze(1)
    found = _find_first(crops.view(-1, num_maps).t().contiguous().view(num_maps, side_y, side_x))

    # An average of rows is no larger than that of their maxima; but for the share of zeros these are not negative.
    lowest = found.peaks * (1 - _BOUND_MARGIN)
    row_maxima = row_maxima.scatter(
        0, first_row + torch.arange(band_rows, device=maps.device).unsqueeze(1), band.amax(1)
    )
    column_maxima = band.amax(0)
    info = torch.finfo(maps.dtype)
    is_certain = found.peaks > info.tiny / info.eps
    y, x = found.y, found.x
    for maxima, norms, first, side, place in (
        (row_maxima, norms_y, crop_y, side_y, y),
        (column_maxima, norms_x, crop_x, side_x, x),
    ):
        size = maxima.shape[0]
        bounds = _filter(_pad(maxima.clamp(0, limit), 0, smoothing), 0, taps)
        if norms is not None:
            bounds.div_(norms.unsqueeze(1))
        bounds.scatter_(0, first + torch.arange(side, device=maps.device).unsqueeze(1), 0.0)
        is_certain &= bounds.amax(0) < lowest
        # Its neighbours are read as well.
        is_certain &= (place > 0) | (first == 0)
        is_certain &= (place < side - 1) | (first == size - side)
    return found._replace(y=y + crop_y, x=x + crop_x), is_certain


class _Found(NamedTuple):
    """Maxima of smoothed maps, as in `SmoothedMaxima`."""

    peaks: Tensor  # [N]
    y: Tensor
    x: Tensor
    differences: Tensor  # [2, N]


def _find_first(maps: Tensor) -> _Found:
    num_maps, height, width = maps.shape
    lines = maps.view(num_maps, height * width)
    index = argmax_of_lines(lines)
    y = index.div(width, rounding_mode="floor")
    x = index - y * width
    right, left = (x + 1).clamp_(max=width - 1), (x - 1).clamp_(min=0)
    below, above = (y + 1).clamp_(max=height - 1), (y - 1).clamp_(min=0)
    places = torch.stack([index, index - x + right, below * width + x, index - x + left, above * width + x])
    values = lines.gather(1, places.t()).t()
    return _Found(values[0], y, x, values[1:3] - values[3:])


def _seen(first: Tensor, side: int, smoothing: Smoothing) -> Tensor:
    """Pixels of an axis that a crop's are smoothed from: [side + 2 radius, N]."""
    return first + torch.arange(-smoothing.radius, side + smoothing.radius, device=first.device).unsqueeze(1)
