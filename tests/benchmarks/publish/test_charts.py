"""The pictures: which there are, that they are drawn, and what is said where they can't be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.publish import charts
from tests.benchmarks.conftest import row

PNG = b"\x89PNG"


def test_every_operation_has_its_pictures(record: dict[str, Any]) -> None:
    assert set(charts.names(record)) == {"cpu-a-2-cores-decode-ratios.png", "cpu-a-2-cores-decode-roofline.png"}
    alone = [row("gaussian_nll", 1.0, "nll", operation="gaussian_nll forward + backward", role="ours")]
    results.add_derived(alone)
    assert charts.names({**record, "benchmarks": alone}) == {}


def test_pictures_are_drawn_and_repeat(record: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    # Very fast and very slow others, and a second dtype and memory format.
    for name, dtype, memory_format in (("b", "float16", "contiguous"), ("c", "float16", "channels_last")):
        rows = [
            row(what, seconds, name, dtype=dtype, memory_format=memory_format)
            for what, seconds in (("read only", 1e-5), ("decode", 2e-5), ("reference", 1.0), ("fast", 1e-9))
        ]
        results.add_derived(rows)
        record["benchmarks"] += rows
    written = charts.draw(record, tmp_path / "pictures")
    assert [path.name for path in written] == list(charts.names(record))
    contents = [path.read_bytes() for path in written]
    assert all(content.startswith(PNG) for content in contents)
    assert [path.read_bytes() for path in charts.draw(record, tmp_path / "pictures")] == contents


def test_without_matplotlib_a_message_says_so(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert charts.draw(record, tmp_path) == []
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_unusual_groups_alone_have_no_roofline(record: dict[str, Any], tmp_path: Path) -> None:
    for benchmark in record["benchmarks"]:
        benchmark["extra_info"]["values"] = "noise"
    assert list(charts.names(record)) == ["cpu-a-2-cores-decode-ratios.png"]
    assert [path.name for path in charts.draw(record, tmp_path)] in ([], ["cpu-a-2-cores-decode-ratios.png"])
