"""The calls that the sanitizer watches, and what is done with what it says: with a stand-in for the tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import sanitize


def test_no_device_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sanitize.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_every_call_gives_the_numbers_of_the_reference_and_a_missing_sanitizer_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sanitize, "find_sanitizer", lambda: None)
    assert sanitize.main(["--device", "cpu", "--output", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().out
    # 2 dtypes with 12 calls of SimCC; 4 layouts and dtypes with 11 recipes, 2 of soft_argmax, 4 calls of find_peaks,
    # 4 x 2 losses of distributions and 2 x 6 calls about heatmaps each; 8 of poses.
    assert f"{2 * 12 + 4 * (12 + 2 + 4 + 8 + 12) + 8} calls, numbers as the reference's" in said
    assert "not installed" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "code"), [("ERROR SUMMARY: 0 errors", 0), ("ERROR SUMMARY: 3 errors", 9)])
def test_what_a_tool_says_is_written_and_its_exit_code_kept(
    words: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run

    def run_tools(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """The run without a tool is left out: the test above has it."""
        return subprocess.CompletedProcess(command, 0) if command[0] == sys.executable else run(command, **options)

    monkeypatch.setattr(subprocess, "run", run_tools)
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!{sys.executable}\nprint('{words}')\nraise SystemExit({code})\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sanitize.find_sanitizer() == str(tool)
    assert sanitize.main(["--device", "cpu", "--output", str(tmp_path)]) == code
    out = capsys.readouterr().out
    for name in sanitize.TOOLS:
        assert (tmp_path / f"sanitizer-{name}.txt").read_text() == f"{words}\n"
        assert f"{name}: exit code {code}; {words}" in out
