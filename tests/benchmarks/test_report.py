"""The tables that are made of results files, and where they are written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import charts, regression, report


def test_losses_and_left_out_rows_are_in_the_section(record: dict[str, Any]) -> None:
    section = report.device_section(record)
    assert "Slower than another in 1 of 2 comparisons" in section
    assert "a faster one (0.5)" in section
    assert "Not measured: test_decode[a peer]: not installed." in section
    assert "| **decode** | 2.00 ms |" in section
    assert "50%" in section
    assert "Wrong, and so not timed: W1 [64, 17, 64, 48] float32, a broken one: off by 3 px." in section


def test_a_busy_machine_is_confessed(record: dict[str, Any]) -> None:
    assert "times are too long" not in report.device_section(record)
    record["machine_info"]["load"] = 2.0
    assert "times are too long" in report.device_section(record)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.3 s"), (0.5, "500 ms"), (0.012345, "12.3 ms"), (1.2345e-3, "1.23 ms"), (8.5e-6, "8.50 us")],
)
def test_duration(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_numbers_have_no_exponent() -> None:
    assert [report.percent(share) for share in (1.234, 0.5, 0.0123, 0.00012)] == ["123%", "50%", "1.2%", "0.012%"]
    assert [report.times(ratio) for ratio in (2841.7, 12.34, 0.5)] == ["2842", "12.3", "0.5"]


def test_readme_is_rewritten_between_its_markers(record: dict[str, Any], tmp_path: Path) -> None:
    folder, readme = tmp_path / "results", tmp_path / "README.md"
    folder.mkdir()
    (folder / "cpu-a.json").write_text(json.dumps(record))
    readme.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    arguments = ["--results", str(folder), "--readme", str(readme), "--docs", str(tmp_path / "docs")]
    assert report.main([*arguments, "--check"]) == 1
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
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


def test_what_only_another_device_has_rows_of_is_listed(record: dict[str, Any]) -> None:
    other = copy.deepcopy(record)
    other["benchmarks"][1]["extra_info"]["operation"] = "oks_nms"
    other["benchmarks"][2]["extra_info"]["operation"] = "soft_argmax forward + backward"
    for text in (report.summary, report.page):
        assert text([record, other]).count("Not measured on this device: oks_nms; soft_argmax.") == 1
        assert "Not measured on this device" not in text([record, record])


def test_the_page_links_the_pictures_that_are_drawn(record: dict[str, Any]) -> None:
    page = report.page([record])
    assert charts.names(record)
    for name in charts.names(record):
        assert f"(benchmarks/{name})" in page


def test_a_note_stands_beside_the_row(record: dict[str, Any]) -> None:
    record["benchmarks"][3]["extra_info"].update(role="other", note="another estimator")
    assert "| a faster one (another estimator) |" in report.device_section(record)
    # What is not the same job is in no short list.
    assert "a faster one" not in report.short_section(record)


def test_a_gpu_has_columns_of_its_own(record: dict[str, Any]) -> None:
    record["machine_info"]["device"] = "cuda"
    record["benchmarks"][1]["extra_info"].update(host_seconds=25e-6, peak_bytes=51_712, clock="graph replay")
    section = report.device_section(record)
    assert "| reference (host clock) |" in section
    assert "| host | memory | times ours |" in section
    assert "| 25.0 us | 51.7 kB | 1 |" in section


def test_rows_skipped_for_one_reason_share_a_line(record: dict[str, Any]) -> None:
    record["skipped"] = [{"name": name, "reason": "Skipped: no compiler"} for name in ("one", "two")]
    assert "Not measured: one, two: no compiler." in report.device_section(record)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (51_712, "51.7 kB"), (7.18e8, "718 MB"), (6.2e10, "62 GB")]
)
def test_size(num_bytes: int, text: str) -> None:
    assert report.size(num_bytes) == text


def test_targets_are_in_the_section(record: dict[str, Any]) -> None:
    section = report.device_section(record)
    assert "| everything against the reference | not slower | hit | 1 of 1 | W1 float32: 50 x |" in section
    assert "| decode W4 against the OpenCV loop per map | not slower | not measured |  |  |" in section
    assert "Targets: 1 of 1 hit." in report.short_section(record)


# --- regressions --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "readme", ["no markers", report.BEGIN, f"{report.END}{report.BEGIN}", report.BEGIN * 2 + report.END]
)
def test_a_readme_without_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        report.insert(readme, "text")


def test_report_without_results_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path), "--print"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
