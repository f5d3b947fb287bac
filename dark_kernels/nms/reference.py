"""The definitions: plain PyTorch, one image and one round at a time.

Readable on purpose. Every other backend is proved against this file in float64.

Sources: object keypoint similarity as in COCO's keypoint evaluation, between two poses instead of a pose and an
annotation (G. Papandreou et al., "Towards Accurate Multi-person Pose Estimation in the Wild", CVPR 2017, section 3.2);
the soft forms are those of N. Bodla et al., "Soft-NMS", ICCV 2017, eq. 3 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# What COCO's evaluation adds to an area.
AREA_EPSILON = 2.2e-16


def oks_reference(
    poses_a: Tensor,  # [..., N, K, 2]
    poses_b: Tensor,  # [..., M, K, 2]
    areas_a: Tensor,  # [..., N]
    areas_b: Tensor,  # [..., M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None = None,  # [..., N, K]
    visible_b: Tensor | None = None,  # [..., M, K]
) -> Tensor:
    """The similarities of `dark_kernels.oks`, [..., N, M], step by step. Arguments and result as there; computed in
    float32, in float64 if poses or areas are float64."""
    similarity, visible = _of_keypoints(poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    return similarity.sum(-1) / visible.sum(-1).clamp(min=1)


def _of_keypoints(
    poses_a: Tensor,
    poses_b: Tensor,
    areas_a: Tensor,
    areas_b: Tensor,
    kappas: Tensor,
    visible_a: Tensor | None,
    visible_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The similarity of each keypoint, 0 where it is not visible in both poses, and whether it is: [..., N, M, K]."""
    tensors = (poses_a, poses_b, areas_a, areas_b)
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    poses_a, poses_b, areas_a, areas_b = (tensor.to(dtype) for tensor in tensors)

    area = (areas_a[..., :, None] + areas_b[..., None, :]) / 2  # [..., N, M]
    squared_distances = ((poses_a[..., :, None, :, :] - poses_b[..., None, :, :, :]) ** 2).sum(-1)  # [..., N, M, K]
    e = squared_distances / (2 * kappas.to(dtype)) ** 2 / (area[..., None] + AREA_EPSILON) / 2
    similarity = torch.where(e.isnan(), 0.0, torch.exp(-e))
    # An area that is none is like nothing.
    has_a, has_b = ((areas >= 0) & (areas < math.inf) for areas in (areas_a, areas_b))
    similarity = torch.where((has_a[..., :, None] & has_b[..., None, :])[..., None], similarity, 0.0)

    visible = torch.ones_like(similarity, dtype=torch.bool)
    if visible_a is not None:
        visible = visible & (visible_a > 0)[..., :, None, :]
    if visible_b is not None:
        visible = visible & (visible_b > 0)[..., None, :, :]
    return torch.where(visible, similarity, 0.0), visible


def oks_symmetric_reference(
    poses_a: Tensor,  # [..., N, K, 2]
    poses_b: Tensor,  # [..., M, K, 2]
    areas_a: Tensor,  # [..., N]
    areas_b: Tensor,  # [..., M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [..., N, K]
    visible_b: Tensor | None,  # [..., M, K]
    pairs: Sequence[tuple[int, int]],
    swap: str,
) -> Tensor:
    """The similarities of `dark_kernels.oks` with `symmetric` pairs, [..., N, M]: once as the poses are and once with
    all pairs of the first poses swapped, and the better of both, for each pair (`swap` "pairs") or in all ("pose")."""
    order = list(range(poses_a.shape[-2]))
    for i, j in pairs:
        order[i], order[j] = j, i
    swapped_visible = None if visible_a is None else visible_a[..., order]
    kept = _of_keypoints(poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    swapped = _of_keypoints(poses_a[..., order, :], poses_b, areas_a, areas_b, kappas, swapped_visible, visible_b)
    if swap == "pose":
        return torch.maximum(
            *(similarity.sum(-1) / visible.sum(-1).clamp(min=1) for similarity, visible in (kept, swapped))
        )
    similarity, visible = (each.clone() for each in kept)
    for pair in pairs:
        places = list(pair)
        is_better = swapped[0][..., places].sum(-1) > kept[0][..., places].sum(-1)  # [..., N, M]
        for place in places:
            similarity[..., place] = torch.where(is_better, swapped[0][..., place], kept[0][..., place])
            visible[..., place] = torch.where(is_better, swapped[1][..., place], kept[1][..., place])
    return similarity.sum(-1) / visible.sum(-1).clamp(min=1)


def oks_nms_reference(
    poses: Tensor,  # [B, N, K, 2]
    scores: Tensor,  # [B, N]
    areas: Tensor,  # [B, N]
    kappas: Tensor,  # [K]
    threshold: float = 0.9,
    method: str = "hard",
    max_poses: int | None = None,
    visible: Tensor | None = None,  # [B, N, K]
    mask: Tensor | None = None,  # [B, N]
    image_ids: Tensor | None = None,  # [N], of the poses of a single batch entry
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keep [B, N], indices [B, P], counts [B] and scores [B, N] of `dark_kernels.oks_nms` (`method` "hard") and
    `soft_oks_nms` ("gaussian" or "linear"), round by round. P is `max_poses`, or N for None and with image ids."""
    dtype = torch.float64 if torch.float64 in (poses.dtype, scores.dtype, areas.dtype) else torch.float32
    batch, num_poses = scores.shape
    most = num_poses if max_poses is None else max_poses
    kept_scores = scores.new_zeros((batch, num_poses), dtype=dtype)
    rows: list[list[int]] = []
    for b in range(batch):
        is_pose = ~scores[b].isnan() & (scores[b] != -math.inf)
        if mask is not None:
            is_pose = is_pose & (mask[b] > 0)
        image_of = torch.zeros_like(is_pose, dtype=torch.int64) if image_ids is None else image_ids
        rows.append([])
        for image in image_of.unique().tolist():
            members = (is_pose & (image_of == image)).nonzero().flatten()
            current = scores[b].to(dtype)
            for _ in range(most):
                if members.numel() == 0:
                    break
                # Sorted anew each round; of equal scores the lower index is first.
                members = members.sort().values
                members = members[current[members].argsort(descending=True, stable=True)]
                best, members = members[:1], members[1:]
                rows[b].append(int(best))
                kept_scores[b, best] = current[best]
                seen = (None, None) if visible is None else (visible[b, best], visible[b, members])
                similarity = oks_reference(
                    poses[b, best].to(dtype), poses[b, members], areas[b, best], areas[b, members], kappas, *seen
                )[0]
                if method == "hard":
                    members = members[~(similarity > threshold)]
                elif method == "gaussian":
                    current = _decayed(current, members, torch.exp(-(similarity**2) / threshold))
                else:
                    current = _decayed(current, members, torch.where(similarity >= threshold, 1 - similarity, 1.0))
    width = num_poses if image_ids is not None else most
    indices = torch.full((batch, width), -1, device=scores.device)
    keep = torch.zeros_like(kept_scores, dtype=torch.bool)
    for b, row in enumerate(rows):
        indices[b, : len(row)] = torch.tensor(row, dtype=torch.int64, device=indices.device)
        keep[b, row] = True
    counts = keep.sum(-1)
    return keep, indices, counts, kept_scores


def _decayed(scores: Tensor, members: Tensor, factors: Tensor) -> Tensor:
    """`scores` [N] with those of some members multiplied; nothing is left of an infinite one times 0."""
    return scores.index_put((members,), torch.where(factors == 0, 0.0, scores[members] * factors))
