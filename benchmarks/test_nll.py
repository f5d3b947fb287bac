"""gaussian_nll, its linear and its mixture form: what a training step costs, against torch operations and against one
write of the gradients.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps (or features). Losses and gradients are
compared with those of the reference in float64 before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import W1, W2, Workload

STRIDE = 4.0
# Channels of the features that HRNet-W32 and HRNet-W48 hand to their head.
FEATURE_CHANNELS = {"W1": 32, "W2": 48}
# Components of a mixture.
COMPONENTS = 3
# Channels of the maps of a keypoint.
MAP_CHANNELS = {"gaussian_nll": 3, "gaussian_mixture_nll": 4 * COMPONENTS}

# A sum and not a mean: the gradients of a mean over 4256 keypoints are below what float16 can hold, and users scale
# the loss for that. Offsets and not positions: a position of 200 px in float16 is off by a sixteenth of a pixel.
_OPTIONS: dict[str, Any] = {"stride": STRIDE, "coordinates": "offset", "reduction": "sum"}

# Errors are relative to the largest number of their tensor, in units of the rounding of what was multiplied. A loss
# and a gradient are sums of terms (d e^-s) with an error of a few units each, where d and s are sums of as many
# products as there are channels.
_UNITS = 16


class Maps(NamedTuple):
    """Arguments of gaussian_nll."""

    mean: Tensor  # [B, K, 2, H, W]
    log_var: Tensor  # [B, K, 1, H, W]
    target: Tensor  # [B, K, 2]


class Features(NamedTuple):
    """Arguments of linear_gaussian_nll."""

    features: Tensor  # [B, C, H, W]
    weight: Tensor  # [K * 3, C]
    bias: Tensor  # [K * 3]
    target: Tensor  # [B, K, 2]


class Mixture(NamedTuple):
    """Arguments of gaussian_mixture_nll."""

    logits: Tensor  # [B, K, M, H, W]
    mean: Tensor  # [B, K, M, 2, H, W]
    log_var: Tensor  # [B, K, M, H, W]
    target: Tensor  # [B, K, 2]


Arguments = Maps | Features | Mixture
Loss = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    function: str
    workload: Workload
    rows: tuple[str, ...]
    dtype: str = "float32"
    backward: bool = True

    @property
    def operation(self) -> str:
        """The function, and which passes are timed."""
        return f"{self.function} forward{' + backward' if self.backward else ''}"

    @property
    def variant(self) -> str:
        """Isotropic; for the linear form, of how many features; for a mixture, of how many components."""
        if self.function == "gaussian_nll":
            return "isotropic"
        if self.function == "gaussian_mixture_nll":
            return f"{COMPONENTS} components"
        return f"{FEATURE_CHANNELS[self.workload.name]} features"

    def __str__(self) -> str:
        return f"{self.operation} {self.workload.name} {self.dtype}"


FILL, MEMSET, EMPTY = "write gradients once (fill)", "write gradients once (memset)", "empty kernel"
COMPILED = "torch.compile of the reference"
LOOP = "Python loop"
CONV_REFERENCE, CONV_OURS = "conv2d + reference", "conv2d + gaussian_nll"
COMPILED_CONV = "torch.compile of conv2d + reference"


def _cases(device: str) -> tuple[Case, ...]:
    on_gpu = device != "cpu"
    floors = (FILL, MEMSET, EMPTY) if on_gpu else (FILL,)
    cases = []
    for workload, dtype in itertools.product((W1, W2), ("float32", "float16") if on_gpu else ("float32",)):
        # Compiling takes ten seconds and more, and the loop seconds a step: not everything has to wait for them.
        compiles = dtype == "float32" and (on_gpu or workload is W1)
        loops = not on_gpu and workload is W1
        others = ("reference", *((COMPILED,) if compiles else ()))
        cases += [
            Case(
                "gaussian_nll",
                workload,
                (*floors, "gaussian_nll", *others, *((LOOP,) if loops else ())),
                dtype,
            ),
            Case("gaussian_nll", workload, (*floors[2:], "gaussian_nll", "reference"), dtype, backward=False),
            Case(
                "linear_gaussian_nll",
                workload,
                (
                    *floors,
                    "linear_gaussian_nll",
                    "reference",
                    CONV_REFERENCE,
                    CONV_OURS,
                    *((COMPILED_CONV,) if on_gpu and compiles else ()),
                ),
                dtype,
            ),
        ]
        if on_gpu or workload is W1:
            cases.append(Case("gaussian_mixture_nll", workload, (*floors, "gaussian_mixture_nll", "reference"), dtype))
    # Groups of the same inputs follow each other, and so do their rows.
    return tuple(sorted(cases, key=lambda case: case.function))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, _cases(rows.device_of(metafunc)))


# --- inputs, and the truth about them -----------------------------------------------------------------------


def make_arguments(case: Case, device: str) -> Arguments:
    """Seeded inputs that require grad where a network's would. One target in ten is outside of the maps."""
    batch, num_keypoints, height, width = case.workload.shape
    dtype = workloads.DTYPES[case.dtype]
    generator = torch.Generator(device=device).manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    unit = torch.rand((batch, num_keypoints, 2), generator=generator, device=device)
    target = (unit * 1.1 - 0.05) * torch.tensor([width * STRIDE, height * STRIDE], device=device)
    if case.function == "gaussian_nll":
        mean = normal(batch, num_keypoints, 2, height, width).mul_(2).to(dtype)
        log_var = normal(batch, num_keypoints, 1, height, width).mul_(0.5).add_(1).to(dtype)
        return Maps(mean.requires_grad_(), log_var.requires_grad_(), target)
    if case.function == "gaussian_mixture_nll":
        logits = normal(batch, num_keypoints, COMPONENTS, height, width).to(dtype)
        mean = normal(batch, num_keypoints, COMPONENTS, 2, height, width).mul_(2).to(dtype)
        log_var = normal(batch, num_keypoints, COMPONENTS, height, width).mul_(0.5).add_(1).to(dtype)
        return Mixture(logits.requires_grad_(), mean.requires_grad_(), log_var.requires_grad_(), target)
    channels = FEATURE_CHANNELS[case.workload.name]
    features = normal(batch, channels, height, width).to(dtype)
    weight = normal(num_keypoints * 3, channels).div_(channels**0.5).to(dtype)
    bias = torch.ones(num_keypoints * 3, device=device).to(dtype)
    return Features(features.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target)


def gradient_bytes(case: Case) -> int:
    """Bytes of the gradients of a case."""
    itemsize = workloads.DTYPES[case.dtype].itemsize
    if case.function in MAP_CHANNELS:
        return MAP_CHANNELS[case.function] * case.workload.num_elements * itemsize
    batch, num_keypoints, height, width = case.workload.shape
    channels = FEATURE_CHANNELS[case.workload.name]
    return (batch * channels * height * width + num_keypoints * 3 * (channels + 1)) * itemsize


def step_bytes(case: Case) -> int:
    """Bytes that a case must move: what its keypoints read, the loss, and the gradients."""
    itemsize = workloads.DTYPES[case.dtype].itemsize
    values = MAP_CHANNELS.get(case.function, FEATURE_CHANNELS[case.workload.name])
    read = case.workload.num_maps * (values * itemsize + 8)
    return read + 4 + (gradient_bytes(case) if case.backward else 0)


@functools.lru_cache(maxsize=1)
def _inputs(function: str, workload: Workload, dtype: str, device: str) -> list[Arguments]:
    """Rotated inputs; a case with and one without a backward pass share them."""
    arguments = make_arguments(Case(function, workload, (), dtype), device)
    total = sum(tensor.numel() * tensor.itemsize for tensor in arguments)
    copies = workloads.num_copies(total, measure.cache_bytes(device))

    def copy() -> Arguments:
        tensors = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in arguments]
        return type(arguments)(*tensors)

    return [arguments, *(copy() for _ in range(copies - 1))]


def inputs_of(case: Case, device: str) -> list[Arguments]:
    return _inputs(case.function, case.workload, case.dtype, device)


def run_step(loss_of: Loss, arguments: Arguments, backward: bool) -> tuple[Tensor, ...]:
    """The loss, and the gradients of all that require one."""
    loss = loss_of(*arguments)
    if not backward:
        return (loss,)
    return loss.detach(), *torch.autograd.grad(loss, [tensor for tensor in arguments if tensor.requires_grad])


@functools.lru_cache(maxsize=1)
def _truth(function: str, workload: Workload, dtype: str, device: str) -> tuple[Tensor, ...]:
    """Loss and gradients of the reference in float64."""
    arguments = _inputs(function, workload, dtype, device)[0]
    doubled = type(arguments)(*(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in arguments))
    return run_step(_loss(function, backend="reference"), doubled, backward=True)


def compare_step(output: tuple[Tensor, ...], case: Case, device: str, eps: float) -> tuple[float, str]:
    """Largest error of a loss and its gradients, relative to the largest number of each; raises Wrong."""
    truth = _truth(case.function, case.workload, case.dtype, device)
    largest = 0.0
    for name, got, expected in zip(("loss", "first", "second", "third"), output, truth, strict=False):
        assert got.shape == expected.shape
        difference = (got.detach() - expected).abs_().max()
        error = float(difference / expected.abs().max())
        what = "the loss" if name == "loss" else f"the {name} gradient"
        if not error <= _UNITS * eps:
            raise Wrong(f"{what} is off by {error:.3g} of its largest number")
        largest = max(largest, error)
    return largest, "loss and gradients, relative to the largest of each, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _loss(function: str, backend: str = "auto") -> Loss:
    return functools.partial(getattr(dark_kernels, function), **_OPTIONS, backend=backend)


def _conv_loss(backend: str) -> Loss:
    """The head as a convolution over whole maps, then the loss."""
    loss_of_maps = _loss("gaussian_nll", backend)

    def loss(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        num_keypoints = target.shape[1]
        maps = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
        mean = maps[:, : 2 * num_keypoints].unflatten(1, (num_keypoints, 2))
        return loss_of_maps(mean, maps[:, 2 * num_keypoints :].unflatten(1, (num_keypoints, 1)), target)

    return loss


def _step_row(case: Case, device: str, loss_of: Loss, *, rounds_maps: bool = False, **fields: Any) -> Row:
    """`rounds_maps`: the maps are made by a convolution, in float16 or (on a GPU) in TF32, whose 10 bits they keep."""
    half = case.dtype != "float32" or (rounds_maps and device != "cpu")
    eps = torch.finfo(torch.float16 if half else torch.float32).eps
    return Row(
        call=lambda arguments: run_step(loss_of, arguments, case.backward),
        compare=lambda output: compare_step(output, case, device, eps),
        bytes=step_bytes(case),
        **fields,
    )


def _ours_row(case: Case, device: str) -> Row:
    return _step_row(case, device, _loss(case.function), role="ours", capture="always")


def _compiled_row(case: Case, device: str) -> Row:
    convolves = case.function == "linear_gaussian_nll"
    plain = _conv_loss("reference") if convolves else _loss(case.function, "reference")
    example = inputs_of(case, device)[0]
    compiled = peers.compiled(plain, lambda loss_of: run_step(loss_of, example, case.backward))
    return _step_row(case, device, compiled, rounds_maps=convolves)


def _loop_row(case: Case, device: str) -> Row:
    loop = functools.partial(peers.gaussian_nll_loop, stride=STRIDE)
    return _step_row(case, device, loop, capture="never", note="one keypoint after the other")


def _write_row(case: Case, device: str, memset: bool) -> Row:
    return rows.write_row(gradient_bytes(case), len(inputs_of(case, device)), device, memset)


ROWS: dict[str, Callable[[Case, str], Row]] = {
    FILL: functools.partial(_write_row, memset=False),
    MEMSET: functools.partial(_write_row, memset=True),
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    "gaussian_nll": _ours_row,
    "linear_gaussian_nll": _ours_row,
    "gaussian_mixture_nll": _ours_row,
    "reference": lambda case, device: _step_row(case, device, _loss(case.function, "reference")),
    COMPILED: _compiled_row,
    COMPILED_CONV: _compiled_row,
    LOOP: _loop_row,
    CONV_REFERENCE: lambda case, device: _step_row(case, device, _conv_loss("reference"), rounds_maps=True),
    CONV_OURS: lambda case, device: _step_row(
        case, device, _conv_loss("auto"), rounds_maps=True, role="other", note="our loss behind torch's head"
    ),
}


def test_nll(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=str(case),
        identity={
            "operation": case.operation,
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "normal",
            "variant": case.variant,
            "row": row,
        },
    )
