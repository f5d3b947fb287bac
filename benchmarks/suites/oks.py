"""oks of all pairs of poses, and the votes of similar poses about their keypoints, against one write of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

import dark_kernels
from benchmarks import suite
from benchmarks.suite import EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.suites import nms

FILL = "write the output once (fill)"
FUNCTIONS = ("oks", "variance_voting")


class Poses(NamedTuple):
    """Arguments of both."""

    poses: Tensor  # [B, N, K, 2]
    areas: Tensor  # [B, N]
    variances: Tensor  # [B, N, K]
    similarities: Tensor  # [B, N, N]


CASES = tuple(
    Case(f"{name} {nms.P1.name}", name, nms.P1, (FILL, EMPTY, name, REFERENCE), "all pairs", values="people")
    for name in FUNCTIONS
)


def make_poses(case: Case, device: str) -> Poses:
    poses, scores, areas, _ = nms.make_poses(case.workload, device)
    variances = (4.0 / scores)[..., None].expand(poses.shape[:-1]).contiguous()
    return Poses(poses, areas, variances, dark_kernels.oks(poses, poses, areas, areas))


def function_on(case: Case, backend: str) -> Callable[[Poses], Tensor]:
    if case.function == "oks":
        return lambda p: dark_kernels.oks(p.poses, p.poses, p.areas, p.areas, backend=backend)
    return lambda p: dark_kernels.variance_voting(p.poses, p.variances, p.similarities, backend=backend)


def output_bytes(case: Case) -> int:
    """Size of the similarities, or of the poses, in float32."""
    _, num_poses, num_keypoints, _ = case.workload.shape
    return case.workload.num_maps * 4 * (num_poses if case.function == "oks" else 2 * num_keypoints)


def step_bytes(case: Case) -> int:
    """And of what is read: poses and areas, or poses, variances and similarities."""
    _, num_poses, num_keypoints, _ = case.workload.shape
    read = 2 * num_keypoints + 1 if case.function == "oks" else 3 * num_keypoints + num_poses
    return output_bytes(case) + case.workload.num_maps * 4 * read


def compare(output: Tensor, group: Group) -> tuple[float, str]:
    # Of similarities up to 1 in some hundred units of rounding, and of positions up to 700 in as many.
    bound, what = (1e-4, "similarities") if group.case.function == "oks" else (1e-2, "positions in pixels")
    return suite.within(bound, f"{what} are", output, group.truth), f"{what}, against the float64 reference"


SUITE = Suite(
    cases=dict.fromkeys(suite.DEVICES, CASES),
    inputs=make_poses,
    function=function_on,
    compare=compare,
    num_bytes=step_bytes,
    rows={
        FILL: suite.write_once(output_bytes),
        EMPTY: suite.empty(lambda case: case.workload.shape[0]),
        **{name: suite.ours() for name in FUNCTIONS},
        REFERENCE: suite.reference(),
    },
)
