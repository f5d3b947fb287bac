"""What heatmap losses promise PyTorch beside the contract of all operations (tests/test_contract.py)."""

from __future__ import annotations

import pytest
import torch

from dark_kernels import heatmap_mse

from .cases import Case, Inputs, make_inputs


def some_inputs(
    kind: str = "mse", batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Inputs:
    """Maps and keypoints that all count."""
    inputs = make_inputs(Case(kind), batch, 2, 5, 6, dtype=dtype).to(device)
    inputs.keypoints = (torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)) * 4).to(device)
    return inputs


def test_maps_that_changed_after_the_forward_pass_are_noticed() -> None:
    """The backward pass reads them again."""
    inputs = some_inputs()
    maps = inputs.heatmaps * 1
    loss = heatmap_mse(maps, inputs.keypoints)
    maps.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
