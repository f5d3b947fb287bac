"""oks_nms of a batch of images, against the loop that pose libraries have and one read of the poses; and of the same
poses in any order with image ids, against the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import peers, suite
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.suite import EMPTY, READ_ONLY, REFERENCE, Case, Entry, Group, Suite
from benchmarks.workloads import Workload
from dark_kernels import COCO_KAPPAS, KeptPoses, oks_nms

# [B, N, K, 2]: a bottom-up network finds a person several times.
P1 = Workload("P1", (64, 30, 17, 2), "a batch of images, 30 poses each")
P2 = Workload("P2", (8, 300, 17, 2), "crowds, 300 poses each")
THRESHOLD = 0.9
OURS, LOOP, BATCH = "oks_nms", "NumPy loop", "oks_nms of a batch"
_WITH_IDS = "hard, image ids"


class Poses(NamedTuple):
    """Arguments of oks_nms; with image ids without the batch dimension."""

    poses: Tensor  # [B, N, K, 2]
    scores: Tensor  # [B, N]
    areas: Tensor  # [B, N]
    image_ids: Tensor | None = None  # [B N]


def case_of(workload: Workload, has_ids: bool) -> Case:
    rows = (READ_ONLY, EMPTY, OURS, REFERENCE, BATCH if has_ids else LOOP)
    group = f"oks_nms {workload.name}" + (" image ids" if has_ids else "")
    return Case(group, "oks_nms", workload, rows, _WITH_IDS if has_ids else "hard", values="normal")


CASES = tuple(case_of(workload, has_ids) for has_ids in (False, True) for workload in (P1, P2))


def make_poses(workload: Workload, device: str) -> Poses:
    """A third as many people as poses, each found once or more, some pixels from where they are; distinct scores. No
    similarity is within 0.05 of the threshold, where the last digit would decide."""
    batch, num_poses, num_keypoints, _ = workload.shape
    generator = torch.Generator().manual_seed(9)
    people = 500 * torch.rand(batch, num_poses // 3, 1, 2, generator=generator)
    people = people + 60 * torch.rand(batch, num_poses // 3, num_keypoints, 2, generator=generator)
    whose = torch.randint(num_poses // 3, (batch, num_poses), generator=generator)
    # Repeated ones are within a pixel or two, or far enough to stay.
    spread = torch.where(torch.rand(batch, num_poses, 1, 1, generator=generator) < 0.6, 0.5, 30.0)
    poses = people[torch.arange(batch)[:, None], whose]
    poses = poses + spread * torch.randn(poses.shape, generator=generator)
    order = torch.rand(batch, num_poses, generator=generator).argsort(-1)
    areas = torch.full((batch, num_poses), 3600.0)
    return Poses(poses.to(device), ((order + 1) / num_poses).to(device), areas.to(device))


def make_inputs(case: Case, device: str) -> Poses:
    """A batch of poses; with image ids the poses of all images in a random order."""
    poses, scores, areas, _ = made = make_poses(case.workload, device)
    if case.variant != _WITH_IDS:
        return made
    turn = torch.randperm(scores.numel(), generator=torch.Generator().manual_seed(10)).to(device)
    tensors = (tensor.flatten(0, 1)[turn] for tensor in (poses, scores, areas))
    return Poses(*tensors, image_ids=turn // scores.shape[1])


def suppress_on(case: Case, backend: str) -> Callable[[Poses], KeptPoses]:
    def suppress(poses: Poses) -> KeptPoses:
        *tensors, image_ids = poses
        return oks_nms(*tensors, threshold=THRESHOLD, image_ids=image_ids, backend=backend)

    return suppress


def pose_bytes(case: Case) -> int:
    """Size of poses, scores and areas in float32."""
    return case.workload.num_maps * (case.workload.shape[2] * 8 + 8)


def num_bytes(case: Case) -> int:
    """Size of what is read, and of kept flags, indices, counts and scores, which are written."""
    if case.variant == _WITH_IDS:
        return pose_bytes(case) + (8 + 13) * case.workload.num_maps + 8
    return _batch_bytes(case)


def _batch_bytes(case: Case) -> int:
    return pose_bytes(case) + 13 * case.workload.num_maps + 8 * case.workload.shape[0]


def _compare_indices(indices: Tensor, group: Group) -> tuple[float, str]:
    expected = group.truth.indices.view(-1, indices.shape[-1])
    different = int((indices != expected).any(-1).sum())
    if different:
        raise Wrong(f"{different} of {len(expected)} rows of indices are of other poses")
    return 0.0, "which poses are kept, against the float64 reference"


def compare_loop(kept: list[Any], group: Group) -> tuple[float, str]:
    indices = torch.full(group.case.workload.shape[:2], -1)
    for image, found in enumerate(kept):
        indices[image, : len(found)] = torch.from_numpy(found)
    return _compare_indices(indices.to(group.device), group)


def _batch_row(group: Group) -> Row:
    """The same poses as a batch, whose output is compared in its own group; rotated as the inputs are."""
    poses = make_poses(group.case.workload, group.device)
    copies = [Poses(*(tensor.clone() for tensor in poses[:3])) for _ in group.inputs]
    following, suppress = itertools.cycle(copies), suppress_on(group.case, "auto")
    return Row(
        lambda _: suppress(next(following)),
        lambda _: (None, "compared without image ids"),
        bytes=_batch_bytes(group.case),
        role="other",
        note="the same poses, image by image",
        capture="always",
    )


SUITE = Suite(
    cases=dict.fromkeys(suite.DEVICES, CASES),
    inputs=make_inputs,
    function=suppress_on,
    compare=lambda kept, group: _compare_indices(kept.indices, group),
    num_bytes=num_bytes,
    rotated_bytes=pose_bytes,
    rows={
        # As maps [B, 1, N, 2 K].
        READ_ONLY: suite.read_only(
            lambda inputs, case: inputs.poses.view(case.workload.shape).flatten(2)[:, None], note="the poses"
        ),
        EMPTY: suite.empty(
            lambda case: case.workload.num_maps if case.variant == _WITH_IDS else case.workload.shape[0]
        ),
        OURS: suite.ours(),
        REFERENCE: suite.reference(capture="never"),
        LOOP: suite.calls(
            lambda _: lambda poses: peers.numpy_oks_nms_loop(*poses[:3], COCO_KAPPAS, THRESHOLD),
            compare_loop,
            capture="never",
            device_note="on the host",
            num_bytes=pose_bytes,
        ),
        BATCH: Entry("other", _batch_row),
    },
)
