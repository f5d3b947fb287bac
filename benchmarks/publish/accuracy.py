"""docs/accuracy.md and its picture: what results/accuracy.json says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import (
    ANNOTATORS,
    BORDER,
    DISTANCES,
    JITTERS,
    LEVELS,
    MARGIN,
    NEIGHBOURS,
    NOISES,
    PEAKS,
    SIZES,
    TARGET_SIGMA,
    THRESHOLDS,
    USUAL,
    WEAK,
    WIDTHS,
    Case,
    mirrored,
    of_width,
    row_of,
    weak,
)
from benchmarks.publish import charts, tables

PICTURE = "accuracy.png"


def pixels(error: float | None) -> str:
    """Three digits, no exponent; nothing below 1e-4."""
    if error is None:
        return ""
    if error < 1e-4:
        return "0"
    return f"{error:.{max(0, 2 - math.floor(math.log10(error)))}f}"


def _columns(record: Mapping[str, Any], header: Sequence[str], chosen: Sequence[Case], last: str) -> list[str]:
    """A table of all recipes: a column for each case; below them the bound, or what else is the best there is."""
    rows = [row_of(record, case) for case in chosen]
    lines = [[name, *(pixels(row["errors"][name]) for row in rows)] for name in rows[0]["errors"]]
    lines.append([last, *(pixels(row["bound"] if row["bound"] is not None else row["annotators"]) for row in rows)])
    return tables.table(["recipe", *header], lines, num_words=1)


def _neighbours(record: Mapping[str, Any]) -> list[str]:
    chosen = [Case("neighbours", peak=(0.9, 1.0), noise=0.0, distance=distance) for distance in NEIGHBOURS]
    rows = [row_of(record, case) for case in chosen]
    lines = [
        [name, *(f"{pixels(row['errors'][name])} ({row['astray'][name]})" for row in rows)]
        for name in rows[0]["errors"]
    ]
    return tables.table(["recipe", *(f"{distance:g} px" for distance in NEIGHBOURS)], lines, num_words=1)


_BOUND = "Cramér-Rao bound"


def _weak_peaks(record: Mapping[str, Any]) -> list[str]:
    chosen = [weak(place, peak, noise) for place in USUAL for peak, noise in WEAK]
    header = [f"{place}, {peak:g}, noise {noise:g}" for place in USUAL for peak, noise in WEAK]
    return [
        "## Weak peaks",
        "",
        "Where a raw map's largest pixel is one of the noise, a step from there leads nowhere.",
        "",
        *_columns(record, header, chosen, _BOUND),
        "",
    ]


def _widths(record: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Targets of other widths",
        "",
        "Errors over the bound, for Gaussians of one sigma. `matched` expects blobs of a sigma of 2.5 px unless it is",
        "given another: `target_sigma`, or `blob_sigma`.",
        "",
    ]
    table = []
    for (peak, noise), sigma in itertools.product(LEVELS, WIDTHS):
        rows = [row_of(record, of_width(place, peak, noise, sigma)) for place in USUAL]
        ratios = [tables.times(error / row["bound"]) for row in rows for error in row["errors"].values()]
        table.append([f"{sigma:g} px", f"peak {peak:g}, noise {noise:g}", *ratios])
    names = row_of(record, of_width("inside", *LEVELS[0], WIDTHS[0]))["errors"]
    header = [f"{place}: {name}" for place in USUAL for name in names]
    return [*lines, *tables.table(["sigma", "maps", *header], table, num_words=2), ""]


def _mirrored(record: Mapping[str, Any]) -> list[str]:
    rows = [row_of(record, mirrored(threshold)) for threshold in THRESHOLDS]
    table = [
        [name, *(f"{pixels(row['errors'][name])} / {pixels(row['medians'][name])}" for row in rows)]
        for name in rows[0]["errors"]
    ]
    header = [f"peaks above {threshold:g} ({row['peaks']})" for threshold, row in zip(THRESHOLDS, rows, strict=True)]
    return [
        "## Real maps and their mirrored twins",
        "",
        "How far a keypoint of a real map is from that of the mirrored image, mirrored back, less the mean of these",
        "differences: mean / median in px. In brackets stands how many keypoints have such peaks in both maps. The",
        "networks' own errors are part of all of these numbers.",
        "",
        *tables.table(["recipe", *header], table, num_words=1),
        "",
    ]


def page(record: Mapping[str, Any]) -> str:
    """Write docs/accuracy.md."""
    machine, options = record["machine"], record["options"]
    usual = [row_of(record, USUAL[place]) for place in ("inside", "border")]
    table = [
        [name, *(cell for row in usual for cell in (pixels(row["errors"][name]),
                                                    tables.times(row["errors"][name] / row["bound"])))]
        for name in usual[0]["errors"]
    ]  # fmt: skip
    table.append([_BOUND, *(cell for row in usual for cell in (pixels(row["bound"]), "1"))])

    def peaks(place: str, noise: float) -> list[Case]:
        return [USUAL[place]._replace(peak=(peak, peak), noise=noise) for peak in PEAKS]

    def noises(place: str) -> list[Case]:
        return [USUAL[place]._replace(peak=(1.0, 1.0), noise=noise) for noise in NOISES]

    def sizes(place: str) -> list[Case]:
        return [USUAL[place]._replace(size=size) for size in SIZES]

    lines = [
        "# Accuracy",
        "",
        "Written by `python -m benchmarks.accuracy`; changes here are lost.",
        "",
        f"Mean distance from the true centre in heatmap pixels, over {options['maps']} maps a number.",
        "All recipes decode the same maps: one Gaussian of sigma 2 to 3 px and white noise; 64 x 64 px, peak 0.5 to 1",
        "and noise 0.01 unless a table says otherwise.",
        f"*Inside*: {MARGIN:g} px or more from every border. *Border*: within {BORDER:g} px of one.",
        "The Cramér-Rao bound is that of a decoder without bias that knows neither amplitude nor width and sees the",
        "whole map; *times* is error over bound. A decoder with a bias may be below it.",
        "What a network errs is not in these numbers, but for annotators who disagree and for real maps.",
        "",
        f"Commit {record['commit']}, {record['datetime'][:10]}, seed {options['seed']}, Python {machine['python']}, "
        f"torch {machine['torch']}, {machine['device_name']}.",
        "",
        f"![Errors of recipes over noise, peak, distance from a border and annotators' jitter](accuracy/{PICTURE})",
        "",
        *tables.table(["recipe", "inside", "times", "border", "times"], table, num_words=1),
        "",
        "`megvii` adds half a pixel to where it has moved, by the convention of its maps.",
        "",
    ]
    for title, header, chosen in (
        ("Noise, peak 1, inside", [f"{noise:g}" for noise in NOISES], noises("inside")),
        ("Noise, peak 1, border", [f"{noise:g}" for noise in NOISES], noises("border")),
        ("Peak, noise 0.01, inside", [f"{peak:g}" for peak in PEAKS], peaks("inside", 0.01)),
        ("Peak, noise 0.01, border", [f"{peak:g}" for peak in PEAKS], peaks("border", 0.01)),
        ("Peak, noise 0.05, inside", [f"{peak:g}" for peak in PEAKS], peaks("inside", 0.05)),
        ("Size of the map, inside", [f"{size} px" for size in SIZES], sizes("inside")),
        ("Size of the map, border", [f"{size} px" for size in SIZES], sizes("border")),
        (
            "Distance from a border", [f"{distance:g} px" for distance in DISTANCES],
            [Case("distance", "border", distance=distance) for distance in DISTANCES],
        ),
    ):  # fmt: skip
        lines += [f"## {title}", "", *_columns(record, header, chosen, _BOUND), ""]
    lines += [*_weak_peaks(record), *_widths(record)]
    jitters = [Case("jitter", peak=(1.0, 1.0), jitter=jitter) for jitter in JITTERS]
    lines += [
        "## Annotators who disagree",
        "",
        "A network that is trained on one Gaussian a sample does not return one, but the mean of what it has been",
        f"taught: here of {ANNOTATORS} Gaussians of sigma {TARGET_SIGMA:g}, each on the pixel nearest to where an",
        "annotator clicked, with a standard deviation of so many pixels on each axis around the keypoint, and noise",
        "0.01. No decoder can be expected to beat the mean of the clicks. Without jitter the rounding of the targets",
        "is all that there is to see, and nothing finds what it has lost.",
        "",
        *_columns(record, [f"{jitter:g} px" for jitter in JITTERS], jitters, "mean of the clicks"),
        "",
        *_mirrored(record),
        "## Neighbours",
        "",
        f"Two people in one map, Gaussians of sigma {TARGET_SIGMA:g} and of peaks 1 and 0.9 so many pixels apart, the",
        "larger of the two at each pixel, no noise. `find_peaks` finds both. The error is of each peak to the person",
        "on whose pixel it started; in brackets stands how many peaks end nearer to the other one, of",
        f"{2 * options['maps']}. Recipes that search the smoothed map are left out.",
        "",
        *_neighbours(record),
    ]
    return "\n".join(lines) + "\n"


# Recipes that differ in the picture; the others lie on one of these.
_DRAWN = {
    "argmax": "#999999", "quarter": "#E69F00", "darkpose": "#0072B2", "mmpose_udp": "#56B4E9", "vitpose_hf": "#CC79A7",
    "fit": "#D55E00", "matched": "#009E73",
}  # fmt: skip


def draw(record: Mapping[str, Any], folder: Path) -> Path | None:
    """The picture of the page; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"no picture: matplotlib is not installed ({error})")
        return None
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    inside = USUAL["inside"]
    contents: list[tuple[str, str, Sequence[float], list[Case], str]] = [
        ("Noise (peak 1, inside)", "standard deviation", NOISES[1:],
         [inside._replace(peak=(1.0, 1.0), noise=noise) for noise in NOISES[1:]], "bound"),
        ("Peak (noise 0.01, inside)", "peak", PEAKS, [inside._replace(peak=(peak, peak)) for peak in PEAKS], "bound"),
        ("Distance from a border", "px", DISTANCES,
         [Case("distance", "border", distance=distance) for distance in DISTANCES], "bound"),
        ("Annotators who disagree", "jitter, px", JITTERS,
         [Case("jitter", peak=(1.0, 1.0), jitter=jitter) for jitter in JITTERS], "annotators"),
    ]  # fmt: skip
    for axes, (title, label, positions, chosen, best) in zip(panels.flat, contents, strict=True):
        rows = [row_of(record, case) for case in chosen]
        for name, color in _DRAWN.items():
            axes.plot(positions, [row["errors"][name] for row in rows], "o-", color=color, markersize=4, label=name)
        words = "Cramér-Rao bound" if best == "bound" else "mean of the clicks"
        axes.plot(positions, [row[best] for row in rows], "--", color=charts.INK, label=words)
        if best == "bound":
            axes.set_yscale("log")
        if label in ("standard deviation", "peak"):
            axes.set_xscale("log")
            axes.set_xticks(positions, [f"{position:g}" for position in positions])
        axes.set_title(title, loc="left", size=10)
        axes.set_xlabel(label)
        axes.set_ylabel("mean error, px")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
        axes.grid(color=charts.FAINT, linewidth=0.6)
        charts.quiet(axes)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    more, others = panels[1, 1].get_legend_handles_labels()
    figure.legend(
        [*handles, more[-1]], [*labels, others[-1]], loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / PICTURE, dpi=110)
    return folder / PICTURE
