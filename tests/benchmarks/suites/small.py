"""Groups on inputs small enough for a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.suite import DEVICES, Case, Group, Suite
from benchmarks.workloads import Workload

# By the first letter of a workload's name.
SHAPES = {"W": (2, 3, 40, 30), "S": (2, 3, 96, 128), "P": (3, 12, 17, 2)}


def workload_like(workload: Workload, shape: tuple[int, ...] | None = None) -> Workload:
    return dataclasses.replace(workload, shape=shape or SHAPES[workload.name[0]])


WORKLOADS = tuple(workload_like(workload) for workload in workloads.ALL)


def group_of(suite: Suite, case: Case, device: str = "cpu", shape: tuple[int, ...] | None = None) -> Group:
    """The group of a case, on a small workload of the same name."""
    return Group(suite, dataclasses.replace(case, workload=workload_like(case.workload, shape)), device)


def cases_of(suite: Suite) -> Iterator[Case]:
    """The cases of all devices, each once: what they name is what differs."""
    seen: dict[str, Case] = {}
    for device in DEVICES:
        for case in suite.cases[device]:
            known = seen.get(case.group, case)
            seen[case.group] = dataclasses.replace(case, rows=tuple(dict.fromkeys((*known.rows, *case.rows))))
    yield from seen.values()


def case_named(suite: Suite, group: str) -> Case:
    """The case of a group, with its rows of all devices."""
    return next(case for case in cases_of(suite) if case.group == group)


def run(group: Group, name: str) -> tuple[Row, Any]:
    """A row, and what it returned for the first input, which was compared with the truth."""
    row = group.suite.rows[name].make(group)
    output = row.call(group.inputs[0])
    row.compare(output)
    return row, output


def assert_wrong(row: Row, output: Any, match: str, error: type[Exception] = Wrong) -> None:
    with pytest.raises(error, match=match):
        row.compare(output)
