"""soft_argmax: a pass or a training step, against what PyTorch and kornia do and one read of the maps."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite
from benchmarks.suite import COMPILED, EMPTY, READ_ONLY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, W3, Workload

BETA = 10.0
OURS, TORCH, KORNIA = "soft_argmax", "torch softmax and grids", "kornia soft-argmax"

# Largest error of coordinates in pixels, and of a gradient relative to its largest number. In float16 gradients are
# rounded to 11 bits, and so is what others do in between.
_TOLERANCES = {"float32": (1e-3, 1e-4), "float16": (1e-3, 2e-3)}
_PEER_TOLERANCE = 0.2


def case_of(workload: Workload, *rows: str, dtype: str = "float32", backward: bool = True) -> Case:
    operation = f"soft_argmax forward{' + backward' if backward else ''}"
    return Case(f"{operation} {workload.name} {dtype}", operation, workload, rows, f"beta={BETA:g}", dtype)


CPU_CASES = (
    case_of(W1, READ_ONLY, OURS, REFERENCE, TORCH, KORNIA, backward=False),
    # Compiling takes ten seconds and more.
    case_of(W1, READ_ONLY, OURS, REFERENCE, COMPILED, TORCH, KORNIA),
    case_of(W2, READ_ONLY, OURS, TORCH),
)
CUDA_CASES = tuple(
    case_of(workload, *names, dtype=dtype, backward=backward)
    for workload, dtype, backward in itertools.product((W1, W2, W3), ("float32", "float16"), (False, True))
    # All peers in a few groups, and the usual one in all of them.
    for names in [
        (READ_ONLY, EMPTY, OURS, REFERENCE, COMPILED, TORCH, KORNIA)
        if dtype == "float32" and workload is not W3
        else (READ_ONLY, OURS, TORCH)
    ]
)


def make_maps(case: Case, device: str) -> Tensor:
    return case.heatmaps(device).requires_grad_()


def soft_argmax_on(case: Case, backend: str) -> Callable[[Tensor], Tensor]:
    return functools.partial(dark_kernels.soft_argmax, beta=BETA, backend=backend)


def run_step(function: Callable[[Tensor], Tensor], maps: Tensor, case: Case) -> tuple[Tensor, ...]:
    """The coordinates, and the gradient of the mean of their squares."""
    if not case.backward:
        with torch.no_grad():
            return (function(maps),)
    coords = function(maps)
    grad_coords = coords.detach() * (2 / coords.numel())
    return coords.detach(), *torch.autograd.grad(coords, maps, grad_coords)


def num_bytes(case: Case) -> int:
    """Bytes that must move: the maps read once a pass, the gradient written; four numbers a map."""
    maps = case.workload.input_bytes(case.torch_dtype)
    return (3 if case.backward else 1) * maps + 16 * case.workload.num_maps


def compare(
    output: tuple[Tensor, ...], group: Group, tolerances: tuple[float, float] | None = None
) -> tuple[float, str]:
    """Largest error of the coordinates in pixels; raises Wrong where they, or the gradient, are off by too much."""
    of_coords, of_gradient = tolerances or _TOLERANCES[group.case.dtype]
    error = suite.within(of_coords, "coordinates are", output[0], group.truth[0])
    for gradient, expected in zip(output[1:], group.truth[1:], strict=True):
        suite.within_share(of_gradient, "the gradient is", gradient, expected)
    return error, "coordinates in px, against the float64 reference"


def compare_peer(output: tuple[Tensor, ...], group: Group) -> tuple[float, str]:
    return compare(output, group, None if group.case.dtype == "float32" else (_PEER_TOLERANCE, _PEER_TOLERANCE))


SUITE = Suite(
    cases={"cpu": CPU_CASES, "cuda": CUDA_CASES},
    inputs=make_maps,
    function=soft_argmax_on,
    run=run_step,
    compare=compare,
    num_bytes=num_bytes,
    gradients=True,
    rows={
        READ_ONLY: suite.read_only(),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(),
        COMPILED: suite.compiled(),
        TORCH: suite.calls(lambda _: functools.partial(peers.softmax_and_grid, beta=BETA), compare_peer),
        KORNIA: suite.calls(lambda _: peers.kornia_soft_argmax(BETA), compare_peer, capture="never"),
    },
)
