"""Optional arguments of a call, besides heatmaps and a recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Extras(NamedTuple):
    """Everything optional, as the operator takes it. C is the number of maps of an image, K of its keypoints.

    Attributes:
        flipped: [B, C, H, W], the network's output for the mirrored images: the mean of both is decoded.
        flip_indices: [C] int64, which of its channels holds each keypoint.
        shift_flipped: Whether the flipped-back maps move one pixel to the right.
        keypoint_indices: [K] int64, the channels to decode; None for all.
        image_transform: [B, 2, 3], applied to coordinates and covariances.
        offsets: [B, C, 2, H, W], maps of what is added to the peak's pixel.
        offset_scale: What they are multiplied with.
    """

    flipped: Tensor | None = None
    flip_indices: Tensor | None = None
    shift_flipped: bool = False
    keypoint_indices: Tensor | None = None
    image_transform: Tensor | None = None
    offsets: Tensor | None = None
    offset_scale: float = 0.0

    @property
    def flip(self) -> str:
        """Way to merge maps and mirrored maps: "none", "mean" or "shifted"."""
        if self.flipped is None:
            return "none"
        return "shifted" if self.shift_flipped else "mean"


NO_EXTRAS = Extras()
_NAMES = Extras._fields


def named(extras: Extras) -> dict[str, Any]:
    """As keyword arguments: `_asdict()`, which torch.compile follows in PyTorch 2.6 as well."""
    return dict(zip(_NAMES, extras, strict=True))


def in_floats(heatmaps: Tensor, extras: Extras) -> tuple[Tensor, Extras]:
    """Maps of integers, and what belongs to them, as the same numbers in float32; others as they are."""
    if heatmaps.is_floating_point():
        return heatmaps, extras
    flipped, offsets = (None if each is None else each.to(torch.float32) for each in (extras.flipped, extras.offsets))
    return heatmaps.to(torch.float32), extras._replace(flipped=flipped, offsets=offsets)
