"""Calls whose properties are known: their launches are repeated, and nothing of them is checked or worked out anew.

A call that was launched once for a dtype, shape, strides, device and the same other arguments makes the same outputs
and launches the same kernels with the same numbers: all but the addresses. So `planned` notes what the first call
does, and later ones do that. On a device whose kernels take a few microseconds the host would take the longest.

A call has a plan if every tensor that its kernels take is one of its inputs or a part of it, an output, or what the
room has named by `scratch` or `held`. All others go the whole way each time, and so does what is traced, transformed,
differentiated or on a CPU.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from ..backends import held_by_graphs, runs_now
from ..recipes import Recipe

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_ALIGNMENT = 16  # bytes, which kernels are compiled for
_MOST_KEPT = 1024
_UNKNOWN = object()
# True in tests, whose kernels are interpreted.
_PLANS_ON_CPU = False


class Kernel(Protocol):
    """A kernel that is compiled and loaded on a device."""

    @property
    def takes_addresses(self) -> bool:
        """True if tensors may come as addresses."""

    def is_current(self) -> bool:
        """True if its device is the current one."""

    def launch(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """Launch it on the current stream."""


class Launch(NamedTuple):
    """A launch as it happened. `kernel` is None where nothing can be kept."""

    kernel: Kernel | None
    grid: tuple[int, int, int]
    arguments: Sequence[Any]


class _Recording(threading.local):
    """All that a call does, while one is noted."""

    active = False
    launches: list[Launch]
    scratch: list[Tensor]
    held: list[Tensor]


_recording = _Recording()


def is_recording() -> bool:
    """True while a call is noted: launches have to come by `record`, with their tensors."""
    return _recording.active


def record(kernel: Kernel | None, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
    """Note a launch. Arguments may be structs of tensors and numbers."""
    if _recording.active:
        _recording.launches.append(Launch(kernel, grid, arguments))


def scratch(tensor: Tensor) -> Tensor:
    """The tensor, uninitialised, which a call fills and reads: each call gets its own."""
    if _recording.active:
        _recording.scratch.append(tensor)
    return tensor


def held(tensor: Tensor) -> Tensor:
    """The tensor, which every call with the same arguments reads. Graphs that capture it go on doing so."""
    if _recording.active:
        _recording.held.append(tensor)
    return held_by_graphs(tensor)


@contextmanager
def _noted() -> Iterator[_Recording]:
    _recording.active = True
    _recording.launches, _recording.scratch, _recording.held = [], [], []
    try:
        yield _recording
    finally:
        _recording.active = False
        _recording.launches, _recording.scratch, _recording.held = [], [], []


class _Source(NamedTuple):
    """Where what stands at `place` comes from: `offset` bytes into the tensor `number` of a call; -1 is unknown."""

    place: int
    number: int
    offset: int


class _Struct(NamedTuple):
    """A struct among a launch's arguments: its place, its fields, and where the tensors among these come from."""

    place: int
    fields: list[Any]
    sources: list[_Source]


class _Step(NamedTuple):
    """A launch, with None for tensors and for structs of tensors."""

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: list[Any]
    sources: list[_Source]
    structs: list[_Struct]


class _Plan(NamedTuple):
    """What a call does. Its tensors are its inputs, then what it makes, then what it holds.

    Attributes:
        steps: The launches, in order.
        made: An element, expanded to the shape of each output and of the scratch: PyTorch makes a tensor like another
            one in half of the time that a shape and a dtype take.
        held: What is read besides the inputs.
        result: Makes the result, a tuple, of its fields; None if it is the first output.
        outputs: Of what is made, for each field of the result; None is a field that stays None.
    """

    steps: list[_Step]
    made: list[Tensor]
    held: list[Tensor]
    result: Callable[..., Any] | None
    outputs: list[int | None]

    def run(self, inputs: list[Tensor]) -> Any:
        """Do it for other inputs. None if they are not aligned, or their device is not the current one."""
        kernel = self.steps[0].kernel
        if not kernel.is_current():
            return None
        made = [torch.empty_like(like) for like in self.made]
        tensors = inputs + made
        if self.held:
            tensors += [held_by_graphs(tensor) for tensor in self.held]
        addresses = [tensor.data_ptr() for tensor in tensors]
        bits = 0
        for address in addresses:
            bits |= address
        if bits % _ALIGNMENT:
            return None
        for step in self.steps:
            arguments = step.arguments.copy()
            _put(arguments, step.sources, addresses if kernel.takes_addresses else tensors)
            for place, fields, sources in step.structs:
                fields = fields.copy()
                _put(fields, sources, addresses if kernel.takes_addresses else tensors)
                arguments[place] = tuple(fields)
            step.kernel.launch(step.grid, arguments)
        if self.result is None:
            return made[0]
        return self.result([None if index is None else made[index] for index in self.outputs])


def _put(arguments: list[Any], sources: list[_Source], tensors: Sequence[Any]) -> None:
    for place, number, offset in sources:
        arguments[place] = tensors[number] + offset if offset else tensors[number]


def planned(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Repeat what the first call with the same properties did: a decorator for a room's function.

    Calls differ in the contents of their tensors and in nothing that the room may look at on the host.
    """
    plans: dict[Hashable, object] = {}

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        first = args[0] if args else next(iter(kwargs.values()), None)
        if type(first) is not Tensor or (first.is_cpu and not _PLANS_ON_CPU) or not runs_now() or _recording.active:
            return function(*args, **kwargs)
        inputs: list[Tensor] = []
        try:
            key = _properties(args, kwargs, inputs)
            plan = plans.get(key, _UNKNOWN)
        except (TypeError, RuntimeError):  # what has no hash, and tensors without strides
            return function(*args, **kwargs)
        if isinstance(plan, _Plan):
            result = plan.run(inputs)
            if result is not None:
                return result
        if plan is not _UNKNOWN:
            return function(*args, **kwargs)
        with _noted() as noted:
            result = function(*args, **kwargs)
            try:
                plan = _plan_of(noted, inputs, result)
            except _NoPlanYet:
                return result
        if len(plans) >= _MOST_KEPT:
            plans.clear()
        plans[key] = plan
        return result

    return call


def _properties(args: Sequence[Any], kwargs: dict[str, Any], inputs: list[Tensor]) -> Hashable:
    """All that a call's plan depends on, and in `inputs` its tensors. Raises TypeError where there can be none."""
    properties: list[Any] = list(kwargs)
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is Tensor:
            if value.requires_grad or value.is_neg():
                raise TypeError("no plan")
            for number, known in enumerate(inputs):
                if known is value:  # as poses that are compared with themselves
                    properties.append(number)
                    break
            else:
                inputs.append(value)
                properties += (value.dtype, value.shape, value.stride(), value.device)
        elif kind is Recipe:
            properties.append(value.operator_arguments)
        else:  # 1 is equal to True and 1.0, and not taken for them everywhere
            properties.append(kind)
            if kind in (list, tuple):
                properties += (*map(type, value), len(value), *value)
            else:
                properties.append(value)
    return tuple(properties)


class _NoPlanYet(Exception):
    """Raised where a call cannot be repeated, and another with its properties can."""


def _plan_of(noted: _Recording, inputs: list[Tensor], result: Any) -> _Plan | None:
    """The plan of a call that was noted. None if none with its properties has one."""
    fields = result if isinstance(result, tuple) else (result,)
    outputs = [field for field in fields if field is not None]
    if not noted.launches or not all(type(output) is Tensor for output in outputs):
        return None
    made = [*outputs, *(tensor for tensor in noted.scratch if not any(tensor is output for output in outputs))]
    tensors = [*inputs, *made, *noted.held]
    if not all(map(_owns_its_memory, made)):
        return None
    if len({tensor.data_ptr() for tensor in tensors}) < len(tensors):
        raise _NoPlanYet  # one of two that are the same would stand for both
    likes = [tensor.new_empty(1).expand(tensor.shape) for tensor in made]
    if any(torch.empty_like(like).stride() != tensor.stride() for like, tensor in zip(likes, made, strict=True)):
        return None
    steps = []
    for kernel, grid, arguments in noted.launches:
        if kernel is None:
            return None
        held: list[Any] = list(arguments)
        sources, structs = _take_tensors(held, tensors), []
        for place, argument in enumerate(held):
            if isinstance(argument, tuple):
                inside = list(argument)
                if of_struct := _take_tensors(inside, tensors):
                    structs.append(_Struct(place, inside, of_struct))
                    held[place] = None
        everything = [*sources, *(source for struct in structs for source in struct.sources)]
        if any(source.number < 0 or (source.offset and not kernel.takes_addresses) for source in everything):
            return None
        steps.append(_Step(kernel, grid, held, sources, structs))
    return _Plan(
        steps,
        likes,
        noted.held.copy(),
        getattr(type(result), "_make", tuple) if isinstance(result, tuple) else None,
        [None if field is None else next(i for i, each in enumerate(outputs) if each is field) for field in fields],
    )


def _owns_its_memory(tensor: Tensor) -> bool:
    """True if it is as `new_empty` makes it."""
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _take_tensors(arguments: list[Any], tensors: list[Tensor]) -> list[_Source]:
    """Put None for tensors in `arguments`, and return where they come from."""
    sources = []
    for place, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            sources.append(_source_of(place, argument, tensors))
            arguments[place] = None
    return sources


def _source_of(place: int, argument: Tensor, tensors: list[Tensor]) -> _Source:
    if argument.data_ptr() % _ALIGNMENT:
        raise _NoPlanYet  # its kernel is compiled for any address
    memory = argument.untyped_storage().data_ptr()
    sharing = [index for index, tensor in enumerate(tensors) if tensor.untyped_storage().data_ptr() == memory]
    if len(sharing) == 1:
        index = sharing[0]
        return _Source(place, index, argument.data_ptr() - tensors[index].data_ptr())
    for index in sharing:  # inputs that are parts of one tensor
        tensor = tensors[index]
        if argument.data_ptr() == tensor.data_ptr() and argument.stride() == tensor.stride():
            return _Source(place, index, 0)
    if sharing:
        raise _NoPlanYet
    return _Source(place, -1, 0)
