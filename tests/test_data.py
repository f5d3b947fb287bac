"""The packaged heatmaps, and what installing the package brings along."""

from __future__ import annotations

import importlib.metadata
import re

import torch

import dark_kernels
from dark_kernels import data


def test_the_example_decodes_and_belongs_together() -> None:
    example = data.load()
    assert example.heatmaps.shape == (8, 17, 64, 64)
    assert example.heatmaps.dtype == torch.float16
    assert bool(((example.heatmaps >= 0) & (example.heatmaps <= 1)).all())
    assert len(set(example.names)) == 8
    assert example.crops.shape == (4, 256, 256, 3)
    plain, mirrored = example.pairs()
    assert len(plain) == len(example.crops)
    assert [f"{example.names[i]}_flip" for i in plain] == [example.names[i] for i in mirrored]
    # A network says nearly the same of a mirrored crop: of what it sees well, within two heatmap pixels.
    heatmaps = example.heatmaps[plain]
    flipped = example.heatmaps[mirrored]
    coords, scores, _ = dark_kernels.decode(heatmaps)
    both = dark_kernels.decode(heatmaps, flipped=flipped, flip_indices=data.COCO_FLIP_INDICES)
    assert (both.coords - coords)[scores > 0.7].norm(dim=-1).max() < 2


def test_each_call_has_its_own_numbers() -> None:
    first = data.load()
    first.heatmaps.zero_()
    first.crops[:] = 0
    assert data.load().heatmaps.max() > 0.5
    assert data.load().crops.max() > 0


def test_a_cpu_gets_no_triton() -> None:
    """It would be a gigabyte that nothing uses, and on ROCm and XPU it would overwrite PyTorch's own."""
    requirements = importlib.metadata.requires("dark-kernels") or []
    always = {re.split(r"[^\w-]", each)[0] for each in requirements if "extra ==" not in each}
    assert always == {"torch", "numpy"}
    assert any(each.startswith("triton") and "extra == 'triton'" in each for each in requirements)
