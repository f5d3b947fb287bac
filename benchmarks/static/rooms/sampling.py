"""sample_keypoints: even and odd numbers of samples."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room
from benchmarks.workloads import W1, W3, W4, Workload


def _calls(full: bool) -> Iterator[Call]:
    yield _call(W1, "float32", 100)
    for dtype in workloads.DTYPES if full else ("float16",):
        yield _call(W3, dtype, 33)
    yield _call(W4, "float32", 1)


def _call(workload: Workload, dtype: str, n: int) -> Call:
    def launch(module: ModuleType) -> None:
        means = torch.empty((workload.num_maps, 2), dtype=workloads.DTYPES[dtype])
        covariances = torch.empty((workload.num_maps, 2, 2), dtype=workloads.DTYPES[dtype])
        module.sample_keypoints_fwd(torch.empty(workload.num_maps, n, 2), means, covariances, 1, 2**40, 1e-6)

    return Call(f"{n} samples {workload.name} {dtype}", launch, everywhere=workload is not W4)


ROOM = Room("sampling", "dark_kernels.sampling.kernels", _calls)
