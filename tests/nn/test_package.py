"""What holds for all modules: their examples, their documentation, where they are."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import pkgutil
from typing import Any

import pytest
import torch

import dark_kernels
from dark_kernels import nn
from dark_kernels.nn import DARKHead


def test_examples_in_docstrings() -> None:
    files = [importlib.import_module(file.name) for file in pkgutil.iter_modules(nn.__path__, f"{nn.__name__}.")]
    results = [doctest.testmod(module) for module in (nn, *files)]
    assert sum(result.attempted for result in results) > 20
    assert not any(result.failed for result in results)


def test_the_package_has_them() -> None:
    assert dark_kernels.nn.DARKHead is DARKHead


MADE_WITH: dict[str, tuple[Any, ...]] = {
    "DARKHead": (5, 3),
    "TwoStageDecoder": (torch.nn.Conv2d(5, 3, 1), DARKHead(5, 3)),
    "VarianceSchedule": (2.0, 10),
}


@pytest.mark.parametrize("name", nn.__all__)
def test_saved_whole(name: str) -> None:
    """What a file says of where a class is stays true: under a public name."""
    assert not any(part.startswith("_") for part in getattr(nn, name).__module__.split("."))
    module = getattr(nn, name)(*MADE_WITH.get(name, ()))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert type(loaded) is type(module)
    assert repr(loaded) == repr(module)


@pytest.mark.parametrize("name", nn.__all__)
def test_docstrings_name_every_argument(name: str) -> None:
    module = getattr(nn, name)
    for parameter in inspect.signature(module).parameters:
        assert f"{parameter}: " in module.__doc__ or f"{parameter}, " in module.__doc__
