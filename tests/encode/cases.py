"""Keypoints to draw: in, at and beyond the borders of a map."""

from __future__ import annotations

import torch
from torch import Tensor

ENCODINGS = ("unbiased", "biased", "udp")
SIZE = (11, 14)

# How far float32 may take a value in 0 to 1 from its float64: an exponent q is off by a few roundings of q, and q e^-q
# is below 1.
TOLERANCE = 8 * torch.finfo(torch.float32).eps


def make_keypoints(
    batch: int, people: int | None, num_keypoints: int, size: tuple[int, int] = SIZE, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Keypoints [B, K, 2] or [B, N, K, 2] up to ten pixels outside the map and visibilities from 0 to 2.

    Half of the keypoints lie on eighths of pixels, where ties and windows that just touch the map are.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_keypoints) if people is None else (batch, people, num_keypoints)
    keypoints = torch.rand((*shape, 2), generator=generator) * (torch.tensor([size[1], size[0]]) + 20) - 10
    is_coarse = torch.rand(shape, generator=generator) < 0.5
    keypoints = torch.where(is_coarse[..., None], (keypoints * 8).round() / 8, keypoints)
    return keypoints, torch.rand(shape, generator=generator) * 2
