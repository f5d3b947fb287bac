"""The schema of the results, what is derived from them, and the tables made of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, results

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def row(name: str, median: float, group: str = "decode W1 float32", **extra: Any) -> dict[str, Any]:
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
            "recipe": "darkpose",
            "row": name,
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
            "skipped": [{"name": "test_decode[a peer]", "reason": "Skipped: not installed"}],
        }
    )  # fmt: skip


def test_a_record_passes_and_is_small(record: dict[str, Any]) -> None:
    results.check(record)
    assert "data" not in record["benchmarks"][0]["stats"]
    assert "/somewhere" not in json.dumps(record)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_published_results_are_of_the_schema(path: Path) -> None:
    loaded = results.load(path)
    assert path.name == f"{results.device_slug(loaded['machine_info'])}.json"


@pytest.mark.parametrize("field", sorted(results.ROW_FIELDS))
def test_a_missing_field_is_named(record: dict[str, Any], field: str) -> None:
    broken = copy.deepcopy(record)
    del broken["benchmarks"][1]["extra_info"][field]
    with pytest.raises(results.SchemaError, match=rf"benchmarks\[1\].extra_info: field '{field}' is missing"):
        results.check(broken)


@pytest.mark.parametrize("field", sorted(results.MACHINE_FIELDS))
def test_a_missing_machine_field_is_named(record: dict[str, Any], field: str) -> None:
    del record["machine_info"][field]
    with pytest.raises(results.SchemaError, match=f"machine_info: field '{field}' is missing"):
        results.check(record)


@pytest.mark.parametrize("value", [None, "fast", True, float("nan"), 0.0, -1.0])
def test_a_time_is_a_positive_number(record: dict[str, Any], value: Any) -> None:
    record["benchmarks"][0]["extra_info"]["seconds"] = value
    with pytest.raises(results.SchemaError, match="seconds"):
        results.check(record)


def test_other_schemas_empty_files_and_no_json_are_refused(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(results.SchemaError, match="schema"):
        results.check({**record, "schema": 0})
    with pytest.raises(results.SchemaError, match="empty"):
        results.check({**record, "benchmarks": []})
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(results.SchemaError, match=r"broken\.json: is not JSON"):
        results.load(path)


def test_derived_numbers(record: dict[str, Any]) -> None:
    by_row = {b["extra_info"]["row"]: b["extra_info"] for b in record["benchmarks"]}
    assert by_row["decode"]["floor_seconds"] == pytest.approx(1e-3)
    assert by_row["decode"]["floor_share"] == pytest.approx(0.5)
    assert by_row["reference"]["ratio"] == pytest.approx(50)
    assert by_row["a faster one"]["ratio"] == pytest.approx(0.5)


def test_a_replay_of_many_calls_is_divided() -> None:
    rows = [row("read only", 1.0, calls_per_round=100, bytes=50), row("decode", 4.0, calls_per_round=200, bytes=50)]
    results.add_derived(rows)
    assert rows[0]["extra_info"]["seconds"] == pytest.approx(0.01)
    assert rows[1]["extra_info"]["seconds"] == pytest.approx(0.02)
    assert rows[1]["extra_info"]["floor_share"] == pytest.approx(0.5)


def test_a_group_without_a_read_only_pass_has_no_floor() -> None:
    rows = [row("decode", 4.0)]
    results.add_derived(rows)
    assert rows[0]["extra_info"]["floor_seconds"] is None
    assert rows[0]["extra_info"]["ratio"] == 1


def test_losses_and_left_out_rows_are_in_the_section(record: dict[str, Any]) -> None:
    section = report.device_section(record)
    assert "Slower than another in 1 of 2 comparisons" in section
    assert "a faster one (0.5)" in section
    assert "Not measured: test_decode[a peer]: not installed." in section
    assert "| **decode** | 2.00 ms |" in section
    assert "50%" in section


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
    arguments = ["--results", str(folder), "--readme", str(readme)]
    assert report.main([*arguments, "--check"]) == 1
    assert report.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "stale" not in text
    assert "A CPU, 2 cores" in text
    assert "No GPU has been measured yet." in text
    assert report.main([*arguments, "--check"]) == 0


@pytest.mark.parametrize(
    "readme", ["no markers", report.BEGIN, f"{report.END}{report.BEGIN}", report.BEGIN * 2 + report.END]
)
def test_a_readme_without_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        report.insert(readme, "text")


def test_report_without_results_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path), "--print"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("device", "name", "slug"),
    [
        ("cpu", "AMD EPYC, 2 cores", "cpu-amd-epyc-2-cores"),
        ("cpu", "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz, 6 cores", "cpu-intel-core-i7-9750h-6-cores"),
        ("cuda", "NVIDIA H200", "nvidia-h200"),
        ("cuda", "NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
    ],
)
def test_device_slug(device: str, name: str, slug: str) -> None:
    assert results.device_slug({"device": device, "device_name": name}) == slug
