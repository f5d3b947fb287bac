"""The example's numbers, on inputs whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch

from examples import measures


def test_errors_count_what_was_not_found() -> None:
    coords = torch.tensor([[3.0, 4.0], [math.nan, math.nan]])
    assert measures.errors(coords, torch.zeros(2, 2)).tolist() == [5.0, math.inf]


def test_rank_correlation() -> None:
    values = torch.tensor([0.1, 0.5, 0.2, 9.0])
    assert measures.rank_correlation(values, values.exp()) == pytest.approx(1)
    assert measures.rank_correlation(values, -values) == pytest.approx(-1)
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: worked out by hand.
    tied = measures.rank_correlation(torch.tensor([0.0, 1, 1, 2]), torch.tensor([0.0, 1, 2, 3]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert measures.rank_correlation(torch.tensor([1.0, 2, math.inf]), torch.tensor([1.0, 2, 3])) == pytest.approx(1)


def test_sigma_is_that_of_the_circle_of_the_same_area() -> None:
    covariances = torch.tensor([[[4.0, 0.0], [0.0, 4.0]], [[16.0, 0.0], [0.0, 1.0]]])
    assert measures.sigmas(covariances).tolist() == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_coverage_of_a_true_gaussian(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.7]], dtype=torch.float64)
    count = 20000
    keypoints = torch.randn(count, 2, generator=generator, dtype=torch.float64) @ factor.T
    covariances = (factor @ factor.T / scale).expand(count, 2, 2)
    squared = measures.squared_distances(torch.zeros(count, 2), covariances, keypoints)
    for level, share in measures.coverage(squared, scale).items():
        p = int(level) / 100
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / count))


def test_levels_are_those_of_the_report() -> None:
    from examples import report

    assert tuple(str(level) for level in measures.LEVELS) == report.LEVELS
