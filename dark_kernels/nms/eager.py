"""OKS and suppression in vectorised PyTorch, for CPU and for any device without Triton.

Images take their rounds together: round i looks at the i-th pose of every image.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_AREA_EPSILON = 2.2e-16
# e^-87 is the last power that float32 holds with all its digits.
_FAR = 87.0
# Keypoints of pairs of poses that are compared at once: on a CPU as many as stay in its cache.
_ELEMENTS, _ELEMENTS_ON_DEVICE = 2**17, 2**25


def oks_fwd(
    poses_a: Tensor,  # [B, N, K, 2]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_a: Tensor,  # [B, N]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [B, N, K]
    visible_b: Tensor | None,  # [B, M, K]
    dtype: torch.dtype,
) -> Tensor:
    """Similarities [B, N, M], of some poses at a time."""
    rows = _rows_at_once(poses_b)
    found = [
        _similarities(
            *_part(poses_a, areas_a, visible_a, slice(start, start + rows)), poses_b, areas_b, visible_b, kappas, dtype
        )
        for start in range(0, poses_a.shape[1], rows)
    ]
    if len(found) == 1:
        return found[0]
    return torch.cat(found, dim=1) if found else poses_a.new_empty((len(poses_a), 0, poses_b.shape[1]), dtype=dtype)


def _rows_at_once(poses: Tensor) -> int:
    """How many poses of an image are compared with these at once."""
    elements = _ELEMENTS if poses.device.type == "cpu" else _ELEMENTS_ON_DEVICE
    return max(1, elements // max(1, poses[..., 0].numel()))


def _part(poses: Tensor, areas: Tensor, visible: Tensor | None, part: slice) -> tuple[Tensor, Tensor, Tensor | None]:
    """Some poses of each image."""
    return poses[:, part], areas[:, part], None if visible is None else visible[:, part]


def _similarities(
    poses_a: Tensor,  # [B, N, K, 2]
    areas_a: Tensor,  # [B, N]
    visible_a: Tensor | None,  # [B, N, K]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_b: Tensor,  # [B, M]
    visible_b: Tensor | None,  # [B, M, K]
    kappas: Tensor,  # [K]
    dtype: torch.dtype,
) -> Tensor:
    """[B, N, M]."""
    areas_a, areas_b = _area(areas_a.to(dtype))[:, :, None], _area(areas_b.to(dtype))[:, None, :]
    # Distances are squared after the scaling, where they no longer overflow.
    scale = (8.0 * (0.5 * areas_a + 0.5 * areas_b + _AREA_EPSILON)).rsqrt()[..., None] / kappas.to(dtype)
    ax, ay = poses_a.to(dtype).movedim(-1, 0).contiguous()[:, :, :, None]
    bx, by = poses_b.to(dtype).movedim(-1, 0).contiguous()[:, :, None]
    exponent = (ax - bx).mul_(scale).square_().add_((ay - by).mul_(scale).square_())
    # What is far is like nothing, and so is a NaN, of an area too. Exponentials that underflow take a CPU fifty times
    # as long as others.
    near = exponent < _FAR
    similarity = torch.where(near, exponent, _FAR).neg_().exp_().mul_(near)
    seen = [(visible_a > 0)[:, :, None]] if visible_a is not None else []
    seen += [(visible_b > 0)[:, None]] if visible_b is not None else []
    if not seen:
        return similarity.sum(-1) / max(similarity.shape[-1], 1)
    weight = functools.reduce(torch.logical_and, seen).to(dtype)
    return (similarity * weight).sum(-1) / weight.sum(-1).clamp(min=1)


def _area(areas: Tensor) -> Tensor:
    """NaN for what is no area."""
    return torch.where((areas >= 0) & (areas < math.inf), areas, math.nan)


def oks_nms_fwd(
    poses: Tensor,  # [B, N, K, 2]
    scores: Tensor,  # [B, N]
    areas: Tensor,  # [B, N]
    kappas: Tensor,  # [K]
    visible: Tensor | None,  # [B, N, K]
    mask: Tensor | None,  # [B, N]
    threshold: float,
    method: str,
    max_poses: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keep [B, N], indices [B, max_poses], counts [B] and scores [B, N]."""
    scores = scores.to(dtype)
    is_pose = scores > -math.inf  # a NaN is not
    if mask is not None:
        is_pose = is_pose & (mask > 0)
    scores = torch.where(is_pose, scores, -math.inf)
    if method == "hard":
        ranks = _hard_ranks(poses, scores, areas, kappas, visible, threshold, dtype)
    else:
        scores, ranks = _soft_ranks(poses, scores, areas, kappas, visible, threshold, method, max_poses, dtype)
    keep = ranks >= 0
    indices = ranks.new_full((ranks.shape[0], max_poses + 1), -1)
    index = torch.arange(ranks.shape[1], device=ranks.device).expand(ranks.shape)
    indices = indices.scatter_(1, torch.where(keep, ranks, max_poses), index)[:, :-1]  # the last column: of no pose
    return keep, indices.contiguous(), keep.sum(-1), torch.where(keep, scores, 0.0)


def _hard_ranks(
    poses: Tensor,
    scores: Tensor,  # [B, N], -inf for what is no pose
    areas: Tensor,
    kappas: Tensor,
    visible: Tensor | None,
    threshold: float,
    dtype: torch.dtype,
) -> Tensor:
    """The place of each pose among the kept ones [B, N], -1 if it is dropped."""
    num_poses = scores.shape[1]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    batch = torch.arange(scores.shape[0], device=scores.device)[:, None]
    kept = scores.gather(1, order) != -math.inf
    poses, areas = poses[batch, order], areas[batch, order]
    visible = None if visible is None else visible[batch, order]
    rows = _rows_at_once(poses)
    for start in range(0, num_poses - 1, rows):
        stop = min(start + rows, num_poses)
        # A pose is compared with those behind it, and drops them if it is kept itself.
        block = _part(poses, areas, visible, slice(start, stop))
        behind = _part(poses, areas, visible, slice(start + 1, None))
        drops = _similarities(*block, *behind, kappas, dtype) > threshold
        for i in range(stop - start):
            kept[:, start + i + 1 :].logical_and_(~(drops[:, i, i:] & kept[:, start + i, None]))
    ranks = torch.where(kept, kept.cumsum(-1) - 1, -1)
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _soft_ranks(
    poses: Tensor,
    scores: Tensor,  # [B, N], -inf for what is no pose
    areas: Tensor,
    kappas: Tensor,
    visible: Tensor | None,
    threshold: float,
    method: str,
    max_poses: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Decayed scores and the place of each pose among the kept ones [B, N], -1 if it is dropped."""
    batch = torch.arange(scores.shape[0], device=scores.device)[:, None]
    ranks = torch.full_like(scores, -1, dtype=torch.int64)
    for i in range(min(max_poses, scores.shape[1])):
        candidates = torch.where(ranks < 0, scores, -math.inf)
        best = candidates.argmax(-1, keepdim=True)  # the first of equal ones
        found = candidates.gather(1, best) != -math.inf
        ranks.scatter_(1, best, torch.where(found, i, ranks.gather(1, best)))
        seen = None if visible is None else visible[batch, best]
        similarity = oks_fwd(poses[batch, best], poses, areas[batch, best], areas, kappas, seen, visible, dtype)[:, 0]
        if method == "gaussian":
            factors = torch.exp(-similarity.square() / threshold)
        else:
            factors = torch.where(similarity >= threshold, 1 - similarity, 1.0)
        decayed = torch.where(factors == 0, 0.0, scores * factors)
        scores = torch.where((ranks < 0) & (scores != -math.inf), decayed, scores)
    return scores, ranks


def flat_oks_nms_fwd(
    poses: Tensor,  # [1, N, K, 2]
    scores: Tensor,  # [1, N]
    areas: Tensor,  # [1, N]
    kappas: Tensor,  # [K]
    visible: Tensor | None,  # [1, N, K]
    mask: Tensor | None,  # [1, N]
    image_ids: Tensor,  # [N]
    threshold: float,
    method: str,
    max_poses: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """keep [1, N], indices [1, at least the kept] with gaps of -1, scores [1, N] of poses that belong to the images of
    their ids.

    Images are padded to the fullest. How many there are and how full that is, the host has to know.
    """
    _, image, lengths = image_ids.unique(return_inverse=True, return_counts=True)
    order = image.argsort(stable=True)
    image = image[order]
    place = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[image]
    members = order.new_full((len(lengths), int(lengths.max())), -1)
    members[image, place] = order
    exists = members >= 0
    members = members.clamp(min=0)

    keep, indices, _, kept_scores = oks_nms_fwd(
        poses[0, members],
        scores[0, members],
        areas[0, members],
        kappas,
        None if visible is None else visible[0, members],
        exists if mask is None else exists & (mask[0, members] > 0),
        threshold,
        method,
        min(max_poses, members.shape[1]),
        dtype,
    )
    indices = torch.where(indices >= 0, members.gather(1, indices.clamp(min=0)), -1)
    keep_of_all, scores_of_all = (each.new_empty((1, len(order))) for each in (keep, kept_scores))
    keep_of_all[0, order], scores_of_all[0, order] = keep[image, place], kept_scores[image, place]
    return keep_of_all, indices.view(1, -1), scores_of_all
