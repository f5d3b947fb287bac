"""The examples of integrations run, and find both lines equal."""

from __future__ import annotations

import importlib

import pytest

from examples import drop_in

from .conftest import require


@pytest.mark.parametrize(
    ("name", "package", "lines"),
    [("darkpose", "cv2", 1), ("mmpose", "mmpose", 4), ("transformers", "transformers", 1)],
)
def test_example(
    name: str, package: str, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require(package)
    monkeypatch.setattr(drop_in, "SECONDS", 0.0)
    differences: list[float] = []

    def compare(*arguments: object) -> float:
        differences.append(original(*arguments))
        return differences[-1]

    original = drop_in.compare
    monkeypatch.setattr(drop_in, "compare", compare)
    importlib.import_module(f"examples.drop_in_{name}").main(["--batch", "2"])
    # 1e-4 heatmap pixels of at most 500 image pixels over 47 heatmap pixels.
    assert len(differences) == lines
    assert max(differences) <= 1e-4 * 500 / 47 + 1e-4
    printed = capsys.readouterr().out
    for label in ("before", "after", "apart", "time"):
        assert printed.count(f"  {label} ") == lines
