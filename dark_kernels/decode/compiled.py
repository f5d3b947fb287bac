"""decode in loops that Numba compiles, for float32 maps on a CPU: one map after the other, while it is in the cache.

What is here is made once for all calls that share it, or is PyTorch's; the arithmetic is in `compiled_loops.py`. Other
dtypes, activations and masses are eager's.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._common.compiled import run_in_blocks
from ..recipes import OperatorRecipe
from .compiled_loops import MATCHED, SEARCHED, STENCILS, decode_maps
from .options import NO_EXTRAS, Extras

# How far a matched filter reaches, and a blob's pixels, in standard deviations of the blob that is expected.
_FILTER_REACH, _BLOB_REACH = 2.4, 2.8
# Pixels of a block of maps that one thread takes: what is less than two of them is not worth another thread.
_BLOCK = 2**19

_NUMBERS = [
    name
    for name in OperatorRecipe._fields
    if name not in ("padding", "rescale", "stencil", "argmax_on", "activation", "kernel_size", "fit_radius")
]
_RECIPE = np.dtype(
    [("stencil", np.int64), ("searched", np.int64), ("rescale", np.bool_), *((name, np.float64) for name in _NUMBERS)]
)
_NONE = np.empty(0, np.float32)
_NO_STRIDES = np.empty(0, np.int64)
_NO_TRANSFORMS = np.empty((0, 2, 3), np.float32)
_NO_COVARIANCES = np.empty((0, 2, 2), np.float32)


def decode_fwd(
    heatmaps: Tensor,  # [B, C, H, W]
    recipe: OperatorRecipe,
    covariance: bool,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2] (None unless asked for), float32."""
    batch, num_channels, height, width = heatmaps.shape
    heatmaps = heatmaps.detach()
    plan = _plan(recipe, height, width)
    channels = _all_channels(num_channels)
    if extras.keypoint_indices is not None:
        channels = _checked(extras.keypoint_indices, num_channels)
    shape = batch, channels.shape[0]
    coords, scores = np.empty((shape[0] * shape[1], 2), np.float32), np.empty(shape[0] * shape[1], np.float32)
    covariances = np.empty((shape[0] * shape[1], 2, 2), np.float32) if covariance else _NO_COVARIANCES
    flipped = (_NONE, _NO_STRIDES, _NO_STRIDES)
    if extras.flipped is not None and extras.flip_indices is not None:
        flipped = (*_in_memory(extras.flipped), _checked(extras.flip_indices, num_channels)[channels])
    transforms, offsets = _NO_TRANSFORMS, (_NONE, _NO_STRIDES)
    if extras.image_transform is not None:
        transforms = extras.image_transform.to(torch.float32).contiguous().numpy()
    if extras.offsets is not None:
        offsets = _in_memory(extras.offsets)
    arguments = (
        height, width, batch, *_in_memory(heatmaps), channels,
        extras.flipped is not None, int(extras.shift_flipped), *flipped, *plan,
        transforms, *offsets, extras.offset_scale, coords, scores, covariances,
    )  # fmt: skip
    run_in_blocks(
        lambda first, last: decode_maps(first, last, *arguments),
        scores.size,
        max(1, _BLOCK // (height * width)),
    )
    return (
        torch.from_numpy(coords.reshape(*shape, 2)),
        torch.from_numpy(scores.reshape(shape)),
        torch.from_numpy(covariances.reshape(*shape, 2, 2)) if covariance else None,
    )


def _checked(indices: Tensor, num_channels: int) -> np.ndarray:
    """Indices as an array. In a compiled model nobody has looked at them, and loops read what there is."""
    channels = indices.numpy()
    if channels.size > 0 and not 0 <= channels.min() <= channels.max() < num_channels:
        raise IndexError(
            f"indices of channels: got {channels.min()} to {channels.max()}, expected 0 to {num_channels - 1}"
        )
    return channels


def _in_memory(maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The elements from the first to the last as one line, and the strides."""
    strides = maps.stride()
    if maps.is_contiguous():
        return maps.view(-1).numpy(), _strides(strides)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(maps.shape, strides, strict=True))
    return maps.as_strided((extent,), (1,), maps.storage_offset()).numpy(), _strides(strides)


@functools.lru_cache(maxsize=64)
def _strides(strides: tuple[int, ...]) -> np.ndarray:
    return np.array(strides, np.int64)


@functools.lru_cache(maxsize=64)
def _all_channels(count: int) -> np.ndarray:
    return np.arange(count)


class _Plan(NamedTuple):
    """What follows from a recipe and the maps' size, as `decode_maps` takes it."""

    recipe: np.ndarray  # [1], of _RECIPE
    taps: np.ndarray  # half of the blur, centre first
    taps32: np.ndarray
    rows: np.ndarray  # see `compiled_loops.Smoothing`
    columns: np.ndarray
    filter_taps: np.ndarray  # float32, like the next two
    norms_y: np.ndarray
    norms_x: np.ndarray
    filter_rows: np.ndarray
    filter_columns: np.ndarray
    terms: np.ndarray  # see `compiled_loops.Patch`
    round_terms: np.ndarray


@functools.lru_cache(maxsize=32)
def _plan(recipe: OperatorRecipe, height: int, width: int) -> _Plan:
    row = np.zeros(1, _RECIPE)
    row["stencil"], row["searched"] = STENCILS.index(recipe.stencil), SEARCHED.index(recipe.argmax_on)
    row["rescale"] = recipe.rescale
    for name in _NUMBERS:
        row[name] = getattr(recipe, name)
    taps = np.array(recipe.taps)
    filter_taps, norms_y, norms_x = np.ones(1), np.empty(0), np.empty(0)
    if row["searched"] == MATCHED:
        radius = math.ceil(_FILTER_REACH * recipe.blob_sigma)
        filter_taps = np.array(recipe._replace(kernel_size=2 * radius + 1, sigma=recipe.blob_sigma).taps)
        norms_y, norms_x = (_norms(size, filter_taps) for size in (height, width))
    # Up to where a blur sees at the stencil's points.
    rows, columns = (_seen(size, len(taps) + 1, recipe.padding) for size in (height, width))
    filter_rows, filter_columns = (_seen(size, len(filter_taps) - 1, "zeros") for size in (height, width))
    radius = math.ceil(_BLOB_REACH * recipe.blob_sigma) if recipe.stencil == "gaussian" else recipe.fit_radius
    terms = _terms(radius)
    return _Plan(
        row, taps, taps.astype(np.float32), rows, columns,
        filter_taps.astype(np.float32), norms_y.astype(np.float32), norms_x.astype(np.float32),
        filter_rows, filter_columns,
        terms, np.stack([*terms[:3], terms[3] + terms[5]]),
    )  # fmt: skip


def _seen(size: int, reach: int, padding: str) -> np.ndarray:
    """The pixel of an axis that is seen at each place from `reach` before it to `reach` behind; -1 for zeros."""
    index = np.arange(-reach, size + reach)
    if padding == "reflect":
        index = index % max(2 * size - 2, 1)
        return np.minimum(index, np.maximum(2 * size - 2 - index, 0))
    if padding == "symmetric":
        index = index % (2 * size)
        return np.minimum(index, 2 * size - 1 - index)
    return np.where((index >= 0) & (index < size), index, -1)


def _norms(size: int, taps: np.ndarray) -> np.ndarray:
    """Divisors of a matched filter: the root of the sum of the squared weights inside the map. But for a factor that
    makes of ones no more than 1: a bound on a map is one on what is made of it."""
    weights = np.concatenate([taps[:0:-1], taps])
    norms = np.sqrt(np.convolve(np.ones(size), weights**2)[len(taps) - 1 :][:size])
    return norms * np.max(np.convolve(np.ones(size), weights)[len(taps) - 1 :][:size] / norms)


def _terms(radius: int) -> np.ndarray:
    """1, u, v, u^2, u v and v^2 of the distances (u, v) up to a radius: [6, pixels]."""
    v, u = (each.ravel().astype(np.float64) for each in np.mgrid[-radius : radius + 1, -radius : radius + 1])
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
