"""encode as a Triton kernel, and its launcher."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import launch, on_device_of
from .._triton.targets import draw_targets, find_pixels, load_keypoints, load_person, targets_of, weight_of_crowd

_NUM_WARPS = 4
# Bytes that are drawn or cleared together: 16 for each of a wave's 64 lanes, 32 for each of a warp's.
_STEP_BYTES = 16 * 64 * _NUM_WARPS


@triton.jit
def _store_pixels(map_ptr, pixel, num_pixels, values):
    """[1, P] pixels of a contiguous map."""
    mask = (pixel < num_pixels)[None, :]
    tl.store(map_ptr + pixel.to(tl.int64)[None, :], values.to(map_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _first_pixel(row, targets):
    """Index of the first pixel of a row, which may lie beyond the map."""
    return tl.max(tl.minimum(tl.maximum(row, 0.0), targets.height * 1.0).to(tl.int32), axis=0) * targets.width


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _encode_fwd_kernel(
    heatmaps_ptr,  # [B, K, H, W], contiguous
    weight_ptr,  # [B, K], contiguous
    targets,  # Targets
    num_people,
    num_keypoints,
    BLOCK_PIXELS: tl.constexpr,
    STEP_PIXELS: tl.constexpr,
    DRAWING: tl.constexpr,
):
    """BLOCK_PIXELS pixels of a map. Writes each element once, which is the least that there is to move."""
    num_pixels = targets.height * targets.width
    num_blocks = tl.cdiv(num_pixels, BLOCK_PIXELS)
    block = tl.program_id(0) % num_blocks
    map_index = tl.program_id(0) // num_blocks
    batch = (map_index // num_keypoints).to(tl.int64)
    keypoint = (map_index % num_keypoints).to(tl.int64) + tl.arange(0, 1)
    keypoints = load_keypoints(targets, batch, keypoint, keypoint >= 0)
    map_ptr = heatmaps_ptr + map_index.to(tl.int64) * num_pixels

    first_person = load_person(targets, keypoints, 0, DRAWING)
    start, end = 0, num_pixels
    if STEP_PIXELS < BLOCK_PIXELS:  # none of a keypoint that is not drawn
        is_drawn = first_person.weight > 0
        start = _first_pixel(tl.where(is_drawn, first_person.top, 0.0), targets)
        end = _first_pixel(tl.where(is_drawn, first_person.bottom, 0.0), targets)
    for step in range(BLOCK_PIXELS // STEP_PIXELS):
        first = block * BLOCK_PIXELS + step * STEP_PIXELS
        index = first + tl.arange(0, STEP_PIXELS)
        if (first < end) & (first + STEP_PIXELS > start):
            pixels = find_pixels(index, targets, DRAWING)
            values = draw_targets(targets, keypoints, first_person, num_people, pixels, DRAWING)
            _store_pixels(map_ptr, index, num_pixels, values)
        else:  # most of a map, where a comparison a pixel would take longer than writing it
            _store_pixels(map_ptr, index, num_pixels, tl.zeros([1, STEP_PIXELS], dtype=tl.float32))
    if block == 0:
        weight = weight_of_crowd(targets, keypoints, first_person, num_people, DRAWING)
        tl.store(weight_ptr + map_index.to(tl.int64) + tl.arange(0, 1), weight)


def encode_fwd(
    heatmaps: Tensor,  # [B, K, H, W]
    weight: Tensor,  # [B, K]
    keypoints: Tensor,  # [B, N, K, 2]
    visible: Tensor | None,  # [B, N, K]
    sigmas: Tensor | None,  # [K], in place of `sigma`
    sigma: float,
    encoding: str,
) -> None:
    """Fill the outputs, which are contiguous; the weights are float32."""
    batch, num_keypoints, height, width = heatmaps.shape
    targets, drawing = targets_of(keypoints, visible, sigmas, sigma, encoding, height, width)
    block_pixels = min(triton.next_power_of_2(height * width), 4096)
    skips = drawing.IS_WINDOWED and not drawing.SEVERAL
    step_pixels = min(block_pixels, _STEP_BYTES // heatmaps.element_size()) if skips else block_pixels
    grid = (batch * num_keypoints * triton.cdiv(height * width, block_pixels), 1, 1)
    arguments = (heatmaps, weight, targets, keypoints.shape[1], num_keypoints)
    constants = {"BLOCK_PIXELS": block_pixels, "STEP_PIXELS": step_pixels, "DRAWING": drawing, "num_warps": _NUM_WARPS}
    with on_device_of(heatmaps):
        launch(_encode_fwd_kernel, grid, arguments, constants)
