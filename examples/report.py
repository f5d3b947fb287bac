"""Reads what `train_distribution` and `train_heatmaps` write, and makes tables of it: never typed.

python -m examples.report            rewrites docs/training.md between its markers
python -m examples.report --print    prints the tables
python -m examples.report --check    exit code 1 if docs/training.md is not what examples/results says

`results.json`:

{
  "schema": 2, "datetime": ..., "commit": ...,
  "options": {"steps", "batch_size", "seed", "occlusion", "blur", "augment"},
  "machine": {"device", "device_name", "cores", "threads", "load", "python", "torch"},
  "seconds": {"training", "evaluation"},
  "held_out": {"validation_images", "test_images", "keypoints": {group: int}},
  "places": {name: {"mean_error": {group: pixels}, "median_error": pixels, "pck": {"2.5", "5", "10": share}}},
  "distributions": {name: {
      "rank_correlation": {group: Spearman's, of predicted sigma and true error},
      "mean_sigma": {group: pixels},
      "coverage": {group: {"50", "90", "95": share}},
      "calibration_error": {group: mean of the two axes},
      "nll": {group: mean negative log-likelihood},
      "scale": the factor for covariances that the validation images ask for (maximum likelihood),
      "coverage_scaled": {"50", "90", "95": share}, of all test keypoints after it
  }},
  "peak_score": {"rank_correlation": {group: of minus the heatmap's peak and DARK's error}},
  "losses": [[step, heatmap, target, peak], ...], means since the row before
}

Names of `places` are argmax, quarter, dark, target, peak; of `distributions` target and peak. The groups are all,
clear (neither of the next two), occluded, blurred; a keypoint can be in both of these. Numbers of a group that no
keypoint is in are null. All numbers are of test images but for `scale` and `losses`. PCK at p: errors below p % of
the figure's height.

`heatmaps.json`:

{
  "schema": 2, "datetime": ..., "commit": ...,
  "options": {"steps", "batch_size", "seeds", "images"},
  "machine": as above, "seconds": of everything,
  "runs": [{"loss", "map": its side, "encoding", "seed", "mean_error": pixels, "median_error": pixels}, ...]
}
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
RESULTS = _ROOT / "examples" / "results" / "results.json"
HEATMAP_RESULTS = RESULTS.with_name("heatmaps.json")
BEGIN, END = "<!-- training:begin -->", "<!-- training:end -->"
HEATMAP_BEGIN, HEATMAP_END = "<!-- heatmaps:begin -->", "<!-- heatmaps:end -->"

SCHEMA = 2
GROUPS = ("all", "clear", "occluded", "blurred")
PLACES = {
    "argmax": "argmax",
    "quarter": "quarter offset",
    "dark": "DARK",
    "target": "head trained in the target's cell",
    "peak": "head trained in the peak's cell",
}
DISTRIBUTIONS = ("target", "peak")
PCK = ("2.5", "5", "10")
LEVELS = ("50", "90", "95")
LOSSES = {
    "mse": "mse",
    "ohkm": "mse of the 8 hardest",
    "adaptive_wing": "adaptive wing",
    "focal": "focal",
    "cross_entropy": "cross-entropy",
    "js": "Jensen-Shannon",
}
ENCODINGS = {"biased": "biased + quarter offset", "unbiased": "unbiased + DARK"}

_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_BY_GROUP = dict.fromkeys(GROUPS, _MAYBE)
_BY_LEVEL = dict.fromkeys(LEVELS, _NUMBER)

_PLACE = {"mean_error": _BY_GROUP, "median_error": _NUMBER, "pck": dict.fromkeys(PCK, _NUMBER)}
_DISTRIBUTION = {
    "rank_correlation": _BY_GROUP,
    "mean_sigma": _BY_GROUP,
    "coverage": dict.fromkeys(GROUPS, (dict, type(None))),
    "calibration_error": _BY_GROUP,
    "nll": _BY_GROUP,
    "scale": _NUMBER,
    "coverage_scaled": _BY_LEVEL,
}

# What is where; a dict stands for an object with these fields, a list of one for a list of such.
FIELDS: dict[str, Any] = {
    "schema": int,
    "datetime": str,
    "commit": str,
    "options": {
        "steps": int, "batch_size": int, "seed": int, "occlusion": bool, "blur": bool, "augment": bool,
    },
    "machine": {
        "device": str, "device_name": str, "cores": int, "threads": int, "load": _NUMBER, "python": str, "torch": str,
    },
    "seconds": {"training": _NUMBER, "evaluation": _NUMBER},
    "held_out": {"validation_images": int, "test_images": int, "keypoints": dict.fromkeys(GROUPS, int)},
    "places": {name: _PLACE for name in PLACES},
    "distributions": {name: _DISTRIBUTION for name in DISTRIBUTIONS},
    "peak_score": {"rank_correlation": _BY_GROUP},
    "losses": list,
}  # fmt: skip
RUN_FIELDS: dict[str, Any] = {
    "loss": str, "map": int, "encoding": str, "seed": int, "mean_error": _NUMBER, "median_error": _NUMBER,
}  # fmt: skip
HEATMAP_FIELDS: dict[str, Any] = {
    "schema": int,
    "datetime": str,
    "commit": str,
    "options": {"steps": int, "batch_size": int, "seeds": int, "images": int},
    "machine": FIELDS["machine"],
    "seconds": _NUMBER,
    "runs": [RUN_FIELDS],
}


class SchemaError(ValueError):
    """A results file is not what it should be; the message names file and field."""


def check(record: Any, where: str = "results", expected: Any = None) -> None:
    """Raise SchemaError unless `record` has every field, of its type."""
    expected = FIELDS if expected is None else expected
    if isinstance(expected, dict):
        if not isinstance(record, dict):
            raise SchemaError(f"{where}: got {type(record).__name__}, expected an object")
        for name, kind in expected.items():
            if name not in record:
                raise SchemaError(f"{where}: field {name!r} is missing")
            check(record[name], f"{where}.{name}", kind)
        if "schema" in expected and record["schema"] != SCHEMA:
            raise SchemaError(f"{where}.schema: got {record['schema']}, expected {SCHEMA}; run the example again")
        return
    if isinstance(expected, list):
        if not isinstance(record, list):
            raise SchemaError(f"{where}: got {type(record).__name__}, expected a list")
        for i, each in enumerate(record):
            check(each, f"{where}[{i}]", expected[0])
        return
    kinds = expected if isinstance(expected, tuple) else (expected,)
    if not isinstance(record, kinds) or (isinstance(record, bool) and bool not in kinds):
        words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise SchemaError(f"{where}: got {record!r}, expected {words}")
    if isinstance(record, float) and not math.isfinite(record):
        raise SchemaError(f"{where}: got {record!r}, expected a finite number")


def load(path: Path, fields: dict[str, Any] = FIELDS) -> dict[str, Any]:
    """A checked results file.

    Raises:
        SchemaError: It is not JSON, or not of this schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{path.name}: is not JSON ({error})") from error
    check(record, path.name, fields)
    return dict(record)


def tables(record: dict[str, Any]) -> str:
    """Markdown: where the keypoints are, and how sure the heads are of it."""
    options, machine, counts = record["options"], record["machine"], record["held_out"]["keypoints"]
    without = [name for name in ("occlusion", "blur", "augment") if not options[name]]
    threads = machine["threads"]
    words = (
        f"{options['steps']} steps of {options['batch_size']} images in {record['seconds']['training'] / 60:.1f} "
        f"minutes on {machine['device_name']} (torch {machine['torch']}, {threads} thread{'s' * (threads != 1)}, seed "
        f"{options['seed']}{', no ' if without else ''}{', no '.join(without)}). Then "
        f"{record['held_out']['test_images']} held-out images with {counts['all']} annotated keypoints, of which "
        f"{counts['occluded']} are occluded and {counts['blurred']} blurred. Errors in input pixels; a cell of the "
        "maps has 4. PCK 5: errors below 5 % of the figure's height."
    )
    if machine["load"] > 0.5:
        words += f" Other programs were running (load {machine['load']:.1f} before the start): it took too long."
    lines = [textwrap.fill(words, 118), ""]
    rows = []
    for name, title in PLACES.items():
        place = record["places"][name]
        rows.append(
            [title, *(_number(place["mean_error"][group]) for group in GROUPS)]
            + [_percent(place["pck"][level]) for level in PCK]
        )
    header = ["where", "mean error, all", *GROUPS[1:], *(f"PCK {level}" for level in PCK)]
    lines += [*_table(header, rows), ""]

    heads = [(PLACES[name], record["distributions"][name]) for name in DISTRIBUTIONS]
    rows = []
    for title, head in heads:
        for group in GROUPS:
            covered = head["coverage"][group]
            rows.append(
                [title if group == "all" else "", group, _number(head["mean_sigma"][group])]
                + [_number(head["rank_correlation"][group])]
                + (["", "", ""] if covered is None else [_percent(covered[level]) for level in LEVELS])
                + [_number(head["calibration_error"][group], digits=3), _number(head["nll"][group])]
            )
        scaled = head["coverage_scaled"]
        rows.append(
            [
                "",
                f"all, covariances x {head['scale']:.3g}",
                "",
                "",
                *(_percent(scaled[level]) for level in LEVELS),
                "",
                "",
            ]
        )
    header = ["how sure", "keypoints", "mean sigma", "rank correlation", *(f"in {level} % ellipse" for level in LEVELS)]
    header += ["calibration error", "NLL"]
    lines += _table(header, rows)
    score = record["peak_score"]["rank_correlation"]["all"]
    lines += ["", f"The rank correlation of DARK's error with the height of the heatmap's peak is {_number(score)}."]
    return "\n".join(lines) + "\n"


def heatmap_table(record: dict[str, Any]) -> str:
    """Markdown: the errors of each loss, map size and encoding, and how they spread over the seeds."""
    options, machine, runs = record["options"], record["machine"], record["runs"]
    threads = machine["threads"]
    words = (
        f"Each number is of {options['seeds']} training{'s' * (options['seeds'] != 1)} of {options['steps']} steps of "
        f"{options['batch_size']} images with different seeds, mean and standard deviation: the median error in input "
        f"pixels on {options['images']} held-out images of 64 x 64. In brackets the mean error, which gross mistakes "
        f"dominate. Everything took {record['seconds'] / 60:.0f} minutes on {machine['device_name']} (torch "
        f"{machine['torch']}, {threads} thread{'s' * (threads != 1)})."
    )
    if machine["load"] > 0.5:
        words += f" Other programs were running (load {machine['load']:.1f} before the start): it took too long."
    maps = sorted({run["map"] for run in runs})
    header = ["loss", *(f"{side} x {side}, {title}" for side in maps for title in ENCODINGS.values())]
    rows = []
    for name, title in LOSSES.items():
        cells = [_spread(runs, name, side, encoding) for side in maps for encoding in ENCODINGS]
        if any(cells):
            rows.append([title, *cells])
    return "\n".join([textwrap.fill(words, 118), "", *_table(header, rows)]) + "\n"


def _spread(runs: Sequence[dict[str, Any]], loss: str, side: int, encoding: str) -> str:
    """Mean and standard deviation of the runs of a kind; nothing where there are none."""
    chosen = [run for run in runs if (run["loss"], run["map"], run["encoding"]) == (loss, side, encoding)]
    if not chosen:
        return ""
    medians = [run["median_error"] for run in chosen]
    text = f"{statistics.fmean(medians):.2f}"
    if len(chosen) > 1:
        text += f" ± {statistics.stdev(medians):.2f}"
    return f"{text} ({statistics.fmean(run['mean_error'] for run in chosen):.2f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    numbers = len(header) - (2 if header[1] == "keypoints" else 1)
    lines = ["| " + " | ".join(header) + " |", "|---" * (len(header) - numbers) + "|---:" * numbers + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def insert(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `text` between its markers.

    Raises:
        ValueError: It has no markers, or has them twice or in the wrong order.
    """
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"expected {begin} and then {end}, each once")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}{end}{rest.partition(end)[2]}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the page that a results file says."""

    results: str
    fields: dict[str, Any]
    text: Callable[[dict[str, Any]], str]
    begin: str
    end: str


BLOCKS = (
    Block(RESULTS.name, FIELDS, tables, BEGIN, END),
    Block(HEATMAP_RESULTS.name, HEATMAP_FIELDS, heatmap_table, HEATMAP_BEGIN, HEATMAP_END),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS.parent, help="folder")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "training.md")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--print", action="store_true", help="print the tables and write nothing")
    action.add_argument("--check", action="store_true", help="exit code 1 if the page's tables are not these")
    options = parser.parse_args(arguments)
    try:
        texts = [block.text(load(options.results / block.results, block.fields)) for block in BLOCKS]
        if options.print:
            print("\n".join(texts), end="")
            return 0
        page = updated = options.page.read_text(encoding="utf-8")
        for block, text in zip(BLOCKS, texts, strict=True):
            updated = insert(updated, text, block.begin, block.end)
    except (ValueError, OSError) as error:
        print(f"examples.report: {error}", file=sys.stderr)
        return 2
    if options.check:
        if page != updated:
            print(f"{options.page.name} is not what {options.results.name} say: run python -m examples.report")
            return 1
        return 0
    options.page.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
