"""Reading pixels of a map, or of the mean of a map and a mirrored one, which a flip test asks for.

Functions take both maps. A mirrored one is given by its last column and by the step from there to the left, so that
a column counts from its right:

    map_ptr, stride_h, stride_w, flipped_ptr, flipped_stride_h, flipped_stride_w, ..., FLIP

FLIP is "none" (the map alone), "mean", or "shifted": the mirrored map, flipped back, moves one pixel to the right, and
its column 0 stays.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def load_pixels(
    map_ptr,
    stride_h,
    stride_w,
    flipped_ptr,
    flipped_stride_h,
    flipped_stride_w,
    y,
    x,
    exists,  # or None, if all do
    FLIP: tl.constexpr,
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
    return value
