"""The user's recipe, device and backend, and a file's way through an operation, a batch at a time."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dark_kernels import Recipe, decode, decode_offsets, recipes
from dark_kernels.backends import Choice, check_backend, choose

from .errors import UserError
from .results import Results

_BATCH_BYTES = 64 << 20  # heatmaps decoded at a time unless --batch-size says otherwise


def recipe_of(name: str, fields: Mapping[str, Any]) -> Recipe:
    """A row of the recipes with some fields changed."""
    try:
        return dataclasses.replace(recipes.get(name), **fields)
    except ValueError as error:
        raise UserError(_as_option(str(error))) from error


def _as_option(message: str) -> str:
    """What a field is called on the command line."""
    field, colon, rest = message.partition(":")
    if not field.startswith("Recipe."):
        return message
    return f"--{field.removeprefix('Recipe.').replace('_', '-')}{colon}{rest}"


class Operation:
    """An operation of dark_kernels on the user's device: CPU tensors in, NumPy arrays out."""

    device: torch.device
    choice: Choice

    def __init__(self, function: Callable[..., Any], device: str | None, backend: str, dtype: torch.dtype) -> None:
        has_loops = function in (decode, decode_offsets)
        self.device = device_of(device)
        try:
            check_backend(backend)
            self.choice = choose(backend, self.device.type, dtype, has_loops)
        except ValueError as error:
            raise UserError(str(error)) from error
        self._function = function
        self._backend = backend

    def __call__(self, *maps: torch.Tensor, **options: Any) -> Results:
        def on_device(value: Any) -> Any:
            return value.to(self.device) if isinstance(value, torch.Tensor) else value

        options = {name: on_device(value) for name, value in options.items()}
        try:
            found = self._function(*map(on_device, maps), backend=self._backend, **options)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        arrays = {name: part.cpu().numpy() for name, part in found._asdict().items() if part is not None}
        return Results(**arrays)

    def told(self) -> str:
        """Where it runs, and why."""
        return f"backend {self.choice.backend} on {self.device} ({self.choice.reason})"


def in_batches(batch: int, batch_size: int | None, entry_bytes: int, call: Callable[[int, int], Results]) -> Results:
    """Results of entries start to stop, one batch after the other, put together."""
    if batch_size is None:
        batch_size = max(1, _BATCH_BYTES // max(1, entry_bytes))
    console = Console(stderr=True)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    parts = []
    # Gone when done, and never there where stderr is a file: an error is then the only line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=batch)
        for start in range(0, max(batch, 1), batch_size):
            stop = min(start + batch_size, batch)
            parts.append(call(start, stop))
            progress.advance(task, stop - start)
    whole = {name: [getattr(part, name) for part in parts] for name in parts[0].arrays()}
    return Results(**{name: np.concatenate(pieces) for name, pieces in whole.items()})


def check_batch_size(batch_size: int | None) -> None:
    """Raise UserError unless it is a number of entries."""
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size: got {batch_size}, expected 1 or more")


def devices() -> dict[str, str]:
    """The devices of this machine and their names."""
    found = {"cpu": platform.processor() or platform.machine()}
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found |= {f"{kind}:{index}": module.get_device_name(index) for index in range(module.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def device_of(name: str | None) -> torch.device:
    """The device of that name, or of all the best."""
    found = devices()
    if name is None:
        return torch.device("cuda" if "cuda:0" in found else "cpu")
    for spelling in (name, f"{name}:0"):
        if spelling.lower() in found:
            return torch.device(spelling.lower())
    raise UserError(f"device: got {name!r}, expected one of {', '.join(found)}")
