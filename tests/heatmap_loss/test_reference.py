"""The definition, held against other tellings: the published losses on published targets in NumPy, gradcheck."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dark_kernels.heatmap_loss import heatmap_mse

from .. import published
from ..conftest import SERVICES
from .cases import ENCODINGS, FUNCTIONS, KINDS, SOFTMAX, Case, Inputs, call, make_inputs

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
BOTH = pytest.mark.parametrize("backend", ["reference", "eager"])
Service = tuple[str, torch.device]
Array = np.ndarray

# Sums of some hundred float32 numbers of one size.
RTOL = 1e-5


# --- published losses, on target maps ----------------------------------------------------------------------


def mmpose_mse(heatmaps: Array, targets: Array, weight: Array) -> float:
    """KeypointMSELoss with target weights."""
    return float(np.mean((heatmaps - targets) ** 2 * weight[:, :, None, None]))


def hrnet_mse(heatmaps: Array, targets: Array, weight: Array) -> float:
    """JointsMSELoss: both maps times the weight, one keypoint after the other."""
    total = 0.0
    for k in range(heatmaps.shape[1]):
        factor = weight[:, k, None, None]
        total += 0.5 * np.mean((heatmaps[:, k] * factor - targets[:, k] * factor) ** 2)
    return total / heatmaps.shape[1]


def hrnet_ohkm(heatmaps: Array, targets: Array, weight: Array, topk: int) -> float:
    """JointsOHKMMSELoss."""
    losses = 0.5 * ((heatmaps - targets) ** 2 * weight[:, :, None, None] ** 2).mean((2, 3))
    return float(np.mean([np.sort(image)[::-1][:topk].sum() / topk for image in losses]))


def mmpose_ohkm(heatmaps: Array, targets: Array, weight: Array, topk: int) -> float:
    """KeypointOHKMMSELoss: that of HRNet without its half."""
    return 2 * hrnet_ohkm(heatmaps, targets, weight, topk)


def adaptive_wing(heatmaps: Array, targets: Array, weight: Array) -> float:
    alpha, omega, epsilon, theta = 2.1, 14.0, 1.0, 0.5
    total = 0.0
    for index in np.ndindex(heatmaps.shape):
        t, h = targets[index], heatmaps[index]
        e, ratio = alpha - t, theta / epsilon
        slope = omega * (1 / (1 + ratio**e)) * e * ratio ** (e - 1) / epsilon
        offset = theta * slope - omega * math.log(1 + ratio**e)
        d = abs(t - h)
        total += weight[index[:2]] * (omega * math.log(1 + (d / epsilon) ** e) if d < theta else slope * d - offset)
    return total / heatmaps.size


def centernet_focal(heatmaps: Array, targets: Array, weight: Array) -> float:
    """The maps that count; their weights are 0 or 1."""
    p, t = heatmaps[weight > 0], targets[weight > 0]
    positive = t == 1
    total = (np.log(p) * (1 - p) ** 2)[positive].sum()
    total += (np.log(1 - p) * p**2 * (1 - t) ** 4)[~positive].sum()
    return float(-total / max(positive.sum(), 1))


def _distributions(heatmaps: Array, targets: Array) -> tuple[Array, Array]:
    exponentials = np.exp(heatmaps - heatmaps.max((2, 3), keepdims=True))
    p = exponentials / exponentials.sum((2, 3), keepdims=True)
    return p, targets / np.maximum(targets.sum((2, 3), keepdims=True), 1e-300)


def cross_entropy(heatmaps: Array, targets: Array, weight: Array) -> float:
    p, q = _distributions(heatmaps, targets)
    return float(np.mean(-(q * np.log(p)).sum((2, 3)) * weight))


def dsnt_js(heatmaps: Array, targets: Array, weight: Array) -> float:
    """Half of each Kullback-Leibler divergence from the mean, 1e-24 added in the logarithms as published."""
    p, q = _distributions(heatmaps, targets)
    m = 0.5 * (p + q)

    def divergence(one: Array, other: Array) -> Array:
        return (one * (np.log(one + 1e-24) - np.log(other + 1e-24))).sum((2, 3))

    return float(np.mean((0.5 * divergence(p, m) + 0.5 * divergence(q, m)) * weight))


PUBLISHED: dict[str, tuple[str, dict[str, Any], Callable[..., float]]] = {
    "mmpose mse": ("mse", {}, mmpose_mse),
    "hrnet mse": ("mse", {"weighting": "hrnet"}, hrnet_mse),
    "hrnet ohkm": ("mse", {"weighting": "hrnet", "topk": 3}, lambda *maps: hrnet_ohkm(*maps, topk=3)),
    "mmpose ohkm": ("mse", {"topk": 3}, lambda *maps: mmpose_ohkm(*maps, topk=3)),
    "adaptive wing": ("adaptive_wing", {}, adaptive_wing),
    "focal": ("focal", {}, centernet_focal),
    "cross-entropy": ("cross_entropy", {}, cross_entropy),
    "js": ("js", {}, dsnt_js),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("people", [None, 2])
@EVERY
def test_is_the_published_loss_on_published_targets(
    people: int | None, encoding: str, name: str, service: Service
) -> None:
    """Keypoints in and around the map, on pixels and between them, some not visible; weights that are not 0 or 1."""
    backend, device = service
    kind, options, expected_of = PUBLISHED[name]
    generator = torch.Generator().manual_seed(11)
    shape = (1, 6) if people is None else (1, people, 6)
    keypoints = torch.rand((*shape, 2), generator=generator) * 28 - 8
    keypoints = (keypoints * 4).round() / 4
    visible = (torch.rand(shape, generator=generator) < 0.8).float()
    binary = name in ("focal", "mmpose ohkm")
    weight = torch.ones(1, 6) if binary else torch.rand(1, 6, generator=generator) + 0.5
    heatmaps = 0.05 + 0.9 * torch.rand(1, 6, 13, 12, generator=generator)
    targets, drawn = published.draw(
        keypoints.view(1, -1, 6, 2).numpy(), (13, 12), 2.0, encoding, visible.view(1, -1, 6).numpy()
    )
    counted = drawn * weight.double().numpy()
    if kind in SOFTMAX:  # where a map of zeros is no distribution
        counted = counted * (targets.max((2, 3)) > 0)
    expected = expected_of(heatmaps.double().numpy(), targets, counted)
    actual = FUNCTIONS[kind](
        heatmaps.to(device), keypoints.to(device), 2.0, visible.to(device), weight.to(device), encoding=encoding,
        backend=backend, **options,
    )  # fmt: skip
    assert expected > 0
    assert actual.item() == pytest.approx(expected, rel=RTOL)


@BOTH
def test_mean_squared_errors_by_hand(backend: str) -> None:
    """One map of four pixels, of which the target of the first is 1; weights of both kinds."""
    heatmaps = torch.tensor([[[[0.5, 0.0], [0.0, 2.0]]]], dtype=torch.float64)
    keypoints = torch.zeros(1, 1, 2, dtype=torch.float64)
    beside, across = math.exp(-1 / 2), math.exp(-1)
    square = (0.5**2 + 2 * beside**2 + (2 - across) ** 2) / 4
    weight = torch.full((1, 1), 3.0)
    for encoding in ENCODINGS:
        options: dict[str, Any] = {"sigma": 1.0, "weight": weight, "encoding": encoding, "backend": backend}
        assert heatmap_mse(heatmaps, keypoints, **options).item() == pytest.approx(3 * square)
        assert heatmap_mse(heatmaps, keypoints, weighting="hrnet", **options).item() == pytest.approx(4.5 * square)


@BOTH
def test_focal_without_a_positive_is_not_divided(backend: str) -> None:
    heatmaps = torch.full((1, 2, 5, 5), 0.25)
    keypoints = torch.tensor([[[2.3, 2.0], [1.0, 3.4]]])
    options: dict[str, Any] = {"encoding": "unbiased", "backend": backend}
    mean = FUNCTIONS["focal"](heatmaps, keypoints, **options)
    assert mean == FUNCTIONS["focal"](heatmaps, keypoints, reduction="sum", **options)
    assert mean > 0


@BOTH
def test_js_is_a_divergence(backend: str) -> None:
    """0 for the target itself, log 2 for what has nothing in common with it, and no matter what is added."""
    x = torch.arange(20, dtype=torch.float64)
    square = (x - 5.5) ** 2 + (x[:, None] - 9.25) ** 2
    keypoints = torch.tensor([[[5.5, 9.25]]], dtype=torch.float64)
    options: dict[str, Any] = {"sigma": 1.0, "backend": backend}
    same = (-square / 2)[None, None]
    assert FUNCTIONS["js"](same + 3, keypoints, **options).item() == pytest.approx(0, abs=1e-12)
    elsewhere = torch.full_like(same, -1000.0)
    elsewhere[..., 19, 19] = 0
    assert FUNCTIONS["js"](elsewhere, keypoints, **options).item() == pytest.approx(math.log(2))


@BOTH
@pytest.mark.parametrize("kind", SOFTMAX)
def test_descent_finds_the_keypoint(kind: str, backend: str) -> None:
    """Logits that are trained become the target, as a distribution."""
    logits = torch.zeros(1, 1, 7, 8, dtype=torch.float64, requires_grad=True)
    keypoints = torch.tensor([[[3.25, 2.5]]], dtype=torch.float64)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        FUNCTIONS[kind](logits, keypoints, 1.0, backend=backend).backward()
        optimizer.step()
    p = torch.softmax(logits.detach().flatten(), 0).view(7, 8)
    x, y = (p.sum(0) * torch.arange(8)).sum(), (p.sum(1) * torch.arange(7)).sum()
    assert (x.item(), y.item()) == pytest.approx((3.25, 2.5), abs=0.05)


# --- derivatives -----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("people", [None, 2])
def test_gradcheck(people: int | None, encoding: str, kind: str, backend: str) -> None:
    case = Case(kind, encoding, people=people, labels=True)
    inputs = make_inputs(case, 1, 3, 4, 3, dtype=torch.float64, seed=5).to()

    def loss(heatmaps: Tensor) -> Tensor:
        return call(inputs.with_maps(heatmaps), case, backend)

    assert torch.autograd.gradcheck(loss, inputs.heatmaps)


@BOTH
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("topk", [None, 2])
def test_gradcheck_of_reductions(topk: int | None, reduction: str, backend: str) -> None:
    case = Case("mse", "udp", reduction, labels=True, weighting="hrnet", topk=topk)
    inputs = make_inputs(case, 2, 3, 3, 3, dtype=torch.float64, seed=6).to()

    def loss(heatmaps: Tensor) -> Tensor:
        return call(inputs.with_maps(heatmaps), case, backend)

    assert torch.autograd.gradcheck(loss, inputs.heatmaps)


@BOTH
@pytest.mark.parametrize("theta", [0.2, 1.5])
def test_gradcheck_of_other_wings(theta: float, backend: str) -> None:
    inputs = make_inputs(Case("adaptive_wing"), 1, 2, 3, 3, dtype=torch.float64, seed=7).to()

    def loss(heatmaps: Tensor) -> Tensor:
        return FUNCTIONS["adaptive_wing"](
            heatmaps, inputs.keypoints, alpha=2.5, omega=3.0, epsilon=0.7, theta=theta, backend=backend
        )

    assert torch.autograd.gradcheck(loss, inputs.heatmaps)


def test_reference_has_second_derivatives() -> None:
    for kind in KINDS:
        inputs = make_inputs(Case(kind), 1, 1, 3, 3, dtype=torch.float64, seed=8).to()
        one = Inputs(inputs.heatmaps, torch.ones(1, 1, 2))

        def loss(heatmaps: Tensor, one: Inputs = one, kind: str = kind) -> Tensor:
            return call(one.with_maps(heatmaps), Case(kind), "reference")

        assert torch.autograd.gradgradcheck(loss, one.heatmaps)
