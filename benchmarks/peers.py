"""Others that do the same job, or a part of it that they can't do without.

Each is made by a function that returns it, or raises `NotInstalled` with the reason. A peer whose output is
wrong is reported as wrong and not timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class NotInstalled(Exception):
    """A peer can't run here; the message says why."""


def opencv_blur_loop(kernel_size: int = 11) -> Callable[[Tensor], Tensor]:
    """A loop of `cv2.GaussianBlur(map, (k, k), 0)` over the maps of [B, K, H, W] float32: blurred maps.

    Not a decoder, only what nearly every published DARK decoder does first (the padding by hand, the
    rescaling, the argmax and the Taylor step come on top, per map, in Python). Borders as OpenCV's default has
    them: `reflect` in our words.
    """
    try:
        import cv2
    except ImportError as error:
        raise NotInstalled(f"opencv is not installed ({error})") from error

    buffers: dict[torch.Size, Tensor] = {}

    def blur(heatmaps: Tensor) -> Tensor:
        # One buffer for all calls: memory that is new to the process would cost the loop as much again.
        blurred = buffers.setdefault(heatmaps.shape, torch.empty_like(heatmaps))
        for image, blurred_image in zip(heatmaps.numpy(), blurred.numpy(), strict=True):
            for heatmap, blurred_map in zip(image, blurred_image, strict=True):
                cv2.GaussianBlur(heatmap, (kernel_size, kernel_size), 0, dst=blurred_map)
        return blurred

    return blur
