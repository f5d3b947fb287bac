"""Metrics on inputs whose numbers are known."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import COCO_KAPPAS, Keypoints, metrics, oks, testing

COUNT = 20_000


def true_gaussians(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Means, covariances times `scale` and targets that are drawn from them: float64 [COUNT, ...]."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(COUNT, 2, 2, generator=generator, dtype=torch.float64)
    factors = factors + 2 * torch.eye(2)
    means = 100 * torch.rand(COUNT, 2, generator=generator, dtype=torch.float64)
    normals = torch.randn(COUNT, 2, 1, generator=generator, dtype=torch.float64)
    covariances = factors @ factors.mT
    return means, covariances * scale, means + (factors @ normals)[..., 0]


# --- accuracy ----------------------------------------------------------------------------------------------


def test_distances_of_what_was_not_found_are_infinite() -> None:
    coords = torch.tensor([[3.0, 4.0], [math.nan, math.nan], [math.inf, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [math.nan, 0.0]])
    found = metrics.distances(coords, targets)
    assert found.dtype == torch.float64
    assert found[:3].tolist() == [5.0, math.inf, math.inf]
    assert found[3].isnan()


def test_pckh_by_hand() -> None:
    targets = torch.zeros(3, 4, 2)
    coords = targets.clone()
    coords[0, :, 0] = torch.tensor([4.9, 5.0, 5.1, math.nan])  # a head of 10: half of them
    coords[1, :, 1] = torch.tensor([1.0, 2.0, 100.0, 0.0])  # a head of 2, the third not annotated
    coords[2] = 0  # no size: no person
    sizes = torch.tensor([10.0, 2.0, 0.0])
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2] = False
    assert float(metrics.pckh(coords, targets, sizes, mask=mask)) == pytest.approx((2 + 2) / 7)
    assert float(metrics.pckh(coords, targets, sizes, 0.499, mask)) == pytest.approx((1 + 1) / 7)
    assert float(metrics.pckh(coords, targets, sizes)) == pytest.approx(4 / 8)
    targets[0] = math.nan
    assert float(metrics.pckh(coords, targets, sizes)) == pytest.approx(2 / 4)
    assert metrics.pckh(coords, targets, torch.zeros(3)).isnan()


# --- uncertainty -------------------------------------------------------------------------------------------


def test_squared_distances_by_hand() -> None:
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 9.0]], [[2.0, 1.0], [1.0, 2.0]]])
    targets = torch.tensor([[2.0, 3.0], [1.0, 1.0]])
    assert metrics.squared_distances(torch.zeros(2, 2), covariances, targets).tolist() == pytest.approx([2, 2 / 3])


def test_chi_square_is_the_quantile() -> None:
    assert metrics.chi_square(0.95) == pytest.approx(5.991464547)
    assert metrics.chi_square(0) == 0
    for level in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="level: got"):
            metrics.chi_square(level)


@pytest.mark.parametrize("scale", [1.0, 0.25, 4.0])
def test_coverage_of_a_gaussian(scale: float) -> None:
    """With covariances that are off by a factor, the ellipse of level p holds 1 - (1 - p)^factor."""
    levels = (0.1, *metrics.LEVELS)
    shares = metrics.coverage(*true_gaussians(scale), levels)
    for level, share in zip(levels, shares.tolist(), strict=True):
        expected = 1 - (1 - level) ** scale
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / COUNT))


def test_calibration_error_of_a_gaussian() -> None:
    coords, covariances, targets = true_gaussians()
    # A share is off by less than half a standard error of a coin on average.
    assert metrics.calibration_error(coords, covariances, targets).max() < 2 / math.sqrt(COUNT)
    centers = (torch.arange(15, dtype=torch.float64) + 0.5) / 15
    wide = metrics.calibration_error(coords, covariances * 1e8, targets)
    # All at one half, as many above as below: a step.
    step = torch.heaviside(centers - 0.5, torch.tensor(0.5, dtype=torch.float64))
    assert wide.tolist() == pytest.approx([float((centers - step).abs().mean())] * 2, abs=0.001)
    far = metrics.calibration_error(coords, covariances, targets + torch.tensor([1e6, 0.0]))
    assert far[0] == pytest.approx(0.5)
    assert far[1] < 0.02


def test_calibration_error_by_hand() -> None:
    """Three targets at the quantiles .1, .2 and .6 of x, and two bins: the centres are .25 and .75."""
    normal = torch.distributions.Normal(0.0, 2.0)
    x = normal.icdf(torch.tensor([0.1, 0.2, 0.6]))
    targets = torch.stack([x, torch.zeros(3)], dim=-1)
    covariances = torch.tensor([[4.0, 1.0], [1.0, 9.0]]).expand(3, 2, 2)
    found = metrics.calibration_error(torch.zeros(3, 2), covariances, targets, bins=2)
    assert float(found[0]) == pytest.approx(((2 / 3 - 0.25) + (1 - 0.75)) / 2)
    assert float(found[1]) == pytest.approx((0.25 + (1 - 0.75)) / 2)  # all at one half


def test_negative_log_likelihood_is_the_distributions() -> None:
    coords, covariances, targets = (each[:50] for each in true_gaussians())
    expected = -torch.distributions.MultivariateNormal(coords, covariances).log_prob(targets).mean()
    torch.testing.assert_close(metrics.negative_log_likelihood(coords, covariances, targets), expected)


def test_sigma_is_that_of_the_circle_of_the_same_area() -> None:
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 4.0]], [[16.0, 0.0], [0.0, 1.0]], [[25.0, 0.0], [0.0, 25.0]]])
    assert metrics.sigmas(covariances).tolist() == pytest.approx([2.0, 2.0, 5.0])
    assert float(metrics.sharpness(covariances)) == pytest.approx(3.0)
    assert float(metrics.sharpness(covariances, torch.tensor([1, 0, 1]))) == pytest.approx(3.5)


MEANS: dict[str, Callable[..., Tensor]] = {
    "coverage": metrics.coverage,
    "calibration_error": metrics.calibration_error,
    "negative_log_likelihood": metrics.negative_log_likelihood,
    "sharpness": lambda coords, covariances, targets, mask=None: metrics.sharpness(covariances, mask),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_masks_leave_out(name: str, dtype: torch.dtype) -> None:
    measure, (coords, covariances, targets) = MEANS[name], (each[:60].clone() for each in true_gaussians())
    expected = measure(coords[:40], covariances[:40], targets[:40])
    mask = (torch.arange(60) < 40).to(dtype)
    for bad in (0.0, math.nan, math.inf):
        for each in (coords, covariances, targets):
            each[40:] = bad
        torch.testing.assert_close(measure(coords, covariances, targets, mask=mask), expected)
    leading = (each.unflatten(0, (3, 20)) for each in (coords, covariances, targets))
    torch.testing.assert_close(measure(*leading, mask=mask.unflatten(0, (3, 20))), expected)


@pytest.mark.parametrize("name", MEANS)
def test_what_has_no_distribution(name: str) -> None:
    """A missing prediction is outside of every ellipse, and left out of what is about its distribution."""
    measure, (coords, covariances, targets) = MEANS[name], (each[:60].clone() for each in true_gaussians())
    expected = measure(coords[:57], covariances[:57], targets[:57])
    covariances[57] = math.nan
    covariances[58] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    coords[59], covariances[59] = math.nan, math.nan
    assert metrics.has_distribution(coords, covariances).tolist() == [True] * 57 + [False] * 3
    found = measure(coords, covariances, targets)
    torch.testing.assert_close(found, expected * (57 / 60 if name == "coverage" else 1))
    nobody = measure(coords, covariances, targets, mask=torch.zeros(60))
    assert bool(nobody.isnan().all())
    assert measure(coords[:0], covariances[:0], targets[:0]).isnan().all()


def test_float64_inside_and_inputs_untouched(device: torch.device) -> None:
    """Of halves and of what requires grad."""
    inputs = [each[:100].half().to(device) for each in true_gaussians()]
    doubled = [each.double().cpu() for each in inputs]
    for measure in MEANS.values():
        with testing.assert_unchanged(inputs[0]), testing.assert_unchanged(inputs[1]):
            found = measure(inputs[0].clone().requires_grad_(), *inputs[1:])
        assert found.dtype == torch.float64
        assert not found.requires_grad
        torch.testing.assert_close(found.cpu(), measure(*doubled))


def test_rank_correlation() -> None:
    values = torch.tensor([0.1, 0.5, 0.2, 9.0])
    assert float(metrics.rank_correlation(values, values.exp())) == pytest.approx(1)
    assert float(metrics.rank_correlation(values, -values)) == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: worked out by hand.
    tied = metrics.rank_correlation(torch.tensor([0.0, 1, 1, 2]), torch.tensor([0.0, 1, 2, 3]))
    assert float(tied) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    infinite = metrics.rank_correlation(torch.tensor([1.0, 2, math.inf]), torch.tensor([1.0, 2, 3]))
    assert float(infinite) == pytest.approx(1)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"coords: got shape \[3\], expected \[..., 2\]", lambda: metrics.distances(torch.ones(3), torch.ones(3))),
        (r"targets: got shape \[2, 2\], expected \[3, 2\]",
         lambda: metrics.distances(torch.ones(3, 2), torch.ones(2, 2))),
        (r"coords: got shape \[3\], expected \[..., 2\]",
         lambda: metrics.has_distribution(torch.ones(3), torch.ones(3, 2, 2))),
        (r"covariances: got shape \[3, 2\], expected \[..., 2, 2\]", lambda: metrics.sigmas(torch.ones(3, 2))),
        (r"covariances: got shape \[2, 2, 2\], expected \[3, 2, 2\]",
         lambda: metrics.coverage(torch.ones(3, 2), torch.ones(2, 2, 2), torch.ones(3, 2))),
        (r"mask: got shape \[2\], expected \[3\]",
         lambda: metrics.coverage(torch.ones(3, 2), torch.ones(3, 2, 2), torch.ones(3, 2), mask=torch.ones(2))),
        ("bins: got 0, expected at least 1",
         lambda: metrics.calibration_error(torch.ones(3, 2), torch.ones(3, 2, 2), torch.ones(3, 2), bins=0)),
        (r"head_sizes: got shape \[2\], expected \[3\]",
         lambda: metrics.pckh(torch.ones(3, 4, 2), torch.ones(3, 4, 2), torch.ones(2))),
        ("threshold: got -1, expected a positive number",
         lambda: metrics.pckh(torch.ones(3, 4, 2), torch.ones(3, 4, 2), torch.ones(3), -1)),
        ("image_ids: got 1 of them, expected 2",
         lambda: metrics.coco_results(Keypoints(torch.ones(2, 3, 2), torch.ones(2, 3)), [1])),
        (r"pose_scores: got shape \[3\], expected \[2\]",
         lambda: metrics.coco_results(Keypoints(torch.ones(2, 3, 2), torch.ones(2, 3)), [1, 2], 1, torch.ones(3))),
    ],
)  # fmt: skip
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_levels_are_several() -> None:
    with pytest.raises(TypeError, match=r"levels: got 0\.5, expected a sequence"):
        metrics.coverage(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1, 2), levels=0.5)  # type: ignore[arg-type]


# --- average precision -------------------------------------------------------------------------------------


def test_coco_results_are_json() -> None:
    coords = torch.tensor([[[1.0, 2.0], [math.nan, 4.0]], [[5.0, 6.0], [7.0, 8.5]]], dtype=torch.float16)
    scores = torch.tensor([[0.5, 0.75], [1.0, 0.5]])
    found = metrics.coco_results(Keypoints(coords, scores), torch.tensor([7, 3]), category_id=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == [
        {"image_id": 7, "category_id": 2, "keypoints": [1, 2, 0.5, 0, 0, 0], "score": 0.25},
        {"image_id": 3, "category_id": 2, "keypoints": [5, 6, 1, 7, 8.5, 0.5], "score": 0.75},
    ]
    named = metrics.coco_results(Keypoints(coords, scores), [7, 3], pose_scores=torch.tensor([0.125, 2.0]))
    assert [each["score"] for each in named] == [0.125, 2.0]
    with pytest.raises(TypeError, match=r"keypoints: got tuple, expected dark_kernels\.Keypoints"):
        metrics.coco_results((coords, scores), [7, 3])  # type: ignore[arg-type]


def person(generator: torch.Generator, image: int, identity: int, area: float) -> dict[str, Any]:
    xy = torch.rand(17, 2, generator=generator) * area**0.5 + 50
    keypoints = torch.cat([xy, torch.full((17, 1), 2.0)], dim=1).flatten().tolist()
    low, high = xy.amin(0), xy.amax(0)
    return {
        "id": identity, "image_id": image, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17, "iscrowd": 0,
        "area": area, "bbox": [*low.tolist(), *(high - low).tolist()],
    }  # fmt: skip


def dataset(*areas: float) -> tuple[dict[str, Any], Keypoints]:
    """Annotations of one person an image, and the same people as predictions with a score of 0.5."""
    generator = torch.Generator().manual_seed(1)
    people = [person(generator, i + 1, i + 11, area) for i, area in enumerate(areas)]
    annotations = {
        "images": [{"id": i + 1, "width": 640, "height": 480} for i in range(len(areas))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }
    coords = torch.tensor([each["keypoints"] for each in people], dtype=torch.float64).view(-1, 17, 3)[..., :2]
    return annotations, Keypoints(coords, torch.full(coords.shape[:2], 0.5, dtype=torch.float64))


@pytest.fixture
def evaluates() -> None:
    pytest.importorskip("faster_coco_eval", reason="the extra `metrics` is not installed")


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_what_is_perfect(tmp_path: Path) -> None:
    annotations, keypoints = dataset(50.0**2, 200.0**2)
    results = metrics.coco_results(keypoints, [1, 2])
    before = copy.deepcopy((annotations, results))
    found = metrics.oks_average_precision(results, annotations)
    assert set(found) == {
        "AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
    }  # fmt: skip
    assert all(value == pytest.approx(1) for value in found.values())
    assert (annotations, results) == before
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations))
    assert metrics.oks_average_precision(results, path) == found
    assert metrics.oks_average_precision(results, str(path)) == found


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_a_known_similarity() -> None:
    """Every keypoint as far off as its kappa makes a similarity of 0.72: found up to a threshold of 0.7."""
    annotations, keypoints = dataset(100.0**2)
    shift = 2 * torch.tensor(COCO_KAPPAS, dtype=torch.float64) * 100 * math.sqrt(-2 * math.log(0.72))
    keypoints.coords[0, :, 0] += shift
    found = metrics.oks_average_precision(metrics.coco_results(keypoints, [1]), annotations)
    assert found["AP"] == found["AP_large"] == pytest.approx(0.5)
    assert (found["AP50"], found["AP75"]) == (pytest.approx(1), 0)
    assert math.isnan(found["AP_medium"])
    true_coords = torch.tensor(annotations["annotations"][0]["keypoints"], dtype=torch.float64).view(1, 17, 3)[..., :2]
    area = torch.tensor([100.0**2], dtype=torch.float64)
    assert float(oks(keypoints.coords, true_coords, area, area)) == pytest.approx(0.72)


@pytest.mark.usefixtures("evaluates")
def test_average_precision_counts_false_poses_and_missing_ones() -> None:
    """Two people in two images: one found behind a false pose of a higher score, one not found."""
    annotations, keypoints = dataset(100.0**2, 100.0**2)
    coords = torch.cat([keypoints.coords[:1] + 500, keypoints.coords[:1]])
    poses = Keypoints(coords, torch.ones(2, 17))
    results = metrics.coco_results(poses, [1, 1], pose_scores=torch.tensor([0.9, 0.8]))
    found = metrics.oks_average_precision(results, annotations)
    # A precision of a half up to a recall of a half, at the recalls 0, 0.01, ..., 1.
    assert found["AP"] == pytest.approx(0.5 * 51 / 101)
    assert found["AR"] == pytest.approx(0.5)
    assert metrics.oks_average_precision([], annotations)["AP"] == 0


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_other_keypoints() -> None:
    annotations, keypoints = dataset(100.0**2)
    annotations["annotations"][0]["keypoints"] = annotations["annotations"][0]["keypoints"][:9]
    few = Keypoints(keypoints.coords[:, :3], keypoints.scores[:, :3])
    results = metrics.coco_results(few, [1])
    assert metrics.oks_average_precision(results, annotations, (0.1, 0.1, 0.2))["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="results: got a pose of 3 keypoints, expected 17"):
        metrics.oks_average_precision(results, annotations)
    results[0]["image_id"] = 8
    with pytest.raises(ValueError, match="results: got a pose of image 8, expected one of the annotations"):
        metrics.oks_average_precision(results, annotations, (0.1, 0.1, 0.2))


def test_average_precision_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'dark-kernels\[metrics\]'"):
        metrics.oks_average_precision([], {})
