"""A small results file, for the tests of what is made of one."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import results

GROUP = "decode W1 float32"


def row(name: str, median: float, group: str = GROUP, **extra: Any) -> dict[str, Any]:
    """One benchmark as pytest-benchmark writes it."""
    numbers = ("min", "max", "mean", "median", "iqr", "stddev")
    return {
        "group": group,
        "name": f"test_decode[{name}]",
        "fullname": "/somewhere/test_decode.py",
        "options": {"timer": "perf_counter"},
        "stats": {**dict.fromkeys(numbers, median), "rounds": 5, "data": [median] * 5, "ops": 1 / median},
        "extra_info": {
            "operation": "decode",
            "workload": "W1",
            "shape": [64, 17, 64, 48],
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "blobs",
            "variant": "darkpose",
            "row": name,
            "role": {"read only": "floor", "empty kernel": "overhead", "decode": "ours"}.get(name, "peer"),
            "note": None,
            "clock": "host",
            "calls_per_round": 1,
            "error": 1e-6,
            "error_of": "keypoints",
            "bytes": 1000,
            "host_seconds": None,
            "peak_bytes": None,
            **extra,
        },
    }


@pytest.fixture
def record() -> dict[str, Any]:
    """A small results file, as run.py makes it."""
    benchmarks = [
        row("read only", 1e-3),
        row("decode", 2e-3),
        row("reference", 100e-3),
        row("a faster one", 1e-3),
    ]
    results.add_derived(benchmarks)
    return results.compact(
        {
            "datetime": "2026-01-02T03:04:05",
            "version": "5.0.0",
            "machine_info": {
                "device": "cpu", "device_name": "A CPU, 2 cores", "cpu": "A CPU", "cores": 2, "threads": 2,
                "cache_bytes": 1, "load": 0.1, "driver": None, "python": "3.12.0", "torch": "2.13.0", "triton": None,
                "opencv": "5.0.0",
            },
            "commit_info": {"id": "0123456789ab"},
            "benchmarks": benchmarks,
            "wrong": [{"group": GROUP, "extra_info": row("a broken one", 1.0)["extra_info"], "reason": "off by 3 px"}],
            "skipped": [{"name": "test_decode[a peer]", "reason": "Skipped: not installed"}],
        }
    )  # fmt: skip


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a module of this name, with these functions, in place of a package."""

    def install(name: str, **functions: Any) -> None:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        vars(sys.modules[name]).update(functions)

    return install
