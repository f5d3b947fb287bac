"""encode: every encoding, one person and several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import LARGE, Call, Room, empty_maps
from benchmarks.workloads import W1, W2, W3, Workload


def _calls(full: bool) -> Iterator[Call]:
    """W2 and W3 differ in divisibility."""
    yield _call(W2, "float32", "unbiased", 1)
    yield _call(W3, "float16", "udp", 4)
    yield _call(W1, "bfloat16", "biased", 1, has_sigmas=True)
    yield _call(LARGE, "float32", "unbiased", 1)
    if full:
        for encoding, dtype in itertools.product(("unbiased", "biased", "udp"), workloads.DTYPES):
            yield _call(W1, dtype, encoding, 1)


def _call(workload: Workload, dtype: str, encoding: str, num_people: int, has_sigmas: bool = False) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, *_ = workload.shape
        heatmaps = empty_maps(workload.shape, dtype)
        keypoints, visible = torch.empty(batch, num_people, num_keypoints, 2), None
        if num_people > 1:
            visible = torch.empty(batch, num_people, num_keypoints)
        weight, sigmas = torch.empty(batch, num_keypoints), torch.empty(num_keypoints) if has_sigmas else None
        module.encode_fwd(heatmaps, weight, keypoints, visible, sigmas, 2.0, encoding)

    label = f"{encoding} {workload.name} {dtype}" + (f" {num_people} people" if num_people > 1 else "")
    label += " with sigmas" if has_sigmas else ""
    return Call(label, launch, everywhere=not has_sigmas and workload is not LARGE)


ROOM = Room("encode", "dark_kernels.encode.kernels", _calls, stores={"_encode_fwd_kernel": ("_store_pixels",)})
