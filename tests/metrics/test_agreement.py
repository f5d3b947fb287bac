"""Kappas of data sets, and those that are measured."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dark_kernels import COCO_KAPPAS, metrics, oks

COUNTS = {
    "coco": 17, "coco_wholebody": 133, "hand": 21, "face": 68, "crowdpose": 14, "mpii": 16, "ap10k": 17,
    "animalpose": 20,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_kappas_of_data_sets(name: str, count: int) -> None:
    numbers = metrics.kappas(name)
    assert len(numbers) == count
    assert all(0.005 < number < 0.2 for number in numbers)
    poses, areas = torch.rand(2, count, 2), torch.ones(2)
    assert oks(poses, poses, areas, areas, numbers).diagonal().tolist() == pytest.approx([1, 1])


def test_kappas_by_any_spelling() -> None:
    assert metrics.kappas("COCO") is COCO_KAPPAS
    assert metrics.kappas("AP-10K") == metrics.kappas("ap10k")
    whole = metrics.kappas("COCO-WholeBody")
    assert whole[:17] == COCO_KAPPAS
    assert whole[23:91] == metrics.kappas("face")
    assert whole[91:112] == whole[112:] == metrics.kappas("hand")
    with pytest.raises(ValueError, match="name: got 'halpe', expected one of 'coco', 'coco_wholebody'"):
        metrics.kappas("halpe")
    with pytest.raises(TypeError, match="name: got int 17"):
        metrics.kappas(17)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"kappas: got 'mpii', expected 16 numbers .*metrics\.kappas\('mpii'\)"):
        oks(torch.rand(2, 16, 2), torch.rand(2, 16, 2), torch.ones(2), torch.ones(2), "mpii")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("coco", (1, 3, 5, 7, 9, 11, 13, 15), (2, 4, 6, 8, 10, 12, 14, 16)),
        ("crowdpose", (0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11)),
        ("mpii", (0, 1, 2, 10, 11, 12), (5, 4, 3, 15, 14, 13)),
        ("ap10k", (0, 5, 6, 7, 11, 12, 13), (1, 8, 9, 10, 14, 15, 16)),
        ("animalpose", (0, 8, 10, 12, 14, 16, 18), (1, 9, 11, 13, 15, 17, 19)),
    ],
)
def test_both_sides_have_the_same_kappas(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    """Which numbers in another order than that of the keypoints would not have."""
    numbers = metrics.kappas(name)
    assert [numbers[i] for i in left] == [numbers[i] for i in right]


@pytest.mark.parametrize("annotators", [2, 3])
def test_kappas_from_annotations_find_what_was_drawn(annotators: int) -> None:
    """Errors of kappa s / sqrt(2) in x and y. A kappa of N persons and A annotators is a root of a chi-square of 2 N
    (A - 1) degrees of freedom: off by less than 5 of its standard errors of 1 / sqrt(4 N (A - 1))."""
    people, true = 5000, torch.tensor(COCO_KAPPAS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    areas = 100 + 1e4 * torch.rand(people, generator=generator, dtype=torch.float64)
    errors = torch.randn(annotators, people, 17, 2, generator=generator, dtype=torch.float64) / math.sqrt(2)
    keypoints = 300 + errors * true[:, None] * areas.sqrt()[:, None, None]
    found = metrics.kappas_from_annotations(keypoints, areas)
    assert ((found / true - 1).abs() < 5 / math.sqrt(4 * people * (annotators - 1))).all()


def test_kappas_from_annotations_by_hand() -> None:
    """With annotations that are missing in three ways, and an annotator who is alone."""
    generator = torch.Generator().manual_seed(1)
    keypoints = torch.rand(3, 6, 4, 2, generator=generator, dtype=torch.float64) * 10
    areas = torch.tensor([50.0, 60.0, 70.0, 80.0, 0.0, math.nan], dtype=torch.float64)
    visible = (torch.rand(3, 6, 4, generator=generator) < 0.7).long() * 2
    keypoints[0, 0, 0] = math.nan
    visible[:, :, 3], visible[:2, 1, 2] = 0, 0
    visible[0, :, 3] = 2
    found = metrics.kappas_from_annotations(keypoints, areas, visible)
    for k in range(4):
        total, freedom = 0.0, 0
        for n in range(4):
            there = [keypoints[a, n, k] for a in range(3) if visible[a, n, k] and keypoints[a, n, k].isfinite().all()]
            if len(there) > 1:
                # The sum of squares from the mean is that of all pairs, divided by how many there are.
                pairs = sum(float((a - b).square().sum()) for a, b in itertools.combinations(there, 2))
                total += pairs / len(there) / float(areas[n])
                freedom += len(there) - 1
        assert float(found[k]) == pytest.approx(math.sqrt(total / freedom) if freedom else math.nan, nan_ok=True)
    assert found[3].isnan()
    assert not found[:3].isnan().any()


def test_kappas_from_annotations_refuses() -> None:
    with pytest.raises(ValueError, match=r"keypoints: got shape \[1, 5, 17, 2\], expected .* A >= 2 annotators"):
        metrics.kappas_from_annotations(torch.rand(1, 5, 17, 2), torch.ones(5))
    with pytest.raises(ValueError, match=r"areas: got shape \[4\], expected \[5\]"):
        metrics.kappas_from_annotations(torch.rand(2, 5, 17, 2), torch.ones(4))
