"""The commands decode, peaks and simcc: files of maps to files of keypoints."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dark_kernels import data, decode, decode_simcc, find_peaks

from . import boxes as box_files
from . import drawing, files, outputs, results
from .decoder import Operation, check_batch_size, in_batches, recipe_of
from .errors import UserError, shown
from .results import Results


def decode_files(
    sources: Sequence[Path],
    target: Path,
    form: str | None,
    recipe: str,
    fields: Mapping[str, Any],
    covariance: bool,
    device: str | None,
    backend: str,
    batch_size: int | None,
    key: str | None,
    flipped: Path | None,
    flip_indices: str | None,
    shift_flipped: bool,
    boxes: Path | None,
    box_format: str,
    box_padding: float,
    pipeline: str | None,
    picture: Path | None,
    image: Path | None,
    threshold: float,
    skeleton: str | None,
) -> None:
    """Decode files of heatmaps, and draw one."""
    chosen = recipe_of(recipe, fields)
    check_batch_size(batch_size)
    jobs, form = _jobs(sources, target, form)
    for option, path in (("--flipped", flipped), ("--boxes", boxes), ("--picture", picture)):
        if path is not None and len(jobs) > 1:
            raise UserError(f"{option}: got {len(jobs)} files IN, expected one")
    if picture is not None and boxes is not None and image is None:
        raise UserError("--picture: got it with --boxes and without --image, expected the image of the boxes")
    if image is not None and picture is None:
        raise UserError("--image: got it without --picture, expected both")
    if flipped is None and (flip_indices is not None or shift_flipped):
        raise UserError("--flipped: got none with --flip-indices or --shift-flipped, expected a file")
    found_boxes = None if boxes is None else box_files.read(boxes, box_format)
    canvas = None if picture is None else drawing.Picture(picture, image, threshold, skeleton)
    for job in jobs:
        results.check(job.target, form, image_ids=found_boxes is not None and found_boxes.image_ids is not None)
        heatmaps = _open(job, key)
        options: dict[str, Any] = {"recipe": chosen, "covariance": covariance}
        parts: dict[str, Callable[[int, int], torch.Tensor]] = {}
        if flipped is not None:
            mirrored = files.open_heatmaps(flipped, key)
            parts["flipped"] = mirrored.read
            options |= {"flip_indices": _flip_indices(flip_indices, heatmaps.shape[1]), "shift_flipped": shift_flipped}
            if mirrored.shape != heatmaps.shape or mirrored.dtype != heatmaps.dtype:
                raise UserError(
                    f"{shown(flipped)}: got shape {list(mirrored.shape)} of {mirrored.dtype}, expected "
                    f"{list(heatmaps.shape)} of {heatmaps.dtype}, as {shown(job.source)}"
                )
        _judge(job.source, decode, heatmaps, options)
        matrices = None
        if found_boxes is not None:
            if len(found_boxes.boxes) != heatmaps.shape[0]:
                raise UserError(
                    f"--boxes: got {len(found_boxes.boxes)}, expected {heatmaps.shape[0]}, one for each entry"
                )
            size = (heatmaps.shape[3], heatmaps.shape[2])
            matrices = box_files.matrices(found_boxes.boxes, box_format, box_padding, pipeline, chosen.name, size)
            matrices = matrices if heatmaps.dtype == torch.float64 else matrices.float()
            parts["image_transform"] = functools.partial(_part, matrices)
        operation = Operation(decode, device, backend, heatmaps.dtype)
        found = _write(job, form, chosen.name, heatmaps, operation, batch_size, options, parts, found_boxes)
        if canvas is not None:
            canvas.draw(heatmaps, found, matrices)


def find_peaks_of_files(
    sources: Sequence[Path],
    target: Path,
    form: str | None,
    max_peaks: int,
    threshold: float,
    window: int,
    plateau: str,
    recipe: str,
    fields: Mapping[str, Any],
    covariance: bool,
    device: str | None,
    backend: str,
    batch_size: int | None,
    key: str | None,
) -> None:
    """Find peaks in files of heatmaps."""
    chosen = recipe_of(recipe, fields)
    check_batch_size(batch_size)
    jobs, form = _jobs(sources, target, form)
    options = {
        "max_peaks": max_peaks, "threshold": threshold, "window": window, "plateau": plateau, "recipe": chosen,
        "covariance": covariance,
    }  # fmt: skip
    for job in jobs:
        results.check(job.target, form, peaks=True)
        heatmaps = _open(job, key)
        _judge(job.source, find_peaks, heatmaps, options)
        operation = Operation(find_peaks, device, backend, heatmaps.dtype)
        _write(job, form, chosen.name, heatmaps, operation, batch_size, options, {}, None)


def decode_simcc_files(
    source_x: Path,
    source_y: Path,
    target: Path,
    form: str | None,
    sigma: str | None,
    dark: bool,
    split_ratio: float,
    score: str,
    visibility: bool,
    activation: str,
    logit_scale: float,
    device: str | None,
    backend: str,
    batch_size: int | None,
    key_x: str | None,
    key_y: str | None,
) -> None:
    """Decode SimCC's two outputs."""
    check_batch_size(batch_size)
    if source_x == source_y == files.STREAM:
        raise UserError("X: got - for both, expected one of them from stdin at most")
    form = results.format_of(target, form)
    results.check(target, form)
    if source_x == source_y and key_x is None and key_y is None:
        key_x, key_y = "simcc_x", "simcc_y"
    opened = [files.open_heatmaps(source, key, 3) for source, key in ((source_x, key_x), (source_y, key_y))]
    for source, each in zip((source_x, source_y), opened, strict=True):
        outputs.check_distinct(source, target)
        if len(each.shape) != 3:
            raise UserError(f"{shown(source)}: got shape {list(each.shape)}, expected 3 dimensions [B, K, bins]")
    bins_x, bins_y = opened
    options: dict[str, Any] = {
        "sigma": _numbers("--sigma", sigma, 2), "dark": dark, "split_ratio": split_ratio, "score": score,
        "visibility": visibility, "activation": activation, "logit_scale": logit_scale,
    }  # fmt: skip
    if bins_x.shape[0] != bins_y.shape[0]:
        raise UserError(f"{shown(source_y)}: got {bins_y.shape[0]} entries, expected {bins_x.shape[0]}, as X")
    operation = Operation(decode_simcc, device, backend, bins_x.dtype)
    entry_bytes = bins_x.shape[1] * (bins_x.shape[2] + bins_y.shape[2]) * bins_x.dtype.itemsize

    def call(start: int, stop: int) -> Results:
        return operation(bins_x.read(start, stop), bins_y.read(start, stop), **options)

    call(0, 0)  # which judges shapes, dtypes and options
    started = time.perf_counter()
    with outputs.replacing(target) as file:
        found = in_batches(bins_x.shape[0], batch_size, entry_bytes, call)
        results.FORMATS[form].write(file, found)
    _tell(target, found, "simcc", operation, started)


# ------------------------------------------------------------------------------------------------ what they share


def _jobs(sources: Sequence[Path], target: Path, form: str | None) -> tuple[list[outputs.Job], str]:
    extension = None
    if form is not None:
        extension = results.FORMATS[results.format_of(files.STREAM, form)].extension
    jobs = outputs.jobs(sources, target, extension, [row.extension for row in results.FORMATS.values()])
    return jobs, results.format_of(jobs[0].target, form)


def _open(job: outputs.Job, key: str | None) -> files.HeatmapFile:
    heatmaps = files.open_heatmaps(job.source, key)
    outputs.check_distinct(job.source, job.target)
    if len(heatmaps.shape) != 4:
        shape, hint = list(heatmaps.shape), " (those of one image are [1, K, H, W])" if len(heatmaps.shape) == 3 else ""
        raise UserError(f"{shown(job.source)}: got shape {shape}, expected 4 dimensions [B, K, H, W]{hint}")
    return heatmaps


def _judge(source: Path, function: Callable[..., Any], heatmaps: files.HeatmapFile, options: Mapping[str, Any]) -> None:
    """Let the operation judge shape, dtype and options; on "meta" it does so without any data."""
    without = {name: value for name, value in options.items() if name not in ("flip_indices", "shift_flipped")}
    try:
        function(torch.empty(heatmaps.shape, dtype=heatmaps.dtype, device="meta"), **without)
    except (TypeError, ValueError) as error:
        raise UserError(f"{shown(source)}: {error}") from error


def _write(
    job: outputs.Job,
    form: str,
    recipe_name: str,
    heatmaps: files.HeatmapFile,
    operation: Operation,
    batch_size: int | None,
    options: Mapping[str, Any],
    parts: Mapping[str, Callable[[int, int], torch.Tensor]],
    boxes: box_files.Boxes | None,
) -> Results:
    batch, num_keypoints, height, width = heatmaps.shape
    entry_bytes = num_keypoints * height * width * heatmaps.dtype.itemsize

    def call(start: int, stop: int) -> Results:
        pieces = {name: read(start, stop) for name, read in parts.items()}
        return operation(heatmaps.read(start, stop), **options, **pieces)

    started = time.perf_counter()
    with outputs.replacing(job.target) as file:
        found = in_batches(batch, batch_size, entry_bytes, call)
        if boxes is not None:
            found = found._replace(image_ids=boxes.image_ids)
        results.FORMATS[form].write(file, found)
    _tell(job.target, found, f"recipe {recipe_name}", operation, started)
    return found


def _tell(target: Path, found: Results, what: str, operation: Operation, started: float) -> None:
    batch, num_keypoints = found.scores.shape[:2]
    print(
        f"{shown(target)}: {batch} x {num_keypoints} keypoints, {what}, {operation.told()}, "
        f"{time.perf_counter() - started:.1f} s",
        file=sys.stderr if target == files.STREAM else sys.stdout,
    )


def _part(whole: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return whole[start:stop]


def _flip_indices(text: str | None, num_keypoints: int) -> list[int]:
    if text is None:
        if num_keypoints != len(data.COCO_FLIP_INDICES):
            raise UserError(f"--flip-indices: got none, expected {num_keypoints} channels of --flipped: I,J,...")
        return list(data.COCO_FLIP_INDICES)
    try:
        indices = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--flip-indices: got {text!r}, expected {num_keypoints} integers: I,J,...") from None
    if len(indices) != num_keypoints or not all(0 <= index < num_keypoints for index in indices):
        raise UserError(f"--flip-indices: got {text!r}, expected {num_keypoints} channels, 0 to {num_keypoints - 1}")
    return indices


def _numbers(option: str, text: str | None, count: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise UserError(f"{option}: got {text!r}, expected {count} numbers with a comma between them")
    return numbers
