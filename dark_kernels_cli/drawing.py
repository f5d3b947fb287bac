"""The command draw, and the pictures that decode makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dark_kernels import draw

from . import files, outputs
from . import keypoints as keypoint_files
from .errors import UserError, one_line, require, shown
from .results import Results

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Of a picture without an image: pixels to a heatmap pixel, and how many entries are shown.
_ZOOM, _ENTRIES, _COLUMNS = 6, 12, 4


def draw_file(
    image: Path,
    keypoints: Path,
    target: Path,
    entries: Sequence[int] | None,
    image_id: int | None,
    threshold: float,
    skeleton: str | None,
    n_sigma: float,
    scores: bool,
) -> None:
    """Draw the keypoints of a file onto an image."""
    outputs.check_output(target, PICTURES)
    if target == files.STREAM:
        raise UserError("OUT: got -, expected a file: its extension says what kind of picture")
    pixels = _open_image(image)
    outputs.check_distinct(image, target)
    poses = _read(keypoints, entries, image_id)
    if scores and poses.scores is None:
        raise UserError(f"{shown(keypoints)}: has no scores, expected some for --scores")
    drawn = _drawn(
        pixels, poses.coords, poses.scores, poses.covariances, skeleton=_skeleton(skeleton), threshold=threshold,
        n_sigma=n_sigma, write_scores=scores,
    )  # fmt: skip
    with outputs.replacing(target) as file:
        _save(drawn, file, target)
    print(f"{shown(target)}: {len(poses.coords)} x {poses.coords.shape[1]} keypoints")


class Picture:
    """What `decode --picture` draws: keypoints on an image, or over the heatmaps that they are of.

    Args:
        target: The picture.
        image: What to draw on. The coordinates are its own with boxes, else the heatmaps cover it. None draws up to a
            dozen entries over their heatmaps.
        threshold: Keypoints with a higher score are drawn.
        skeleton: Name of a skeleton, "none", or None.
    """

    def __init__(self, target: Path, image: Path | None, threshold: float, skeleton: str | None) -> None:
        outputs.check_output(target, PICTURES)
        if target == files.STREAM:
            raise UserError("--picture: got -, expected a file: its extension says what kind of picture")
        self._target = target
        self._pixels = None if image is None else _open_image(image)
        self._look: dict[str, Any] = {"threshold": threshold, "skeleton": _skeleton(skeleton)}

    def draw(self, heatmaps: files.HeatmapFile, found: Results, matrices: torch.Tensor | None) -> None:
        """Draw what was found, and tell it."""
        with outputs.replacing(self._target) as file:
            _save(self._sheet(heatmaps, found, matrices), file, self._target)
        print(f"picture: {shown(self._target)}")

    def _sheet(self, heatmaps: files.HeatmapFile, found: Results, matrices: torch.Tensor | None) -> np.ndarray:
        if self._pixels is not None and matrices is not None:
            return _drawn(self._pixels, found.coords, found.scores, found.covariances, **self._look)
        tiles = []
        for entry in range(min(len(found.scores), _ENTRIES if self._pixels is None else 1)):
            maps = heatmaps.read(entry, entry + 1)[0].float().numpy()
            height, width = maps.shape[-2:]
            on = np.zeros((_ZOOM * height, _ZOOM * width, 3), np.uint8) if self._pixels is None else self._pixels
            # Borders meet borders.
            factors = np.array([on.shape[1] / width, on.shape[0] / height])
            coords = (found.coords[entry] + 0.5) * factors - 0.5
            covariances = None if found.covariances is None else found.covariances[entry] * factors[:, None] * factors
            under = draw.heatmap(on, maps) if len(maps) else on
            tiles.append(_drawn(under, coords, found.scores[entry], covariances, **self._look))
        return _tiled(tiles)


def _tiled(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles of one size in rows."""
    if not tiles:
        return np.zeros((1, 1, 3), np.uint8)
    columns = min(len(tiles), _COLUMNS)
    missing = -len(tiles) % columns
    tiles = tiles + [np.zeros_like(tiles[0])] * missing
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def _drawn(pixels: np.ndarray, *numbers: Any, **look: Any) -> np.ndarray:
    try:
        return np.asarray(draw.poses(pixels, *numbers, **look))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _read(path: Path, entries: Sequence[int] | None, image_id: int | None) -> keypoint_files.Poses:
    poses = keypoint_files.read(path)
    chosen = np.arange(len(poses.coords))
    if image_id is not None:
        if poses.image_ids is None:
            raise UserError(f"{shown(path)}: has no ids of images, expected some for --image-id")
        chosen = chosen[poses.image_ids == image_id]
        if len(chosen) == 0:
            raise UserError(f"--image-id: got {image_id}, expected one of an entry of {shown(path)}")
    if entries:
        for entry in entries:
            if entry not in chosen:
                raise UserError(f"--entry: got {entry}, expected one of the {len(chosen)} entries, from 0")
        chosen = np.array(entries)
    return keypoint_files.Poses(*(None if each is None else each[chosen] for each in poses))  # type: ignore[arg-type]


def _skeleton(name: str | None) -> Any:
    if name is None or name in draw.SKELETONS:
        return name
    if name == "none":
        return ()
    raise UserError(f"--skeleton: got {name!r}, expected one of {', '.join(draw.SKELETONS)}, none")


def _open_image(path: Path) -> np.ndarray:
    image = require("PIL.Image", "draw")
    try:
        with image.open(path) as opened:
            return np.array(opened.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file") from None
    except OSError as error:  # Pillow's own, of what is no image, as well
        raise UserError(f"{shown(path)}: is no image, or damaged: {one_line(error.strerror or error)}") from error


def _save(pixels: np.ndarray, file: BinaryIO, target: Path) -> None:
    image = require("PIL.Image", "draw")
    form = image.registered_extensions()[target.suffix.lower()]
    image.fromarray(pixels).save(file, format=form, **({"quality": 95} if form == "JPEG" else {}))
