"""Activations of logits, and scores by mass, for decode in eager.

Logits stay as they are: what is read of them is activated, and a whole map only where all of it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .eager_plan import Plan

# Pixels of the maps that are gone through at once on CPU, so that all passes but the first find them in the cache.
_BLOCK = 2**17
# More pixels than a map has.
_MANY = 2.0**40


class Activation(NamedTuple):
    """Makes probabilities of the logits of N maps."""

    kind: str  # "sigmoid" or "softmax"
    shifts: Tensor  # [N]: the largest logit of each
    factors: Tensor  # [N]: one over the sum of exp(logit - largest), which is the largest probability; for a softmax

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities of pixels [N, ...] of the maps, in the dtype of the pixels."""
        if self.kind == "sigmoid":
            return logits.sigmoid()
        shape = (-1, *[1] * (logits.dim() - 1))
        shifts, factors = (each.to(logits.dtype).view(shape) for each in (self.shifts, self.factors))
        return _relative_weights(logits, shifts).mul_(factors)

    def of(self, map_index: Tensor | slice | None) -> Activation:
        """Select some of the maps; None for all."""
        if map_index is None:
            return self
        return Activation(self.kind, *(each[map_index] for each in (self.shifts, self.factors)))


def _relative_weights(logits: Tensor, shifts: Tensor) -> Tensor:
    """exp(logit - largest): two infinities of one sign differ by nothing."""
    weights = logits - shifts
    # Elsewhere than on CPU the host would have to wait to learn whether there are infinities.
    if weights.device.type != "cpu" or bool(shifts.isinf().any()):
        weights.masked_fill_(logits == shifts, 0.0)
    return weights.exp_()


def activation_of(
    heatmaps: Tensor,  # [B, K, H, W]
    largest: Tensor,  # [B K]
    kind: str,
) -> Activation:
    """Make the activation of whole maps, whose largest logits are known. A softmax takes a pass over them."""
    if kind == "sigmoid":
        return Activation(kind, largest, largest)
    shifts = largest.view(*heatmaps.shape[:2], 1, 1)
    totals = [
        _relative_weights(heatmaps[images].to(largest.dtype), shifts[images]).sum((2, 3))
        for images in _blocks(heatmaps)
    ]
    factors = torch.cat(totals).view(-1).reciprocal_()
    return Activation(kind, largest, factors.masked_fill_(largest == -math.inf, 0.0))


def activate_maps(
    heatmaps: Tensor,  # [B, K, H, W]
    largest: Tensor,  # [B K]
    kind: str,
) -> Tensor:
    """The probabilities of all pixels of maps, contiguous and in the dtype of `largest`."""
    probabilities = heatmaps.new_empty(heatmaps.shape, dtype=largest.dtype)
    activate = activation_of(heatmaps, largest, kind)
    num_keypoints = heatmaps.shape[1]
    for images in _blocks(heatmaps):
        maps = slice(images.start * num_keypoints, images.stop * num_keypoints)
        block = Activation(kind, activate.shifts[maps], activate.factors[maps])
        logits = heatmaps[images].to(largest.dtype)
        probabilities[images] = block(logits.flatten(0, 1)).view(logits.shape)
    return probabilities


def mass_around(
    heatmaps: Tensor,  # [B, K, H, W]
    raw_maxima: Tensor,  # [B K]
    y: Tensor,  # [N]
    x: Tensor,  # [N]
    radius: int,
    plan: Plan,
    activate: Activation | None,
    map_index: Tensor | None = None,  # [N]
) -> Tensor:
    """The share that the pixels up to `radius` from (x, y) on each axis have in all positive values of their map: [N].

    Args:
        heatmaps: The maps.
        raw_maxima: Their largest values.
        y, x: Pixels.
        radius: Of the window.
        plan: That of the maps.
        activate: What is done to pixels, if they are logits.
        map_index: Which of the B K maps each pixel is in. None: one in each map, in their order.

    Returns:
        0 to 1; 0 in a map without a positive value, NaN in one with a NaN. In a map with pixels of +inf it is 1 where
        one of them is near, and 0 elsewhere.
    """
    height, width = heatmaps.shape[2:]
    dtype, shape = raw_maxima.dtype, (y.shape[0], (2 * radius + 1) ** 2)
    # So that no sum overflows.
    is_huge = (raw_maxima > torch.finfo(dtype).max / _MANY) & (raw_maxima < math.inf)
    units = torch.where(is_huge, raw_maxima, 1.0)
    if activate is None:
        divides = heatmaps.device.type != "cpu" or bool(is_huge.any())
        of_images = units.view(*heatmaps.shape[:2], 1, 1)
        sums = []
        for images in _blocks(heatmaps):
            masses = heatmaps[images].to(dtype).clamp_min(0.0)
            sums.append((masses.div_(of_images[images]) if divides else masses).sum((2, 3)))
        whole = torch.cat(sums).view(-1).masked_fill_(raw_maxima == math.inf, 1.0)
    elif activate.kind == "sigmoid":
        sums = [heatmaps[images].to(dtype).sigmoid().sum((2, 3)) for images in _blocks(heatmaps)]
        whole = torch.cat(sums).view(-1)
    else:
        whole = torch.where(raw_maxima.isnan(), raw_maxima, 1.0)

    starts = plan.map_starts
    if map_index is not None:
        starts, whole, units, raw_maxima = (
            each.index_select(0, map_index) for each in (starts, whole, units, raw_maxima)
        )
    distance = torch.arange(-radius, radius + 1, device=heatmaps.device)
    rows, columns = y.unsqueeze(1) + distance, x.unsqueeze(1) + distance
    exists = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    stride_h, stride_w = heatmaps.stride()[2:]
    index = rows.clamp_(0, height - 1).mul_(stride_h).add_(starts.unsqueeze(1)).unsqueeze(2)
    index = index + columns.clamp_(0, width - 1).mul_(stride_w).unsqueeze(1)
    pixels = heatmaps.as_strided((plan.extent,), (1,), heatmaps.storage_offset()).index_select(0, index.view(-1))
    pixels = pixels.to(dtype).view(shape)
    if activate is None:
        is_infinite = (pixels == math.inf).to(dtype)
        pixels = torch.where((raw_maxima == math.inf).unsqueeze(1), is_infinite, pixels.clamp_min(0.0))
        pixels = pixels.div_(units.unsqueeze(1))
    else:
        pixels = activate.of(map_index)(pixels)
    near = pixels.masked_fill_(exists.view(shape).logical_not_(), 0.0).sum(1)
    return torch.where(whole == 0, 0.0, near / whole).clamp_(max=1.0)


def _blocks(heatmaps: Tensor) -> Iterator[slice]:
    """Images to go through at once. Elsewhere than on CPU, all."""
    batch = heatmaps.shape[0]
    images = batch
    if heatmaps.device.type == "cpu":
        images = max(1, _BLOCK // math.prod(heatmaps.shape[1:]))
    for first in range(0, batch, images):
        yield slice(first, min(first + images, batch))
