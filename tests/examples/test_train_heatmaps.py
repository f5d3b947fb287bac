"""The example of heatmap losses: a few steps of it, its results file, what it says of wrong arguments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the extra `cli` is not installed")
pytest.importorskip("matplotlib", reason="the extra `cli` is not installed")

from dark_kernels import encode
from examples import report, stick_figures, train_heatmaps

SMALL = ["--steps", "3", "--batch-size", "2", "--images", "4"]


def test_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new"
    assert train_heatmaps.main([*SMALL, "--loss", "js", "--seeds", "2", "--output", str(output)]) == 0
    record = report.load(output / "heatmaps.json", report.HEATMAP_FIELDS)
    assert record["options"] == {"steps": 3, "batch_size": 2, "seeds": 2, "images": 4}
    kinds = {(run["map"], run["encoding"], run["seed"]) for run in record["runs"]}
    assert len(kinds) == len(record["runs"]) == 8
    assert "Jensen-Shannon" in capsys.readouterr().out


@pytest.mark.parametrize("name", train_heatmaps.LOSSES)
def test_every_loss_goes_down(name: str) -> None:
    loss = train_heatmaps.LOSSES[name]
    networks = train_heatmaps.make_networks(loss, 4, 0)
    steps = list(train_heatmaps.train(networks, loss, 4, 12, 4, 0))
    for encoding in loss.encodings:
        values = [step[encoding] for step in steps]
        assert sum(values[-3:]) < sum(values[:3])


def test_a_seed_repeats_and_encodings_start_alike() -> None:
    runs = []
    for _ in range(2):
        loss = train_heatmaps.LOSSES["mse"]
        networks = train_heatmaps.make_networks(loss, 2, 1)
        parameters = [list(network.parameters()) for network in networks.values()]
        assert all(torch.equal(one, other) for one, other in zip(*parameters, strict=True))
        runs.append(list(train_heatmaps.train(networks, loss, 2, 2, 2, 1)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("encoding", ["biased", "unbiased"])
@pytest.mark.parametrize("stride", [2, 4])
def test_perfect_heatmaps_are_decoded_to_the_keypoints(stride: int, encoding: str) -> None:
    """In the frame of the images: by DARK to a twentieth of an image pixel, by quarter offset to half a heatmap
    pixel."""
    loss = train_heatmaps.Loss(train_heatmaps.HeatmapMSELoss)
    side = train_heatmaps.SIZE // stride

    class Perfect(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            points = figures.keypoints / stride - train_heatmaps.SHIFT
            return encode(points, (side, side), train_heatmaps.SIGMA / stride, encoding)[0]

    generator = torch.Generator().manual_seed(train_heatmaps.TEST_SEED)
    figures = stick_figures.draw(64, train_heatmaps.SIZE, generator, train_heatmaps.CONDITIONS)
    found = train_heatmaps.evaluate(Perfect(), loss, encoding, stride, 64)  # type: ignore[arg-type]
    assert found["median_error"] < (0.05 if encoding == "unbiased" else stride / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "l1"], "argument --loss: invalid choice: 'l1'"),
        (["--steps", "0"], "--steps: got 0, expected at least 1"),
        (["--batch-size", "1"], "--batch-size: got 1, expected at least 2"),
        (["--seeds", "0"], "--seeds: got 0, expected at least 1"),
        (["--images", "0"], "--images: got 0, expected at least 1"),
        (["--output", "{file}"], "--output: got '.*file', expected a folder to write to"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [argument.format(file=tmp_path / "file") for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        train_heatmaps.parse(["--output", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
