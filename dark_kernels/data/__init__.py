"""Heatmaps of a real network, to try things with.

    >>> import dark_kernels
    >>> example = dark_kernels.data.load()
    >>> example.heatmaps.shape
    torch.Size([8, 17, 64, 64])
    >>> keypoints = dark_kernels.decode(example.heatmaps)

What they are and where they come from: README.md beside this file.
"""

from __future__ import annotations

import importlib.resources
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["COCO_FLIP_INDICES", "Example", "load"]

# For each of COCO's 17 keypoints the one that it is in a mirrored image: left and right swap.
COCO_FLIP_INDICES = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


class Example(NamedTuple):
    """Outputs of a pose network for four crops of photographs and for these crops mirrored.

    Attributes:
        heatmaps: [8, 17, 64, 64], float16 from 0 to 1, COCO's 17 keypoints. A heatmap pixel is 4 pixels of a crop.
        names: Of the 8 entries. `"camera_flip"` is what the network said of the mirrored crop `"camera"`, not mirrored
            back, as `flipped` of `decode` takes it, with `COCO_FLIP_INDICES`.
        crops: uint8 [4, 256, 256, 3], RGB, of the entries that are not mirrored, in their order.
    """

    heatmaps: Tensor
    names: tuple[str, ...]
    crops: NDArray[Any]

    def pairs(self) -> tuple[list[int], list[int]]:
        """Entries that are not mirrored, and of each the mirrored one."""
        plain = [index for index, name in enumerate(self.names) if not name.endswith("_flip")]
        return plain, [self.names.index(f"{self.names[index]}_flip") for index in plain]


def load() -> Example:
    """Read the packaged heatmaps, on the CPU. Each call returns its own."""
    with (importlib.resources.files(__name__) / "real_heatmaps.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        return Example(torch.from_numpy(data["heatmaps"]), tuple(map(str, data["names"])), data["crops"])
