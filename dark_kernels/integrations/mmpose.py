"""Codecs for MMPose 1.x: its own, with a decoding of whole batches on the device that the network's output is on.

A config names one of them by `type`, and imports this module:

    custom_imports = dict(imports=["dark_kernels.integrations.mmpose"], allow_failed_imports=False)
    # codec = dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2, unbiased=True)
    codec = dict(type="DarkKernelsMSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2, unbiased=True)

| type | in place of |
|---|---|
| DarkKernelsMSRAHeatmap | MSRAHeatmap |
| DarkKernelsUDPHeatmap | UDPHeatmap, both of its heatmap types |
| DarkKernelsMegviiHeatmap | MegviiHeatmap |
| DarkKernelsSimCCLabel | SimCCLabel |

Arguments, attributes and `encode` are those of the codec in place of which they stand. Heads hand their whole batch to
`batch_decode`, which copies keypoints to the host and no maps; `decode` of one sample is a batch of one.

Keypoints are within 1e-4 heatmap pixels of the original's where the score is positive. Where it is not, MMPose means -1
in heatmap pixels, scaled to the input as all others, and that is what is returned here; its UDPHeatmap and, for empty
maps, its MegviiHeatmap return something else. Inputs are not overwritten, half precision (bfloat16 too) is decoded as
it is, and scores are float32 for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmpose.codecs import MegviiHeatmap, MSRAHeatmap, UDPHeatmap
from mmpose.registry import KEYPOINT_CODECS
from numpy.typing import NDArray
from torch import Tensor

from ..decode import decode
from ..recipes import MEGVII, MMPOSE_DARK, MMPOSE_UDP, QUARTER, Recipe
from ._recipes import with_kernel_size

__all__ = [
    "DarkKernelsMSRAHeatmap",
    "DarkKernelsMegviiHeatmap",
    "DarkKernelsUDPHeatmap",
]

Array = NDArray[Any]


class _BatchDecoding:
    """Both decoding methods of a heatmap codec, from `decode_heatmaps` and `to_input`."""

    def decode_heatmaps(
        self,
        heatmaps: Tensor,  # [B, C, H, W]
    ) -> tuple[Tensor, Tensor]:
        """Keypoints [B, K, 2] in heatmap pixels, and scores [B, K]."""
        raise NotImplementedError

    def to_input(self, keypoints: Array) -> Array:
        """From heatmap pixels to the network's input, as the codec's own `decode` does it."""
        raise NotImplementedError

    def batch_decode(
        self,
        batch_encoded: Tensor,  # [B, C, H, W]
    ) -> tuple[list[Array], list[Array]]:
        """For each sample, its keypoints [1, K, 2] in input pixels and their scores [1, K].

        Args:
            batch_encoded: Heatmaps [B, C, H, W] on any device.
        """
        coords, scores = self.decode_heatmaps(batch_encoded)
        keypoints = self.to_input(coords.cpu().numpy())
        return list(keypoints[:, None]), list(scores.cpu().numpy()[:, None])

    def decode(
        self,
        encoded: Array,  # [C, H, W]
    ) -> tuple[Array, Array]:
        """Of one sample: keypoints [1, K, 2] in input pixels and their scores [1, K].

        Args:
            encoded: Heatmaps [C, H, W].
        """
        keypoints, scores = self.batch_decode(torch.from_numpy(np.array(encoded))[None])
        return keypoints[0], scores[0]


class _ScaledDecoding(_BatchDecoding):
    """Of codecs with one recipe, and a factor for each axis from the heatmap to the input."""

    scale_factor: Array

    @property
    def recipe(self) -> Recipe:
        """How this codec's options decode."""
        raise NotImplementedError

    def decode_heatmaps(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        coords, scores, _ = decode(heatmaps, self.recipe)
        return coords, scores

    def to_input(self, keypoints: Array) -> Array:
        return keypoints * self.scale_factor


@KEYPOINT_CODECS.register_module()
class DarkKernelsMSRAHeatmap(_ScaledDecoding, MSRAHeatmap):
    """MMPose's MSRAHeatmap: DARK if `unbiased`, else a quarter of a pixel towards the larger neighbour."""

    @property
    def recipe(self) -> Recipe:
        return with_kernel_size(MMPOSE_DARK, self.blur_kernel_size) if self.unbiased else QUARTER


@KEYPOINT_CODECS.register_module()
class DarkKernelsMegviiHeatmap(_ScaledDecoding, MegviiHeatmap):
    """MMPose's MegviiHeatmap: the peak of the smoothed map, a quarter of a pixel further, and half a pixel."""

    @property
    def recipe(self) -> Recipe:
        return with_kernel_size(MEGVII, self.kernel_size)


@KEYPOINT_CODECS.register_module()
class DarkKernelsUDPHeatmap(_BatchDecoding, UDPHeatmap):
    """MMPose's UDPHeatmap: DARK over one pixel, or the offset maps of `heatmap_type="combined"`."""

    def decode_heatmaps(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        if self.heatmap_type == "combined":
            return _decode_offsets(heatmaps, self.blur_kernel_size, self.radius_factor)
        coords, scores, _ = decode(heatmaps, with_kernel_size(MMPOSE_UDP, self.blur_kernel_size))
        return coords, scores

    def to_input(self, keypoints: Array) -> Array:
        width, height = self.heatmap_size
        return keypoints / [width - 1, height - 1] * self.input_size


def _decode_offsets(
    heatmaps: Tensor,  # [B, 3K, H, W]
    kernel_size: int,
    radius_factor: float,
) -> tuple[Tensor, Tensor]:
    recipe = Recipe(
        kernel_size=2 * kernel_size + 1, padding="reflect", rescale=False, stencil="none", argmax_on="blurred"
    )
    classes, offsets = heatmaps[:, ::3], heatmaps.unflatten(1, (-1, 3))[:, :, 1:]
    coords, scores, _ = decode(classes, recipe)
    height, width = heatmaps.shape[-2:]
    valid = scores > 0
    column, row = coords.long().clamp(min=0).unbind(-1)
    index = (row * width + column)[:, :, None, None].expand(-1, -1, 2, 1)
    step = offsets.flatten(3).gather(3, index)[..., 0] * (radius_factor * max(width, height))
    return torch.where(valid[..., None], coords + step, coords), scores
