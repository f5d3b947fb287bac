"""Shared by the `compiled.py` of several rooms: how Numba compiles their loops, and how threads share their work.

Loops run without the interpreter's lock in threads of our own: those of Numba's default pool end the process if two
callers meet in it, and end with a fork.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch


def loops(*flags: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile what other loops call. `flags`: of LLVM's fast mathematics, none of which may let a NaN be lost."""
    return numba.njit(nogil=True, fastmath=set(flags), error_model="numpy")


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what Python calls, and keep the machine code beside the source where that can be written to, or in the
    user's cache. Its inner loops stand in the same file, whose changes Numba notices."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither can be written to
        return numba.njit(nogil=True, error_model="numpy")(function)


def run_in_blocks(run: Callable[[int, int], None], count: int, block: int) -> None:
    """Call `run(first, last)` for blocks of a count, in as many threads as torch has, the caller's being one.

    Whoever is done takes the next block, so that a thread without a core holds up one block at most.
    """
    threads = min(torch.get_num_threads(), -(-count // block))
    if threads <= 1:
        run(0, count)
        return
    starts = itertools.count(0, block)  # whose next number one thread gets

    def take() -> None:
        for first in iter(starts.__next__, None):
            if first >= count:
                return
            run(first, min(first + block, count))

    others = [_pool(os.getpid(), threads - 1).submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of a process: a fork has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="dark-kernels")
