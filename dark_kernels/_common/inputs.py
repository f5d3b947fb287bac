"""What functions take besides tensors with a batch, told once: NumPy arrays, and maps without leading dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from .checks import check_dense, kind_of, remedy_for


def is_batch(value: Any, dim: int) -> TypeGuard[Tensor]:
    """True for what needs no conversion: a tensor of `dim` dimensions. All that a plain call pays."""
    return isinstance(value, Tensor) and value.dim() == dim


class Given(NamedTuple):
    """The first argument of a call as a tensor with all dimensions, and how it came.

    Attributes:
        tensor: With a batch.
        is_array: Whether it came as an array of NumPy's, which is what goes back then.
        missing: How many leading dimensions it came without, and results go without.
    """

    tensor: Tensor
    is_array: bool
    missing: int

    def also(self, name: str, value: Any, dim: int) -> Any:
        """Another argument as a tensor, or None, with the dimensions that the first came without."""
        if value is None:
            return None
        tensor = to_tensor(name, value)
        return tensor[(None,) * max(0, dim - tensor.dim())] if self.missing else tensor

    def give_back(self, result: Any) -> Any:
        """The result, a tensor or a tuple of tensors and None, without these dimensions and as it came."""
        if isinstance(result, tuple):
            each = tuple(self.give_back(one) for one in result)
            return type(result)(*each) if hasattr(result, "_fields") else each
        if result is None:
            return None
        result = result[(0,) * self.missing] if self.missing else result
        return result.numpy(force=True) if self.is_array else result


def take(name: str, value: Any, dim: int, shapes: str, least: int, lists: bool = False) -> Given:
    """Take a tensor or an array of `least` to `dim` dimensions, which `shapes` names for the message.

    Arrays are not copied, unless PyTorch cannot read them where they are. With `lists`, numbers in lists are taken as
    well, for tensors.
    """
    tensor = to_numbers(name, value) if lists else to_tensor(name, value)
    check_dense(name, tensor)
    missing = dim - tensor.dim()
    if not 0 <= missing <= dim - least:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {shapes}")
    return Given(tensor[(None,) * missing] if missing else tensor, isinstance(value, np.ndarray), missing)


def call_with_tensors(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function with tensors for the arrays among its arguments, and return arrays."""
    arrays = {name: to_tensor(name, each) for name, each in arguments.items() if isinstance(each, np.ndarray)}
    first = next(iter(arrays.values()))
    return Given(first, is_array=True, missing=0).give_back(function(**{**arguments, **arrays}))


def to_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is, and that of a NumPy array, which shares its memory where PyTorch can read it."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got {kind_of(value)}, expected a torch.Tensor or a numpy.ndarray{remedy_for(name, value)}"
        )
    return _tensor_of(name, value)


def to_numbers(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor as it is, and that of numbers in an array or in lists.

    Integers become float32; with `like`, all become float32, or float64 if that is, on its device.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # ragged, or tensors that NumPy cannot read
            raise TypeError(f"{name}: got {kind_of(value)}, expected numbers, in rows of equal length") from None
        if value.dtype.kind not in "iuf":
            raise TypeError(f"{name}: got lists of {value.dtype}, expected numbers, in rows of equal length")
        if like is None:
            value = value.astype(np.float32)
    tensor = to_tensor(name, value)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name}: got an array of {value.dtype}, expected numbers")
    if like is not None:
        return tensor.to(like.device, torch.float64 if like.dtype == torch.float64 else torch.float32)
    return tensor if tensor.is_floating_point() else tensor.to(torch.float32)


class _Borrowed:
    """Memory of a read-only array. Nothing here writes to it, and torch.from_numpy would warn that one could."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self.array = array


def _tensor_of(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16 or array.dtype == np.longdouble != np.float64:
        raise TypeError(f"{name}: got an array of {array.dtype}, expected one of numbers that PyTorch has")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # PyTorch counts strides in elements, and forwards.
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    if not array.flags.writeable:
        array = np.asarray(_Borrowed(array))
    return torch.from_numpy(array)
