"""The compile report: what it reads from assembly, what it refuses, and that it names an offender."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compile_report

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("triton", reason="the compile report needs triton")

PTX = """\
	.loc	1 49 24                         // kernels.py:49:24 @[ kernels.py:151:95 ]
	@%p5 ld.global.v4.b32 { %r53, %r54, %r55, %r56 }, [ %rd33 + 0 ];
	@%p6 ld.global.L1::evict_first.v2.b64 { %rd1, %rd2 }, [ %rd34 + 0 ];
	cp.async.cg.shared.global [ %r1 + 0 ], [ %rd5 + 0 ], 0x10, %r2;
	.loc	2 110 29
	@%p88 ld.global.b16 { %rs17 }, [ %rd35 + 0 ];
	ld.shared.b32 %r9, [%r8];
	st.global.b32 [ %rd1 + 0 ], { %r1 };
	.file	1 "/somewhere/decode/kernels.py"
	.file	2 "/somewhere/_triton/blur.py"
"""
AMDGCN = """\
	.file	1 "/somewhere/decode" "kernels.py"
	.loc	1 49 24                         ; kernels.py:49:24
	buffer_load_dwordx4 v[22:25], v22, s[56:59], 0 offen
	global_load_b128 v[0:3], v[4:5], off
	global_load_dwordx2 v[0:1], v[4:5], off
	s_load_dwordx4 s[12:15], s[0:1], 0x28
	.loc	1 50 24
	buffer_load_ushort v24, v18, s[8:11], 0 offen
	global_load_d16_b16 v1, v[2:3], off
	global_load_ubyte v1, v[2:3], off
	buffer_store_dwordx4 v[0:3], v4, s[0:3], 0 offen
"""
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

if __name__ == "__main__":
    call = report.Call("two maps", lambda module: module.launch(torch.empty(1), torch.empty(4096)))
    loads = {name: (name,) for name in ("_good_kernel", "_scalar_kernel")}
    report.ROOMS = (report.Room("two", "two_kernels", lambda full: [call], loads),)
    report.unregistered_modules = lambda: []
    sys.exit(report.main(["--targets", "sm_90,gfx942", "--jobs", "1", "--full"]))
"""


def run(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the tests' one may have Triton's interpreter in it."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def test_access_widths_of_ptx() -> None:
    scan, blur = ("decode/kernels.py", 49), ("_triton/blur.py", 110)
    assert compile_report.access_widths(PTX, "store") == [(blur, 4)]
    assert compile_report.access_widths(PTX) == [(scan, 16), (scan, 16), (scan, 16), (blur, 2)]


def test_access_widths_of_amdgcn() -> None:
    first, second = ("decode/kernels.py", 49), ("decode/kernels.py", 50)
    widths = [(first, 16), (first, 16), (first, 8), (second, 2), (second, 2), (second, 1)]
    assert compile_report.access_widths(AMDGCN) == widths
    assert compile_report.access_widths(AMDGCN, "store") == [(second, 16)]


def test_sums_of_which_lanes_disagree() -> None:
    exchange = "mul.f32 %r5, %r1, %r2;\nshfl.sync.bfly.b32 %r6, %r5, 16, 31, -1;\n"
    assert compile_report.fused_exchanges(exchange + "fma.rn.f32 %r7, %r1, %r2, %r6;\n") == 1
    assert compile_report.fused_exchanges(exchange + "add.f32 %r7, %r5, %r6;\nfma.rn.f32 %r8, %r1, %r2, %r7;\n") == 0
    rounded = exchange.replace("mul.f32 %r5, %r1, %r2;", "fma.rn.f32 %r5, %r1, %r2, 0f00000000;")
    assert compile_report.fused_exchanges(rounded + "add.f32 %r7, %r5, %r6;\n") == 0


def test_finds_kernels_that_no_room_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dark_kernels.decode.kernels" not in compile_report.unregistered_modules()
    monkeypatch.setattr(compile_report, "ROOMS", ())
    assert "dark_kernels.decode.kernels" in compile_report.unregistered_modules()


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
    monkeypatch.setattr(compile_report, "_problem", lambda: None)
    monkeypatch.setattr(compile_report, "record_launches", lambda *_: [])
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
