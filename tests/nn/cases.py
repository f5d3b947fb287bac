"""A head with random parameters and what it is given, small."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dark_kernels.nn import DARKHead

B, C, K, H, W = 2, 5, 3, 4, 6
STRIDE = 4.0


def make(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[DARKHead, Tensor, Tensor]:
    """A head with random parameters, features and targets. The last target is outside the map."""
    generator = torch.Generator().manual_seed(0)
    head = DARKHead(C, K, stride=STRIDE, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    features = torch.randn(B, C, H, W, generator=generator)
    target = torch.rand(B, K, 2, generator=generator) * torch.tensor([W, H]) * STRIDE
    target[-1, -1] = -1.0
    return head.to(device, dtype), features.to(device, dtype), target.to(device, dtype)
