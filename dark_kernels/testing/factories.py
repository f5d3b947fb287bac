"""Heatmaps to test with: blobs whose keypoints are known, awkward values and awkward memory layouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._common.products import product


class Blobs(NamedTuple):
    """Gaussian blobs and what there is to know of them.

    Attributes:
        heatmaps: [B, K, H, W], float64 unless another dtype was asked for.
        centers: [B, K, 2] as (x, y) in heatmap pixels.
        covariances: [B, K, 2, 2] of the blobs in squared heatmap pixels, rows and columns as (x, y).
    """

    heatmaps: Tensor
    centers: Tensor
    covariances: Tensor


def gaussian_blobs(
    batch: int,
    num_keypoints: int,
    height: int,
    width: int,
    sigma: float | tuple[float, float] = 2.0,
    margin: float = 8.0,
    peak: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Blobs:
    """One Gaussian blob a map, at a random place and, if `sigma` is a pair, at a random angle.

    Args:
        batch: B.
        num_keypoints: K.
        height: H.
        width: W.
        sigma: Standard deviation in pixels, or one for each principal axis.
        margin: Least distance in pixels of a centre from the border. Halved maps at the most.
        peak: Value at a centre.
        seed: Of the places and angles.
        dtype: Of the heatmaps; they are computed in float64 and rounded once.
        device: Where they are returned.
    """
    generator = torch.Generator().manual_seed(seed)
    sigmas = torch.tensor(
        [sigma, sigma] if isinstance(sigma, (int, float)) else list(sigma), dtype=torch.float64, device="cpu"
    )
    size = torch.tensor([width, height], dtype=torch.float64, device="cpu")
    margins = torch.minimum(torch.full_like(size, margin), (size - 1) / 2)
    uniform = torch.rand(batch, num_keypoints, 3, generator=generator, dtype=torch.float64, device="cpu")
    centers = margins + uniform[..., :2] * (size - 1 - 2 * margins)
    angle = uniform[..., 2] * math.pi
    cosine, sine = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    covariances = product(rotation, torch.diag(sigmas**2), rotation.mT)
    x = torch.arange(width, dtype=torch.float64, device="cpu") - centers[..., :1]
    y = torch.arange(height, dtype=torch.float64, device="cpu") - centers[..., 1:]
    precision = covariances.inverse()
    squares = (
        precision[..., 0, 0, None, None] * x[..., None, :] ** 2
        + 2 * precision[..., 0, 1, None, None] * x[..., None, :] * y[..., :, None]
        + precision[..., 1, 1, None, None] * y[..., :, None] ** 2
    )
    heatmaps = peak * torch.exp(-0.5 * squares)
    return Blobs(heatmaps.to(device, dtype), centers.to(device), covariances.to(device))


# --- values ----------------------------------------------------------------------------------------------


def _blob(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A blob anywhere, its centre up to two pixels outside the map, of any plausible width."""
    height, width = size
    across, down, spread = torch.rand(3, generator=generator, dtype=torch.float64, device="cpu").tolist()
    sigma = 0.7 + 2.5 * spread
    x = torch.arange(width, dtype=torch.float64, device="cpu") - (across * (width + 3) - 2)
    y = torch.arange(height, dtype=torch.float64, device="cpu") - (down * (height + 3) - 2)
    return torch.exp(-0.5 * (x[None, :] ** 2 + y[:, None] ** 2) / sigma**2)


def _noise(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64, device="cpu")


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64, device="cpu").item()


def _with_some(maps: Tensor, value: float, generator: torch.Generator) -> Tensor:
    index = torch.randint(maps.numel(), (1 + maps.numel() // 50,), generator=generator, device="cpu")
    return maps.flatten().index_fill(0, index, value).view(maps.shape)


# Each takes (height, width) and a generator and returns a float64 map.
VALUE_KINDS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "noise": _noise,
    "signed_noise": lambda size, g: _noise(size, g) - 0.5,
    "blob": lambda size, g: _blob(size, g) * _between(0.1, 1.0, g),
    "noisy_blob": lambda size, g: _blob(size, g) + 0.02 * (_noise(size, g) - 0.5),
    "two_blobs": lambda size, g: torch.maximum(_blob(size, g), _blob(size, g)),
    # Raw peaks around the lower clips of the recipes, 1e-3 and 1e-10, and around the upper one, 50.
    "weak_blob": lambda size, g: _blob(size, g) * _between(0.8e-3, 6e-3, g),
    "weak_noise": lambda size, g: _noise(size, g) * _between(0.8e-3, 6e-3, g),
    "very_weak_blob": lambda size, g: _blob(size, g) * _between(0.8e-10, 1e-8, g),
    "strong_blob": lambda size, g: _blob(size, g) * _between(40.0, 150.0, g),
    "strong_noise": lambda size, g: _noise(size, g) * _between(40.0, 150.0, g),
    "blob_on_negative": lambda size, g: _blob(size, g) - _between(0.01, 0.9, g),
    "ties": lambda size, g: torch.randint(0, 4, size, generator=g, device="cpu") / 4.0,
    "plateau": lambda size, g: _blob(size, g).clamp(max=0.6),
    "constant": lambda size, g: torch.full(size, _between(0.1, 1.0, g), dtype=torch.float64, device="cpu"),
    "zeros": lambda size, g: torch.zeros(size, dtype=torch.float64, device="cpu"),
    "one_pixel": lambda size, g: _with_some(torch.zeros(size, dtype=torch.float64, device="cpu"), 0.7, g),
    "negative": lambda size, g: -_noise(size, g) - 0.1,
    "tiny": lambda size, g: _noise(size, g) * 1e-30,
    "huge": lambda size, g: _noise(size, g) * 1e30,
    "huge_and_tiny": lambda size, g: _with_some(_noise(size, g) * 1e-30, 1e30, g),
    "some_nan": lambda size, g: _with_some(_noise(size, g), math.nan, g),
    "some_infinite": lambda size, g: _with_some(_noise(size, g), math.inf, g),
    "some_minus_infinite": lambda size, g: _with_some(_blob(size, g), -math.inf, g),
    "both_infinite": lambda size, g: _with_some(_with_some(_noise(size, g), math.inf, g), -math.inf, g),
    "all_minus_infinite": lambda size, g: torch.full(size, -math.inf, dtype=torch.float64, device="cpu"),
}
"""What a map can hold, by name: `f((height, width), generator)` returns a float64 map."""


def heatmaps_of_kinds(
    kinds: Sequence[str],
    batch: int,
    num_keypoints: int,
    height: int,
    width: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[B, K, H, W] maps that take their contents from `kinds` (names in `VALUE_KINDS`) in turn.

    Values beyond the dtype's range become infinite, as a conversion makes them.
    """
    generator = torch.Generator().manual_seed(seed)
    maps = [VALUE_KINDS[kinds[i % len(kinds)]]((height, width), generator) for i in range(batch * num_keypoints)]
    if not maps:
        return torch.empty(batch, num_keypoints, height, width, dtype=dtype, device="cpu")
    return torch.stack(maps).view(batch, num_keypoints, height, width).to(dtype)


# --- memory layouts --------------------------------------------------------------------------------------


def _sliced(maps: Tensor) -> Tensor:
    """Every other pixel of larger maps, whose other pixels would win if they were read."""
    batch, num_keypoints, height, width = maps.shape
    larger = maps.new_full((batch + 1, num_keypoints + 2, 2 * height + 1, 3 * width + 2), math.inf)
    view = larger[1:, 1:-1, 1::2, 2::3][:, :, :height, :width]
    view.copy_(maps)
    return view


def _offset(maps: Tensor) -> Tensor:
    storage = maps.new_full((maps.numel() + 7,), math.inf)
    view = storage[5 : 5 + maps.numel()].view(maps.shape)
    view.copy_(maps)
    return view


def _permuted(maps: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same maps, whose dimensions lie in memory in that order."""
    return maps.permute(order).contiguous().permute([order.index(axis) for axis in range(4)])


# Each returns a tensor with the same elements; "expanded" and "expanded_batch" repeat some of them first.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda maps: maps.contiguous(),
    "channels_last": lambda maps: _permuted(maps, (0, 2, 3, 1)),
    "transposed": lambda maps: _permuted(maps, (0, 1, 3, 2)),
    "batch_innermost": lambda maps: _permuted(maps, (3, 1, 2, 0)),
    "keypoints_outermost": lambda maps: _permuted(maps, (1, 0, 2, 3)),
    "sliced": _sliced,
    "offset": _offset,
    "expanded_keypoints": lambda maps: maps[:, :1].contiguous().expand(-1, maps.shape[1], -1, -1),
    "expanded_batch": lambda maps: maps[:1].contiguous().expand(maps.shape[0], -1, -1, -1),
    "expanded_rows": lambda maps: maps[:, :, :1].contiguous().expand(-1, -1, maps.shape[2], -1),
    "expanded_columns": lambda maps: maps[..., :1].contiguous().expand(-1, -1, -1, maps.shape[3]),
}
"""How maps can lie in memory, by name. The expanded ones repeat the first map, row or column."""


def with_layout(maps: Tensor, layout: str) -> Tensor:
    """`maps` laid out in memory as `LAYOUTS` says: other strides, and the same values unless it expands."""
    return LAYOUTS[layout](maps)
