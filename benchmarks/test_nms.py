"""oks_nms: the poses of a batch of images, against the loop that pose libraries have and against one read of them;
and the same poses in any order with image ids, against the batch.

Run by `python -m benchmarks.run`. What is kept is compared with the reference in float64 before anything is timed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import Workload
from dark_kernels import COCO_KAPPAS, KeptPoses, oks_nms

# [B, N, K, 2]: a bottom-up network finds a person several times.
P1 = Workload("P1", (64, 30, 17, 2), "a batch of images, 30 poses each")
P2 = Workload("P2", (8, 300, 17, 2), "crowds, 300 poses each")
THRESHOLD = 0.9
READ_ONLY, EMPTY, OURS, REFERENCE, LOOP = "read only", "empty kernel", "oks_nms", "reference", "NumPy loop"
BATCH = "oks_nms of a batch"


class Case(NamedTuple):
    """A group of rows."""

    workload: Workload
    has_ids: bool = False

    def __str__(self) -> str:
        return f"oks_nms {self.workload.name}" + (" image ids" if self.has_ids else "")

    @property
    def variant(self) -> str:
        return "hard, image ids" if self.has_ids else "hard"

    @property
    def rows(self) -> tuple[str, ...]:
        return READ_ONLY, EMPTY, OURS, REFERENCE, BATCH if self.has_ids else LOOP


CASES = [Case(P1), Case(P2), Case(P1, has_ids=True), Case(P2, has_ids=True)]


class Poses(NamedTuple):
    """Arguments of oks_nms; with image ids without the batch dimension."""

    poses: Tensor  # [B, N, K, 2]
    scores: Tensor  # [B, N]
    areas: Tensor  # [B, N]
    image_ids: Tensor | None = None  # [B N]

    def map(self, function: Callable[[Tensor], Tensor]) -> Poses:
        """Apply a function to poses, scores and areas."""
        return Poses(function(self.poses), function(self.scores), function(self.areas), self.image_ids)


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


def shuffled(poses: Poses) -> Poses:
    """The poses of all images in a random order, with ids."""
    batch, num_poses = poses.scores.shape
    turn = torch.randperm(batch * num_poses, generator=torch.Generator().manual_seed(10)).to(poses.scores.device)
    return poses.map(lambda tensor: tensor.flatten(0, 1)[turn])._replace(image_ids=turn // num_poses)


@functools.lru_cache(maxsize=1)
def inputs_of(case: Case, device: str) -> list[Poses]:
    """Rotated inputs."""
    poses = make_poses(case.workload, device)
    if case.has_ids:
        poses = shuffled(poses)
    copies = workloads.num_copies(pose_bytes(case.workload), measure.cache_bytes(device))
    return [poses, *(poses.map(torch.clone) for _ in range(copies - 1))]


@functools.lru_cache(maxsize=1)
def _truth(case: Case, device: str) -> KeptPoses:
    return _suppress(inputs_of(case, device)[0].map(Tensor.double), "reference")


def _suppress(poses: Poses, backend: str = "auto") -> KeptPoses:
    *tensors, image_ids = poses
    return oks_nms(*tensors, threshold=THRESHOLD, image_ids=image_ids, backend=backend)


def pose_bytes(workload: Workload) -> int:
    """Size of poses, scores and areas in float32."""
    batch, num_poses, num_keypoints, _ = workload.shape
    return batch * num_poses * (num_keypoints * 8 + 8)


def _compare(indices: Tensor, case: Case, device: str) -> tuple[float, str]:
    expected = _truth(case, device).indices.view(-1, indices.shape[-1])
    different = int((indices != expected).any(-1).sum())
    if different:
        raise Wrong(f"{different} of {len(expected)} rows of indices are of other poses")
    return 0.0, "which poses are kept, against the float64 reference"


def _bytes(case: Case) -> int:
    """Size of what is read, and of kept flags, indices, counts and scores, which are written."""
    ids, counts = (8 * case.workload.num_maps, 8) if case.has_ids else (0, 8 * case.workload.shape[0])
    return pose_bytes(case.workload) + ids + 13 * case.workload.num_maps + counts


def _suppression_row(case: Case, device: str, backend: str, **fields: Any) -> Row:
    return Row(
        lambda poses: _suppress(poses, backend),
        lambda kept: _compare(kept.indices, case, device),
        bytes=_bytes(case),
        **fields,
    )


def _batch_row(case: Case, device: str) -> Row:
    """The same poses as a batch, whose output is compared in its own group; rotated as the inputs are."""
    poses = make_poses(case.workload, device)
    following = itertools.cycle([poses.map(torch.clone) for _ in inputs_of(case, device)])
    return Row(
        lambda _: _suppress(next(following)),
        lambda _: (None, "compared without image ids"),
        bytes=_bytes(case._replace(has_ids=False)),
        role="other",
        note="the same poses, image by image",
        capture="always",
    )


def _loop_row(case: Case, device: str) -> Row:
    def compare(kept: list[Any]) -> tuple[float, str]:
        indices = torch.full(case.workload.shape[:2], -1)
        for image, found in enumerate(kept):
            indices[image, : len(found)] = torch.from_numpy(found)
        return _compare(indices.to(device), case, device)

    return Row(
        lambda poses: peers.numpy_oks_nms_loop(*poses[:3], COCO_KAPPAS, THRESHOLD),
        compare,
        bytes=pose_bytes(case.workload),
        capture="never",
        note="on the host" if device != "cpu" else None,
    )


def _read_row(case: Case, device: str) -> Row:
    def maps(poses: Poses) -> Tensor:
        """[B, 1, N, 2 K]."""
        return poses.poses.view(case.workload.shape).flatten(2)[:, None]

    read = measure.read_once(maps(inputs_of(case, device)[0]))
    return Row(
        lambda poses: read(maps(poses)),
        lambda _: (None, "nothing"),
        bytes=case.workload.num_maps * case.workload.shape[2] * 8,
        role="floor",
        note="the poses",
        capture="always",
    )


def _empty_row(case: Case, device: str) -> Row:
    return rows.empty_row(case.workload.num_maps if case.has_ids else case.workload.shape[0], device)


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_row,
    EMPTY: _empty_row,
    OURS: lambda case, device: _suppression_row(case, device, "auto", role="ours", capture="always"),
    REFERENCE: lambda case, device: _suppression_row(case, device, "reference", capture="never"),
    LOOP: _loop_row,
    BATCH: _batch_row,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    left_out = EMPTY if rows.device_of(metafunc) == "cpu" else None
    rows.parametrize(metafunc, CASES, lambda case: [name for name in case.rows if name != left_out])


def test_nms(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case, device),
        device,
        group=str(case),
        identity={
            "operation": "oks_nms",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "normal",
            "variant": case.variant,
            "row": row,
        },
    )
