"""The heatmap losses: what a training step costs, against losses on target maps and against the bytes that it must
move, two reads of the maps and one write.

Run by `python -m benchmarks.run`. Within a group all rows get the same maps and keypoints. Losses and gradients are
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
from benchmarks.workloads import W2, W3, Workload

SIGMA = 2.0
FUNCTIONS = ("heatmap_mse", "heatmap_adaptive_wing", "heatmap_focal", "heatmap_cross_entropy", "heatmap_js")

# Relative to the largest number of their tensor, in units of the rounding of the maps: a pixel's slope is a few
# roundings of numbers that are no larger, and a power or a logarithm some more.
_UNITS = 64
# The slope of the adaptive wing loss rises like d^0.1 where a map comes to within d of a target near 1. Of ten thousand
# such pixels one is within 1e-4, where a rounding of the target, in float32, is multiplied by a thousand.
_UNITS_OF_WING = 8192


class Arguments(NamedTuple):
    """Arguments of a loss."""

    heatmaps: Tensor  # [B, K, H, W]
    keypoints: Tensor  # [B, K, 2]


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    function: str
    workload: Workload
    rows: tuple[str, ...]
    dtype: str = "float32"
    encoding: str = "unbiased"

    def __str__(self) -> str:
        return f"{self.function} forward + backward {self.workload.name} {self.dtype} {self.encoding}"


FLOOR, EMPTY = "read twice, write once", "empty kernel"
COMPILED, NUMPY = "torch.compile of the reference", "NumPy targets + torch mse"


def _cases(device: str) -> tuple[Case, ...]:
    on_gpu = device != "cpu"
    floors = (FLOOR, EMPTY) if on_gpu else (FLOOR,)
    mse = (*floors, "heatmap_mse", "reference")
    cases = []
    for workload, dtype in itertools.product((W2, W3), ("float32", "float16") if on_gpu else ("float32",)):
        others = (*((COMPILED,) if workload is W2 else ()), NUMPY) if dtype == "float32" else ()
        cases.append(Case("heatmap_mse", workload, (*mse, *others), dtype))
    cases.append(Case("heatmap_mse", W2, (*mse, NUMPY), encoding="biased"))
    for function in FUNCTIONS[1:]:
        encoding = "biased" if function == "heatmap_focal" else "unbiased"
        others = (COMPILED,) if on_gpu else ()
        cases.append(Case(function, W2, (*floors, function, "reference", *others), encoding=encoding))
    # Groups of the same inputs follow each other.
    return tuple(sorted(cases, key=lambda case: (case.workload.name, case.dtype)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, _cases(rows.device_of(metafunc)))


# --- inputs, and the truth about them -----------------------------------------------------------------------


def make_arguments(workload: Workload, dtype: str, device: str) -> Arguments:
    """Seeded maps of numbers between 0.05 and 0.95, which are probabilities as well, and keypoints inside of them."""
    noise = workloads.make_heatmaps(workload, torch.float32, values="noise", device=device)
    heatmaps = noise.mul_(0.9).add_(0.05).to(workloads.DTYPES[dtype])
    batch, num_keypoints, height, width = workload.shape
    generator = torch.Generator().manual_seed(7)
    keypoints = torch.rand((batch, num_keypoints, 2), generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    return Arguments(heatmaps.requires_grad_(), keypoints.to(device))


@functools.lru_cache(maxsize=1)
def _inputs(workload: Workload, dtype: str, device: str) -> list[Arguments]:
    """Rotated inputs."""
    arguments = make_arguments(workload, dtype, device)
    copies = workloads.num_copies(workload.input_bytes(workloads.DTYPES[dtype]), measure.cache_bytes(device))
    heatmaps, keypoints = arguments
    others = (heatmaps.detach().clone().requires_grad_() for _ in range(copies - 1))
    return [arguments, *(Arguments(each, keypoints.clone()) for each in others)]


def inputs_of(case: Case, device: str) -> list[Arguments]:
    return _inputs(case.workload, case.dtype, device)


def step_bytes(case: Case) -> int:
    """Bytes that a step must move: the maps read forward, read backward, and their gradient written."""
    return 3 * case.workload.input_bytes(workloads.DTYPES[case.dtype])


def run_step(loss_of: Loss, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    loss = loss_of(*arguments)
    return loss.detach(), torch.autograd.grad(loss, arguments.heatmaps)[0]


@functools.lru_cache(maxsize=1)
def _truth(function: str, workload: Workload, dtype: str, encoding: str, device: str) -> tuple[Tensor, Tensor]:
    """Loss (float64) and gradient (float32) of the reference in float64, an image at a time."""
    heatmaps, keypoints = _inputs(workload, dtype, device)[0]
    loss_of = _loss(Case(function, workload, (), dtype, encoding), "reference")
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gradient = torch.empty_like(heatmaps, dtype=torch.float32)
    for image in range(heatmaps.shape[0]):
        one = heatmaps[image : image + 1].detach().double().requires_grad_()
        loss_of_one, gradient[image : image + 1] = run_step(loss_of, Arguments(one, keypoints[image : image + 1]))
        loss += loss_of_one
    return loss, gradient


def compare_step(output: tuple[Tensor, Tensor], case: Case, device: str) -> tuple[float, str]:
    """Largest error of loss and gradient, relative to the largest number of each; raises Wrong."""
    truth = _truth(case.function, case.workload, case.dtype, case.encoding, device)
    largest = 0.0
    for name, got, expected in zip(("loss", "gradient"), output, truth, strict=True):
        assert got.shape == expected.shape
        error = float((got.detach() - expected).abs_().max() / expected.abs().max())
        # The loss is float32 whatever the maps are, and so is the target.
        eps = torch.finfo(workloads.DTYPES[case.dtype] if name == "gradient" else torch.float32).eps
        bound = _UNITS * eps
        if case.function == "heatmap_adaptive_wing" and name == "gradient":
            bound += _UNITS_OF_WING * torch.finfo(torch.float32).eps
        if not error <= bound:
            raise Wrong(f"the {name} is off by {error:.3g} of its largest number")
        largest = max(largest, error)
    return largest, "loss and gradient, relative to the largest of each, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _loss(case: Case, backend: str = "auto") -> Loss:
    """A sum and not a mean: gradients of a mean over 4256 maps are below what float16 can hold."""
    function = getattr(dark_kernels, case.function)
    return functools.partial(function, sigma=SIGMA, encoding=case.encoding, reduction="sum", backend=backend)


def _step_row(case: Case, device: str, loss_of: Loss, **fields: Any) -> Row:
    return Row(
        call=lambda arguments: run_step(loss_of, arguments),
        compare=lambda output: compare_step(output, case, device),
        bytes=step_bytes(case),
        **fields,
    )


def _compiled_row(case: Case, device: str) -> Row:
    example = inputs_of(case, device)[0]
    return _step_row(case, device, peers.compiled(_loss(case, "reference"), lambda loss: run_step(loss, example)))


def _numpy_row(case: Case, device: str) -> Row:
    def loss(heatmaps: Tensor, keypoints: Tensor) -> Tensor:
        return peers.mse_on_numpy_targets(heatmaps, keypoints, SIGMA, case.encoding)

    return _step_row(case, device, loss, capture="never", note="as in a data loader, on one core")


def _floor_row(case: Case, device: str) -> Row:
    """Reads the maps, and copies them to where something has been written before."""
    inputs = inputs_of(case, device)
    read = measure.read_once(inputs[0].heatmaps.detach())
    following = itertools.cycle([torch.zeros_like(arguments.heatmaps) for arguments in inputs])

    def call(arguments: Arguments) -> tuple[Tensor, Tensor]:
        heatmaps = arguments.heatmaps.detach()
        return read(heatmaps), next(following).copy_(heatmaps)

    def compare(output: tuple[Tensor, Tensor]) -> tuple[None, str]:
        assert torch.equal(output[1], inputs[0].heatmaps)
        return None, "a copy"

    note = "in place; a gradient that is new memory costs its pages as well" if device == "cpu" else None
    return Row(call, compare, step_bytes(case), role="floor", note=note, capture="always")


ROWS: dict[str, Callable[[Case, str], Row]] = {
    FLOOR: _floor_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    **dict.fromkeys(
        FUNCTIONS, lambda case, device: _step_row(case, device, _loss(case), role="ours", capture="always")
    ),
    "reference": lambda case, device: _step_row(case, device, _loss(case, "reference"), note="draws the targets"),
    COMPILED: _compiled_row,
    NUMPY: _numpy_row,
}


def test_heatmap_loss(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=str(case),
        identity={
            "operation": f"{case.function} forward + backward",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "noise",
            "variant": case.encoding,
            "row": row,
        },
    )
