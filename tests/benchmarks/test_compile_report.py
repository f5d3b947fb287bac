"""The compile report: what it refuses, what it reports, and that it names an offender."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import compile_report
from tests.benchmarks.processes import ROOT, run

pytest.importorskip("triton", reason="the compile report needs triton")

TWO_KERNELS = """\
import triton
import triton.language as tl


@triton.jit
def _good_kernel(out_ptr, maps_ptr, size, BLOCK_SIZE: tl.constexpr):
    lane = tl.arange(0, BLOCK_SIZE)
    total = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for start in range(0, size, BLOCK_SIZE):
        total += tl.load(maps_ptr + start + lane, mask=start + lane < size, other=0.0)
    tl.store(out_ptr, tl.sum(total, axis=0))


@triton.jit
def _scalar_kernel(out_ptr, maps_ptr, size, BLOCK_SIZE: tl.constexpr):
    lane = tl.arange(0, BLOCK_SIZE)
    total = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    for start in range(0, size, BLOCK_SIZE):
        total += tl.load(maps_ptr + (start + lane) * 2 // 2 % size, mask=start + lane < size, other=0.0)
    tl.store(out_ptr, tl.sum(total, axis=0))


def launch(out, maps):
    for kernel in (_good_kernel, _scalar_kernel):
        kernel[(1,)](out, maps, maps.numel(), BLOCK_SIZE=1024)
"""
REPORT_OF_TWO_KERNELS = """\
import sys
import torch
from benchmarks import compile_report as report
from benchmarks.static.calls import Call, Room

if __name__ == "__main__":
    call = Call("two maps", lambda module: module.launch(torch.empty(1), torch.empty(4096)))
    loads = {name: (name,) for name in ("_good_kernel", "_scalar_kernel")}
    report.ROOMS = (Room("two", "two_kernels", lambda full: [call], loads),)
    report.unregistered_modules = lambda: []
    sys.exit(report.main(["--targets", "sm_90,gfx942", "--jobs", "1", "--full"]))
"""


def test_refuses_the_interpreter_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert compile_report.main([]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "TRITON_INTERPRET" in said


def test_refuses_a_missing_triton_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no triton here')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run("-c", "import sys; from benchmarks.compile_report import main; sys.exit(main([]))", PYTHONPATH=path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no triton here" in done.stderr


def test_refuses_a_target_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        compile_report.main(["--targets", "sm_1"])
    assert exit_.value.code == 2
    assert "--targets: got sm_1" in capsys.readouterr().err


def test_refuses_words_that_no_configuration_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_report, "problem", lambda: None)
    monkeypatch.setattr(compile_report, "ROOMS", ())
    with pytest.raises(SystemExit) as exit_:
        compile_report.main(["-k", "no such configuration"])
    assert exit_.value.code == 2
    assert "-k: got 'no such configuration'" in capsys.readouterr().err


def test_reports_what_the_launcher_launches(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = run("-m", "benchmarks.compile_report", "--targets", "sm_90", "-k", "argmax W2", "--json", str(path))
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [row["configuration"] for row in rows] == ["argmax W2 float32"]
    assert rows[0]["kernel"] == "_decode_fwd_kernel"
    assert rows[0]["registers"] > 16
    assert rows[0]["widest_load"] == rows[0]["narrowest_load"] == 16
    assert rows[0]["bytes_per_element"] == 4


def test_names_a_scalar_load(tmp_path: Path) -> None:
    (tmp_path / "two_kernels.py").write_text(TWO_KERNELS)
    script = tmp_path / "report.py"
    script.write_text(REPORT_OF_TWO_KERNELS)
    done = run(str(script), PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
    assert done.returncode == 1, done.stdout + done.stderr
    failures = [line for line in done.stderr.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 2, done.stdout + done.stderr
    for target, failure in zip(("sm_90", "gfx942"), failures, strict=True):
        assert target in failure
        assert "_scalar_kernel" in failure
        assert "a load of 4 bytes in the streaming loop" in failure
