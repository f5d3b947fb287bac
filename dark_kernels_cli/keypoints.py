"""Keypoints out of files: those that `results.py` writes, COCO's, DeepLabCut's and SLEAP's."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import hdf5
from .errors import UserError, one_line, require, shown

# What a file may have of each keypoint besides its coordinates, and the shape of one.
_OPTIONAL: dict[str, tuple[int, ...]] = {"scores": (), "covariances": (2, 2)}


class Poses(NamedTuple):
    """Poses of a file.

    Attributes:
        coords: [N, K, 2].
        scores: [N, K], or None.
        covariances: [N, K, 2, 2], or None.
        image_ids: [N], or None.
    """

    coords: np.ndarray
    scores: np.ndarray | None = None
    covariances: np.ndarray | None = None
    image_ids: np.ndarray | None = None


def read(path: Path) -> Poses:
    """Read poses.

    Raises:
        UserError: There is no such file, or it is damaged or holds something else.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{shown(path)}: got extension {path.suffix!r}, expected one of {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"{shown(path)}: {'is a directory, expected a file' if path.is_dir() else 'no such file'}")
    try:
        arrays = reader(path)
        coords = np.asarray(arrays["coords"], np.float64)
        optional = {name: np.asarray(arrays[name], np.float64) for name in _OPTIONAL if name in arrays}
    except (UserError, MemoryError):
        raise
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {one_line(error.strerror or error)}") from error
    except Exception as error:  # what parsers raise on damaged files can't be listed
        raise UserError(f"{shown(path)}: holds no keypoints, or is damaged: {one_line(error)}") from error
    if coords.ndim == 2:
        coords, optional = coords[None], {name: array[None] for name, array in optional.items()}
    if coords.ndim != 3 or coords.shape[-1] != 2:
        raise UserError(f"{shown(path)}: got coords of shape {list(coords.shape)}, expected [N, K, 2]")
    for name, array in optional.items():
        expected = (*coords.shape[:2], *_OPTIONAL[name])
        if array.shape != expected:
            raise UserError(f"{shown(path)}: got {name} of shape {list(array.shape)}, expected {list(expected)}")
    ids = arrays.get("image_ids")
    return Poses(coords, **optional, image_ids=None if ids is None else np.asarray(ids))


def _read_npz(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _read_npy(path: Path) -> Mapping[str, Any]:
    numbers = np.load(path, allow_pickle=False)
    if numbers.shape[-1] not in (2, 3, 6):
        raise UserError(f"{shown(path)}: got shape {list(numbers.shape)}, expected [..., 2], [..., 3] or [..., 6]")
    return _split(numbers)


def _split(numbers: np.ndarray) -> dict[str, Any]:
    """Parts of x, y[, score[, var_x, cov_xy, var_y]]."""
    parts: dict[str, Any] = {"coords": numbers[..., :2]}
    if numbers.shape[-1] > 2:
        parts["scores"] = numbers[..., 2]
    if numbers.shape[-1] > 3:
        parts["covariances"] = numbers[..., [3, 4, 4, 5]].reshape(*numbers.shape[:-1], 2, 2)
    return parts


def _read_rows(columns: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    names = ["x", "y", "score", *(name for name in ("var_x", "cov_xy", "var_y") if name in columns)]
    entries, index = columns["batch"].astype(int), columns["keypoint"].astype(int)
    if "peak" in columns:
        raise ValueError("these are peaks, which belong to no pose")
    shape = (entries.max(initial=-1) + 1, index.max(initial=-1) + 1)
    numbers = np.full((*shape, len(names)), np.nan)
    numbers[entries, index] = np.stack([columns[name].astype(np.float64) for name in names], axis=-1)
    return _split(numbers)


def _read_csv(path: Path) -> Mapping[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return _read_rows({name: np.array([row[place] for row in rows]) for place, name in enumerate(header)})


def _read_parquet(path: Path) -> Mapping[str, Any]:
    table = require("pyarrow.parquet").read_table(path)
    return _read_rows({name: table[name].to_numpy() for name in table.column_names})


def _read_json(path: Path) -> Mapping[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content["annotations"] if isinstance(content, dict) and "annotations" in content else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("expected a list of objects")
    if entries and "keypoints" in entries[0]:  # COCO's: x, y, score, x, y, score, ...
        numbers = np.array([entry["keypoints"] for entry in entries], np.float64).reshape(len(entries), -1, 3)
        return {**_split(numbers), "image_ids": [entry["image_id"] for entry in entries]}
    names = [name for name in ("coords", "scores", "covariances", "image_ids") if all(name in each for each in entries)]
    return {name: np.array([entry[name] for entry in entries]) for name in names}


_READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".h5": hdf5.read,
    ".hdf5": hdf5.read,
}
