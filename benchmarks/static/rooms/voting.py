"""vote: by heatmap, by density and with equal weights; few samples and many."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps
from benchmarks.workloads import W1, W3, W4, Workload


def _calls(full: bool) -> Iterator[Call]:
    yield _call(W1, "float32", 100)
    for dtype in workloads.DTYPES if full else ("float16",):
        yield _call(W3, dtype, 1000)
    yield _call(W4, "float32", 16)


def _call(workload: Workload, dtype: str, num_samples: int) -> Call:
    def launch(module: ModuleType) -> None:
        shape = workload.shape[:2]
        heatmaps = empty_maps(workload.shape, dtype)
        outputs = torch.empty(*shape, 2), torch.empty(shape), torch.empty(*shape, 2, 2)
        samples = torch.empty(*shape, num_samples, 2)
        for maps, bandwidth in ((heatmaps, None), (None, 2.0), (None, None)):
            module.vote_fwd(*outputs, samples, maps, bandwidth)

    return Call(f"{num_samples} votes {workload.name} {dtype}", launch, everywhere=workload is not W4)


ROOM = Room("voting", "dark_kernels.voting.kernels", _calls)
