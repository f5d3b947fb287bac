"""decode in vectorised PyTorch, for CPU and for any device without Triton.

Same numbers as the definition, far fewer of them: the maximum in one pass over the maps, then only the
pixels that the blur at the stencil's points can see. Rescaling a blurred map shifts its log by a constant,
which no derivative sees, so the whole map is blurred only for the rare map where a clip could bind.

The blur is computed in the precision of the input; from there on CPU computes in float64 whatever the input,
since a step is a quotient of differences of nearly equal logs. A fit is moments of a patch, as matrix products, and
an elimination that all maps go through together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._eager import argmax_of_lines
from .options import NO_EXTRAS, Extras

# How far rounding can push a value across a clip: float32 blurs are good to a few 1e-7. Generous, since a
# map sent to the exact way without need costs time and not accuracy.
_CLIP_MARGIN = 1e-5

# Elements of a group of rows whose maximum is taken at once: long enough to vectorise over, short enough to
# search again. Vector reductions take 32 floats a step, and on halves pay more for each group.
_GROUP_SIZE, _GROUP_SIZE_OF_HALVES = 192, 576
_GROUP_STEP = 32

# What UDP's published code adds to the diagonal of the Hessian: float32 machine epsilon.
_COMPACT_EPSILON = 1.1920929e-7

# stencil -> for each point (dy, dx) that it reads, its weights in dx, dy, dxx, dyy and dxy.
_WIDE: dict[tuple[int, int], tuple[float, ...]] = {
    (0, 0): (0, 0, -1 / 2, -1 / 2, 0),
    (0, 1): (1 / 2, 0, 0, 0, 0),
    (0, -1): (-1 / 2, 0, 0, 0, 0),
    (1, 0): (0, 1 / 2, 0, 0, 0),
    (-1, 0): (0, -1 / 2, 0, 0, 0),
    (0, 2): (0, 0, 1 / 4, 0, 0),
    (0, -2): (0, 0, 1 / 4, 0, 0),
    (2, 0): (0, 0, 0, 1 / 4, 0),
    (-2, 0): (0, 0, 0, 1 / 4, 0),
    (1, 1): (0, 0, 0, 0, 1 / 4),
    (-1, 1): (0, 0, 0, 0, -1 / 4),
    (1, -1): (0, 0, 0, 0, -1 / 4),
    (-1, -1): (0, 0, 0, 0, 1 / 4),
}
_COMPACT: dict[tuple[int, int], tuple[float, ...]] = {
    (0, 0): (0, 0, -2, -2, 1),
    (0, 1): (1 / 2, 0, 1, 0, -1 / 2),
    (0, -1): (-1 / 2, 0, 1, 0, -1 / 2),
    (1, 0): (0, 1 / 2, 0, 1, -1 / 2),
    (-1, 0): (0, -1 / 2, 0, 1, -1 / 2),
    (1, 1): (0, 0, 0, 0, 1 / 2),
    (-1, -1): (0, 0, 0, 0, 1 / 2),
}
_STENCILS = {"wide": _WIDE, "compact": _COMPACT, "fit": _WIDE}  # the last where nothing can be fitted

# Of the derivatives 0 to 4 (dx, dy, dxx, dyy, dxy), the factors of six products: the differences of the first
# three and the last three are dxy dy - dyy dx, dxy dx - dxx dy and dxx dyy - dxy dxy, which by Cramer's rule are
# the numerators of the step's x and y and their common denominator.
_CRAMER = ((4, 4, 2, 3, 2, 4), (1, 0, 3, 0, 1, 4))

# A fit: how often it is solved, and what has to be left of a diagonal element of its matrix as a pivot.
_FIT_SOLUTIONS, _FIT_PIVOT = 3, 1e-3
# The exponents of x and y in its terms, and where its equations, right side last, are found among 5 x 5 moments of the
# weights (exponents of x times exponents of y) and as many of the weights times the logs.
_FIT_TERMS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_FIT_EQUATIONS = [
    index
    for x, y in _FIT_TERMS
    for index in (*((x + other_x) * 5 + y + other_y for other_x, other_y in _FIT_TERMS), 25 + x * 5 + y)
]


# Up to so many pixels on CPU, one search of all of them costs less than the operations that spare it.
_FEW_PIXELS = 2**17
# Pixels of the maps that are smoothed at once on CPU, and of those that are flipped back.
_BLUR_BLOCK = 2**17
_FLIP_BLOCK = 2**18
# Pixels of the means with mirrored maps that are stored at once on CPU.
_MERGED_PIXELS = 2**22


def decode_fwd(
    heatmaps: Tensor,  # [B, C, H, W]
    *arguments: Any,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2] (None unless asked for).

    `arguments` as in `_decode_images`. float64 for float64 heatmaps, else float32.
    """
    batch = heatmaps.shape[0]
    images = batch
    if extras.flipped is not None and heatmaps.device.type == "cpu":
        # The means of so many images take memory that is at hand; those of all would be handed out page by page.
        images = max(1, _MERGED_PIXELS // math.prod(heatmaps.shape[1:]))
    if images >= batch:
        return _decode_images(heatmaps, *arguments, extras=extras)
    parts = [
        _decode_images(heatmaps[block], *arguments, extras=_extras_of(extras, block))
        for block in (slice(first, first + images) for first in range(0, batch, images))
    ]
    coords, scores, covariances = zip(*parts, strict=True)
    return torch.cat(coords), torch.cat(scores), None if covariances[0] is None else torch.cat(covariances)


def _extras_of(extras: Extras, images: slice) -> Extras:
    """What belongs to some of the images."""
    of_images = {
        name: value[images]
        for name in ("flipped", "image_transform", "offsets")
        if (value := getattr(extras, name)) is not None
    }
    return extras._replace(**of_images)


def _decode_images(
    heatmaps: Tensor,  # [B, C, H, W]
    taps: tuple[float, ...],
    padding: str,
    rescale: bool,
    clip_min: float,
    clip_max: float,
    stencil: str,
    argmax_on_blurred: bool,
    invalid: float,
    max_offset: float,
    extra_shift: float,
    score_scale: float,
    score_offset: float,
    known_variance: float,
    fit_radius: int,
    target_variance: float,
    covariance: bool,
    *,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`decode_fwd` of images whose merged maps are stored.

    `taps` is half of the blur kernel, centre first; the other arguments are the fields of a Recipe.
    """
    if extras is not NO_EXTRAS:
        heatmaps = _chosen_and_merged(heatmaps, extras)
    batch, num_keypoints = heatmaps.shape[:2]
    output_dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    searched = heatmaps
    if argmax_on_blurred:
        searched = blur(heatmaps.flatten(0, 1).to(output_dtype), taps, padding).view(heatmaps.shape)
    plan = make_plan(heatmaps, taps, padding, stencil, fit_radius)
    if searched.stride() == heatmaps.stride() and searched.dtype == heatmaps.dtype:
        search_plan = plan
    else:
        search_plan = make_plan(searched, taps, padding, stencil, fit_radius)
    peaks, y, x = _first_maximum(searched, search_plan)
    peaks = peaks.to(output_dtype)
    scale, raw_maxima = None, peaks
    if argmax_on_blurred:
        raw_maxima = heatmaps.amax((-2, -1)).view(-1).to(output_dtype)
        if rescale:
            scale = torch.where(peaks > 0, raw_maxima / peaks, 1.0)
            peaks = peaks * scale

    coords = torch.stack([x, y])  # [2, N] up to the end: long rows are what vectors like
    offset, covariances = refine(
        heatmaps, searched, peaks, raw_maxima, y, x, scale, taps, padding, rescale, clip_min, clip_max, stencil,
        max_offset, extra_shift, known_variance, fit_radius, target_variance, covariance, plan.stencil,
    )  # fmt: skip
    if offset is not None:
        coords = coords + offset
    if covariances is not None:
        covariances = covariances.view(batch, num_keypoints, 2, 2)
    if extras.offsets is not None:
        coords = coords + _read_offsets(extras.offsets, extras.offset_scale, raw_maxima, y, x)
    coords = coords.to(output_dtype)
    if extras.image_transform is not None:
        coords, covariances = _transform(coords, covariances, extras.image_transform.to(output_dtype))
    coords.masked_fill_((peaks > 0).logical_not_(), invalid)  # a NaN is not positive
    if score_scale != 1.0 or score_offset != 0.0:
        peaks = peaks * score_scale + score_offset
    return (
        coords.view(2, batch, num_keypoints).permute(1, 2, 0),
        peaks.view(batch, num_keypoints),
        covariances,
    )


def refine(
    heatmaps: Tensor,  # [B, K, H, W]
    searched: Tensor,  # [B, K, H, W]
    peaks: Tensor,  # [N]
    raw_maxima: Tensor,  # [N]
    y: Tensor,  # [N]
    x: Tensor,  # [N]
    scale: Tensor | None,  # [N]
    taps: tuple[float, ...],
    padding: str,
    rescale: bool,
    clip_min: float,
    clip_max: float,
    stencil: str,
    max_offset: float,
    extra_shift: float,
    known_variance: float,
    fit_radius: int,
    target_variance: float,
    covariance: bool,
    plan: StencilPlan | None,
    map_index: Tensor | None = None,  # [N]
) -> tuple[Tensor | None, Tensor | None]:
    """The steps from the pixels of N peaks, and their covariances.

    Args:
        heatmaps: The maps.
        searched: Those in which the peaks were found: the same, or smoothed ones.
        peaks: Values of the peaks.
        raw_maxima: The largest value of each peak's map.
        y, x: The peaks' pixels.
        scale: What the smoothed maps are multiplied with, if that is known already.
        taps: Half of the blur kernel, centre first; the other arguments up to `covariance` are fields of a Recipe.
        plan: That of the maps, for a stencil that has one.
        map_index: Which of the B K maps each peak is in. None: one peak in each map, in their order.

    Returns:
        Steps [2, N], None for a recipe without; and covariances [N, 2, 2], None unless asked for.
    """
    if stencil == "none":
        return None, None
    covariances = None
    if plan is not None:
        if map_index is not None:
            plan = plan._replace(window_starts=plan.window_starts.index_select(0, map_index))
        values = _blur_at_stencil(heatmaps, peaks, y, x, padding, plan)
        if rescale and scale is None:
            scale = _scale_where_a_clip_binds(
                values, heatmaps, raw_maxima, taps, padding, clip_min, clip_max, map_index
            )
        if scale is not None:
            values = values * scale[:, None]
        logs = values.clamp_(clip_min, clip_max).log_()
        derivatives = _product(plan.derivative_weights, logs.t())
        known_variances = derivatives.new_full((1,), known_variance)
        if plan.fit is not None:
            fitted, is_peak = _fit_gaussian(heatmaps, peaks, y, x, fit_radius, plan, plan.fit)
            derivatives = torch.where(is_peak, fitted, derivatives)
            known_variances = torch.where(is_peak, derivatives.new_full((1,), target_variance), known_variances)
        if covariance:
            covariances = _covariances(derivatives, peaks, known_variances).to(peaks.dtype)
        # A singular Hessian makes both components infinite or NaN, and NaN comes from a peak too near the
        # border or from an infinite one (see _blur_at_stencil). The peak then stays where it is.
        offset = _newton_step(derivatives, plan).nan_to_num_(0.0, 0.0, 0.0)
    else:
        legacy = stencil == "quarter_legacy"
        offset = _quarter_step(searched, raw_maxima, y, x, extra_shift, legacy, map_index)
    return offset if max_offset == math.inf else offset.clamp_(-max_offset, max_offset), covariances


# --- what a call may take besides ------------------------------------------------------------------------


def _chosen_and_merged(heatmaps: Tensor, extras: Extras) -> Tensor:
    """The maps to decode: the chosen channels, and the means with their mirrored maps, in float32 or float64."""
    channels = _held(extras.keypoint_indices, heatmaps)
    maps = heatmaps if channels is None else heatmaps.index_select(1, channels)
    mirrored, flipped = _held(extras.flip_indices, heatmaps), extras.flipped
    if flipped is None or mirrored is None:
        return maps
    if channels is not None:
        mirrored = mirrored.index_select(0, channels)
    merged = maps.to(torch.float64 if maps.dtype == torch.float64 else torch.float32, copy=True).mul_(0.5)
    # On CPU in blocks of images that stay in the cache.
    images = maps.shape[0]
    if maps.device.type == "cpu":
        images = max(1, _FLIP_BLOCK // math.prod(maps.shape[1:]))
    for flipped_block, block in zip(flipped.split(images), merged.split(images), strict=True):
        back = flipped_block.index_select(1, mirrored).flip(-1)
        if extras.shift_flipped:
            block[..., 1:].add_(back[..., :-1], alpha=0.5)
            block[..., :1].add_(back[..., :1], alpha=0.5)
        else:
            block.add_(back, alpha=0.5)
    return merged


def _held(indices: Tensor | None, heatmaps: Tensor) -> Tensor | None:
    """Indices of channels. Of those on a device nobody has seen the values: held to what there is."""
    if indices is None or indices.device.type == "cpu":
        return indices
    return indices.clamp(0, heatmaps.shape[1] - 1)


def _read_offsets(offsets: Tensor, scale: float, raw_maxima: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The offset maps [B, K, 2, H, W] at each peak, scaled: [2, N]. 0 where that is not finite, or the map is not."""
    batch, num_keypoints = offsets.shape[:2]
    index = torch.arange(batch * num_keypoints, device=offsets.device)
    keypoint = index % num_keypoints
    index = index.div(num_keypoints, rounding_mode="floor")
    read = offsets[index, keypoint, :, y, x].to(raw_maxima.dtype).mul_(scale)
    moves = read.isfinite().all(-1) & (raw_maxima < math.inf)
    return torch.where(moves[:, None], read, 0.0).t()


def _transform(coords: Tensor, covariances: Tensor | None, matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    """Coordinates [2, N] and covariances [B, K, 2, 2] in the image, by affine matrices [B, 2, 3]."""
    batch = matrices.shape[0]
    num_keypoints = coords.shape[1] // batch
    x, y = coords.view(2, batch, num_keypoints)
    along_x, along_y, shift = matrices.permute(2, 1, 0).unsqueeze(-1)  # columns, each [2, B, 1]
    coords = (along_x * x + along_y * y + shift).flatten(1)
    if covariances is not None:
        linear = matrices[:, None, :, :2]
        # Sums of products and no matrix product, for which a user may have allowed TF32.
        left = (linear.unsqueeze(-1) * covariances.unsqueeze(-3)).sum(-2)
        covariances = (left.unsqueeze(-2) * linear.unsqueeze(-3)).sum(-1)
        covariances.diagonal(dim1=-2, dim2=-1).clamp_(min=0)  # rounding must not push a variance below zero
    return coords, covariances


# --- what a call needs to know of the shape and the recipe, and nothing of the values --------------------


class _FitPlan(NamedTuple):
    """Which pixels a Gaussian is fitted to around a peak, and how their moments are summed."""

    rows: Tensor  # [H, side]: those around a peak in that row, held inside the map, in elements from its first pixel
    columns: Tensor  # [W, side]
    rows_exist: Tensor  # [H, side]
    columns_exist: Tensor  # [W, side]
    powers: Tensor  # [side, 5]: powers 0 to 4 of the distance from the peak
    terms: Tensor  # [6, side * side]: see _FIT_TERMS
    equations: Tensor  # [42]: see _FIT_EQUATIONS


class StencilPlan(NamedTuple):
    """How to blur around a peak and step from it. Offsets are in elements from the tensor's first pixel."""

    extent: int  # as in Plan
    window_starts: Tensor  # [N]: the first pixel of each peak's map
    window_rows: Tensor  # [H, window rows]: the rows of the window of a peak in that row
    window_columns: Tensor  # [W]: its first column
    vertical: Tensor  # [H, 2 * reach + 1, window rows]: see _window_weights
    horizontal: Tensor  # [W, 2 * reach + 1, window columns]
    points: Tensor  # where the stencil's points lie in its square
    derivative_weights: Tensor  # [5, points]
    epsilon: Tensor | None  # [5, 1]: added to the derivatives for the step
    left_factors: Tensor  # [6]: see _CRAMER
    right_factors: Tensor  # [6]
    fit: _FitPlan | None


class Plan(NamedTuple):
    """Index and weight tensors of one shape, layout and recipe."""

    extent: int  # elements from the first pixel of the first map to the last of the last, both counted
    rows: int  # in a group whose maximum is taken at once
    grouped_shape: tuple[int, ...]  # [B, K, groups, rows, W]
    map_starts: Tensor  # [N], in elements from the tensor's first pixel
    group_step: int  # from one group of a map to the next
    line_starts: Tensor | None  # [rows] from the group's start, or None where a group is one line
    stencil: StencilPlan | None  # None for recipes that take no Taylor step


def make_plan(maps: Tensor, taps: tuple[float, ...], padding: str, stencil: str, fit_radius: int = 0) -> Plan:
    """What a call needs to know of maps of this shape, layout and place."""
    # A tensor made while a CUDA graph is captured belongs to that graph, so only plans on CPU are kept.
    make = _kept_plan if maps.device.type == "cpu" else _make_plan
    return make(maps.shape, maps.stride(), taps, padding, stencil, fit_radius, maps.dtype, maps.device)


def _make_plan(
    shape: torch.Size,
    strides: tuple[int, ...],
    taps: tuple[float, ...],
    padding: str,
    stencil: str,
    fit_radius: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    batch, num_keypoints, height, width = shape
    stride_b, stride_k, stride_h, stride_w = strides

    def count(size: int) -> Tensor:
        return torch.arange(size, device=device)

    map_starts = ((count(batch) * stride_b)[:, None] + count(num_keypoints) * stride_k).view(-1)
    rows = _rows_per_group(height, width, _GROUP_SIZE_OF_HALVES if dtype.itemsize == 2 else _GROUP_SIZE)
    one_line = rows == 1 or stride_h == width * stride_w
    return Plan(
        extent=1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)),
        rows=rows,
        grouped_shape=(batch, num_keypoints, height // rows, rows, width),
        map_starts=map_starts,
        group_step=rows * stride_h,
        line_starts=None if one_line else count(rows) * stride_h,
        stencil=_make_stencil_plan(map_starts, shape, strides, taps, padding, stencil, fit_radius, dtype)
        if stencil in _STENCILS
        else None,
    )


def _rows_per_group(height: int, width: int, group_size: int) -> int:
    divisors = [rows for rows in range(1, height + 1) if height % rows == 0]
    long_enough = [rows for rows in divisors if rows * width >= group_size] or [height]
    return next((rows for rows in long_enough if rows * width % _GROUP_STEP == 0), long_enough[0])


def _make_stencil_plan(
    map_starts: Tensor,
    shape: torch.Size,
    strides: tuple[int, ...],
    taps: tuple[float, ...],
    padding: str,
    stencil: str,
    fit_radius: int,
    dtype: torch.dtype,
) -> StencilPlan:
    device, (height, width) = map_starts.device, shape[2:]
    window_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    step_dtype = torch.float64 if device.type == "cpu" else window_dtype  # not every accelerator has float64

    points, needs_room = _STENCILS[stencil], stencil != "compact"
    reach = max(dy for dy, _ in points)
    side = 2 * reach + 1
    half_window = len(taps) - 1 + reach
    rows, columns = (_windows(size, half_window, device) for size in (height, width))
    vertical = _window_weights(rows, reach, needs_room, taps, padding, window_dtype)
    horizontal = _window_weights(columns, reach, needs_room, taps, padding, window_dtype)
    weights = [weight for row in points.values() for weight in row]
    left_factors, right_factors = (_on_device(factors, torch.int64, device) for factors in _CRAMER)
    epsilon = None
    if stencil == "compact":
        epsilon = _on_device([0.0, 0.0, _COMPACT_EPSILON, _COMPACT_EPSILON, 0.0], step_dtype, device).view(5, 1)
    return StencilPlan(
        extent=1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)),
        window_starts=map_starts,
        window_rows=rows * strides[2],
        window_columns=columns[:, 0] * strides[3],
        vertical=vertical,
        horizontal=horizontal,
        points=_on_device([(dy + reach) * side + dx + reach for dy, dx in points], torch.int64, device),
        derivative_weights=_on_device(weights, step_dtype, device).view(len(points), 5).t().contiguous(),
        epsilon=epsilon,
        left_factors=left_factors,
        right_factors=right_factors,
        fit=_make_fit_plan(shape, strides, fit_radius, step_dtype, device) if stencil == "fit" else None,
    )


def _make_fit_plan(
    shape: torch.Size, strides: tuple[int, ...], radius: int, dtype: torch.dtype, device: torch.device
) -> _FitPlan:
    distance = torch.arange(-radius, radius + 1, device=device)
    rows, columns = (torch.arange(size, device=device)[:, None] + distance for size in shape[2:])
    powers = (distance[:, None] ** torch.arange(5, device=device)).to(dtype)
    terms = [(powers[:, y, None] * powers[:, x]).view(-1) for x, y in _FIT_TERMS]
    return _FitPlan(
        rows=rows.clamp(0, shape[2] - 1) * strides[2],
        columns=columns.clamp(0, shape[3] - 1) * strides[3],
        rows_exist=(rows >= 0) & (rows < shape[2]),
        columns_exist=(columns >= 0) & (columns < shape[3]),
        powers=powers,
        terms=torch.stack(terms),
        equations=_on_device(_FIT_EQUATIONS, torch.int64, device),
    )


_kept_plan = functools.lru_cache(maxsize=32)(_make_plan)


def _on_device(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small constant tensor. Filled on the device: a copy from the host would make it wait."""
    return torch.cat([torch.full((1,), number, dtype=dtype, device=device) for number in numbers])


def _windows(size: int, reach: int, device: torch.device) -> Tensor:
    """For each pixel of an axis, the pixels up to `reach` from it: [size, window].

    Near a border the window is moved inside the map, and then shows others as well.
    """
    window = min(size, 2 * reach + 1)
    first = (torch.arange(size, device=device) - reach).clamp_(0, size - window)
    return first[:, None] + torch.arange(window, device=device)


def _window_weights(
    windows: Tensor, reach: int, needs_room: bool, taps: tuple[float, ...], padding: str, dtype: torch.dtype
) -> Tensor:
    """Blur along one axis, as a small matrix for each place a peak can have: [size, 2 * reach + 1, window].

    Row s of the matrix of peak p gives the blur at pixel p + s - reach, held inside the map, from the pixels
    `windows[p]`. Where a stencil that needs room would leave the map the matrix is NaN: the step then is not
    finite, and the peak stays where it is.
    """
    (size, window), radius, device = windows.shape, len(taps) - 1, windows.device
    peak = torch.arange(size, device=device)
    points = (peak[:, None] + torch.arange(-reach, reach + 1, device=device)).clamp_(0, size - 1)
    seen = points[..., None] + torch.arange(-radius, radius + 1, device=device)
    weights = _on_device([*taps[:0:-1], *taps], dtype, device).expand(seen.shape)
    if padding == "zeros":
        weights = weights * ((seen >= 0) & (seen < size))
    index = (_reflected(seen, size, padding) - windows[:, :1, None]).clamp_(0, window - 1)
    matrices = torch.zeros(*points.shape, window, dtype=dtype, device=device).scatter_add_(-1, index, weights)
    if needs_room:
        inside = (peak >= reach) & (peak < size - reach)
        matrices = torch.where(inside[:, None, None], matrices, math.nan)
    return matrices


def _reflected(index: Tensor, size: int, padding: str) -> Tensor:
    """The pixel of a row of `size` whose value stands at `index`, which may lie outside; "zeros" clamps."""
    if padding == "reflect":
        index = index.remainder(max(2 * size - 2, 1))
        return torch.minimum(index, (2 * size - 2 - index).clamp_(min=0))
    if padding == "symmetric":
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    return index.clamp(0, size - 1)


# --- the maximum, and the blur around it -----------------------------------------------------------------


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in full precision. Elsewhere than on CPU a user may have allowed TF32, which would cost four
    digits."""
    if left.device.type == "cpu":
        return left.bmm(right) if left.dim() == 3 else left.mm(right)
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)


def _first_maximum(maps: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Value, y and x of the first maximum in row-major order of [B, K, H, W] maps, each [B * K].

    Maxima without an index are vectorised on CPU and those with one are not, so: the maximum of each group
    of rows, the first group that holds the largest, then the place inside that group. NaN is the largest
    value throughout.
    """
    height, width = maps.shape[-2:]
    if maps.device.type == "cpu" and maps.numel() <= _FEW_PIXELS:
        lines = maps.reshape(-1, height * width)
        index = argmax_of_lines(lines)
        y = index.div(width, rounding_mode="floor")
        return lines.gather(1, index.unsqueeze(1)).squeeze(1), y, index - y * width
    rows, groups = plan.rows, height // plan.rows
    if maps.stride(1) < maps.stride(3):  # channels last: keep the keypoints innermost
        group_maxima = maps.permute(0, 2, 3, 1).unflatten(1, (groups, rows)).amax((2, 3))
        group_maxima = group_maxima.transpose(1, 2).reshape(-1, groups)
    else:
        group_maxima = maps.view(plan.grouped_shape).amax((3, 4)).view(-1, groups)
    peaks, group = group_maxima.max(-1)
    starts = torch.add(plan.map_starts, group, alpha=plan.group_step)
    if plan.line_starts is None:
        lines = _gather_lines(maps, starts, rows * width, plan.extent)
    else:
        starts = starts.unsqueeze(1) + plan.line_starts
        lines = _gather_lines(maps, starts.view(-1), width, plan.extent).view(-1, rows * width)
    index = argmax_of_lines(lines).add_(group, alpha=rows * width)
    y = index.div(width, rounding_mode="floor")
    return peaks, y, index.sub_(y, alpha=width)


def _gather_lines(maps: Tensor, starts: Tensor, length: int, extent: int) -> Tensor:
    """`length` pixels at the maps' column stride from each of `starts`: [len(starts), length].

    In a view whose line i begins at element i this is a plain selection of rows, which copies whole lines
    and is many times faster on CPU than indexing pixels.
    """
    stride, first = maps.stride(3), maps.storage_offset()
    if stride == 1:
        return maps.as_strided((extent - length + 1, length), (1, 1), first).index_select(0, starts)
    pixels = starts[:, None] + torch.arange(length, device=maps.device) * stride
    return maps.as_strided((extent,), (1,), first).index_select(0, pixels.view(-1)).view(-1, length)


def _blur_at_stencil(heatmaps: Tensor, peaks: Tensor, y: Tensor, x: Tensor, padding: str, plan: StencilPlan) -> Tensor:
    """The blurred map at the stencil's points, from the window around each peak: [N, points]."""
    vertical, horizontal = plan.vertical.index_select(0, y), plan.horizontal.index_select(0, x)
    starts = plan.window_rows.index_select(0, y)
    starts += plan.window_columns.index_select(0, x).add_(plan.window_starts).unsqueeze(1)
    windows = _gather_lines(heatmaps, starts.view(-1), plan.horizontal.shape[2], plan.extent).to(vertical.dtype)
    windows = windows.view(y.shape[0], -1, windows.shape[1])
    # What is blurred is the distance from the peak. So a plateau has equal numbers to the last bit, and its
    # slope vanishes beside UDP's epsilon. Zeros beyond the border would not follow, but there nothing is flat.
    level = None if padding == "zeros" else peaks.to(windows.dtype).unsqueeze(1)
    if level is not None:
        windows.sub_(level.unsqueeze(2))
    # Most weights of a window matrix are zero, and zero times an infinity is NaN. That is wanted where the
    # peak is +inf, since such a peak is not refined; for -inf the lowest finite number stands. In place: the
    # windows are a copy.
    windows.clamp_min_(torch.finfo(windows.dtype).min)
    # The last factor as a transposed view: the small products of a batch take half as long.
    blurred = _product(_product(vertical, windows), horizontal.transpose(1, 2)).flatten(1).index_select(1, plan.points)
    blurred = blurred.to(plan.derivative_weights.dtype)
    return blurred if level is None else blurred.add_(level)


def blur(maps: Tensor, taps: tuple[float, ...], padding: str) -> Tensor:
    """Smooth whole [N, H, W] maps. On CPU in blocks that stay in the cache: each is passed over thirty times."""
    block = max(1, _BLUR_BLOCK // math.prod(maps.shape[1:]))
    if maps.device.type != "cpu" or maps.shape[0] <= block:
        return _blur_block(maps, taps, padding)
    blurred = maps.new_empty(maps.shape)
    for part, blurred_part in zip(maps.split(block), blurred.split(block), strict=True):
        blurred_part.copy_(_blur_block(part, taps, padding))
    return blurred


def _blur_block(maps: Tensor, taps: tuple[float, ...], padding: str) -> Tensor:
    """Smooth whole [N, H, W] maps.

    The two pixels at one distance are added first, in the same order everywhere: equal or mirrored
    surroundings give equal numbers, so that of equal maxima the first is found.
    """
    limits = torch.finfo(maps.dtype)
    maps = maps.clamp(limits.min, limits.max)
    radius = len(taps) - 1
    for axis in (2, 1):
        size = maps.shape[axis]
        seen = torch.arange(-radius, size + radius, device=maps.device)
        padded = maps.index_select(axis, _reflected(seen, size, padding))
        if padding == "zeros":
            outside = (seen < 0) | (seen >= size)
            padded = padded.masked_fill_(outside.view((-1, 1) if axis == 1 else (-1,)), 0.0)
        maps = padded.narrow(axis, radius, size) * taps[0]
        for distance in range(1, radius + 1):
            pair = padded.narrow(axis, radius - distance, size) + padded.narrow(axis, radius + distance, size)
            maps.add_(pair, alpha=taps[distance])
    return maps


def _scale_where_a_clip_binds(
    values: Tensor,  # [N, points]
    heatmaps: Tensor,  # [B, K, H, W]
    raw_maxima: Tensor,  # [N]
    taps: tuple[float, ...],
    padding: str,
    clip_min: float,
    clip_max: float,
    map_index: Tensor | None,  # [N], or None for one peak in each map
) -> Tensor | None:
    """max(raw) / max(blurred) for the peaks whose step depends on it, 1 for the others: [N], or None for all 1.

    The scale lies between 1 and raw maximum / max(values): an average never exceeds the largest value, and the
    whole map's maximum is no less than the window's. So no clip binds if clip_min <= values and
    raw maximum <= clip_max; and if raw maximum <= clip_min or clip_max <= values, all points clip to one number. All
    else needs the exact scale.
    """
    on_cpu = heatmaps.device.type == "cpu"
    may_bind = values < clip_min * (1 + _CLIP_MARGIN)
    # The common case in few operations. Elsewhere than on CPU the host would have to wait for the device.
    if (
        on_cpu
        and not may_bind.any()
        and not (clip_max < math.inf and (raw_maxima > clip_max * (1 - _CLIP_MARGIN)).any())
    ):
        return None
    binds = may_bind.any(dim=-1) & (raw_maxima > clip_min * (1 - _CLIP_MARGIN))
    if clip_max < math.inf:
        below = (values < clip_max * (1 + _CLIP_MARGIN)).any(dim=-1)
        binds |= (raw_maxima > clip_max * (1 - _CLIP_MARGIN)) & below
    if on_cpu:
        chosen = binds.nonzero().squeeze(-1)
        if chosen.numel() == 0:
            return None
        raw_maxima = raw_maxima.index_select(0, chosen)
        maps_of_chosen, place = chosen, None
        if map_index is not None:  # each map once
            maps_of_chosen, place = map_index.index_select(0, chosen).unique(return_inverse=True)
        maps = heatmaps[maps_of_chosen // heatmaps.shape[1], maps_of_chosen % heatmaps.shape[1]]
    else:
        maps, place = heatmaps.flatten(0, 1), map_index
    blurred_maxima = blur(maps.to(values.dtype), taps, padding).amax((1, 2))
    if place is not None:
        blurred_maxima = blurred_maxima.index_select(0, place)
    scale = torch.where(blurred_maxima > 0, raw_maxima / blurred_maxima, 1.0)
    return values.new_ones(values.shape[0]).index_copy_(0, chosen, scale) if on_cpu else scale


# --- the step --------------------------------------------------------------------------------------------


def _newton_step(derivatives: Tensor, plan: StencilPlan) -> Tensor:
    """-(Hessian + epsilon I)^-1 gradient: [2, N]. Not finite where that has no inverse."""
    if plan.epsilon is not None:
        derivatives = derivatives + plan.epsilon
    products = derivatives.index_select(0, plan.left_factors).mul_(derivatives.index_select(0, plan.right_factors))
    step = products.narrow(0, 0, 3).sub_(products.narrow(0, 3, 3))
    return step.narrow(0, 0, 2) / step.narrow(0, 2, 1)


def _fit_gaussian(
    heatmaps: Tensor,  # [B, K, H, W]
    peaks: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    radius: int,
    plan: StencilPlan,
    fit: _FitPlan,
) -> tuple[Tensor, Tensor]:
    """Derivatives [5, N] of the log of a Gaussian fitted around each peak, and whether that is a peak: [N].

    Weighted least squares of a quadratic to the log of the positive pixels, weighted first with their squares, then
    with those of the values fitted before.
    """
    dtype, num_maps, side = fit.powers.dtype, y.shape[0], fit.powers.shape[0]
    rows = fit.rows.index_select(0, y).add_(plan.window_starts.unsqueeze(1))
    index = rows.unsqueeze(2) + fit.columns.index_select(0, x).unsqueeze(1)
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset())
    pixels = pixels.index_select(0, index.view(-1)).to(dtype).view(num_maps, side, side)
    pixels = pixels / peaks.to(dtype).view(-1, 1, 1)
    taken = fit.rows_exist.index_select(0, y).unsqueeze(2) & fit.columns_exist.index_select(0, x).unsqueeze(1)
    ignored = taken.logical_and_(pixels > 0).logical_not_().view(num_maps, -1)
    logs = pixels.view(num_maps, -1).masked_fill_(ignored, 1.0).log_()
    relative_logs = logs  # of the pixels, then of what was fitted to them, over its maximum
    is_peak = (peaks > 0) & (peaks < math.inf)
    weighted = logs.new_empty(num_maps, 2, side * side)
    weights, weighted_logs = weighted.unbind(1)
    for step in range(_FIT_SOLUTIONS):
        torch.mul(relative_logs, 2, out=weights).exp_().masked_fill_(ignored, 0.0)
        torch.mul(weights, logs, out=weighted_logs)
        # Over columns [2 N side, side], then over rows [2 N 5, side].
        moments = _product(weighted.view(-1, side), fit.powers)
        moments = _product(moments.view(-1, side, 5).transpose(1, 2).reshape(-1, side), fit.powers)
        equations = moments.view(num_maps, -1).t().index_select(0, fit.equations).view(6, 7, -1)
        solution, is_regular = _eliminate(equations)
        c0, dx, dy, half_dxx, dxy, half_dyy = solution
        derivatives = torch.stack([dx, dy, 2 * half_dxx, 2 * half_dyy, dxy])
        offset = _newton_step(derivatives, plan)
        is_peak &= is_regular & (half_dxx < 0) & (4 * half_dxx * half_dyy > dxy * dxy)
        is_peak &= (offset.abs() <= radius).all(0)
        if step + 1 < _FIT_SOLUTIONS:
            maxima = c0 + (dx * offset[0] + dy * offset[1]) / 2
            relative_logs = _product(solution.t(), fit.terms).sub_(maxima.unsqueeze(1))
    return derivatives, is_peak


def _eliminate(equations: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions [6, N] of N symmetric systems of six equations [6, 7, N], and whether they are regular: [N].

    All at once, in place, and without pivoting, which positive definite matrices do not need. What is singular ends in
    infinities and NaN, and nobody has to wait to hear of it.
    """
    diagonals = equations.diagonal(dim1=0, dim2=1).t()  # [6, N]
    lowest_pivots = diagonals * _FIT_PIVOT
    for i in range(6):
        row = equations[i, i + 1 :]
        row /= equations[i, i]
        equations[i + 1 :, i + 1 :] -= equations[i + 1 :, i : i + 1] * row
    solutions = equations[:, 6]
    for i in range(5, 0, -1):
        solutions[:i] -= equations[:i, i] * solutions[i]
    return solutions, (diagonals > lowest_pivots).all(0)


def _quarter_step(
    maps: Tensor,  # [B, K, H, W]
    raw_maxima: Tensor,  # [N]
    y: Tensor,
    x: Tensor,
    extra_shift: float,
    legacy: bool,
    map_index: Tensor | None,
) -> Tensor:
    """A quarter of a pixel towards the larger neighbour, and the extra shift, where the border rule acts: [2, N]."""
    _, num_keypoints, height, width = maps.shape
    index = torch.arange(y.shape[0], device=maps.device) if map_index is None else map_index
    keypoint = index % num_keypoints
    index = index.div(num_keypoints, rounding_mode="floor")
    left, right = (x - 1).clamp_(min=0), (x + 1).clamp_(max=width - 1)
    above, below = (y - 1).clamp_(min=0), (y + 1).clamp_(max=height - 1)
    horizontal = maps[index, keypoint, y, right] - maps[index, keypoint, y, left]
    vertical = maps[index, keypoint, below, x] - maps[index, keypoint, above, x]
    # Two infinite neighbours of one sign are as equal as two finite ones.
    sign = torch.stack([horizontal, vertical]).nan_to_num_(nan=0.0).sign_()
    moves_x, moves_y = (x > 1) & (x < width - 1), (y > 1) & (y < height - 1)
    if legacy:
        moves_x = moves_y = moves_x & moves_y
    else:
        moves_x, moves_y = moves_x & (y > 0), moves_y & (x > 0)
    moves = torch.stack([moves_x, moves_y])
    moves &= raw_maxima < math.inf
    return torch.where(moves, 0.25 * sign.to(raw_maxima.dtype) + extra_shift, 0.0)


def _covariances(derivatives: Tensor, peaks: Tensor, known_variances: Tensor) -> Tensor:
    """-Hessian^-1 - known_variances I where that is positive semi-definite, NaN elsewhere: [N, 2, 2]."""
    _, _, dxx, dyy, dxy = derivatives.unbind(0)
    determinant = dxx * dyy - dxy * dxy
    xx, xy, yy = -dyy / determinant - known_variances, dxy / determinant, -dxx / determinant - known_variances
    exists = (peaks > 0) & (dxx < 0) & (determinant > 0) & (xx + yy < math.inf)
    exists &= (xx >= 0) & (yy >= 0) & (xx * yy >= xy * xy)
    covariances = torch.stack([xx, xy, xy, yy], dim=-1)
    return torch.where(exists[:, None], covariances, math.nan).view(-1, 2, 2)
