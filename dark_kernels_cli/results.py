"""Keypoints into files: a format is a row of `FORMATS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from dark_kernels import Keypoints, metrics

from . import files, hdf5, outputs
from .errors import UserError, require, shown

_CSV_ROWS = 1 << 16  # rows turned into text at a time


class Results(NamedTuple):
    """Keypoints of a whole file, as they come out of an operation. What was not asked for is None.

    Attributes:
        coords: [B, K, 2], of peaks [B, K, P, 2].
        scores: [B, K], of peaks [B, K, P].
        covariances: [B, K, 2, 2], of peaks [B, K, P, 2, 2].
        counts: [B, K], of peaks alone.
        visibility: [B, K], of SimCC alone.
        image_ids: [B], where a file of boxes has them.
    """

    coords: np.ndarray
    scores: np.ndarray
    covariances: np.ndarray | None = None
    counts: np.ndarray | None = None
    visibility: np.ndarray | None = None
    image_ids: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, those that there are."""
        return {name: array for name, array in self._asdict().items() if array is not None}

    def columns(self) -> dict[str, np.ndarray]:
        """A row for each keypoint; of peaks for each slot that is used."""
        places = np.indices(self.scores.shape)
        used = slice(None) if self.counts is None else (places[2] < self.counts[..., None]).reshape(-1)
        columns: dict[str, np.ndarray] = dict(zip(("batch", "keypoint", "peak"), list(places), strict=False))
        columns |= {"x": self.coords[..., 0], "y": self.coords[..., 1], "score": self.scores}
        if self.covariances is not None:
            for name, (row, column) in (("var_x", (0, 0)), ("cov_xy", (0, 1)), ("var_y", (1, 1))):
                columns[name] = self.covariances[..., row, column]
        if self.visibility is not None:
            columns["visibility"] = self.visibility
        return {name: column.reshape(-1)[used] for name, column in columns.items()}


class Format(NamedTuple):
    """How a file is written, the extensions that name it, and what it takes besides coordinates and scores."""

    write: Callable[[BinaryIO, Results], None]
    extension: str
    takes_peaks: bool = False


def format_of(target: Path, name: str | None) -> str:
    """Name of the format of a file: the one that was asked for, or that of its extension; csv for stdout.

    Raises:
        UserError: There is none of that name or extension, or the extension is another format's.
    """
    if name is not None:
        if name not in FORMATS:
            raise UserError(f"--format: got {name!r}, expected one of {', '.join(FORMATS)}")
        extension = FORMATS[name].extension
        if target != files.STREAM and target.suffix and target.suffix.lower() != extension and not target.is_dir():
            raise UserError(f"{shown(target)}: got extension {target.suffix!r}, expected {extension} of format {name}")
        return name
    if target == files.STREAM:
        return "csv"
    found = [each for each, row in FORMATS.items() if row.extension == target.suffix.lower()]
    if not found:
        expected = ", ".join(dict.fromkeys(row.extension for row in FORMATS.values()))
        raise UserError(f"{shown(target)}: got extension {target.suffix!r}, expected one of {expected}")
    return found[0]


def check(target: Path, name: str, peaks: bool = False, image_ids: bool = False) -> None:
    """Raise UserError unless a file of that format can be put there, of peaks or with the ids that COCO needs."""
    form = FORMATS[name]
    outputs.check_output(target, (form.extension,))
    if peaks and not form.takes_peaks:
        names = ", ".join(each for each, row in FORMATS.items() if row.takes_peaks)
        raise UserError(f"--format: got {name} for peaks, expected one of {names}")
    if name == "coco" and not image_ids:
        raise UserError("--format: got coco without the ids of images, expected --boxes with a file that has them")
    if name == "parquet":
        require("pyarrow.parquet")  # now rather than after the work
    if form.extension == ".h5":
        require("h5py", "hdf5")


def _write_npz(file: BinaryIO, results: Results) -> None:
    np.savez(file, **results.arrays())  # type: ignore[arg-type]


def _write_npy(file: BinaryIO, results: Results) -> None:
    numbers = [results.coords, results.scores[..., None]]
    if results.covariances is not None:
        numbers.append(results.covariances.reshape(*results.scores.shape, 4)[..., [0, 1, 3]])
    np.save(file, np.concatenate(numbers, axis=-1))


def _write_csv(file: BinaryIO, results: Results) -> None:
    columns = results.columns()
    file.write((",".join(columns) + "\n").encode())
    for start in range(0, len(columns["x"]), _CSV_ROWS):
        # NumPy's text of a float32 is the shortest that reads back as that float32.
        texts = [column[start : start + _CSV_ROWS].astype(str).tolist() for column in columns.values()]
        file.write("".join(",".join(row) + "\n" for row in zip(*texts, strict=True)).encode())


def _write_parquet(file: BinaryIO, results: Results) -> None:
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    columns = {name: pyarrow.array(np.ascontiguousarray(column)) for name, column in results.columns().items()}
    parquet.write_table(pyarrow.table(columns), file)


def _write_json(file: BinaryIO, results: Results) -> None:
    """A list of an object for each entry, a line each; what is not finite is null."""
    arrays = {name: _shortest(array) for name, array in results.arrays().items()}
    lines = [
        json.dumps({name: array[entry].tolist() for name, array in arrays.items()})
        for entry in range(len(results.scores))
    ]
    file.write(("[\n" + ",\n".join(lines) + "\n]\n").encode())


def _shortest(array: np.ndarray) -> np.ndarray:
    """Numbers whose text is the shortest that reads back, None for those that JSON lacks."""
    if array.dtype.kind != "f":
        return array
    numbers = array.astype(str).astype(np.float64).astype(object)
    numbers[~np.isfinite(array)] = None
    return numbers


def _write_coco(file: BinaryIO, results: Results) -> None:
    assert results.image_ids is not None
    keypoints = Keypoints(torch.from_numpy(results.coords), torch.from_numpy(results.scores))
    rows = metrics.coco_results(keypoints, results.image_ids.tolist())
    file.write(json.dumps(rows).encode())


def _write_hdf5(file: BinaryIO, results: Results) -> None:
    hdf5.write(file, results.arrays())


def _write_deeplabcut(file: BinaryIO, results: Results) -> None:
    hdf5.write_deeplabcut(file, results.coords, results.scores)


def _write_sleap(file: BinaryIO, results: Results) -> None:
    hdf5.write_sleap(file, results.coords, results.scores)


FORMATS = {
    "npz": Format(_write_npz, ".npz", takes_peaks=True),
    "csv": Format(_write_csv, ".csv", takes_peaks=True),
    "parquet": Format(_write_parquet, ".parquet", takes_peaks=True),
    "npy": Format(_write_npy, ".npy"),
    "json": Format(_write_json, ".json", takes_peaks=True),
    "hdf5": Format(_write_hdf5, ".h5", takes_peaks=True),
    "coco": Format(_write_coco, ".json"),
    "deeplabcut": Format(_write_deeplabcut, ".h5"),
    "sleap": Format(_write_sleap, ".h5"),
}
"""By name. An extension is that of the first that has it."""
