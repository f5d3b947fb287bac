"""A recorded launch through Triton's own specialisation and compiler, for a GPU that need not be here."""

from __future__ import annotations

import importlib
import os
from typing import Any

from benchmarks.static.recording import Launch


def compile_for(target: Any, launch: Launch) -> Any:
    """Compile what `kernel[grid](...)` would run on that target: a `CompiledKernel`."""
    import triton

    source, options = _specialised(launch, target)
    return triton.compile(source, target=target, options=options)


def options_on(target: Any, launch: Launch) -> dict[str, Any]:
    """Constants and options of a launch on that target.

    The launcher ran here, where PyTorch is not built for AMD; there it leaves out what is NVIDIA's alone.
    """
    return {name: value for name, value in launch.kwargs.items() if target.backend == "cuda" or name != "maxnreg"}


def _specialised(launch: Launch, target: Any) -> tuple[Any, dict[str, Any]]:
    """Source and options as `kernel[grid](...)` would hand them to the compiler on that target."""
    kernel = getattr(importlib.import_module(launch.module), launch.kernel)
    source, options, _ = specialised(target, kernel, launch.args, options_on(target, launch))
    return source, options


def specialised(
    target: Any, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Source, options and arguments by name, as `kernel[grid](*args, **kwargs)` would find them on that target."""
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, options = bind(*args, **kwargs)
    if hasattr(kernel, "_pack_args"):
        packed = kernel._pack_args(backend, dict(kwargs), bound, specialisation, options)
    else:
        packed = _pack_args(kernel, backend, dict(kwargs), bound, specialisation)
    options, signature, constants, attributes = packed
    return ASTSource(kernel, signature, constants, attributes), options.__dict__, dict(bound)


def _pack_args(kernel: Any, backend: Any, kwargs: dict[str, Any], bound: Any, specialisation: Any) -> tuple[Any, ...]:
    """The same from Triton 3.4, in which `kernel.run` does it in passing."""
    from triton._utils import find_paths_if, get_iterable_path

    kinds, attributes = ([each[i] for each in specialisation] for i in (0, 1))
    constants = find_paths_if(kinds, lambda _, kind: kind == "constexpr")
    names = find_paths_if(attributes, lambda _, attribute: isinstance(attribute, str))
    return (
        backend.parse_options(kwargs),
        dict(zip((parameter.name for parameter in kernel.params), kinds, strict=True)),
        {path: get_iterable_path(list(bound.values()), path) for path in constants},
        {path: backend.parse_attr(get_iterable_path(attributes, path)) for path in names},
    )


def problem() -> str | None:
    """Why nothing can be compiled here, in one line, or None."""
    interpret = os.environ.get("TRITON_INTERPRET", "")
    if interpret.lower() in ("1", "true", "on", "yes", "y"):
        return f"TRITON_INTERPRET={interpret} replaces the compiler by an interpreter: unset it to compile"
    try:
        import triton
    except Exception as error:  # a broken install raises more than ImportError
        return f"triton cannot be imported ({type(error).__name__}: {error}): install it to compile"
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
        return f"triton {triton.__version__} is too old for this report, which needs triton 3.4 or newer"
    return None
