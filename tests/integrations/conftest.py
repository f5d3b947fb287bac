"""Packages that are stood in for: imported where a test needs one, and stubbed where a CPU machine lacks a part."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.workloads import tiled_real_heatmaps

# `make test-integrations` sets it: there a package that is missing or broken is an error, and elsewhere a skip.
REQUIRED = "DARK_KERNELS_REQUIRE_INTEGRATIONS"


def require(name: str) -> Any:
    """A module of a package that `make test-integrations` installs."""
    if os.environ.get(REQUIRED):
        return importlib.import_module(name)
    package = name.partition(".")[0]
    pytest.importorskip(package, reason=f"{package} is not installed; `make test-integrations` installs it")
    return importlib.import_module(name)


def stub_mmcv_ops() -> None:
    """mmpose.models imports mmcv.ops, whose compiled part mmcv-lite leaves out, for models that no test here builds."""

    class Operators(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (torch.nn.Module,), {})

    try:
        importlib.import_module("mmcv.ops")
    except ImportError:
        for module in [module for module in sys.modules if module.startswith("mmcv.ops.")]:
            del sys.modules[module]
        sys.modules["mmcv.ops"] = Operators("mmcv.ops")


@pytest.fixture(scope="session")
def real_heatmaps() -> Tensor:
    """[8, 17, 64, 64] float32, of a network."""
    return tiled_real_heatmaps((8, 17, 64, 64))
