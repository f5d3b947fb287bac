"""Similarities of keypoints that may be swapped, against all ways to swap them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dark_kernels import oks

from ..conftest import SERVICES

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
Service = tuple[str, torch.device]
PAIRS = [(0, 1), (4, 2), (5, 6)]  # and 3 alone
KAPPAS = (0.05, 0.05, 0.1, 0.2, 0.08, 0.15, 0.15)


def scene(num: int = 6, other: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Poses [2, N, 7, 2] and [2, M, 7, 2], which are swapped copies of others and not far from them."""
    generator = torch.Generator().manual_seed(3)
    poses_b = torch.rand(2, other, 7, 2, generator=generator) * 40
    poses_a = poses_b[:, torch.arange(num) % other] + torch.randn(2, num, 7, 2, generator=generator) * 3
    for pair in PAIRS:
        chosen = torch.rand(2, num, generator=generator) < 0.5
        there = list(pair)
        poses_a[:, :, there] = torch.where(chosen[..., None, None], poses_a[:, :, there[::-1]], poses_a[:, :, there])
    areas = (500 + 2000 * torch.rand(2, count, generator=generator) for count in (num, other))
    return poses_a, poses_b, *areas  # type: ignore[return-value]


def orders(swap: str) -> list[list[int]]:
    """All that the keypoints of a pose may be put into."""
    ways = [(False,) * 3, (True,) * 3] if swap == "pose" else list(itertools.product([False, True], repeat=3))
    found = []
    for way in ways:
        order = list(range(7))
        for (i, j), is_swapped in zip(PAIRS, way, strict=True):
            if is_swapped:
                order[i], order[j] = j, i
        found.append(order)
    return found


@pytest.mark.parametrize("swap", ["pairs", "pose"])
@pytest.mark.parametrize("shown", [False, True])
@EVERY
def test_the_best_of_all_ways(swap: str, shown: bool, service: Service) -> None:
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = scene()
    visible = (torch.rand(2, 4, 7, generator=torch.Generator().manual_seed(4)) < 0.6) if shown else None
    ways = [
        oks(poses_a[:, :, order].double(), poses_b.double(), areas_a, areas_b, KAPPAS, None, visible, "reference")
        for order in orders(swap)
    ]
    expected = torch.stack(ways).amax(0)
    assert (expected > ways[0] + 0.01).any()  # what is not swapped would be seen
    tensors = [each.to(device) for each in (poses_a, poses_b, areas_a, areas_b)]
    found = oks(
        *tensors, KAPPAS, None, None if visible is None else visible.to(device), backend, symmetric=PAIRS, swap=swap
    )
    # As without: some 20 roundings of float32.
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=20 * torch.finfo(torch.float32).eps)
    double = oks(
        *(each.double() for each in tensors), KAPPAS, None, None if visible is None else visible.to(device), backend,
        symmetric=PAIRS, swap=swap,
    )  # fmt: skip
    torch.testing.assert_close(double.cpu(), expected, rtol=0, atol=1e-13)


def by_loops(a: Tensor, b: Tensor, area: float, seen_a: list[bool], seen_b: list[bool], swap: str) -> float:
    """The rule for two poses, as plain Python."""

    def part(keypoints: list[int], order: list[int]) -> tuple[float, int]:
        total, count = 0.0, 0
        for i in keypoints:
            if seen_a[order[i]] and seen_b[i]:
                squared = float((a[order[i]] - b[i]).square().sum())
                total += math.exp(-squared / (2 * KAPPAS[i]) ** 2 / area / 2)
                count += 1
        return total, count

    kept, swapped = orders("pose")
    if swap == "pose":
        return max(total / max(count, 1) for total, count in (part(list(range(7)), each) for each in (kept, swapped)))
    parts = [max((part([*pair], each) for each in (kept, swapped)), key=lambda found: found[0]) for pair in PAIRS]
    parts.append(part([3], kept))
    return sum(total for total, _ in parts) / max(sum(count for _, count in parts), 1)


@pytest.mark.parametrize("swap", ["pairs", "pose"])
@EVERY
def test_visibility_is_swapped_with_the_keypoints(swap: str, service: Service) -> None:
    backend, device = service
    tensors = [each.double() for each in scene()]
    generator = torch.Generator().manual_seed(5)
    seen = [torch.rand(2, num, 7, generator=generator) < 0.6 for num in (6, 4)]
    expected = [
        [[by_loops(a, b, float(area_a + area_b) / 2, seen_a.tolist(), seen_b.tolist(), swap)
          for b, area_b, seen_b in zip(poses_b, areas_b, flags_b, strict=True)]
         for a, area_a, seen_a in zip(poses_a, areas_a, flags_a, strict=True)]
        for poses_a, poses_b, areas_a, areas_b, flags_a, flags_b in zip(*tensors, *seen, strict=True)
    ]  # fmt: skip
    arguments = (*(each.to(device) for each in tensors), KAPPAS, *(each.to(device) for each in seen), backend)
    found = oks(*arguments, symmetric=PAIRS, swap=swap)
    torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)
    assert ((found - oks(*arguments)).abs() > 0.01).any()


@EVERY
def test_few_or_no_pairs(service: Service) -> None:
    backend, device = service
    tensors = [each.to(device) for each in scene()]
    plain = oks(*tensors, KAPPAS, backend=backend)
    torch.testing.assert_close(oks(*tensors, KAPPAS, backend=backend, symmetric=[]), plain)
    torch.testing.assert_close(oks(*tensors, KAPPAS, backend=backend, symmetric=None, swap="pose"), plain)
    none = [each[:, :0] for each in tensors]
    assert oks(*none, KAPPAS, backend=backend, symmetric=PAIRS).shape == (2, 0, 0)
    bad = tensors[0].clone()
    bad[0, 0] = torch.nan
    found = oks(bad, *tensors[1:], KAPPAS, backend=backend, symmetric=PAIRS)
    assert found.isfinite().all()
    assert (found[0, 0] == 0).all()


def test_many_poses_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = scene()
    whole = oks(*tensors, KAPPAS, backend="eager", symmetric=PAIRS)
    monkeypatch.setattr("dark_kernels.poses.eager._ELEMENTS", 1)
    assert torch.equal(oks(*tensors, KAPPAS, backend="eager", symmetric=PAIRS), whole)


@pytest.mark.parametrize("swap", ["pairs", "pose"])
def test_compiles_in_one_graph(swap: str) -> None:
    tensors = scene()
    compiled = torch.compile(
        lambda *tensors: oks(*tensors, KAPPAS, symmetric=PAIRS, swap=swap), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*tensors), oks(*tensors, KAPPAS, symmetric=PAIRS, swap=swap), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("error", "message", "symmetric"),
    [
        (ValueError, "symmetric: got 7, expected one of 7 keypoints", [(0, 7)]),
        (
            ValueError,
            r"symmetric: got \(1, 2\), expected pairs of keypoints, each of them in one only",
            [(0, 1), (1, 2)],
        ),
        (ValueError, r"symmetric: got \(1, 1\), expected pairs", [(1, 1)]),
        (TypeError, r"symmetric: got \(1, 2, 3\) in it, expected pairs", [(1, 2, 3)]),
        (TypeError, "symmetric: got int, expected pairs", 3),
        (TypeError, "symmetric: got float 0.5, expected an integer", [(0.5, 1)]),
    ],
)
def test_refuses_what_is_no_pair(error: type[Exception], message: str, symmetric: object) -> None:
    with pytest.raises(error, match=message):
        oks(*scene(), KAPPAS, symmetric=symmetric)  # type: ignore[arg-type]


def test_refuses_another_way_to_swap() -> None:
    with pytest.raises(ValueError, match="swap: got 'all', expected one of 'pairs', 'pose'"):
        oks(*scene(), KAPPAS, symmetric=PAIRS, swap="all")
