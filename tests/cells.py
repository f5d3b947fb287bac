"""Find the cells of targets once more, one keypoint at a time: for the tests of the losses."""

from __future__ import annotations

import itertools
import math

from torch import Tensor


def find_cell(target: Tensor, stride: float, height: int, width: int) -> tuple[int, int] | None:
    """Row and column of one target [2], or None."""
    x, y = target.tolist()
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    column, row = math.floor(x / stride), math.floor(y / stride)
    return (row, column) if 0 <= row < height and 0 <= column < width else None


def find_cells(
    target: Tensor, weight: Tensor | None, stride: float, height: int, width: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """(b, k) -> (row, column) of the keypoints [B, K, 2] that count."""
    found = {}
    for b, k in itertools.product(range(target.shape[0]), range(target.shape[1])):
        cell = find_cell(target[b, k], stride, height, width)
        if cell is not None and (weight is None or weight[b, k] > 0):
            found[b, k] = cell
    return found
