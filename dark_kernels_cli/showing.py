"""The commands info and recipes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
import textwrap
from typing import Any

import numpy as np
import rich.box
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dark_kernels import __version__
from dark_kernels.backends import Choice, choose
from dark_kernels.recipes import ALL

from .decoder import devices

_TABLE_WIDTH = 130  # columns of the recipes' table


def info(as_json: bool) -> None:
    """Show versions, devices, and which backend serves which device."""
    if as_json:
        print(json.dumps(_as_dict(), indent=2))
        return
    versions = Table("package", "version", box=rich.box.SIMPLE_HEAD)
    for name, version in _versions().items():
        versions.add_row(name, version or "not installed")
    Console().print(versions)

    table = Table("device", "name", "dtype", "backend", "why", box=rich.box.SIMPLE_HEAD)
    for device, name in devices().items():
        choices = _choices(device)
        if len(set(choices.values())) == 1:
            rows = [("any", choices["float32"])]
        else:
            rows = [("16 and 32 bits", choices["float32"]), ("float64", choices["float64"])]
        for dtypes, choice in rows:
            table.add_row(device, escape(name), dtypes, choice.backend, escape(choice.reason))
    Console().print(table)


def _versions() -> dict[str, str | None]:
    return {
        "dark_kernels": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        # What Triton's wheel is called depends on who built it.
        "triton": _version("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-windows"),
        "numba": _version("numba"),
        "numpy": np.__version__,
    }


def _choices(device: str) -> dict[str, Choice]:
    """Which backend serves a device, by dtype; the 16 bits as float32."""
    kind = torch.device(device).type
    return {name: choose("auto", kind, getattr(torch, name)) for name in ("float32", "float64")}


def _as_dict() -> dict[str, Any]:
    found = {
        device: {"name": name, **{dtype: choice._asdict() for dtype, choice in _choices(device).items()}}
        for device, name in devices().items()
    }
    return {"versions": _versions(), "devices": found}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: null."""
    return {name: None if value in (math.inf, -math.inf) else value for name, value in fields.items()}


def recipes(as_json: bool) -> None:
    """Show the decoders and their fields."""
    if as_json:
        print(json.dumps([_finite(dataclasses.asdict(recipe)) for recipe in ALL], indent=2))
        return
    console = Console()
    if console.is_terminal and console.width < _TABLE_WIDTH:
        for recipe in ALL:
            name, *fields = [(field, value) for field, value in recipe.summary().items() if value]
            line = f"{name[1]}: {', '.join(f'{field} {value}' for field, value in fields)}"
            print(textwrap.fill(line, console.width, subsequent_indent="    ", break_on_hyphens=False))
        return
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ALL[0].summary():
        table.add_column(column, no_wrap=True)
    for recipe in ALL:
        table.add_row(*(escape(cell) for cell in recipe.summary().values()))
    # In a file lines are as long as they are: cut names could not be copied.
    Console(width=max(console.width, _TABLE_WIDTH)).print(table, soft_wrap=True)


def _version(*distributions: str) -> str | None:
    """Version of the first of these that is installed, from its metadata: nothing is imported."""
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
