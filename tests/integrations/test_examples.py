"""The examples of integrations run, and find both lines equal."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.workloads import tiled_real_heatmaps
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


CODEC = """
codec = dict(type="UDPHeatmap", input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
model = dict(head=dict(decoder=codec))
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Heatmaps of a user, smaller than the packaged ones, in both kinds of files."""
    maps = tiled_real_heatmaps((3, 5, 32, 24))
    torch.save(maps, tmp_path / "heatmaps.pt")
    np.save(tmp_path / "heatmaps.npy", maps.numpy())
    np.save(tmp_path / "one.npy", maps[0].numpy())
    (tmp_path / "damaged.npy").write_text("nothing")
    (tmp_path / "config.py").write_text(CODEC)
    (tmp_path / "other.py").write_text("codec = dict(type='RegressionLabel', input_size=(96, 128))")
    return tmp_path


@pytest.mark.parametrize("file", ["heatmaps.pt", "heatmaps.npy"])
def test_heatmaps_of_a_user(run: Run, saved: Path, file: str) -> None:
    require("cv2")
    _, printed = run("drop_in_darkpose", "--heatmaps", str(saved / file))
    assert "([2, 5, 32, 24] on cpu" in printed


def test_a_config_of_a_user(run: Run, saved: Path) -> None:
    require("mmpose")
    differences, printed = run(
        "drop_in_mmpose", "--heatmaps", str(saved / "heatmaps.npy"), "--config", str(saved / "config.py")
    )
    assert len(differences) == 1
    assert differences[0] <= 1e-3
    assert "heatmap_size=(24, 32)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heatmaps", "absent.npy"], "--heatmaps: can't read absent.npy"),
        (["--heatmaps", "damaged.npy"], "--heatmaps: can't read damaged.npy"),
        (
            ["--heatmaps", "one.npy"],
            r"--heatmaps: got float32 \[5, 32, 24\] in one.npy, expected floats \[N, K, H, W\]",
        ),
        (["--batch", "0"], "--batch: got 0, expected 1 or more"),
        (["--device", "nowhere"], "--device: got nowhere: "),
        (["--darkpose", "absent"], "this example needs DarkPose in absent"),
    ],
)
def test_errors_are_a_line(
    run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(saved)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=message) as error:
        run("drop_in_darkpose", *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("absent.py", "--config: can't read absent.py"),
        ("other.py", "--config: got the codec RegressionLabel in other.py, expected one of MSRAHeatmap"),
        ("config.py", "--heatmaps: got maps of 48 x 64, expected the codec's 24 x 32"),
    ],
)
def test_errors_of_configs_are_a_line(
    run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch, config: str, message: str
) -> None:
    require("mmpose")
    monkeypatch.chdir(saved)
    with pytest.raises(SystemExit, match=message) as error:
        run("drop_in_mmpose", "--config", config)
    assert "\n" not in str(error.value)
