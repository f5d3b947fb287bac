"""The examples of integrations run, and find both lines equal."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import drop_in

from .conftest import require

Run = Callable[..., tuple[list[float], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example on two crops: the differences that it found, and what it printed."""
    monkeypatch.setattr(drop_in, "SECONDS", 0.0)
    compare = drop_in.compare

    def run_example(name: str, *arguments: str) -> tuple[list[float], str]:
        differences: list[float] = []
        monkeypatch.setattr(drop_in, "compare", lambda *args: differences.append(compare(*args)))
        importlib.import_module(f"examples.{name}").main(["--batch", "2", *arguments])
        return differences, capsys.readouterr().out

    return run_example


@pytest.mark.parametrize(
    ("name", "package", "lines"),
    [
        ("drop_in_darkpose", "cv2", 1),
        ("drop_in_mmpose", "mmpose", 5),
        ("drop_in_transformers", "transformers", 1),
    ],
)
def test_example(run: Run, name: str, package: str, lines: int) -> None:
    require(package)
    differences, printed = run(name)
    # 1e-4 heatmap pixels of at most 500 image pixels over 47 heatmap pixels.
    assert len(differences) == lines
    assert max(differences) <= 1e-4 * 500 / 47 + 1e-4
    for label in ("before", "after", "apart", "time"):
        assert printed.count(f"  {label} ") == lines


def test_a_checkout_of_darkpose(run: Run, tmp_path: Path) -> None:
    """Its module is imported from where it has it. Here that holds our function, since DarkPose is no package."""
    core = tmp_path / "lib" / "core"
    core.mkdir(parents=True)
    (core / "inference.py").write_text("from dark_kernels.integrations.darkpose import get_final_preds\n")
    try:
        differences, printed = run("drop_in_darkpose", "--darkpose", str(tmp_path))
    finally:
        sys.path.remove(str(tmp_path / "lib"))
        for module in ("core", "core.inference"):
            sys.modules.pop(module, None)
    assert differences == [0.0]
    assert printed.startswith("DarkPose\n")
