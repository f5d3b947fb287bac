"""encode as a Triton kernel, and its launcher."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import launch, on_device_of
from .._triton.targets import EXACT_PIXELS, draw_targets, find_pixels, load_person, load_spread, weight_of_crowd


@triton.jit
def _store_pixels(map_ptr, pixel, num_pixels, values):
    """[1, P] pixels of a contiguous map."""
    mask = (pixel < num_pixels)[None, :]
    tl.store(map_ptr + pixel.to(tl.int64)[None, :], values.to(map_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_people", "num_keypoints"])
def _encode_fwd_kernel(
    heatmaps_ptr,  # [B, K, H, W], contiguous
    weight_ptr,  # [B, K], contiguous
    keypoints_ptr,  # [B, N, K, 2]
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,  # [B, N, K]
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    sigmas_ptr,  # [K]
    sigmas_stride_k,
    num_people,
    num_keypoints,
    height,
    width,
    sigma,
    BLOCK_PIXELS: tl.constexpr,
    ENCODING: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_SIGMAS: tl.constexpr,
    SEVERAL: tl.constexpr,
    IS_SMALL: tl.constexpr,
):
    """BLOCK_PIXELS pixels of a map. Writes each element once, which is the least that there is to move."""
    num_pixels = height * width
    num_blocks = tl.cdiv(num_pixels, BLOCK_PIXELS)
    block = tl.program_id(0) % num_blocks
    index = tl.program_id(0) // num_blocks
    batch = (index // num_keypoints).to(tl.int64)
    keypoint = (index % num_keypoints).to(tl.int64) + tl.arange(0, 1)
    exists = keypoint >= 0
    radius, exponent = load_spread(sigma, sigmas_ptr, sigmas_stride_k, keypoint, exists, HAS_SIGMAS)
    pixel = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    row, column = find_pixels(pixel, width, IS_SMALL)

    first_weight, x, y, left, right, top, bottom = load_person(
        keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c, visible_ptr,
        visible_stride_b, visible_stride_n, visible_stride_k, batch, 0, keypoint, exists, height, width, radius,
        ENCODING, HAS_VISIBLE,
    )  # fmt: skip
    values = draw_targets(
        first_weight, x, y, left, right, top, bottom, keypoints_ptr, keypoints_stride_b, keypoints_stride_n,
        keypoints_stride_k, keypoints_stride_c, visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k,
        num_people, batch, keypoint, exists, height, width, radius, exponent, row, column, ENCODING, HAS_VISIBLE,
        SEVERAL,
    )  # fmt: skip
    _store_pixels(heatmaps_ptr + index.to(tl.int64) * num_pixels, pixel, num_pixels, values)
    if block == 0:
        weight = weight_of_crowd(
            first_weight, keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k,
            keypoints_stride_c, visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k, num_people, batch,
            keypoint, exists, height, width, radius, ENCODING, HAS_VISIBLE, SEVERAL,
        )  # fmt: skip
        tl.store(weight_ptr + index.to(tl.int64) + tl.arange(0, 1), weight)


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
    num_pixels = height * width
    # Where there are none, pointers that are not read.
    visible_arguments: tuple[Any, ...] = (keypoints, 0, 0, 0) if visible is None else (visible, *visible.stride())
    sigma_arguments: tuple[Any, ...] = (keypoints, 0) if sigmas is None else (sigmas, *sigmas.stride())
    block_pixels = min(triton.next_power_of_2(num_pixels), 4096)
    arguments = [
        heatmaps, weight, keypoints, *keypoints.stride(), *visible_arguments, *sigma_arguments, keypoints.shape[1],
        num_keypoints, height, width, sigma,
    ]  # fmt: skip
    constants = {
        "BLOCK_PIXELS": block_pixels,
        "ENCODING": encoding,
        "HAS_VISIBLE": visible is not None,
        "HAS_SIGMAS": sigmas is not None,
        "SEVERAL": keypoints.shape[1] > 1,
        "IS_SMALL": num_pixels <= EXACT_PIXELS,
        "num_warps": 4,
    }
    grid = (batch * num_keypoints * triton.cdiv(num_pixels, block_pixels), 1, 1)
    with on_device_of(heatmaps):
        launch(_encode_fwd_kernel, grid, arguments, constants)
