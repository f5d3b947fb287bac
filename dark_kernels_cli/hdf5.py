"""Keypoints in HDF5: plain arrays, and the layouts of DeepLabCut and SLEAP, with h5py alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dark_kernels.draw.skeletons import of_size

from .errors import UserError, require, shown

_SCORER = "dark_kernels"
_COORDS = ("x", "y", "likelihood")
# pandas' own, as DeepLabCut calls its tables.
_GROUP = "df_with_missing"


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under their names."""
    _write(file, lambda root: [root.create_dataset(name, data=array) for name, array in arrays.items()])


def write_sleap(file: BinaryIO, coords: np.ndarray, scores: np.ndarray) -> None:
    """Write an analysis file of SLEAP, of one track with an instance in each of B frames."""
    frames, num_keypoints = scores.shape
    skeleton = of_size(num_keypoints)
    names = [name.encode() for name in skeleton.keypoints]
    found = np.isfinite(coords).all(-1) & (scores > 0)
    tracks = np.where(found[..., None], coords, np.nan)
    arrays = {
        "tracks": tracks.transpose(2, 1, 0)[None],  # [tracks, 2, nodes, frames]
        "point_scores": scores.T[None],  # [tracks, nodes, frames]
        "instance_scores": (scores.mean(1) if num_keypoints else np.zeros(frames))[None],
        "tracking_scores": np.zeros((1, frames)),
        "track_occupancy": np.ones((frames, 1), np.uint8),
        "node_names": np.array(names, "S") if names else np.zeros(0, "S1"),
        "track_names": np.array([b"track_0"]),
        "edge_inds": np.array(skeleton.edges, np.int64).reshape(-1, 2),
        "edge_names": np.array([[names[i], names[j]] for i, j in skeleton.edges] or np.zeros((0, 2)), "S"),
    }

    def fill(root: Any) -> None:
        for name, array in arrays.items():
            root.create_dataset(name, data=array)
        for name, value in (("labels_path", ""), ("video_path", ""), ("provenance", "{}")):
            root.create_dataset(name, data=value)
        root.create_dataset("video_ind", data=0)

    _write(file, fill)


def write_deeplabcut(file: BinaryIO, coords: np.ndarray, scores: np.ndarray) -> None:
    """Write a table of DeepLabCut, which `pandas.read_hdf` reads: scorer, bodyparts and x, y, likelihood."""
    frames, num_keypoints = scores.shape
    values = np.concatenate([coords, scores[..., None]], axis=-1).reshape(frames, -1).astype(np.float64)
    places = np.arange(3 * num_keypoints)
    levels = (
        ("scorer", [_SCORER], 0 * places),
        ("bodyparts", list(of_size(num_keypoints).keypoints), places // 3),
        ("coords", list(_COORDS), places % 3),
    )

    def fill(root: Any) -> None:
        _attributes(root, CLASS="GROUP", PYTABLES_FORMAT_VERSION="2.1", TITLE="", VERSION="1.0")
        group = root.create_group(_GROUP)
        _attributes(group, CLASS="GROUP", TITLE="", VERSION="1.0", encoding="UTF-8", errors="strict")
        _attributes(group, pandas_type="frame", axis0_variety="multi", axis1_variety="regular")
        _attributes(group, block0_items_variety="multi")
        for name, count in (("ndim", 2), ("nblocks", 1), ("axis0_nlevels", 3), ("block0_items_nlevels", 3)):
            group.attrs[name] = np.int64(count)
        for axis in ("axis0", "block0_items"):
            for number, (name, entries, labels) in enumerate(levels):
                words = np.array([entry.encode() for entry in entries] or np.zeros(0), "S")
                level = _array(group, f"{axis}_level{number}", words, kind="string", name=name, nan_rep="")
                _attributes(level, **{f"{axis}_name{name}": name})
                _array(group, f"{axis}_label{number}", labels.astype(np.int16))
        _array(group, "axis1", np.arange(frames), kind="integer", name="N.")
        _array(group, "block0_values", values)

    _write(file, fill)


def read(path: Path) -> dict[str, np.ndarray]:
    """Arrays coords [B, K, 2], scores [B, K] and what else there is, of any of the layouts above.

    Of SLEAP's tracks each instance is an entry, frame by frame. DeepLabCut's tables may be of pandas' fixed or table
    format.

    Raises:
        UserError: It is of none of these.
    """
    with require("h5py", "hdf5").File(path, "r") as root:
        if "coords" in root:
            return {name: array[()] for name, array in root.items() if hasattr(array, "shape")}
        if "tracks" in root:
            coords = root["tracks"][()].transpose(3, 0, 2, 1)
            scores = (
                root["point_scores"][()].transpose(2, 0, 1) if "point_scores" in root else np.ones(coords.shape[:-1])
            )
            num_keypoints = coords.shape[2]
            return {"coords": coords.reshape(-1, num_keypoints, 2), "scores": scores.reshape(-1, num_keypoints)}
        for group in root.values():
            if "block0_values" in group:
                values = group["block0_values"][()]
            elif "table" in group and "values_block_0" in (group["table"].dtype.names or ()):
                values = group["table"]["values_block_0"]
            else:
                continue
            if values.ndim == 2 and values.shape[1] % 3 == 0:
                triples = values.reshape(len(values), -1, 3)
                return {"coords": triples[..., :2], "scores": triples[..., 2]}
    raise UserError(f"{shown(path)}: got other arrays, expected coords, SLEAP's tracks or a table of DeepLabCut")


def _write(file: BinaryIO, fill: Any) -> None:
    whole = io.BytesIO()
    with require("h5py", "hdf5").File(whole, "w") as root:
        fill(root)
    file.write(whole.getbuffer())


def _attributes(node: Any, **texts: str) -> None:
    """PyTables' text has a fixed length, and an empty one no value."""
    h5py = require("h5py", "hdf5")
    for name, text in texts.items():
        kind = h5py.string_dtype("utf-8", max(len(text.encode()), 1))
        node.attrs.create(name, np.array(text.encode(), kind) if text else h5py.Empty(kind), dtype=kind)


def _array(group: Any, place: str, values: np.ndarray, /, **texts: str) -> Any:
    node = group.create_dataset(place, data=values)
    _attributes(node, CLASS="ARRAY", FLAVOR="numpy", TITLE="", VERSION="2.4", **texts)
    node.attrs["transposed"] = np.uint8(1)
    return node
