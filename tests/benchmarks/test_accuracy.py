"""The accuracy page: the maps that it is made from, the bound, the file and what is written of it."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import accuracy, results
from benchmarks.publish import accuracy as published
from dark_kernels import recipes

BACKEND = "auto"
CASES = [
    *accuracy.USUAL.values(),
    accuracy.Case("distance", "border", 16, distance=0.5),
    accuracy.Case("jitter", peak=(1.0, 1.0), jitter=1.0),
]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """All cases with few maps."""
    return accuracy.run(12, 0, accuracy.cases(), BACKEND)


def test_centres_lie_where_a_case_says() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, border, near, _ = (accuracy.make_maps(case, 200, generator) for case in CASES)
    distances = [
        torch.minimum(s.centers, s.heatmaps.shape[-1] - 1 - s.centers).amin(-1) for s in (inside, border, near)
    ]
    assert distances[0].min() >= 7
    assert 2 < distances[1].max() <= 2.4
    assert (distances[2] == 0.5).all()
    # Each of the four sides.
    assert {tuple(row) for row in (border.centers < 7).tolist()} == {(True, False), (False, True), (False, False)}


def test_noise_and_peaks_are_those_asked_for() -> None:
    case = accuracy.USUAL["inside"]._replace(peak=(0.25, 0.25), noise=0.02)
    sample = accuracy.make_maps(case, 100, torch.Generator().manual_seed(1))
    without = accuracy.make_maps(case._replace(noise=0.0), 100, torch.Generator().manual_seed(1))
    assert (sample.heatmaps - without.heatmaps).std().item() == pytest.approx(0.02, rel=0.01)
    assert 0.23 < without.heatmaps.amax((1, 2)).min() <= 0.25


def test_pairs_are_as_far_apart_as_a_case_says() -> None:
    case = accuracy.Case("neighbours", peak=(0.9, 1.0), noise=0.0, distance=5.0)
    maps, centers = accuracy.make_pairs(case, 20, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        (centers[:, 0] - centers[:, 1]).norm(dim=-1), torch.full((20,), 5.0, dtype=torch.float64)
    )
    assert centers.min() >= 7
    assert centers.max() <= 64 - 1 - 7
    first, second = (maps[torch.arange(20), pixel[:, 1], pixel[:, 0]] for pixel in (centers + 0.5).long().unbind(1))
    assert (first > 0.93).all()
    assert ((second > 0.84) & (second <= 0.9)).all()


def test_what_a_pair_counts(record: dict[str, Any]) -> None:
    """Who stays on the pixel is never astray, and off by the pixel's distance."""
    rows = [row for row in record["rows"] if row["experiment"] == "neighbours"]
    assert len(rows) == len(accuracy.NEIGHBOURS)
    for row in rows:
        assert row["peaks"] == 24
        assert row["astray"]["argmax"] == 0
        assert 0.2 < row["errors"]["argmax"] < 0.6


def test_a_width_is_told_to_one_recipe() -> None:
    case = accuracy.of_width("inside", 0.25, 0.05, 6.0)
    sample = accuracy.make_maps(case, 50, torch.Generator().manual_seed(3))
    assert (sample.sigmas == 6).all()
    assert torch.minimum(sample.centers, 63 - sample.centers).min() >= 14
    row = accuracy.measure(case, 60, 0, BACKEND)
    assert row["errors"]["matched, width given"] < 1.25 * row["bound"] < row["errors"]["darkpose"]


def test_twins_count_that_exceed_the_threshold(record: dict[str, Any]) -> None:
    """A mean shift is no disagreement, which megvii's half a pixel has in either direction."""
    rows = [row for row in record["rows"] if row["experiment"] == "mirrored"]
    assert [row["peaks"] for row in rows] == [21, 32, 68]
    for row in rows:
        assert list(row["medians"]) == list(row["errors"])
        assert 0.1 < row["medians"]["matched"] < row["errors"]["matched"] < 1.02 * row["errors"]["darkpose"]
    assert rows[0]["errors"]["darkpose"] == pytest.approx(0.286, abs=0.001)


def test_annotators_clicks_scatter_and_are_rounded() -> None:
    case = accuracy.Case("jitter", peak=(1.0, 1.0), noise=0.0, jitter=0.0)
    sample = accuracy.make_maps(case, 20, torch.Generator().manual_seed(2))
    index = sample.heatmaps.flatten(1).argmax(-1)
    peaks = torch.stack([index % 64, index // 64], -1).double()
    assert torch.equal(peaks, (sample.centers + 0.5).floor())
    assert sample.heatmaps.amax((1, 2)).tolist() == [1.0] * 20
    scattered = accuracy.make_maps(case._replace(jitter=1.5), 200, torch.Generator().manual_seed(2))
    assert scattered.clicks is not None
    assert (scattered.clicks - scattered.centers[:, None]).std().item() == pytest.approx(1.5, rel=0.05)


def test_the_bound_inside_is_that_of_the_textbook() -> None:
    """Far from borders variances are 2 noise^2 / (pi peak^2), which makes the mean distance noise / peak."""
    case = accuracy.USUAL["inside"]._replace(peak=(0.5, 0.5))
    sample = accuracy.make_maps(case, 10, torch.Generator().manual_seed(3))
    sample = sample._replace(centers=torch.full((10, 2), 31.3, dtype=torch.float64))
    bound = accuracy.cramer_rao_bound(sample, 64, 0.01)
    assert bound.tolist() == pytest.approx([0.02] * 10, rel=1e-6)


def test_the_bound_is_the_information_of_numeric_derivatives() -> None:
    """At a border, where the unknowns are not independent."""
    sample = accuracy.make_maps(accuracy.USUAL["border"], 1, torch.Generator().manual_seed(4))

    def heatmap(parameters: torch.Tensor) -> torch.Tensor:
        x, y, peak, sigma = parameters
        blob = accuracy._gaussians(torch.stack([x, y])[None], sigma[None], 64)
        return (peak * blob).flatten()

    parameters = torch.cat([sample.centers[0], sample.peaks, sample.sigmas])
    jacobian = torch.autograd.functional.jacobian(heatmap, parameters)
    covariance = 0.01**2 * (jacobian.T @ jacobian).inverse()[:2, :2]
    errors = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean = (errors @ torch.linalg.cholesky(covariance).T).norm(dim=-1).mean().item()
    assert accuracy.cramer_rao_bound(sample, 64, 0.01).item() == pytest.approx(mean, rel=0.01)


def test_numbers_are_those_that_the_specification_expects() -> None:
    inside, border, _, jitter = (accuracy.measure(case, 1500, 0, BACKEND) for case in CASES)
    expected = {"argmax": 0.415, "quarter": 0.222, "darkpose": 0.0151, "mmpose_udp": 0.0152, "vitpose_hf": 0.035}
    for name, error in {**expected, "fit": 0.0142, "matched": 0.014}.items():
        assert inside["errors"][name] == pytest.approx(error, rel=0.1)
    assert inside["bound"] == pytest.approx(0.0138, rel=0.05)
    assert border["errors"]["fit"] == pytest.approx(0.027, rel=0.15)
    assert border["errors"]["matched"] == pytest.approx(border["bound"], rel=0.06)
    assert all(error > 0.25 for name, error in border["errors"].items() if name not in ("fit", "matched"))
    # Of a network that has learned from annotators who disagree.
    errors = jitter["errors"]
    assert errors["argmax"] > 1.1 * errors["quarter"] > 1.2 * errors["darkpose"] > jitter["annotators"]


def test_a_run_is_checked_written_and_read_again(record: dict[str, Any], tmp_path: Path) -> None:
    accuracy.check(record)
    names = [recipe.name for recipe in recipes.ALL]
    chosen = {
        "neighbours": [recipe.name for recipe in recipes.ALL if recipe.argmax_on != "blurred"],
        "widths": ["darkpose", "fit", "matched", "matched, width given"],
    }
    for row in record["rows"]:
        assert list(row["errors"]) == chosen.get(row["experiment"], names)
    results_folder, docs = tmp_path / "results", tmp_path / "docs"
    arguments = ["--output", str(results_folder), "--docs", str(docs)]
    assert accuracy.main([*arguments, "--check"]) == 2
    results_folder.mkdir()
    (results_folder / results.ACCURACY).write_text(json.dumps(record), encoding="utf-8")
    assert accuracy.main([*arguments, "--check"]) == 1
    assert accuracy.main([*arguments, "--report"]) == 0
    assert accuracy.main([*arguments, "--check"]) == 0
    text = (docs / "accuracy.md").read_text(encoding="utf-8")
    assert text.count("| fit |") == text.count("| matched |") == 13
    assert "nan" not in text
    record = copy.deepcopy(record)
    record["rows"].pop()
    (results_folder / results.ACCURACY).write_text(json.dumps(record), encoding="utf-8")
    assert accuracy.main([*arguments, "--check"]) == 2


def test_what_is_wrong_with_a_file_is_said(record: dict[str, Any]) -> None:
    for change, message in (
        ({"schema": 0}, "schema: got 0, expected 3"),
        ({"rows": None}, "rows: got None, expected list"),
        ({"options": {"maps": 2}}, "options: field 'seed' is missing"),
        ({"rows": [{**record["rows"][0], "errors": {"fit": math.inf}}]}, r"rows\[0\].errors.fit: got inf"),
    ):
        with pytest.raises(results.SchemaError, match=message):
            accuracy.check({**record, **change})


@pytest.mark.parametrize(
    ("error", "text"),
    [(None, ""), (1e-7, "0"), (0.000171, "0.000171"), (0.4151, "0.415"), (12.3, "12.3"), (251.2, "251")],
)
def test_pixels(error: float | None, text: str) -> None:
    assert published.pixels(error) == text


def test_the_committed_page_is_what_its_file_says() -> None:
    assert accuracy.main(["--check"]) == 0


def test_the_readme_says_what_the_file_says() -> None:
    root = Path(__file__).resolve().parents[2]
    record = accuracy.load(root / "benchmarks" / "results" / results.ACCURACY)
    errors = accuracy.row_of(record, accuracy.USUAL["border"])["errors"]
    fit, matched, published = errors.pop("fit"), errors.pop("matched"), errors.values()
    sentence = (
        f"err by {min(published):.2f} to {max(published):.2f} pixels in the mean, `FIT` by {fit:.3f} and `MATCHED` by "
        f"{matched:.3f}"
    )
    assert sentence in " ".join((root / "README.md").read_text(encoding="utf-8").split())
