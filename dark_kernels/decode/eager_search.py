"""The first maximum of smoothed maps, for decode in eager: of most maps only a band of rows is smoothed.

No smoothed pixel of a row exceeds what the filter makes of all rows' maxima there. Where this lies below what a band
around the raw maximum has, the maximum is in that band. Of the other maps products with two matrices say which pixel it
is, but where others come as near to it as products may round: these are smoothed whole. What is returned is added up in
one order, in which a band's numbers, and those around a pixel, are those of the whole map.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.lines import argmax_of_lines
from .._common.products import product
from ..recipes import OperatorRecipe
from .eager_plan import evenly, on_device, reflected, rows_per_group
from .eager_scores import Activation

# How far a matched filter reaches, in standard deviations of the blob that it expects.
_FILTER_REACH = 2.4
# How far from the raw maximum's row the smoothed one is looked for: what nearly all blobs need, and those smoothed more
# need more.
_MARGIN = 4
# Share by which rounding may push a smoothed pixel over its bound. Generous: what it costs is time.
_BOUND_MARGIN = 1e-5
# Pixels of the maps that are searched at once, and of those that are smoothed whole at once.
_SEARCH_BLOCK = 2**22
_SMOOTH_BLOCK = 3 * 2**15
# Bands are tried for all maps once they were enough for this share of those before, else for a few.
_WORTHWHILE, _FEW_MAPS = 0.25, 32
# Products take as long as taps where a map's height and width together are so many times the taps.
_PRODUCTS_PER_TAP = 16
# Right of the middle of 3 x 3 pixels, below, left and above.
_CROSS = [5, 7, 3, 1]


class Smoothing(NamedTuple):
    """A separable filter with the weights of a Gaussian."""

    taps: tuple[float, ...]  # half of it, centre first
    padding: str
    is_matched: bool  # divided by what noise makes of it, with the weights inside the map

    @property
    def radius(self) -> int:
        """Its reach in pixels."""
        return len(self.taps) - 1

    @property
    def margin(self) -> int:
        """Rows above and below the raw maximum's in which the smoothed one is looked for."""
        return max(_MARGIN, (self.radius + 3) // 2)

    @property
    def side(self) -> int:
        """Rows of a band that have the numbers of the whole map."""
        return 2 * self.margin + 1


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
    buffers = _allocate(maps.shape[0], maps, smoothing)
    first = 0
    for part in _smoothed_blocks(maps, smoothing, buffers):
        smoothed[first : first + part.shape[0]].copy_(part[..., : maps.shape[2]])
        first += part.shape[0]
    return smoothed


def _smoothed_blocks(
    maps: Tensor, smoothing: Smoothing, buffers: _Buffers, chosen: Tensor | None = None
) -> Iterator[Tensor]:
    """Smooth whole [N, H, W] maps, or the chosen ones, on CPU in blocks that stay in the cache.

    Yields:
        [n, H, W + 2 radius] with -inf in the last columns. Each block lies where the last one did.
    """
    height, width = maps.shape[1:]
    block = evenly(maps.shape[0] if chosen is None else chosen.shape[0], buffers.num_maps)
    memory = _arrange(buffers, block, height, width, smoothing)
    limit, norms_y, norms_x = _limit(maps), *(_norms_of(size, smoothing, maps) for size in (height, width))
    norms_y = None if norms_y is None else norms_y.unsqueeze(1).expand(block, height, 1)
    inside = memory.columns.narrow(1, smoothing.radius, height)
    border = _border(height, smoothing, maps.device)
    parts = maps.split(block) if chosen is None else (maps.index_select(0, each) for each in chosen.split(block))
    for part in parts:
        # What the block before has left fills up the last one.
        torch.clamp(part, -limit, limit, out=inside[: part.shape[0]])
        _fill_border(memory.columns, 1, border)
        yield _smooth(memory, smoothing, norms_y, norms_x)[: part.shape[0]]


def _limit(maps: Tensor) -> float:
    """The number that stands for infinity: which would make NaN of zeros, and two of the largest make another."""
    return torch.finfo(maps.dtype).max / 4


class _Pairs(NamedTuple):
    """Views of maps that are padded along one axis."""

    center: Tensor
    at_distance: list[tuple[Tensor, Tensor]]  # 1, 2, ...: those before and behind


def _pairs(padded: Tensor, axis: int, radius: int) -> _Pairs:
    shape, strides = list(padded.shape), padded.stride()
    shape[axis] -= 2 * radius
    # One view, which is taken apart, costs less than so many.
    around = padded.as_strided((2 * radius + 1, *shape), (strides[axis], *strides), padded.storage_offset()).unbind(0)
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


class _Buffers(NamedTuple):
    """Memory that all blocks of a search are smoothed in: fresh memory is handed out page by page."""

    flat: tuple[Tensor, Tensor, Tensor, Tensor]
    num_maps: int  # so many maps have room
    num_bands: int  # and so many bands


def _allocate(num_maps: int, like: Tensor, smoothing: Smoothing) -> _Buffers:
    (height, width), radius, side = like.shape[1:], smoothing.radius, smoothing.side
    stride = width + 2 * radius
    counts = [num_maps, num_maps]
    if like.device.type == "cpu":
        counts = [min(num_maps, max(1, _SMOOTH_BLOCK // (rows * stride))) for rows in (height, side)]
    padded, others = (
        max(count * (rows + beyond) * length for count, rows in zip(counts, (height, side), strict=True))
        for beyond, length in ((2 * radius, width), (0, stride))
    )
    flat = like.new_empty(padded), like.new_empty(others), like.new_empty(others), like.new_empty(others)
    return _Buffers(flat, *counts)


class _Memory(NamedTuple):
    """Views of buffers for so many maps, or bands, of that height."""

    columns: Tensor  # [N, H + 2 radius, W]: padded
    of_columns: _Pairs
    rows: Tensor  # [N, H, W + 2 radius]: padded
    of_rows: _Pairs
    inside_rows: Tensor  # [N, H, W]
    border: list[tuple[Tensor, Tensor]]  # before and behind the rows: where it is, and the pixels seen there
    sums: tuple[Tensor, Tensor]  # over columns, [N, H, W], and over rows, as one long one
    pairs: tuple[Tensor, Tensor]
    smoothed: Tensor  # [N, H, W + 2 radius]: where the sums over rows lie
    beyond: Tensor  # [N, H, 2 radius]: pixels between two rows of it


def _arrange(buffers: _Buffers, num_maps: int, height: int, width: int, smoothing: Smoothing) -> _Memory:
    radius = smoothing.radius

    def view(buffer: int, *shape: int) -> Tensor:
        return buffers.flat[buffer][: math.prod(shape)].view(shape)

    columns, rows = view(0, num_maps, height + 2 * radius, width), view(1, num_maps, height, width + 2 * radius)
    if smoothing.padding == "zeros":
        for padded, axis in ((columns, 1), (rows, 2)):
            padded.narrow(axis, 0, radius).zero_()
            padded.narrow(axis, padded.shape[axis] - radius, radius).zero_()
    # As one long row, of which the pixels between two maps' rows are not looked at: long rows are what vectors like.
    shape, length = (num_maps, height, width), (rows.numel() - 2 * radius,)
    smoothed, seen = view(2, *rows.shape), _border(width, smoothing, rows.device)
    border = []
    if seen is not None:
        places = rows.narrow(2, 0, radius), rows.narrow(2, radius + width, radius)
        border = [(place, part.expand_as(place)) for place, part in zip(places, seen.split(radius), strict=True)]
    return _Memory(
        columns,
        _pairs(columns, 1, radius),
        rows,
        _pairs(rows.view(-1), 0, radius),
        rows.narrow(2, radius, width),
        border,
        (view(2, *shape), view(2, *length)),
        (view(3, *shape), view(3, *length)),
        smoothed,
        smoothed.narrow(2, width, 2 * radius),
    )


def _smooth(
    memory: _Memory,
    smoothing: Smoothing,
    norms_y: Tensor | None,  # [n, H, 1]
    norms_x: Tensor | None,  # [W]
) -> Tensor:
    """Smooth what lies in the padded columns: [N, H, W + 2 radius], the last columns -inf."""
    taps = smoothing.taps
    columns = _add(memory.of_columns, taps, memory.sums[0], memory.pairs[0])
    if norms_y is not None:
        columns[: norms_y.shape[0]].div_(norms_y)
    memory.inside_rows.copy_(columns)
    for place, seen in memory.border:
        torch.gather(columns, 2, seen, out=place)
    _add(memory.of_rows, taps, memory.sums[1], memory.pairs[1])
    if norms_x is not None:
        memory.smoothed.narrow(2, 0, norms_x.shape[0]).div_(norms_x)
    memory.beyond.fill_(-math.inf)
    return memory.smoothed


def _border(size: int, smoothing: Smoothing, device: torch.device) -> Tensor | None:
    """The pixels of an axis that are seen before and behind it, [2 radius]; None where zeros are, and stay."""
    radius = smoothing.radius
    if smoothing.padding == "zeros" or radius == 0:
        return None
    seen = torch.arange(2 * radius, device=device)
    seen += (seen >= radius) * size - radius
    return reflected(seen, size, smoothing.padding)


def _fill_border(padded: Tensor, axis: int, border: Tensor | None) -> None:
    """Mirror pixels into the border of padded maps."""
    if border is not None:
        radius, size = border.shape[0] // 2, padded.shape[axis]
        inside = padded.narrow(axis, radius, size - 2 * radius)
        before, behind = inside.index_select(axis, border).split(radius, axis)
        padded.narrow(axis, 0, radius).copy_(before)
        padded.narrow(axis, size - radius, radius).copy_(behind)


def _pad(maps: Tensor, axis: int, smoothing: Smoothing) -> Tensor:
    shape = list(maps.shape)
    shape[axis] += 2 * smoothing.radius
    padded = maps.new_zeros(shape)
    padded.narrow(axis, smoothing.radius, maps.shape[axis]).copy_(maps)
    _fill_border(padded, axis, _border(maps.shape[axis], smoothing, maps.device))
    return padded


def _filter(padded: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    """Filter along an axis, on both sides of which the radius is lost."""
    pairs = _pairs(padded, axis, len(taps) - 1)
    shape = pairs.center.shape
    return _add(pairs, taps, padded.new_empty(shape), padded.new_empty(shape))


def _norms_of(size: int, smoothing: Smoothing, like: Tensor) -> Tensor | None:
    """Divisors of a matched filter at each pixel of an axis, [size]; None for a blur."""
    if not smoothing.is_matched:
        return None
    # A tensor made while a CUDA graph is captured belongs to that graph, so only those on CPU are kept.
    make = _kept_norms if like.device.type == "cpu" else _norms
    return make(size, smoothing, like.dtype, like.device)


def _norms(size: int, smoothing: Smoothing, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The root of the sum of the squared weights inside the map: [size].

    But for a factor that makes of ones no more than 1: large numbers do not overflow, and a bound on a map is one on
    what is made of it.
    """
    padded = _pad(torch.ones(size, dtype=dtype, device=device), 0, smoothing)
    norms = _filter(padded, 0, tuple(tap**2 for tap in smoothing.taps)).sqrt_()
    return norms.mul_((_filter(padded, 0, smoothing.taps) / norms).amax())


_kept_norms = functools.lru_cache(maxsize=32)(_norms)


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
    parts: list[SmoothedMaxima] = []
    buffers, share = None, 0.0
    for maps in _blocks(heatmaps, activate, chosen):
        buffers = buffers or _allocate(maps.shape[0], maps, smoothing)
        share = _search_block(maps, smoothing, buffers, share, parts)
    return SmoothedMaxima(*(torch.cat(fields, -1) for fields in zip(*parts, strict=True)))


def _blocks(heatmaps: Tensor, activate: Activation | None, chosen: Tensor | None) -> Iterator[Tensor]:
    """Maps [n, H, W] of which each is contiguous, activated. On CPU so many at once as stay in the cache."""
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
        maps = (maps if maps.stride()[1:] == (width, 1) else maps.contiguous()).to(dtype)
        yield maps if activate is None else activate.of(index)(maps)


def _search_block(
    maps: Tensor, smoothing: Smoothing, buffers: _Buffers, share: float, parts: list[SmoothedMaxima]
) -> float:
    """Append what is found in [N, H, W] maps, and return for which share of the last ones a band was enough.

    `share`: of those before.
    """
    num_maps, height, width = maps.shape
    rows = rows_per_group(height, width, maps.dtype)
    group_maxima = maps.view(num_maps, height // rows, rows * width).amax(2)
    raw_maxima, group = group_maxima.max(1)
    starts = torch.arange(num_maps, device=maps.device) * maps.stride(0)
    index = argmax_of_lines(_select_lines(maps, starts + group * (rows * width), rows * width))
    index.add_(group, alpha=rows * width)
    raw_y = index.div(width, rounding_mode="floor")
    raw_x = index - raw_y * width

    def append(found: _Found, some: slice) -> None:
        parts.append(SmoothedMaxima(*found, raw_maxima[some], raw_y[some], raw_x[some]))

    # Elsewhere than on CPU the host would have to wait to learn which maps a band is not enough for.
    if maps.device.type != "cpu":
        append(_search_whole(maps, smoothing, buffers), slice(None))
        return share
    if 2 * smoothing.side > height:
        append(_search_all(maps, raw_maxima, smoothing, buffers), slice(None))
        return share
    first = 0
    while first < num_maps:
        some = slice(first, num_maps if share >= _WORTHWHILE else min(first + _FEW_MAPS, num_maps))
        found, is_certain = _search_bands(
            maps[some], raw_y[some], group_maxima[some].repeat_interleave(rows, 1), smoothing, buffers
        )
        whole = is_certain.logical_not_().nonzero().squeeze(1)
        if whole.numel() > 0:
            of_others = _search_all(maps[some], raw_maxima[some], smoothing, buffers, whole)
            for field, of_whole in zip(found, of_others, strict=True):
                field.index_copy_(-1, whole, of_whole)
        append(found, some)
        share, first = 1 - whole.numel() / is_certain.numel(), some.stop
        if share < _WORTHWHILE and first < num_maps:
            rest = slice(first, num_maps)
            append(_search_all(maps[rest], raw_maxima[rest], smoothing, buffers), rest)
            break
    return share


def _select_lines(maps: Tensor, starts: Tensor, length: int, out: Tensor | None = None) -> Tensor:
    """`length` elements from each of `starts`, in elements from the first: [len(starts), length]."""
    extent = (maps.shape[0] - 1) * maps.stride(0) + maps.shape[1] * maps.shape[2]
    lines = maps.as_strided((extent - length + 1, length), (1, 1))
    return torch.index_select(lines, 0, starts, out=out)


def _search_all(
    maps: Tensor,  # [N, H, W]
    raw_maxima: Tensor,  # [N]
    smoothing: Smoothing,
    buffers: _Buffers,
    chosen: Tensor | None = None,
) -> _Found:
    """Search maps on CPU, or the chosen ones, wherever their maxima are."""
    if maps.shape[1] + maps.shape[2] > _PRODUCTS_PER_TAP * (2 * smoothing.radius + 1):
        return _search_whole(maps, smoothing, buffers, chosen)
    if chosen is not None:
        maps, raw_maxima = maps.index_select(0, chosen), raw_maxima.index_select(0, chosen)
    index, is_certain = _search_by_products(maps, smoothing, raw_maxima)
    found = _found_at(maps, smoothing, index)
    others = is_certain.logical_not_().nonzero().squeeze(1)
    if others.numel() > 0:
        for field, of_others in zip(found, _search_whole(maps, smoothing, buffers, others), strict=True):
            field.index_copy_(-1, others, of_others)
    return found


def _search_whole(maps: Tensor, smoothing: Smoothing, buffers: _Buffers, chosen: Tensor | None = None) -> _Found:
    places = _places(maps.shape[2], smoothing.radius, maps.device)
    blocks = [_find_first(smoothed, places) for smoothed in _smoothed_blocks(maps, smoothing, buffers, chosen)]
    return _found_of(blocks, maps.shape[1], maps.shape[2], smoothing.radius)


def _search_by_products(
    maps: Tensor,  # [N, H, W]
    smoothing: Smoothing,
    raw_maxima: Tensor,  # [N]
) -> tuple[Tensor, Tensor]:
    """Index the largest pixel of each map smoothed by products, [N], and tell whether no other can be the largest: [N].

    Sums of products of n numbers and weights are within n roundings of the sum of their sizes whatever their order.
    """
    num_maps, height, width = maps.shape
    limit, info = _limit(maps), torch.finfo(maps.dtype)
    over_y, over_x = (_matrix_of(size, smoothing, maps.dtype) for size in (height, width))
    count = evenly(num_maps, max(1, _SMOOTH_BLOCK // (height * width)))
    over_y = over_y.t().expand(count, height, height)
    largest, seconds = maps.new_empty(2, num_maps, 1)
    index = maps.new_empty((num_maps, 1), dtype=torch.int64)
    lowest = maps.new_empty(num_maps)
    for begin in range(0, num_maps, count):
        some = slice(begin, begin + count)
        block = maps[some].clamp(-limit, limit)
        torch.amin(block, (1, 2), out=lowest[some])
        lines = product(over_y[: block.shape[0]], product(block, over_x)).flatten(1)
        places = index[some].copy_(argmax_of_lines(lines).unsqueeze(1))
        torch.gather(lines, 1, places, out=largest[some])
        torch.amax(lines.scatter_(1, places, -math.inf), 1, keepdim=True, out=seconds[some])
    # Each of the two sums, twice over two axes, of both ways, for two pixels; and eight for weights and norms.
    num_roundings = 4 * (2 * smoothing.radius + 1) + 16
    size = torch.maximum(raw_maxima.clamp(-limit, limit), lowest.neg_())
    is_certain = largest.sub_(seconds).squeeze(1) > size * (num_roundings * info.eps)
    # Less than normal numbers are rounded to others, or to zero.
    is_certain &= size > info.tiny / info.eps
    return index.squeeze(1), is_certain


def _matrix(size: int, smoothing: Smoothing, dtype: torch.dtype) -> Tensor:
    """What each pixel of an axis adds to each smoothed one: [size, size], smoothed ones last."""
    pixels = torch.eye(size, dtype=dtype, device="cpu")
    weights = _filter(_pad(pixels, 1, smoothing), 1, smoothing.taps)
    norms = _norms_of(size, smoothing, pixels)
    return weights if norms is None else weights.div_(norms)


_matrix_of = functools.lru_cache(maxsize=32)(_matrix)


def _found_at(
    maps: Tensor,  # [N, H, W]
    smoothing: Smoothing,
    index: Tensor,  # [N]
) -> _Found:
    """Smooth one pixel of each map and those around it."""
    num_maps, height, width = maps.shape
    y = index.div(width, rounding_mode="floor")
    x = index - y * width
    reach = torch.arange(-smoothing.radius - 1, smoothing.radius + 2, device=maps.device)
    rows, columns = y.unsqueeze(1) + reach, x.unsqueeze(1) + reach
    shown_rows, shown_columns = reflected(rows, height, smoothing.padding), reflected(columns, width, smoothing.padding)
    seen = shown_rows.unsqueeze(2) * width + shown_columns.unsqueeze(1)
    limit = _limit(maps)
    windows = maps.view(num_maps, -1).gather(1, seen.flatten(1)).clamp_(-limit, limit).view(seen.shape)
    if smoothing.padding == "zeros":
        windows.masked_fill_((rows != shown_rows).unsqueeze(2) | (columns != shown_columns).unsqueeze(1), 0.0)
    norms_y, norms_x = (_norms_of(size, smoothing, maps) for size in (height, width))
    center = slice(smoothing.radius, smoothing.radius + 3)
    smoothed = _filter(windows, 1, smoothing.taps)
    if norms_y is not None:
        smoothed.div_(norms_y[shown_rows[:, center]].unsqueeze(2))
    smoothed = _filter(smoothed, 2, smoothing.taps)
    if norms_x is not None:
        smoothed.div_(norms_x[shown_columns[:, center]].unsqueeze(1))
    around = smoothed.flatten(1)
    return _with_differences(around[:, 4], y, x, around[:, _CROSS], height, width)


def _search_bands(
    maps: Tensor,  # [N, H, W]
    raw_y: Tensor,  # [N]
    row_maxima: Tensor,  # [N, H]: no pixel of a row is larger
    smoothing: Smoothing,
    buffers: _Buffers,
) -> tuple[_Found, Tensor]:
    """The first maximum of the rows around each raw maximum, and whether it is the map's: [N]."""
    (num_maps, height, width), radius, side = maps.shape, smoothing.radius, smoothing.side
    device, limit = maps.device, _limit(maps)
    first = (raw_y - smoothing.margin).clamp_(0, height - side).unsqueeze(1)
    rows = first + torch.arange(side, device=device)
    seen = first + torch.arange(-radius, side + radius, device=device)
    shown = reflected(seen, height, smoothing.padding)
    starts = (torch.arange(num_maps, device=device) * maps.stride(0)).unsqueeze(1).add(shown, alpha=width)
    norms_y, norms_x = (_norms_of(size, smoothing, maps) for size in (height, width))
    norms_of_rows = None if norms_y is None else norms_y[rows].unsqueeze(2)

    count = evenly(num_maps, buffers.num_bands)
    memory = _arrange(buffers, count, side, width, smoothing)
    seen_maxima, places, blocks = maps.new_empty(seen.shape), _places(width, radius, device), []
    for begin in range(0, num_maps, count):
        some = slice(begin, begin + count)
        bands = memory.columns[: num_maps - begin]
        lines = bands.view(-1, width)
        _select_lines(maps, starts[some].reshape(-1), width, lines)
        torch.amax(bands, 2, out=seen_maxima[some])
        if smoothing.padding == "zeros":
            lines.index_fill_(0, (seen[some] != shown[some]).view(-1).nonzero().squeeze(1), 0.0)
        bands.clamp_(-limit, limit)
        smoothed = _smooth(memory, smoothing, None if norms_of_rows is None else norms_of_rows[some], norms_x)
        blocks.append(_find_first(smoothed[: bands.shape[0]], places))
    found = _found_of(blocks, side, width, radius)

    # An average of rows is no larger than that of their maxima; but for the share of zeros these are not negative.
    bounds = row_maxima.scatter(1, shown, seen_maxima).clamp_(0, limit)
    bounds = _filter(_pad(bounds, 1, smoothing), 1, smoothing.taps)
    if norms_y is not None:
        bounds.div_(norms_y)
    bounds.scatter_(1, rows, 0.0)
    info = torch.finfo(maps.dtype)
    is_certain = found.peaks > info.tiny / info.eps
    is_certain &= bounds.amax(1) < found.peaks * (1 - _BOUND_MARGIN)
    # Its neighbours are read as well.
    first = first.squeeze(1)
    is_certain &= (found.y > 0) | (first == 0)
    is_certain &= (found.y < side - 1) | (first == height - side)
    return found._replace(y=found.y + first), is_certain


class _Found(NamedTuple):
    """Maxima of smoothed maps, as in `SmoothedMaxima`."""

    peaks: Tensor  # [N]
    y: Tensor
    x: Tensor
    differences: Tensor  # [2, N]


def _find_first(smoothed: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Find the maximum of each of N maps, [N], and what lies around it in the given places, [N, 5]."""
    lines = smoothed.view(smoothed.shape[0], -1)
    index = argmax_of_lines(lines)
    return index, lines.gather(1, (index.unsqueeze(1) + places).clamp_(0, lines.shape[1] - 1))


def _places(width: int, radius: int, device: torch.device) -> Tensor:
    """Index a pixel, and those right of it, below, left and above, in maps whose rows are 2 radius longer than that."""
    stride = width + 2 * radius
    return on_device([0, 1, stride, -1, -stride], torch.int64, device)


def _found_of(blocks: list[tuple[Tensor, Tensor]], height: int, width: int, radius: int) -> _Found:
    """Put together what was found in maps whose rows are 2 radius longer than their width."""
    index, values = (torch.cat(each) for each in zip(*blocks, strict=True))
    y = index.div(width + 2 * radius, rounding_mode="floor")
    x = index - y * (width + 2 * radius)
    return _with_differences(values[:, 0], y, x, values[:, 1:], height, width)


def _with_differences(peaks: Tensor, y: Tensor, x: Tensor, around: Tensor, height: int, width: int) -> _Found:
    """The maxima, given what lies right of them, below, left and above: [N, 4]. Beyond a border is what is on it."""
    is_border = torch.stack([x == width - 1, y == height - 1, x == 0, y == 0], 1)
    around = torch.where(is_border, peaks.unsqueeze(1), around)
    return _Found(peaks, y, x, (around[:, :2] - around[:, 2:]).t())
