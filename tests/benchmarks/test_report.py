"""The command that writes the pages: what it reads, writes and says; rows that became slower."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import regression, report
from benchmarks.publish import charts, tables


def test_readme_is_rewritten_between_its_markers(record: dict[str, Any], tmp_path: Path) -> None:
    folder, readme = tmp_path / "results", tmp_path / "README.md"
    folder.mkdir()
    (folder / "cpu-a.json").write_text(json.dumps(record))
    readme.write_text(f"before\n{tables.BEGIN}\nstale\n{tables.END}\nafter\n")
    arguments = ["--results", str(folder), "--readme", str(readme), "--docs", str(tmp_path / "docs")]
    assert report.main([*arguments, "--check"]) == 1
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\nafter\n")
    assert "stale" not in text
    assert "A CPU, 2 cores" in text
    assert "No GPU has been measured yet." in text
    assert (
        "| decode W1 [64, 17, 64, 48] | 2.00 ms | 50% | reference 50, a faster one 0.5, a broken one is wrong |" in text
    )
    page = tmp_path / "docs" / "benchmarks.md"
    assert "| **decode** | 2.00 ms |" in page.read_text()
    assert report.main([*arguments, "--check"]) == 0
    page.write_text("typed")
    assert report.main([*arguments, "--check"]) == 1
    page.unlink()
    assert report.main([*arguments, "--check"]) == 1


def test_what_is_published_is_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0
    folder = Path(__file__).resolve().parents[2]
    for record in report.load_all(folder / "benchmarks" / "results"):
        for name in charts.names(record):
            assert (folder / "docs" / "benchmarks" / name).exists()


def test_printing_writes_nothing(record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu-a.json").write_text(json.dumps(record))
    assert report.main(["--results", str(tmp_path), "--docs", str(tmp_path / "docs"), "--print"]) == 0
    assert "A CPU, 2 cores" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()


def slowed(record: dict[str, Any], factor: float, name: str = "decode") -> dict[str, Any]:
    """`record`, in which one row takes `factor` times as long."""
    later = copy.deepcopy(record)
    for benchmark in later["benchmarks"]:
        if benchmark["extra_info"]["row"] == name:
            benchmark["extra_info"]["seconds"] *= factor
        benchmark["stats"]["iqr"] = 0.01 * benchmark["stats"]["median"]
    return later


def test_only_what_is_slower_by_more_than_the_noise_is_a_regression(record: dict[str, Any]) -> None:
    before = slowed(record, 1.0)
    assert not any(change.is_regression for change in regression.changes(before, slowed(record, 1.04)))
    assert not any(change.is_regression for change in regression.changes(before, slowed(record, 0.5)))
    (change,) = [c for c in regression.changes(before, slowed(record, 1.10)) if c.is_regression]
    assert (change.row, change.slower) == ("decode", pytest.approx(0.10))
    assert change.noise == 0.05


def test_noisy_rows_may_differ_by_more(record: dict[str, Any]) -> None:
    before, after = slowed(record, 1.0), slowed(record, 1.3)
    for benchmark in after["benchmarks"]:
        benchmark["stats"]["iqr"] = 0.2 * benchmark["stats"]["median"]
    assert not any(change.is_regression for change in regression.changes(before, after))


def test_rows_that_are_new_are_no_regression(record: dict[str, Any]) -> None:
    later = copy.deepcopy(record)
    later["benchmarks"].append(copy.deepcopy(later["benchmarks"][1]))
    later["benchmarks"][-1]["group"] = "decode W9 float32"
    assert len(regression.changes(record, later)) == len(record["benchmarks"])


def test_files_of_two_devices_are_not_compared(record: dict[str, Any]) -> None:
    other = copy.deepcopy(record)
    other["machine_info"]["device_name"] = "Another CPU, 64 cores"
    with pytest.raises(ValueError, match="'Another CPU, 64 cores' before and 'A CPU, 2 cores' after"):
        regression.changes(other, record)


def test_a_regression_is_an_exit_code(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    earlier = tmp_path / "earlier.json"
    arguments = ["--results", str(folder), "--against", str(earlier)]
    earlier.write_text(json.dumps(slowed(record, 1.0)))
    (folder / "cpu-a.json").write_text(json.dumps(slowed(record, 1.0)))
    assert report.main(arguments) == 0
    assert "none of 4 rows" in capsys.readouterr().out
    (folder / "cpu-a.json").write_text(json.dumps(slowed(record, 1.5)))
    assert report.main(arguments) == 1
    out = capsys.readouterr().out
    assert "1 of 4 rows" in out
    assert "| decode W1 float32 | decode | 2.00 ms | 3.00 ms | +50% | 5% |" in out
    other = slowed(record, 1.0)
    other["machine_info"]["device_name"] = "Another CPU, 64 cores"
    earlier.write_text(json.dumps(other))
    assert report.main(arguments) == 2
    assert "no results now" in capsys.readouterr().err


def test_report_without_results_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path), "--print"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
