"""What every launch takes: the tensor's device as the current one, and little of the host's time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
from torch import Tensor

# From 3.3 on a compiled kernel takes all arguments, constants included. On AMD GPUs what is compiled depends on the
# sizes of storages too, which no key of ours holds.
_KEEPS_KERNELS = torch.version.hip is None and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)
_MOST_KEPT = 1024


def register_limit(registers: int) -> dict[str, int]:
    """The option that names the registers of a thread to the compiler.

    That for NVIDIA GPUs aims at the next step of occupancy and spills a word or two to reach it. Named a limit it stays
    below that. Other vendors' compilers know no such option.
    """
    elsewhere = torch.version.hip is not None or getattr(torch.version, "xpu", None) is not None
    return {} if elsewhere else {"maxnreg": registers}


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A compiled kernel and what it was launched with."""

    compiled: Any
    grid: tuple[int, int, int]
    arguments: list[Any]
    tensors: list[int]  # where they stand among the arguments


_kept: dict[Hashable, _Kept] = {}


# Of the interpreter, and of what is compiled for a device that is not here.
LANES_ELSEWHERE = 32


def lanes_of(device: torch.device) -> int:
    """Lanes of a warp (32 on NVIDIA) or a wave (32 or 64 on AMD)."""
    return LANES_ELSEWHERE if device.type == "cpu" else _lanes_of(device)


@functools.cache
def _lanes_of(device: torch.device) -> int:
    return int(getattr(torch.get_device_module(device).get_device_properties(device), "warp_size", LANES_ELSEWHERE))


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current, since Triton launches on the current one. Free where it already is."""
    device = tensor.device
    if device.type == "cpu":  # the interpreter
        return contextlib.nullcontext()
    module = torch.get_device_module(device)
    if device.index == module.current_device():
        return contextlib.nullcontext()
    return module.device(device)


def launch_key(kernel: Any, tensors: tuple[Tensor, ...], *properties: Hashable) -> Hashable:
    """What `launch` may keep a kernel under: `properties` tell every other argument and all of the tensors but their
    contents and addresses, of which each divides by 16. None where nothing can be kept."""
    if not _KEEPS_KERNELS or type(kernel) is not triton.JITFunction:  # interpreted, or a test's
        return None
    addresses = 0
    for tensor in tensors:
        addresses |= tensor.data_ptr()
    return None if addresses % 16 else (kernel, *properties)


def launch_again(key: Hashable, tensors: tuple[Tensor, ...]) -> bool:
    """Launch what `launch` has kept under `key`, with other tensors. False if it has kept nothing."""
    kept = _kept.get(key)
    if kept is None:
        return False
    arguments = kept.arguments.copy()
    for place, tensor in zip(kept.tensors, tensors, strict=True):
        arguments[place] = tensor
    kept.compiled[kept.grid](*arguments)
    return True


def launch(
    kernel: Any, grid: tuple[int, int, int], arguments: Sequence[Any], constants: dict[str, Any], key: Hashable = None
) -> None:
    """Launch `kernel` on the current device: `arguments` in the order of its signature, `constants` by name.

    Triton looks a kernel up by the properties of every argument, which takes the host several times as long as
    launching it. A caller that can tell these properties by fewer names them in `key`, see `launch_key`.
    """
    compiled = kernel[grid](*arguments, **constants)
    if key is None or compiled is None:  # a compile hook may have said no
        return
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    places = [place for place, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    # The tensors themselves are not kept.
    held = [None if isinstance(argument, Tensor) else argument for argument in arguments]
    held += [constants[name] for name in kernel.arg_names[len(held) :]]
    _kept[key] = _Kept(compiled, grid, held, places)
