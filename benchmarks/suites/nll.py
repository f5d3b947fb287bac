"""gaussian_nll, its linear and its mixture form: a training step, against torch operations and one write of the
gradients."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite
from benchmarks.suite import COMPILED, EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, Workload

STRIDE = 4.0
# Channels of the features that HRNet-W32 and HRNet-W48 hand to their head.
FEATURE_CHANNELS = {"W1": 32, "W2": 48}
# Components of a mixture.
COMPONENTS = 3
# Channels of the maps of a keypoint.
MAP_CHANNELS = {"gaussian_nll": 3, "gaussian_mixture_nll": 4 * COMPONENTS}

FILL, MEMSET = "write gradients once (fill)", "write gradients once (memset)"
LOOP = "Python loop"
CONV_REFERENCE, CONV_OURS = "conv2d + reference", "conv2d + gaussian_nll"
COMPILED_CONV = "torch.compile of conv2d + reference"

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


def case_of(
    function: str, workload: Workload, rows: tuple[str, ...], dtype: str = "float32", backward: bool = True
) -> Case:
    operation = f"{function} forward{' + backward' if backward else ''}"
    variant = {
        "gaussian_nll": "isotropic",
        "linear_gaussian_nll": f"{FEATURE_CHANNELS[workload.name]} features",
        "gaussian_mixture_nll": f"{COMPONENTS} components",
    }[function]
    return Case(f"{operation} {workload.name} {dtype}", operation, workload, rows, variant, dtype, values="normal")


def cases_on(device: str) -> tuple[Case, ...]:
    on_gpu = device != "cpu"
    floors = (FILL, MEMSET, EMPTY) if on_gpu else (FILL, EMPTY)
    cases = []
    for workload, dtype in itertools.product((W1, W2), ("float32", "float16") if on_gpu else ("float32",)):
        # Compiling takes ten seconds and more, and the loop seconds a step: not everything has to wait for them.
        compiles = dtype == "float32" and (on_gpu or workload is W1)
        loops = not on_gpu and workload is W1
        peers_of_maps = (*((COMPILED,) if compiles else ()), *((LOOP,) if loops else ()))
        peers_of_head = (CONV_REFERENCE, CONV_OURS, *((COMPILED_CONV,) if on_gpu and compiles else ()))
        steps = {"gaussian_nll": peers_of_maps, "linear_gaussian_nll": peers_of_head}
        if on_gpu or workload is W1:
            steps["gaussian_mixture_nll"] = ()
        cases += [
            case_of(function, workload, (*floors, function, REFERENCE, *others), dtype)
            for function, others in steps.items()
        ]
        forward = (EMPTY, "gaussian_nll", REFERENCE)
        cases.append(case_of("gaussian_nll", workload, forward, dtype, backward=False))
    return tuple(sorted(cases, key=lambda case: case.function))


def make_arguments(case: Case, device: str) -> Maps | Features | Mixture:
    """Seeded inputs that require grad where a network's would. One target in ten is outside of the maps."""
    batch, num_keypoints, height, width = case.workload.shape
    generator = torch.Generator(device=device).manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def leaf(values: Tensor) -> Tensor:
        return values.to(case.torch_dtype).requires_grad_()

    def means(*components: int) -> Tensor:
        return leaf(normal(batch, num_keypoints, *components, 2, height, width).mul_(2))

    def log_vars(*components: int) -> Tensor:
        return leaf(normal(batch, num_keypoints, *components, height, width).mul_(0.5).add_(1))

    unit = torch.rand((batch, num_keypoints, 2), generator=generator, device=device)
    target = (unit * 1.1 - 0.05) * torch.tensor([width * STRIDE, height * STRIDE], device=device)
    if case.function == "gaussian_nll":
        return Maps(means(), log_vars(1), target)
    if case.function == "gaussian_mixture_nll":
        logits = leaf(normal(batch, num_keypoints, COMPONENTS, height, width))
        return Mixture(logits, means(COMPONENTS), log_vars(COMPONENTS), target)
    channels = FEATURE_CHANNELS[case.workload.name]
    features = leaf(normal(batch, channels, height, width))
    weight = leaf(normal(num_keypoints * 3, channels).div_(channels**0.5))
    return Features(features, weight, leaf(torch.ones(num_keypoints * 3, device=device)), target)


def gradient_bytes(case: Case) -> int:
    """Bytes of the gradients of a case."""
    itemsize = case.torch_dtype.itemsize
    if case.function in MAP_CHANNELS:
        return MAP_CHANNELS[case.function] * case.workload.num_elements * itemsize
    batch, num_keypoints, height, width = case.workload.shape
    channels = FEATURE_CHANNELS[case.workload.name]
    return (batch * channels * height * width + num_keypoints * 3 * (channels + 1)) * itemsize


def step_bytes(case: Case) -> int:
    """Bytes that a case must move: what its keypoints read, the loss, and the gradients."""
    values = MAP_CHANNELS.get(case.function, FEATURE_CHANNELS[case.workload.name])
    read = case.workload.num_maps * (values * case.torch_dtype.itemsize + 8)
    return read + 4 + (gradient_bytes(case) if case.backward else 0)


def loss_on(case: Case, backend: str) -> Callable[..., Tensor]:
    return functools.partial(getattr(dark_kernels, case.function), **_OPTIONS, backend=backend)


def _conv_loss(backend: str) -> Callable[..., Tensor]:
    return peers.conv2d_and_loss(functools.partial(dark_kernels.gaussian_nll, **_OPTIONS, backend=backend))


def compare(output: tuple[Tensor, ...], group: Group, rounds_maps: bool = False) -> tuple[float, str]:
    half = group.case.dtype != "float32" or rounds_maps
    bound = _UNITS * torch.finfo(torch.float16 if half else torch.float32).eps
    return suite.compare_step(output, group.truth, (bound, bound))


def compare_convolved(output: tuple[Tensor, ...], group: Group) -> tuple[float, str]:
    """Compare a loss of maps that a convolution made: on a GPU in TF32, whose 10 bits they keep."""
    return compare(output, group, rounds_maps=group.device != "cpu")


SUITE = Suite(
    cases={device: cases_on(device) for device in suite.DEVICES},
    inputs=make_arguments,
    function=loss_on,
    run=suite.run_step,
    compare=compare,
    num_bytes=step_bytes,
    gradients=True,
    rows={
        FILL: suite.write_once(gradient_bytes),
        MEMSET: suite.write_once(gradient_bytes, memset=True),
        EMPTY: suite.empty(),
        "gaussian_nll": suite.ours(),
        "linear_gaussian_nll": suite.ours(),
        "gaussian_mixture_nll": suite.ours(),
        REFERENCE: suite.reference(),
        COMPILED: suite.compiled(),
        COMPILED_CONV: suite.compiled(lambda _: _conv_loss("reference"), compare_convolved),
        LOOP: suite.calls(
            lambda _: functools.partial(peers.gaussian_nll_loop, stride=STRIDE),
            capture="never",
            note="one keypoint after the other",
        ),
        CONV_REFERENCE: suite.calls(lambda _: _conv_loss("reference"), compare_convolved),
        CONV_OURS: suite.calls(
            lambda _: _conv_loss("auto"), compare_convolved, role="other", note="our loss behind torch's head"
        ),
    },
)
