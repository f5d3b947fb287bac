"""Keypoints of collapsed and exploded variances, and their losses and gradients to sixty digits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import cache

import torch
from torch import Tensor

# Rounding stops here, and no exponential over- or underflows.
EXACT = Context(prec=60, Emax=10**15, Emin=-(10**15))

# In e^-s the range of float32 ends at 88.7, with that of its square root at 177.4, of float64 at 709.8 and 1419.6.
LOG_VARS = (
    0.0, -1.0, -44.0, -80.0, -88.0, -89.0, -100.0, -103.0, -140.0, -177.0, -178.0, -190.0, -250.0, -360.0, -700.0,
    -745.0, -1400.0, -1430.0, -1490.0, -2000.0, -1e4, 50.0, 88.0, 100.0, 180.0, 400.0, 800.0, 2000.0,
)  # fmt: skip
RESIDUALS = {
    torch.float32: (0.0, 1e-37, 1e-30, 1e-20, 1e-8, 1.0, 3.0, 1e4, 1e15),
    torch.float64: (0.0, 1e-300, 1e-200, 1e-40, 1e-8, 1.0, 3.0, 1e4, 1e30),
}

# A number, and the sum of what its terms can be in size: rounding is relative to that.
Number = tuple[Decimal, Decimal]


@dataclasses.dataclass
class Keypoint:
    """A residual in float, exact there, and what its loss depends on. Gradients are of the means and log variances."""

    residual: tuple[float, float]
    log_var: tuple[float, ...]

    def exact(self, distribution: str, beta: float, dtype: torch.dtype) -> tuple[Number, list[Number], Decimal]:
        """Loss, gradients, and the largest number that a gradient is made of."""
        with localcontext(EXACT):
            dx, dy = (Decimal(number) for number in self.residual)
            log_var = [Decimal(number) for number in self.log_var]
            if len(log_var) == 3:
                return _cholesky(dx, dy, *log_var, Decimal(beta), dtype)
            axes = [
                _axis(d, s, distribution, Decimal(beta))
                for d, s in zip((dx, dy), log_var * (3 - len(log_var)), strict=False)
            ]
            loss, means, log_vars = (list(each) for each in zip(*axes, strict=True))
            if len(log_var) == 1:
                log_vars = [_sum(log_vars)]
            return _sum(loss), [*means, *log_vars], Decimal(0)


def _sum(numbers: list[Number]) -> Number:
    value, size = (sum(each, Decimal(0)) for each in zip(*numbers, strict=True))
    return value, size


@cache
def _axis(d: Decimal, s: Decimal, distribution: str, beta: Decimal) -> tuple[Number, Number, Number]:
    factor, precision = (beta * s).exp(), ((beta - 1) * s).exp()
    if distribution == "laplace":
        two, distance = Decimal(2).ln(), abs(d) * precision
        sign = Decimal((d > 0) - (d < 0))
        return (
            ((two + s) * factor + distance, (two + abs(s)) * factor + distance),
            (-sign * precision, abs(sign) * precision),
            (factor - distance, factor + distance),
        )
    square = d * d * precision
    return (
        ((s * factor + square) / 2, (abs(s) * factor + square) / 2),
        (-d * precision, abs(d) * precision),
        ((factor - square) / 2, (factor + square) / 2),
    )


@cache
def _cholesky(
    dx: Decimal, dy: Decimal, a: Decimal, b: Decimal, c: Decimal, beta: Decimal, dtype: torch.dtype
) -> tuple[Number, list[Number], Decimal]:
    factor, to_x, to_y = (beta * (a + c)).exp(), (-a).exp(), (-c).exp()
    z1, z2 = dx * to_x, (dy - b * dx * to_x) * to_y
    g, along_x = z2 * to_y, dx * to_x - b * z2 * to_y
    # Sizes: of a difference, and of what is made of it. What underflows is rounded as the smallest number.
    smallest = Decimal(torch.finfo(dtype).smallest_normal / torch.finfo(dtype).eps)

    def size(number: Decimal, factor: Decimal) -> Decimal:
        return max(abs(number), smallest / factor) if number else number

    root = factor.sqrt()  # with which residuals are multiplied
    x = max(size(z1, Decimal(1)), size(z1, root))
    y = size((abs(dy) + abs(b) * x) * to_y, root)
    of_g = size(y * to_y, factor)
    of_x = x + abs(b) * of_g
    values = (
        (a + c + (z1 * z1 + z2 * z2) / 2, abs(a) + abs(c) + (x * x + y * y) / 2),
        (-along_x * to_x, of_x * to_x),
        (-g, of_g),
        (1 - z1 * along_x, 1 + x * of_x),
        (-z1 * g, x * of_g),
        (1 - z2 * z2, 1 + y * y),
    )
    loss, *gradients = ((value * factor, size * factor) for value, size in values)
    return loss, gradients, max(factor, factor * of_g, factor * abs(b) * of_g, abs(z1), abs(b * z1))


def keypoints(form: str, dtype: torch.dtype) -> list[Keypoint]:
    residuals = RESIDUALS[dtype]
    if form in ("isotropic", "laplace"):
        return [
            Keypoint((d, -residuals[i % len(residuals)]), (s,))
            for i, (s, d) in enumerate(itertools.product(LOG_VARS, residuals))
        ]
    if form != "cholesky":
        pairs = enumerate(itertools.product(LOG_VARS, residuals))
        return [
            Keypoint((-d, residuals[i % len(residuals)]), (s, LOG_VARS[(5 * i) % len(LOG_VARS)])) for i, (s, d) in pairs
        ]
    found = []
    for i, (a, d) in enumerate(itertools.product(LOG_VARS, residuals)):
        b = (0.0, 0.5, -3.0, 0.0)[i % 4]
        c = a if i % 3 else LOG_VARS[(5 * i) % len(LOG_VARS)]
        found.append(Keypoint((d, (-d, 0.0, residuals[(i // 2) % len(residuals)])[i % 5 % 3]), (a / 2, b, c / 2)))
    return found


def make(found: list[Keypoint], dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """Mean and log variance as leaves, and target of one image of 1 x 1 maps. Targets are 0: no residual is rounded."""
    mean = -torch.tensor([each.residual for each in found], dtype=dtype)
    log_var = torch.tensor([each.log_var for each in found], dtype=dtype)
    maps = (each[None, :, :, None, None].to(device).requires_grad_() for each in (mean, log_var))
    return *maps, torch.zeros(1, len(found), 2, dtype=dtype, device=device)


def assert_number(
    got: float, exact: Number, dtype: torch.dtype, roundings: float, may_overflow: bool, what: str
) -> None:
    """Assert that a result is right where the dtype can hold it, infinite beyond, and no NaN anywhere."""
    info = torch.finfo(dtype)
    value, size = exact
    assert not math.isnan(got), f"{what}: NaN, expected {value:.6e}"
    with localcontext(EXACT):
        bound = size * Decimal(roundings * info.eps) + Decimal(info.smallest_normal)
        largest = Decimal(info.max)
        if may_overflow:
            return
        if abs(value) - bound > largest:
            assert got == math.copysign(math.inf, value), f"{what}: got {got}, expected {value:.6e}"
        elif abs(value) + bound < largest:
            error = abs(Decimal(got) - value) if math.isfinite(got) else Decimal("Infinity")
            assert error <= bound, f"{what}: got {got}, expected {value:.9e} within {bound:.1e}"


def learn_by_heart(loss_of: Callable[[], Tensor], means: list[Tensor], others: list[Tensor], rate: float = 1.0) -> None:
    """Learn one batch until the variance is 0 in any float: the means by gradient descent at `rate`, of which one step
    solves them and the next one takes what was rounded; and then everything by Adam, in steps that grow, as long as it
    takes."""
    descent = torch.optim.SGD(means, lr=rate)
    for _ in range(3):
        descent.zero_grad()
        loss_of().backward()
        descent.step()
    adam = torch.optim.Adam([*means, *others], lr=50.0)
    last = math.inf
    for _ in range(13):
        adam.zero_grad()
        loss = loss_of()
        loss.backward()
        adam.step()
        adam.param_groups[0]["lr"] *= 1.25
        assert -math.inf < loss.item() < last
        last = loss.item()
        assert all(bool(each.grad.isfinite().all()) for each in (*means, *others))
    assert last < -2000
