"""What the model makes of counts."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.machine import model, predict, validate
from benchmarks.machine.counts import Work
from benchmarks.machine.model import Fitted

WORK = Work(
    kernel="_a_kernel", programs=1000, warps=1, registers=64, shared=0, instructions=1e5, units={"integer": 5e4},
    cycles=[3000.0], head=300.0, tail=2000.0, memory_bytes=1e6, second_cache_sectors=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"memory_bytes": 1e9}, "memory"),
        ({"units": {"integer": 1e8}}, "integer"),
        ({"instructions": 1e9}, "issue"),
        ({"units": {"special": 1e8}}, "special"),
        ({"cycles": [1e6]}, "chain"),
        ({"programs": 10**6, "head": 0.0, "tail": 0.0, "cycles": [1.0]}, "starts"),
        ({"second_cache_sectors": 1e9}, "cache"),
        ({}, "latency"),
    ],
)
def test_a_launch_is_bound_by_what_takes_longest(changes: dict[str, object], bound: str) -> None:
    assert model.predict(dataclasses.replace(WORK, **changes)).bound == bound  # type: ignore[arg-type]


def test_a_pass_over_memory_takes_what_its_bandwidth_says() -> None:
    one, two = (model.predict(dataclasses.replace(WORK, memory_bytes=each)).seconds for each in (4.8e9, 9.6e9))
    assert 1e-3 < two - one < 1.13e-3  # which the second cache is near to


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "programs"), [(32, 4, 0, 16), (64, 1, 0, 32), (64, 1, 65536, 3), (255, 8, 0, 1)]
)
def test_resident_programs(registers: int, warps: int, shared: int, programs: int) -> None:
    work = dataclasses.replace(WORK, registers=registers, warps=warps, shared=shared)
    assert model.resident_programs(work) == 132 * programs


def test_unequal_programs_follow_each_other() -> None:
    assert model._chain([10.0, 30.0], 4, 2) == 50.0  # the third begins after 10 cycles, the fourth after 20
    assert model._chain([10.0, 30.0], 2, 2) == 30.0


def test_a_fit_finds_what_times_were_made_with() -> None:
    made_with = Fitted(4.2e12, 0.6, 3.0)
    case = next(case for _, case in predict.cases("decode W1 float32"))
    works = [
        dataclasses.replace(WORK, memory_bytes=1e8 * a, units={"integer": 1e8 * b}) for a, b in ((9, 1), (1, 9), (4, 4))
    ]
    rows = [validate.Row(case, [work], predict.seconds_of(case, [work], made_with)) for work in works]
    found = validate.fit(rows)
    assert [row.ratio(found) for row in rows] == pytest.approx([1.0] * 3, abs=1e-9)
    assert validate.summary([1.0, 1.1, 0.5]).startswith(
        "3 rows: median error 10%, 67% of them within 25%, largest 100%"
    )


def test_measured_groups_have_cases() -> None:
    """So that predictions can be compared with what was measured."""
    groups = {case.group for _, case in predict.cases()}
    assert len(groups & predict.measured_seconds().keys()) > 30
