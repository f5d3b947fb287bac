"""gaussian_mixture_nll: 1 to 8 components."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, ending
from benchmarks.workloads import W1, W2, W3, Workload


def _calls(full: bool) -> Iterator[Call]:
    """W1 contiguous and channels_last, W3 for its 308 keypoints."""
    yield _call(W1, "float32", 3, 7.0, "contiguous")
    yield _call(W1, "float16", 8, 7.0, "channels_last")
    yield _call(W3, "bfloat16", 1, math.inf, "contiguous")
    yield _call(W2, "float16", 8, math.inf, "contiguous")
    yield _call(W1, "float16", 3, math.inf, "contiguous", by_default=True)
    if full:
        for num_components, dtype in itertools.product(range(1, 9), workloads.DTYPES):
            for layout in ("contiguous", "channels_last"):
                yield _call(W2, dtype, num_components, 7.0, layout)


def _call(
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
        weight, is_offset = (None, False) if by_default else (losses, True)
        number, cells = torch.empty(()), torch.empty(batch, num_keypoints, dtype=torch.int64)
        slopes = torch.empty(batch, num_keypoints, 4 * num_components)
        for reduction in ("mean",) if by_default else ("none", "mean_valid"):
            outputs = (losses if reduction == "none" else number, number, slopes, cells)
            options = (4.0, is_offset, -bounds, bounds, reduction)
            module.gaussian_mixture_nll_fwd(*outputs, *three, target, weight, *options)
        module.gaussian_mixture_nll_bwd(*three, number, number, slopes, cells, height, width, layout == "channels_last")

    label = f"mixture of {num_components} {workload.name} {dtype}{' by default' if by_default else ''}{ending(layout)}"
    return Call(label, launch, layout == "contiguous", everywhere=True)


ROOM = Room(
    "mixture_nll",
    "dark_kernels.mixture_nll.kernels",
    _calls,
    stores={"_gaussian_mixture_nll_bwd_kernel": ("store_tile",)},
)
