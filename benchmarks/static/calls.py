"""Describes a room: where its kernels are, how their launchers are called, which loops are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.workloads import Workload


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a launcher, to be recorded.

    Attributes:
        label: For the table: what is decoded, from what.
        launch: Calls the launcher of the given module on tensors that it makes itself.
        contiguous: Whether the kernel's maps are one run of memory, so that wide loads are due.
        everywhere: Compiled for every target, not only for `LONG_LIST_TARGETS`.
    """

    label: str
    launch: Callable[[ModuleType], None]
    contiguous: bool = True
    everywhere: bool = False


@dataclasses.dataclass(frozen=True)
class Room:
    """A module with kernels.

    Attributes:
        name: For the table.
        module: Its import name.
        calls: The calls to record; True asks for all of them, False for a selection that CI has time for.
        loads: For each kernel that walks over maps, the functions, of the module or imported by it, in which its loop's
            `tl.load`s stand. Kernels that are not named are not judged by their loads.
        stores: The same for the `tl.store`s of a kernel that fills maps.
    """

    name: str
    module: str
    calls: Callable[[bool], Iterable[Call]]
    loads: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    stores: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


# What kernels count in other ways, and no workload has: pixels that float32 doesn't count exactly, and offsets beyond
# 2^31.
LARGE = Workload("1024x768", (8, 17, 1024, 768), "maps as large as the image")
HUGE = Workload("50000x50000", (1, 2, 50000, 50000), "maps of more pixels than 32 bits count", gpu_only=True)


def empty_maps(shape: Sequence[int], dtype: str, layout: str = "contiguous") -> torch.Tensor:
    """Maps [B, K, H, W]: contiguous, channels_last, or either of these cropped out of wider ones."""
    *rest, width = shape
    whole_width = width + 16 if "cropped" in layout else width
    memory_format = torch.channels_last if "channels_last" in layout else torch.contiguous_format
    maps = torch.empty((*rest, whole_width), dtype=workloads.DTYPES[dtype], memory_format=memory_format)
    return maps[..., :width]


def ending(layout: str) -> str:
    """Ending of a label."""
    return "" if layout == "contiguous" else f" {layout}"
