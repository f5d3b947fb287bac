"""The schema of the examples' results, and the tables made of them."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from examples import report


@pytest.fixture
def record() -> dict[str, Any]:
    return report.load(report.RESULTS)


def paths(fields: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, kind in fields.items():
        found += [(*above, name)]
        found += paths(kind, (*above, name)) if isinstance(kind, dict) else []
    return found


def test_the_page_is_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0, "run python -m examples.report"


def test_the_results_show_what_the_page_says_of_them(record: dict[str, Any]) -> None:
    """The sentences around the tables: a run that no longer shows it needs other sentences."""
    clear = {name: place["mean_error"]["clear"] for name, place in record["places"].items()}
    assert clear["argmax"] > clear["quarter"] > clear["dark"] > clear["target"] > clear["peak"]
    occluded, blurred = (
        {name: place["mean_error"][group] for name, place in record["places"].items()}
        for group in ("occluded", "blurred")
    )
    assert occluded["dark"] < min(occluded["target"], occluded["peak"])
    assert all(abs(blurred[name] / blurred["dark"] - 1) < 0.1 for name in ("quarter", "target", "peak"))
    for head in record["distributions"].values():
        assert min(head["mean_sigma"]["occluded"], head["mean_sigma"]["blurred"]) > 1.5 * head["mean_sigma"]["clear"]
        assert head["rank_correlation"]["all"] > record["peak_score"]["rank_correlation"]["all"]
    target, peak = (record["distributions"][name]["coverage"]["all"] for name in ("target", "peak"))
    assert target["90"] < 0.7
    assert all(abs(peak[level] - int(level) / 100) < 0.02 for level in ("90", "95"))
    assert peak["50"] > 0.55
    assert record["seconds"]["training"] + record["seconds"]["evaluation"] < 600


def test_the_results_show_what_the_page_says_of_heatmaps() -> None:
    runs: dict[tuple[str, int, str], list[float]] = {}
    for run in report.load(report.HEATMAP_RESULTS, report.HEATMAP_FIELDS)["runs"]:
        runs.setdefault((run["loss"], run["map"], run["encoding"]), []).append(run["median_error"])
    means = {kind: statistics.fmean(errors) for kind, errors in runs.items()}
    for loss in ("mse", "ohkm", "adaptive_wing", "cross_entropy", "js"):
        is_softmax = loss in ("cross_entropy", "js")
        gains = {side: 1 - means[loss, side, "unbiased"] / means[loss, side, "biased"] for side in (16, 32)}
        low, high = (0.11, 0.14) if is_softmax else (0.18, 0.26)
        assert low < gains[16] < high
        assert min(runs[loss, 16, "biased"]) > max(runs[loss, 16, "unbiased"])
        assert (min(runs[loss, 32, "biased"]) > max(runs[loss, 32, "unbiased"])) is is_softmax
        assert gains[32] > 0.7 * gains[16] if is_softmax else gains[32] < gains[16] / 2
    assert len(means) == 22
    assert all(means["focal", 32, "biased"] < mean for kind, mean in means.items() if kind[0] != "focal")


@pytest.mark.parametrize("path", paths(report.FIELDS), ids=".".join)
def test_a_missing_field_is_named(record: dict[str, Any], path: tuple[str, ...]) -> None:
    at = copy.deepcopy(record)
    broken = at
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    where = ".".join(["results", *path[:-1]])
    with pytest.raises(report.SchemaError, match=rf"^{where}: field '{path[-1]}' is missing"):
        report.check(broken)


@pytest.mark.parametrize("value", [None, "far", True, float("nan")])
def test_a_number_is_a_number(record: dict[str, Any], value: Any) -> None:
    record["places"]["dark"]["median_error"] = value
    with pytest.raises(report.SchemaError, match=r"results\.places\.dark\.median_error: got"):
        report.check(record)


def test_other_schemas_and_no_json_are_refused(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(report.SchemaError, match="schema: got 0, expected 2"):
        report.check({**record, "schema": 0})
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(report.SchemaError, match=r"broken\.json: is not JSON"):
        report.load(path)
    with pytest.raises(report.SchemaError, match="got list, expected an object"):
        report.check([])


def test_command(record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "training.md"
    (tmp_path / "results.json").write_text(json.dumps(record))
    where = ["--results", str(tmp_path), "--page", str(page)]
    assert report.main(where) == 2  # no results of the heatmaps
    (tmp_path / "heatmaps.json").write_text(report.HEATMAP_RESULTS.read_text())
    assert report.main(where) == 2  # no page
    page.write_text("no markers")
    assert report.main(where) == 2
    assert "expected <!-- training:begin -->" in capsys.readouterr().err
    markers = [report.BEGIN, report.END, report.HEATMAP_BEGIN, report.HEATMAP_END]
    page.write_text("\n".join(["before", *markers, "after\n"]))
    assert report.main([*where, "--check"]) == 1
    assert report.main(where) == 0
    assert report.main([*where, "--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    capsys.readouterr()
    assert report.main([*where, "--print"]) == 0
    for part in capsys.readouterr().out.split("\n\n"):
        assert part in text


def test_errors_of_heatmaps_are_means_over_seeds() -> None:
    record = report.load(report.HEATMAP_RESULTS, report.HEATMAP_FIELDS)
    run = {"loss": "js", "map": 16, "encoding": "biased", "seed": 0, "mean_error": 3.0, "median_error": 1.0}
    other = {**run, "seed": 1, "mean_error": 4.0, "median_error": 2.0}
    table = report.heatmap_table({**record, "runs": [run, other, {**run, "encoding": "unbiased"}]})
    header, _, row = table.splitlines()[-3:]
    assert header == "| loss | 16 x 16, biased + quarter offset | 16 x 16, unbiased + DARK |"
    assert row == "| Jensen-Shannon | 1.50 ± 0.71 (3.50) | 1.00 (3.00) |"


def test_a_run_without_a_number_is_named() -> None:
    record = report.load(report.HEATMAP_RESULTS, report.HEATMAP_FIELDS)
    del record["runs"][1]["median_error"]
    with pytest.raises(report.SchemaError, match=r"results\.runs\[1\]: field 'median_error' is missing"):
        report.check(record, expected=report.HEATMAP_FIELDS)
    with pytest.raises(report.SchemaError, match=r"results\.runs: got str, expected a list"):
        report.check({**record, "runs": "none"}, expected=report.HEATMAP_FIELDS)
