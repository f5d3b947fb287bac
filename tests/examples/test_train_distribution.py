"""The training example: a few steps of it, its results file, what it says of wrong arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the extra `cli` is not installed")
pytest.importorskip("matplotlib", reason="the extra `cli` is not installed")

from examples import report, stick_figures, train_distribution
from examples.stick_figures import Conditions

SMALL = ["--steps", "6", "--batch-size", "2", "--images", "8"]


def test_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "folder"
    assert train_distribution.main([*SMALL, "--output", str(output), "--seed", "3"]) == 0
    record = report.load(output / "results.json")
    assert record["options"] == {
        "steps": 6, "batch_size": 2, "seed": 3, "occlusion": True, "blur": True, "augment": True,
    }  # fmt: skip
    assert record["losses"][-1][0] == 6
    assert len(record["losses"]) == 6
    assert record["held_out"]["test_images"] == 8
    assert (output / "picture.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "argmax" in printed
    assert "results.json" in printed


def test_runs_without_hard_keypoints(tmp_path: Path) -> None:
    """Groups that nobody is in have no numbers."""
    arguments = [*SMALL, "--no-occlusion", "--no-blur", "--no-augment", "--output", str(tmp_path)]
    assert train_distribution.main(arguments) == 0
    record = report.load(tmp_path / "results.json")
    assert record["held_out"]["keypoints"]["occluded"] == 0
    assert record["places"]["dark"]["mean_error"]["occluded"] is None
    assert record["distributions"]["peak"]["coverage"]["blurred"] is None
    assert "no occlusion, no blur, no augment" in " ".join(report.tables(record).split())


def test_a_seed_repeats(device: torch.device) -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        network = train_distribution.Network().to(device)
        runs.append(list(train_distribution.train(network, 4, 2, 0, Conditions(), device)))
    # Convolutions of a GPU need not repeat bit for bit.
    tolerance = 0 if device.type == "cpu" else 0.05
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]), rtol=tolerance, atol=0)


def test_the_loss_goes_down() -> None:
    torch.manual_seed(0)
    network = train_distribution.Network()
    heatmap = [step.heatmap for step in train_distribution.train(network, 30, 4, 0, Conditions(), torch.device("cpu"))]
    assert sum(heatmap[-5:]) < 0.2 * sum(heatmap[:5])


def test_heatmaps_have_their_peak_in_the_cell_of_the_keypoint() -> None:
    """And decoding them says where it is: the frame of the heatmaps is that of the heads."""
    figures = stick_figures.draw(8, 96, torch.Generator().manual_seed(0))
    heatmaps = train_distribution.target_heatmaps(figures)
    assert heatmaps.shape == (8, len(stick_figures.NAMES), 24, 24)
    assert not heatmaps[~figures.visible].any()
    decoder = train_distribution.Network().decoders["peak"]
    cells, _ = decoder.find_cells(heatmaps, 24, 24)
    inner = figures.visible & ((figures.keypoints > 16) & (figures.keypoints < 80)).all(-1)
    assert inner.sum() > 50
    # On the border of a cell DARK, which is exact to a hundredth of a pixel, may choose either.
    clear = inner & (((figures.keypoints / 4).frac() - 0.5).abs() < 0.49).all(-1)
    assert torch.equal(cells[clear], ((figures.keypoints / 4).floor() * 4 + 2)[clear])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: got 0, expected at least 1"),
        (["--steps", "many"], "--steps: invalid int value: 'many'"),
        (["--batch-size", "1"], "--batch-size: got 1, expected at least 2"),
        (["--images", "-3"], "--images: got -3, expected at least 1"),
        (["--seed", "-1"], "--seed: got -1, expected 0 to 2147483647"),
        (["--device", "abacus"], "--device: got 'abacus', expected one that is here"),
        (["--device", "meta"], "--device: got 'meta', expected one that is here"),
        (["--epochs", "3"], "unrecognized arguments: --epochs"),
        (["--output", "{file}"], "--output: got '.*file', expected a folder to write to"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [argument.format(file=tmp_path / "file") for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        train_distribution.parse(["--output", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_held_out_images_are_no_training_images() -> None:
    seeds = {train_distribution.VALIDATION_SEED, train_distribution.TEST_SEED}
    assert len(seeds) == 2
    for seed in seeds:
        with pytest.raises(SystemExit):
            train_distribution.parse(["--seed", str(seed)])


def test_short_floats() -> None:
    assert train_distribution.short_floats({"a": [1.23456789, 3], "b": True}) == {"a": [1.2346, 3], "b": True}
    assert json.dumps(train_distribution.short_floats([True])) == "[true]"
