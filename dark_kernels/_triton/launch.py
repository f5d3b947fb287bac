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

from .._common.plans import is_recording, record
from ..backends import triton_interprets

# On AMD GPUs what is compiled depends on the sizes of storages too, which no key of ours holds.
_KEEPS_KERNELS = torch.version.hip is None
_MOST_KEPT = 1024


# Where a tensor stands among a kernel's arguments: a place, or that of a struct, what it holds, and the places in it.
_Place = int | tuple[int, list[Any], list[int]]


class _Compiled:
    """A kernel that is compiled and loaded on the current device.

    Triton's own way to it asks for the driver, the device and hooks at every launch, and a tensor for its address and
    the driver for what is there. That takes the host longer than the launch.
    """

    __slots__ = (
        *("_compiled", "_constants", "_function", "_packed", "_run"),
        *("_current_device", "_device", "_stream_of", "takes_addresses"),
    )

    def __init__(self, compiled: Any, constants: Sequence[Any]) -> None:
        driver = _driver()
        self._compiled, self._constants = compiled, constants
        self._run = compiled.run
        self._function, self._packed = compiled.function, compiled.packed_metadata
        self._current_device, self._stream_of = driver.get_current_device, driver.get_current_stream
        self._device = self._current_device()
        self.takes_addresses = driver.get_current_target().backend == "cuda"

    def is_current(self) -> bool:
        """True if its device is the current one."""
        return bool(self._current_device() == self._device)

    def launch(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """Launch on the current stream, with addresses in place of tensors if it takes them."""
        if _is_watched():
            self._compiled[grid](*arguments, *self._constants)
            return
        about = self._stream_of(self._device), self._function, self._packed, None, None, None
        self._run(*grid, *about, *arguments, *self._constants)


def _driver() -> Any:
    return triton.runtime.driver.active


def _is_watched() -> bool:
    """True if a profiler has asked Triton to tell it of launches."""
    hooks = triton.knobs.runtime
    # A hook or None; of Triton 3.5 and newer a chain of hooks.
    enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A compiled kernel and what it was launched with, but for tensors."""

    compiled: _Compiled
    grid: tuple[int, int, int]
    arguments: list[Any]
    tensors: list[_Place]


# What callers have named by keys of their own, and what is compiled, by the properties of all arguments.
_kept: dict[Hashable, _Kept] = {}
_compiled: dict[Hashable, _Compiled] = {}


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
    if not _keeps(kernel):
        return None
    addresses = 0
    for tensor in tensors:
        addresses |= tensor.data_ptr()
    return None if addresses % 16 else (kernel.fn, *properties)  # a kernel works out its hash in Python


def launch_again(key: Hashable, tensors: tuple[Tensor, ...]) -> bool:
    """Launch what `launch` has kept under `key`, with other tensors. False if it has kept nothing."""
    kept = None if is_recording() else _kept.get(key)
    if kept is None:
        return False
    compiled, arguments = kept.compiled, kept.arguments.copy()
    following = iter([tensor.data_ptr() for tensor in tensors] if compiled.takes_addresses else tensors)
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
    compiled.launch(kept.grid, arguments)
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
    launching it. So what it has found is kept. A caller that can tell these properties by fewer names them in `key`,
    and saves itself the arguments: see `launch_key`.
    """
    compiled = _launch_compiled(kernel, grid, arguments, constants)
    record(compiled, grid, arguments)
    if key is None or compiled is None:
        return
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    _kept[key] = _Kept(compiled, grid, *_without_tensors(arguments))


def _launch_compiled(
    kernel: Any, grid: tuple[int, int, int], arguments: Sequence[Any], constants: dict[str, Any]
) -> _Compiled | None:
    """Launch, and return what was launched; None where that cannot be kept."""
    keeps = _keeps(kernel)
    if keeps:
        properties, addressed = _described(arguments, _loose_places(kernel))
        key = (kernel.fn, properties, *constants.items())
        known = _compiled.get(key)
        if known is not None:
            known.launch(grid, addressed if known.takes_addresses else arguments)
            return known
    wrapped = {name: constant(value) for name, value in constants.items()}
    compiled = kernel[grid](*arguments, **wrapped)
    if compiled is None or not keeps:  # a compile hook may have said no
        return None
    if len(_compiled) >= _MOST_KEPT:
        _compiled.clear()
    _compiled[key] = _Compiled(compiled, [wrapped[name] for name in kernel.arg_names[len(arguments) :]])
    return _compiled[key]


def _keeps(kernel: Any) -> bool:
    """False of what is interpreted, or a test's."""
    return _KEEPS_KERNELS and type(kernel) is triton.JITFunction


@functools.lru_cache(_MOST_KEPT)
def _loose_places(kernel: Any) -> frozenset[int]:
    """Places of the numbers for any of which a kernel is compiled once."""
    return frozenset(place for place, parameter in enumerate(kernel.params) if parameter.do_not_specialize)


def _described(arguments: Sequence[Any], loose: frozenset[int] = frozenset()) -> tuple[Hashable, list[Any]]:
    """All that a kernel is compiled for of its arguments, and the arguments with addresses in place of tensors.

    That is a tensor's device, its dtype and whether its address divides by 16, that a number is a float, and of
    integers more than it need be: their values, but for how many bits those take that are loose.
    """
    properties: list[Hashable] = []
    addressed: list[Any] = []
    for place, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            address = argument.data_ptr()
            properties.append((argument.device, argument.dtype, address % 16 == 0))
            addressed.append(address)
            continue
        addressed.append(argument)
        if isinstance(argument, float):
            properties.append(float)
        elif isinstance(argument, tuple):
            inside, fields = _described(argument)
            properties.append(inside)
            addressed[-1] = tuple(fields)
        elif place in loose:
            properties.append(-(2**31) <= argument < 2**31)
        else:
            properties.append(argument)
    return tuple(properties), addressed


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
