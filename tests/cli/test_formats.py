"""Files of keypoints in every format, and read back by those that they are for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dark_kernels
from dark_kernels import data, draw, metrics
from dark_kernels_cli import hdf5, keypoints, results

from .conftest import BATCH, KEYPOINTS, Run, assert_error, assert_results, write_heatmaps


@pytest.fixture
def expected(heatmaps: torch.Tensor) -> dark_kernels.Keypoints:
    return dark_kernels.decode(heatmaps, covariance=True).numpy()


def needs(form: str) -> None:
    if results.FORMATS[form].extension == ".h5":
        pytest.importorskip("h5py")


@pytest.mark.parametrize("covariance", [True, False])
@pytest.mark.parametrize("form", [name for name in results.FORMATS if name != "coco"])
def test_what_is_written_reads_back(
    tmp_path: Path,
    run: Callable[..., Run],
    heatmaps: torch.Tensor,
    expected: dark_kernels.Keypoints,
    form: str,
    covariance: bool,
) -> None:
    needs(form)
    target = tmp_path / f"out{results.FORMATS[form].extension}"
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    done = run("decode", source, target, "--format", form, *(["--covariance"] if covariance else []))
    assert (done.code, done.err) == (0, "")
    poses = keypoints.read(target)
    coords = np.array(expected.coords)
    if form == "sleap":  # what it has not found is nan
        coords[expected.scores <= 0] = np.nan
    # Texts and tables are read in float64: the shortest that reads back as the float32.
    np.testing.assert_array_equal(poses.coords.astype(np.float32), coords)
    assert poses.scores is not None
    np.testing.assert_array_equal(poses.scores.astype(np.float32), expected.scores)
    assert (poses.covariances is not None) == (covariance and form not in ("deeplabcut", "sleap"))
    if poses.covariances is not None:
        np.testing.assert_array_equal(poses.covariances.astype(np.float32), expected.covariances)


def test_json_is_json_and_what_is_nan_is_null(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    target = tmp_path / "out.json"
    assert run("decode", write_heatmaps(tmp_path / "in.npy", heatmaps), target, "--covariance").code == 0

    def refuse(name: str) -> None:
        raise AssertionError(name)

    entries = json.loads(target.read_text(), parse_constant=refuse)
    assert [set(entry) for entry in entries] == [{"coords", "scores", "covariances"}] * BATCH
    assert entries[1]["covariances"][2] == [[None, None], [None, None]]


@pytest.mark.parametrize("boxes", ["boxes.json", "annotations.json", "boxes.csv"])
def test_coco_results(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, boxes: str) -> None:
    ids = [7, 7, 3, 9, 9]
    rows = [[10.0 * entry, 5.0, 60.0, 70.0 + entry] for entry in range(BATCH)]
    entries = [{"image_id": image_id, "bbox": row, "score": 0.5} for image_id, row in zip(ids, rows, strict=True)]
    path = tmp_path / boxes
    if boxes == "boxes.csv":
        lines = [",".join(map(str, [image_id, *row])) for image_id, row in zip(ids, rows, strict=True)]
        path.write_text("\n".join(["image_id,x,y,w,h", *lines]) + "\n")
    else:
        path.write_text(json.dumps(entries if boxes == "boxes.json" else {"annotations": entries}))
    source, target = write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "out.json"
    done = run("decode", source, target, "--format", "coco", "--boxes", path, "--recipe", "mmpose_udp")
    assert (done.code, done.err) == (0, "")
    center, scale = dark_kernels.transforms.center_scale_from_boxes(torch.tensor(rows).double(), (11, 13))
    matrices = dark_kernels.transforms.mmpose(center, scale, (11, 13), use_udp=True).float()
    right = dark_kernels.decode(heatmaps, dark_kernels.recipes.MMPOSE_UDP, image_transform=matrices)
    assert json.loads(target.read_text()) == metrics.coco_results(right, ids)
    np.testing.assert_array_equal(keypoints.read(target).image_ids, ids)


def test_coco_needs_ids(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source, boxes = write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "boxes.npy"
    np.save(boxes, np.ones((BATCH, 4)))
    for options in ([], ["--boxes", boxes]):
        done = run("decode", source, tmp_path / "out.json", "--format", "coco", *options)
        assert_error(done, tmp_path, source, boxes, match="coco without the ids of images, expected --boxes")


@pytest.mark.parametrize(
    ("target", "form", "match"),
    [
        ("out.csv", "xml", "--format: got 'xml', expected one of npz, csv"),
        ("out.csv", "json", "got extension '.csv', expected .json of format json"),
        ("out.csv", "sleap", "got extension '.csv', expected .h5"),
    ],
)
def test_formats_that_do_not_fit(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, target: str, form: str, match: str
) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    assert_error(run("decode", source, tmp_path / target, "--format", form), tmp_path, source, match=match)


# ------------------------------------------------------------------------------------------------------- .h5


def coco_results_of(frames: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.random((frames, 17, 2)) * 90, generator.random((frames, 17)) * 0.9 + 0.1


def test_sleap_has_the_arrays_of_its_analysis_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    coords, scores = coco_results_of(4)
    scores[2, 5] = 0.0
    with (tmp_path / "out.h5").open("wb") as file:
        hdf5.write_sleap(file, coords, scores)
    with h5py.File(tmp_path / "out.h5") as root:
        assert root["tracks"].shape == (1, 2, 17, 4)
        assert root["point_scores"].shape == (1, 17, 4)
        assert root["track_occupancy"].shape == (4, 1)
        assert [name.decode() for name in root["node_names"]] == list(draw.SKELETONS["coco"].keypoints)
        assert root["edge_inds"].shape == (19, 2)
        np.testing.assert_array_equal(root["tracks"][0, :, 3, 1], coords[1, 3])
        assert np.isnan(root["tracks"][0, :, 5, 2]).all()


def test_several_tracks_are_entries_of_their_frames(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    tracks = np.random.default_rng(0).random((2, 2, 5, 3))  # [tracks, 2, nodes, frames]
    with h5py.File(tmp_path / "in.h5", "w") as root:
        root["tracks"] = tracks
    poses = keypoints.read(tmp_path / "in.h5")
    assert poses.coords.shape == (6, 5, 2)
    np.testing.assert_array_equal(poses.coords[3], tracks[1, :, :, 1].T)  # frame 1, track 1


def test_heatmaps_in_h5(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "in.h5", "w") as root:
        root["of/the/network"] = heatmaps.numpy()
        root["ids"] = np.arange(BATCH)
    assert run("decode", tmp_path / "in.h5", tmp_path / "out.npz").code == 0
    assert_results(tmp_path / "out.npz", dark_kernels.decode(heatmaps))
    assert run("decode", tmp_path / "in.h5", tmp_path / "out.npz", "--key", "of/the/network").code == 0
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing else")
    here = sorted(tmp_path.iterdir())
    done = run("decode", tmp_path / "bad.h5", tmp_path / "new.npz")
    assert_error(done, tmp_path, *here, match="bad.h5': cannot be read")


def test_h5py_is_named_where_it_is_missing(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    done = run("decode", source, tmp_path / "out.h5")
    assert_error(done, tmp_path, source, match=r"h5py.*pip install 'dark-kernels\[hdf5\]'")


# --------------------------------------------------------------------------------------------------- integers


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_integers_are_read_as_they_are(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, dtype: str, source: str
) -> None:
    maps = (heatmaps * 100).round().to(getattr(torch, dtype))
    path = write_heatmaps(tmp_path / f"in{source}", maps)
    assert run("decode", path, tmp_path / "out.npz", "--covariance").code == 0
    exact = maps.double() if dtype in ("int32", "int64") else maps.float()
    assert_results(tmp_path / "out.npz", dark_kernels.decode(exact, covariance=True))


# ------------------------------------------------------------------------------------------------------ streams


def piped(*arguments: object, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dark_kernels", *map(str, arguments)]
    return subprocess.run(command, input=content, capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_stdin_to_stdout(tmp_path: Path, heatmaps: torch.Tensor, source: str) -> None:
    content = write_heatmaps(tmp_path / f"in{source}", heatmaps).read_bytes()
    done = piped("decode", "-", "-", "--format", "npz", content=content)
    assert done.returncode == 0, done.stderr
    assert b"recipe darkpose" in done.stderr
    with np.load(io.BytesIO(done.stdout)) as archive:
        np.testing.assert_array_equal(archive["coords"], dark_kernels.decode(heatmaps).coords.numpy())


def test_stdout_is_csv_unless_told_otherwise_and_errors_leave_it_empty(tmp_path: Path, heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    done = piped("decode", source, "-")
    assert done.stdout.splitlines()[0] == b"batch,keypoint,x,y,score"
    assert len(done.stdout.splitlines()) == 1 + BATCH * KEYPOINTS
    for content in (b"", b"garbage" * 20, source.read_bytes()[:500]):
        done = piped("decode", "-", "-", content=content)
        assert (done.returncode, done.stdout) == (2, b"")
        assert len(done.stderr.splitlines()) == 1
    assert not [name for name in os.listdir(tmp_path) if name != "in.npy"]


# ---------------------------------------------------------------------------------------------------- many files


def many(folder: Path, heatmaps: torch.Tensor) -> list[Path]:
    folder.mkdir()
    (folder / "notes.txt").write_text("no heatmaps")
    return [write_heatmaps(folder / f"{name}{ext}", heatmaps * factor) for name, ext, factor in (
        ("a", ".npy", 1.0), ("b", ".npz", 0.5), ("c", ".pt", 0.25),
    )]  # fmt: skip


@pytest.mark.parametrize("spelling", ["files", "folder", "pattern"])
@pytest.mark.parametrize("form", [None, "csv"])
def test_many_files_go_into_a_folder(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, spelling: str, form: str | None
) -> None:
    paths = many(tmp_path / "maps", heatmaps)
    sources = {"files": paths, "folder": [tmp_path / "maps"], "pattern": [tmp_path / "maps" / "[a-c].*"]}[spelling]
    target = tmp_path / "new" / "results"
    done = run("decode", *sources, target, *([] if form is None else ["--format", form]))
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 3
    extension = f".{form or 'npz'}"
    assert sorted(path.name for path in target.iterdir()) == [f"{name}{extension}" for name in "abc"]
    for name, factor in (("a", 1.0), ("b", 0.5), ("c", 0.25)):
        assert_results(target / f"{name}{extension}", dark_kernels.decode(heatmaps * factor))


def test_one_file_into_a_folder_that_is_there(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    (tmp_path / "out").mkdir()
    assert run("decode", write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "out").code == 0
    assert_results(tmp_path / "out" / "in.npz", dark_kernels.decode(heatmaps))


def test_errors_of_many_files(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    paths = many(tmp_path / "maps", heatmaps)
    twin = write_heatmaps(tmp_path / "a.npz", heatmaps)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for arguments, match in (
        ((*paths, tmp_path / "out.csv"), "OUT: got '.*out.csv' for 3 files, expected a folder"),
        ((*paths, "-"), "OUT: got '-' for 3 files, expected a folder"),
        ((*paths, twin), "OUT: got '.*a.npz' for 3 files"),
        ((paths[0], twin, tmp_path / "out"), "which would both become '.*out/a.npz'"),
        ((paths[0], tmp_path / "absent.npy", tmp_path / "out"), "absent.npy': no such file"),
        ((tmp_path / "empty", tmp_path / "out"), "empty': holds no file of heatmaps"),
        ((tmp_path / "*.safetensors", tmp_path / "out"), "no file of that pattern"),
        (("-", paths[0], tmp_path / "out"), "IN: got - and 1 more, expected - alone"),
        ((*paths, tmp_path / "out", "--picture", tmp_path / "x.png"), "--picture: got 3 files IN, expected one"),
        ((*paths, tmp_path / "out", "--flipped", paths[0]), "--flipped: got 3 files IN, expected one"),
    ):
        done = run("decode", *arguments)
        if (tmp_path / "out").is_dir():
            (tmp_path / "out").rmdir()
        assert_error(done, tmp_path, *before, match=match)


def test_the_packaged_heatmaps_by_every_way(tmp_path: Path, run: Callable[..., Run]) -> None:
    """Float16 maps of a network, as a user has them."""
    np.save(tmp_path / "in.npy", data.load().heatmaps.numpy())
    assert run("decode", tmp_path / "in.npy", tmp_path / "out.npz").code == 0
    found: Any = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["coords"], dark_kernels.decode(data.load().heatmaps).coords.numpy())
