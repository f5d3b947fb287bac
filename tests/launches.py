"""Which kernels a function launches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from unittest import mock

import torch


@contextlib.contextmanager
def recorded(module: ModuleType) -> Iterator[list[str]]:
    """The names of the module's kernels, in the order in which they are launched, interpreted or not."""
    launched: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(module, name)

        def __getitem__(self, grid: object) -> object:
            launched.append(self.name)
            return self.kernel[grid]

    with contextlib.ExitStack() as stack:
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            stack.enter_context(mock.patch.object(module, name, Recorder(name)))
        yield launched


def count(function: Callable[[], object]) -> int:
    """How many kernels of whatever library run on the GPU in a second call of `function`."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.device_time_total > 0)
