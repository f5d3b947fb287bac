"""Inputs of the Gaussian losses, their exact results, and how far rounding may take a backend from them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from dark_kernels.nll import gaussian_nll, gaussian_nll_reference

from ..cells import find_cells
from ..losses import changed_fields, grad_loss_like
from .labels import draw_targets, draw_weights

# name -> (log variances a keypoint, distribution)
FORMS = {
    "isotropic": (1, "gaussian"),
    "diagonal": (2, "gaussian"),
    "cholesky": (3, "gaussian"),
    "laplace": (1, "laplace"),
    "laplace-diagonal": (2, "laplace"),
}
REDUCTIONS = ("none", "sum", "mean", "mean_valid")
STRIDE = 4.0
HEIGHT, WIDTH = 4, 5

# One operation's worth of float32 roundings, times the handful of operations between an input and a result.
_OPERATIONS = 8


@dataclasses.dataclass
class Case:
    """One call. `weighted` adds weights, of which one is 0."""

    form: str = "isotropic"
    coordinates: str = "absolute"
    beta: float = 0.0
    fixed_log_var: float | None = None
    log_var_bounds: tuple[float, float] | None = None
    full: bool = False
    reduction: str = "none"
    weighted: bool = False
    stride: float = STRIDE

    @property
    def id(self) -> str:
        return changed_fields(self)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "coordinates": self.coordinates,
            "distribution": FORMS[self.form][1],
            "beta": self.beta,
            "fixed_log_var": self.fixed_log_var,
            "log_var_bounds": self.log_var_bounds,
            "full": self.full,
        }


def every_case() -> list[Case]:
    """All forms with all ways to read the maps; reductions, weights and constants take turns."""
    cases = []
    for i, (form, coordinates, beta, (fixed, bounds)) in enumerate(
        itertools.product(FORMS, ("absolute", "offset"), (0.0, 0.5), ((None, None), (0.7, None), (None, (-0.5, 0.6))))
    ):
        turn = i + i // 16
        cases.append(
            Case(form, coordinates, beta, fixed, bounds, turn // 4 % 2 == 1, REDUCTIONS[turn % 4], turn // 8 % 2 == 1)
        )
    return cases


def some_cases() -> list[Case]:
    """Each form with each option at least once, for what is slow."""
    cases = []
    for i, form in enumerate(FORMS):
        cases += [
            Case(form, reduction=REDUCTIONS[i % 4]),
            Case(form, "offset", 0.5, None, (-0.5, 0.6), True, REDUCTIONS[(i + 1) % 4], True, stride=3.0),
            Case(form, "absolute", 1.0, 0.7, None, False, REDUCTIONS[(i + 2) % 4], True),
        ]
    return cases


@dataclasses.dataclass
class Inputs:
    mean: Tensor  # [B, K, 2, H, W]
    log_var: Tensor  # [B, K, C, H, W]
    target: Tensor  # [B, K, 2]
    weight: Tensor | None  # [B, K]

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Inputs:
        """Copies, the maps of `dtype`, as leaves that require grad."""
        dtype = dtype or self.mean.dtype
        return Inputs(
            self.mean.detach().to(device, dtype, copy=True).requires_grad_(),
            self.log_var.detach().to(device, dtype, copy=True).requires_grad_(),
            self.target.detach().to(device),
            None if self.weight is None else self.weight.to(device),
        )


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
    center = 0.0 if case.coordinates == "offset" else size[:, None, None] / 2
    mean = 3.0 * normal(batch, num_keypoints, 2, height, width) + center
    log_var = normal(batch, num_keypoints, FORMS[case.form][0], height, width)
    weight = draw_weights(batch, num_keypoints, generator) if case.weighted else None
    return Inputs(mean.to(dtype), log_var.to(dtype), target.float(), weight)


def counted_cells(inputs: Inputs, stride: float) -> dict[tuple[int, int], tuple[int, int]]:
    """(b, k) -> (row, column) of the keypoints that count."""
    return find_cells(inputs.target, inputs.weight, stride, *inputs.mean.shape[-2:])


def call(inputs: Inputs, case: Case, backend: str = "auto", reduction: str | None = None) -> Tensor:
    return gaussian_nll(
        inputs.mean,
        inputs.log_var,
        inputs.target,
        weight=inputs.weight,
        reduction=reduction or case.reduction,
        backend=backend,
        **case.options,
    )


@dataclasses.dataclass
class Truth:
    """Loss and gradients in float64, and a bound for the error of each in float32 arithmetic."""

    loss: Tensor
    loss_bound: Tensor
    gradients: tuple[Tensor, Tensor]  # of mean and log_var, dense
    gradient_bounds: tuple[Tensor, Tensor]  # zero away from the cells


def truth(inputs: Inputs, case: Case) -> Truth:
    """Compute with the reference in float64.

    A bound is the rounding error of a result that is computed from inputs with a relative error of a few float32
    roundings: the sum over the inputs of abs(d result / d input * input), and the result itself.
    """
    double = inputs.to("cpu", torch.float64)
    double.target = double.target.double().requires_grad_()
    variables = (double.mean, double.log_var, double.target)
    epsilon = torch.finfo(torch.float32).eps * _OPERATIONS

    def sensitivity(results: Tensor) -> Tensor:
        """[B, K] of [B, K] results, each of which depends on its own keypoint only."""
        total = results.detach().abs()
        if not results.requires_grad:
            return total
        slopes = torch.autograd.grad(results.sum(), variables, retain_graph=True, allow_unused=True)
        for slope, variable in zip(slopes, variables, strict=True):
            if slope is not None:
                total = total + (slope * variable.detach()).nan_to_num(0.0).abs().flatten(2).sum(-1)
        return total

    options = dict(weight=inputs.weight, **case.options)
    losses = gaussian_nll_reference(*variables, reduction="none", **options)
    bound = epsilon * sensitivity(losses)
    loss = losses
    if case.reduction != "none":
        loss = gaussian_nll_reference(*variables, reduction=case.reduction, **options)
        # Each reduction is linear in the losses.
        (factors,) = torch.autograd.grad(reduce(losses_ := losses.detach().requires_grad_(), inputs, case), losses_)
        bound = (bound * factors).sum() + epsilon * loss.detach().abs()
    gradients = torch.autograd.grad((loss * grad_loss_like(loss)).sum(), variables[:2], create_graph=True)
    gradient_bounds = []
    for gradient in gradients:
        at_cells = gradient.flatten(3).sum(-1)  # [B, K, C]
        bounds = torch.stack([sensitivity(channel) for channel in at_cells.unbind(-1)], dim=-1) * epsilon
        is_cell = torch.zeros(gradient.shape, dtype=torch.bool)
        for (b, k), (row, column) in counted_cells(inputs, case.stride).items():
            is_cell[b, k, :, row, column] = True
        gradient_bounds.append(torch.where(is_cell, bounds[..., None, None], 0.0))
    return Truth(
        loss.detach(),
        bound.detach(),
        (gradients[0].detach(), gradients[1].detach()),
        (gradient_bounds[0], gradient_bounds[1]),
    )


def reduce(losses: Tensor, inputs: Inputs, case: Case) -> Tensor:
    """Weighted losses [B, K] to one number."""
    if case.reduction == "sum":
        return losses.sum()
    if case.reduction == "mean":
        return losses.mean()
    counted = counted_cells(inputs, case.stride)
    weights = [1.0 if inputs.weight is None else float(inputs.weight[key]) for key in counted]
    return losses.sum() / max(math.fsum(weights), 1e-30)


def assert_like_truth(inputs: Inputs, case: Case, backend: str, device: torch.device | str = "cpu") -> None:
    """Assert that loss and gradients of a backend are right, every element of the gradient by itself."""
    expected = truth(inputs, case)
    there = inputs.to(device)
    loss = call(there, case, backend)
    gradients = torch.autograd.grad(loss, (there.mean, there.log_var), grad_loss_like(loss))
    assert loss.dtype == torch.float32
    error = (loss.detach().cpu().double() - expected.loss).abs()
    assert bool((error <= expected.loss_bound).all()), f"loss: {case.id}: {error} exceeds {expected.loss_bound}"
    rounding = torch.finfo(inputs.mean.dtype)
    for name, gradient, exact, bound in zip(
        ("mean", "log_var"), gradients, expected.gradients, expected.gradient_bounds, strict=True
    ):
        assert gradient.dtype == inputs.mean.dtype
        bound = bound + (bound > 0) * (exact.abs() * rounding.eps / 2 + rounding.smallest_normal * rounding.eps)
        error = (gradient.cpu().double() - exact).abs()
        wrong = ~(error <= bound)
        first = tuple(wrong.nonzero()[0].tolist()) if bool(wrong.any()) else ()
        assert not first, f"{name}{list(first)}: {case.id}: got {gradient[first]}, expected {exact[first]}"
