"""Shared by the `library.py` of several rooms: the ways past the dispatcher and autograd, the dtype of the arithmetic,
gradients' memory, autograd's limits."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from ..backends import is_plain


def directly(operator: Callable[..., Any], implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls the operator, with a fast path: a plain call skips the dispatcher.

    The dispatcher costs the host as much as a loss on a GPU. A call is plain if nothing traces, transforms or watches
    it (`backends.is_plain`).
    """

    def call(*arguments: Any) -> Any:
        if is_plain(*[argument for argument in arguments if isinstance(argument, Tensor)]):
            return implementation(*arguments)
        return operator(*arguments)

    return call


def register(
    library: torch.library.Library, name: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Implement an operator that the library has defined, and return what calls it (`directly`).

    One implementation serves all devices. It asks `choose`, so a device without Triton is served by eager.
    """
    operator = getattr(torch.ops.dark_kernels, name).default
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dark_kernels::{name}", fake, lib=library)
    torch.library.register_vmap(f"dark_kernels::{name}", functools.partial(_one_by_one, operator), lib=library)
    return directly(operator, implementation)


def _one_by_one(operator: Any, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    """Call an operator for each entry that vmap maps over, as PyTorch does by itself with a warning.

    The operators have a batch of their own, which is faster.
    """
    outputs = [
        operator(*[each if dim is None else each.select(dim, i) for each, dim in zip(arguments, in_dims, strict=True)])
        for i in range(info.batch_size)
    ]
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs), 0
    return tuple(torch.stack(each) for each in zip(*outputs, strict=True)), (0,) * len(outputs[0])


def run_eagerly(function: Callable[..., tuple[Tensor | None, ...]], maps: Tensor, *arguments: Any) -> Any:
    """Call `function` on maps without autograd and autocast: contiguous tensors, or None.

    Under autocast matrix products are in float64, which takes longer, and a small batch feels autograd's bookkeeping of
    sixty small operations. The clones are ordinary tensors again.
    """
    device_type = maps.device.type
    if torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return run_eagerly(function, maps, *arguments)
    with torch.inference_mode():
        outputs = function(maps, *arguments)
    return tuple(each if each is None else each.clone(memory_format=torch.contiguous_format) for each in outputs)


class _Bound(inspect.BoundArguments):
    """All arguments of a function, by position."""

    kwargs: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, signature: inspect.Signature, arguments: tuple[Any, ...]) -> None:
        super().__init__(signature, dict(zip(signature.parameters, arguments, strict=True)))
        self._given = arguments

    @property
    def args(self) -> tuple[Any, ...]:
        return self._given

    def apply_defaults(self) -> None:
        pass


class _Positional(inspect.Signature):
    """The signature of a function that is called with all of its arguments, by position."""

    def bind(self, /, *arguments: Any, **named: Any) -> inspect.BoundArguments:
        if named or len(arguments) != len(self.parameters):
            return super().bind(*arguments, **named)
        return _Bound(self, arguments)


def cache_signatures(*functions: Any) -> None:
    """PyTorch binds the arguments of an autograd function to the signature of its `forward` at every call. One that is
    there already, and binds what is complete by leaving it alone, saves the host a third of what a training step's loss
    costs it."""
    for function in functions:
        signature = inspect.signature(function.forward)
        function.forward.__signature__ = _Positional(list(signature.parameters.values()))


def arithmetic_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if one of the tensors is, else float32."""
    is_double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def is_channels_last(maps: Tensor) -> bool:
    """True if the last channels of [..., C, H, W] lie closer together than pixels."""
    return maps.stride(-3) < maps.stride(-1)


def make_maps(
    make: Callable[..., Tensor],
    batch: int,
    channels: tuple[int, ...],
    height: int,
    width: int,
    dtype: torch.dtype | None,
    device: torch.device,
    channels_last: bool,
) -> Tensor:
    """[B, *channels, H, W] of the wanted memory layout, by torch.empty or the like; no elements if `dtype` is None."""
    if dtype is None:
        return torch.empty(0, device=device)
    if channels_last:
        return make((batch, height, width, *channels), dtype=dtype, device=device).movedim((1, 2), (-2, -1))
    return make((batch, *channels, height, width), dtype=dtype, device=device)


# From so many bytes on, NumPy asks for huge pages. Of fewer zeros than that the allocator of glibc keeps the memory for
# the next call, which torch fills with all cores.
_MANY_BYTES, _MANY_ZEROS = 2**22, 2**25


def empty_in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """torch.empty, but that much memory of a CPU comes from NumPy: it asks Linux for pages of 2 MiB, as torch does not
    by default, and these take a fifth of the time to be written to for the first time."""
    return _in_huge_pages(torch.empty, numpy.empty, _MANY_BYTES, shape, dtype, device)


def zeros_in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """torch.zeros, from the same memory as `empty_in_huge_pages`. Linux hands it out as zeros, and not before a page is
    touched: no fill."""
    return _in_huge_pages(torch.zeros, numpy.zeros, _MANY_ZEROS, shape, dtype, device)


def _in_huge_pages(
    make: Callable[..., Tensor],
    make_much: Callable[..., Any],
    much: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < much:
        return make(shape, dtype=dtype, device=device)
    return torch.from_numpy(make_much(num_bytes, numpy.uint8)).view(dtype).view(shape)


class OnceDifferentiable(torch.autograd.Function):
    """The backward pass of a fused loss as a function of its own, whose own backward pass raises.

    `torch.autograd.function.once_differentiable` would not do: under torch.func, and wherever the loss is one
    of several terms, it lets a second derivative through as silent zeros. This function depends on what the loss
    depends on, so a second derivative meets it.
    """

    generate_vmap_rule = True

    @classmethod
    def run(cls, *arguments: Any) -> Any:
        """`apply`, or `forward` alone where nobody could ask for a second derivative."""
        return cls.apply(*arguments) if torch.is_grad_enabled() else cls.forward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            "double backward: got a second derivative of a fused loss, expected the first; "
            "backend='reference' has all of them"
        )
