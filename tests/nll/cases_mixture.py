"""Inputs of the mixture loss, their exact results, and how far rounding may take a backend from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from dark_kernels.nll import gaussian_mixture_nll, gaussian_mixture_nll_reference

from ..cells import find_cells
from ..losses import changed_fields, grad_loss_like
from .labels import draw_targets, draw_weights

REDUCTIONS = ("none", "sum", "mean", "mean_valid")
STRIDE = 4.0
HEIGHT, WIDTH = 4, 5


@dataclasses.dataclass
class Case:
    """One call. `weighted` adds weights, of which one is 0; `switched` switches components off."""

    num_components: int = 3
    coordinates: str = "absolute"
    log_var_bounds: tuple[float, float] | None = None
    reduction: str = "none"
    weighted: bool = False
    stride: float = STRIDE
    switched: bool = False

    @property
    def id(self) -> str:
        return changed_fields(self)

    @property
    def options(self) -> dict[str, Any]:
        return {"stride": self.stride, "coordinates": self.coordinates, "log_var_bounds": self.log_var_bounds}


def every_case() -> list[Case]:
    """Each number of components with all ways to read the maps; reductions, weights and switches take turns."""
    cases = []
    for i, (num_components, coordinates, bounds) in enumerate(
        itertools.product((1, 2, 3, 5, 8), ("absolute", "offset"), (None, (-0.5, 0.6)))
    ):
        turn = i + i // 4
        cases.append(
            Case(num_components, coordinates, bounds, REDUCTIONS[turn % 4], turn % 3 == 1, switched=turn % 2 == 1)
        )
    return cases


def some_cases() -> list[Case]:
    """Each option at least once, for what is slow."""
    return [
        Case(1),
        Case(2, "offset", (-0.5, 0.6), "mean", True, 3.0, True),
        Case(3, "absolute", (-math.inf, 0.2), "sum", True, switched=True),
        Case(5, "offset", None, "mean_valid"),
        Case(8, "absolute", None, "mean_valid", True),
    ]


@dataclasses.dataclass
class Inputs:
    logits: Tensor  # [B, K, M, H, W]
    mean: Tensor  # [B, K, M, 2, H, W]
    log_var: Tensor  # [B, K, M, H, W]
    target: Tensor  # [B, K, 2]
    weight: Tensor | None  # [B, K]

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits, self.mean, self.log_var

    def with_maps(self, logits: Tensor, mean: Tensor, log_var: Tensor) -> Inputs:
        return Inputs(logits, mean, log_var, self.target, self.weight)

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Inputs:
        """Copies, the maps of `dtype`, as leaves that require grad."""
        maps = (each.detach().to(device, dtype or each.dtype, copy=True).requires_grad_() for each in self.maps)
        weight = None if self.weight is None else self.weight.to(device)
        return Inputs(*maps, self.target.detach().to(device), weight)


def make_inputs(
    case: Case,
    batch: int = 2,
    num_keypoints: int = 3,
    height: int = HEIGHT,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Random maps and targets, a few of which lie outside the maps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    size = torch.tensor([width, height]) * case.stride
    target = draw_targets(batch, num_keypoints, size, generator)
    of_components = (batch, num_keypoints, case.num_components)
    center = 0.0 if case.coordinates == "offset" else size[:, None, None] / 2
    logits = 2.0 * normal(*of_components, height, width)
    mean = 3.0 * normal(*of_components, 2, height, width) + center
    log_var = normal(*of_components, height, width)
    if case.switched and case.num_components > 1:
        logits[:, ::2, 0] = -math.inf
    weight = draw_weights(batch, num_keypoints, generator) if case.weighted else None
    return Inputs(logits.to(dtype), mean.to(dtype), log_var.to(dtype), target.float(), weight)


def counted_cells(inputs: Inputs, stride: float) -> dict[tuple[int, int], tuple[int, int]]:
    """(b, k) -> (row, column) of the keypoints that count."""
    return find_cells(inputs.target, inputs.weight, stride, *inputs.logits.shape[-2:])


def call(inputs: Inputs, case: Case, backend: str = "auto", reduction: str | None = None) -> Tensor:
    return gaussian_mixture_nll(
        *inputs.maps,
        inputs.target,
        weight=inputs.weight,
        reduction=reduction or case.reduction,
        backend=backend,
        **case.options,
    )


def loss_and_gradients(inputs: Inputs, case: Case, backend: str = "auto") -> tuple[Tensor, ...]:
    """The loss, and the gradients of logits, means and log variances."""
    loss = call(inputs, case, backend)
    return (loss, *torch.autograd.grad(loss, inputs.maps, grad_loss_like(loss)))


# --- how far off float32 may be ----------------------------------------------------------------------------

# Each rounded result below is the last of a few operations.
_ROUNDOFF = 4 * torch.finfo(torch.float32).eps


@dataclasses.dataclass
class CellBounds:
    """First-order error bounds of one keypoint's unweighted loss and slopes in float32."""

    loss: Tensor  # []
    slopes: tuple[Tensor, Tensor, Tensor]  # [M], [M, 2], [M]


def bounds_at_cell(
    logits: Tensor, mean: Tensor, log_var: Tensor, target: Tensor, center: Tensor, case: Case
) -> CellBounds:
    """Of one keypoint, from float64 numbers in its cell. Where a log weight or an exponent is off by e, what it is
    the logarithm of is off by e relative to itself; the rest is the product rule."""
    u = _ROUNDOFF
    s = log_var if case.log_var_bounds is None else log_var.clamp(*case.log_var_bounds)
    on = logits != -math.inf
    a = torch.where(on, logits - logits.max(), -math.inf)
    difference = target - center - mean  # [M, 2]
    # Inputs are exact, so that a difference is off by its own rounding; but an offset is a difference of two.
    difference_off = u * (difference.abs() + (center != 0) * (target.abs() + center.abs()))
    scale = torch.exp(-s / 2)[:, None]
    scale_off = u * (1 + s.abs()[:, None])  # relative
    z = difference * scale
    z_off = difference_off * scale + scale_off * z.abs()
    half_squares = (z * z).sum(-1) / 2
    half_squares_off = (z.abs() * z_off).sum(-1) + 2 * u * half_squares
    b = a - s - half_squares
    a_off = torch.where(on, u * a.abs(), 0.0)
    b_off = torch.where(on, u * (a.abs() + s.abs() + b.abs()) + half_squares_off, 0.0)
    prior, r = torch.softmax(a, 0), torch.softmax(b, 0)

    parts = torch.stack([torch.logsumexp(a, 0), b.max(), torch.logsumexp(b - b.max(), 0), torch.logsumexp(b, 0)])
    loss_off = (prior * a_off).sum() + (r * b_off).sum() + u * (parts.abs().sum() + math.log(2 * math.pi) + len(a))
    # Shares are exponentials over a sum; the smallest of them underflow.
    tiny = torch.finfo(torch.float32).tiny
    prior_off = prior * (a_off + (prior * a_off).sum() + len(a) * u) + tiny
    r_off = r * (b_off + (r * b_off).sum() + len(a) * u) + tiny
    mean_off = scale * (r_off[:, None] * z.abs() + r[:, None] * (z_off + z.abs() * scale_off + u * z.abs()))
    log_var_off = r_off * (1 - half_squares).abs() + r * (half_squares_off + u * (1 + half_squares))
    return CellBounds(loss_off, (prior_off + r_off + u * (prior - r).abs(), mean_off, log_var_off))


@dataclasses.dataclass
class Truth:
    """Loss and gradients in float64, and a bound for the error of each in float32 arithmetic."""

    loss: Tensor
    loss_bound: Tensor
    gradients: tuple[Tensor, ...]  # of logits, means and log variances, dense
    gradient_bounds: tuple[Tensor, ...]  # zero away from the cells


def truth(inputs: Inputs, case: Case) -> Truth:
    """Compute with the reference in float64."""
    double = inputs.to("cpu", torch.float64)
    double.target = double.target.double()
    options = dict(weight=inputs.weight, **case.options)
    losses = gaussian_mixture_nll_reference(*double.maps, double.target, reduction="none", **options)
    loss = gaussian_mixture_nll_reference(*double.maps, double.target, reduction=case.reduction, **options)
    grad_loss = grad_loss_like(loss)
    gradients = torch.autograd.grad((loss * grad_loss).sum(), double.maps)

    cells = counted_cells(inputs, case.stride)
    weights = {key: 1.0 if inputs.weight is None else float(inputs.weight[key]) for key in cells}
    divisor = {"mean": losses.numel(), "mean_valid": math.fsum(weights.values()) or 1.0}.get(case.reduction, 1.0)
    loss_bounds = torch.zeros_like(losses)
    gradient_bounds = tuple(torch.zeros_like(maps) for maps in double.maps)
    for (b, k), (row, column) in cells.items():
        is_offset = case.coordinates == "offset"
        center = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64) * case.stride * is_offset
        at_cell = [maps.detach()[b, k, ..., row, column] for maps in double.maps]
        off = bounds_at_cell(*at_cell, double.target[b, k], center, case)
        factor = weights[b, k] / divisor
        loss_bounds[b, k] = off.loss * factor + _ROUNDOFF * losses[b, k].detach().abs() / divisor
        factor *= float(grad_loss[b, k] if case.reduction == "none" else grad_loss)
        for bounds, slopes_off, gradient in zip(gradient_bounds, off.slopes, gradients, strict=True):
            own = gradient[b, k, ..., row, column].abs()
            bounds[b, k, ..., row, column] = slopes_off * factor + 2 * _ROUNDOFF * own
    loss_bound = loss_bounds
    if case.reduction != "none":  # a sum rounds once for each doubling, and the divisor too
        loss_bound = loss_bounds.sum() + 4 * _ROUNDOFF * losses.detach().abs().sum() / divisor
    return Truth(loss.detach(), loss_bound, gradients, gradient_bounds)


def assert_like_truth(inputs: Inputs, case: Case, backend: str, device: torch.device | str = "cpu") -> None:
    """Assert that loss and gradients of a backend are right, every element of the gradient by itself."""
    expected = truth(inputs, case)
    there = inputs.to(device)
    loss, *gradients = loss_and_gradients(there, case, backend)
    assert loss.dtype == torch.float32
    error = (loss.detach().cpu().double() - expected.loss).abs()
    assert bool((error <= expected.loss_bound).all()), f"loss: {case.id}: {error} exceeds {expected.loss_bound}"
    names = ("logits", "mean", "log_var")
    for name, maps, gradient, exact, bound in zip(
        names, inputs.maps, gradients, expected.gradients, expected.gradient_bounds, strict=True
    ):
        assert gradient.dtype == maps.dtype
        rounding = torch.finfo(maps.dtype)
        bound = bound + (bound > 0) * (exact.abs() * rounding.eps / 2 + rounding.smallest_normal * rounding.eps)
        error = (gradient.cpu().double() - exact).abs()
        wrong = ~(error <= bound)
        first = tuple(wrong.nonzero()[0].tolist()) if bool(wrong.any()) else ()
        assert not first, f"{name}{list(first)}: {case.id}: got {gradient[first]}, expected {exact[first]}"
