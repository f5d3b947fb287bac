"""The definitions: plain PyTorch, one image and one round, or one step of a formula, at a time.

Readable on purpose. Every other backend is proved against this file in float64.

Sources: object keypoint similarity as in COCO's keypoint evaluation, between two poses instead of a pose and an
annotation (G. Papandreou et al., "Towards Accurate Multi-person Pose Estimation in the Wild", CVPR 2017, section 3.2);
the soft forms are those of N. Bodla et al., "Soft-NMS", ICCV 2017, eq. 3 to 5. Variance voting: Y. He et al.,
"Bounding Box Regression with Uncertainty for Accurate Object Detection", CVPR 2019, eq. 11, with the similarity of
poses in the place of the overlap of boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# COCO's evaluation adds it to an area.
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
    """Compare poses as `dark_kernels.oks` does, [..., N, M], step by step. Arguments and result as there; computed in
    float32, in float64 if poses or areas are float64."""
    similarity, visible = _of_keypoints(poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    return _mean(similarity, visible)


def _of_keypoints(
    poses_a: Tensor,
    poses_b: Tensor,
    areas_a: Tensor,
    areas_b: Tensor,
    kappas: Tensor,
    visible_a: Tensor | None,
    visible_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compare keypoint by keypoint, 0 where it is not visible in both poses, and tell where it is: [..., N, M, K]."""
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


def _mean(similarity: Tensor, visible: Tensor) -> Tensor:
    """Average over the keypoints that are visible, 0 if none is."""
    return similarity.sum(-1) / visible.sum(-1).clamp(min=1)


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
        return torch.maximum(_mean(*kept), _mean(*swapped))
    similarity, visible = (each.clone() for each in kept)
    for pair in pairs:
        places = list(pair)
        is_better = swapped[0][..., places].sum(-1) > kept[0][..., places].sum(-1)  # [..., N, M]
        for place in places:
            similarity[..., place] = torch.where(is_better, swapped[0][..., place], kept[0][..., place])
            visible[..., place] = torch.where(is_better, swapped[1][..., place], kept[1][..., place])
    return _mean(similarity, visible)


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


# --- votes ---


def bilinear(
    heatmaps: Tensor,  # [B, K, H, W]
    samples: Tensor,  # [B, K, S, 2]
) -> Tensor:
    """Values of the maps between their pixels [B, K, S]; beyond the border they fall to 0 within a pixel."""
    height, width = heatmaps.shape[-2:]
    batch = torch.arange(heatmaps.shape[0], device=heatmaps.device)[:, None, None]
    keypoint = torch.arange(heatmaps.shape[1], device=heatmaps.device)[:, None]
    corner = samples.floor()
    values = torch.zeros_like(samples[..., 0])
    for dx in (0, 1):
        for dy in (0, 1):
            pixel = corner + torch.tensor([dx, dy], device=samples.device)
            column, row = pixel.unbind(-1)
            share = (1 - (samples - pixel).abs()).prod(-1)
            # A pixel without a share is not looked at, whatever it holds.
            counts = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (share > 0)
            column, row = torch.where(counts, column, 0).long(), torch.where(counts, row, 0).long()
            values = values + torch.where(counts, share * heatmaps[batch, keypoint, row, column], 0.0)
    return values


def density(
    samples: Tensor,  # [B, K, S, 2]
    valid: Tensor,  # [B, K, S]
    bandwidth: float,
) -> Tensor:
    """Density at each sample [B, K, S] of all S of them, its own kernel included, in units of a kernel's peak."""
    squares = ((samples[..., :, None, :] - samples[..., None, :, :]) ** 2).sum(-1)  # [B, K, S, S]
    kernels = torch.where(valid[..., None, :], torch.exp(-squares / (2 * bandwidth**2)), 0.0)
    return kernels.mean(-1)


def vote_reference(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None,  # [B, K, H, W]
    bandwidth: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """coords [B, K, 2], scores [B, K] and covariances [B, K, 2, 2] of `dark_kernels.vote`, step by step."""
    is_double = samples.dtype == torch.float64 or (heatmaps is not None and heatmaps.dtype == torch.float64)
    samples = samples.to(torch.float64 if is_double else torch.float32)
    valid = samples.isfinite().all(-1)
    samples = torch.where(valid[..., None], samples, 0.0)
    if heatmaps is not None:
        weights = bilinear(heatmaps.to(samples.dtype), samples)
    elif bandwidth is not None:
        weights = density(samples, valid, bandwidth)
    else:
        weights = torch.ones_like(samples[..., 0])
    weights = torch.where(valid & (weights > 0) & (weights < math.inf), weights, 0.0)

    # What gives no vote is nowhere: far away its square would be infinite, and NaN times a weight of 0.
    samples = torch.where((weights > 0)[..., None], samples, 0.0)
    total = weights.sum(-1)
    shares = weights / total[..., None]  # NaN where nothing votes
    coords = (shares[..., None] * samples).sum(-2)
    difference = samples - coords[..., None, :]
    products = difference[..., :, None] * difference[..., None, :]
    products = torch.where((weights > 0)[..., None, None], products, 0.0)
    covariances = (shares[..., None, None] * products).sum(2)
    return coords, total / samples.shape[2], covariances


def variance_voting_reference(
    poses: Tensor,  # [..., N, K, 2]
    variances: Tensor,  # [..., N, K, 1 or 2]
    similarities: Tensor,  # [..., M, N]
    spread: float,
    mask: Tensor | None,  # [..., N]
) -> Tensor:
    """The poses [..., M, K, 2] of `dark_kernels.variance_voting`: sum p_i x_i / v_i over sum p_i / v_i, in float64."""
    is_double = torch.float64 in (poses.dtype, variances.dtype, similarities.dtype)
    dtype = torch.float64 if is_double else torch.float32
    if poses.shape[-3] == 0:
        return poses.new_full((*similarities.shape[:-1], *poses.shape[-2:]), math.nan, dtype=dtype)
    x, v = poses.double()[..., None, :, :, :], variances.double()[..., None, :, :, :]
    similarity = similarities.double()[..., None, None]  # [..., M, N, 1, 1]
    votes = x.isfinite() & (v > 0) & (v < math.inf) & ~similarity.isnan()
    if mask is not None:
        votes = votes & (mask > 0)[..., None, :, None, None]
    # Logarithms, relative to the largest weight, which is in the sum above and below: where poses have little in common
    # all would underflow, and 1 / v overflows where v is tiny.
    log_weights = torch.where(votes, -((1 - similarity) ** 2) / spread - torch.where(votes, v, 1.0).log(), -math.inf)
    largest = log_weights.amax(-3, keepdim=True).detach()
    weights = torch.exp(log_weights - torch.where(largest == -math.inf, 0.0, largest))
    return ((weights * torch.where(votes, x, 0.0)).sum(-3) / weights.sum(-3)).to(dtype)
