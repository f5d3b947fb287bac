"""The kernel that only reads (what a pass over the maps costs when nothing is done with them) and the one that does
nothing at all (what a launch costs)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Bytes that a thread reads at a time, and warps a program: the fastest, or within 5% of it, of those tried on an
# H200 for W1 to W5 in float32 and float16. A choice of its own, so that tuning decode does not move its floor.
_BYTES_A_THREAD = 32
_NUM_WARPS = 4


@triton.jit
def _read_maps_kernel(
    largest_ptr,  # [N]
    maps_ptr,  # [N, pixels], contiguous
    num_pixels,
    BLOCK_SIZE: tl.constexpr,
):
    """One program reads one map and writes its largest value: as little as keeps the compiler from
    dropping the loads."""
    map_index = tl.program_id(0).to(tl.int64)
    map_ptr = maps_ptr + map_index * num_pixels
    lane = tl.arange(0, BLOCK_SIZE)
    largest = tl.full([BLOCK_SIZE], float("-inf"), dtype=tl.float32)
    for start in range(0, num_pixels, BLOCK_SIZE):
        index = start + lane
        value = tl.load(map_ptr + index, mask=index < num_pixels, other=float("-inf")).to(tl.float32)
        largest = tl.maximum(largest, value)
    tl.store(largest_ptr + map_index, tl.max(largest, axis=0))


def read_maps(largest: Tensor, heatmaps: Tensor) -> None:
    """Read every element of [B, K, H, W] `heatmaps` once, one program a map.

    The heatmaps are read in the order in which they lie in memory: for channels_last maps `largest` ([B, K],
    float32) is then the maximum of other groups of as many elements, and the floor is that of the same bytes.
    """
    batch, num_keypoints, height, width = heatmaps.shape
    block_size = 32 * _NUM_WARPS * _BYTES_A_THREAD // heatmaps.element_size()
    _read_maps_kernel[(batch * num_keypoints,)](
        largest, heatmaps, height * width, BLOCK_SIZE=block_size, num_warps=_NUM_WARPS
    )


@triton.jit
def _empty_kernel(unused_ptr):
    """Does nothing, as often as there are programs."""


def launch_nothing(unused: Tensor, num_programs: int) -> None:
    """One launch of `num_programs` programs that do nothing."""
    _empty_kernel[(num_programs,)](unused, num_warps=_NUM_WARPS)
