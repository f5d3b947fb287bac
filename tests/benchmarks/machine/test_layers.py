"""A module of the emulator knows those before it only, and nothing else imports it but tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "benchmarks" / "machine"
ORDER = (
    "toolchain", "disassembly", "writing", "instructions", "program", "launches", "emulator", "counts", "model",
    "predict", "validate",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    """The modules of the folder that a file imports, by their names in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks.machine"):
            rest = (node.module or "").split(".")[2:]
            found |= {rest[0]} if rest else {name.name for name in node.names}
    return found


def test_all_modules_have_a_place() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} | {"instructions"} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name: str) -> None:
    paths = sorted((FOLDER / name).glob("*.py")) or [FOLDER / f"{name}.py"]
    allowed = set(ORDER[: ORDER.index(name)]) | ({name} if len(paths) > 1 else set())
    for path in paths:
        assert imported(path) <= allowed, path


def test_nothing_else_imports_it() -> None:
    others = [path for folder in ("benchmarks", "dark_kernels", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in others if FOLDER not in path.parents and imported(path)] == []
