"""Launches that the package would make on a GPU, compiled for sm_90 and handed over with the tensors of the call.

The package is told that Triton serves CPU tensors, as it is in the interpreter; kernels are compiled by Triton's own
specialisation and compiler. Nothing here is known of what is then done with a launch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from benchmarks.static.compiling import specialised

ARCHITECTURE = 90


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument as a kernel gets it: of a struct each field is one."""

    name: str
    type: str  # Triton's name of it, such as "*fp32"
    value: Any


@dataclasses.dataclass(frozen=True)
class Launch:
    """A launch that is ready to run."""

    name: str
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    cubin: bytes
    num_warps: int
    shared: int  # bytes


def compiled(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    """Compile `kernel[grid](*args, **kwargs)`."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", ARCHITECTURE, 32)
    names = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    kwargs = {name: _constant(value) if name in names else value for name, value in kwargs.items()}
    source, options, bound = specialised(target, kernel, args, kwargs)
    result = triton.compile(source, target=target, options=options)
    if callable(grid):
        grid = grid(bound)
    arguments = tuple(each for name, value in bound.items() for each in _flat(name, source.signature.get(name), value))
    metadata = result.metadata
    return Launch(
        kernel.__name__, (*grid, *(1,) * (3 - len(grid))), arguments, result.asm["cubin"], metadata.num_warps,
        metadata.shared,
    )  # fmt: skip


def _constant(value: Any) -> Any:
    """A struct of constants as a compile takes it, where the launcher left it as the interpreter takes it."""
    import triton.language as tl

    if not (isinstance(value, tuple) and hasattr(value, "_make")):
        return value
    return value._make(each if isinstance(each, tl.constexpr) else tl.constexpr(_constant(each)) for each in value)


def _flat(name: str, kind: Any, value: Any) -> Iterator[Argument]:
    """A struct is its fields in order; constants are in the code."""
    if isinstance(kind, tuple):
        for place, (each, field) in enumerate(zip(kind, value, strict=True)):
            yield from _flat(f"{name}.{place}", each, field)
    elif kind is not None and kind != "constexpr":
        yield Argument(name, kind, value)


@contextlib.contextmanager
def launches_go_to(sink: Callable[[Launch], object]) -> Iterator[None]:
    """While this is open, calls on CPU tensors with backend="triton" are compiled and go to `sink`."""
    from triton.runtime.jit import JITFunction

    from dark_kernels import backends

    if os.environ.get("TRITON_INTERPRET"):
        raise RuntimeError("TRITON_INTERPRET replaces the compiler by an interpreter: unset it to compile")

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        sink(compiled(kernel, grid, args, kwargs))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(backends, "triton_interprets", return_value=True),
    ):
        backends.choose.cache_clear()
        try:
            yield
        finally:
            backends.choose.cache_clear()
