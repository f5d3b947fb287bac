"""Launches kernels: on the tensor's device, and in little of the host's time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backends import triton_interprets

# On AMD GPUs what is compiled depends on the sizes of storages too, which no key of ours holds.
_KEEPS_KERNELS = torch.version.hip is None
_MOST_KEPT = 1024


# Where a tensor stands among a kernel's arguments: a place, or that of a struct, what it holds, and the places in it.
_Place = int | tuple[int, list[Any], list[int]]


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A compiled kernel and what it was launched with, but for tensors."""

    compiled: Any
    grid: tuple[int, int, int]
    arguments: list[Any]
    tensors: list[_Place]


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
    """Cache key for `launch`. None if a tensor is not 16-byte aligned, or nothing can be kept.

    `properties` must determine every other argument, and each tensor's dtype, shape and strides."""
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
    following = iter(tensors)
    for place in kept.tensors:
        if isinstance(place, int):
            arguments[place] = next(following)
        else:
            struct, values, inside = place
            values = values.copy()
            for each in inside:
                values[each] = next(following)
            arguments[struct] = tuple(values)
    if next(following, None) is not None:
        raise ValueError(f"launch_again: got {len(tensors)} tensors, expected those that were launched with first")
    kept.compiled[kept.grid](*arguments)
    return True


def constant(value: Any) -> Any:
    """A struct of constants as a kernel takes it: fields wrapped in `tl.constexpr`, structs among them likewise.

    Other values are returned as they are, and so are structs in the interpreter.
    """
    return _constant_struct(value) if _is_struct(value) and not triton_interprets() else value


# The same object each time: Triton compares those it has seen by identity. Structs of two kinds are two, though tuples
# of equal numbers are equal.
@functools.lru_cache(_MOST_KEPT, typed=True)
def _constant_struct(struct: Any) -> Any:
    return struct._make(tl.constexpr(constant(field)) for field in struct)


def _is_struct(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_make")


def launch(
    kernel: Any, grid: tuple[int, int, int], arguments: Sequence[Any], constants: dict[str, Any], key: Hashable = None
) -> None:
    """Launch `kernel` on the current device: `arguments` in the order of its signature, `constants` by name.

    Arguments may be structs (NamedTuples) of tensors and numbers, but no structs of structs; constants may be both.

    Triton looks a kernel up by the properties of every argument, which takes the host several times as long as
    launching it. A caller that can tell these properties by fewer names them in `key`, see `launch_key`.
    """
    constants = {name: constant(value) for name, value in constants.items()}
    compiled = kernel[grid](*arguments, **constants)
    if key is None or compiled is None:  # a compile hook may have said no
        return
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    held, places = _without_tensors(arguments)
    held += [constants[name] for name in kernel.arg_names[len(held) :]]
    _kept[key] = _Kept(compiled, grid, held, places)


def _without_tensors(arguments: Sequence[Any]) -> tuple[list[Any], list[_Place]]:
    """Arguments with None for tensors, and where these stood: one that is kept would hold its memory.

    Structs of structs are refused: a tensor in one would be launched with again.
    """
    held: list[Any] = []
    places: list[_Place] = []
    for place, argument in enumerate(arguments):
        if _is_struct(argument) and any(map(_is_struct, argument)):
            raise TypeError(f"launch: got a struct of structs, {type(argument).__name__}, expected tensors and numbers")
        if isinstance(argument, Tensor):
            places.append(place)
            held.append(None)
        elif _is_struct(argument) and (inside := [i for i, each in enumerate(argument) if isinstance(each, Tensor)]):
            places.append((place, [None if i in inside else each for i, each in enumerate(argument)], inside))
            held.append(None)
        else:
            held.append(argument)
    return held, places
