"""Boxes of the crops that heatmaps are of, and the matrices that take keypoints to the image."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dark_kernels import transforms

from .errors import UserError, one_line, shown

# Of each pipeline its function, the unit of its scales, and its options.
_PIPELINES: dict[str, tuple[Callable[..., torch.Tensor], float, dict[str, Any]]] = {
    "darkpose": (transforms.darkpose, transforms.PIXELS_PER_SCALE, {}),
    "mmpose": (transforms.mmpose, 1.0, {}),
    "mmpose_udp": (transforms.mmpose, 1.0, {"use_udp": True}),
    "mmpose_legacy": (transforms.mmpose_legacy, transforms.PIXELS_PER_SCALE, {}),
    "mmpose_legacy_udp": (transforms.mmpose_legacy, transforms.PIXELS_PER_SCALE, {"use_udp": True}),
}
# Whose crops the published decoders are used with; mmpose's for the others.
_OF_RECIPES = {
    "darkpose": "darkpose",
    "mmpose_udp": "mmpose_udp",
    "mmpose_legacy_udp": "mmpose_legacy_udp",
    "vitpose_hf": "mmpose_legacy_udp",
    "sapiens_hf": "mmpose_udp",
    "quarter_legacy": "mmpose_legacy",
}
_COLUMNS = {"xywh": ("x", "y", "w", "h"), "xyxy": ("x1", "y1", "x2", "y2")}


class Boxes(NamedTuple):
    """Boxes [B, 4] in image pixels, and the ids of their images [B] or None."""

    boxes: np.ndarray
    image_ids: np.ndarray | None


def read(path: Path, box_format: str) -> Boxes:
    """Read boxes: .npy [B, 4]; .csv with columns x, y, w, h (x1, y1, x2, y2) and image_id, or four without names; or
    .json in COCO's way, a list of objects with bbox and image_id, or annotations of such.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    if box_format not in _COLUMNS:
        raise UserError(f"--box-format: got {box_format!r}, expected one of {', '.join(_COLUMNS)}")
    readers = {".npy": _read_npy, ".csv": _read_csv, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise UserError(f"{shown(path)}: got extension {path.suffix!r}, expected one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such file")
    try:
        boxes, ids = readers[path.suffix.lower()](path, box_format)
        boxes = np.asarray(boxes, np.float64)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {one_line(error.strerror or error)}") from error
    except Exception as error:  # what parsers raise on damaged files can't be listed
        raise UserError(f"{shown(path)}: holds no boxes, or is damaged: {one_line(error)}") from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{shown(path)}: got shape {list(boxes.shape)}, expected [B, 4], a box for each entry")
    return Boxes(boxes, ids)


def matrices(
    boxes: np.ndarray,  # [B, 4]
    box_format: str,
    padding: float,
    pipeline: str | None,
    recipe_name: str,
    heatmap_size: tuple[int, int],  # (W, H)
) -> torch.Tensor:
    """[B, 2, 3] in float64, heatmap pixels to pixels of the image. Crops have the aspect ratio of the heatmaps.

    Raises:
        UserError: There is no such pipeline, or a number is out of range.
    """
    name = _OF_RECIPES.get(recipe_name, "mmpose") if pipeline is None else pipeline
    if name not in _PIPELINES:
        raise UserError(f"--pipeline: got {name!r}, expected one of {', '.join(_PIPELINES)}")
    function, unit, options = _PIPELINES[name]
    try:
        crops: dict[str, Any] = {"box_format": box_format, "padding": padding, "unit": unit}
        center, scale = transforms.center_scale_from_boxes(torch.from_numpy(boxes), heatmap_size, **crops)
        return function(center, scale, heatmap_size, **options)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _read_npy(path: Path, box_format: str) -> tuple[np.ndarray, None]:
    return np.load(path, allow_pickle=False), None


def _read_csv(path: Path, box_format: str) -> tuple[np.ndarray, np.ndarray | None]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    names = list(_COLUMNS[box_format])
    if not rows or not set(names) <= set(rows[0]):
        return np.array(rows, np.float64), None
    places = [rows[0].index(name) for name in names]
    boxes = np.array([[row[place] for place in places] for row in rows[1:]], np.float64)
    if "image_id" not in rows[0]:
        return boxes, None
    return boxes, np.array([int(row[rows[0].index("image_id")]) for row in rows[1:]], np.int64)


def _read_json(path: Path, box_format: str) -> tuple[np.ndarray, np.ndarray | None]:
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content["annotations"] if isinstance(content, dict) else content
    if all(isinstance(entry, list) for entry in entries):
        return np.array(entries, np.float64), None
    boxes = np.array([entry["bbox"] for entry in entries], np.float64)
    if not all("image_id" in entry for entry in entries):
        return boxes, None
    return boxes, np.array([int(entry["image_id"]) for entry in entries], np.int64)
