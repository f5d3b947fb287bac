"""What a room says about itself: where its kernels are, how their launchers are called, which loops are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

import torch

from benchmarks import workloads


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


def empty_maps(shape: Sequence[int], dtype: str, channels_last: bool = False) -> torch.Tensor:
    """Maps [B, K, H, W], contiguous or [B, H, W, K] in memory."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=workloads.DTYPES[dtype], memory_format=memory_format)


def layout(channels_last: bool) -> str:
    """The end of a label."""
    return " channels_last" if channels_last else ""
