"""Similarities of keypoints that may be swapped, against all ways to swap them."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize("swap", ["pairs", "pose"])
@EVERY
def test_visibility_is_swapped_with_the_keypoints(swap: str, service: Service) -> None:
    """One pose is the other's mirror image, flags included, and a keypoint that only one of them shows has no say."""
    backend, device = service
    pose = torch.tensor([[[0.0, 0], [10, 0], [3, 8], [5, 5], [7, 8], [2, 20], [8, 20]]], device=device)
    seen = torch.tensor([[1, 0, 1, 1, 1, 1, 0]], device=device)
    mirror = orders("pose")[1]
    area = torch.tensor([400.0], device=device)
    arguments = (pose[:, mirror], pose, area, area, KAPPAS, seen[:, mirror], seen, backend)
    assert float(oks(*arguments, symmetric=PAIRS, swap=swap)) == pytest.approx(1)
    assert float(oks(*arguments)) < 0.9
    # Keypoint 0 against a hidden partner: as it is, although it is far off.
    far = pose.clone()
    far[0, 0] += 100
    alone = oks(far, pose, area, area, KAPPAS, seen, seen, backend, symmetric=PAIRS, swap=swap)
    assert float(alone) == pytest.approx(4 / 5)


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
    monkeypatch.setattr("dark_kernels.nms.eager._ELEMENTS", 1)
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
