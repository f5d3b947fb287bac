"""Chooses the implementation that serves a call, and says why.

Every operation has up to four: `triton` (fused kernels), `numba` (loops compiled for a CPU, where an operation has
them), `eager` (vectorised PyTorch, any device) and `reference` (the definition). `"auto"` takes Triton where the
tensor's device and dtype allow it, else eager: Numba compiles for half a minute, for which nobody should wait unasked.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import Parameter

Backend = Literal["auto", "triton", "numba", "eager", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

# torch.device.type of the devices that Triton compiles for. ROCm builds of PyTorch say "cuda".
TRITON_DEVICES = ("cuda", "xpu")


class Choice(NamedTuple):
    """A backend and the reason it was chosen."""

    backend: str
    reason: str


@functools.cache
def triton_problem() -> str | None:
    """Why Triton can't be used in this process, or None if it can. Imports Triton on its first call."""
    return _import_problem("triton")


@functools.cache
def numba_problem() -> str | None:
    """Why Numba can't be used in this process, or None if it can. Imports Numba on its first call."""
    return _import_problem("numba")


def _import_problem(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken install raises more than ImportError
        return f"{name} cannot be imported ({type(error).__name__}: {error})"
    return None


def triton_interprets() -> bool:
    """True if Triton runs kernels in its interpreter, on CPU tensors (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def check_backend(backend: str) -> None:
    """Raise ValueError unless `backend` is one of `BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, BACKENDS))}")


@functools.lru_cache(maxsize=64)
def choose(requested: str, device_type: str, dtype: torch.dtype, has_loops: bool = False) -> Choice:
    """The backend that serves `requested` for tensors of this device and dtype.

    Args:
        requested: One of `BACKENDS`.
        device_type: Of the tensors.
        dtype: Of the tensors.
        has_loops: Whether the operation has loops for Numba.

    Raises:
        ValueError: `"triton"` or `"numba"` was asked for and cannot serve: it is not importable, or the tensor is on
            a device that it doesn't run on.
    """
    check_backend(requested)
    if requested in ("eager", "reference"):
        return Choice(requested, "asked for")
    if requested == "numba":
        return _choose_numba(device_type, dtype, has_loops)
    on_device = device_type in TRITON_DEVICES
    if requested == "auto" and not on_device:
        return Choice("eager", f"Triton does not run on {device_type} tensors")
    if dtype == torch.float64:
        # Consumer GPUs compute float64 at 1/64 of their float32 rate; the kernels don't offer it.
        return Choice("eager", "float64 is computed in float64, which the Triton kernels do not offer")
    problem = triton_problem()
    if requested == "auto":
        if problem is None:
            return Choice("triton", f"{device_type} tensor and Triton is installed")
        return Choice("eager", problem)
    if problem is not None:
        raise ValueError(
            f"backend: got 'triton', but {problem}; expected an installed Triton (pip install triton), "
            "or backend='auto'"
        )
    if not on_device and not (device_type == "cpu" and triton_interprets()):
        raise ValueError(
            f"backend: got 'triton' with a tensor on {device_type!r}, expected a tensor on "
            f"{' or '.join(map(repr, TRITON_DEVICES))}, TRITON_INTERPRET=1 for CPU tensors, or backend='auto'"
        )
    return Choice("triton", "asked for")


def runs_now() -> bool:
    """True if what is called runs: nothing traces, transforms, fakes or watches it. False where in doubt."""
    return not (torch.compiler.is_compiling() or _is_tracing() or _num_modes() != 0 or _transform() is not None)


def _choose_numba(device_type: str, dtype: torch.dtype, has_loops: bool) -> Choice:
    """`choose` where Numba is asked for."""
    if device_type != "cpu":
        raise ValueError(
            f"backend: got 'numba' with a tensor on {device_type!r}, expected a tensor on 'cpu', or backend='auto'"
        )
    if (problem := numba_problem()) is not None:
        raise ValueError(
            f"backend: got 'numba', but {problem}; expected an installed Numba (pip install 'dark-kernels[cpu]'), "
            "or backend='auto'"
        )
    if not has_loops:
        return Choice("eager", "the operation has no loops for Numba")
    if dtype != torch.float32:
        return Choice("eager", f"the compiled loops are of float32, and this is {str(dtype).removeprefix('torch.')}")
    return Choice("numba", "asked for")


def is_plain(*tensors: Tensor) -> bool:
    """True if an operation on `tensors` runs now, on numbers: nothing traces, transforms, fakes or watches it.

    Where this holds an operator may be left out and its implementation called. False where in doubt.
    """
    return runs_now() and all(
        # The dispatcher writes a view that negates out; a kernel would read what lies in memory.
        type(tensor) in (Tensor, Parameter) and tensor.device.type != "meta" and not tensor.is_neg()
        for tensor in tensors
    )


def is_capturing(device: torch.device) -> bool:
    """True while the current stream's launches go into a graph, to run later."""
    if device.type == "cpu":
        return False
    asks = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return asks is not None and asks()


def held_by_graphs(tensor: Tensor) -> Tensor:
    """The tensor, which a cache may drop: a graph goes on reading what it has captured, so that stays for good."""
    if is_capturing(tensor.device):
        _captured.append(tensor)
    return tensor


_captured: list[Tensor] = []


def _cannot_tell() -> int:
    return 1


_is_tracing = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)
# Python modes (fake tensors, make_fx, FLOP counters) and functorch transforms (vmap, grad). PyTorch has no public name
# for either question; without these names every call goes through the operator.
_num_modes = getattr(torch._C, "_len_torch_dispatch_stack", _cannot_tell)
_transform = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", _cannot_tell)
