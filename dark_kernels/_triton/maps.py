"""Reading pixels of a map, or of the mean of a map and a mirrored one, which a flip test asks for; and walking over a
whole map in blocks.

A launcher makes `Heatmaps` of a tensor, and a program `Maps` of those that it reads. `Reading` and `Scan` are
constants: how single pixels are read, and how whole maps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Heatmaps(NamedTuple):
    """Maps [B, C, H, W] as an argument of a kernel."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_h: Any
    stride_w: Any


class Map(NamedTuple):
    """A map whose pixel (y, x) lies at ptr + y stride_h + x stride_w, or several such maps: `ptr` is a block then."""

    ptr: Any
    stride_h: Any
    stride_w: Any


class Softmax(NamedTuple):
    """The softmax of a map: exp(logit - largest) * factor."""

    largest: Any
    factor: Any  # one over the sum of exp(logit - largest)


class Maps(NamedTuple):
    """The map that a program decodes, with the mirrored one of a flip test.

    The mirrored one is given by its last column and by the step from there to the left, so that a column counts from
    its right.
    """

    plain: Any  # a Map
    flipped: Any  # a Map, or None
    height: Any
    width: Any
    softmax: Any  # a Softmax, or None: of another activation, and until a scan has found it


class Reading(NamedTuple):
    """The way to read a pixel, a constant."""

    ACTIVATION: str = "none"  # or "sigmoid" or "softmax": of the pixel, or of the mean of both maps
    SHIFTS_FLIPPED: bool = False  # the mirrored map, flipped back, moves one pixel to the right, and its column 0 stays


class Scan(NamedTuple):
    """A program's walk over whole maps, a constant."""

    BLOCK_SIZE: int
    LOADS: int  # blocks under way at once
    IS_FLAT: bool  # rows follow each other in memory
    USES_RECIPROCAL: bool  # rows are found by a product, see `row_of`
    WIDE_INDEX: bool  # offsets inside a map have 64 bits
    TOTAL: str = "none"  # see `totals.py`
    SHIFTS_FLIPPED: bool = False  # as in `Reading`


def heatmaps_of(maps: Tensor | None) -> Heatmaps | None:
    """Pass maps to a kernel; None stays None."""
    return None if maps is None else Heatmaps(maps, *maps.stride())


def is_flat(maps: Tensor) -> bool:
    """True if the rows of a map follow each other in memory."""
    return maps.stride(2) == maps.shape[3] * maps.stride(3)


@triton.jit
def map_of(heatmaps, batch, channel):
    """One of the maps, or a block of them. Indices are int64."""
    ptr = heatmaps.ptr + (batch * heatmaps.stride_b + channel * heatmaps.stride_k)
    return Map(ptr, heatmaps.stride_h, heatmaps.stride_w)


@triton.jit
def mean_of(value, flipped):
    """The mean of two float32 numbers. Halves are exact, and their sum is finite where both numbers are."""
    return 0.5 * value + 0.5 * flipped


@triton.jit
def flipped_column(x, SHIFTS_FLIPPED: tl.constexpr):
    """Column of the flipped map's pixel for column `x`, counted from its right."""
    if SHIFTS_FLIPPED:
        x = tl.maximum(x - 1, 0)
    return x


@triton.jit
def clamped(place, size):
    """A row or column, or the nearest one of the map."""
    return tl.minimum(tl.maximum(place, 0), size - 1)


@triton.jit
def activated(value, softmax, ACTIVATION: tl.constexpr):
    """Logits to probabilities, in float32. Two infinities of one sign differ by nothing."""
    if ACTIVATION == "sigmoid":
        value = 1.0 / (1.0 + tl.exp(-value))
    elif ACTIVATION == "softmax":
        value = tl.where(value == softmax.largest, softmax.factor, tl.exp(value - softmax.largest) * softmax.factor)
    return value


@triton.jit
def _load(source, y, x, exists):
    pixel_ptr = source.ptr + (y * source.stride_h + x.to(tl.int64) * source.stride_w)
    if exists is None:
        value = tl.load(pixel_ptr)
    else:
        value = tl.load(pixel_ptr, mask=exists, other=0.0)
    return value.to(tl.float32)


@triton.jit
def load_logits(maps, y, x, exists, SHIFTS_FLIPPED: tl.constexpr):
    """Pixels as they are, without an activation, in float32.

    `exists`: which of them lie inside the map, the others are 0; None if all do.
    """
    y = y.to(tl.int64)
    value = _load(maps.plain, y, x, exists)
    if maps.flipped is not None:
        value = mean_of(value, _load(maps.flipped, y, flipped_column(x, SHIFTS_FLIPPED), exists))
    return value


@triton.jit
def load_pixels(maps, y, x, exists, READING: tl.constexpr):
    """Pixels in float32. `exists`: as in `load_logits`."""
    value = load_logits(maps, y, x, exists, READING.SHIFTS_FLIPPED)
    if READING.ACTIVATION != "none":
        value = activated(value, maps.softmax, READING.ACTIVATION)
        if exists is not None:
            value = tl.where(exists, value, 0.0)
    return value


@triton.jit
def row_of(index, width, USES_RECIPROCAL: tl.constexpr):
    """The rows of flat indices, in their type. USES_RECIPROCAL: only where `index_flags` says that it is exact."""
    if USES_RECIPROCAL:
        # A product in place of a division, for which a GPU has no instruction. The reciprocal is 2^32 / width, rounded
        # up, so the quotient is too large by less than index / 2^32: by less than the 1 / width to the next row.
        reciprocal = 0xFFFFFFFF // (tl.zeros([], dtype=tl.uint32) + width) + 1
        row = tl.umulhi(index.to(tl.uint32), reciprocal).to(index.dtype)
    else:
        row = index // width
    return row


@triton.jit
def offset_of(maps, index, SCAN: tl.constexpr):
    """Offsets of pixels from the start of their map."""
    if SCAN.IS_FLAT:
        offset = index * maps.plain.stride_w
    else:
        row = row_of(index, maps.width, SCAN.USES_RECIPROCAL)
        offset = row * maps.plain.stride_h + (index - row * maps.width) * maps.plain.stride_w
    return offset


@triton.jit
def comparable(value):
    """Values in a type that a GPU compares in one instruction, and exactly."""
    if value.dtype == tl.bfloat16:
        value = value.to(tl.float32)
    return value


@triton.jit
def load_whole(maps, index, SCAN: tl.constexpr):
    """Pixels of maps, all of which exist: the loads of the streaming loop."""
    return comparable(tl.load(maps.plain.ptr + offset_of(maps, index, SCAN)))


@triton.jit
def load_rest(maps, index, exists, SCAN: tl.constexpr):
    """Pixels of maps, of which some may not exist; these are -inf."""
    return comparable(tl.load(maps.plain.ptr + offset_of(maps, index, SCAN), mask=exists, other=float("-inf")))


@triton.jit
def _offset_in_flipped(maps, index, SCAN: tl.constexpr):
    """Offsets of the mirrored map's pixels for these of the map, from the last column of its first row."""
    row = row_of(index, maps.width, SCAN.USES_RECIPROCAL)
    column = flipped_column(index - row * maps.width, SCAN.SHIFTS_FLIPPED)
    return row * maps.flipped.stride_h + column * maps.flipped.stride_w


@triton.jit
def load_step(maps, index, exists, IS_WHOLE: tl.constexpr, SCAN: tl.constexpr):
    """A block of pixels, or of their means with those of the mirrored map; -inf where there is none."""
    if IS_WHOLE:
        value = load_whole(maps, index, SCAN)
    else:
        value = load_rest(maps, index, exists, SCAN)
    if maps.flipped is not None:
        flipped_pixel_ptr = maps.flipped.ptr + _offset_in_flipped(maps, index, SCAN)
        if IS_WHOLE:
            flipped = tl.load(flipped_pixel_ptr)
        else:
            flipped = tl.load(flipped_pixel_ptr, mask=exists, other=float("-inf"))
        value = mean_of(value.to(tl.float32), flipped.to(tl.float32))
    return value


def index_flags(heatmaps: Tensor, flipped: Tensor | None, step: int) -> dict[str, bool]:
    """Fields of `Scan`: how the pixels of maps [B, K, H, W] are counted.

    `step`: how many beyond a map's last pixel are computed with.
    """
    height, width = heatmaps.shape[2:]
    furthest = height * width + step
    for maps in (heatmaps, heatmaps if flipped is None else flipped):
        stride_h, stride_w = maps.stride()[2:]
        furthest = max(furthest, (height - 1) * stride_h + (width - 1) * stride_w + step * max(stride_w, 1))
    return {
        "IS_FLAT": is_flat(heatmaps),
        # Below 2^32 the reciprocal is exact.
        "USES_RECIPROCAL": width > 1 and width * (height * width + step) <= 2**32,
        # 32-bit offsets inside a map unless its last pixel, or the step behind it, lies beyond 2^31.
        "WIDE_INDEX": furthest >= 2**31,
    }
