"""The schema of the results, and what is derived from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from tests.benchmarks.conftest import row

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_a_record_passes_and_is_small(record: dict[str, Any]) -> None:
    results.check(record)
    assert "data" not in record["benchmarks"][0]["stats"]
    assert "/somewhere" not in json.dumps(record)


@pytest.mark.parametrize("path", results.device_files(RESULTS), ids=lambda path: path.name)
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


def test_an_unknown_role_is_refused(record: dict[str, Any]) -> None:
    record["benchmarks"][0]["extra_info"]["role"] = "winner"
    with pytest.raises(results.SchemaError, match="role: got 'winner', expected one of ours, floor"):
        results.check(record)


@pytest.mark.parametrize("field", sorted(results.IDENTITY_FIELDS))
def test_a_wrong_row_says_which_it_is(record: dict[str, Any], field: str) -> None:
    del record["wrong"][0]["extra_info"][field]
    with pytest.raises(results.SchemaError, match=rf"wrong\[0\].extra_info: field '{field}' is missing"):
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


def test_the_fastest_floor_and_the_overhead_are_those_of_the_group() -> None:
    rows = [
        row("read only", 2.0, bytes=100),
        row("another floor", 1.0, bytes=100, role="floor"),
        row("empty kernel", 0.25, bytes=0),
        row("decode", 4.0, bytes=200),
        row("decode", 4.0, group="another"),
    ]
    results.add_derived(rows)
    assert rows[3]["extra_info"]["floor_seconds"] == pytest.approx(2.0)
    assert rows[3]["extra_info"]["overhead_seconds"] == 0.25
    assert rows[4]["extra_info"]["overhead_seconds"] is None


def test_a_group_without_a_read_only_pass_has_no_floor() -> None:
    rows = [row("decode", 4.0)]
    results.add_derived(rows)
    assert rows[0]["extra_info"]["floor_seconds"] is None
    assert rows[0]["extra_info"]["ratio"] == 1


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
