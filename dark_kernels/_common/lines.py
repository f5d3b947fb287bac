"""Shared by the `eager.py` of several rooms."""

from __future__ import annotations

import torch
from torch import Tensor


def argmax_of_lines(lines: Tensor) -> Tensor:
    """The place of the first maximum of each line of [..., length]. NaN is the largest value."""
    if lines.device.type != "cpu":
        return lines.max(-1).indices
    # NumPy's search is vectorised, torch's is not. Halves it would compare one by one.
    lines = lines.to(torch.float32) if lines.dtype.itemsize == 2 else lines
    return torch.from_numpy(lines.numpy().argmax(-1))
