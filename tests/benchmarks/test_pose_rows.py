"""Rows of suppression, samples and votes on inputs small enough for a test: outputs are compared with the truth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import peers, test_nms, test_oks, test_sampling, test_voting
from benchmarks.workloads import Workload
from dark_kernels import COCO_KAPPAS, oks, oks_nms

POSES = Workload("P1", (3, 12, 17, 2), "a small one")
KEYPOINTS = Workload("W1", (2, 3, 40, 30), "a small one")


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    yield
    for module in (test_nms, test_oks, test_sampling, test_voting):
        module.inputs_of.cache_clear()
        module._truth.cache_clear()


SUPPRESSION = [(has_ids, name) for has_ids in (False, True) for name in test_nms.Case(POSES, has_ids).rows]


@pytest.mark.parametrize(("has_ids", "name"), [each for each in SUPPRESSION if each[1] != test_nms.EMPTY])
def test_suppression_rows_compare_their_output(has_ids: bool, name: str) -> None:
    case = test_nms.Case(POSES, has_ids)
    made = test_nms.ROWS[name](case, "cpu")
    poses = test_nms.inputs_of(case, "cpu")[0]
    output = made.call(poses)
    made.compare(output)
    assert made.bytes >= test_nms.pose_bytes(POSES) - 3 * 12 * 8
    if name == test_nms.OURS:
        wrong = output._replace(indices=output.indices.roll(1, 0))
        with pytest.raises(peers.Wrong, match=f"of {1 if has_ids else 3} rows of indices are of other poses"):
            made.compare(wrong)


@pytest.mark.parametrize("workload", [test_nms.P1, test_nms.P2], ids=lambda workload: workload.name)
def test_no_decision_of_the_workloads_is_open(workload: Workload) -> None:
    """Some poses are dropped, some are kept, and none by the last digit."""
    poses, scores, areas, _ = test_nms.make_poses(workload, "cpu")
    similarities = oks(poses, poses, areas, areas)
    assert float((similarities - test_nms.THRESHOLD).abs().min()) > 0.05
    assert all(len(row.unique()) == workload.shape[1] for row in scores)
    share = float(oks_nms(poses, scores, areas).keep.double().mean())
    assert 0.3 < share < 0.9


def test_the_numpy_loop_is_suppression() -> None:
    poses = test_nms.make_poses(POSES, "cpu")
    kept = oks_nms(*poses[:3])
    for found, indices, count in zip(
        peers.numpy_oks_nms_loop(*poses[:3], COCO_KAPPAS, 0.9), kept.indices.tolist(), kept.counts.tolist(), strict=True
    ):
        assert found.tolist() == indices[:count]


@pytest.mark.parametrize("name", [name for name in test_sampling.ROWS if name != test_sampling.EMPTY])
def test_sampling_rows_compare_their_output(name: str) -> None:
    torch.manual_seed(0)
    made = test_sampling.ROWS[name](KEYPOINTS, "cpu")
    output = made.call(test_sampling.inputs_of(KEYPOINTS, "cpu")[0])
    made.compare(output)
    assert made.bytes >= 6 * 100 * 8
    if name != test_sampling.FILL:
        with pytest.raises(peers.Wrong, match="samples"):
            made.compare(output + 1)


PAIRS = [(operation, name) for operation in test_oks.OPERATIONS for name in test_oks.NAMES]


@pytest.mark.parametrize(("operation", "name"), [each for each in PAIRS if each[1] != test_oks.EMPTY])
def test_rows_of_pairs_compare_their_output(operation: str, name: str) -> None:
    made = test_oks.make_row(operation, name, POSES, "cpu")
    output = made.call(test_oks.inputs_of(POSES, "cpu")[0])
    made.compare(output)
    assert made.bytes >= test_oks.output_bytes(operation, POSES)
    if name != test_oks.FILL:
        with pytest.raises(peers.Wrong, match=f"{operation} is off by up to"):
            made.compare(output + 0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(("operation", "name"), PAIRS)
def test_rows_of_pairs_on_a_gpu(operation: str, name: str, gpu: torch.device) -> None:
    made = test_oks.make_row(operation, name, POSES, gpu.type)
    made.compare(made.call(test_oks.inputs_of(POSES, gpu.type)[0]))


VOTES = [(weights, name) for weights in ("heatmaps", "density") for name in test_voting.Case(KEYPOINTS, weights).rows]


@pytest.mark.parametrize(("weights", "name"), [each for each in VOTES if each[1] != test_voting.EMPTY])
def test_voting_rows_compare_their_output(weights: str, name: str) -> None:
    case = test_voting.Case(KEYPOINTS, weights)
    made = test_voting.ROWS[name](case, "cpu")
    output = made.call(test_voting.inputs_of(case, "cpu")[0])
    made.compare(output)
    assert made.bytes >= 6 * 100 * 8
    if name != test_voting.READ_ONLY:
        with pytest.raises(peers.Wrong, match="off by up to 1 pixels"):
            made.compare(output._replace(coords=output.coords + 1))
        with pytest.raises(peers.Wrong, match="covariances by"):
            made.compare(output._replace(covariances=2 * output.covariances))


@pytest.mark.gpu
@pytest.mark.parametrize(("weights", "name"), VOTES)
def test_voting_rows_on_a_gpu(weights: str, name: str, gpu: torch.device) -> None:
    case = test_voting.Case(KEYPOINTS, weights)
    made = test_voting.ROWS[name](case, gpu.type)
    made.compare(made.call(test_voting.inputs_of(case, gpu.type)[0]))


@pytest.mark.gpu
@pytest.mark.parametrize(("has_ids", "name"), SUPPRESSION)
def test_suppression_rows_on_a_gpu(has_ids: bool, name: str, gpu: torch.device) -> None:
    case = test_nms.Case(POSES, has_ids)
    made = test_nms.ROWS[name](case, gpu.type)
    made.compare(made.call(test_nms.inputs_of(case, gpu.type)[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(test_sampling.ROWS))
def test_sampling_rows_on_a_gpu(name: str, gpu: torch.device) -> None:
    made = test_sampling.ROWS[name](KEYPOINTS, gpu.type)
    made.compare(made.call(test_sampling.inputs_of(KEYPOINTS, gpu.type)[0]))
