"""Shared by the benchmarks: the device, the machine, and what is kept of rows."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure, results, rows
from benchmarks.unfinished import Unfinished

_load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
_NO_TIME = "no time is left"
_UNFINISHED = pytest.StashKey[Unfinished]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dark_kernels benchmarks")
    group.addoption("--bench-device", default="cpu", choices=("cpu", "cuda"), help="where the maps are")
    group.addoption("--bench-commit", default=None, help="what to record as the commit")
    group.addoption("--bench-rows", default=None, type=Path, help="file of the rows that are measured already")
    group.addoption("--bench-until", default=None, type=float, help="time.time() from which on no row is begun")
    group.addoption("--bench-known", default=None, type=Path, help="folder of results, whose rows can wait for others")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--bench-rows", default=None)
    if path is not None:
        about = {
            "machine_info": machine_info(config.getoption("--bench-device")),
            "commit_info": {"id": config.getoption("--bench-commit") or "unknown"},
            "datetime": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "version": importlib.metadata.version("pytest-benchmark"),
        }
        config.stash[_UNFINISHED] = Unfinished(path, about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is measured already, and begin with groups of which a row has never been."""
    if _UNFINISHED not in config.stash:
        return
    unfinished, folder = config.stash[_UNFINISHED], config.getoption("--bench-known")
    config.hook.pytest_deselected(items=[item for item in items if item.name in unfinished.names])
    items[:] = [item for item in items if item.name not in unfinished.names]
    path = None if folder is None else folder / f"{results.device_slug(unfinished.about['machine_info'])}.json"
    if path is not None and path.exists():
        known = {row["name"] for row in results.load(path)["benchmarks"]}
        new = {_group_of(item) for item in items if item.name not in known}
        items.sort(key=lambda item: _group_of(item) not in new)


def _group_of(item: pytest.Item) -> str:
    """Name of the rows that share their inputs."""
    callspec = getattr(item, "callspec", None)
    return item.name if callspec is None else callspec.params["case"].group


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = item.config.getoption("--bench-until", default=None)
    if until is not None and time.time() > until:
        pytest.skip(_NO_TIME)


@pytest.fixture(autouse=True)
def _keep_row(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[None]:
    """Write what was measured at once: the process may be ended before the others are."""
    yield
    unfinished = pytestconfig.stash.get(_UNFINISHED, None)
    measured = getattr(request.node, "funcargs", {}).get("benchmark")
    if unfinished is not None and measured is not None and measured.stats:
        row = measured.stats.as_dict(include_data=False)
        wanted = {name: row[name] for name in ("group", "name", "stats", "extra_info")}
        unfinished.add("benchmarks", request.node.name, wanted)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """ "cpu" or "cuda"."""
    name: str = pytestconfig.getoption("--bench-device", default="cpu")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


def machine_info(device: str) -> dict[str, Any]:
    """Describe the machine, without a host name: results are published."""
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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep why a row was not timed."""
    outcome: Any = yield
    report, unfinished = outcome.get_result(), item.config.stash.get(_UNFINISHED, None)
    if unfinished is None or not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    if _NO_TIME in reason:
        return  # a later run has it
    wrong = [value for name, value in item.user_properties if name == rows.WRONG]
    for value in wrong:
        unfinished.add("wrong", item.name, value)
    if not wrong:
        unfinished.add("skipped", item.name, {"name": item.name, "reason": reason})


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
