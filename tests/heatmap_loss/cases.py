"""Inputs of the heatmap losses, their exact results, and how far rounding may take a backend from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dark_kernels import (
    heatmap_adaptive_wing,
    heatmap_cross_entropy,
    heatmap_focal,
    heatmap_js,
    heatmap_mse,
)
from dark_kernels._common.targets.reference import draw_targets, keypoint_weight
from dark_kernels.heatmap_loss.options import HIGHEST_PROBABILITY, LOWEST_PROBABILITY, Options
from dark_kernels.heatmap_loss.reference import LOSSES

from ..losses import changed_fields, grad_loss_like

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "mse": heatmap_mse,
    "adaptive_wing": heatmap_adaptive_wing,
    "focal": heatmap_focal,
    "cross_entropy": heatmap_cross_entropy,
    "js": heatmap_js,
}
KINDS = tuple(FUNCTIONS)
SOFTMAX = ("cross_entropy", "js")
ENCODINGS = ("unbiased", "biased", "udp")
REDUCTIONS = ("none", "sum", "mean")
HEIGHT, WIDTH = 9, 11


@dataclasses.dataclass
class Case:
    """One call. `labels` adds visibilities and weights, of which some are 0, and a sigma for each keypoint."""

    kind: str = "mse"
    encoding: str = "biased"
    reduction: str = "none"
    people: int | None = None
    labels: bool = False
    weighting: str = "mmpose"
    topk: int | None = None
    empty: str = "skip"

    @property
    def id(self) -> str:
        return changed_fields(self)

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"encoding": self.encoding, "reduction": self.reduction}
        if self.kind == "mse":
            options.update(weighting=self.weighting, topk=self.topk)
        if self.kind not in SOFTMAX:
            options.update(empty=self.empty)
        return options


def every_case() -> list[Case]:
    """Each loss with each encoding, people and labels or not; the rest take turns."""
    cases = []
    for i, (kind, encoding, people, labels) in enumerate(itertools.product(KINDS, ENCODINGS, (None, 3), (False, True))):
        turn = i + i // 3
        case = Case(kind, encoding, REDUCTIONS[turn % 3], people, labels)
        if kind not in SOFTMAX and turn % 2:
            case.empty = "zero"
        cases.append(case)
    for topk, reduction in itertools.product((1, 2, 3), REDUCTIONS):
        cases.append(Case(reduction=reduction, topk=topk, labels=topk == 2, weighting="hrnet"))
    cases.append(Case(labels=True, weighting="hrnet"))
    return cases


def some_cases() -> list[Case]:
    """Each option at least once with each loss that has it, for what is slow."""
    cases = [Case(kind, "biased", labels=True) for kind in KINDS]
    cases += [Case(kind, "unbiased", "mean", 2) for kind in KINDS]
    cases += [Case(kind, "udp", "sum", empty="zero") for kind in KINDS if kind not in SOFTMAX]
    return [*cases, Case("mse", "unbiased", "mean", labels=True, weighting="hrnet", topk=2)]


@dataclasses.dataclass
class Inputs:
    heatmaps: Tensor  # [B, K, H, W]
    keypoints: Tensor  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 1.5  # a number or [K]
    visible: Tensor | None = None  # [B, K] or [B, N, K]
    weight: Tensor | None = None  # [B, K]

    def with_maps(self, heatmaps: Tensor) -> Inputs:
        return dataclasses.replace(self, heatmaps=heatmaps)

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Inputs:
        """Copies, the maps of `dtype`, as a leaf that requires grad."""

        def there(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        maps = self.heatmaps.detach().to(device, dtype or self.heatmaps.dtype, copy=True).requires_grad_()
        return Inputs(maps, *(there(each) for each in (self.keypoints, self.sigma, self.visible, self.weight)))


def make_inputs(
    case: Case,
    batch: int = 2,
    num_keypoints: int = 3,
    height: int = HEIGHT,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Random maps and keypoints, a few of which lie outside the maps or nowhere."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    crowd = () if case.people is None else (case.people,)
    shape = (batch, *crowd, num_keypoints)
    keypoints = uniform(*shape, 2) * torch.tensor([width + 4, height + 4]) - 2
    if batch and num_keypoints > 1:
        keypoints[0, ..., 0, 0] = -20.0
        keypoints[-1, ..., 1, 1] = math.nan
    heatmaps = uniform(batch, num_keypoints, height, width)
    if case.kind in SOFTMAX:
        heatmaps = 8 * heatmaps + 100
    elif case.kind == "adaptive_wing":
        heatmaps = 1.5 * heatmaps
    sigma: float | Tensor = 1.5
    visible = weight = None
    if case.labels:
        visible = (uniform(*shape) * 1.6).float()
        weight = (uniform(batch, num_keypoints) + 0.5).float()
        sigma = (1 + uniform(num_keypoints)).float()
        if batch and num_keypoints:
            weight[-1, -1] = 0.0
    return Inputs(heatmaps.to(dtype), keypoints.float(), sigma, visible, weight)


def call(inputs: Inputs, case: Case, backend: str = "auto", **changes: Any) -> Tensor:
    return FUNCTIONS[case.kind](
        inputs.heatmaps,
        inputs.keypoints,
        sigma=inputs.sigma,
        visible=inputs.visible,
        weight=inputs.weight,
        backend=backend,
        **{**case.options, **changes},
    )


def loss_and_gradient(inputs: Inputs, case: Case, backend: str = "auto") -> tuple[Tensor, Tensor]:
    loss = call(inputs, case, backend)
    return loss, *torch.autograd.grad(loss, inputs.heatmaps, grad_loss_like(loss))


# --- how far off float32 may be ----------------------------------------------------------------------------

# Each rounded result below is the last of a few operations.
_ROUNDOFF = 8 * torch.finfo(torch.float32).eps


def amplitudes(kind: str, heatmaps: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The size of the terms that a map's loss [B, K] and a pixel's slope [B, K, H, W] are sums of, from float64: what a
    relative rounding is relative to."""
    loss, num_pixels = LOSSES[kind](heatmaps, target, options), heatmaps.shape[2] * heatmaps.shape[3]
    if kind == "mse":
        return loss, 2 * (heatmaps - target).abs() / num_pixels
    if kind == "adaptive_wing":
        slope = options.omega / options.epsilon * options.alpha
        return loss, torch.full_like(heatmaps, slope / num_pixels)
    if kind == "focal":
        p = heatmaps.clamp(LOWEST_PROBABILITY, HIGHEST_PROBABILITY)
        of_negative = p * p / (1 - p) - 2 * p * torch.log1p(-p)
        of_positive = (1 - p) ** 2 / p - 2 * (1 - p) * torch.log(p)
        return loss, torch.where(target == 1, of_positive, of_negative)
    h = heatmaps.flatten(2)
    log_p, q = torch.log_softmax(h, -1), (target / target.sum((2, 3), keepdim=True).clamp(min=1e-300)).flatten(2)
    p = log_p.exp()
    # An exponential is off by as many roundings as its exponent is large.
    spread = (h - h.amax(-1, keepdim=True)).abs().amax(-1)
    if kind == "cross_entropy":
        return 1 + spread, ((p + q) * (1 + spread[..., None])).view_as(heatmaps)
    log_middle = ((p + q) / 2).clamp(min=1e-300).log().abs()
    of_loss = (p * (log_p.abs() + log_middle) + q * (q.clamp(min=1e-300).log().abs() + log_middle)).sum(-1)
    of_slope = p * (log_p.abs() + log_middle + (p * (log_p.abs() + log_middle)).sum(-1, keepdim=True))
    return 1 + spread + of_loss, (of_slope * (1 + spread[..., None])).view_as(heatmaps)


@dataclasses.dataclass
class Truth:
    """Loss and gradient in float64, and a bound for the error of each in float32 arithmetic."""

    loss: Tensor
    loss_bound: Tensor
    gradient: Tensor
    gradient_bound: Tensor  # zero in maps that are ignored


def truth(inputs: Inputs, case: Case) -> Truth:
    """What the reference says in float64."""
    double = inputs.to("cpu", torch.float64)
    loss, gradient = loss_and_gradient(double, case, "reference")
    losses = call(double, case, "reference", reduction="none").detach()

    people = inputs.keypoints[:, None] if case.people is None else inputs.keypoints
    visible = None if inputs.visible is None else inputs.visible.view(people.shape[:-1])
    heatmaps = double.heatmaps.detach().requires_grad_()
    size = heatmaps.shape[2], heatmaps.shape[3]
    target, drawn = draw_targets(people.double(), size, inputs.sigma, case.encoding, visible)
    target.requires_grad_()
    options = Options(case.kind, case.encoding, case.weighting == "hrnet", case.empty == "zero", 2.1, 14.0, 1.0, 0.5)
    weight = keypoint_weight(drawn, inputs.weight, options.keeps_empty)
    if options.squares_weight:
        weight = 0.5 * weight**2
    of_loss, of_slope = (each.detach() for each in amplitudes(case.kind, heatmaps, target, options))
    # Targets are off by no more than the rounding of a few numbers below 1.
    of_maps = LOSSES[case.kind](heatmaps, target, options)
    (slope,) = torch.autograd.grad(of_maps.sum(), heatmaps, create_graph=True)
    (of_target,) = torch.autograd.grad(of_maps.sum(), target, retain_graph=True)
    (slope_of_target,) = torch.autograd.grad(slope.sum(), target)
    loss_bounds = weight * _ROUNDOFF * (of_loss + of_target.abs().sum((2, 3)))
    slope_bounds = of_slope + slope_of_target.abs() + slope.detach().abs()

    divisor = 1.0
    if case.reduction == "mean":
        divisor = max(1, losses.numel() if case.topk is None else losses.shape[0] * case.topk)
        if case.kind == "focal":
            divisor = max(1, int(((target == 1) & (weight > 0)[..., None, None]).sum()))
    kept = (losses != 0) | (weight == 0) if case.topk else torch.ones_like(losses, dtype=torch.bool)
    factor = weight * kept / divisor * grad_loss_like(loss.detach()).abs()
    gradient_bound = _ROUNDOFF * factor[..., None, None] * slope_bounds
    loss_bound = loss_bounds * kept
    if case.reduction != "none":
        loss_bound = (loss_bound + _ROUNDOFF * losses.abs()).sum() / divisor
    return Truth(loss.detach(), loss_bound, gradient, gradient_bound)


def assert_like_truth(inputs: Inputs, case: Case, backend: str, device: torch.device | str = "cpu") -> None:
    """Assert that loss and gradient of a backend are right, every element of the gradient by itself."""
    expected = truth(inputs, case)
    loss, gradient = loss_and_gradient(inputs.to(device), case, backend)
    assert loss.dtype == torch.float32
    assert gradient.dtype == inputs.heatmaps.dtype
    error = (loss.detach().cpu().double() - expected.loss).abs()
    assert bool((error <= expected.loss_bound).all()), f"loss: {case.id}: {error} exceeds {expected.loss_bound}"
    rounding = torch.finfo(inputs.heatmaps.dtype)
    bound = expected.gradient_bound
    bound = bound + (bound > 0) * (expected.gradient.abs() * rounding.eps / 2 + rounding.smallest_normal)
    error = (gradient.cpu().double() - expected.gradient).abs()
    wrong = ~(error <= bound)
    first = tuple(wrong.nonzero()[0].tolist()) if bool(wrong.any()) else ()
    assert not first, f"gradient{list(first)}: {case.id}: got {gradient[first]}, expected {expected.gradient[first]}"
