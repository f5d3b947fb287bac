"""A warning where the targets of a batch cannot be in the unit that a loss expects."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..backends import is_plain

# A mistake shows in the first batches. A look costs the host a dozen small operations.
_LOOKS = 16
# Of fewer points than these more than half may lie beyond a map by chance.
_FEW = 4
_looks_left = _LOOKS


def look_at_units(
    name: str,
    points: Tensor,  # [..., 2]
    size: tuple[float, float],  # (width, height)
    present: tuple[Tensor | None, ...],  # [...] or what broadcasts to it
    expected: str,
) -> None:
    """Warn, once in a process, if most of a batch's points that are there lie beyond `size`.

    `expected` ends the message. Looks at the first batches, and at points on the CPU alone: elsewhere the host would
    have to wait.
    """
    global _looks_left
    if torch.compiler.is_compiling() or _looks_left <= 0 or points.device.type != "cpu" or not is_plain(points):
        return
    _looks_left -= 1
    counts = points.isfinite().all(-1)
    for flags in present:
        if flags is not None:
            counts = counts & (flags > 0)
    x, y = points.unbind(-1)
    width, height = size
    beyond = counts & ((x < 0) | (y < 0) | (x >= width) | (y >= height))
    num_points, num_beyond = int(counts.sum()), int(beyond.sum())
    if num_points < _FEW or 2 * num_beyond <= num_points:
        return
    _looks_left = 0
    largest = points[beyond].abs().amax().item()
    warnings.warn(
        f"{name}: got {num_beyond} of {num_points} keypoints beyond {width:g} x {height:g}, with coordinates up to "
        f"{largest:g}, which have no loss; expected {expected}",
        stacklevel=4,
    )


def look_at_targets(target: Tensor, maps: Tensor, stride: float, weight: Tensor | None) -> None:
    """`look_at_units` of a loss with cells: targets [B, K, 2] in input pixels, on maps [..., H, W]."""
    if torch.compiler.is_compiling():  # a size that it keeps open has no text
        return
    height, width = maps.shape[-2:]
    look_at_units(
        "target",
        target,
        (width * stride, height * stride),
        (weight,),
        f"(x, y) in pixels of the network's input, whose {width} x {height} cells are {stride:g} pixels wide",
    )
