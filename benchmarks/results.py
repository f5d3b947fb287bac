"""The JSON files in `results/`: one a device, pytest-benchmark's format without the raw data, checked.

{
  "schema": 2, "datetime": ..., "version": (pytest-benchmark's),
  "machine_info": {"device", "device_name", "cores", "torch", "triton", "driver", ...},
  "commit_info": {"id"},
  "benchmarks": [{"group", "name", "stats": {...}, "extra_info": {see IDENTITY_FIELDS and ROW_FIELDS}}],
  "wrong": [{"group", "extra_info": {see IDENTITY_FIELDS}, "reason"}],   others whose output is wrong: not timed
  "skipped": [{"name", "reason"}]                                       rows that could not run here
}

Schema 2: `recipe` is called `variant`, a row has a `role` and a `note`, wrong rows have a list of their own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 2
# The one file beside those of the devices: see accuracy.py.
ACCURACY = "accuracy.json"

_STATISTICS = ("min", "max", "mean", "median", "iqr", "stddev", "rounds")
_NUMBER = (int, float)

MACHINE_FIELDS: dict[str, Any] = {
    "device": str,
    "device_name": str,
    "cpu": str,
    "cores": int,
    "threads": int,
    "cache_bytes": int,
    "load": _NUMBER,  # average of running processes in the minute before
    "driver": (str, type(None)),
    "python": str,
    "torch": str,
    "triton": (str, type(None)),
    "opencv": (str, type(None)),
}
IDENTITY_FIELDS: dict[str, Any] = {
    "operation": str,
    "workload": str,
    "shape": list,
    "dtype": str,
    "memory_format": str,
    "values": str,
    "variant": str,  # of the operation: which recipe, which head
    "row": str,  # who is timed
}
ROW_FIELDS: dict[str, Any] = {
    **IDENTITY_FIELDS,
    "role": str,  # one of ROLES
    "note": (str, type(None)),  # what a reader has to know to compare it
    "clock": str,  # how
    "calls_per_round": int,
    "error": (*_NUMBER, type(None)),  # largest difference from the truth
    "error_of": str,
    "bytes": int,  # that the operation must move
    "seconds": _NUMBER,  # a call, median
    "floor_seconds": (*_NUMBER, type(None)),  # bytes over the bandwidth of the fastest floor row of the group
    "floor_share": (*_NUMBER, type(None)),  # floor_seconds / seconds
    "overhead_seconds": (*_NUMBER, type(None)),  # of the group's row that does nothing
    "ratio": (*_NUMBER, type(None)),  # seconds / those of our own row in the group
    "host_seconds": (*_NUMBER, type(None)),  # to issue a call; None on CPU
    "peak_bytes": (int, type(None)),  # of device memory allocated by a call; None on CPU
}

# What a row is in its group. "floor": moves the bytes and does nothing with them. "overhead": a launch that does
# nothing. "peer": does the same job. "other": does a part of it, or another one; its note says which.
ROLES = ("ours", "floor", "overhead", "peer", "other")
OTHERS = ("peer", "other")


class SchemaError(ValueError):
    """A results file is not what it should be; the message names file and field."""


def add_derived(benchmarks: list[dict[str, Any]]) -> None:
    """Fill in what follows from a row's time and from its group's other rows, in place."""
    ours: dict[str, float] = {}
    overheads: dict[str, float] = {}
    bandwidths: dict[str, float] = {}
    for benchmark in benchmarks:
        extra, group = benchmark["extra_info"], benchmark["group"]
        extra["seconds"] = benchmark["stats"]["median"] / extra["calls_per_round"]
        if extra["role"] == "ours":
            ours[group] = extra["seconds"]
        elif extra["role"] == "overhead":
            overheads[group] = extra["seconds"]
        elif extra["role"] == "floor":
            # The fastest pass: what disturbs it is no part of a floor.
            bandwidth = extra["bytes"] * extra["calls_per_round"] / benchmark["stats"]["min"]
            bandwidths[group] = max(bandwidth, bandwidths.get(group, 0.0))
    for benchmark in benchmarks:
        extra, group = benchmark["extra_info"], benchmark["group"]
        bandwidth = bandwidths.get(group)
        extra["floor_seconds"] = None if bandwidth is None else extra["bytes"] / bandwidth
        extra["floor_share"] = None if bandwidth is None else extra["floor_seconds"] / extra["seconds"]
        extra["overhead_seconds"] = overheads.get(group)
        extra["ratio"] = extra["seconds"] / ours[group] if group in ours else None


def compact(report: Mapping[str, Any]) -> dict[str, Any]:
    """pytest-benchmark's JSON without what nobody reads: single rounds, options, paths."""
    return {
        "schema": SCHEMA,
        "datetime": report["datetime"],
        "version": report["version"],
        "machine_info": report["machine_info"],
        "commit_info": report["commit_info"],
        "benchmarks": [
            {
                "group": benchmark["group"],
                "name": benchmark["name"],
                "stats": {name: _short(benchmark["stats"][name]) for name in _STATISTICS},
                "extra_info": {name: _short(value) for name, value in benchmark["extra_info"].items()},
            }
            for benchmark in report["benchmarks"]
        ],
        "wrong": report.get("wrong", []),
        "skipped": report.get("skipped", []),
    }


def _short(value: Any) -> Any:
    """Six digits of a float: more than any clock here has."""
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def check_fields(record: Any, expected: Mapping[str, Any], at: str) -> None:
    """Raise SchemaError unless `record` is an object with these fields, of these types; numbers are finite."""
    if not isinstance(record, dict):
        raise SchemaError(f"{at}: got {type(record).__name__}, expected an object")
    for name, kind in expected.items():
        if name not in record:
            raise SchemaError(f"{at}: field {name!r} is missing")
        value = record[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise SchemaError(f"{at}.{name}: got {value!r}, expected {_words(kind)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise SchemaError(f"{at}.{name}: got {value!r}, expected a finite number")


def check(results: Any, where: str = "results") -> None:
    """Raise SchemaError unless `results` has every field, of its type."""
    check_fields(results, {"schema": int}, where)
    if results["schema"] != SCHEMA:
        raise SchemaError(f"{where}.schema: got {results['schema']}, expected {SCHEMA}; run the benchmarks again")
    top = {
        "datetime": str,
        "machine_info": dict,
        "commit_info": dict,
        "benchmarks": list,
        "wrong": list,
        "skipped": list,
    }
    check_fields(results, top, where)
    check_fields(results["machine_info"], MACHINE_FIELDS, f"{where}.machine_info")
    check_fields(results["commit_info"], {"id": str}, f"{where}.commit_info")
    if not results["benchmarks"]:
        raise SchemaError(f"{where}.benchmarks: is empty, expected at least one row")
    for i, benchmark in enumerate(results["benchmarks"]):
        at = f"{where}.benchmarks[{i}]"
        check_fields(benchmark, {"group": str, "name": str, "stats": dict, "extra_info": dict}, at)
        check_fields(benchmark["stats"], dict.fromkeys(_STATISTICS, _NUMBER), f"{at}.stats")
        check_fields(benchmark["extra_info"], ROW_FIELDS, f"{at}.extra_info")
        if benchmark["extra_info"]["role"] not in ROLES:
            raise SchemaError(
                f"{at}.extra_info.role: got {benchmark['extra_info']['role']!r}, expected one of {', '.join(ROLES)}"
            )
        if not benchmark["extra_info"]["seconds"] > 0:
            raise SchemaError(
                f"{at}.extra_info.seconds: got {benchmark['extra_info']['seconds']}, expected more than 0"
            )
    for i, wrong in enumerate(results["wrong"]):
        check_fields(wrong, {"group": str, "extra_info": dict, "reason": str}, f"{where}.wrong[{i}]")
        check_fields(wrong["extra_info"], IDENTITY_FIELDS, f"{where}.wrong[{i}].extra_info")
    for i, skipped in enumerate(results["skipped"]):
        check_fields(skipped, {"name": str, "reason": str}, f"{where}.skipped[{i}]")


def _words(kind: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if k is type(None) else k.__name__ for k in kinds)


def device_files(folder: Path) -> list[Path]:
    """The results files in a folder, one a device."""
    return sorted(path for path in folder.glob("*.json") if path.name != ACCURACY)


def load(path: Path) -> dict[str, Any]:
    """A checked results file.

    Raises:
        SchemaError: It is not JSON, or not of this schema.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{path.name}: is not JSON ({error})") from error
    check(results, path.name)
    return dict(results)


def device_slug(machine_info: Mapping[str, Any]) -> str:
    """File name of a device's results: `cpu-amd-epyc-2-cores`, `nvidia-h200`."""
    name = re.sub(r"\(r\)|\(tm\)|@.*?(?=,|$)|\bcpu\b|\bprocessor\b", "", machine_info["device_name"].lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return f"cpu-{slug}" if machine_info["device"] == "cpu" else slug
