"""Host times on a driver that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.host.__main__ import c_compiler

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(c_compiler() is None, reason="there is no C compiler")
def test_calls_are_launched_and_timed() -> None:
    """In a process of its own, where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.host", "--rounds", "1", "encode"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    header, floor, encode = done.stdout.splitlines()
    assert header.split() == ["us", "known", "anew"]
    known, anew = map(float, encode.removeprefix("encode").split())
    assert 0 < float(floor.split()[-1]) < known
    assert anew > 0
