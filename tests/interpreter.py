"""Faults of Triton's interpreter, in which kernels run on a machine without a GPU, and the patches for them.

A patch reaches into private names, so there are as few as possible. `test_interpreter.py` fails for one whose fault the
installed Triton does not have.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder


class Patch(NamedTuple):
    name: str
    fault: str
    seen_in: tuple[str, ...]  # versions of Triton
    replacements: tuple[tuple[Any, str, Any], ...]  # an owner, the name of its attribute, and what takes the place
    has_fault: Callable[[], bool]  # asks the interpreter as it is, patched or not
    mended_in: tuple[int, int] | None = None  # the first version known to be without it


@contextlib.contextmanager
def patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for patch in PATCHES:
            for owner, name, replacement in patch.replacements:
                monkeypatch.setattr(owner, name, replacement)
        yield


@contextlib.contextmanager
def unpatched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for (owner, name), original in _ORIGINALS.items():
            monkeypatch.setattr(owner, name, original)
        yield


# --- NaN -------------------------------------------------------------------------------------------------


def _larger(self: Any, one: Any, other: Any) -> Any:
    return self.binary_op(one, other, np.fmax)


def _smaller(self: Any, one: Any, other: Any) -> Any:
    return self.binary_op(one, other, np.fmin)


@triton.jit
def _extremes_kernel(results_ptr, one, other):
    tl.store(results_ptr, tl.maximum(one, other))
    tl.store(results_ptr + 1, tl.minimum(one, other))


def _prefers_nan() -> bool:
    results = torch.zeros(2)
    _extremes_kernel[(1,)](results, float("nan"), 1.0)
    return bool(results.isnan().any())


# --- functions of triton.language ------------------------------------------------------------------------

_replace_functions = interpreter._patch_lang
_replaced_in: set[str] = set()
_STAY_REPLACED = types.SimpleNamespace(restore=lambda: None)  # Triton 3.6 and newer restore after a launch


def _replace_functions_once(function: Any) -> Any:
    module = function.__globals__["__name__"]
    if module not in _replaced_in:
        _replaced_in.add(module)
        _replace_functions(function)
    return _STAY_REPLACED


@triton.jit
def _identity(x):
    return x


@triton.jit
def _calls_kernel(result_ptr, num_calls):
    for _ in range(num_calls):
        tl.store(result_ptr, _identity(1.0))


def _replaces_at_every_call() -> bool:
    counts = []
    for num_calls in (1, 2):
        with mock.patch.object(interpreter, "_patch_builtin", wraps=interpreter._patch_builtin) as replace:
            _calls_kernel[(1,)](torch.zeros(1), num_calls)
        counts.append(replace.call_count)
    return counts[0] < counts[1]


# --- dtypes ----------------------------------------------------------------------------------------------

_look_up = interpreter._get_np_dtype
_found: dict[str, np.dtype] = {}


def _look_up_once(dtype: Any) -> np.dtype:
    if dtype.name not in _found:
        _found[dtype.name] = _look_up(dtype)
    return _found[dtype.name]


def _makes_dtypes_at_every_look_up() -> bool:
    interpreter._get_np_dtype(tl.float32)
    make = mock.Mock(wraps=np.dtype)
    with mock.patch.object(interpreter, "np", types.SimpleNamespace(**{**vars(np), "dtype": make})):
        interpreter._get_np_dtype(tl.float32)
    return make.call_count > 0


_ALL = (
    Patch(
        "nan",
        "The larger or smaller one of a NaN and a number is the number on a GPU, and the NaN in the interpreter.",
        ("3.4.0", "3.6.0", "3.7.1"),
        ((InterpreterBuilder, "create_maxnumf", _larger), (InterpreterBuilder, "create_minnumf", _smaller)),
        _prefers_nan,
        mended_in=(3, 9),
    ),
    Patch(
        "functions",
        "Every call of a device function looks through triton.language for functions that are to be replaced.",
        ("3.4.0", "3.6.0", "3.7.1"),
        ((interpreter, "_patch_lang", _replace_functions_once),),
        _replaces_at_every_call,
    ),
    Patch(
        "dtypes",
        "Every operation makes a table of all dtypes and reads one.",
        ("3.4.0", "3.6.0", "3.7.1"),
        ((interpreter, "_get_np_dtype", _look_up_once),),
        _makes_dtypes_at_every_look_up,
    ),
)
_VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
PATCHES = tuple(patch for patch in _ALL if patch.mended_in is None or patch.mended_in > _VERSION)
_ORIGINALS = {(owner, name): getattr(owner, name) for patch in PATCHES for owner, name, _ in patch.replacements}
