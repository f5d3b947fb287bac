"""Shared by the benchmarks: the device, the machine, and numbers that follow from several rows."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from typing import Any

import pytest
import torch

from benchmarks import measure, results, rows

_load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
_skipped: list[dict[str, str]] = []
_wrong: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dark_kernels benchmarks")
    group.addoption("--bench-device", default="cpu", choices=("cpu", "cuda"), help="where the maps are")
    group.addoption("--bench-commit", default=None, help="what to record as the commit")


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """ "cpu" or "cuda"."""
    name: str = pytestconfig.getoption("--bench-device", default="cpu")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Describe the machine, without a host name: results are published."""
    device = config.getoption("--bench-device", default="cpu")
    cpu, cores = cpu_name(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if on_gpu else f"{cpu}, {cores} cores",
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cache_bytes": measure.cache_bytes(device if on_gpu else "cpu"),
        "load": _load_before,
        "driver": measure.driver_version() if on_gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "opencv": _module_version("cv2"),
        "transformers": _version("transformers"),
        "kornia": _version("kornia"),
    }


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return {"id": config.getoption("--bench-commit", default=None) or "unknown"}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    wrong = [value for name, value in report.user_properties if name == rows.WRONG]
    if wrong and report.skipped:
        _wrong.extend(wrong)
    elif report.skipped and isinstance(report.longrepr, tuple):
        _skipped.append({"name": report.nodeid.rsplit("::", 1)[-1], "reason": report.longrepr[2]})


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    results.add_derived(output_json["benchmarks"])
    output_json["wrong"] = _wrong
    output_json["skipped"] = _skipped


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _module_version(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return None
