"""Runs of the benchmarks that are cut short, and go on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.unfinished import Unfinished

from . import processes
from .conftest import row


@pytest.fixture
def about(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("machine_info", "commit_info", "datetime", "version")}


def test_a_run_goes_on_where_it_ended(tmp_path: Path, about: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    first = Unfinished(path, about)
    assert not path.exists()  # nothing is known yet
    first.add("benchmarks", "one", row("read only", 1e-3))
    first.add("wrong", "two", {"group": "a", "extra_info": {}, "reason": "off"})
    later = copy.deepcopy(about)
    later["machine_info"]["load"] = 7.0
    later["datetime"] = "2027-01-01T00:00:00"
    second = Unfinished(path, later)
    assert second.names == {"one", "two"}
    second.add("skipped", "three", {"name": "three", "reason": "not installed"})
    everything = Unfinished(path)
    assert everything.names == {"one", "two", "three"}
    report = everything.report()
    assert [len(report[kind]) for kind in ("benchmarks", "wrong", "skipped")] == [1, 1, 1]
    assert report["datetime"] == about["datetime"]
    assert report["benchmarks"][0] == row("read only", 1e-3)


@pytest.mark.parametrize("change", ["commit", "torch", "dirty", "unknown"])
def test_rows_of_something_else_are_dropped(tmp_path: Path, about: dict[str, Any], change: str) -> None:
    path, other = tmp_path / "rows.jsonl", copy.deepcopy(about)
    if change == "torch":
        other["machine_info"]["torch"] = "9.9.9"
    elif change == "commit":
        other["commit_info"]["id"] = "another"
    else:  # with what is not committed nobody knows which it was
        about["commit_info"]["id"] = other["commit_info"]["id"] = {"dirty": "abc-dirty", "unknown": "unknown"}[change]
    Unfinished(path, about).add("benchmarks", "one", row("read only", 1e-3))
    assert Unfinished(path, other).names == set()
    assert not path.exists()


def test_a_line_that_was_not_written_to_its_end_is_no_row(tmp_path: Path, about: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    Unfinished(path, about).add("benchmarks", "one", row("read only", 1e-3))
    Unfinished(path, about).add("benchmarks", "two", row("decode", 1e-3))
    path.write_text(path.read_text()[:-40])
    again = Unfinished(path, about)
    assert again.names == {"one"}
    again.add("benchmarks", "two", row("decode", 1e-3))
    assert Unfinished(path, about).names == {"one", "two"}


def test_without_time_there_is_no_row_and_no_result(tmp_path: Path) -> None:
    arguments = ("-m", "benchmarks.run", "--device=cpu", f"--output={tmp_path}", "--minutes=0")
    done = processes.run(*arguments, OMP_NUM_THREADS="1")
    assert done.returncode == 1, done.stdout
    assert "no results written" in done.stderr
    assert list(tmp_path.iterdir()) == []
