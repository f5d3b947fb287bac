"""The workloads of all benchmarks: shapes, dtypes, memory formats and values, in one place.

Everything is seeded: a workload's maps are the same in every run and in every benchmark.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

import dark_kernels

Values = Literal["blobs", "real", "noise"]
MemoryFormat = Literal["contiguous", "channels_last"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# Copies of a workload's input are rotated, so that a call does not find its maps in a cache that it filled itself
# a call ago. No more copies than this: what they cover is then smaller than the cache, and was in the cache
# of any program that has just computed it.
_MOST_COPIES = 16


@dataclasses.dataclass(frozen=True)
class Workload:
    """A shape that users meet.

    Attributes:
        name: W1 to W5.
        shape: [B, K, H, W].
        what: The network and use that has it.
        gpu_only: Too large for a CPU benchmark of minutes.
    """

    name: str
    shape: tuple[int, int, int, int]
    what: str
    gpu_only: bool = False

    @property
    def num_maps(self) -> int:
        """B K."""
        return self.shape[0] * self.shape[1]

    @property
    def num_elements(self) -> int:
        """B K H W."""
        return math.prod(self.shape)

    def input_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the maps."""
        return self.num_elements * dtype.itemsize

    def decode_bytes(self, dtype: torch.dtype, covariance: bool = False) -> int:
        """Bytes that decode must move: every map read once; float32 coords, scores and covariances written."""
        return self.input_bytes(dtype) + self.num_maps * (28 if covariance else 12)


W1 = Workload("W1", (64, 17, 64, 48), "COCO-17, a batch of 256x192 crops")
W2 = Workload("W2", (32, 133, 96, 72), "whole body, 133 keypoints, 384x288 crops")
W3 = Workload("W3", (4, 308, 256, 192), "Sapiens, 308 keypoints, 1024x768 crops")
W4 = Workload("W4", (1, 17, 64, 48), "one person, as a live camera has it")
W5 = Workload("W5", (64, 308, 256, 192), "Sapiens in batches of 64", gpu_only=True)

ALL: tuple[Workload, ...] = (W1, W2, W3, W4, W5)
BY_NAME: dict[str, Workload] = {workload.name: workload for workload in ALL}


def make_heatmaps(
    workload: Workload,
    dtype: torch.dtype = torch.float32,
    memory_format: MemoryFormat = "contiguous",
    values: Values = "blobs",
    device: str = "cpu",
    seed: int = 0,
) -> Tensor:
    """Maps of a workload, [B, K, H, W].

    Args:
        workload: Whose shape.
        dtype: Of the maps. Values are drawn in float32 and rounded.
        memory_format: `"channels_last"` keeps K innermost, as a network in that format leaves it.
        values: `"blobs"`: Gaussian blobs as a trained network draws them, with a little noise (see
            `blobs`). `"real"`: the packaged network outputs, resized and tiled. `"noise"`: uniform in [0, 1).
        device: Where to.
        seed: Another seed gives other maps of the same kind.
    """
    generator = torch.Generator(device=device).manual_seed(1000 * seed + ALL.index(workload))
    if values == "blobs":
        heatmaps = blobs(workload.shape, generator, dtype)
    elif values == "noise":
        heatmaps = torch.rand(workload.shape, generator=generator, dtype=torch.float32, device=device).to(dtype)
    elif values == "real":
        heatmaps = tiled_real_heatmaps(workload.shape, seed).to(device=device, dtype=dtype)
    else:
        raise ValueError(f"values: got {values!r}, expected 'blobs', 'real' or 'noise'")
    if memory_format == "channels_last":
        return heatmaps.contiguous(memory_format=torch.channels_last)
    return heatmaps


def blobs(shape: tuple[int, int, int, int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gaussian blobs of standard deviation 2 to 3, peaks 0.3 to 1, absolute noise of 0.01, two in a hundred maps
    without a blob; centres anywhere in the map."""
    batch, num_keypoints, height, width = shape
    device = generator.device
    heatmaps = torch.empty(shape, dtype=dtype, device=device)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num_keypoints, 1, 1, generator=generator, device=device)

    rows = torch.arange(height, device=device, dtype=torch.float32)[None, :, None]
    columns = torch.arange(width, device=device, dtype=torch.float32)[None, None, :]
    for image in range(batch):  # one image at a time: W5 in float32 would not fit twice
        center_y, center_x = draw(0, height - 1), draw(0, width - 1)
        sigma, peak = draw(2, 3), draw(0.3, 1)
        peak = torch.where(draw(0, 1) < 0.02, 0.0, peak)
        across = torch.exp(-0.5 * ((columns - center_x) / sigma) ** 2)
        down = torch.exp(-0.5 * ((rows - center_y) / sigma) ** 2)
        noise = torch.randn(num_keypoints, height, width, generator=generator, device=device)
        heatmaps[image] = noise.mul_(0.01).abs_().add_(peak * down * across)
    return heatmaps


def tiled_real_heatmaps(shape: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    """The packaged network outputs, resized (bilinear) to H x W and repeated over B x K: float32, on CPU."""
    maps = dark_kernels.data.load().heatmaps.float()
    batch, num_keypoints, height, width = shape
    if maps.shape[-2:] != (height, width):
        maps = torch.nn.functional.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    maps = maps.flatten(0, 1)
    order = (torch.arange(batch * num_keypoints) + seed) % maps.shape[0]
    return maps[order].view(shape)


def num_copies(input_bytes: int, cache_bytes: int) -> int:
    """Number of copies of an input to rotate: together they are twice as large as the cache."""
    return min(max(1, math.ceil(2 * cache_bytes / max(input_bytes, 1))), _MOST_COPIES)


def rotated_inputs(inputs: Any, cache_bytes: int, num_bytes: int | None = None) -> list[Any]:
    """`inputs` and as many copies as it takes to leave the cache between two uses of one, strides kept.

    Args:
        inputs: A tensor, or a named tuple of tensors and None.
        cache_bytes: Size of the cache.
        num_bytes: What a use of one takes of the cache, by default their own bytes.
    """
    if num_bytes is None:
        tensors = [inputs] if isinstance(inputs, Tensor) else [each for each in inputs if each is not None]
        num_bytes = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    return [inputs, *(_of_each(_copy, inputs) for _ in range(num_copies(num_bytes, cache_bytes) - 1))]


def doubled(inputs: Any) -> Any:
    """`inputs` in float64, as leaves of their own."""
    return _of_each(
        lambda tensor: _like(tensor, tensor.detach().double()) if tensor.is_floating_point() else tensor, inputs
    )


def spread(batch: Tensor, count: int) -> Tensor:
    """So many maps (or what belongs to them) of [B, K, ...], evenly spread, as [1, N, ...]; all if there are fewer."""
    num_maps = batch.shape[0] * batch.shape[1]
    index = torch.linspace(0, num_maps - 1, min(count, num_maps), dtype=torch.float64).round().long().to(batch.device)
    return batch[index // batch.shape[1], index % batch.shape[1]][None]


def _of_each(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return function(inputs)
    return type(inputs)(*(None if each is None else function(each) for each in inputs))


def _copy(tensor: Tensor) -> Tensor:
    return _like(tensor, tensor.detach().clone(memory_format=torch.preserve_format))


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return other.requires_grad_(tensor.requires_grad)
