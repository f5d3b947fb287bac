"""What is done in a GPU's few minutes, and what a second run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_day, results
from benchmarks.gpu_day import Day, Step
from benchmarks.suites import SUITES

from .conftest import row

GOOD, BAD = Step("good", ["-c", "pass"]), Step("bad", ["-c", "import sys; sys.exit(3)"])


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "day.json"
    day = Day(path, "abc", 1.0)
    for step in (BAD, GOOD):
        day.run(step)
    assert (list(day.done), day.failed, day.left) == (["good"], ["bad"], [])
    again = Day(path, "abc", 1.0)
    assert list(again.done) == ["good"]
    again.run(Step("good", BAD.arguments))  # is not run
    assert again.failed == []
    for commit in ("another", "unknown", "abc-dirty"):
        assert Day(path, commit, 1.0).done == {}


def test_nothing_is_begun_without_time(tmp_path: Path) -> None:
    day = Day(tmp_path / "day.json", "abc", 0.0)
    day.run(GOOD)
    day.measure("cpu", tmp_path)
    assert (day.done, day.failed, day.left) == ({}, [], ["good", "benchmarks"])


def test_what_is_stuck_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_day, "_LONGEST", 1.0)
    day = Day(tmp_path / "day.json", "abc", 5.0)
    day.run(Step("stuck", ["-c", "import time; time.sleep(60)"]))
    day.run(GOOD)
    assert (list(day.done), day.failed) == (["good"], ["stuck"])


def test_every_test_has_a_step() -> None:
    root = Path(gpu_day.__file__).resolve().parent.parent
    places = [root / argument for step in gpu_day._steps_of_tests("cuda") for argument in step.arguments[2:]]
    for path in (root / "tests").rglob("test_*.py"):
        assert any(place == path or place in path.parents for place in places), path


def test_the_summary_says_what_is_farthest_off() -> None:
    benchmarks = [
        row("read only", 1e-6, "a"), row("decode", 2e-6, "a"),
        row("read only", 1e-6, "b"), row("decode", 9e-6, "b"), row("decode", 9e-6, "not predicted"),
    ]  # fmt: skip
    results.add_derived(benchmarks)
    ours = [each for each in benchmarks if each["extra_info"]["role"] == "ours"]
    lines = gpu_day.summary(ours, {"commit": "abc", "seconds": {"a": 2e-6, "b": 3e-6, "c": 1e-6}}).splitlines()
    assert "abc" in lines[0]
    assert lines[-2:] == ["| b | 3.0 | 9.0 | 3.00 |", "| a | 2.0 | 2.0 | 1.00 |"]
    assert "Nothing" in gpu_day.summary([], {"commit": "abc", "seconds": {}})


def test_predictions_are_of_groups_that_there_are() -> None:
    predictions: dict[str, Any] = json.loads(gpu_day.PREDICTIONS.read_text(encoding="utf-8"))
    groups = {case.group for suite in SUITES.values() for case in suite.cases["cuda"]}
    assert set(predictions["seconds"]) <= groups
