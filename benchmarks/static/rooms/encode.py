"""encode: every encoding, one person and several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps
from benchmarks.workloads import W1, W2, W3, Workload


def _calls(full: bool) -> Iterator[Call]:
    """W2 and W3 differ in divisibility."""
    yield _call(W2, "float32", "unbiased", 1)
    yield _call(W3, "float16", "udp", 4)
    if full:
        for encoding, dtype in itertools.product(("unbiased", "biased", "udp"), workloads.DTYPES):
            yield _call(W1, dtype, encoding, 1)


def _call(workload: Workload, dtype: str, encoding: str, num_people: int) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, *_ = workload.shape
        heatmaps = empty_maps(workload.shape, dtype)
        keypoints, visible = torch.empty(batch, num_people, num_keypoints, 2), None
        if num_people > 1:
            visible = torch.empty(batch, num_people, num_keypoints)
        module.encode_fwd(heatmaps, torch.empty(batch, num_keypoints), keypoints, visible, None, 2.0, encoding)

    label = f"{encoding} {workload.name} {dtype}" + (f" {num_people} people" if num_people > 1 else "")
    return Call(label, launch, everywhere=True)


ROOM = Room("encode", "dark_kernels.encode.kernels", _calls, stores={"_encode_fwd_kernel": ("_store_pixels",)})
