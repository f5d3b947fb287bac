"""Measures how far decoders are from the truth, and from what could be known of it: docs/accuracy.md.

    python -m benchmarks.accuracy             measures, writes results/accuracy.json, docs/accuracy.md and its picture
    python -m benchmarks.accuracy --report    writes the page and the picture from the file
    python -m benchmarks.accuracy --check     exit code 1 if docs/accuracy.md is not what the file says

Five experiments, seeded, on maps that are made here, so that the truth is known, and one on real maps:

- blobs: Gaussians of sigma 2 to 3 px with white noise, all recipes on the same maps. *Inside* means that the centre
  is 7 px or more from every border, as far as decoders look; *border*, that it is within 2.4 px of one.
- distance: the same at a given distance from one border.
- widths: the same of one sigma. Recipes that expect blobs of some width decode them twice, told of it and not.
  *Inside* grows with sigma, from 3 px on.
- jitter: what a network learns where annotators disagree. Each of sixteen clicks beside the keypoint, with a Gaussian
  error of so many pixels on each axis; its click is rounded to a pixel, as usual targets are, and gives a Gaussian of
  sigma 2; the map is the mean of these, with noise.
- neighbours: two people in one map, Gaussians of sigma 2 and of peaks 1 and 0.9 so many pixels apart, the larger of the
  two at each pixel, without noise. `find_peaks` finds both; recipes that search the smoothed map are left out, since
  there is one peak in it where two are close. An error is of a peak to the person whose pixel it started from; it is
  astray if it ends nearer to the other one.
- mirrored: the real maps that the package has of images and of their mirrored twins. What is called an error there is
  how far a keypoint is from that of the mirrored image, mirrored back, less the mean of these differences, where both
  peaks exceed a threshold. The networks' part in it is the same for all recipes.

An error is the mean distance in heatmap pixels. The Cramér-Rao bound is that of a decoder without bias which knows that
there is one round Gaussian in white noise and sees the whole map, but neither its amplitude nor its width.

accuracy.json:

{
  "schema": 3, "datetime": ..., "commit": ..., "options": {"maps": a case, "seed"},
  "machine": {"device_name", "python", "torch", "numpy"},
  "rows": [{"experiment", "place", "size", "peak": [low, high], "noise", "distance", "jitter": or null where it is not
            varied, "sigma": [low, high], "bound": pixels or null, "annotators": error of the mean of their clicks, or
            null, "errors": {recipe: pixels}, "medians": {recipe: pixels} or null, "astray": {recipe: peaks} or null,
            "peaks": how many there are}]
}
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import dark_kernels
from benchmarks import results
from benchmarks.conftest import cpu_name
from benchmarks.run import commit_of
from dark_kernels import Recipe, recipes

_ROOT = Path(__file__).resolve().parent.parent

SCHEMA = 3
_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
FIELDS: dict[str, Any] = {
    "schema": int, "datetime": str, "commit": str, "options": dict, "machine": dict, "rows": list,
}  # fmt: skip
OPTION_FIELDS: dict[str, Any] = {"maps": int, "seed": int}
MACHINE_FIELDS: dict[str, Any] = {"device_name": str, "python": str, "torch": str, "numpy": str}
ROW_FIELDS: dict[str, Any] = {
    "experiment": str, "place": str, "size": int, "peak": list, "noise": _NUMBER, "distance": _MAYBE, "jitter": _MAYBE,
    "sigma": list, "bound": _MAYBE, "annotators": _MAYBE, "errors": dict, "medians": (dict, type(None)),
    "astray": (dict, type(None)), "peaks": int,
}  # fmt: skip

# Where "inside" begins: the blur of the published decoders sees 5 px, and their stencil 2 more.
MARGIN = 7.0
BORDER = 2.4
_SIGMAS = (2.0, 3.0)
ANNOTATORS, TARGET_SIGMA = 16, 2.0

PEAKS = (1.0, 0.5, 0.25, 0.1)
NOISES = (0.0, 0.005, 0.01, 0.02, 0.05)
SIZES = (16, 32, 64, 128)
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
JITTERS = (0.0, 0.5, 1.0, 1.5, 2.0)
NEIGHBOURS = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
WEAK = ((0.1, 0.05), (0.05, 0.02))  # peak and noise
WIDTHS = (1.0, 2.0, 3.0, 4.0, 6.0)
LEVELS = ((1.0, 0.01), (0.25, 0.05))  # likewise
THRESHOLDS = (0.7, 0.5, 0.2)
# COCO's left and right.
_FLIP = list(dark_kernels.data.COCO_FLIP_INDICES)


class Case(NamedTuple):
    """One row of the results: what the maps of a case hold."""

    experiment: str
    place: str = "inside"
    size: int = 64
    peak: tuple[float, float] = (0.5, 1.0)
    noise: float = 0.01
    distance: float | None = None
    jitter: float | None = None
    sigma: tuple[float, float] = _SIGMAS

    def fields(self) -> dict[str, Any]:
        """As a row has them."""
        return {**self._asdict(), "peak": list(self.peak), "sigma": list(self.sigma)}


USUAL = {place: Case("blobs", place) for place in ("inside", "border")}


def cases() -> Iterator[Case]:
    for usual in USUAL.values():
        yield usual
        for noise in NOISES:
            for peak in PEAKS:
                yield usual._replace(peak=(peak, peak), noise=noise)
        for size in SIZES:
            if size != usual.size:
                yield usual._replace(size=size)
    for distance in DISTANCES:
        yield Case("distance", "border", distance=distance)
    for jitter in JITTERS:
        yield Case("jitter", peak=(1.0, 1.0), jitter=jitter)
    for distance in NEIGHBOURS:
        yield Case("neighbours", peak=(0.9, 1.0), noise=0.0, distance=distance)
    for place in USUAL:
        for peak, noise in WEAK:
            if peak not in PEAKS:
                yield weak(place, peak, noise)
    for place, (peak, noise), sigma in itertools.product(USUAL, LEVELS, WIDTHS):
        yield of_width(place, peak, noise, sigma)
    for threshold in THRESHOLDS:
        yield mirrored(threshold)


def weak(place: str, peak: float, noise: float) -> Case:
    return USUAL[place]._replace(peak=(peak, peak), noise=noise)


def of_width(place: str, peak: float, noise: float, sigma: float) -> Case:
    return Case("widths", place, peak=(peak, peak), noise=noise, sigma=(sigma, sigma))


def mirrored(threshold: float) -> Case:
    """Peaks count from the threshold on."""
    return Case("mirrored", "real", peak=(threshold, 1.0), noise=0.0)


class Sample(NamedTuple):
    """N maps and what is known of them."""

    heatmaps: Tensor  # [N, H, W] float32
    centers: Tensor  # [N, 2] as (x, y)
    sigmas: Tensor  # [N]
    peaks: Tensor  # [N]
    clicks: Tensor | None  # [N, annotators, 2], for the experiment with jitter


def make_maps(case: Case, count: int, generator: torch.Generator) -> Sample:
    """The maps of a case."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    last = case.size - 1.0
    margin = MARGIN * max(1.0, case.sigma[1] / _SIGMAS[1])
    centers = uniform(margin, last - margin, count, 2)
    if case.place == "border":
        near = uniform(0.0, BORDER, count) if case.distance is None else torch.full((count,), case.distance).double()
        side, axis = torch.randint(0, 2, (2, count), generator=generator)
        centers[torch.arange(count), axis] = torch.where(side == 0, near, last - near)
    sigmas, peaks, clicks = uniform(*case.sigma, count), uniform(*case.peak, count), None
    if case.jitter is None:
        maps = peaks[:, None, None] * _gaussians(centers, sigmas, case.size)
    else:
        deviations = torch.randn(count, ANNOTATORS, 2, generator=generator, dtype=torch.float64)
        clicks = centers[:, None] + case.jitter * deviations
        sigmas = torch.full_like(sigmas, TARGET_SIGMA)
        targets = (clicks + 0.5).trunc()
        maps = torch.stack([_gaussians(target, sigmas, case.size) for target in targets.unbind(1)]).mean(0)
        maps = maps * peaks[:, None, None]
    maps = maps.float() + case.noise * torch.randn(maps.shape, generator=generator)
    return Sample(maps, centers, sigmas, peaks, clicks)


def make_pairs(case: Case, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Maps of two people [N, H, W] in float32, and their centres [N, 2, 2]."""
    assert case.distance is not None
    margin = MARGIN + case.distance
    first = margin + (case.size - 1 - 2 * margin) * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    angles = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    second = first + case.distance * torch.stack([angles.cos(), angles.sin()], -1)
    sigmas = torch.full((count,), TARGET_SIGMA, dtype=torch.float64)
    maps = torch.maximum(
        case.peak[1] * _gaussians(first, sigmas, case.size), case.peak[0] * _gaussians(second, sigmas, case.size)
    )
    return maps.float(), torch.stack([first, second], 1)


def _gaussians(centers: Tensor, sigmas: Tensor, size: int) -> Tensor:
    """Blobs of height one: [N, size, size]."""
    x, y = _profiles(centers, sigmas, size)
    return y[:, :, None] * x[:, None, :]


def _profiles(centers: Tensor, sigmas: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Blobs along x and y: two of [N, size]."""
    pixels = torch.arange(size, dtype=torch.float64)
    x, y = ((-0.5 * ((pixels - c[:, None]) / sigmas[:, None]) ** 2).exp() for c in centers.unbind(-1))
    return x, y


def cramer_rao_bound(sample: Sample, size: int, noise: float) -> Tensor:
    """The least mean distance of a decoder without bias: [N] in pixels.

    Fisher's information of x, y, amplitude and sigma is J' J / noise^2, with J the derivatives of the map's pixels. The
    upper left 2 x 2 block of its inverse bounds the covariance of x and y, and the mean length of a Gaussian error with
    that covariance is sqrt(pi / 2) times the mean of its standard deviation over all directions.
    """
    profiles = _profiles(sample.centers, sample.sigmas, size)
    pixels = torch.arange(size, dtype=torch.float64)
    sigmas, peaks = sample.sigmas[:, None], sample.peaks[:, None]
    # Each derivative is a sum of products of a function of x and one of y, and so are the sums over pixels.
    u, v = ((pixels - center[:, None]) / sigmas for center in sample.centers.unbind(-1))
    (x, y), one = profiles, torch.ones_like(u)
    derivatives: list[list[tuple[Tensor, Tensor]]] = [
        [(peaks / sigmas * u, one)],
        [(peaks / sigmas * one, v)],
        [(one, one)],
        [(peaks / sigmas * u * u, one), (peaks / sigmas * one, v * v)],
    ]
    information = torch.stack(
        [
            torch.stack(
                [
                    torch.stack([(a * c * x * x).sum(-1) * (b * d * y * y).sum(-1) for a, b in row for c, d in column])
                    .sum(0)
                    for column in derivatives
                ],
                dim=-1,
            )
            for row in derivatives
        ],
        dim=-2,
    )  # fmt: skip
    covariances = noise**2 * information.inverse()[:, :2, :2]
    angles = torch.arange(64, dtype=torch.float64) * (math.pi / 64)
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    variances = torch.einsum("di,nij,dj->nd", directions, covariances, directions)
    return math.sqrt(math.pi / 2) * variances.sqrt().mean(-1)


def decode(heatmaps: Tensor, recipe: Recipe, backend: str = "auto") -> Tensor:
    """Coordinates [N, 2]."""
    scaled = heatmaps * 255 if recipe == recipes.MEGVII else heatmaps
    return dark_kernels.decode(scaled[None], recipe, backend=backend).coords[0].double()


def _digits(error: Tensor) -> float:
    return float(f"{error.mean().item():.6g}")


def _recipes(case: Case) -> list[Recipe]:
    """The recipes of a case, with names of their own."""
    if case.experiment != "widths":
        return list(recipes.ALL)
    told = dataclasses.replace(recipes.MATCHED, blob_sigma=case.sigma[0], name="matched, width given")
    return [recipes.DARKPOSE, recipes.FIT, recipes.MATCHED, told]


def measure_pairs(case: Case, count: int, seed: int, backend: str = "auto") -> dict[str, Any]:
    """One row of the results, of two people in each map."""
    maps, centers = make_pairs(case, count, torch.Generator().manual_seed(seed))

    def found(recipe: Recipe) -> Tensor:
        peaks = dark_kernels.find_peaks(maps[None], 2, threshold=0.3, recipe=recipe, backend=backend)
        return peaks.coords[0].double()

    whose = (found(recipes.ARGMAX)[:, :, None] - centers[:, None]).norm(dim=-1).argmin(-1, keepdim=True)
    errors, astray = {}, {}
    for recipe in recipes.ALL:
        if recipe.argmax_on != "blurred":
            distances = (found(recipe)[:, :, None] - centers[:, None]).norm(dim=-1)
            own, other = distances.gather(-1, whose), distances.gather(-1, 1 - whose)
            errors[recipe.name], astray[recipe.name] = _digits(own), int((other < own).sum())
    return _as_row(case, errors, 2 * count, astray=astray)


def measure_mirrored(case: Case, backend: str = "auto") -> dict[str, Any]:
    """One row of the results, of real maps and those of the mirrored images."""
    example = dark_kernels.data.load()
    heatmaps = example.heatmaps.float()
    plain, twins = example.pairs()
    peaks = heatmaps.amax((-2, -1))
    counts = torch.minimum(peaks[plain], peaks[twins][:, _FLIP]) > case.peak[0]
    errors, medians = {}, {}
    for recipe in recipes.ALL:
        scaled = heatmaps * 255 if recipe == recipes.MEGVII else heatmaps
        coords = dark_kernels.decode(scaled, recipe, backend=backend).coords.double()
        back = coords[twins][:, _FLIP] * torch.tensor([-1.0, 1.0]) + torch.tensor([heatmaps.shape[-1], 0.0])
        off = (coords[plain] - back)[counts]
        distances = (off - off.mean(0)).norm(dim=-1)
        errors[recipe.name], medians[recipe.name] = _digits(distances), _digits(distances.median())
    return _as_row(case, errors, int(counts.sum()), medians=medians)


def _as_row(case: Case, errors: dict[str, float], peaks: int, **others: Any) -> dict[str, Any]:
    row = dict.fromkeys(("bound", "annotators", "errors", "medians", "astray"))
    return {**case.fields(), **row, "errors": errors, **others, "peaks": peaks}


def measure(case: Case, count: int, seed: int, backend: str = "auto") -> dict[str, Any]:
    """One row of the results."""
    if case.experiment == "neighbours":
        return measure_pairs(case, count, seed, backend)
    if case.experiment == "mirrored":
        return measure_mirrored(case, backend)
    sample = make_maps(case, count, torch.Generator().manual_seed(seed))

    def error(coords: Tensor) -> float:
        return _digits((coords - sample.centers).norm(dim=-1))

    bound, annotators = None, None
    if sample.clicks is not None:
        annotators = error(sample.clicks.mean(1))
    elif case.noise > 0:
        bound = _digits(cramer_rao_bound(sample, case.size, case.noise))
    errors = {recipe.name: error(decode(sample.heatmaps, recipe, backend)) for recipe in _recipes(case)}
    return _as_row(case, errors, count, bound=bound, annotators=annotators)


def run(count: int, seed: int, chosen: Iterable[Case], backend: str = "auto") -> dict[str, Any]:
    """All rows, and where they come from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "schema": SCHEMA,
        "datetime": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit_of(_ROOT),
        "options": {"maps": count, "seed": seed},
        "machine": {
            "device_name": f"{cpu_name()}, {cores} cores",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "rows": [measure(case, count, seed + index, backend) for index, case in enumerate(chosen)],
    }


# --- the file ---------------------------------------------------------------------------------------------


def check(record: Any, where: str = results.ACCURACY) -> None:
    """Raise SchemaError unless `record` has every field, of its type."""
    results.check_fields(record, {"schema": int}, where)
    if record["schema"] != SCHEMA:
        raise results.SchemaError(f"{where}.schema: got {record['schema']}, expected {SCHEMA}; measure again")
    results.check_fields(record, FIELDS, where)
    results.check_fields(record["options"], OPTION_FIELDS, f"{where}.options")
    results.check_fields(record["machine"], MACHINE_FIELDS, f"{where}.machine")
    for i, row in enumerate(record["rows"]):
        results.check_fields(row, ROW_FIELDS, f"{where}.rows[{i}]")
        for name in ("errors", "medians"):
            numbers = row[name] or {}
            results.check_fields(numbers, dict.fromkeys(numbers, _NUMBER), f"{where}.rows[{i}].{name}")


def load(path: Path) -> dict[str, Any]:
    """A checked results file.

    Raises:
        SchemaError: It is not JSON, or not of this schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise results.SchemaError(f"{path.name}: is not JSON ({error})") from error
    check(record, path.name)
    return dict(record)


def row_of(record: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """The row of a case.

    Raises:
        SchemaError: There is none.
    """
    wanted = case.fields()
    for row in record["rows"]:
        if all(row[name] == value for name, value in wanted.items()):
            return dict(row)
    raise results.SchemaError(f"{results.ACCURACY}: has no row for {case}; measure again")


def main(arguments: Sequence[str] | None = None) -> int:
    from benchmarks.publish import accuracy as published  # which imports the cases above

    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks" / "results", help="folder of accuracy.json")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs", help="folder of accuracy.md and its picture")
    parser.add_argument("--maps", type=int, default=2000, help="of a case (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--backend", choices=dark_kernels.backends.BACKENDS, default="auto", help="which measures (auto)"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--report", action="store_true", help="measure nothing, write the page from the file")
    action.add_argument("--check", action="store_true", help="exit code 1 if the page is not what the file says")
    options = parser.parse_args(arguments)
    path, docs = options.output / results.ACCURACY, options.docs / "accuracy.md"
    try:
        if not options.report and not options.check:
            started = time.perf_counter()
            record = run(options.maps, options.seed, cases(), options.backend)
            check(record)
            options.output.mkdir(parents=True, exist_ok=True)
            rows = ",\n".join(json.dumps(row) for row in record["rows"])
            head = json.dumps({**record, "rows": []}, indent=1)
            path.write_text(head.replace('"rows": []', f'"rows": [\n{rows}\n]') + "\n", encoding="utf-8")
            print(f"{len(record['rows'])} cases in {time.perf_counter() - started:.0f} s: {path}")
        record = load(path)
        text = published.page(record)
        if options.check:
            if docs.exists() and docs.read_text(encoding="utf-8") == text:
                return 0
            print(f"{docs.name} is not what {path.name} says: run python -m benchmarks.accuracy --report")
            return 1
    except (results.SchemaError, OSError) as error:
        print(f"benchmarks.accuracy: {error}", file=sys.stderr)
        return 2
    docs.parent.mkdir(parents=True, exist_ok=True)
    docs.write_text(text, encoding="utf-8")
    published.draw(record, options.docs / "accuracy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
