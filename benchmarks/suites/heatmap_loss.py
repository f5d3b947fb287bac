"""The heatmap losses: a training step, against losses on target maps and against the bytes that it must move, two reads
of the maps and one write."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite, workloads
from benchmarks.suite import COMPILED, EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W2, W3, Workload

SIGMA = 2.0
FUNCTIONS = ("heatmap_mse", "heatmap_adaptive_wing", "heatmap_focal", "heatmap_cross_entropy", "heatmap_js")
FLOOR, NUMPY = "read twice, write once", "NumPy targets + torch mse"

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


def case_of(
    function: str, workload: Workload, rows: tuple[str, ...], dtype: str = "float32", encoding: str = "unbiased"
) -> Case:
    operation = f"{function} forward + backward"
    group = f"{operation} {workload.name} {dtype} {encoding}"
    return Case(group, operation, workload, rows, encoding, dtype, values="noise")


def cases_on(device: str) -> tuple[Case, ...]:
    on_gpu = device != "cpu"
    mse = (FLOOR, EMPTY, "heatmap_mse", REFERENCE)
    cases = []
    for workload, dtype in itertools.product((W2, W3), ("float32", "float16") if on_gpu else ("float32",)):
        others = (*((COMPILED,) if workload is W2 else ()), NUMPY) if dtype == "float32" else ()
        cases.append(case_of("heatmap_mse", workload, (*mse, *others), dtype))
    cases.append(case_of("heatmap_mse", W2, (*mse, NUMPY), encoding="biased"))
    for function in FUNCTIONS[1:]:
        encoding = "biased" if function == "heatmap_focal" else "unbiased"
        others = (COMPILED,) if on_gpu else ()
        cases.append(case_of(function, W2, (FLOOR, EMPTY, function, REFERENCE, *others), encoding=encoding))
    return tuple(sorted(cases, key=lambda case: (case.workload.name, case.dtype)))


def make_arguments(case: Case, device: str) -> Arguments:
    """Seeded maps of numbers between 0.05 and 0.95, which are probabilities as well, and keypoints inside of them."""
    noise = workloads.make_heatmaps(case.workload, torch.float32, values="noise", device=device)
    heatmaps = noise.mul_(0.9).add_(0.05).to(case.torch_dtype)
    batch, num_keypoints, height, width = case.workload.shape
    generator = torch.Generator().manual_seed(7)
    keypoints = torch.rand((batch, num_keypoints, 2), generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    return Arguments(heatmaps.requires_grad_(), keypoints.to(device))


def loss_on(case: Case, backend: str) -> Callable[..., Tensor]:
    """A sum and not a mean: gradients of a mean over 4256 maps are below what float16 can hold."""
    function = getattr(dark_kernels, case.function)
    return functools.partial(function, sigma=SIGMA, encoding=case.variant, reduction="sum", backend=backend)


def step_bytes(case: Case) -> int:
    """Bytes that a step must move: the maps read forward, read backward, and their gradient written."""
    return 3 * case.workload.input_bytes(case.torch_dtype)


def find_truth(group: Group) -> tuple[Tensor, Tensor]:
    """Loss (float64) and gradient (float32) of the reference in float64, an image at a time."""
    heatmaps, keypoints = group.inputs[0]
    loss = torch.zeros((), dtype=torch.float64, device=group.device)
    gradient = torch.empty_like(heatmaps, dtype=torch.float32)
    loss_of = loss_on(group.case, "reference")
    for image in range(heatmaps.shape[0]):
        one = heatmaps[image : image + 1].detach().double().requires_grad_()
        arguments = Arguments(one, keypoints[image : image + 1])
        loss_of_one, gradient[image : image + 1] = suite.run_step(loss_of, arguments, group.case)
        loss += loss_of_one
    return loss, gradient


def compare(output: tuple[Tensor, Tensor], group: Group) -> tuple[float, str]:
    # The loss is float32 whatever the maps are, and so is the target.
    single = torch.finfo(torch.float32).eps
    of_gradient = _UNITS * torch.finfo(group.case.torch_dtype).eps
    if group.case.function == "heatmap_adaptive_wing":
        of_gradient += _UNITS_OF_WING * single
    return suite.compare_step(output, group.truth, (_UNITS * single, of_gradient))


SUITE = Suite(
    cases={device: cases_on(device) for device in suite.DEVICES},
    inputs=make_arguments,
    function=loss_on,
    run=suite.run_step,
    truth=find_truth,
    compare=compare,
    num_bytes=step_bytes,
    gradients=True,
    rows={
        FLOOR: suite.read_twice_and_write(lambda arguments, case: arguments.heatmaps),
        EMPTY: suite.empty(),
        **{function: suite.ours() for function in FUNCTIONS},
        REFERENCE: suite.reference(note="draws the targets"),
        COMPILED: suite.compiled(),
        NUMPY: suite.calls(
            lambda group: functools.partial(peers.mse_on_numpy_targets, sigma=SIGMA, encoding=group.case.variant),
            capture="never",
            note="as in a data loader, on one core",
        ),
    },
)
