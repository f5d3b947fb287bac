"""Device function of the losses that read maps at their targets: which cell, and whether it counts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def find_cells(
    target_ptr,  # [B, K, 2]
    target_stride_b,
    target_stride_k,
    target_stride_c,
    weight_ptr,  # [B, K]
    weight_stride_b,
    weight_stride_k,
    batch,  # int64
    keypoint,  # int64
    exists,
    height,
    width,
    stride,
    HAS_WEIGHT: tl.constexpr,
    IS_OFFSET: tl.constexpr,
):
    """Validity, weight, row, column (int64) and target of keypoints; the target relative to what means are
    relative to. Zeros where invalid."""
    pointer = target_ptr + batch * target_stride_b + keypoint * target_stride_k
    x = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(pointer + target_stride_c, mask=exists, other=0.0).to(tl.float32)
    # Rounded as every other backend rounds, for the same cell.
    column = tl.floor(tl.div_rn(x, stride))
    row = tl.floor(tl.div_rn(y, stride))
    # Before the conversion to integers, and false for a NaN.
    valid = exists & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    weight = tl.full(exists.shape, 1.0, dtype=tl.float32)
    if HAS_WEIGHT:
        pointer = weight_ptr + batch * weight_stride_b + keypoint * weight_stride_k
        weight = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        valid = valid & (weight > 0)
    weight = tl.where(valid, weight, 0.0)
    column = tl.where(valid, column, 0.0)
    row = tl.where(valid, row, 0.0)
    x = tl.where(valid, x, 0.0)
    y = tl.where(valid, y, 0.0)
    if IS_OFFSET:
        x = x - (column + 0.5) * stride
        y = y - (row + 0.5) * stride
    return valid, weight, row.to(tl.int64), column.to(tl.int64), x, y
