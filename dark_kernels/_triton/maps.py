"""Reading pixels of a map, or of the mean of a map and a mirrored one, which a flip test asks for; and walking over a
whole map in blocks.

Functions that can merge a flip test take both maps. A mirrored one is given by its last column and by the step from
there to the left, so that a column counts from its right:

    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, shift, factor, ..., FLIP, ACTIVATION

FLIP is "none" (the map alone), "mean", or "shifted": the mirrored map, flipped back, moves one pixel to the right, and
its column 0 stays.

ACTIVATION is what is done to a pixel, or to the mean, once it is read: "none", "sigmoid" or "softmax". For a softmax
`shift` is the largest logit of the map and `factor` one over the sum of exp(logit - shift); others don't look at them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def mean_of(value, flipped):
    """The mean of two float32 numbers. Halves are exact, and their sum is finite where both numbers are."""
    return 0.5 * value + 0.5 * flipped


@triton.jit
def flipped_column(x, FLIP: tl.constexpr):
    """Where the flipped map's pixel for column `x` lies, counted from its right."""
    if FLIP == "shifted":
        x = tl.maximum(x - 1, 0)
    return x


@triton.jit
def activated(value, shift, factor, ACTIVATION: tl.constexpr):
    """What logits stand for, in float32. Two infinities of one sign differ by nothing."""
    if ACTIVATION == "sigmoid":
        value = 1.0 / (1.0 + tl.exp(-value))
    elif ACTIVATION == "softmax":
        value = tl.where(value == shift, factor, tl.exp(value - shift) * factor)
    return value


@triton.jit
def load_pixels(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    shift,
    factor,
    y,
    x,
    exists,  # or None, if all do
    FLIP: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """The pixels at rows `y` and columns `x`, inside the map or masked by `exists`, in float32; 0 where masked."""
    y = y.to(tl.int64)
    pixel_ptr = map_ptr + (y * stride_h + x.to(tl.int64) * stride_w)
    if exists is None:
        value = tl.load(pixel_ptr).to(tl.float32)
    else:
        value = tl.load(pixel_ptr, mask=exists, other=0.0).to(tl.float32)
    if FLIP != "none":
        column = flipped_column(x, FLIP).to(tl.int64)
        pixel_ptr = flipped_ptr + (y * flipped_stride_h + column * flipped_stride_w)
        if exists is None:
            flipped = tl.load(pixel_ptr).to(tl.float32)
        else:
            flipped = tl.load(pixel_ptr, mask=exists, other=0.0).to(tl.float32)
        value = mean_of(value, flipped)
    if ACTIVATION != "none":
        value = activated(value, shift, factor, ACTIVATION)
        if exists is not None:
            value = tl.where(exists, value, 0.0)
    return value


@triton.jit
def row_of(index, width, IS_SMALL: tl.constexpr):
    """The rows of flat indices, in their type. IS_SMALL: see `index_flags`."""
    if IS_SMALL:
        # A product in place of a division, for which a GPU has no instruction. The reciprocal is 2^32 / width, rounded
        # up, so the quotient is too large by less than index / 2^32: by less than the 1 / width to the next row.
        reciprocal = 0xFFFFFFFF // (tl.zeros([], dtype=tl.uint32) + width) + 1
        row = tl.umulhi(index.to(tl.uint32), reciprocal).to(index.dtype)
    else:
        row = index // width
    return row


@triton.jit
def offset_of(index, stride_h, stride_w, width, IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr):
    """Where pixels lie, from the start of their map."""
    if IS_FLAT:
        offset = index * stride_w
    else:
        row = row_of(index, width, IS_SMALL)
        offset = row * stride_h + (index - row * width) * stride_w
    return offset


@triton.jit
def comparable(value):
    """Values in a type that a GPU compares in one instruction, and exactly."""
    if value.dtype == tl.bfloat16:
        value = value.to(tl.float32)
    return value


@triton.jit
def load_whole(map_ptr, stride_h, stride_w, index, width, IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr):
    """Pixels of maps, all of which exist: the loads of the streaming loop."""
    return comparable(tl.load(map_ptr + offset_of(index, stride_h, stride_w, width, IS_FLAT, IS_SMALL)))


@triton.jit
def load_rest(map_ptr, stride_h, stride_w, index, exists, width, IS_FLAT: tl.constexpr, IS_SMALL: tl.constexpr):
    """Pixels of maps, of which some may not exist; these are -inf."""
    offset = offset_of(index, stride_h, stride_w, width, IS_FLAT, IS_SMALL)
    return comparable(tl.load(map_ptr + offset, mask=exists, other=float("-inf")))


def index_flags(heatmaps: Tensor, flipped: Tensor, step: int) -> dict[str, bool]:
    """How the pixels of maps [B, K, H, W] are counted. `step`: how many beyond a map's last one are computed with."""
    height, width = heatmaps.shape[2:]
    furthest = height * width + step
    for maps in (heatmaps, flipped):
        stride_h, stride_w = maps.stride()[2:]
        furthest = max(furthest, (height - 1) * stride_h + (width - 1) * stride_w + step * max(stride_w, 1))
    stride_h, stride_w = heatmaps.stride()[2:]
    return {
        "IS_FLAT": stride_h == width * stride_w,
        # Rows are found by multiplying: by a reciprocal below 2^32, exactly.
        "IS_SMALL": width > 1 and width * (height * width + step) <= 2**32,
        # 32-bit offsets inside a map unless its last pixel, or the step behind it, lies beyond 2^31.
        "WIDE_INDEX": furthest >= 2**31,
    }
