"""Variance voting against a plain loop, and who has no vote."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import oks, testing, variance_voting

BACKENDS = pytest.mark.parametrize("backend", ["eager", "reference"])


def some_poses(*leading: int) -> tuple[Tensor, Tensor, Tensor]:
    """Five poses of three keypoints, their variances of each axis, and similarities of two poses with them."""
    generator = torch.Generator().manual_seed(7)
    poses = torch.rand(*leading, 5, 3, 2, generator=generator) * 10 + 100
    variances = torch.rand(*leading, 5, 3, 2, generator=generator) * 4 + 0.1
    return poses, variances, torch.rand(*leading, 2, 5, generator=generator)


@pytest.mark.parametrize("axes", [1, 2])
@BACKENDS
def test_it_is_the_plain_loop(axes: int, backend: str, device: torch.device) -> None:
    poses, variances, similarities = some_poses()
    variances = variances[..., :axes]
    expected = torch.zeros(2, 3, 2, dtype=torch.float64)
    for m in range(2):
        for k in range(3):
            for axis in range(2):
                above = below = 0.0
                for i in range(5):
                    p = math.exp(-((1 - float(similarities[m, i])) ** 2) / 0.01)
                    v = float(variances[i, k, min(axis, axes - 1)])
                    above, below = above + p * float(poses[i, k, axis]) / v, below + p / v
                expected[m, k, axis] = above / below
    arguments = [each.to(device) for each in (poses, variances if axes == 2 else variances[..., 0], similarities)]
    voted = variance_voting(*arguments, backend=backend)
    assert voted.dtype == torch.float32
    # Weights are off by the roundings of an exponent of up to 100, positions by a few of their own.
    torch.testing.assert_close(voted.cpu().double(), expected, rtol=4e-7, atol=10 * 100 * 1.2e-7)
    doubled = variance_voting(*(each.double() for each in arguments), backend=backend)
    torch.testing.assert_close(doubled.cpu(), expected, rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@BACKENDS
def test_a_collapsed_variance_has_the_vote(backend: str, dtype: torch.dtype) -> None:
    """The inverse of the smallest number is infinite, and its share is not."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    poses = torch.tensor([1.0, 2.0, 5.0], dtype=dtype)[:, None, None].expand(3, 1, 2)
    variances = torch.tensor([[smallest], [smallest], [1.0]], dtype=dtype)
    voted = variance_voting(poses, variances, torch.ones(1, 3, dtype=dtype), backend=backend)
    # Shares are differences of logarithms of up to 745.
    assert voted.flatten().tolist() == pytest.approx([1.5, 1.5], rel=1000 * torch.finfo(dtype).eps)


@BACKENDS
def test_one_gaussian_seen_many_times(backend: str) -> None:
    """Poses that are the same person: the mean that is most likely, of which the variance is 1 / sum 1/v."""
    generator = torch.Generator().manual_seed(8)
    variances = torch.rand(2000, 12, 3, 1, generator=generator, dtype=torch.float64) * 9 + 0.1
    noise = torch.randn(2000, 12, 3, 2, generator=generator, dtype=torch.float64)
    poses = 50 + noise * variances.sqrt()
    similarities = torch.ones(2000, 1, 12, dtype=torch.float64)
    voted = variance_voting(poses, variances[..., 0], similarities, backend=backend)
    expected = 1 / (1 / variances).sum(1, keepdim=True)  # [2000, 1, 3, 1]
    normal = ((voted - 50) / expected.sqrt()).flatten()
    assert abs(float(normal.mean())) < 5 / math.sqrt(len(normal))
    assert abs(float(normal.var()) - 1) < 5 * math.sqrt(2 / len(normal))


@BACKENDS
def test_a_pose_without_others_keeps_its_keypoints(backend: str, device: torch.device) -> None:
    """Of what is dropped by suppression, what is alike has a vote, and what is elsewhere has none."""
    person = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * 100
    poses = torch.stack([person, person + 1000, person + 0.5]).to(device)
    areas = torch.full((3,), 1e4, device=device)
    similarities = oks(poses, poses, areas, areas)
    variances = torch.tensor([1.0, 1.0, 3.0], device=device)[:, None].expand(3, 17)
    voted = variance_voting(poses, variances, similarities, backend=backend)
    torch.testing.assert_close(voted[1], poses[1])
    torch.testing.assert_close(voted[0], poses[0] + 0.5 / 4, rtol=0, atol=0.01)
    alone = variance_voting(
        poses, variances, similarities, mask=torch.tensor([1, 0, 0], device=device), backend=backend
    )
    torch.testing.assert_close(alone[0], poses[0])


@pytest.mark.parametrize("spread", [0.01, 1e-4])
@BACKENDS
def test_poses_that_have_nothing_in_common(spread: float, backend: str) -> None:
    """p_i = e^-100 underflows in float32, e^-10000 in float64; the mean by variance is left."""
    poses, variances, _ = some_poses()
    voted = variance_voting(poses, variances, torch.zeros(1, 5), spread, backend=backend)
    expected = (poses / variances).sum(0) / (1 / variances).sum(0)
    torch.testing.assert_close(voted[0], expected, rtol=1e-6, atol=0)


@BACKENDS
def test_who_does_not_vote(backend: str) -> None:
    """Each keypoint without a number or a variance, each pose that is masked or like no number."""
    poses, variances, similarities = some_poses()
    poses[0, 0, 0] = math.nan
    poses[1, 0, 1] = math.inf
    for i, bad in enumerate((math.nan, math.inf, 0.0, -1.0)):
        variances[i, 1] = bad
    similarities[:, 3] = math.nan
    mask = torch.tensor([1.0, 1.0, 1.0, 1.0, math.nan])
    voted = variance_voting(poses, variances, similarities, mask=mask, backend=backend)
    assert bool(voted[:, [0, 2]].isfinite().all())
    assert bool(voted[:, 1].isnan().all())  # nobody
    kept = [1, 2]
    x = variance_voting(poses[kept], variances[kept], similarities[:, kept], backend=backend)
    torch.testing.assert_close(voted[:, 0, 0], x[:, 0, 0])
    huge = variance_voting(poses[[2]], torch.full((1, 3), 1e-38), torch.ones(1, 1), backend=backend)
    torch.testing.assert_close(huge[0], poses[2])


@BACKENDS
def test_leading_dimensions_and_strides(backend: str) -> None:
    poses, variances, similarities = some_poses(2, 3)
    whole = variance_voting(poses, variances, similarities, backend=backend)
    assert whole.shape == (2, 3, 2, 3, 2)
    one = variance_voting(poses[1, 2], variances[1, 2], similarities[1, 2], backend=backend)
    torch.testing.assert_close(whole[1, 2], one)
    odd = poses.transpose(-2, -3).contiguous().transpose(-2, -3)
    with testing.assert_unchanged(odd):
        assert torch.equal(variance_voting(odd, variances, similarities, backend=backend), whole)
    assert variance_voting(poses[:0], variances[:0], similarities[:0], backend=backend).shape == (0, 3, 2, 3, 2)
    nobody = variance_voting(poses[..., :0, :, :], variances[..., :0, :, :], similarities[..., :0], backend=backend)
    assert nobody.shape == (2, 3, 2, 3, 2)
    assert bool(nobody.isnan().all())


@BACKENDS
def test_gradients_of_those_who_vote_are_finite(backend: str) -> None:
    """Also beside one who does not."""
    poses, variances, similarities = some_poses()
    variances[0] = 0
    poses[1, 0, 0] = math.nan
    inputs = [each.requires_grad_() for each in (poses, variances, similarities)]
    for gradient in torch.autograd.grad(variance_voting(*inputs, backend=backend).sum(), inputs):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "poses: got builtins.list", {"poses": [1.0]}),
        (ValueError, r"poses: got shape \[5, 2\], expected 3 dimensions", {"poses": torch.ones(5, 2)}),
        (ValueError, r"poses: got shape \[5, 3, 3\], expected", {"poses": torch.ones(5, 3, 3)}),
        (ValueError, r"variances: got shape \[5\], expected 3 dimensions", {"variances": torch.ones(5)}),
        (ValueError, r"variances: got shape \[5, 4\], expected \[5, 3\]", {"variances": torch.ones(5, 4)}),
        (ValueError, r"variances: got shape \[5, 3, 3\], expected \[5, 3, 2\]", {"variances": torch.ones(5, 3, 3)}),
        (ValueError, r"similarities: got shape \[2, 4\], expected \[2, 5\]", {"similarities": torch.ones(2, 4)}),
        (ValueError, r"mask: got shape \[4\], expected \[5\]", {"mask": torch.ones(4)}),
        (ValueError, "spread: got 0, expected a positive number", {"spread": 0}),
        (ValueError, "backend: got 'triton', expected 'auto', 'eager' or 'reference'", {"backend": "triton"}),
        (ValueError, "backend: got 'best'", {"backend": "best"}),
    ],
)
def test_refuses(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    poses, variances, similarities = some_poses()
    with pytest.raises(error, match=message):
        variance_voting(**{"poses": poses, "variances": variances, "similarities": similarities, **change})
