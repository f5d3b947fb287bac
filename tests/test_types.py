"""Keypoints, of heatmaps and of SimCC: tuples with names."""

from __future__ import annotations

import torch

from dark_kernels import Keypoints, SimCCKeypoints


def test_keypoints_unpack_and_have_names() -> None:
    coords, scores = torch.rand(1, 2, 2), torch.rand(1, 2)
    keypoints = Keypoints(coords, scores)
    assert Keypoints._fields == ("coords", "scores", "covariances")
    assert keypoints.coords is coords
    assert keypoints.covariances is None
    one, two, three = keypoints
    assert one is coords
    assert two is scores
    assert three is None


def test_keypoints_are_a_pytree() -> None:
    keypoints = Keypoints(torch.ones(1, 2, 2), torch.ones(1, 2), torch.ones(1, 2, 2, 2))
    doubled = torch.utils._pytree.tree_map(lambda tensor: 2 * tensor, keypoints)
    assert isinstance(doubled, Keypoints)
    assert doubled.covariances is not None
    assert bool((doubled.covariances == 2).all())


def test_simcc_keypoints_unpack_and_are_a_pytree() -> None:
    coords, scores = torch.ones(1, 2, 2), torch.ones(1, 2)
    one, two, three = SimCCKeypoints(coords, scores)
    assert one is coords
    assert two is scores
    assert three is None
    doubled = torch.utils._pytree.tree_map(lambda tensor: 2 * tensor, SimCCKeypoints(coords, scores, scores))
    assert isinstance(doubled, SimCCKeypoints)
    assert doubled.visibility is not None
    assert bool((doubled.visibility == 2).all())
