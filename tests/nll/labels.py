"""Labels of the losses at keypoints, and layouts of maps, with and without mixtures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Beyond maps of 20 by 16 pixels.
OUTSIDE = {
    "left": (-1.0, 4.0),
    "far left": (-5.0, 4.0),  # would wrap to the far edge
    "just left": (-1e-30, 4.0),
    "above": (4.0, -0.25),
    "right": (20.0, 4.0),
    "below": (4.0, 16.0),
    "far": (1e30, 4.0),
    "nan": (math.nan, 4.0),
    "nan, nan": (math.nan, math.nan),
    "inf": (4.0, math.inf),
    "-inf": (-math.inf, 4.0),
}

STRIDE_ERRORS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "stride: got 0, expected a positive", {"stride": 0}),
    (ValueError, "stride: got -4.0, expected a positive", {"stride": -4.0}),
    (ValueError, "stride: got nan, expected a finite", {"stride": math.nan}),
    (ValueError, "stride: got inf, expected a finite", {"stride": math.inf}),
    (TypeError, "stride: got str '4', expected a number", {"stride": "4"}),
    (TypeError, "stride: got bool True, expected a number", {"stride": True}),
]


def draw_targets(batch: int, num_keypoints: int, size: Tensor, generator: torch.Generator) -> Tensor:
    """Targets [B, K, 2] in float64, a few of which lie outside maps of `size` pixels (width, height)."""
    target = torch.rand((batch, num_keypoints, 2), generator=generator, dtype=torch.float64) * size
    if batch and num_keypoints > 1:
        target[0, 0, 0] = -1.0  # one pixel to the left
        target[-1, 1, 1] = size[1]  # the first row below
    if batch and num_keypoints > 2:
        target[0, 2] = math.nan
    return target


def draw_weights(batch: int, num_keypoints: int, generator: torch.Generator) -> Tensor | None:
    """Positive weights [B, K], of which the last is 0. None where there are no keypoints."""
    if not (batch and num_keypoints):
        return None
    weight = torch.rand((batch, num_keypoints), generator=generator) + 0.5
    weight[-1, -1] = 0.0
    return weight


def stride_labels(target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The same labels in strided memory, with NaN between them."""
    padded = torch.full((*target.shape[:2], 5), math.nan)
    padded[..., 1:4:2] = target
    return padded[..., 1:4:2], None if weight is None else weight.t().contiguous().t()


def channels_last(maps: Tensor) -> Tensor:
    """Maps [..., H, W] as slices of a channels_last convolution output."""
    return maps.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))
