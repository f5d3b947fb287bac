"""A module of the report knows those before it only, in the order in which a kernel goes through them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "static"
ORDER = ("targets", "calls", "rooms", "recording", "compiling", "assembly", "rules", "row", "jobs")


def imported(path: Path) -> set[str]:
    """The modules of the folder that a file imports, by their names in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks.static"):
            rest = (node.module or "").split(".")[2:]
            found |= {rest[0]} if rest else {name.name for name in node.names}
    return found


def test_all_modules_have_a_place() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files | {path.parent.name for path in FOLDER.glob("*/__init__.py")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name: str) -> None:
    paths = sorted((FOLDER / name).glob("*.py")) or [FOLDER / f"{name}.py"]
    allowed = set(ORDER[: ORDER.index(name)]) | ({name} if len(paths) > 1 else set())
    for path in paths:
        assert imported(path) <= allowed, path
