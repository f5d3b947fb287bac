"""What tests of the command line share: a run of it, heatmaps and what reads its files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import dark_kernels

for module in ("typer", "rich", "matplotlib", "safetensors", "pyarrow"):
    pytest.importorskip(module, reason="the extra `cli` is not installed")

import pyarrow.parquet  # noqa: E402
import safetensors.torch  # noqa: E402

from dark_kernels_cli import main  # noqa: E402

BATCH, KEYPOINTS, HEIGHT, WIDTH = 5, 3, 13, 11


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run the command in this process and return its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> Run:
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        return Run(int(leaving.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def heatmaps() -> torch.Tensor:
    """Blobs with a little noise, one map without a peak and one with its peak in a corner."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 + torch.rand(BATCH, KEYPOINTS, 2, generator=generator) * 5
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    squares = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
    maps = torch.exp(-squares / 5) + 0.01 * torch.rand(BATCH, KEYPOINTS, HEIGHT, WIDTH, generator=generator)
    maps[1, 2] = 0
    maps[2, 0] = 0
    maps[2, 0, 0, 0] = 1
    return maps


def write_heatmaps(path: Path, heatmaps: torch.Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, heatmaps.numpy())
    elif path.suffix == ".npz":
        np.savez(path, ids=np.arange(3), heatmaps=heatmaps.numpy())
    elif path.suffix == ".pt":
        torch.save({"step": 7, "ids": torch.arange(3), "heatmaps": heatmaps}, path)
    else:
        safetensors.torch.save_file({"ids": torch.arange(3), "heatmaps": heatmaps.contiguous()}, path)
    return path


def read_results(path: Path) -> dict[str, np.ndarray]:
    """coords, scores and, if they are there, covariances of any output file of BATCH x KEYPOINTS keypoints."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        columns = {name: np.array(values) for name, values in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}
    else:
        table = pyarrow.parquet.read_table(path)
        columns = {name: table[name].to_numpy() for name in table.column_names}
    names = ["batch", "keypoint", "x", "y", "score"]
    assert list(columns) in (names, [*names, "var_x", "cov_xy", "var_y"])
    assert columns["batch"].astype(int).tolist() == [b for b in range(BATCH) for _ in range(KEYPOINTS)]
    assert columns["keypoint"].astype(int).tolist() == list(range(KEYPOINTS)) * BATCH
    if path.suffix == ".csv":
        columns = {name: column.astype(np.float64).astype(np.float32) for name, column in columns.items()}
    shape = (BATCH, KEYPOINTS)
    found = {
        "coords": np.stack([columns["x"], columns["y"]], -1).reshape(*shape, 2),
        "scores": columns["score"].reshape(shape),
    }
    if "var_x" in columns:
        four = [columns[name] for name in ("var_x", "cov_xy", "cov_xy", "var_y")]
        found["covariances"] = np.stack(four, -1).reshape(*shape, 2, 2)
    return found


def assert_results(path: Path, expected: dark_kernels.Keypoints) -> None:
    found = read_results(path)
    assert set(found) == {name for name, value in expected._asdict().items() if value is not None}
    for name, value in found.items():
        right = getattr(expected, name).numpy()
        assert value.dtype == right.dtype
        np.testing.assert_array_equal(value, right, err_msg=name)


def assert_error(result: Run, folder: Path, *leftovers: Path, match: str) -> None:
    """Exit code 2, one line of the right kind on stderr, nothing on stdout and no new file."""
    assert result.code == 2
    assert result.out == ""
    assert re.fullmatch(r"dark-kernels: error: [^\n]+\n", result.err), result.err
    assert re.search(match, result.err), result.err
    assert "Traceback" not in result.err
    assert sorted(folder.rglob("*")) == sorted(leftovers)
