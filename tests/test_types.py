"""Keypoints, of heatmaps and of SimCC: tuples with names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from dark_kernels import KeptPoses, Keypoints, Peaks, SimCCKeypoints


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


# --- as a whole --------------------------------------------------------------------------------------------

RESULTS = [
    Keypoints(torch.rand(2, 3, 2), torch.rand(2, 3)),
    Keypoints(torch.rand(2, 3, 2, requires_grad=True), torch.rand(2, 3), torch.rand(2, 3, 2, 2)),
    SimCCKeypoints(torch.rand(2, 3, 2), torch.rand(2, 3)),
    Peaks(torch.rand(2, 3, 4, 2), torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)),
    KeptPoses(
        torch.ones(2, 3, dtype=torch.bool),
        torch.full((2, 3), 2**40 + 1),
        torch.full((2,), 3),
        torch.rand(2, 3),
    ),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_move_and_convert_as_a_whole(result: Any) -> None:
    converted = result.to(torch.float64)
    assert type(converted) is type(result)
    for one, other in zip(converted, result, strict=True):
        if other is None:
            assert one is None
        elif other.is_floating_point():
            assert one.dtype == torch.float64
        else:
            assert torch.equal(one, other)
    assert all(each is None or each.device.type == "meta" for each in result.to(device="meta"))
    for one, other in zip(result.cpu(), result, strict=True):
        assert one is other
    arrays = result.numpy()
    assert type(arrays) is type(result)
    for one, other in zip(arrays, result, strict=True):
        if other is not None:
            np.testing.assert_array_equal(one, other.detach().numpy())


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_are_loaded_by_default(result: Any, tmp_path: Path) -> None:
    torch.save({"result": result}, tmp_path / "result.pt")
    loaded = torch.load(tmp_path / "result.pt", weights_only=True)["result"]
    assert type(loaded) is type(result)
    for name, value in result._asdict().items():
        assert getattr(loaded, name) is value is None or torch.equal(getattr(loaded, name), value)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_are_batched_by_default(result: Any) -> None:
    result = result._make(each if each is None else each.detach() for each in result)
    samples = [result._make(each if each is None else each[i] for each in result) for i in range(2)]
    for batch in (
        default_collate(samples),
        default_collate([{"result": sample} for sample in samples])["result"],
        next(iter(DataLoader(samples, batch_size=2))),  # type: ignore[arg-type]
        default_collate([sample.numpy() for sample in samples]),
    ):
        assert type(batch) is type(result)
        for one, other in zip(batch, result, strict=True):
            assert one is other is None or torch.equal(one, other)


def test_results_with_and_without_covariances_are_no_batch() -> None:
    one, other = Keypoints(torch.rand(3, 2), torch.rand(3)), Keypoints(*map(torch.rand, ((3, 2), (3,), (3, 2, 2))))
    with pytest.raises(ValueError, match=r"covariances: got None in 1 of 2 results, expected it in all or in none"):
        default_collate([one, other])
