"""Shared by the three examples of integrations: heatmaps, and a report of two lines that do the same."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.workloads import tiled_real_heatmaps

SECONDS = 1.0  # to measure each line for, about


@contextlib.contextmanager
def needs(package: str) -> Iterator[None]:
    """Guard an import of `package`: if it fails, the program ends with a line that says what to do about it."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(
            f"this example needs {package}, see `requirements/` and `make test-integrations`: {error}"
        ) from None


def parse(arguments: Sequence[str] | None, name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that all three have."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=(description or "").split("\n")[0])
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="FILE",
        help="your network's [N, K, H, W], .npy or .pt; default: packaged ones",
    )
    parser.add_argument("--batch", type=int, help="crops; default: those of the file, else 32")
    parser.add_argument("--device", default="cpu", help="where the heatmaps are; default: %(default)s")
    return parser


def heatmaps(options: argparse.Namespace) -> Tensor:
    """[batch, K, H, W] of the user's file, or of a network, [batch, 17, 64, 48]: float32, on the device."""
    if options.batch is not None and options.batch < 1:
        raise SystemExit(f"--batch: got {options.batch}, expected 1 or more")
    try:
        device = torch.device(options.device)
        if options.heatmaps is None:
            return tiled_real_heatmaps((options.batch or 32, 17, 64, 48)).to(device)
        return _read(options.heatmaps)[: options.batch].to(device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises where a device is unknown or not there
        raise SystemExit(f"--device: got {options.device}: {str(error).splitlines()[0]}") from None


def _read(path: Path) -> Tensor:
    try:
        loaded = np.load(path) if path.suffix == ".npy" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything
        reason = (str(error).splitlines() or [""])[0]
        raise SystemExit(f"--heatmaps: can't read {path} ({type(error).__name__}: {reason})") from None
    maps = torch.from_numpy(loaded) if isinstance(loaded, np.ndarray) and loaded.dtype.kind == "f" else loaded
    if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.is_floating_point() or 0 in maps.shape:
        got = (
            f"{maps.dtype} {list(maps.shape)}".removeprefix("torch.") if hasattr(maps, "shape") else type(maps).__name__
        )
        raise SystemExit(f"--heatmaps: got {got} in {path}, expected floats [N, K, H, W]")
    return maps.float().contiguous()


def compare(
    title: str,
    before: tuple[str, Callable[[], Any]],
    after: tuple[str, Callable[[], Any]],
    keypoints: Callable[[Any], tuple[np.ndarray, np.ndarray]],
    maps: Tensor,
) -> float:
    """Prints both lines, how far their keypoints are apart and the time that each takes.

    Args:
        title: What is compared.
        before, after: A line of a pipeline, and what it does.
        keypoints: From a result to coordinates [N, K, 2] and scores [N, K].
        maps: What is decoded.

    Returns:
        The largest distance along an axis between keypoints with a positive score.
    """
    (coords, scores), (our_coords, our_scores) = keypoints(before[1]()), keypoints(after[1]())
    valid = scores > 0
    difference = float(np.abs(our_coords - coords)[valid].max(initial=0.0))
    if not np.allclose(our_scores[valid], scores[valid], rtol=1e-6, atol=0):
        raise SystemExit(f"{title}: scores differ by up to {np.abs(our_scores - scores)[valid].max():.1e}")
    seconds, our_seconds = _median_seconds(before[1], maps), _median_seconds(after[1], maps)
    where = f"{list(maps.shape)} on {maps.device}, {torch.get_num_threads()} threads"
    print(title)
    print(f"  before   {before[0]}")
    print(f"  after    {after[0]}")
    print(f"  apart    {difference:.1e} pixels at the most, {int(valid.sum())} keypoints")
    print(f"  time     {1e3 * seconds:.2f} ms before, {1e3 * our_seconds:.2f} ms after ({where})")
    print(f"           {seconds / our_seconds:.3g} times as fast\n")
    return difference


def _median_seconds(function: Callable[[], Any], maps: Tensor) -> float:
    """Median time of one call. Results are on the host, so that a call has ended when it returns."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < 1000):
        if maps.is_cuda:
            torch.cuda.synchronize(maps.device)
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
