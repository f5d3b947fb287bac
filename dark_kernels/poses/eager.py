"""OKS and suppression in vectorised PyTorch, for CPU and for any device without Triton.

Images take their rounds together: round i looks at the i-th pose of every image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
    """Similarities [B, N, M]."""

    def compare(poses: Tensor, areas: Tensor, visible: Tensor | None) -> Tensor:
        return _similarities(poses, areas, visible, poses_b, areas_b, visible_b, kappas, dtype)

    return _compare_in_parts(compare, poses_a, areas_a, visible_a, poses_b)


def _compare_in_parts(
    compare: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    poses_a: Tensor,  # [B, N, K, 2]
    areas_a: Tensor,  # [B, N]
    visible_a: Tensor | None,  # [B, N, K]
    poses_b: Tensor,  # [B, M, K, 2]
) -> Tensor:
    """Compare some of the poses at a time with poses_b: [B, N, M]."""
    # A compiler would unroll the loop, for one size of the batch alone. It fuses what the parts keep in the cache.
    if torch.compiler.is_compiling():
        return compare(poses_a, areas_a, visible_a)
    rows = _rows_at_once(poses_b)
    starts = range(0, max(1, poses_a.shape[1]), rows)
    found = [compare(*_part(poses_a, areas_a, visible_a, slice(start, start + rows))) for start in starts]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _rows_at_once(poses: Tensor) -> int:
    """Choose how many poses of an image are compared with these at once."""
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
    """Compare all of N with all of M poses: [B, N, M]."""
    similarity = _keypoint_similarities(poses_a, areas_a, poses_b, areas_b, kappas, dtype)
    seen = [(visible_a > 0)[:, :, None]] if visible_a is not None else []
    seen += [(visible_b > 0)[:, None]] if visible_b is not None else []
    if not seen:
        return similarity.sum(-1) / max(similarity.shape[-1], 1)
    weight = functools.reduce(torch.logical_and, seen).to(dtype)
    return _mean(similarity * weight, weight)


def _mean(similarity: Tensor, weight: Tensor) -> Tensor:
    """Average over the keypoints that count, 0 if none does."""
    return similarity.sum(-1) / weight.sum(-1).clamp(min=1)


def _keypoint_similarities(
    poses_a: Tensor,  # [B, N, K, 2]
    areas_a: Tensor,  # [B, N]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    dtype: torch.dtype,
) -> Tensor:
    """Compare keypoint by keypoint: [B, N, M, K]."""
    areas_a, areas_b = _area(areas_a.to(dtype))[:, :, None], _area(areas_b.to(dtype))[:, None, :]
    # Distances are squared after the scaling, where they no longer overflow.
    scale = (8.0 * (0.5 * areas_a + 0.5 * areas_b + _AREA_EPSILON)).rsqrt()[..., None] / kappas.to(dtype)
    ax, ay = poses_a.to(dtype).movedim(-1, 0).contiguous()[:, :, :, None]
    bx, by = poses_b.to(dtype).movedim(-1, 0).contiguous()[:, :, None]
    dx, dy = (ax - bx).mul_(scale), (ay - by).mul_(scale)
    exponent = dx.mul_(dx).add_(dy.mul_(dy))  # vmap knows no square_
    # What is far is like nothing, and so is a NaN, of an area too. Exponentials that underflow take a CPU fifty times
    # as long as others.
    near = exponent < _FAR
    return torch.where(near, exponent, _FAR).neg_().exp_().mul_(near)


def oks_swapped_fwd(
    poses_a: Tensor,  # [B, N, K, 2]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_a: Tensor,  # [B, N]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [B, N, K]
    visible_b: Tensor | None,  # [B, M, K]
    partners: Sequence[int],  # [K]
    dtype: torch.dtype,
) -> Tensor:
    """Similarities [B, N, M] where each pair of keypoints may be swapped. `partners` says what takes the place of each
    keypoint; itself where nothing does."""
    partner = torch.tensor(partners, dtype=torch.int64, device=poses_a.device)

    def compare(poses: Tensor, areas: Tensor, visible: Tensor | None) -> Tensor:
        return _swapped_similarities(poses, areas, visible, poses_b, areas_b, visible_b, kappas, partner, dtype)

    return _compare_in_parts(compare, poses_a, areas_a, visible_a, poses_b)


def _swapped_similarities(
    poses_a: Tensor,  # [B, N, K, 2]
    areas_a: Tensor,  # [B, N]
    visible_a: Tensor | None,  # [B, N, K]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_b: Tensor,  # [B, M]
    visible_b: Tensor | None,  # [B, M, K]
    kappas: Tensor,  # [K]
    partner: Tensor,  # [K]
    dtype: torch.dtype,
) -> Tensor:
    """Compare all of N with all of M poses, each pair of keypoints the better way: [B, N, M]."""
    ones_a, ones_b = (poses.new_ones(poses.shape[:-1], dtype=torch.bool) for poses in (poses_a, poses_b))
    seen_a, seen_b = ones_a if visible_a is None else visible_a > 0, ones_b if visible_b is None else visible_b > 0
    ways = []
    for poses, seen in ((poses_a, seen_a), (poses_a[:, :, partner], seen_a[:, :, partner])):
        weight = (seen[:, :, None] & seen_b[:, None]).to(dtype)
        ways.append((_keypoint_similarities(poses, areas_a, poses_b, areas_b, kappas, dtype) * weight, weight))
    (kept, kept_weight), (swapped, swapped_weight) = ways
    # Both of a pair see the same sums, so both go the same way; a keypoint without partner stays.
    is_better = swapped + swapped[..., partner] > kept + kept[..., partner]
    return _mean(torch.where(is_better, swapped, kept), torch.where(is_better, swapped_weight, kept_weight))


def _area(areas: Tensor) -> Tensor:
    """Replace what is no area by NaN."""
    return torch.where((areas >= 0) & (areas < math.inf), areas, math.nan)


def oks_nms_fwd(
    poses: Tensor,  # [B, N, K, 2]
    scores: Tensor,  # [B, N]
    areas: Tensor,  # [B, N]
    kappas: Tensor,  # [K]
    visible: Tensor | None,  # [B, N, K]
    mask: Tensor | None,  # [B, N]
    image_ids: Tensor | None,  # [N], for B = 1
    threshold: float,
    method: str,
    max_poses: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keep [B, N], indices [B, max_poses], or [1, N] with image ids, counts [B] and scores [B, N]."""
    scores = scores.to(dtype)
    is_pose = scores > -math.inf  # a NaN is not
    if mask is not None:
        is_pose = is_pose & (mask > 0)
    scores = torch.where(is_pose, scores, -math.inf)
    images = None if image_ids is None else _Images.of(image_ids)
    if method != "hard":
        scores, ranks = _soft_ranks(poses, scores, areas, kappas, visible, images, threshold, method, max_poses, dtype)
    elif images is None:
        ranks = _hard_ranks(poses, scores, areas, kappas, visible, threshold, dtype)
    else:
        ranks = _hard_ranks_of_images(poses, scores, areas, kappas, visible, images, threshold, dtype)
    keep = ranks >= 0
    num_poses = ranks.shape[1]
    index = torch.arange(num_poses, device=ranks.device).expand(ranks.shape)
    counts = keep.sum(-1)
    if images is None:
        indices = ranks.new_full((ranks.shape[0], max_poses + 1), -1)
        indices = indices.scatter_(1, torch.where(keep, ranks, max_poses), index)[:, :-1]  # the last: of no pose
    else:
        # Image by image, and what is not kept behind all of them.
        place = torch.where(keep, images.of_poses * num_poses + ranks, num_poses**2)
        indices = torch.where(index < counts[:, None], place.argsort(), -1)
    # Results of PyTorch's operations lie in memory as the scores do, and ours in the order of their dimensions.
    return keep.contiguous(), indices.contiguous(), counts, torch.where(keep, scores, 0.0).contiguous()


class _Images(NamedTuple):
    """Image of each pose, and the poses image by image."""

    of_poses: Tensor  # [N], int64: 0 for the lowest id, 1 for the next
    order: Tensor  # [N], the poses image by image
    place: Tensor  # [N], of each pose of `order` within its image

    @classmethod
    def of(cls, image_ids: Tensor) -> _Images:
        sorted_ids, order = image_ids.sort(stable=True)
        begins = torch.nn.functional.pad(sorted_ids[1:] != sorted_ids[:-1], (1, 0), value=True)
        index = torch.arange(len(order), device=order.device)
        first = torch.where(begins, index, 0).cummax(0).values
        return cls(torch.empty_like(order).scatter_(0, order, begins.cumsum(0) - 1), order, index - first)


def _hard_ranks(
    poses: Tensor,
    scores: Tensor,  # [B, N], -inf for what is no pose
    areas: Tensor,
    kappas: Tensor,
    visible: Tensor | None,
    threshold: float,
    dtype: torch.dtype,
) -> Tensor:
    """Find the place of each pose among the kept ones [B, N], -1 if it is dropped."""
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


def _hard_ranks_of_images(
    poses: Tensor,  # [1, N, K, 2]
    scores: Tensor,  # [1, N], -inf for what is no pose
    areas: Tensor,  # [1, N]
    kappas: Tensor,
    visible: Tensor | None,  # [1, N, K]
    images: _Images,
    threshold: float,
    dtype: torch.dtype,
) -> Tensor:
    """Find the place of each pose among the kept ones of its image [1, N], -1 if it is dropped.

    Images are padded to the fullest. How many there are and how full that is, the host has to know, and waits for it:
    poses are dropped one after the other, so without a wait there would be as many steps as poses in all images.
    """
    image, place = images.of_poses[images.order], images.place
    num_images, fullest = (torch.stack((image[-1], place.amax())) + 1).tolist()
    members = image.new_full((num_images, fullest), -1)
    members[image, place] = images.order
    exists = members >= 0
    members = members.clamp(min=0)
    ranks = _hard_ranks(
        poses[0, members],
        torch.where(exists, scores[0, members], -math.inf),
        areas[0, members],
        kappas,
        None if visible is None else visible[0, members],
        threshold,
        dtype,
    )
    return torch.empty_like(image).scatter_(0, images.order, ranks[image, place])[None]


def _soft_ranks(
    poses: Tensor,
    scores: Tensor,  # [B, N], -inf for what is no pose
    areas: Tensor,
    kappas: Tensor,
    visible: Tensor | None,
    images: _Images | None,
    threshold: float,
    method: str,
    max_poses: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Find decayed scores and the place of each pose among the kept ones of its image [B, N], -1 if it is dropped."""
    num_rounds = min(max_poses, scores.shape[1])
    if images is not None and scores.device.type == "cpu":  # elsewhere the host would wait for it
        num_rounds = min(num_rounds, int(images.place.amax()) + 1)
    ranks = torch.full_like(scores, -1, dtype=torch.int64)
    for i in range(num_rounds):
        candidates = torch.where(ranks < 0, scores, -math.inf)
        if images is None:
            best = candidates.argmax(-1, keepdim=True)  # the first of equal ones
        else:
            best = _best_of_images(candidates[0], images.of_poses)[None]
        found = candidates.gather(1, best) != -math.inf
        ranks.scatter_(1, best, torch.where(found, i, ranks.gather(1, best)))
        similarity = _similarity_to(best, poses, areas, visible, kappas, dtype)
        if method == "gaussian":
            factors = torch.exp(-similarity.square() / threshold)
        else:
            factors = torch.where(similarity >= threshold, 1 - similarity, 1.0)
        decayed = torch.where(factors == 0, 0.0, scores * factors)
        scores = torch.where((ranks < 0) & (scores != -math.inf), decayed, scores)
    return scores, ranks


def _best_of_images(scores: Tensor, image: Tensor) -> Tensor:
    """Find the best pose of each pose's image [N], the first of equal ones."""
    num_poses = len(scores)
    largest = torch.full_like(scores, -math.inf).scatter_reduce_(0, image, scores, "amax")
    index = torch.arange(num_poses, device=scores.device)
    index = torch.where(scores == largest[image], index, num_poses)
    return torch.full_like(index, num_poses).scatter_reduce_(0, image, index, "amin")[image]


def _similarity_to(
    best: Tensor,  # [B, 1], or [1, N], one for each pose
    poses: Tensor,
    areas: Tensor,
    visible: Tensor | None,
    kappas: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Compare each pose with the best one [B, N]."""
    if best.shape[1] == 1:
        batch = torch.arange(len(best), device=best.device)[:, None]
        best_visible = None if visible is None else visible[batch, best]
        best_poses, best_areas = poses[batch, best], areas[batch, best]
        return oks_fwd(best_poses, poses, best_areas, areas, kappas, best_visible, visible, dtype)[:, 0]
    # Each pose, and the best of its image, as an image of its own.
    poses, areas, best = poses[0, :, None], areas[0, :, None], best[0]
    best_visible = visible = None if visible is None else visible[0, :, None]
    if best_visible is not None:
        best_visible = best_visible.index_select(0, best)
    bests = (poses.index_select(0, best), areas.index_select(0, best), best_visible)
    return _similarities(*bests, poses, areas, visible, kappas, dtype)[..., 0].t()
