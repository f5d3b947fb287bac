"""What functions and their references are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def arguments(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Names, kinds and defaults in their order, but for the backend: types are wider where arrays are taken."""
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters if each.name != "backend"]
