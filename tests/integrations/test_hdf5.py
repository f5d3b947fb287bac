"""The .h5 files of the command, read by those that they are for: DeepLabCut's pandas and SLEAP's sleap-io."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dark_kernels.draw import SKELETONS
from dark_kernels_cli import hdf5

from .conftest import require

NAMES = SKELETONS["coco"].keypoints


@pytest.fixture
def poses() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [4, 17, 2] and scores [4, 17]."""
    generator = np.random.default_rng(0)
    return generator.random((4, 17, 2)) * 90, generator.random((4, 17)) * 0.9 + 0.1


def test_deeplabcut(tmp_path: Path, poses: tuple[np.ndarray, np.ndarray]) -> None:
    for package in ("h5py", "tables"):
        require(package)
    pandas, (coords, scores) = require("pandas"), poses
    with (tmp_path / "out.h5").open("wb") as file:
        hdf5.write_deeplabcut(file, coords, scores)
    table = pandas.read_hdf(tmp_path / "out.h5")
    assert list(table.columns.names) == ["scorer", "bodyparts", "coords"]
    assert list(table.index) == [0, 1, 2, 3]
    for index, name in enumerate(NAMES):
        part = table["dark_kernels"][name]
        assert list(part.columns) == ["x", "y", "likelihood"]
        np.testing.assert_array_equal(part[["x", "y"]].to_numpy(), coords[:, index])
        np.testing.assert_array_equal(part["likelihood"].to_numpy(), scores[:, index])
    for kind in ("fixed", "table"):  # and what pandas writes is read
        table.to_hdf(tmp_path / f"{kind}.h5", key="df_with_missing", format=kind, mode="w")
        read = hdf5.read(tmp_path / f"{kind}.h5")
        np.testing.assert_array_equal(read["coords"], coords)
        np.testing.assert_array_equal(read["scores"], scores)


def test_sleap(tmp_path: Path, poses: tuple[np.ndarray, np.ndarray]) -> None:
    require("h5py")
    analysis = pytest.importorskip("sleap_io.io.analysis_h5", reason="sleap-io is not installed")
    coords, scores = poses
    with (tmp_path / "out.h5").open("wb") as file:
        hdf5.write_sleap(file, coords, scores)
    labels = analysis.read_labels(tmp_path / "out.h5")
    assert list(labels.skeletons[0].node_names) == list(NAMES)
    assert len(labels.skeletons[0].edges) == len(SKELETONS["coco"].edges)
    assert [frame.frame_idx for frame in labels] == [0, 1, 2, 3]
    for index, frame in enumerate(labels):
        np.testing.assert_array_equal(frame[0].numpy(), coords[index])
        np.testing.assert_array_equal(frame[0].points["score"], scores[index])
