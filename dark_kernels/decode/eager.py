"""decode in vectorised PyTorch, for CPU and for any device without Triton.

Same numbers as the definition, far fewer of them: the maximum in one pass over the maps, then only the
pixels that the blur at the stencil's points can see. Rescaling a blurred map shifts its log by a constant,
which no derivative sees, so the whole map is blurred only for the rare map where a clip could bind.

The blur is computed in the precision of the input; from there on CPU computes in float64 whatever the input,
since a step is a quotient of differences of nearly equal logs. A fit is moments of a patch, as matrix products, and
an elimination that all maps go through together. That of a blob takes no logs, and the precision of the input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.lines import argmax_of_lines
from .._common.products import product
from ..recipes import OperatorRecipe
from .eager_blob import fit_blob
from .eager_plan import Plan, StencilPlan, make_plan
from .eager_scores import Activation, activation_of, mass_around
from .eager_search import blur_of, matched_filter_of, search_smoothed
from .eager_steps import covariances_of, differences_of, fit_gaussian, newton_step, quarter_step
from .options import NO_EXTRAS, Extras, in_floats

# How far rounding can push a value across a clip: float32 blurs are good to a few 1e-7. Generous, since a
# map sent to the exact way without need costs time and not accuracy.
_CLIP_MARGIN = 1e-5

# Up to so many pixels on CPU, one search of all of them costs less than the operations that spare it.
_FEW_PIXELS = 2**17
# Pixels of the maps that are flipped back at once on CPU.
_FLIP_BLOCK = 2**18
# Pixels of the means with mirrored maps that are stored at once on CPU, and of maps of integers in float32.
_MERGED_PIXELS, _CONVERTED_PIXELS = 2**22, 2**20


def decode_fwd(
    heatmaps: Tensor,  # [B, C, H, W]
    recipe: OperatorRecipe,
    covariance: bool,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2] (None unless asked for).

    float64 for float64 heatmaps, else float32.
    """
    batch = heatmaps.shape[0]
    images = batch
    if heatmaps.device.type == "cpu" and (extras.flipped is not None or not heatmaps.is_floating_point()):
        # Of so many images they take memory that is at hand; those of all would be handed out page by page.
        pixels = _MERGED_PIXELS if heatmaps.is_floating_point() else _CONVERTED_PIXELS
        images = max(1, pixels // math.prod(heatmaps.shape[1:]))
    if images >= batch:
        return _decode_images(heatmaps, recipe, covariance, extras)
    parts = [
        _decode_images(heatmaps[block], recipe, covariance, _extras_of(extras, block))
        for block in (slice(first, first + images) for first in range(0, batch, images))
    ]
    coords, scores, covariances = zip(*parts, strict=True)
    return torch.cat(coords), torch.cat(scores), None if covariances[0] is None else torch.cat(covariances)


def _extras_of(extras: Extras, images: slice) -> Extras:
    """Select what belongs to some of the images."""
    of_images = {
        name: value[images]
        for name in ("flipped", "image_transform", "offsets")
        if (value := getattr(extras, name)) is not None
    }
    return extras._replace(**of_images)


def _decode_images(
    heatmaps: Tensor,  # [B, C, H, W]
    recipe: OperatorRecipe,
    covariance: bool,
    extras: Extras,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`decode_fwd` of images whose merged maps are stored."""
    heatmaps, extras = in_floats(heatmaps, extras)
    if extras is not NO_EXTRAS:
        heatmaps = _chosen_and_merged(heatmaps, extras)
    batch, num_keypoints = heatmaps.shape[:2]
    output_dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    plan = make_plan(heatmaps, recipe)
    found, largest, activate = _find(heatmaps, recipe, plan, output_dtype)
    peaks, y, x, raw_maxima = found.peaks, found.y, found.x, found.raw_maxima

    coords = torch.stack([x, y])  # [2, N] up to the end: long rows are what vectors like
    offset, covariances = refine(heatmaps, found, recipe, covariance, plan.stencil, activate)
    if activate is not None or recipe.argmax_on == "blurred":  # where an infinite pixel is a finite peak, and stays
        stays = largest == math.inf
        offset = None if offset is None else offset.masked_fill(stays, 0.0)
        covariances = None if covariances is None else covariances.masked_fill(stays[:, None, None], math.nan)
    if offset is not None:
        coords = coords + offset
    if covariances is not None:
        covariances = covariances.view(batch, num_keypoints, 2, 2)
    if extras.offsets is not None:
        coords = coords + _read_offsets(extras.offsets, extras.offset_scale, raw_maxima, y, x)
    coords = coords.to(output_dtype)
    if extras.image_transform is not None:
        coords, covariances = _transform(coords, covariances, extras.image_transform.to(output_dtype))
    valid = peaks > 0 if activate is None else largest > -math.inf  # a NaN is not
    coords.masked_fill_(valid.logical_not_(), recipe.invalid)
    if recipe.mass_radius > 0:
        peaks = mass_around(heatmaps, raw_maxima, y, x, recipe.mass_radius, plan, activate)
    if recipe.score_scale != 1.0 or recipe.score_offset != 0.0:
        peaks = peaks * recipe.score_scale + recipe.score_offset
    return (
        coords.view(2, batch, num_keypoints).permute(1, 2, 0),
        peaks.view(batch, num_keypoints),
        covariances,
    )


class Found(NamedTuple):
    """N peaks on their pixels."""

    peaks: Tensor  # [N]: their values
    y: Tensor  # [N]
    x: Tensor  # [N]
    raw_maxima: Tensor  # [N]: the largest value of each one's map, activated like the peaks
    scale: Tensor | None = None  # [N]: what the smoothed maps are multiplied with, if that is known already
    differences: Tensor | None = None  # [2, N]: of neighbours, see `quarter_step`; None: those of the maps as they are
    map_index: Tensor | None = None  # [N]: which of the B K maps each is in; None: one in each map, in their order

    def of(self, chosen: Tensor) -> Found:
        """Select some of the peaks."""
        peaks, y, x, raw_maxima = (each.index_select(0, chosen) for each in self[:4])
        scale, differences, map_index = (None if each is None else each.index_select(-1, chosen) for each in self[4:])
        return Found(peaks, y, x, raw_maxima, scale, differences, chosen if map_index is None else map_index)


def _find(
    heatmaps: Tensor, recipe: OperatorRecipe, plan: Plan, dtype: torch.dtype
) -> tuple[Found, Tensor, Activation | None]:
    """The peak of each map, its largest pixel before any activation [N], and the activation."""
    activate = None
    if recipe.argmax_on == "raw":
        largest, y, x = _first_maximum(heatmaps, plan)
        largest = peaks = largest.to(dtype)
        if recipe.activation != "none":
            activate = activation_of(heatmaps, largest, recipe.activation)
            peaks = activate(peaks)
        return Found(peaks, y, x, peaks), largest, activate
    if recipe.activation != "none":
        largest = heatmaps.amax((-2, -1)).view(-1).to(dtype)
        activate = activation_of(heatmaps, largest, recipe.activation)
    if recipe.argmax_on == "matched":
        smoothed = search_smoothed(heatmaps, matched_filter_of(recipe), activate)
        raw_maxima = smoothed.raw_maxima
        # Beside an infinite pixel no other has a place.
        is_finite = raw_maxima < math.inf
        y, x = torch.where(is_finite, smoothed.y, smoothed.raw_y), torch.where(is_finite, smoothed.x, smoothed.raw_x)
        found = Found(raw_maxima, y, x, raw_maxima)
    else:
        smoothed = search_smoothed(heatmaps, blur_of(recipe), activate)
        peaks, raw_maxima, scale = smoothed.peaks, smoothed.raw_maxima, None
        if recipe.rescale:
            scale = torch.where(peaks > 0, raw_maxima / peaks, 1.0)
            peaks = peaks * scale
        found = Found(peaks, smoothed.y, smoothed.x, raw_maxima, scale, smoothed.differences)
    return found, raw_maxima if activate is None else largest, activate


def refine(
    heatmaps: Tensor,  # [B, K, H, W]
    found: Found,
    recipe: OperatorRecipe,
    covariance: bool,
    plan: StencilPlan | None,
    activate: Activation | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The steps from the pixels of N peaks, and their covariances.

    Args:
        heatmaps: The maps.
        found: The peaks.
        recipe: How to refine them.
        covariance: Whether covariances are wanted.
        plan: That of the maps, for a stencil that has one.
        activate: What is done to the maps' pixels, if they are logits.

    Returns:
        Steps [2, N], None for a recipe without; and covariances [N, 2, 2], None unless asked for.
    """
    if recipe.stencil == "none":
        return None, None
    covariances = None
    if plan is not None:
        fitted, is_peak = _fit(heatmaps, found, recipe, plan, activate)
        if fitted is None or is_peak is None:
            derivatives = _log_derivatives(heatmaps, found, recipe, plan, activate)
        elif heatmaps.device.type == "cpu":
            derivatives, others = fitted, is_peak.logical_not().nonzero().squeeze(1)
            if others.numel() > 0:
                of_others = _log_derivatives(heatmaps, found.of(others), recipe, plan, activate)
                derivatives = fitted.index_copy(1, others, of_others)
        else:  # the host would have to wait to learn which peaks are fitted
            derivatives = torch.where(is_peak, fitted, _log_derivatives(heatmaps, found, recipe, plan, activate))
        if covariance:
            known_variances = derivatives.new_full((1,), recipe.known_variance)
            if is_peak is not None:
                of_fit = derivatives.new_full((1,), recipe.target_variance)
                known_variances = torch.where(is_peak, of_fit, known_variances)
            covariances = covariances_of(derivatives, found.peaks, known_variances).to(found.peaks.dtype)
        # A singular Hessian makes both components infinite or NaN, and NaN comes from a peak too near the
        # border or from an infinite one (see _blur_at_stencil). The peak then stays where it is.
        offset = newton_step(derivatives, plan).nan_to_num_(0.0, 0.0, 0.0)
    else:
        differences = found.differences
        if differences is None:
            differences = differences_of(heatmaps, found.y, found.x, found.map_index)
        is_legacy, size = recipe.stencil == "quarter_legacy", (heatmaps.shape[2], heatmaps.shape[3])
        offset = quarter_step(differences, found.raw_maxima, found.y, found.x, recipe.extra_shift, is_legacy, size)
    if recipe.max_offset != math.inf:
        offset = offset.clamp_(-recipe.max_offset, recipe.max_offset)
    return offset, covariances


def _of_peaks(found: Found, plan: StencilPlan, activate: Activation | None) -> tuple[StencilPlan, Activation | None]:
    """The plan and the activation of each peak's map."""
    if found.map_index is None:
        return plan, activate
    starts = plan.window_starts.index_select(0, found.map_index)
    return plan._replace(window_starts=starts), None if activate is None else activate.of(found.map_index)


def _fit(
    heatmaps: Tensor, found: Found, recipe: OperatorRecipe, plan: StencilPlan, activate: Activation | None
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives [5, N] of the log of what is fitted around each peak, and where that is a peak: [N].

    Both None for a stencil that fits nothing.
    """
    if plan.fit is None and plan.blob is None:
        return None, None
    of_peaks, activate_peaks = _of_peaks(found, plan, activate)
    y, x = found.y, found.x
    if plan.blob is not None:
        return fit_blob(heatmaps, found.raw_maxima, y, x, recipe.blob_sigma, of_peaks, plan.blob, activate_peaks)
    assert plan.fit is not None
    return fit_gaussian(heatmaps, y, x, recipe.fit_radius, of_peaks, plan.fit, activate_peaks)


def _log_derivatives(
    heatmaps: Tensor, found: Found, recipe: OperatorRecipe, plan: StencilPlan, activate: Activation | None
) -> Tensor:
    """Derivatives of the log of the smoothed map at each peak, as the stencil has them: [5, N]."""
    of_peaks, activate_peaks = _of_peaks(found, plan, activate)
    values = _blur_at_stencil(heatmaps, found.y, found.x, recipe.padding, of_peaks, activate_peaks)
    scale = found.scale
    if recipe.rescale and scale is None:
        scale = _scale_where_a_clip_binds(values, heatmaps, found, recipe, activate)
    if scale is not None:
        values = values * scale[:, None]
    logs = values.clamp_(recipe.clip_min, recipe.clip_max).log_()
    return product(plan.derivative_weights, logs.t())


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
        covariances = product(linear, covariances, linear.mT)
        covariances.diagonal(dim1=-2, dim2=-1).clamp_(min=0)  # rounding must not push a variance below zero
    return coords, covariances


# --- the maximum, and the blur around it -----------------------------------------------------------------


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


def _blur_at_stencil(
    heatmaps: Tensor, y: Tensor, x: Tensor, padding: str, plan: StencilPlan, activate: Activation | None
) -> Tensor:
    """The blurred map at the stencil's points, from the window around each peak: [N, points]."""
    vertical, horizontal = plan.vertical.index_select(0, y), plan.horizontal.index_select(0, x)
    starts = plan.window_rows.index_select(0, y)
    starts += plan.window_columns.index_select(0, x).add_(plan.window_starts).unsqueeze(1)
    windows = _gather_lines(heatmaps, starts.view(-1), plan.horizontal.shape[2], plan.extent).to(vertical.dtype)
    windows = windows.view(y.shape[0], -1, windows.shape[1])
    if activate is not None:
        windows = activate(windows)
    # Most weights of a window matrix are zero, and zero times an infinity is NaN. That is wanted where the
    # peak is +inf, since such a peak is not refined; for -inf a very low number stands, from which a level can be
    # subtracted. In place: the windows are a copy.
    windows.clamp_min_(torch.finfo(windows.dtype).min / 2)
    # What is blurred is the distance from the blurred peak, and so are the roundings. On a plateau next to nothing is
    # left of them, and its slope vanishes beside UDP's epsilon; of a narrow peak, that a wide blur makes low, no large
    # numbers cancel. Zeros beyond the border would not follow, but there nothing is flat.
    level = None
    if padding != "zeros":
        reach = vertical.shape[1] // 2
        center = horizontal.narrow(1, reach, 1).transpose(1, 2)
        level = product(vertical.narrow(1, reach, 1), windows, center).clamp_min_(0.0)
        windows.sub_(level)
    # The last factor as a transposed view: the small products of a batch take half as long.
    blurred = product(vertical, windows, horizontal.transpose(1, 2)).flatten(1).index_select(1, plan.points)
    blurred = blurred.to(plan.derivative_weights.dtype)
    return blurred if level is None else blurred.add_(level.view(-1, 1))


def _scale_where_a_clip_binds(
    values: Tensor,  # [N, points]
    heatmaps: Tensor,  # [B, K, H, W]
    found: Found,
    recipe: OperatorRecipe,
    activate: Activation | None,
) -> Tensor | None:
    """max(raw) / max(blurred) for the peaks whose step depends on it, 1 for the others: [N], or None for all 1.

    The scale lies between 1 and raw maximum / max(values): an average never exceeds the largest value, and the
    whole map's maximum is no less than the window's. So no clip binds if clip_min <= values and
    raw maximum <= clip_max; and if raw maximum <= clip_min or clip_max <= values, all points clip to one number. All
    else needs the exact scale.
    """
    on_cpu = heatmaps.device.type == "cpu"
    raw_maxima, map_index = found.raw_maxima, found.map_index
    clip_min, clip_max = recipe.clip_min, recipe.clip_max
    lowest, highest = clip_min * (1 + _CLIP_MARGIN), clip_max * (1 - _CLIP_MARGIN)
    # The common case in few operations. Elsewhere than on CPU the host would have to wait for the device.
    if on_cpu and (
        values.numel() == 0  # which has no minimum
        or (values.amin().item() >= lowest and (clip_max == math.inf or raw_maxima.amax().item() <= highest))
    ):
        return None
    binds = (values < lowest).any(dim=-1) & (raw_maxima > clip_min * (1 - _CLIP_MARGIN))
    if clip_max < math.inf:
        below = (values < clip_max * (1 + _CLIP_MARGIN)).any(dim=-1)
        binds |= (raw_maxima > highest) & below
    if on_cpu:
        chosen = binds.nonzero().squeeze(-1)
        if chosen.numel() == 0:
            return None
        raw_maxima = raw_maxima.index_select(0, chosen)
        searched, place = chosen, None
        if map_index is not None:  # each map once
            searched, place = map_index.index_select(0, chosen).unique(return_inverse=True)
    else:
        searched, place = None, map_index
    blurred_maxima = search_smoothed(heatmaps, blur_of(recipe), activate, searched).peaks
    if place is not None:
        blurred_maxima = blurred_maxima.index_select(0, place)
    scale = torch.where(blurred_maxima > 0, raw_maxima / blurred_maxima, 1.0)
    return values.new_ones(values.shape[0]).index_copy_(0, chosen, scale.to(values.dtype)) if on_cpu else scale
