"""Batches of maps as kernels take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl  # noqa: F401, the interpreter looks for it in every module with a jitted function
from torch import Tensor


class Batch(NamedTuple):
    """Maps [B, K, H, W] as a kernel takes them: `batch_of(tensor)`."""

    ptr: Any
    stride_b: Any
    stride_k: Any
    stride_h: Any
    stride_w: Any


class Map(NamedTuple):
    """A map whose pixel (y, x) lies at ptr + y * stride_h + x * stride_w. `ptr` may be a block of them."""

    ptr: Any
    stride_h: Any
    stride_w: Any


@triton.jit
def map_of(maps, batch, keypoint):
    """One map of a `Batch`, or a block of them. Indices are int64."""
    return Map(maps.ptr + batch * maps.stride_b + keypoint * maps.stride_k, maps.stride_h, maps.stride_w)


def batch_of(maps: Tensor) -> Batch:
    """Maps as an argument of a kernel."""
    return Batch(maps, *maps.stride())


def is_flat(maps: Tensor) -> bool:
    """True if rows of a map follow each other in memory."""
    return maps.stride(2) == maps.shape[3] * maps.stride(3)
