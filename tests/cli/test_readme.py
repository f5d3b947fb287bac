"""What README shows of the command line runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dark_kernels import data

from .conftest import Run

README = Path(__file__).resolve().parents[2] / "README.md"


def lines() -> list[list[str]]:
    section = README.read_text(encoding="utf-8").partition("## Command line\n")[2].partition("## ")[0]
    words = [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("dark-kernels ")]
    return [each[1:] for each in words]


def test_lines_run_one_after_the_other(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    example = data.load()
    plain, mirrored = example.pairs()
    np.save("heatmaps.npy", example.heatmaps[plain].numpy())
    np.save("mirrored.npy", example.heatmaps[mirrored].numpy())
    Path("maps").mkdir()
    np.save("maps/a.npy", example.heatmaps[plain].numpy())
    entries = [{"image_id": index + 7, "bbox": [10.0, 20.0, 90.0, 100.0]} for index in range(len(plain))]
    Path("boxes.json").write_text(json.dumps(entries), encoding="utf-8")
    image.fromarray(example.crops[0]).save("photo.jpg")
    for name, bins in (("x", 128), ("y", 192)):
        np.save(f"{name}.npy", torch.rand(4, 17, bins).numpy())
    assert len(lines()) == 9
    for words in lines():
        done = run(*words)
        assert (done.code, done.err) == (0, ""), words
    made = {"keypoints.csv", "results.json", "keypoints.npz", "keypoints.png", "drawn.jpg", "peaks.csv"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert [path.name for path in Path("keypoints").iterdir()] == ["a.parquet"]
