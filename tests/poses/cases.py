"""Scenes of poses, and suppression written from the formulas as plain Python loops over numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dark_kernels.types import KeptPoses

KAPPAS = (0.05, 0.08, 0.1, 0.2)
THRESHOLD = 0.5
# Decisions that are closer than this are redrawn. Similarities and decayed scores are off by some 20 roundings of
# float32 at most, a hundredth of it.
MARGIN = 1e-4


def similarity(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    area_a: float,
    area_b: float,
    kappas: Sequence[float] = KAPPAS,
    seen: Sequence[bool] | None = None,
) -> float:
    """Object keypoint similarity of two poses, over the keypoints that are seen in both."""
    total, count = 0.0, 0
    for i, ((ax, ay), (bx, by)) in enumerate(zip(a, b, strict=True)):
        if seen is not None and not seen[i]:
            continue
        e = ((ax - bx) ** 2 + (ay - by) ** 2) / (2 * kappas[i]) ** 2 / ((area_a + area_b) / 2 + 2.2e-16) / 2
        total += math.exp(-e)
        count += 1
    return total / count if count else 0.0


class Ambiguous(Exception):
    """A decision that rounding could turn."""


def _clear(first: float, second: float) -> None:
    if abs(first - second) < MARGIN:
        raise Ambiguous


def suppress(
    poses: list[Any],
    scores: list[float],
    areas: list[float],
    exists: list[bool],
    visible: list[list[bool]] | None,
    method: str,
    max_poses: int,
    threshold: float = THRESHOLD,
) -> list[tuple[int, float]]:
    """(index, score) of the kept poses of one image, in order; raises Ambiguous. Equal scores are no ambiguity as
    long as nothing was multiplied."""
    left = [i for i in range(len(scores)) if exists[i]]
    scores = list(scores)
    kept: list[tuple[int, float]] = []
    while left and len(kept) < max_poses:
        left.sort(key=lambda i: (-scores[i], i))
        if len(left) > 1 and kept and method != "hard":
            _clear(scores[left[0]], scores[left[1]])
        best = left.pop(0)
        kept.append((best, scores[best]))
        for i in left.copy():
            seen = None if visible is None else [a and b for a, b in zip(visible[best], visible[i], strict=True)]
            o = similarity(poses[best], poses[i], areas[best], areas[i], seen=seen)
            if method == "hard":
                _clear(o, threshold)
                if o > threshold:
                    left.remove(i)
            elif method == "gaussian":
                scores[i] *= math.exp(-(o**2) / threshold)
            else:
                _clear(o, threshold)
                if o >= threshold:
                    scores[i] *= 1 - o
    return kept


@dataclasses.dataclass
class Scenes:
    """B images of N poses, some of which do not exist, and what is kept of them."""

    poses: Tensor  # [B, N, K, 2]
    scores: Tensor  # [B, N]
    areas: Tensor  # [B, N]
    mask: Tensor  # [B, N], bool
    visible: Tensor | None  # [B, N, K], bool
    method: str
    max_poses: int
    kept: list[list[tuple[int, float]]]

    @property
    def expected(self) -> KeptPoses:
        """Of float64 scores."""
        batch, num_poses = self.scores.shape
        keep = torch.zeros(batch, num_poses, dtype=torch.bool)
        scores = torch.zeros(batch, num_poses, dtype=torch.float64)
        indices = torch.full((batch, num_poses if self.method == "hard" else self.max_poses), -1)
        for b, kept in enumerate(self.kept):
            for rank, (i, score) in enumerate(kept):
                keep[b, i], scores[b, i], indices[b, rank] = True, score, i
        return KeptPoses(keep, indices, keep.sum(-1), scores)

    @property
    def options(self) -> dict[str, Any]:
        soft = {} if self.method == "hard" else {"method": self.method, "max_poses": self.max_poses}
        return {"threshold": THRESHOLD, "kappas": KAPPAS, **soft}

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Scenes:
        poses, scores, areas = (each.to(device, dtype) for each in (self.poses, self.scores, self.areas))
        visible = None if self.visible is None else self.visible.to(device)
        return dataclasses.replace(
            self, poses=poses, scores=scores, areas=areas, mask=self.mask.to(device), visible=visible
        )


def make_scenes(
    count: int, method: str = "hard", visible: bool = False, num_poses: int = 6, max_poses: int = 4, seed: int = 0
) -> Scenes:
    """Exactly `count` scenes of a few people, each found once or several times; scenes in which a decision is closer
    than MARGIN are drawn again. Numbers are float32, and so the same for every backend."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.rand(2, len(KAPPAS), 2, generator=generator) * 100
    drawn: list[tuple[Tensor, ...]] = []
    kept: list[list[tuple[int, float]]] = []
    while len(kept) < count:
        whose = torch.randint(len(people), (num_poses,), generator=generator)
        spread = torch.rand(num_poses, 1, 1, generator=generator) * 12
        poses = people[whose] + torch.randn(num_poses, len(KAPPAS), 2, generator=generator) * spread
        # Some scores are equal: of these the first counts.
        scores = (torch.rand(num_poses, generator=generator) * 12 + 1).round() / 13
        if method != "hard":
            scores = torch.rand(num_poses, generator=generator)
        areas = 500 + 5000 * torch.rand(num_poses, generator=generator)
        exists = torch.rand(num_poses, generator=generator) < 0.85
        seen = torch.rand(num_poses, len(KAPPAS), generator=generator) < 0.7
        numbers = [each.double().tolist() for each in (poses, scores, areas)]
        flags = exists.tolist(), seen.tolist() if visible else None
        try:
            kept.append(suppress(*numbers, *flags, method, num_poses if method == "hard" else max_poses))
        except Ambiguous:
            continue
        drawn.append((poses, scores, areas, exists, seen))
    poses, scores, areas, mask, seen = (torch.stack(each) for each in zip(*drawn, strict=True))
    return Scenes(poses, scores, areas, mask, seen if visible else None, method, max_poses, kept)


def assert_kept(actual: KeptPoses, expected: KeptPoses) -> None:
    """The same decisions, and scores within rounding: of 5 factors, each off by 32 roundings at most, where a
    similarity is off by 16."""
    for name in ("keep", "indices", "counts"):
        one, other = getattr(actual, name).cpu(), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    eps = torch.finfo(actual.scores.dtype).eps
    torch.testing.assert_close(actual.scores.cpu().double(), expected.scores, rtol=0, atol=5 * 32 * eps)
