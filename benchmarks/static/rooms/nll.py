"""gaussian_nll and its linear form, with every distribution and number of log variances, and gaussian_mixture_nll."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps, ending
from benchmarks.workloads import W1, W2, W3, Workload
from dark_kernels.nll.options import Options, mixture_options

_FORMS = ((1, "gaussian"), (2, "gaussian"), (3, "gaussian"), (1, "laplace"), (2, "laplace"))


class _Given(NamedTuple):
    """Arguments of a call besides maps and targets."""

    name: str
    options: Options  # but for the distribution
    has_weight: bool
    reductions: tuple[str, ...]


_ALL = _Given("", Options(4.0, True, "gaussian", 0.5, None, -7.0, 7.0, True), True, ("none", "mean_valid"))
_DEFAULT = _Given(
    " by default", Options(4.0, False, "gaussian", 0.0, None, -math.inf, math.inf, False), False, ("mean",)
)
_FIXED_VARIANCE = _Given(" fixed variance", _DEFAULT.options._replace(fixed_log_var=0.0), False, ("sum",))


def _calls(full: bool) -> Iterator[Call]:
    """W1 contiguous and channels_last, W3 for its 308 keypoints."""
    yield _call(W1, "float32", 1, "gaussian", "contiguous")
    yield _call(W1, "float16", 3, "gaussian", "channels_last")
    yield _call(W3, "bfloat16", 2, "laplace", "contiguous")
    yield _call(W1, "float16", 1, "gaussian", "contiguous", _DEFAULT)
    yield _call(W1, "float32", 1, "gaussian", "contiguous", _FIXED_VARIANCE)
    if full:
        for form, distribution in _FORMS:
            for dtype, layout in itertools.product(workloads.DTYPES, ("contiguous", "channels_last")):
                yield _call(W2, dtype, form, distribution, layout)


def _call(workload: Workload, dtype: str, form: int, distribution: str, layout: str, given: _Given = _ALL) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, height, width = workload.shape
        kind = workloads.DTYPES[dtype]
        options = given.options._replace(distribution=distribution)

        def maps(channels: int) -> torch.Tensor:
            if layout == "channels_last":
                empty = torch.empty((batch, height, width, num_keypoints, channels), dtype=kind)
                return empty.permute(0, 3, 4, 1, 2)
            return torch.empty((batch, num_keypoints, channels, height, width), dtype=kind)

        target, losses = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
        weight = losses if given.has_weight else None
        loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
        for reduction in given.reductions:
            output = losses if reduction == "none" else loss
            module.gaussian_nll_fwd(output, loss, values, maps(2), maps(form), target, weight, options, reduction)
        module.gaussian_nll_bwd(maps(2), maps(form), loss, values, target, weight, loss, height, width, options)

    label = f"{distribution} {form} {workload.name} {dtype}{given.name}{ending(layout)}"
    return Call(label, launch, layout == "contiguous", everywhere=given is not _FIXED_VARIANCE)


def _linear_calls(full: bool) -> Iterator[Call]:
    """The same of the linear form; W3 for its 308 keypoints and 768 features."""
    yield _linear_call(W1, "float32", 1, "gaussian", "contiguous", 32)
    yield _linear_call(W1, "float16", 3, "gaussian", "channels_last", 32)
    yield _linear_call(W3, "bfloat16", 2, "laplace", "contiguous", 768)
    yield _linear_call(W1, "float16", 1, "gaussian", "contiguous", 32, _DEFAULT)
    for wanted in ("features", "head"):
        yield _linear_call(W1, "float32", 1, "gaussian", "contiguous", 32, _FIXED_VARIANCE, wanted)
    if full:
        for form, distribution in _FORMS:
            for dtype, layout in itertools.product(workloads.DTYPES, ("contiguous", "channels_last")):
                yield _linear_call(W2, dtype, form, distribution, layout, 48)


def _linear_call(
    workload: Workload,
    dtype: str,
    form: int,
    distribution: str,
    layout: str,
    features: int,
    given: _Given = _ALL,
    wanted: str = "features head bias",
) -> Call:
    """`wanted`: the names of the gradients; where that of the bias is not, there is no bias."""

    def launch(module: ModuleType) -> None:
        batch, num_keypoints, height, width = workload.shape
        options = given.options._replace(distribution=distribution)
        image = empty_maps((batch, features, height, width), dtype, layout)
        columns, nothing = num_keypoints * (2 + form), torch.empty(0)
        head, bias = torch.empty(columns, features), torch.empty(columns) if "bias" in wanted else None
        target, losses = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
        weight = losses if given.has_weight else None
        loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
        for reduction in given.reductions:
            output = losses if reduction == "none" else loss
            inputs = (image, head, bias, target, weight, options, reduction)
            module.linear_gaussian_nll_fwd(output, loss, values, *inputs)
        gradients = (
            image if "features" in wanted else nothing.to(image.dtype),
            head if "head" in wanted else nothing,
            nothing if bias is None else bias,
        )
        module.linear_gaussian_nll_bwd(*gradients, loss, values, image, head, target, weight, loss, options)

    label = f"linear {distribution} {form} {workload.name} {dtype}{given.name}{ending(layout)}"
    label += "" if "bias" in wanted else f" for {wanted}"
    return Call(label, launch, layout == "contiguous", everywhere=given is not _FIXED_VARIANCE)


def _mixture_calls(full: bool) -> Iterator[Call]:
    """1 to 8 components; W3 for its 308 keypoints."""
    yield _mixture_call(W1, "float32", 3, 7.0, "contiguous")
    yield _mixture_call(W1, "float16", 8, 7.0, "channels_last")
    yield _mixture_call(W3, "bfloat16", 1, math.inf, "contiguous")
    yield _mixture_call(W2, "float16", 8, math.inf, "contiguous")
    yield _mixture_call(W1, "float16", 3, math.inf, "contiguous", by_default=True)
    if full:
        for num_components, dtype in itertools.product(range(1, 9), workloads.DTYPES):
            for layout in ("contiguous", "channels_last"):
                yield _mixture_call(W2, dtype, num_components, 7.0, layout)


def _mixture_call(
    workload: Workload, dtype: str, num_components: int, bounds: float, layout: str, by_default: bool = False
) -> Call:
    """`by_default`: without a weight and with absolute coordinates."""

    def launch(module: ModuleType) -> None:
        batch, num_keypoints, height, width = workload.shape
        kind = workloads.DTYPES[dtype]

        def maps(*channels: int) -> torch.Tensor:
            if layout == "channels_last":
                empty = torch.empty((batch, height, width, num_keypoints, *channels), dtype=kind)
                return empty.movedim((1, 2), (-2, -1))
            return torch.empty((batch, num_keypoints, *channels, height, width), dtype=kind)

        three = maps(num_components), maps(num_components, 2), maps(num_components)
        target, losses = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
        weight = None if by_default else losses
        options = mixture_options(4.0, not by_default, -bounds, bounds)
        number, indices = torch.empty(()), torch.empty(batch, num_keypoints, dtype=torch.int64)
        slopes = torch.empty(batch, num_keypoints, 4 * num_components)
        for reduction in ("mean",) if by_default else ("none", "mean_valid"):
            outputs = (losses if reduction == "none" else number, number, slopes, indices)
            module.gaussian_mixture_nll_fwd(*outputs, *three, target, weight, options, reduction)
        module.gaussian_mixture_nll_bwd(
            *three, number, number, slopes, indices, height, width, layout == "channels_last"
        )

    label = f"mixture of {num_components} {workload.name} {dtype}{' by default' if by_default else ''}{ending(layout)}"
    return Call(label, launch, layout == "contiguous", everywhere=True)


ROOM = Room("nll", "dark_kernels.nll.kernels", _calls, stores={"_gaussian_nll_bwd_kernel": ("store_tile",)})
LINEAR_ROOM = Room("nll, linear", "dark_kernels.nll.kernels_linear", _linear_calls)
MIXTURE_ROOM = Room(
    "nll, mixture",
    "dark_kernels.nll.kernels_mixture",
    _mixture_calls,
    stores={"_gaussian_mixture_nll_bwd_kernel": ("store_tile",)},
)
