"""Peers: what they do where it is ours to say, and the reasons why they can't run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import peers
from dark_kernels import Recipe, recipes
from dark_kernels.decode import reference as definition


@pytest.mark.parametrize("recipe", [recipes.DARKPOSE, recipes.MMPOSE_DARK], ids=lambda recipe: recipe.name)
def test_the_dark_loop_is_right_at_borders_and_without_a_peak(recipe: Recipe) -> None:
    pytest.importorskip("cv2", reason="opencv is not installed")
    decode = peers.opencv_dark_loop(recipe)
    maps = torch.rand(1, 7, 16, 12, generator=torch.Generator().manual_seed(0)) * 0.01
    for keypoint, (y, x) in enumerate([(0, 0), (15, 11), (1, 5), (2, 2), (13, 9), (14, 6)]):
        maps[0, keypoint, y, x] = 1
    maps[0, 6] = 0
    coords, scores = decode(maps)
    expected, expected_scores, _ = definition.decode_reference(maps.double(), recipe)
    assert torch.equal(scores.double(), expected_scores)
    torch.testing.assert_close(coords.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (peers.opencv_blur_loop, "cv2", "cv2"),
        (lambda: peers.opencv_dark_loop(recipes.DARKPOSE), "cv2", "cv2"),
        (peers.transformers_vitpose, "transformers", "transformers"),
        (peers.transformers_sapiens, "transformers", "transformers"),
        (peers.kornia_soft_argmax, "kornia", "kornia"),
    ],
)
def test_a_missing_peer_is_a_reason(
    make: Callable[[], Any], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(peers.NotInstalled, match=f"{package} is not installed"):
        make()


def test_a_peer_without_what_it_needs_is_a_reason(monkeypatch: pytest.MonkeyPatch, fake_module: Any) -> None:
    name = "transformers.models.vitpose.image_processing_vitpose"
    fake_module(name)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(peers.NotInstalled, match="transformers can't be used here"):
        peers.transformers_vitpose()


def test_a_peer_without_its_function_is_a_reason(fake_module: Any) -> None:
    fake_module("kornia.geometry.subpix")
    with pytest.raises(peers.NotInstalled, match=r"kornia of unknown version has no .*spatial_soft_argmax2d"):
        peers.kornia_soft_argmax()


def test_what_does_not_compile_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: Any, dynamic: bool) -> Any:
        def run(*arguments: Any) -> Any:
            raise RuntimeError("no C++ compiler\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(peers.NotInstalled, match=r"torch.compile fails here \(RuntimeError: no C\+\+ compiler\)$"):
        peers.compiled(lambda maps: maps, lambda function: function(torch.zeros(1)))


def test_the_loop_skips_what_the_library_skips() -> None:
    mean = torch.zeros(1, 4, 2, 3, 5, requires_grad=True)
    log_var = torch.zeros(1, 4, 1, 3, 5, requires_grad=True)
    # Just below zero, just beyond the end, not a number, and one inside: (19.9, 0) is 1.9 px right of and 2 px above
    # the centre of its cell.
    target = torch.tensor([[[-0.1, 4.0], [20.0, 4.0], [float("nan"), 4.0], [19.9, 0.0]]])
    loss = peers.gaussian_nll_loop(mean, log_var, target, 4.0)
    assert loss.item() == pytest.approx((1.9**2 + 2**2) / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert gradient.count_nonzero() == 2
