"""soft_argmax, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps, ending
from benchmarks.workloads import W1, W2, W3


def _calls(full: bool) -> Iterator[Call]:
    """W1, W2 and W3 differ in width and launch shape; a wide map is walked line by line."""
    yield _call(W1.shape, "float32")
    yield _call(W2.shape, "float16")
    yield _call(W3.shape, "bfloat16")
    yield _call(W2.shape, "float32", layout="channels_last")
    yield _call(W1.shape, "float32", layout="cropped")
    yield _call((1, 17, 3000, 4096), "float32")
    if full:
        for workload, dtype in itertools.product((W1, W2, W3), workloads.DTYPES):
            yield _call(workload.shape, dtype)


def _call(shape: Sequence[int], dtype: str, layout: str = "contiguous") -> Call:
    def launch(module: ModuleType) -> None:
        heatmaps = empty_maps(shape, dtype, layout)
        coords, numbers = torch.empty((*shape[:2], 2)), torch.empty(tuple(shape[:2]))
        module.soft_argmax_fwd(coords, numbers, numbers, heatmaps, 10.0)
        gradient = torch.empty_like(heatmaps)
        module.soft_argmax_bwd(gradient, coords, heatmaps, coords, numbers, numbers, 10.0)

    label = f"soft-argmax {list(shape)} {dtype}{ending(layout)}"
    return Call(label, launch, layout == "contiguous", everywhere=layout != "cropped")


ROOM = Room(
    "soft_argmax",
    "dark_kernels.soft_argmax.kernels",
    _calls,
    loads={"_soft_argmax_fwd_kernel": ("_load_pixels",), "_soft_argmax_bwd_kernel": ("_load_pixels",)},
    stores={"_soft_argmax_bwd_kernel": ("_store_pixels",)},
)
