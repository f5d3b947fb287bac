"""Records what the launchers of a room would launch: calls each on fake tensors, with recorders for kernels."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.static.calls import Room


class Pointer:
    """Stands for a tensor in another process: answers what Triton's specialisation asks.

    Allocators align to 16 bytes and more, so alignment follows from the storage offset.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype = tensor.dtype
        self._offset = int(tensor.storage_offset()) * tensor.itemsize
        self._storage_bytes = tensor.untyped_storage().nbytes()

    def data_ptr(self) -> int:
        return self._offset

    def ptr_range(self) -> int:
        """The AMD backend addresses storages below 2^31 bytes with 32-bit offsets."""
        return self._storage_bytes


@dataclasses.dataclass(frozen=True)
class Launch:
    """A recorded launch: enough to compile it elsewhere."""

    room: str
    module: str
    kernel: str
    label: str
    contiguous: bool
    everywhere: bool
    loads: tuple[str, ...]
    stores: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Recorder:
    """Stands in for a kernel: `recorder[grid](...)` notes the arguments and launches nothing."""

    def __init__(self, kernel: str, launches: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def record(*args: Any, **kwargs: Any) -> None:
            def portable(value: Any) -> Any:
                if isinstance(value, tuple) and hasattr(value, "_make"):  # a struct
                    return value._make(map(portable, value))
                return Pointer(value) if isinstance(value, torch.Tensor) else value

            noted = {name: portable(value) for name, value in kwargs.items()}
            self._launches.append((self._kernel, tuple(map(portable, args)), noted))

        return record


def _kernels_of(module: ModuleType) -> dict[str, Any]:
    """The jitted functions that a module defines and launches: those named `..._kernel`."""
    from triton.runtime.jit import JITFunction

    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith("_kernel") and value.module == module.__name__
    }


@contextlib.contextmanager
def _recorded(module: ModuleType) -> Iterator[list[tuple[str, tuple[Any, ...], dict[str, Any]]]]:
    kernels = _kernels_of(module)
    launches: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    try:
        for name in kernels:
            setattr(module, name, _Recorder(name, launches))
        yield launches
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)


def record_launches(room: Room, full: bool = False, lanes: int = 32) -> list[Launch]:
    """Everything that the launchers of a room would launch, from fake tensors, on a GPU with so many lanes a warp."""
    module = importlib.import_module(room.module)
    found: list[Launch] = []
    for call in room.calls(full):
        elsewhere = mock.patch("dark_kernels._triton.launch.LANES_ELSEWHERE", lanes)
        with FakeTensorMode(), elsewhere, _recorded(module) as launches:
            call.launch(module)
        if not launches:
            raise RuntimeError(f"{room.name}: {call.label} launches no kernel; nothing was recorded")
        for kernel, args, kwargs in launches:
            streaming = (room.loads.get(kernel, ()), room.stores.get(kernel, ()))
            about = (room.name, room.module, kernel, call.label, call.contiguous, call.everywhere)
            found.append(Launch(*about, *streaming, args, kwargs))
    forgotten = set(_kernels_of(module)) - {launch.kernel for launch in found}
    if forgotten:
        raise RuntimeError(f"{room.name}: no call of it launches {', '.join(sorted(forgotten))}")
    return found
