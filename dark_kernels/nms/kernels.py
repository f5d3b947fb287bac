"""OKS and suppression as Triton kernels, and their launchers."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import on_device_of, register_limit
from .._triton.tickets import counter, finishes_last

AREA_EPSILON = tl.constexpr(2.2e-16)
NOTHING = tl.constexpr(float("-inf"))
# Ids that a program looks at together: all are looked at by each, in a few steps.
BLOCK_IDS = 512


@triton.jit
def _area(area):
    """NaN for what is no area."""
    area = area.to(tl.float32)
    return tl.where((area >= 0) & (area < float("inf")), area, float("nan"))


@triton.jit
def _scale_of(area_a, area_b):
    """By what a distance is multiplied before it is squared, but for the kappas."""
    return 1.0 / tl.sqrt(8.0 * (0.5 * area_a + 0.5 * area_b + AREA_EPSILON))


@triton.jit
def _keypoint_similarity(x_a, y_a, x_b, y_b, scale):
    """What a keypoint adds to the mean; a NaN is like nothing."""
    # Squared after the scaling, where it no longer overflows.
    across = (x_a - x_b) * scale
    down = (y_a - y_b) * scale
    exponent = across * across + down * down
    return tl.where(exponent != exponent, 0.0, tl.exp(-exponent))


@triton.jit
def _load_keypoint(pointer, stride_c, mask):
    """Its x and y."""
    x = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(pointer + stride_c, mask=mask, other=0.0).to(tl.float32)
    return x, y


@triton.jit(do_not_specialize=["num_a", "num_b", "num_keypoints"])
def _oks_fwd_kernel(
    similarity_ptr,  # [B, N, M], contiguous
    poses_a_ptr,  # [B, N, K, 2]
    poses_a_stride_b,
    poses_a_stride_n,
    poses_a_stride_k,
    poses_a_stride_c,
    poses_b_ptr,  # [B, M, K, 2]
    poses_b_stride_b,
    poses_b_stride_n,
    poses_b_stride_k,
    poses_b_stride_c,
    areas_a_ptr,  # [B, N]
    areas_a_stride_b,
    areas_a_stride_n,
    areas_b_ptr,  # [B, M]
    areas_b_stride_b,
    areas_b_stride_n,
    kappas_ptr,  # [K]
    kappas_stride,
    visible_a_ptr,  # [B, N, K]
    visible_a_stride_b,
    visible_a_stride_n,
    visible_a_stride_k,
    visible_b_ptr,  # [B, M, K]
    visible_b_stride_b,
    visible_b_stride_n,
    visible_b_stride_k,
    num_a,
    num_b,
    num_keypoints,
    BLOCK_SIZE: tl.constexpr,
    HAS_VISIBLE_A: tl.constexpr,
    HAS_VISIBLE_B: tl.constexpr,
):
    """A tile of BLOCK_SIZE x BLOCK_SIZE pairs of one image, one keypoint after the other.

    Must write N M numbers of 4 bytes an image and read (N + M) (2 K + 1), with visibilities (N + M) K more. Reads
    them once for each tile in a row (or column) of tiles, from cache after the first.
    """
    tiles_across = tl.cdiv(num_b, BLOCK_SIZE)
    tiles = tl.cdiv(num_a, BLOCK_SIZE) * tiles_across
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    a = ((tile // tiles_across) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)).to(tl.int64)
    b = ((tile % tiles_across) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)).to(tl.int64)
    has_a = a < num_a
    has_b = b < num_b
    area_a = tl.load(areas_a_ptr + batch * areas_a_stride_b + a * areas_a_stride_n, mask=has_a, other=0.0)
    area_b = tl.load(areas_b_ptr + batch * areas_b_stride_b + b * areas_b_stride_n, mask=has_b, other=0.0)
    scale = _scale_of(_area(area_a)[:, None], _area(area_b)[None, :])
    pose_a_ptr = poses_a_ptr + batch * poses_a_stride_b + a * poses_a_stride_n
    pose_b_ptr = poses_b_ptr + batch * poses_b_stride_b + b * poses_b_stride_n
    seen_a_ptr = visible_a_ptr + batch * visible_a_stride_b + a * visible_a_stride_n
    seen_b_ptr = visible_b_ptr + batch * visible_b_stride_b + b * visible_b_stride_n

    total = tl.zeros([BLOCK_SIZE, BLOCK_SIZE], dtype=tl.float32)
    count = tl.zeros([BLOCK_SIZE, BLOCK_SIZE], dtype=tl.float32)
    for _ in range(0, num_keypoints):
        kappa = tl.load(kappas_ptr).to(tl.float32)
        x_a, y_a = _load_keypoint(pose_a_ptr, poses_a_stride_c, has_a)
        x_b, y_b = _load_keypoint(pose_b_ptr, poses_b_stride_c, has_b)
        similarity = _keypoint_similarity(x_a[:, None], y_a[:, None], x_b[None, :], y_b[None, :], scale / kappa)
        if HAS_VISIBLE_A or HAS_VISIBLE_B:
            seen = tl.full([BLOCK_SIZE, BLOCK_SIZE], 1.0, dtype=tl.float32)
            if HAS_VISIBLE_A:
                seen = tl.where((tl.load(seen_a_ptr, mask=has_a, other=0) > 0)[:, None], seen, 0.0)
            if HAS_VISIBLE_B:
                seen = tl.where((tl.load(seen_b_ptr, mask=has_b, other=0) > 0)[None, :], seen, 0.0)
            total += similarity * seen
            count += seen
        else:
            total += similarity
            count += 1.0
        kappas_ptr += kappas_stride
        pose_a_ptr += poses_a_stride_k
        pose_b_ptr += poses_b_stride_k
        seen_a_ptr += visible_a_stride_k
        seen_b_ptr += visible_b_stride_k
    similarity_ptr += batch * num_a * num_b
    pointers = similarity_ptr + (a * num_b)[:, None] + b[None, :]
    # Rounded correctly, for a pose is like itself by 1 and not by a digit more.
    tl.store(pointers, tl.div_rn(total, tl.maximum(count, 1.0)), mask=has_a[:, None] & has_b[None, :])


@triton.jit
def _first_best(best, best_slot, score, slot):
    """The better of what was best so far and the first of the largest scores of a block."""
    largest = tl.max(score, axis=0)
    first = tl.min(tl.where(score == largest, slot, 0x7FFFFFFF), axis=0)
    is_better = largest > best
    return tl.where(is_better, largest, best), tl.where(is_better, first, best_slot)


@triton.jit
def _members(order_ptr, image_ids_ptr, image_ids_stride, num_poses, BLOCK_IDS: tl.constexpr):
    """The part of `order` (poses image by image) that is of this program's image: where it begins and how many poses
    it has. They are written there by the program of the image's first pose; for other programs there are none."""
    program = tl.program_id(0)
    image = tl.load(image_ids_ptr + program.to(tl.int64) * image_ids_stride)
    smaller = tl.zeros([BLOCK_IDS], dtype=tl.int32)
    earlier = tl.zeros([BLOCK_IDS], dtype=tl.int32)
    for start in range(0, num_poses, BLOCK_IDS):
        pose = start + tl.arange(0, BLOCK_IDS)
        exists = pose < num_poses
        other = tl.load(image_ids_ptr + pose.to(tl.int64) * image_ids_stride, mask=exists, other=0)
        smaller += (exists & (other < image)).to(tl.int32)
        earlier += ((pose < program) & (other == image)).to(tl.int32)
    first_place = tl.sum(smaller, axis=0)
    is_first = tl.sum(earlier, axis=0) == 0

    num_places = tl.full([], 0, dtype=tl.int32)
    for start in range(0, tl.where(is_first, num_poses, 0), BLOCK_IDS):
        pose = start + tl.arange(0, BLOCK_IDS)
        exists = pose < num_poses
        other = tl.load(image_ids_ptr + pose.to(tl.int64) * image_ids_stride, mask=exists, other=0)
        is_member = exists & (other == image)
        place = first_place + num_places + tl.cumsum(is_member.to(tl.int32), axis=0) - 1
        tl.store(order_ptr + place, pose, mask=is_member)
        num_places += tl.sum(is_member.to(tl.int32), axis=0)
    # Other threads of the program read it.
    tl.debug_barrier()
    return first_place, num_places


@triton.jit
def _store_packed(indices_ptr, counts_ptr, kept_ptr, num_poses, BLOCK_IDS: tl.constexpr):
    """The indices [N] of all programs behind each other, of which `kept` has gaps of -1, and how many they are."""
    num_kept = tl.full([], 0, dtype=tl.int32)
    for start in range(0, num_poses, BLOCK_IDS):
        place = start + tl.arange(0, BLOCK_IDS)
        exists = place < num_poses
        index = tl.load(kept_ptr + place, mask=exists, other=-1, cache_modifier=".cg")
        is_kept = (index >= 0).to(tl.int32)
        before = num_kept + tl.cumsum(is_kept, axis=0) - is_kept
        # Gaps go to the end, the first of them to the last place.
        place = tl.where(index >= 0, before, num_poses - 1 - (place - before))
        tl.store(indices_ptr + place, index, mask=exists)
        num_kept += tl.sum(is_kept, axis=0)
    tl.store(counts_ptr, num_kept)


@triton.jit(do_not_specialize=["num_poses", "num_keypoints", "max_poses"])
def _oks_nms_fwd_kernel(
    keep_ptr,  # [B, N], contiguous
    indices_ptr,  # [B, P], contiguous
    counts_ptr,  # [B]
    kept_scores_ptr,  # [B, N], contiguous
    left_ptr,  # [B, N], contiguous: scores of poses that are left, for the program's own use
    order_ptr,  # [2, N], int32, contiguous, if IS_FLAT: poses image by image; those that are kept, with gaps of -1
    counter_ptr,  # see tickets.py, if IS_FLAT
    poses_ptr,  # [B, N, K, 2]
    poses_stride_b,
    poses_stride_n,
    poses_stride_k,
    poses_stride_c,
    scores_ptr,  # [B, N]
    scores_stride_b,
    scores_stride_n,
    areas_ptr,  # [B, N]
    areas_stride_b,
    areas_stride_n,
    kappas_ptr,  # [K]
    kappas_stride,
    visible_ptr,  # [B, N, K]
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    mask_ptr,  # [B, N]
    mask_stride_b,
    mask_stride_n,
    image_ids_ptr,  # [N], if IS_FLAT
    image_ids_stride,
    num_poses,
    num_keypoints,
    max_poses,
    threshold,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_IDS: tl.constexpr,
    METHOD: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    HAS_MASK: tl.constexpr,
    IS_FLAT: tl.constexpr,
):
    """One image: keep its best pose, drop or devalue what is like it, again and again.

    No sort: a round looks at each pose that is left once, to compare it with the round's best and to find the next
    one. If IS_FLAT there is a program for each pose; the one of an image's first pose takes the image, and the last
    program to finish packs what all have kept.

    Must read the poses, 8 K bytes each, once and write some bytes each. Reads those that are left once a round,
    from cache after the first: their number is small, and what costs time is that rounds follow each other. If
    IS_FLAT every program reads all ids, from cache as well.
    """
    program = tl.program_id(0)
    batch = program.to(tl.int64)
    first_place = 0
    num_places = num_poses
    if IS_FLAT:
        batch = tl.zeros([], dtype=tl.int64)
        first_place, num_places = _members(order_ptr, image_ids_ptr, image_ids_stride, num_poses, BLOCK_IDS)
        kept_ptr = order_ptr + num_poses + first_place
    else:
        kept_ptr = indices_ptr + batch * max_poses
    keep_ptr += batch * num_poses
    kept_scores_ptr += batch * num_poses
    left_ptr += batch * num_poses
    poses_ptr += batch * poses_stride_b
    scores_ptr += batch * scores_stride_b
    areas_ptr += batch * areas_stride_b
    visible_ptr += batch * visible_stride_b
    mask_ptr += batch * mask_stride_b

    # Which poses there are, and the best of them.
    best = tl.full([], NOTHING, dtype=tl.float32)
    best_place = tl.full([], 0, dtype=tl.int32)
    for start in range(0, num_places, BLOCK_SIZE):
        place = start + tl.arange(0, BLOCK_SIZE)
        exists = place < num_places
        pose = (first_place + place).to(tl.int64)
        if IS_FLAT:
            pose = tl.load(order_ptr + pose, mask=exists, other=0).to(tl.int64)
        score = tl.load(scores_ptr + pose * scores_stride_n, mask=exists, other=NOTHING).to(tl.float32)
        if HAS_MASK:
            score = tl.where(tl.load(mask_ptr + pose * mask_stride_n, mask=exists, other=0) > 0, score, NOTHING)
        score = tl.where(score > NOTHING, score, NOTHING)  # a NaN is not
        tl.store(left_ptr + first_place + place, score, mask=exists)
        tl.store(keep_ptr + pose, 0, mask=exists)
        tl.store(kept_scores_ptr + pose, 0.0, mask=exists)
        best, best_place = _first_best(best, best_place, score, place)
    num_indices = max_poses
    if IS_FLAT:
        num_indices = num_places
    for start in range(0, num_indices, BLOCK_SIZE):
        place = start + tl.arange(0, BLOCK_SIZE)
        tl.store(kept_ptr + place, -1, mask=place < num_indices)

    num_kept = tl.full([], 0, dtype=tl.int32)
    while (best > NOTHING) & (num_kept < max_poses):
        # What other threads have stored is read below.
        tl.debug_barrier()
        best_pose = (first_place + best_place).to(tl.int64)
        if IS_FLAT:
            best_pose = tl.load(order_ptr + best_pose).to(tl.int64)
        tl.store(keep_ptr + best_pose, 1)
        tl.store(kept_scores_ptr + best_pose, best)
        tl.store(kept_ptr + num_kept, best_pose)
        num_kept += 1
        best_area = _area(tl.load(areas_ptr + best_pose * areas_stride_n))

        next_best = tl.full([], NOTHING, dtype=tl.float32)
        next_place = tl.full([], 0, dtype=tl.int32)
        for start in range(0, num_places, BLOCK_SIZE):
            place = start + tl.arange(0, BLOCK_SIZE)
            exists = place < num_places
            score = tl.load(left_ptr + first_place + place, mask=exists, other=NOTHING)
            is_left = (score > NOTHING) & (place != best_place)
            pose = (first_place + place).to(tl.int64)
            if IS_FLAT:
                pose = tl.load(order_ptr + pose, mask=exists, other=0).to(tl.int64)
            area = tl.load(areas_ptr + pose * areas_stride_n, mask=is_left, other=0.0)
            scale = _scale_of(best_area, _area(area))

            best_pose_ptr = poses_ptr + best_pose * poses_stride_n
            pose_ptr = poses_ptr + pose * poses_stride_n
            best_seen_ptr = visible_ptr + best_pose * visible_stride_n
            seen_ptr = visible_ptr + pose * visible_stride_n
            kappa_ptr = kappas_ptr
            total = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
            count = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
            for _ in range(0, num_keypoints):
                kappa = tl.load(kappa_ptr).to(tl.float32)
                best_x = tl.load(best_pose_ptr).to(tl.float32)
                best_y = tl.load(best_pose_ptr + poses_stride_c).to(tl.float32)
                x, y = _load_keypoint(pose_ptr, poses_stride_c, is_left)
                similarity = _keypoint_similarity(best_x, best_y, x, y, scale / kappa)
                if HAS_VISIBLE:
                    # A product: the interpreter has no "and" of a block and a number that was compared as a float.
                    seen = tl.where(tl.load(seen_ptr, mask=is_left, other=0) > 0, 1.0, 0.0)
                    seen *= tl.where(tl.load(best_seen_ptr) > 0, 1.0, 0.0)
                    total += similarity * seen
                    count += seen
                else:
                    total += similarity
                    count += 1.0
                kappa_ptr += kappas_stride
                best_pose_ptr += poses_stride_k
                pose_ptr += poses_stride_k
                best_seen_ptr += visible_stride_k
                seen_ptr += visible_stride_k
            similarity = tl.div_rn(total, tl.maximum(count, 1.0))

            if METHOD == "hard":
                score = tl.where(similarity > threshold, NOTHING, score)
            else:
                if METHOD == "gaussian":
                    factor = tl.exp(-similarity * similarity / threshold)
                else:
                    factor = tl.where(similarity >= threshold, 1.0 - similarity, 1.0)
                score = tl.where(factor == 0, 0.0, score * factor)  # nothing is left of an infinite score either
            score = tl.where(is_left, score, NOTHING)
            tl.store(left_ptr + first_place + place, score, mask=exists)
            next_best, next_place = _first_best(next_best, next_place, score, place)
        best = next_best
        best_place = next_place
    if IS_FLAT:
        if finishes_last(counter_ptr):
            _store_packed(indices_ptr, counts_ptr, order_ptr + num_poses, num_poses, BLOCK_IDS)
    else:
        tl.store(counts_ptr + program, num_kept)


# --- launchers -------------------------------------------------------------------------------------------


def _optional(tensor: Tensor | None, unread: Tensor, num_strides: int) -> tuple[Any, ...]:
    """A tensor and its strides; where there is none, a pointer that is not read."""
    return (unread, *(0,) * num_strides) if tensor is None else (tensor, *tensor.stride())


def oks_fwd(
    similarity: Tensor,  # [B, N, M]
    poses_a: Tensor,  # [B, N, K, 2]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_a: Tensor,  # [B, N]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [B, N, K]
    visible_b: Tensor | None,  # [B, M, K]
) -> None:
    """Fill `similarity` (float32, contiguous)."""
    batch, num_a, num_b = similarity.shape
    block_size = min(32, triton.next_power_of_2(max(num_a, num_b)))
    grid = (batch * triton.cdiv(num_a, block_size) * triton.cdiv(num_b, block_size),)
    with on_device_of(similarity):
        _oks_fwd_kernel[grid](
            similarity,
            poses_a,
            *poses_a.stride(),
            poses_b,
            *poses_b.stride(),
            areas_a,
            *areas_a.stride(),
            areas_b,
            *areas_b.stride(),
            kappas,
            *kappas.stride(),
            *_optional(visible_a, similarity, 3),
            *_optional(visible_b, similarity, 3),
            num_a,
            num_b,
            poses_a.shape[2],
            BLOCK_SIZE=block_size,
            HAS_VISIBLE_A=visible_a is not None,
            HAS_VISIBLE_B=visible_b is not None,
            num_warps=8 if block_size == 32 else 1,
            **register_limit(96),
        )


def nms_shape(num_poses: int) -> dict[str, int]:
    """BLOCK_SIZE and num_warps: rounds wait for the slowest warp, so as few as hold an image."""
    block_size = min(512, max(32, triton.next_power_of_2(num_poses)))
    return {"BLOCK_SIZE": block_size, "num_warps": max(1, min(8, block_size // 64))}


def oks_nms_fwd(
    keep: Tensor,  # [B, N], bool
    indices: Tensor,  # [B, max_poses], or [1, N] with image ids
    counts: Tensor,  # [B]
    kept_scores: Tensor,  # [B, N]
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
) -> None:
    """Fill the outputs (contiguous)."""
    batch, num_poses = scores.shape
    is_flat = image_ids is not None
    with on_device_of(scores):
        _oks_nms_fwd_kernel[(num_poses if is_flat else batch,)](
            keep,
            indices,
            counts,
            kept_scores,
            kept_scores.new_empty(kept_scores.shape),
            counts.new_empty((2, num_poses), dtype=torch.int32) if is_flat else counts,
            counter(scores.device) if is_flat else counts,
            poses,
            *poses.stride(),
            scores,
            *scores.stride(),
            areas,
            *areas.stride(),
            kappas,
            *kappas.stride(),
            *_optional(visible, kept_scores, 3),
            *_optional(mask, kept_scores, 2),
            *_optional(image_ids, counts, 1),
            num_poses,
            poses.shape[2],
            max_poses,
            threshold,
            BLOCK_IDS=BLOCK_IDS,
            METHOD=method,
            HAS_VISIBLE=visible is not None,
            HAS_MASK=mask is not None,
            IS_FLAT=is_flat,
            **(nms_shape(128) if is_flat else nms_shape(num_poses)),
            **register_limit(96),
        )
