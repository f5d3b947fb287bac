"""Input pixels given for heatmap pixels are said, once, and nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import nn
from dark_kernels._common import units

HEATMAPS = torch.rand(4, 3, 16, 12, generator=torch.Generator().manual_seed(0))
FEATURES = torch.rand(4, 5, 16, 12, generator=torch.Generator().manual_seed(1))
# Inside of the maps, and of the input that is four times as large.
INSIDE = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(2)) * 11
HEAD = nn.DARKHead(5, 3)
DECODER = nn.TwoStageDecoder(torch.nn.Conv2d(5, 3, 1), HEAD)
MEAN, LOG_VAR = (each.detach() for each in HEAD(FEATURES))

# A loss of targets, and how many of their units the map is wide.
LOSSES: dict[str, tuple[Callable[..., Tensor], float]] = {
    "heatmap_mse": (lambda target, **options: dark_kernels.heatmap_mse(HEATMAPS, target, **options), 1),
    "heatmap_focal": (lambda target, **options: dark_kernels.heatmap_focal(HEATMAPS, target, **options), 1),
    "heatmap_js": (lambda target, **options: dark_kernels.heatmap_js(HEATMAPS, target, **options), 1),
    "module": (lambda target, weight=None: nn.HeatmapMSELoss()(HEATMAPS, target, weight=weight), 1),
    "gaussian_nll": (lambda target, **options: dark_kernels.gaussian_nll(MEAN, LOG_VAR, target, **options), 4),
    "head.loss": (lambda target, weight=None: HEAD.loss(FEATURES, target, weight), 4),
    "head.loss at": (lambda target, weight=None: HEAD.loss(FEATURES, target, weight, at=4 * INSIDE), 4),
    "decoder.loss": (lambda target, weight=None: DECODER.loss(FEATURES, target, keypoint_weight=weight), 4),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(units, "_looks_left", units._LOOKS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* keypoints beyond ")
        yield


@pytest.mark.parametrize("name", LOSSES)
def test_targets_of_another_unit_are_said_once(name: str) -> None:
    loss, scale = LOSSES[name]
    with pytest.warns(UserWarning, match=r"(keypoints|target): got \d+ of 12 keypoints beyond .*; expected"):
        loss(scale * INSIDE * 4 + scale * 12)
    loss(scale * INSIDE * 4 + scale * 12)


@pytest.mark.parametrize("name", LOSSES)
def test_targets_in_their_unit_are_not(name: str) -> None:
    loss, scale = LOSSES[name]
    loss(scale * INSIDE)
    few = INSIDE.clone()
    few[0] = 1000.0  # a keypoint beyond its crop
    loss(scale * few)
    loss(torch.full_like(INSIDE, torch.nan))
    loss(torch.full_like(INSIDE, torch.inf))
    loss(1000 * INSIDE + 1000, weight=torch.zeros(4, 3))


def test_the_message_says_what_came_and_from_where() -> None:
    with pytest.warns(UserWarning, match="keypoints") as caught:
        dark_kernels.heatmap_mse(HEATMAPS, torch.full((4, 3, 2), 100.0))
    (message,) = caught
    assert message.filename == __file__
    assert str(message.message) == (
        "keypoints: got 12 of 12 keypoints beyond 12 x 16, with coordinates up to 100, which have no loss; expected "
        "(x, y) in heatmap pixels: of input pixels, divided by input size over heatmap size"
    )


def test_several_people_and_invisible_ones() -> None:
    people = torch.stack([INSIDE, INSIDE + 1000, INSIDE + 1000], dim=1)
    visible = torch.tensor([1.0, 0.0, 0.0])[None, :, None].expand(4, 3, 3)
    dark_kernels.heatmap_mse(HEATMAPS, people, visible=visible)
    with pytest.warns(UserWarning, match="got 24 of 36 keypoints"):
        dark_kernels.heatmap_mse(HEATMAPS, people, weight=torch.ones(4, 3))


def test_only_the_first_batches_are_looked_at() -> None:
    for _ in range(units._LOOKS):
        dark_kernels.heatmap_mse(HEATMAPS, INSIDE)
    dark_kernels.heatmap_mse(HEATMAPS, INSIDE + 1000)


def test_what_compiles_or_traces_is_left_alone() -> None:
    def loss(maps: Tensor) -> Any:
        return dark_kernels.heatmap_mse(maps, INSIDE + 1000)

    torch.compile(loss, fullgraph=True, backend="aot_eager")(HEATMAPS)
    torch.func.grad(loss)(HEATMAPS)
    with torch._subclasses.FakeTensorMode():
        dark_kernels.heatmap_mse(torch.empty(4, 3, 16, 12), torch.empty(4, 3, 2))
    assert units._looks_left >= units._LOOKS - 1
