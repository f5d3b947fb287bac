"""Without its tools the emulator says so; what is compiled is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.machine import toolchain

from ..processes import run


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    monkeypatch.setattr(toolchain, "cache", lambda: tmp_path)
    return tmp_path


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert toolchain.problem() == "there is no C compiler: install gcc"


@pytest.mark.parametrize("module", ["predict", "validate"])
def test_commands_say_what_is_missing(module: str) -> None:
    done = run("-m", f"benchmarks.machine.{module}", "decode W4 float32", CC="no-such-compiler")
    assert done.returncode == 2
    assert done.stderr.endswith(f"{module}: there is no C compiler: install gcc\n")


def test_tests_are_skipped_with_the_reason() -> None:
    environment = {"CC": "no-such-compiler", "DARK_KERNELS_MACHINE_CODE": "1"}
    done = run("-m", "pytest", "-p", "no:cacheprovider", "tests/test_tickets.py", **environment)
    assert done.returncode == 0
    assert "no machine code can be run here: there is no C compiler: install gcc" in done.stdout + done.stderr


def test_a_library_is_built_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = toolchain.build("int answer(void) { return 42; }")
    assert toolchain.load(str(own_cache / name)).answer() == 42
    monkeypatch.setattr(toolchain, "compiler", lambda: "no-such-compiler")
    assert toolchain.build("int answer(void) { return 42; }") == name


def test_what_does_not_compile_is_an_error(own_cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"cannot compile an instruction: (.|\n)*undeclared"):
        toolchain.build("int answer(void) { return undeclared; }")
    assert list(own_cache.iterdir()) == []


def test_notes_are_read_again(own_cache: Path) -> None:
    assert toolchain.noted("one") is None
    toolchain.note("one", "text")
    assert toolchain.noted("one") == "text"
