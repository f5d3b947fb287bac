"""oks_nms: the poses of a batch of images, against the loop that pose libraries have and against one read of them.

Run by `python -m benchmarks.run`. What is kept is compared with the reference in float64 before anything is timed.
"""

from __future__ import annotations

import functools
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


class Poses(NamedTuple):
    """What oks_nms takes."""

    poses: Tensor  # [B, N, K, 2]
    scores: Tensor  # [B, N]
    areas: Tensor  # [B, N]


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


@functools.lru_cache(maxsize=1)
def inputs_of(workload: Workload, device: str) -> list[Poses]:
    """Rotated inputs."""
    poses = make_poses(workload, device)
    copies = workloads.num_copies(pose_bytes(workload), measure.cache_bytes(device))
    return [poses, *(Poses(*(tensor.clone() for tensor in poses)) for _ in range(copies - 1))]


@functools.lru_cache(maxsize=1)
def _truth(workload: Workload, device: str) -> KeptPoses:
    poses = Poses(*(tensor.double() for tensor in inputs_of(workload, device)[0]))
    return _suppress(poses, "reference")


def _suppress(poses: Poses, backend: str = "auto") -> KeptPoses:
    return oks_nms(*poses, threshold=THRESHOLD, backend=backend)


def pose_bytes(workload: Workload) -> int:
    """Of poses, scores and areas in float32."""
    batch, num_poses, num_keypoints, _ = workload.shape
    return batch * num_poses * (num_keypoints * 8 + 8)


def _compare(indices: Tensor, workload: Workload, device: str) -> tuple[float, str]:
    expected = _truth(workload, device).indices
    different = int((indices != expected).any(-1).sum())
    if different:
        raise Wrong(f"{different} of {len(expected)} images keep other poses")
    return 0.0, "which poses are kept, against the float64 reference"


def _suppression_row(workload: Workload, device: str, backend: str, **fields: Any) -> Row:
    # Kept flags, indices, a count and scores are written.
    written = workload.num_maps * 13 + workload.shape[0] * 8
    return Row(
        lambda poses: _suppress(poses, backend),
        lambda kept: _compare(kept.indices, workload, device),
        bytes=pose_bytes(workload) + written,
        **fields,
    )


def _loop_row(workload: Workload, device: str) -> Row:
    def compare(kept: list[Any]) -> tuple[float, str]:
        indices = torch.full(workload.shape[:2], -1)
        for image, found in enumerate(kept):
            indices[image, : len(found)] = torch.from_numpy(found)
        return _compare(indices.to(device), workload, device)

    return Row(
        lambda poses: peers.numpy_oks_nms_loop(*poses, COCO_KAPPAS, THRESHOLD),
        compare,
        bytes=pose_bytes(workload),
        capture="never",
        note="on the host" if device != "cpu" else None,
    )


def _read_row(workload: Workload, device: str) -> Row:
    read = measure.read_once(inputs_of(workload, device)[0].poses.flatten(2)[:, None])
    return Row(
        lambda poses: read(poses.poses.flatten(2)[:, None]),
        lambda _: (None, "nothing"),
        bytes=workload.num_maps * workload.shape[2] * 8,
        role="floor",
        note="the poses",
        capture="always",
    )


ROWS: dict[str, Callable[[Workload, str], Row]] = {
    READ_ONLY: _read_row,
    EMPTY: lambda workload, device: rows.empty_row(workload.shape[0], device),
    OURS: lambda workload, device: _suppression_row(workload, device, "auto", role="ours", capture="always"),
    REFERENCE: lambda workload, device: _suppression_row(workload, device, "reference", capture="never"),
    LOOP: _loop_row,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = metafunc.config.getoption("--bench-device", default="cpu") != "cpu"
    names = [name for name in ROWS if on_gpu or name != EMPTY]
    metafunc.parametrize(
        ("workload", "row"),
        [pytest.param(workload, row, id=f"oks_nms {workload.name} {row}") for workload in (P1, P2) for row in names],
    )


def test_nms(benchmark: Any, request: pytest.FixtureRequest, workload: Workload, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](workload, device),
        inputs_of(workload, device),
        device,
        group=f"oks_nms {workload.name}",
        identity={
            "operation": "oks_nms",
            "workload": workload.name,
            "shape": list(workload.shape),
            "dtype": "float32",
            "memory_format": "contiguous",
            "values": "normal",
            "variant": "hard",
            "row": row,
        },
    )
