"""Packages that are stood in for: imported where a test needs one, and stubbed where a CPU machine lacks a part."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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


def stub_torchvision_ops() -> None:
    """A torchvision that was compiled for another PyTorch than the installed one (a CPU build, say) can't be imported:
    it wants to describe two operators that it could not load. No test here runs them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def real_heatmaps() -> Tensor:
    """[8, 17, 64, 64] float32, of a network."""
    with (resources.files("dark_kernels") / "data" / "real_heatmaps.npz").open("rb") as file, np.load(file) as arrays:
        return torch.from_numpy(arrays["heatmaps"]).float()
