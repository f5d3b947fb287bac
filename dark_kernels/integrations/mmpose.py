"""Codecs for MMPose 1.x: its own, with a decoding of whole batches on the device that the network's output is on.

A config names one of them by `type`, with this module in front, which it imports; or by its name alone, where
`custom_imports` of a config file or an `import` has done so:

    # codec = dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2, unbiased=True)
    codec = dict(
        type="dark_kernels.integrations.mmpose.DarkKernelsMSRAHeatmap",
        input_size=(192, 256), heatmap_size=(48, 64), sigma=2, unbiased=True,
    )

| type | in place of |
|---|---|
| DarkKernelsMSRAHeatmap | MSRAHeatmap |
| DarkKernelsUDPHeatmap | UDPHeatmap, both of its heatmap types |
| DarkKernelsMegviiHeatmap | MegviiHeatmap |
| DarkKernelsSimCCLabel | SimCCLabel |

Arguments, attributes and `encode` are those of the codec in place of which they stand. Heads hand their whole batch to
`batch_decode`, which copies keypoints to the host and no maps; `decode` of one sample is a batch of one.

Keypoints are within 1e-4 heatmap pixels of the original's where the score is positive and the map is not nearly flat
(docs/decoders.md). Where it is not positive, MMPose means -1
in heatmap pixels, scaled to the input as all others, and that is what is returned here; its UDPHeatmap and, for empty
maps, its MegviiHeatmap return something else. Inputs are not overwritten, half precision (bfloat16 too) is decoded as
it is, and scores are float32 for it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from mmpose.codecs import MegviiHeatmap, MSRAHeatmap, SimCCLabel, UDPHeatmap
from mmpose.registry import KEYPOINT_CODECS
from numpy.typing import NDArray
from torch import Tensor

from .._common.names import Activation
from ..decode import decode, decode_offsets
from ..recipes import MEGVII, MMPOSE_DARK, MMPOSE_UDP, QUARTER, Recipe
from ..simcc import decode_simcc
from ._recipes import with_kernel_size

__all__ = [
    "DarkKernelsMSRAHeatmap",
    "DarkKernelsMegviiHeatmap",
    "DarkKernelsSimCCLabel",
    "DarkKernelsUDPHeatmap",
]

Array = NDArray[Any]


class _BatchDecoding:
    """Both decoding methods of a heatmap codec, given its recipe."""

    scale_factor: Array

    @property
    @abstractmethod
    def _recipe(self) -> Recipe:
        """The recipe of the codec."""

    def _decode_heatmaps(
        self,
        heatmaps: Tensor,  # [B, C, H, W]
    ) -> tuple[Tensor, Tensor]:
        """Keypoints [B, K, 2] in heatmap pixels, and scores [B, K]."""
        coords, scores, _ = decode(heatmaps, self._recipe)
        return coords, scores

    def _to_input(self, keypoints: Array) -> Array:
        """From heatmap pixels to input pixels, as the codec's own `decode` does it, dtype included."""
        return keypoints * self.scale_factor

    def batch_decode(
        self,
        batch_encoded: Tensor | Array,  # [B, C, H, W]
    ) -> tuple[list[Array], list[Array]]:
        """For each sample, its keypoints [1, K, 2] in input pixels and their scores [1, K].

        Args:
            batch_encoded: Heatmaps [B, C, H, W], a tensor on any device or an array.
        """
        coords, scores = self._decode_heatmaps(_tensor(batch_encoded))
        # On the host, like the rest of a head's results, and so that what is no keypoint is scaled as well.
        return _per_sample(self._to_input(coords.cpu().numpy())), _per_sample(scores.cpu().numpy())

    def decode(
        self,
        encoded: Array,  # [C, H, W]
    ) -> tuple[Array, Array]:
        """Decode one sample: keypoints [1, K, 2] in input pixels and their scores [1, K].

        Args:
            encoded: Heatmaps [C, H, W].
        """
        keypoints, scores = self.batch_decode(_tensor(encoded)[None])
        return keypoints[0], scores[0]


@KEYPOINT_CODECS.register_module()
class DarkKernelsMSRAHeatmap(_BatchDecoding, MSRAHeatmap):
    """MMPose's MSRAHeatmap: DARK if `unbiased`, else a quarter of a pixel towards the larger neighbour."""

    @property
    def _recipe(self) -> Recipe:
        return with_kernel_size(MMPOSE_DARK, self.blur_kernel_size) if self.unbiased else QUARTER


@KEYPOINT_CODECS.register_module()
class DarkKernelsMegviiHeatmap(_BatchDecoding, MegviiHeatmap):
    """MMPose's MegviiHeatmap: the peak of the smoothed map, a quarter of a pixel further, and half a pixel."""

    @property
    def _recipe(self) -> Recipe:
        return with_kernel_size(MEGVII, self.kernel_size)


@KEYPOINT_CODECS.register_module()
class DarkKernelsUDPHeatmap(_BatchDecoding, UDPHeatmap):
    """MMPose's UDPHeatmap: DARK over one pixel, or the offset maps of `heatmap_type="combined"`."""

    @property
    def _recipe(self) -> Recipe:
        return with_kernel_size(MMPOSE_UDP, self.blur_kernel_size)

    def _decode_heatmaps(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        if self.heatmap_type == "combined":
            coords, scores, _ = decode_offsets(heatmaps, self.blur_kernel_size, self.radius_factor)
            return coords, scores
        return super()._decode_heatmaps(heatmaps)

    def _to_input(self, keypoints: Array) -> Array:
        width, height = self.heatmap_size
        return keypoints / [width - 1, height - 1] * self.input_size


@KEYPOINT_CODECS.register_module()
class DarkKernelsSimCCLabel(SimCCLabel):
    """MMPose's SimCCLabel, with or without DARK. Visibilities are those of the network's output: where MMPose's own
    takes them after DARK, it has overwritten that output.

    Args:
        arguments, options: As MMPose's own takes them.
        activation: What `decode_simcc` makes of the predictions; `"none"` is MMPose's own.
        logit_scale: What multiplies them before: the `beta` of the head's KLDiscretLoss.
    """

    def __init__(
        self, *arguments: Any, activation: Activation = "none", logit_scale: float = 1.0, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.activation = activation
        self.logit_scale = logit_scale

    def batch_decode(
        self,
        simcc_x: Tensor | Array,  # [B, K, Wx]
        simcc_y: Tensor | Array,  # [B, K, Wy]
    ) -> tuple[list[Array], list[Array] | tuple[list[Array], list[Array]]]:
        """For each sample, its keypoints [1, K, 2] in input pixels and their scores [1, K]; with `decode_visibility`,
        a pair of scores and visibilities [1, K].

        Args:
            simcc_x, simcc_y: Predictions for both axes, tensors on any device or arrays.
        """
        sigma_x, sigma_y = (float(sigma) for sigma in self.sigma)
        coords, scores, visibility = decode_simcc(
            _tensor(simcc_x),
            _tensor(simcc_y),
            sigma=(sigma_x, sigma_y),
            dark=self.use_dark,
            visibility=self.decode_visibility,
            beta=self.decode_beta,
            activation=self.activation,
            logit_scale=self.logit_scale,
        )
        # Not decode_simcc's own division, which leaves keypoints without a positive score at -1.
        keypoints = _per_sample(coords.cpu().numpy() / self.simcc_split_ratio)
        if visibility is None:
            return keypoints, _per_sample(scores.cpu().numpy())
        return keypoints, (_per_sample(scores.cpu().numpy()), _per_sample(visibility.cpu().numpy()))

    def decode(
        self,
        simcc_x: Array,  # [K, Wx] or [N, K, Wx]
        simcc_y: Array,  # [K, Wy] or [N, K, Wy]
    ) -> tuple[Array, Array | tuple[Array, Array]]:
        """Keypoints [N, K, 2] in input pixels and their scores [N, K], N = 1 without that dimension; with
        `decode_visibility`, a pair of scores and visibilities [N, K].

        Args:
            simcc_x, simcc_y: Predictions for both axes.
        """
        axes = [_tensor(axis) for axis in (simcc_x, simcc_y)]
        keypoints, scores = self.batch_decode(*(axis[None] if axis.dim() == 2 else axis for axis in axes))
        if isinstance(scores, tuple):
            return np.concatenate(keypoints), (np.concatenate(scores[0]), np.concatenate(scores[1]))
        return np.concatenate(keypoints), np.concatenate(scores)


def _tensor(values: Tensor | Array) -> Tensor:
    """A tensor as it is, and an array, also a reversed view of one, as a tensor of its own."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _per_sample(
    values: Array,  # [B, ...]
) -> list[Array]:
    """[1, ...] of each sample: MMPose's one instance."""
    return list(values[:, None])
