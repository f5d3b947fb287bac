"""decode_simcc: with and without DARK, visibility and an activation, with a Gaussian blur and with a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room
from dark_kernels import recipes


def _calls(full: bool) -> Iterator[Call]:
    """1024 bins take more warps, 4096 a loop."""
    yield _call((64, 17, 384, 512), "float32", 29, visibility=True)
    yield _call((64, 133, 384, 512), "float16", 29, visibility=True)
    yield _call((64, 17, 384, 512), "bfloat16", 0, mean=True)
    yield _call((64, 17, 768, 1024), "float32", 7)
    yield _call((4, 17, 4096, 4096), "float32", 601, visibility=True)
    yield _call((64, 17, 384, 512), "float32", 29, activation="softmax")
    yield _call((64, 133, 384, 512), "float16", 29, visibility=True, activation="softmax")
    yield _call((64, 17, 384, 512), "float32", 29, activation="sigmoid")
    yield _call((4, 17, 4096, 4096), "float32", 601, visibility=True, activation="softmax")
    if full:
        for dtype, kernel_size in itertools.product(workloads.DTYPES, (0, 1, 9, 29, 35)):
            for visibility in (False, True):
                yield _call((64, 17, 384, 512), dtype, kernel_size, visibility)


def _call(
    shape: tuple[int, int, int, int],
    dtype: str,
    kernel_size: int,
    visibility: bool = False,
    mean: bool = False,
    activation: str = "none",
) -> Call:
    def launch(module: ModuleType) -> None:
        *keypoints, x_width, y_width = shape
        axes = [torch.empty((*keypoints, width), dtype=workloads.DTYPES[dtype]) for width in (x_width, y_width)]
        taps = recipes.opencv_taps(kernel_size) if kernel_size else None
        sharpness = 735.0 if visibility else 0.0
        logit_scale = 1.0 if activation == "none" else 10.0
        outputs = torch.empty((*keypoints, 2)), torch.empty(keypoints), torch.empty(keypoints)
        module.decode_simcc_fwd(*outputs, *axes, taps, taps, sharpness, sharpness, 2.0, mean, activation, logit_scale)

    options = f"k={kernel_size}" + (" +visibility" if visibility else "") + (" mean" if mean else "")
    options += "" if activation == "none" else f" {activation}"
    return Call(f"simcc {options} {list(shape)} {dtype}", launch, everywhere=True)


ROOM = Room("simcc", "dark_kernels.simcc.kernels", _calls, loads={"_decode_simcc_fwd_kernel": ("_load_bins",)})
