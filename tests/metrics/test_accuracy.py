"""How far off keypoints are: against loops over plain numbers, and where nothing is annotated."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dark_kernels import metrics, oks, testing


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


def poses(dimensions: int = 2, people: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coords and targets [people, 5, D], sizes [people] and a mask: missing predictions, a keypoint that is never
    annotated, a target that is not finite and a person without a size."""
    generator = torch.Generator().manual_seed(dimensions)
    targets = torch.rand(people, 5, dimensions, generator=generator, dtype=torch.float64) * 100
    coords = targets + torch.randn(targets.shape, generator=generator, dtype=torch.float64) * 8
    sizes = 20 + 60 * torch.rand(people, generator=generator, dtype=torch.float64)
    mask = torch.rand(people, 5, generator=generator) < 0.7
    coords[0, 0], coords[1, 2] = math.nan, math.inf
    mask[0, 0] = mask[1, 2] = True
    mask[:, 3] = False
    targets[2, 1, 0] = math.nan
    sizes[4] = 0
    return coords, targets, sizes, mask


def by_loops(
    coords: Tensor, targets: Tensor, sizes: Any, mask: Tensor, value: Callable[[float], float]
) -> list[list[float]]:
    """Of each keypoint the values of the distances that count."""
    found: list[list[float]] = [[] for _ in range(coords.shape[1])]
    for n in range(coords.shape[0]):
        size = float(sizes[n]) if isinstance(sizes, Tensor) else sizes
        for k in range(coords.shape[1]):
            x, t = coords[n, k].tolist(), targets[n, k].tolist()
            if not mask[n, k] or not all(map(math.isfinite, t)) or size <= 0:
                continue
            missing = not all(map(math.isfinite, x))
            found[k].append(value(math.inf if missing else math.dist(x, t) / size))
    return found


def averages(found: list[list[float]]) -> dict[str, Any]:
    every = [value for values in found for value in values]
    each = [sum(values) / len(values) if values else math.nan for values in found]
    known = [value for value in each if not math.isnan(value)]
    return {"micro": sum(every) / len(every), "macro": sum(known) / len(known), "none": each}


AVERAGES = pytest.mark.parametrize("average", ["micro", "macro", "none"])


@pytest.mark.parametrize("dimensions", [2, 3])
@AVERAGES
def test_pck_is_the_share_below_the_threshold(dimensions: int, average: str) -> None:
    coords, targets, sizes, mask = poses(dimensions)
    thresholds = (0.05, 0.1, 0.2)
    found = metrics.pck(coords, targets, sizes, thresholds, mask, average)
    for threshold, shares in zip(thresholds, found, strict=True):
        expected = averages(by_loops(coords, targets, sizes, mask, lambda each, t=threshold: float(each < t)))[average]
        assert shares.tolist() == pytest.approx(expected, nan_ok=True)
        torch.testing.assert_close(
            metrics.pck(coords, targets, sizes, threshold, mask, average), shares, equal_nan=True
        )
    torch.testing.assert_close(
        metrics.pck(coords, targets, sizes, torch.tensor(thresholds, dtype=torch.float64), mask, average), found,
        equal_nan=True,
    )  # fmt: skip
    of_all = averages(by_loops(coords, targets, 40.0, mask, lambda each: float(each < 0.1)))[average]
    assert metrics.pck(coords, targets, 40.0, 0.1, mask, average).tolist() == pytest.approx(of_all, nan_ok=True)


def test_pck_and_pckh_at_their_thresholds() -> None:
    """A keypoint at the threshold is none for PCK, as mmpose counts, and one for PCKh, as MPII does."""
    targets = torch.zeros(1, 4, 2)
    coords = torch.tensor([[[4.9, 0.0], [5.0, 0.0], [0.0, 5.1], [math.nan, 0.0]]])
    sizes = torch.tensor([10.0])
    assert float(metrics.pck(coords, targets, sizes, 0.5)) == 1 / 4
    assert float(metrics.pckh(coords, targets, sizes, 0.5)) == 2 / 4
    assert metrics.pckh(coords, targets, sizes, 0.5, average="none").tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("dimensions", [2, 3])
@AVERAGES
def test_errors_are_means_of_distances(dimensions: int, average: str) -> None:
    coords, targets, sizes, mask = poses(dimensions)
    for measured in (True, False):
        if measured:  # without what is missing, which makes them infinite
            mask[0, 0] = mask[1, 2] = False
        expected = averages(by_loops(coords, targets, 1.0, mask, float))[average]
        assert metrics.epe(coords, targets, mask, average).tolist() == pytest.approx(expected, nan_ok=True)
        expected = averages(by_loops(coords, targets, sizes, mask, float))[average]
        assert metrics.nme(coords, targets, sizes, mask, average).tolist() == pytest.approx(expected, nan_ok=True)
        mask = poses(dimensions)[3]
    assert math.isinf(metrics.epe(coords, targets, mask))


@AVERAGES
def test_auc_is_the_mean_of_pck(average: str) -> None:
    coords, targets, sizes, mask = poses()
    of_mmpose = [i / 20 for i in range(20)]
    for thresholds, given in (
        (of_mmpose, 20),
        ((0.0, 0.1, 0.4), (0.0, 0.1, 0.4)),
        ((0.1, 0.3), torch.tensor([0.1, 0.3])),
    ):
        curves = [
            averages(by_loops(coords, targets, sizes, mask, lambda each, t=float(threshold): float(each < t)))[average]
            for threshold in thresholds
        ]
        expected = torch.tensor(curves, dtype=torch.float64).mean(0).tolist()
        assert metrics.auc(coords, targets, sizes, given, mask, average).tolist() == pytest.approx(
            expected, nan_ok=True
        )
    assert float(metrics.auc(targets[3:], targets[3:], 30.0)) == pytest.approx(0.95)
    three = torch.zeros(2, 4, 3)
    millimetres = torch.linspace(0, 150, 31)
    assert float(
        metrics.auc(three + 100 / math.sqrt(3) + 0.1, three, 1.0, millimetres, average="micro")
    ) == pytest.approx(10 / 31)


NOTHING = {
    "pck": lambda c, t, mask, average: metrics.pck(c, t, 10.0, 0.1, mask, average),
    "pckh": lambda c, t, mask, average: metrics.pckh(c, t, torch.ones(c.shape[:-2]), 0.5, mask, average),
    "epe": metrics.epe,
    "nme": lambda c, t, mask, average: metrics.nme(c, t, 10.0, mask, average),
    "auc": lambda c, t, mask, average: metrics.auc(c, t, 10.0, 20, mask, average),
}


@pytest.mark.parametrize("name", NOTHING)
@AVERAGES
def test_nan_where_nothing_is_annotated(name: str, average: str) -> None:
    measure = NOTHING[name]
    coords, targets, _, _ = poses()
    for mask in (torch.zeros(7, 5), torch.zeros(7, 5, dtype=torch.bool)):
        assert measure(coords, targets, mask, average).isnan().all()
    assert measure(coords[:0], targets[:0], None, average).isnan().all()
    assert measure(coords[:, :0], targets[:, :0], None, average).isnan().all()
    seen = torch.zeros(7, 5)
    seen[:, 4] = 2
    of_keypoints = measure(coords, targets, seen, "none")
    assert of_keypoints.shape == (5,)
    assert of_keypoints.isnan().tolist() == [True] * 4 + [False]
    torch.testing.assert_close(measure(coords, targets, seen, "macro"), of_keypoints[4])
    torch.testing.assert_close(measure(coords, targets, seen, "micro"), of_keypoints[4])


@pytest.mark.parametrize("name", NOTHING)
@AVERAGES
def test_leading_dimensions_and_dtypes(name: str, average: str) -> None:
    """Any number of them, of halves and of what requires grad; inputs stay as they are."""
    measure = NOTHING[name]
    coords, targets, _, mask = (each[:6] for each in poses())
    coords, targets = coords.half(), targets.half()
    expected = measure(coords.double(), targets.double(), mask, average)
    assert expected.dtype == torch.float64
    with testing.assert_unchanged(coords), testing.assert_unchanged(targets):
        found = measure(coords.clone().requires_grad_(), targets.clone().requires_grad_(), mask, average)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, equal_nan=True)
    leading = [each.unflatten(0, (2, 3)) for each in (coords, targets, mask)]
    torch.testing.assert_close(measure(*leading, average), expected, equal_nan=True)
    single = measure(coords[5], targets[5], mask[5], average)
    torch.testing.assert_close(single, measure(coords[5:], targets[5:], mask[5:], average), equal_nan=True)


def test_sizes_from_boxes() -> None:
    boxes = torch.tensor([[5.0, 6, 30, 40], [0, 0, 9, 4], [1, 1, 0, 5], [1, 1, math.nan, 5], [1, 1, -2, -2]])
    for kind, expected in (("longest", [40, 9]), ("diagonal", [50, math.sqrt(97)]), ("area", [math.sqrt(1200), 6]),
                           ("head", [30, 0.6 * math.sqrt(97)])):  # fmt: skip
        found = metrics.sizes_from_boxes(boxes, kind)
        assert found.dtype == torch.float64
        assert found[:2].tolist() == pytest.approx(expected)
        assert found[2:].isnan().all()


def test_sizes_from_keypoints() -> None:
    targets = torch.tensor([[[0.0, 0], [9, 9], [3, 4]], [[math.nan, 0], [1, 1], [2, 2]], [[0.0, 0], [0, 0], [6, 8]]])
    found = metrics.sizes_from_keypoints(targets, 0, 2, torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 0]]))
    assert float(found[0]) == 5
    assert found[1:].isnan().all()
    assert float(metrics.sizes_from_keypoints(targets, 2, 0)[2]) == 10
    # Such persons do not count.
    assert float(metrics.nme(targets + 5, targets, found, average="micro")) == pytest.approx(math.sqrt(2))


HERE = torch.ones(3, 4, 2)
ANY_NUMBER = [np.float32, np.float64, np.array, torch.tensor, Decimal]


@pytest.mark.parametrize("kind", ANY_NUMBER, ids=lambda kind: kind.__name__)
def test_numbers_of_any_type(kind: Callable[[float], Any]) -> None:
    """Half and quarter are the same in all of them."""
    generator = torch.Generator().manual_seed(3)
    coords, targets = (torch.rand(5, 4, 2, generator=generator) for _ in range(2))
    calls: list[Callable[[Any], Tensor]] = [
        lambda number: metrics.pck(coords, targets, number),
        lambda number: metrics.nme(coords, targets, number),
        lambda number: metrics.auc(coords, targets, number),
        lambda number: metrics.pck(coords, targets, 1.0, number),
        lambda number: metrics.pck(coords, targets, 1.0, [number, number]),
        lambda number: metrics.pckh(coords, targets, torch.ones(5), number),
        lambda number: metrics.auc(coords, targets, 1.0, [number, 0.25]),
        lambda number: metrics.coverage(coords, torch.eye(2).expand(5, 4, 2, 2), targets, [number]),
        lambda number: torch.tensor(metrics.chi_square(number)),
        lambda number: oks(coords, targets, torch.ones(5), torch.ones(5), [number] * 4),
    ]
    for call in calls:
        torch.testing.assert_close(call(kind(0.5)), call(0.5), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_integers_of_any_type(kind: Callable[[int], Any]) -> None:
    generator = torch.Generator().manual_seed(4)
    coords, targets = (torch.rand(5, 4, 2, generator=generator) for _ in range(2))
    covariances = torch.eye(2).expand(5, 4, 2, 2)
    calls: list[Callable[[Any], Tensor]] = [
        lambda number: metrics.pck(coords, targets, 1.0, number),
        lambda number: metrics.auc(coords, targets, number, number),
        lambda number: metrics.sizes_from_keypoints(targets, number, 1),
        lambda number: metrics.sizes_from_keypoints(targets, 1, number),
        lambda number: metrics.calibration_error(coords, covariances, targets, number),
    ]
    for call in calls:
        torch.testing.assert_close(call(kind(3)), call(3), rtol=0, atol=0)


def test_thresholds_of_any_sequence() -> None:
    generator = torch.Generator().manual_seed(5)
    coords, targets = (3 * torch.rand(5, 4, 2, generator=generator) for _ in range(2))
    for measure in (metrics.pck, metrics.auc):
        expected = measure(coords, targets, 1.0, (1, 2))
        for given in ([1, 2], np.array([1, 2]), torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), range(1, 3)):
            torch.testing.assert_close(measure(coords, targets, 1.0, given), expected, rtol=0, atol=0)
    # One number for all persons, but the size of the one person there is does not count where it is none.
    assert metrics.pck(coords[0], targets[0], torch.tensor(0.0)).isnan()
    with pytest.raises(ValueError, match=r"sizes: got 0\.0, expected a positive number"):
        metrics.pck(coords, targets, torch.tensor(0.0))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"head_sizes: got shape \[2\], expected \[3\]", lambda: metrics.pckh(HERE, HERE, torch.ones(2))),
        (ValueError, "threshold: got -1, expected a positive number",
         lambda: metrics.pckh(HERE, HERE, torch.ones(3), -1)),
        (ValueError, "average: got 'mean', expected one of 'micro', 'macro', 'none'",
         lambda: metrics.pck(HERE, HERE, 1.0, average="mean")),
        (ValueError, r"sizes: got shape \[4\], expected \[3\], one for each person",
         lambda: metrics.pck(HERE, HERE, torch.ones(4))),
        (ValueError, "sizes: got 0, expected a positive number", lambda: metrics.nme(HERE, HERE, 0)),
        (ValueError, "threshold: got 0.0, expected a positive number",
         lambda: metrics.pck(HERE, HERE, 1.0, (0.1, 0.0))),
        (ValueError, "threshold: got none, expected at least one", lambda: metrics.pck(HERE, HERE, 1.0, ())),
        (TypeError, "threshold: got str '0.5', expected a number or several",
         lambda: metrics.pck(HERE, HERE, 1.0, "0.5")),
        (TypeError, "threshold: got bool True, expected a number", lambda: metrics.pck(HERE, HERE, 1.0, True)),
        (TypeError, "threshold: got bool True, expected", lambda: metrics.pck(HERE, HERE, 1.0, np.bool_(True))),
        (TypeError, "threshold: got bool True, expected", lambda: metrics.pck(HERE, HERE, 1.0, torch.tensor(True))),
        (TypeError, "threshold: got str '0.5', expected a number", lambda: metrics.pck(HERE, HERE, 1.0, ["0.5"])),
        (TypeError, "threshold: got dict", lambda: metrics.pck(HERE, HERE, 1.0, {0.5: 1})),
        (ValueError, "threshold: got 2 dimensions, expected", lambda: metrics.pck(HERE, HERE, 1.0, HERE[0])),
        (TypeError, "threshold: got complex 1j, expected", lambda: metrics.pck(HERE, HERE, 1.0, [torch.tensor(1j)])),
        (TypeError, "thresholds: got float 2.5, expected an integer",
         lambda: metrics.auc(HERE, HERE, 1.0, np.float32(2.5))),
        (ValueError, "thresholds: got 0, expected at least 1", lambda: metrics.auc(HERE, HERE, 1.0, 0)),
        (ValueError, "thresholds: got -0.1, expected numbers from 0",
         lambda: metrics.auc(HERE, HERE, 1.0, (0.1, -0.1))),
        (ValueError, r"coords: got shape \[3, 4, 4\], expected \[..., K, 2\] or \[..., K, 3\]",
         lambda: metrics.epe(torch.ones(3, 4, 4), torch.ones(3, 4, 4))),
        (ValueError, r"coords: got shape \[2\], expected 2 dimensions",
         lambda: metrics.epe(torch.ones(2), torch.ones(2))),
        (ValueError, r"targets: got shape \[3, 4, 3\], expected \[3, 4, 2\]",
         lambda: metrics.epe(HERE, torch.ones(3, 4, 3))),
        (ValueError, r"mask: got shape \[3\], expected \[3, 4\]", lambda: metrics.epe(HERE, HERE, torch.ones(3))),
        (ValueError, r"mask: got a tensor on meta, expected cpu",
         lambda: metrics.epe(HERE, HERE, torch.ones(3, 4, device="meta"))),
        (ValueError, r"boxes: got shape \[3, 2\], expected \[..., 4\]",
         lambda: metrics.sizes_from_boxes(torch.ones(3, 2))),
        (ValueError, "kind: got 'torso', expected one of 'longest'",
         lambda: metrics.sizes_from_boxes(torch.ones(3, 4), "torso")),
        (ValueError, "second: got 4, expected one of 4 keypoints", lambda: metrics.sizes_from_keypoints(HERE, 0, 4)),
    ],
)  # fmt: skip
def test_refuses(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("call", [
    lambda coords, targets, sizes, mask: metrics.distances(coords, targets),
    lambda coords, targets, sizes, mask: metrics.pck(coords, targets, sizes, (0.1, 0.2), mask),
    lambda coords, targets, sizes, mask: metrics.pckh(coords, targets, sizes, mask=mask),
    lambda coords, targets, sizes, mask: metrics.epe(coords, targets, mask, "none"),
    lambda coords, targets, sizes, mask: metrics.nme(coords, targets, sizes, mask),
    lambda coords, targets, sizes, mask: metrics.auc(coords, targets, sizes, mask=mask),
    lambda coords, targets, sizes, mask: metrics.sizes_from_keypoints(targets, 0, 1, mask),
    lambda coords, targets, sizes, mask: metrics.sizes_from_boxes(coords.reshape(-1, 4), "area"),
])  # fmt: skip
def test_arrays_give_arrays(call: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    coords, targets = (torch.rand(5, 4, 2, generator=generator) * 20 for _ in range(2))
    sizes, mask = torch.full((5,), 30.0), torch.rand(5, 4, generator=generator) > 0.3
    found = call(*(each.numpy() for each in (coords, targets, sizes, mask)))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, call(coords, targets, sizes, mask).numpy())
