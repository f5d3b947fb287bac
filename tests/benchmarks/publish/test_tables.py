"""The tables that are made of results files."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.publish import charts, tables


def test_losses_and_left_out_rows_are_in_the_section(record: dict[str, Any]) -> None:
    section = tables.device_section(record)
    assert "Slower than another in 1 of 2 comparisons" in section
    assert "a faster one (0.5)" in section
    assert "Not measured: test_decode[a peer]: not installed." in section
    assert "| **decode** | 2.00 ms |" in section
    assert "50%" in section
    assert "Wrong, and so not timed: W1 [64, 17, 64, 48] float32, a broken one: off by 3 px." in section


def test_a_busy_machine_is_confessed(record: dict[str, Any]) -> None:
    assert "times are too long" not in tables.device_section(record)
    record["machine_info"]["load"] = 2.0
    assert "times are too long" in tables.device_section(record)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.3 s"), (0.5, "500 ms"), (0.012345, "12.3 ms"), (1.2345e-3, "1.23 ms"), (8.5e-6, "8.50 us")],
)
def test_duration(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_numbers_have_no_exponent() -> None:
    assert [tables.percent(share) for share in (1.234, 0.5, 0.0123, 0.00012)] == ["123%", "50%", "1.2%", "0.012%"]
    assert [tables.times(ratio) for ratio in (2841.7, 12.34, 0.5)] == ["2842", "12.3", "0.5"]


def test_what_only_another_device_has_rows_of_is_listed(record: dict[str, Any]) -> None:
    other = copy.deepcopy(record)
    other["benchmarks"][1]["extra_info"]["operation"] = "oks_nms"
    other["benchmarks"][2]["extra_info"]["operation"] = "soft_argmax forward + backward"
    for text in (tables.summary, tables.page):
        assert text([record, other]).count("Not measured on this device: oks_nms; soft_argmax.") == 1
        assert "Not measured on this device" not in text([record, record])


def test_the_page_links_the_pictures_that_are_drawn(record: dict[str, Any]) -> None:
    page = tables.page([record])
    assert charts.names(record)
    for name in charts.names(record):
        assert f"(benchmarks/{name})" in page


def test_a_note_stands_beside_the_row(record: dict[str, Any]) -> None:
    record["benchmarks"][3]["extra_info"].update(role="other", note="another estimator")
    assert "| a faster one (another estimator) |" in tables.device_section(record)
    # What is not the same job is in no short list.
    assert "a faster one" not in tables.short_section(record)


def test_a_gpu_has_columns_of_its_own(record: dict[str, Any]) -> None:
    record["machine_info"]["device"] = "cuda"
    record["benchmarks"][1]["extra_info"].update(host_seconds=25e-6, peak_bytes=51_712, clock="graph replay")
    section = tables.device_section(record)
    assert "| reference (host clock) |" in section
    assert "| host | memory | times ours |" in section
    assert "| 25.0 us | 51.7 kB | 1 |" in section


def test_rows_skipped_for_one_reason_share_a_line(record: dict[str, Any]) -> None:
    record["skipped"] = [{"name": name, "reason": "Skipped: no compiler"} for name in ("one", "two")]
    assert "Not measured: one, two: no compiler." in tables.device_section(record)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (51_712, "51.7 kB"), (7.18e8, "718 MB"), (6.2e10, "62 GB")]
)
def test_size(num_bytes: int, text: str) -> None:
    assert tables.size(num_bytes) == text


def test_targets_are_in_the_section(record: dict[str, Any]) -> None:
    section = tables.device_section(record)
    assert "| everything against the reference | not slower | hit | 1 of 1 | W1 float32: 50 x |" in section
    assert "| decode W4 against the OpenCV loop per map | not slower | not measured |  |  |" in section
    assert "Targets: 1 of 1 hit." in tables.short_section(record)


@pytest.mark.parametrize(
    "readme", ["no markers", tables.BEGIN, f"{tables.END}{tables.BEGIN}", tables.BEGIN * 2 + tables.END]
)
def test_a_readme_without_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        tables.insert(readme, "text")
