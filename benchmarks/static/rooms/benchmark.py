"""The read-only kernel that decode is measured against, which must not be a slow one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps
from benchmarks.workloads import W1, W2, W3, Workload


def _calls(full: bool) -> Iterator[Call]:
    if full:
        selected = itertools.product((W1, W2, W3), workloads.DTYPES)
    else:
        selected = itertools.product((W2, W3), ("float32", "float16"))
    return itertools.starmap(_call, selected)


def _call(workload: Workload, dtype: str) -> Call:
    def launch(module: ModuleType) -> None:
        heatmaps = empty_maps(workload.shape, dtype)
        module.read_maps(torch.empty(workload.shape[:2]), heatmaps)
        module.launch_nothing(heatmaps, workload.num_maps)

    return Call(f"read only {workload.name} {dtype}", launch)


ROOM = Room("benchmark", "benchmarks.kernels", _calls, loads={"_read_maps_kernel": ("_read_maps_kernel",)})
