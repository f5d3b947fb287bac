"""Suppression, similarities, samples and votes: outputs that are wrong are found."""

from __future__ import annotations

import pytest
import torch

from benchmarks import peers, suite
from benchmarks.suites import nms, oks, sampling, voting
from benchmarks.workloads import W1, Workload
from dark_kernels import COCO_KAPPAS, oks_nms
from dark_kernels import oks as similarities_of
from tests.benchmarks.suites.small import assert_wrong, case_named, group_of, run, workload_like

POSES = workload_like(nms.P1)


@pytest.mark.parametrize("has_ids", [False, True])
def test_other_poses_are_found_out(has_ids: bool) -> None:
    group = group_of(nms.SUITE, nms.case_of(nms.P1, has_ids))
    row, kept = run(group, nms.OURS)
    wrong = kept._replace(indices=kept.indices.roll(1, 0))
    assert_wrong(row, wrong, f"of {1 if has_ids else 3} rows of indices are of other poses")
    for name in nms.SUITE.rows_of(group.case, "cpu"):
        assert nms.SUITE.rows[name].make(group).bytes >= nms.pose_bytes(group.case) - 3 * 12 * 8


@pytest.mark.parametrize("workload", [nms.P1, nms.P2], ids=lambda workload: workload.name)
def test_no_decision_of_the_workloads_is_open(workload: Workload) -> None:
    """Some poses are dropped, some are kept, and none by the last digit."""
    poses, scores, areas, _ = nms.make_poses(workload, "cpu")
    similarities = similarities_of(poses, poses, areas, areas)
    assert float((similarities - nms.THRESHOLD).abs().min()) > 0.05
    assert all(len(row.unique()) == workload.shape[1] for row in scores)
    share = float(oks_nms(poses, scores, areas).keep.double().mean())
    assert 0.3 < share < 0.9


def test_image_ids_are_those_of_the_batch() -> None:
    batch, shuffled = (group_of(nms.SUITE, nms.case_of(nms.P1, has_ids)).inputs[0] for has_ids in (False, True))
    for image in range(POSES.shape[0]):
        of_image = shuffled.scores[shuffled.image_ids == image]
        assert torch.equal(of_image.sort().values, batch.scores[image].sort().values)


def test_the_numpy_loop_is_suppression() -> None:
    poses = nms.make_poses(POSES, "cpu")
    kept = oks_nms(*poses[:3])
    for found, indices, count in zip(
        peers.numpy_oks_nms_loop(*poses[:3], COCO_KAPPAS, 0.9), kept.indices.tolist(), kept.counts.tolist(), strict=True
    ):
        assert found.tolist() == indices[:count]


@pytest.mark.parametrize("name", [sampling.OURS, suite.REFERENCE, sampling.RANDN])
def test_other_samples_are_found_out(name: str) -> None:
    torch.manual_seed(0)
    row, samples = run(group_of(sampling.SUITE, sampling.case_of(W1)), name)
    assert row.bytes >= 6 * 100 * 8
    assert_wrong(row, samples + 1, "samples")


@pytest.mark.parametrize("case", oks.CASES, ids=lambda case: case.function)
def test_other_similarities_and_poses_are_found_out(case: suite.Case) -> None:
    group = group_of(oks.SUITE, case)
    for name in (case.function, suite.REFERENCE):
        row, output = run(group, name)
        assert row.bytes >= oks.output_bytes(group.case) == output.numel() * 4
        assert_wrong(row, output + 0.1, r"are off by up to 0\.1")


@pytest.mark.parametrize("weights", ["heatmaps", "density"])
def test_other_votes_are_found_out(weights: str) -> None:
    case = case_named(voting.SUITE, f"vote W1 {weights}")
    group = group_of(voting.SUITE, case)
    for name in voting.SUITE.rows_of(case, "cpu"):
        row, output = run(group, name)
        assert row.bytes >= 6 * 100 * 8
        if name != suite.READ_ONLY:
            assert_wrong(row, output._replace(coords=output.coords + 1), "off by up to 1 pixels")
            assert_wrong(row, output._replace(covariances=2 * output.covariances), "covariances by")
