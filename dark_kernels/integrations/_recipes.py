"""Shared by the integrations."""

from __future__ import annotations

import dataclasses
import functools

from ..recipes import Recipe


@functools.lru_cache(maxsize=64)
def with_kernel_size(recipe: Recipe, kernel_size: int) -> Recipe:
    """`recipe` with the kernel size that a caller or a config asks for, made once.

    Raises:
        ValueError: `kernel_size` is not an odd positive integer.
    """
    return dataclasses.replace(recipe, kernel_size=kernel_size)
