"""Device functions of target maps, for the kernel that writes them and for those that never do.

A launcher makes `Targets` and their constants with `targets_of`. A program loads its `Keypoints` and the first `Person`
once, and draws as many pixels as it likes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# exp(-d^2 / (2 sigma^2)) is 2^(HALF_LOG2_E * d^2 / sigma^2).
MINUS_HALF_LOG2_E = tl.constexpr(-0.7213475204444817)
# Maps of up to so many pixels have their rows found in float32, where (pixel + 1/2) / width is off by much less than
# half of 1 / width.
EXACT_PIXELS = 2**19


class Targets(NamedTuple):
    """Target maps [B, K, H, W] as a kernel takes them: people, the widths of their Gaussians, and the maps' size."""

    height: Any
    width: Any
    sigma: Any
    keypoints_ptr: Any  # [B, N, K, 2]
    keypoints_stride_b: Any
    keypoints_stride_n: Any
    keypoints_stride_k: Any
    keypoints_stride_c: Any
    visible_ptr: Any  # [B, N, K], or None
    visible_stride_b: Any
    visible_stride_n: Any
    visible_stride_k: Any
    sigmas_ptr: Any  # [K] in place of `sigma`, or None
    sigmas_stride_k: Any


class Drawing(NamedTuple):
    """Way to draw targets, a constant."""

    ENCODING: str
    IS_WINDOWED: bool  # nothing is drawn beyond 3 sigma
    SEVERAL: bool  # people an image
    IS_SMALL: bool  # see EXACT_PIXELS


def targets_of(
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    encoding: str,
    height: int,
    width: int,
) -> tuple[Targets, Drawing]:
    """Targets as an argument of a kernel, and their constants."""
    tensors = (*_strided(keypoints, 4), *_strided(visible, 3), *_strided(sigmas, 1))
    targets = Targets(height, width, sigma, *tensors)
    drawing = Drawing(
        ENCODING=encoding,
        IS_WINDOWED=encoding != "unbiased",
        SEVERAL=keypoints.shape[1] > 1,
        IS_SMALL=height * width <= EXACT_PIXELS,
    )
    return targets, drawing


def _strided(tensor: Tensor | None, num_strides: int) -> tuple[Any, ...]:
    """A tensor and its strides, or as many None."""
    return (None,) * (1 + num_strides) if tensor is None else (tensor, *tensor.stride())


class Pixels(NamedTuple):
    """Pixels of a map."""

    index: Any  # [P], row by row
    row: Any  # [P], float32
    column: Any  # [P], float32


class Keypoints(NamedTuple):
    """Keypoints of one image, and the Gaussians drawn at them; radius NaN and exponent 0 if sigma is not positive."""

    batch: Any  # int64
    index: Any  # int64 [M]
    exists: Any  # [M]
    radius: Any  # 3 sigma [M]
    exponent: Any  # -log2(e) / (2 sigma^2) [M]


class Person(NamedTuple):
    """Keypoints of one person, [M] each: weight (0 if nothing is drawn), centre, and window from left and top up to,
    and without, right and bottom."""

    weight: Any
    x: Any
    y: Any
    left: Any
    right: Any
    top: Any
    bottom: Any


@triton.jit
def find_pixels(index, targets, DRAWING: tl.constexpr):
    """Pixels at flat indices."""
    if DRAWING.IS_SMALL:  # many times cheaper than dividing integers
        place = index.to(tl.float32)
        row = tl.floor((place + 0.5) * (1.0 / targets.width))
        column = place - row * targets.width
    else:
        row = (index // targets.width).to(tl.float32)
        column = (index % targets.width).to(tl.float32)
    return Pixels(index, row, column)


@triton.jit
def load_keypoints(targets, batch, index, exists):
    """Keypoints `index` [M] of image `batch`, both int64."""
    if targets.sigmas_ptr is None:
        spread = tl.zeros(exists.shape, dtype=tl.float32) + targets.sigma
    else:
        spread = tl.load(targets.sigmas_ptr + index * targets.sigmas_stride_k, mask=exists, other=0.0).to(tl.float32)
    is_spread = spread > 0
    radius = tl.where(is_spread, 3.0 * spread, float("nan"))
    return Keypoints(batch, index, exists, radius, tl.where(is_spread, MINUS_HALF_LOG2_E / (spread * spread), 0.0))


@triton.jit
def _window(center, radius, DRAWING: tl.constexpr):
    """The pixel of a coordinate, and its window: from `first` up to, and without, `end`. Of no meaning for a NaN."""
    pixel = center
    first = center - radius
    end = center + radius + 1.0
    if DRAWING.IS_WINDOWED:
        pixel = center + 0.5
        pixel = tl.where(pixel < 0, tl.ceil(pixel), tl.floor(pixel))  # towards 0
        # trunc(pixel - radius) and trunc(pixel + radius + 1), from whole numbers: a fused product of 3 and sigma could
        # be a little off.
        first = pixel - tl.where(pixel < radius, tl.floor(radius), tl.ceil(radius))
        end = pixel + 1.0 + tl.where(pixel + 1.0 < -radius, tl.ceil(radius), tl.floor(radius))
    return pixel, first, end


@triton.jit
def load_person(targets, keypoints, person, DRAWING: tl.constexpr):
    """Keypoints of one person of the image."""
    exists = keypoints.exists
    pointer = targets.keypoints_ptr + keypoints.batch * targets.keypoints_stride_b
    pointer = pointer + person * targets.keypoints_stride_n + keypoints.index * targets.keypoints_stride_k
    x = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(pointer + targets.keypoints_stride_c, mask=exists, other=0.0).to(tl.float32)
    pixel_x, left, right = _window(x, keypoints.radius, DRAWING)
    pixel_y, top, bottom = _window(y, keypoints.radius, DRAWING)
    # Not for a NaN, which is neither above nor below.
    is_drawn = exists & (left < targets.width) & (right >= 0) & (top < targets.height) & (bottom >= 0)
    weight = tl.full(exists.shape, 1.0, dtype=tl.float32)
    if targets.visible_ptr is not None:
        pointer = targets.visible_ptr + keypoints.batch * targets.visible_stride_b
        pointer = pointer + person * targets.visible_stride_n + keypoints.index * targets.visible_stride_k
        weight = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        is_drawn = is_drawn & (weight >= 0.5)
        weight = tl.minimum(weight, 1.0)
    if DRAWING.ENCODING == "biased":
        x = pixel_x
        y = pixel_y
    weight = tl.where(is_drawn, weight, 0.0)
    return Person(weight, tl.where(is_drawn, x, 0.0), tl.where(is_drawn, y, 0.0), left, right, top, bottom)


@triton.jit
def _draw_person(person, keypoints, pixels, DRAWING: tl.constexpr):
    """Pixels of one person's target maps: [M, P]."""
    column = pixels.column[None, :]
    dx = column - person.x[:, None]
    row = pixels.row[None, :]
    dy = row - person.y[:, None]
    values = tl.exp2((dx * dx + dy * dy) * keypoints.exponent[:, None])
    is_drawn = (person.weight > 0)[:, None]
    if DRAWING.IS_WINDOWED:
        is_drawn = is_drawn & (column >= person.left[:, None]) & (column < person.right[:, None])
        is_drawn = is_drawn & (row >= person.top[:, None]) & (row < person.bottom[:, None])
    return tl.where(is_drawn, values, 0.0)


@triton.jit
def weight_of_crowd(targets, keypoints, first_person, num_people, DRAWING: tl.constexpr):
    """The largest weight of all people: [M]."""
    weight = first_person.weight
    if DRAWING.SEVERAL:
        for number in range(1, num_people):
            weight = tl.maximum(weight, load_person(targets, keypoints, number, DRAWING).weight)
    return weight


@triton.jit
def draw_targets(targets, keypoints, first_person, num_people, pixels, DRAWING: tl.constexpr):
    """Pixels of the target maps, of all people the largest: [M, P]. The first person is loaded once for all pixels."""
    target = _draw_person(first_person, keypoints, pixels, DRAWING)
    if DRAWING.SEVERAL:
        for number in range(1, num_people):
            person = load_person(targets, keypoints, number, DRAWING)
            target = tl.maximum(target, _draw_person(person, keypoints, pixels, DRAWING))
    return target
