"""What decode promises PyTorch beside the contract of all operations (tests/test_contract.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dark_kernels
from dark_kernels import recipes, testing


@pytest.mark.slow
def test_compiles_inside_a_module_that_trains(device: torch.device) -> None:
    """The maps require grad, the keypoints don't, and the rest of the graph is differentiated."""
    torch._dynamo.reset()
    head = nn.Conv2d(3, 2, 3, padding=1).to(device)

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = head(images)
        return heatmaps.square().mean(), dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP).coords

    images = torch.rand(2, 3, 16, 12, device=device)
    loss, coords = torch.compile(function, fullgraph=True, backend="aot_eager")(images)
    assert not coords.requires_grad
    loss.backward()
    assert head.weight.grad is not None
    assert bool(head.weight.grad.abs().sum() > 0)


def test_threads_agree() -> None:
    from concurrent.futures import ThreadPoolExecutor

    inputs = [testing.heatmaps_of_kinds(["noisy_blob"], 3, 2, 15 + i % 5, 12, seed=i) for i in range(40)]
    expected = [dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True) for heatmaps in inputs]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda heatmaps: dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True), inputs))
    for one, other in zip(actual, expected, strict=True):
        testing.assert_same_keypoints(one, other)
