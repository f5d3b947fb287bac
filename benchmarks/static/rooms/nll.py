"""gaussian_nll and its linear form: every form of the loss, that is its distribution and how many numbers a keypoint's
variance has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps, layout
from benchmarks.workloads import W1, W2, W3, Workload
from dark_kernels.nll.options import Options

_FORMS = ((1, "gaussian"), (2, "gaussian"), (3, "gaussian"), (1, "laplace"), (2, "laplace"))


def _options(distribution: str) -> Options:
    return Options(4.0, True, distribution, 0.5, None, -7.0, 7.0, True)


def _calls(full: bool) -> Iterator[Call]:
    """W1 contiguous and channels_last, W3 for its 308 keypoints."""
    yield _call(W1, "float32", 1, "gaussian", False)
    yield _call(W1, "float16", 3, "gaussian", True)
    yield _call(W3, "bfloat16", 2, "laplace", False)
    if full:
        for form, distribution in _FORMS:
            for dtype, channels_last in itertools.product(workloads.DTYPES, (False, True)):
                yield _call(W2, dtype, form, distribution, channels_last)


def _call(workload: Workload, dtype: str, form: int, distribution: str, channels_last: bool) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, height, width = workload.shape
        kind = workloads.DTYPES[dtype]
        options = _options(distribution)

        def maps(channels: int) -> torch.Tensor:
            if channels_last:
                empty = torch.empty((batch, height, width, num_keypoints, channels), dtype=kind)
                return empty.permute(0, 3, 4, 1, 2)
            return torch.empty((batch, num_keypoints, channels, height, width), dtype=kind)

        target, weight = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
        loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
        for reduction in ("none", "mean_valid"):
            output = weight if reduction == "none" else loss
            module.gaussian_nll_fwd(output, loss, values, maps(2), maps(form), target, weight, options, reduction)
        module.gaussian_nll_bwd(maps(2), maps(form), loss, values, target, weight, loss, height, width, options)

    label = f"{distribution} {form} {workload.name} {dtype}{layout(channels_last)}"
    return Call(label, launch, not channels_last, everywhere=True)


def _linear_calls(full: bool) -> Iterator[Call]:
    """The same of the linear form; W3 for its 308 keypoints and 768 features."""
    yield _linear_call(W1, "float32", 1, "gaussian", False, 32)
    yield _linear_call(W1, "float16", 3, "gaussian", True, 32)
    yield _linear_call(W3, "bfloat16", 2, "laplace", False, 768)
    if full:
        for form, distribution in _FORMS:
            for dtype, channels_last in itertools.product(workloads.DTYPES, (False, True)):
                yield _linear_call(W2, dtype, form, distribution, channels_last, 48)


def _linear_call(
    workload: Workload, dtype: str, form: int, distribution: str, channels_last: bool, features: int
) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, height, width = workload.shape
        options = _options(distribution)
        image = empty_maps((batch, features, height, width), dtype, channels_last)
        head, bias = torch.empty(num_keypoints * (2 + form), features), torch.empty(num_keypoints * (2 + form))
        target, weight = torch.empty(batch, num_keypoints, 2), torch.empty(batch, num_keypoints)
        loss, values = torch.empty(()), torch.empty(batch, num_keypoints, 2 + form)
        for reduction in ("none", "mean_valid"):
            output = weight if reduction == "none" else loss
            inputs = (image, head, bias, target, weight, options, reduction)
            module.linear_gaussian_nll_fwd(output, loss, values, *inputs)
        module.linear_gaussian_nll_bwd(image, head, bias, loss, values, image, head, target, weight, loss, options)

    label = f"linear {distribution} {form} {workload.name} {dtype}{layout(channels_last)}"
    return Call(label, launch, not channels_last, everywhere=True)


ROOM = Room("nll", "dark_kernels.nll.kernels", _calls, stores={"_gaussian_nll_bwd_kernel": ("store_tile",)})
LINEAR_ROOM = Room("nll, linear", "dark_kernels.nll.kernels_linear", _linear_calls)
