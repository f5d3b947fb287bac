"""`draw` and `decode --picture`: the pixels of `dark_kernels.draw`, in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dark_kernels
from dark_kernels import data, draw

from .conftest import Run, assert_error, write_heatmaps

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(data.load().crops[1]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def found(tmp_path: Path) -> dark_kernels.Keypoints:
    example = data.load()
    matrix = torch.tensor([[4.0, 0.0, 1.5], [0.0, 4.0, 1.5]]).expand(2, 2, 3)
    maps = example.heatmaps[example.pairs()[0][:2]].float()
    keypoints = dark_kernels.decode(maps, covariance=True, image_transform=matrix).numpy()
    np.savez(tmp_path / "poses.npz", **{name: part for name, part in keypoints._asdict().items() if part is not None})
    return keypoints


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize(
    ("words", "entries", "look"),
    [
        ([], [0, 1], {"threshold": 0.3}),
        (["--entry", 1], [1], {"threshold": 0.3}),
        (["--entry", 1, "--entry", 0, "--threshold", 0.6], [1, 0], {"threshold": 0.6}),
        (["--scores", "--n-sigma", 1, "--skeleton", "none"], [0, 1],
         {"threshold": 0.3, "write_scores": True, "n_sigma": 1.0, "skeleton": ()}),
    ],
)  # fmt: skip
def test_pixels_are_those_of_draw(
    tmp_path: Path,
    run: Callable[..., Run],
    photograph: Path,
    found: dark_kernels.Keypoints,
    words: list[Any],
    entries: list[int],
    look: dict[str, Any],
) -> None:
    done = run("draw", photograph, tmp_path / "poses.npz", tmp_path / "out.png", *words)
    assert (done.code, done.err) == (0, "")
    assert f"{len(entries)} x 17 keypoints" in done.out
    chosen = [part[entries] for part in found]  # type: ignore[index]
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), draw.poses(data.load().crops[1], *chosen, **look))


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".bmp", ".tif"])
def test_kinds_of_pictures(
    tmp_path: Path, run: Callable[..., Run], photograph: Path, found: dark_kernels.Keypoints, extension: str
) -> None:
    assert run("draw", photograph, tmp_path / "poses.npz", tmp_path / f"out{extension}").code == 0
    expected = draw.poses(data.load().crops[1], *found, threshold=0.3).astype(float)
    assert np.abs(pixels(tmp_path / f"out{extension}") - expected).mean() < 8


def test_images_of_coco_results(tmp_path: Path, run: Callable[..., Run], photograph: Path) -> None:
    entries = [
        {"image_id": 4, "category_id": 1, "keypoints": [40.0, 50.0, 0.9] * 17, "score": 0.5},
        {"image_id": 9, "category_id": 1, "keypoints": [90.0, 99.0, 0.9] * 17, "score": 0.5},
    ]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    assert run("draw", photograph, tmp_path / "results.json", tmp_path / "out.png", "--image-id", 9).code == 0
    expected = draw.poses(data.load().crops[1], np.full((17, 2), (90.0, 99.0)), threshold=0.3)
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), expected)
    here = sorted(tmp_path.iterdir())
    done = run("draw", photograph, tmp_path / "results.json", tmp_path / "new.png", "--image-id", 5)
    assert_error(done, tmp_path, *here, match="--image-id: got 5, expected one of an entry")


def test_errors(tmp_path: Path, run: Callable[..., Run], photograph: Path, found: dark_kernels.Keypoints) -> None:
    poses = tmp_path / "poses.npz"
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.npz").write_bytes(b"PK garbage")
    (tmp_path / "bad.json").write_text("[1, 2]")
    (tmp_path / "text.png").write_text("no image")
    np.save(tmp_path / "four.npy", np.ones((3, 4)))
    np.save(tmp_path / "plain.npy", np.ones((3, 2)))
    np.savez(tmp_path / "peaks.npz", coords=np.ones((2, 3, 4, 2)))
    here = sorted(tmp_path.iterdir())
    out = tmp_path / "out.png"
    for arguments, match in (
        ((tmp_path / "absent.png", poses, out), "absent.png': no such file"),
        ((tmp_path / "text.png", poses, out), "text.png': is no image, or damaged"),
        ((photograph, tmp_path / "absent.npz", out), "absent.npz': no such file"),
        ((photograph, photograph, out), "got extension '.png', expected one of .npz, .npy, .csv"),
        ((photograph, tmp_path / "bad.csv", out), "bad.csv': holds no keypoints, or is damaged"),
        ((photograph, tmp_path / "bad.npz", out), "bad.npz': holds no keypoints, or is damaged"),
        ((photograph, tmp_path / "bad.json", out), "bad.json': holds no keypoints"),
        ((photograph, tmp_path / "four.npy", out), r"four.npy': got shape \[3, 4\], expected \[..., 2\]"),
        ((photograph, tmp_path / "peaks.npz", out), r"peaks.npz': got coords of shape \[2, 3, 4, 2\], expected"),
        ((photograph, poses, tmp_path / "out.gif"), "got extension '.gif', expected one of .png"),
        ((photograph, poses, "-"), "OUT: got -, expected a file"),
        ((photograph, poses, photograph), "same file"),
        ((photograph, poses, out, "--entry", 7), "--entry: got 7, expected one of the 2 entries"),
        ((photograph, poses, out, "--image-id", 7), "has no ids of images"),
        ((photograph, poses, out, "--skeleton", "cat"), "--skeleton: got 'cat', expected one of coco"),
        ((photograph, poses, out, "--skeleton", "hand"), "skeleton: got one of 21 keypoints, expected 17"),
        ((photograph, poses, out, "--n-sigma", 0), "n_sigma: got 0.0, expected a positive number"),
        ((photograph, tmp_path / "plain.npy", out, "--scores"), "has no scores, expected some for --scores"),
    ):
        assert_error(run("draw", *arguments), tmp_path, *here, match=match)


# ---------------------------------------------------------------------------------------------- decode --picture


def test_picture_of_heatmaps(tmp_path: Path, run: Callable[..., Run]) -> None:
    heatmaps = data.load().heatmaps[:5]
    np.save(tmp_path / "in.npy", heatmaps.numpy())
    done = run("decode", tmp_path / "in.npy", tmp_path / "out.npz", "--picture", tmp_path / "out.png", "--covariance")
    assert (done.code, done.err) == (0, "")
    assert "picture: " in done.out
    sheet = pixels(tmp_path / "out.png")
    assert sheet.shape == (2 * 64 * 6, 4 * 64 * 6, 3)  # five tiles, four in a row
    keypoints = dark_kernels.decode(heatmaps, covariance=True).numpy()
    under = draw.heatmap(np.zeros((384, 384, 3), np.uint8), heatmaps[4].float())
    tile = draw.poses(
        under, (keypoints.coords[4] + 0.5) * 6 - 0.5, keypoints.scores[4], keypoints.covariances[4] * 36, threshold=0.3
    )
    # An inside that is nearly opaque may round to the next number.
    assert np.abs(sheet[384:, :384].astype(int) - tile).max() <= 1
    assert not sheet[384:, 384:].any()


def test_picture_on_an_image(tmp_path: Path, run: Callable[..., Run], photograph: Path) -> None:
    """Heatmaps that cover the image, and with boxes its own coordinates."""
    example = data.load()
    maps = example.heatmaps[example.pairs()[0][1:2]].float()
    source = write_heatmaps(tmp_path / "in.npy", maps)
    words = ["decode", source, tmp_path / "out.npz", "--picture", tmp_path / "out.png", "--image", photograph]
    assert run(*words).code == 0
    coords, scores, _ = dark_kernels.decode(maps).numpy()
    expected = draw.poses(draw.heatmap(example.crops[1], maps[0]), (coords + 0.5) * 4 - 0.5, scores, threshold=0.3)
    assert np.abs(pixels(tmp_path / "out.png").astype(int) - expected).max() <= 1
    # The box whose crop, without padding, is the whole image.
    (tmp_path / "boxes.csv").write_text("0,0,256,256\n")
    words += ["--boxes", tmp_path / "boxes.csv", "--box-padding", 1, "--pipeline", "mmpose", "--skeleton", "coco"]
    assert run(*words).code == 0
    with np.load(tmp_path / "out.npz") as archive:
        expected = draw.poses(example.crops[1], archive["coords"], archive["scores"], threshold=0.3)
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), expected)


def test_pictures_that_are_wrong(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    np.save(tmp_path / "boxes.npy", np.ones((5, 4)))
    for words, match in (
        (["--picture", tmp_path / "out.gif"], "got extension '.gif', expected one of .png"),
        (["--picture", "-"], "--picture: got -, expected a file"),
        (["--picture", tmp_path / "no" / "out.png"], "there is no folder"),
        (["--image", source], "--image: got it without --picture"),
        (["--picture", tmp_path / "out.png", "--image", source], "in.npy': is no image"),
        (["--picture", tmp_path / "out.png", "--skeleton", "cat"], "--skeleton: got 'cat'"),
        (["--picture", tmp_path / "out.png", "--boxes", tmp_path / "boxes.npy"], "--picture: got it with --boxes and"),
    ):
        done = run("decode", source, tmp_path / "out.csv", *words)
        assert_error(done, tmp_path, source, tmp_path / "boxes.npy", match=match)
