"""OKS and suppression as Triton kernels, and their launchers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._common.plans import scratch
from .._triton.launch import launch, on_device_of
from .._triton.registers import register_limit
from .._triton.tickets import counter, finishes_last

AREA_EPSILON = tl.constexpr(2.2e-16)
NOTHING = tl.constexpr(float("-inf"))
# Ids that a program looks at together: all are looked at by each, in a few steps.
BLOCK_IDS = 512


class Poses(NamedTuple):
    """Poses of all images, as a kernel takes them: `_poses_of`."""

    ptr: Any  # [B, N, K, 2]
    stride_b: Any
    stride_n: Any
    stride_k: Any
    stride_c: Any
    areas_ptr: Any  # [B, N]
    areas_stride_b: Any
    areas_stride_n: Any
    visible_ptr: Any  # [B, N, K], or None: all are
    visible_stride_b: Any
    visible_stride_n: Any
    visible_stride_k: Any


class Kappas(NamedTuple):
    """A kappa for each keypoint."""

    ptr: Any  # [K]
    stride: Any


class PerPose(NamedTuple):
    """A number for each pose: its score, or whether there is one."""

    ptr: Any  # [B, N]
    stride_b: Any
    stride_n: Any


class Images(NamedTuple):
    """The image of each pose, where all lie behind each other, and memory in which programs put them together."""

    ids_ptr: Any  # [N]
    stride: Any
    order_ptr: Any  # [2, N], int32, contiguous: poses image by image; those that are kept, with gaps of -1
    counter_ptr: Any  # see tickets.py


class Kept(NamedTuple):
    """Outputs of a suppression, contiguous."""

    keep_ptr: Any  # [B, N]
    indices_ptr: Any  # [B, P], or [1, N] with image ids
    counts_ptr: Any  # [B]
    scores_ptr: Any  # [B, N]


class Best(NamedTuple):
    """The best pose so far: its score, and its place among those of its image."""

    score: Any
    place: Any


@triton.jit
def _load(pointer, exists):
    """Load numbers, 0 where they do not exist. None: all do."""
    if exists is None:
        value = tl.load(pointer)
    else:
        value = tl.load(pointer, mask=exists, other=0)
    return value


@triton.jit
def _load_keypoint(pointer, stride_c, exists):
    """Load x and y."""
    return _load(pointer, exists).to(tl.float32), _load(pointer + stride_c, exists).to(tl.float32)


@triton.jit
def _load_area(poses, batch, pose, exists):
    """Load areas, NaN for what is none."""
    pointer = poses.areas_ptr + batch * poses.areas_stride_b + pose * poses.areas_stride_n
    area = _load(pointer, exists).to(tl.float32)
    return tl.where((area >= 0) & (area < float("inf")), area, float("nan"))


@triton.jit
def _similarity(poses_a, a, has_a, poses_b, b, has_b, batch, kappas, num_keypoints):
    """Compare poses `a` of an image with poses `b` (int64 indices that broadcast): object keypoint similarity.

    `has_a` and `has_b` mask those that exist. None: all do.
    """
    area = 0.5 * _load_area(poses_a, batch, a, has_a) + 0.5 * _load_area(poses_b, batch, b, has_b)
    scale = 1.0 / tl.sqrt(8.0 * (area + AREA_EPSILON))
    pose_a_ptr = poses_a.ptr + batch * poses_a.stride_b + a * poses_a.stride_n
    pose_b_ptr = poses_b.ptr + batch * poses_b.stride_b + b * poses_b.stride_n
    if poses_a.visible_ptr is not None:
        seen_a_ptr = poses_a.visible_ptr + batch * poses_a.visible_stride_b + a * poses_a.visible_stride_n
    if poses_b.visible_ptr is not None:
        seen_b_ptr = poses_b.visible_ptr + batch * poses_b.visible_stride_b + b * poses_b.visible_stride_n

    kappa_ptr = kappas.ptr
    total = tl.zeros(scale.shape, dtype=tl.float32)
    count = tl.zeros(scale.shape, dtype=tl.float32)
    for _ in range(0, num_keypoints):
        scale_here = scale / tl.load(kappa_ptr).to(tl.float32)
        x_a, y_a = _load_keypoint(pose_a_ptr, poses_a.stride_c, has_a)
        x_b, y_b = _load_keypoint(pose_b_ptr, poses_b.stride_c, has_b)
        # Squared after the scaling, where it no longer overflows.
        across = (x_a - x_b) * scale_here
        down = (y_a - y_b) * scale_here
        exponent = across * across + down * down
        similarity = tl.where(exponent != exponent, 0.0, tl.exp(-exponent))  # a NaN is like nothing
        if poses_a.visible_ptr is not None or poses_b.visible_ptr is not None:
            seen = 1.0
            if poses_a.visible_ptr is not None:
                seen = tl.where(_load(seen_a_ptr, has_a) > 0, seen, 0.0)
                seen_a_ptr += poses_a.visible_stride_k
            if poses_b.visible_ptr is not None:
                seen = tl.where(_load(seen_b_ptr, has_b) > 0, seen, 0.0)
                seen_b_ptr += poses_b.visible_stride_k
            total += similarity * seen
            count += seen
        else:
            total += similarity
            count += 1.0
        kappa_ptr += kappas.stride
        pose_a_ptr += poses_a.stride_k
        pose_b_ptr += poses_b.stride_k
    # Rounded correctly, for a pose is like itself by 1 and not by a digit more.
    return tl.div_rn(total, tl.maximum(count, 1.0))


@triton.jit(do_not_specialize=["num_a", "num_b", "num_keypoints"])
def _oks_fwd_kernel(
    similarity_ptr,  # [B, N, M], contiguous
    poses_a,  # Poses [B, N, K, 2]
    poses_b,  # Poses [B, M, K, 2]
    kappas,  # Kappas
    num_a,
    num_b,
    num_keypoints,
    BLOCK_SIZE: tl.constexpr,
):
    """Compare BLOCK_SIZE x BLOCK_SIZE pairs of one image, one keypoint after the other.

    Must write N M numbers of 4 bytes an image and read (N + M) (2 K + 1), with visibilities (N + M) K more. Reads
    them once for each tile in a row (or column) of tiles, from cache after the first.
    """
    tiles_across = tl.cdiv(num_b, BLOCK_SIZE)
    tiles = tl.cdiv(num_a, BLOCK_SIZE) * tiles_across
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    a = ((tile // tiles_across) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)).to(tl.int64)[:, None]
    b = ((tile % tiles_across) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)).to(tl.int64)[None, :]
    has_a = a < num_a
    has_b = b < num_b
    similarity = _similarity(poses_a, a, has_a, poses_b, b, has_b, batch, kappas, num_keypoints)
    similarity_ptr += batch * num_a * num_b
    tl.store(similarity_ptr + a * num_b + b, similarity, mask=has_a & has_b)


@triton.jit
def _none_yet():
    """Begin without a pose."""
    return Best(tl.full([], NOTHING, dtype=tl.float32), tl.full([], 0, dtype=tl.int32))


@triton.jit
def _better(best, score, place):
    """Take the first of the largest scores of a block if it is better than the best so far."""
    largest = tl.max(score, axis=0)
    first = tl.min(tl.where(score == largest, place, 0x7FFFFFFF), axis=0)
    is_better = largest > best.score
    return Best(tl.where(is_better, largest, best.score), tl.where(is_better, first, best.place))


@triton.jit
def _members(images, num_poses, BLOCK_IDS: tl.constexpr):
    """Find the part of `order` (poses image by image) that is of this program's image: its start and length.

    The program of the image's first pose writes them there; for other programs there are none.
    """
    program = tl.program_id(0)
    image = tl.load(images.ids_ptr + program.to(tl.int64) * images.stride)
    smaller = tl.zeros([BLOCK_IDS], dtype=tl.int32)
    earlier = tl.zeros([BLOCK_IDS], dtype=tl.int32)
    for start in range(0, num_poses, BLOCK_IDS):
        pose = start + tl.arange(0, BLOCK_IDS)
        exists = pose < num_poses
        other = tl.load(images.ids_ptr + pose.to(tl.int64) * images.stride, mask=exists, other=0)
        smaller += (exists & (other < image)).to(tl.int32)
        earlier += ((pose < program) & (other == image)).to(tl.int32)
    first_place = tl.sum(smaller, axis=0)
    is_first = tl.sum(earlier, axis=0) == 0

    num_places = tl.full([], 0, dtype=tl.int32)
    for start in range(0, tl.where(is_first, num_poses, 0), BLOCK_IDS):
        pose = start + tl.arange(0, BLOCK_IDS)
        exists = pose < num_poses
        other = tl.load(images.ids_ptr + pose.to(tl.int64) * images.stride, mask=exists, other=0)
        is_member = exists & (other == image)
        place = first_place + num_places + tl.cumsum(is_member.to(tl.int32), axis=0) - 1
        tl.store(images.order_ptr + place, pose, mask=is_member)
        num_places += tl.sum(is_member.to(tl.int32), axis=0)
    # Other threads of the program read it.
    tl.debug_barrier()
    return first_place, num_places


@triton.jit
def _pose_at(images, place, exists):
    """Look up the pose (int64) at a place of `order`. Without image ids a pose is its place."""
    pose = place.to(tl.int64)
    if images is not None:
        pose = _load(images.order_ptr + pose, exists).to(tl.int64)
    return pose


@triton.jit
def _store_packed(kept, images, num_poses, BLOCK_IDS: tl.constexpr):
    """Store the indices [N] that all programs have kept without the gaps between them, and count them."""
    num_kept = tl.full([], 0, dtype=tl.int32)
    for start in range(0, num_poses, BLOCK_IDS):
        place = start + tl.arange(0, BLOCK_IDS)
        exists = place < num_poses
        index = tl.load(images.order_ptr + num_poses + place, mask=exists, other=-1, cache_modifier=".cg")
        is_kept = (index >= 0).to(tl.int32)
        before = num_kept + tl.cumsum(is_kept, axis=0) - is_kept
        # Gaps go to the end, the first of them to the last place.
        place = tl.where(index >= 0, before, num_poses - 1 - (place - before))
        tl.store(kept.indices_ptr + place, index, mask=exists)
        num_kept += tl.sum(is_kept, axis=0)
    tl.store(kept.counts_ptr, num_kept)


@triton.jit
def _load_scores(scores, mask, batch, pose, exists):
    """Load scores, -inf for what is no pose."""
    pointer = scores.ptr + batch * scores.stride_b + pose * scores.stride_n
    score = tl.load(pointer, mask=exists, other=NOTHING).to(tl.float32)
    if mask is not None:
        is_pose = _load(mask.ptr + batch * mask.stride_b + pose * mask.stride_n, exists) > 0
        score = tl.where(is_pose, score, NOTHING)
    return tl.where(score > NOTHING, score, NOTHING)  # a NaN is not


@triton.jit
def _suppressed(score, similarity, threshold, METHOD: tl.constexpr):
    """Drop (-inf) or devalue poses by their similarity with a better one."""
    if METHOD == "hard":
        score = tl.where(similarity > threshold, NOTHING, score)
    else:
        if METHOD == "gaussian":
            factor = tl.exp(-similarity * similarity / threshold)
        else:
            factor = tl.where(similarity >= threshold, 1.0 - similarity, 1.0)
        score = tl.where(factor == 0, 0.0, score * factor)  # nothing is left of an infinite score either
    return score


@triton.jit(do_not_specialize=["num_poses", "num_keypoints", "max_poses"])
def _oks_nms_fwd_kernel(
    kept,  # Kept
    left_ptr,  # [B, N], contiguous: scores of poses that are left, for the program's own use
    poses,  # Poses
    scores,  # PerPose
    mask,  # PerPose, or None
    kappas,  # Kappas
    images,  # Images, or None
    num_poses,
    num_keypoints,
    max_poses,
    threshold,
    METHOD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_IDS: tl.constexpr,
):
    """Keep the best pose of an image, drop or devalue what is like it, again and again.

    No sort: a round looks at each pose that is left once, to compare it with the round's best and to find the next
    one. With image ids there is a program for each pose; the one of an image's first pose takes the image, and the last
    program to finish packs what all have kept.

    Must read the poses, 8 K bytes each, once and write some bytes each. Reads those that are left once a round,
    from cache after the first: their number is small, and what costs time is that rounds follow each other. With image
    ids every program reads all of them, from cache as well.
    """
    program = tl.program_id(0)
    batch = program.to(tl.int64)
    first_place = 0
    num_places = num_poses
    num_indices = max_poses
    if images is not None:
        batch = tl.zeros([], dtype=tl.int64)
        first_place, num_places = _members(images, num_poses, BLOCK_IDS)
        num_indices = num_places
        indices_ptr = images.order_ptr + num_poses + first_place
    else:
        indices_ptr = kept.indices_ptr + batch * max_poses
    keep_ptr = kept.keep_ptr + batch * num_poses
    kept_scores_ptr = kept.scores_ptr + batch * num_poses
    left_ptr += batch * num_poses + first_place

    # Find the poses that exist, and the best of them.
    best = _none_yet()
    for start in range(0, num_places, BLOCK_SIZE):
        place = start + tl.arange(0, BLOCK_SIZE)
        exists = place < num_places
        pose = _pose_at(images, first_place + place, exists)
        score = _load_scores(scores, mask, batch, pose, exists)
        tl.store(left_ptr + place, score, mask=exists)
        tl.store(keep_ptr + pose, 0, mask=exists)
        tl.store(kept_scores_ptr + pose, 0.0, mask=exists)
        best = _better(best, score, place)
    for start in range(0, num_indices, BLOCK_SIZE):
        place = start + tl.arange(0, BLOCK_SIZE)
        tl.store(indices_ptr + place, -1, mask=place < num_indices)

    num_kept = tl.full([], 0, dtype=tl.int32)
    while (best.score > NOTHING) & (num_kept < max_poses):
        # What other threads have stored is read below.
        tl.debug_barrier()
        best_pose = _pose_at(images, first_place + best.place, None)
        tl.store(keep_ptr + best_pose, 1)
        tl.store(kept_scores_ptr + best_pose, best.score)
        tl.store(indices_ptr + num_kept, best_pose)
        num_kept += 1

        next_best = _none_yet()
        for start in range(0, num_places, BLOCK_SIZE):
            place = start + tl.arange(0, BLOCK_SIZE)
            exists = place < num_places
            score = tl.load(left_ptr + place, mask=exists, other=NOTHING)
            is_left = (score > NOTHING) & (place != best.place)
            pose = _pose_at(images, first_place + place, exists)
            similarity = _similarity(poses, best_pose, None, poses, pose, is_left, batch, kappas, num_keypoints)
            score = tl.where(is_left, _suppressed(score, similarity, threshold, METHOD), NOTHING)
            tl.store(left_ptr + place, score, mask=exists)
            next_best = _better(next_best, score, place)
        best = next_best
    if images is not None:
        if finishes_last(images.counter_ptr):
            _store_packed(kept, images, num_poses, BLOCK_IDS)
    else:
        tl.store(kept.counts_ptr + program, num_kept)


# --- suppression of whole images at once -----------------------------------------------------------------

# Poses of an image whose rivals are a bit each, and bits of a number.
MOST_RIVALS = 512
WORD = tl.constexpr(32)


@triton.jit
def _is_better(score, place, other_score, other_place):
    """Compare poses as suppression goes through them: by score, of equal ones the first."""
    return (score > other_score) | ((score == other_score) & (place < other_place))


@triton.jit(do_not_specialize=["num_poses", "num_keypoints"])
def _rivals_kernel(
    rivals_ptr,  # [B, N, ceil(N / 32)], int32, contiguous
    poses,  # Poses
    scores,  # PerPose
    mask,  # PerPose, or None
    kappas,  # Kappas
    num_poses,
    num_keypoints,
    threshold,
):
    """Compare 32 poses of an image with 32 others: of each, a bit for every better one that it is like.

    Pairs are compared once. Reads N poses a row of tiles, from cache after the first, and writes N^2 bits an image.
    """
    num_words = tl.cdiv(num_poses, WORD)
    tile = tl.program_id(0) % (num_words * num_words)
    batch = (tl.program_id(0) // (num_words * num_words)).to(tl.int64)
    row = tile // num_words
    column = tile % num_words
    if row <= column:
        bit = tl.arange(0, WORD)
        a = (row * WORD + bit).to(tl.int64)
        b = (column * WORD + bit).to(tl.int64)
        score_a = _load_scores(scores, mask, batch, a, a < num_poses)
        score_b = _load_scores(scores, mask, batch, b, b < num_poses)
        has_a = (score_a > NOTHING)[:, None]
        has_b = (score_b > NOTHING)[None, :]
        similarity = _similarity(poses, a[:, None], has_a, poses, b[None, :], has_b, batch, kappas, num_keypoints)
        is_like = has_a & has_b & (similarity > threshold)
        a_is_better = _is_better(score_a[:, None], a[:, None], score_b[None, :], b[None, :])
        b_is_better = _is_better(score_b[None, :], b[None, :], score_a[:, None], a[:, None])
        # Of distinct bits the sum is the union.
        of_a = tl.sum(tl.where(is_like & b_is_better, 1 << bit[None, :], 0), axis=1)
        of_b = tl.sum(tl.where(is_like & a_is_better, 1 << bit[:, None], 0), axis=0)
        rivals_ptr += batch * num_poses * num_words
        tl.store(rivals_ptr + a * num_words + column, of_a, mask=a < num_poses)
        if row < column:
            tl.store(rivals_ptr + b * num_words + row, of_b, mask=b < num_poses)


@triton.jit
def _packed(flags, NUM_WORDS: tl.constexpr):
    """Flags of poses [NUM_WORDS * 32] as bits: [1, NUM_WORDS]."""
    bits = tl.reshape(flags.to(tl.int32), [NUM_WORDS, WORD]) << tl.arange(0, WORD)[None, :]
    return tl.sum(bits, axis=1)[None, :]


@triton.jit
def _has_any(rivals, packed):
    """Find the poses of whose rivals one at least is among the packed ones."""
    return tl.max(((rivals & packed) != 0).to(tl.int32), axis=1) > 0


@triton.jit(do_not_specialize=["num_poses", "max_poses"])
def _keep_unrivalled_kernel(
    kept,  # Kept
    rivals_ptr,  # [B, N, ceil(N / 32)], int32, contiguous
    scores,  # PerPose
    mask,  # PerPose, or None
    num_poses,
    max_poses,
    NUM_WORDS: tl.constexpr,
):
    """Keep the poses of an image of whose rivals none is kept, which is what a pass from the best to the worst keeps.

    In a round all poses are settled whose rivals are: those without one that is kept or open are kept, those with a
    kept one are dropped. So there are as many rounds as there are poses in the longest chain of rivals, which are few,
    and not as many as poses that are kept.
    """
    BLOCK_SIZE: tl.constexpr = NUM_WORDS * WORD
    batch = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK_SIZE)
    exists = place < num_poses
    num_words = tl.cdiv(num_poses, WORD)
    word = tl.arange(0, NUM_WORDS)[None, :]
    pointers = rivals_ptr + (batch * num_poses + place.to(tl.int64)[:, None]) * num_words + word
    rivals = tl.load(pointers, mask=exists[:, None] & (word < num_words), other=0)
    score = _load_scores(scores, mask, batch, place.to(tl.int64), exists)

    is_open = score > NOTHING
    is_kept = is_open & False
    num_open = tl.sum(is_open.to(tl.int32), axis=0)
    while num_open > 0:
        is_dropped = _has_any(rivals, _packed(is_kept, NUM_WORDS))
        waits = _has_any(rivals, _packed(is_open, NUM_WORDS))
        is_kept = is_kept | (is_open & ((is_dropped | waits) == 0))
        is_open = is_open & waits & (is_dropped == 0)
        num_open = tl.sum(is_open.to(tl.int32), axis=0)

    # Where each stands among those that are kept, of which there may be too many.
    packed = _packed(is_kept, NUM_WORDS)
    rank = tl.zeros([BLOCK_SIZE], dtype=tl.int32)
    bit = tl.arange(0, WORD)
    for i in range(0, num_words):
        other = i * WORD + bit
        other_score = _load_scores(scores, mask, batch, other.to(tl.int64), other < num_poses)
        is_other_kept = (tl.sum(tl.where(word == i, packed, 0)) >> bit) & 1
        is_before = _is_better(other_score[None, :], other[None, :], score[:, None], place[:, None])
        rank += tl.sum(tl.where(is_before, is_other_kept[None, :], 0), axis=1)
    is_kept = is_kept & (rank < max_poses)
    num_kept = tl.sum(is_kept.to(tl.int32), axis=0)

    tl.store(kept.keep_ptr + batch * num_poses + place, is_kept, mask=exists)
    tl.store(kept.scores_ptr + batch * num_poses + place, tl.where(is_kept, score, 0.0), mask=exists)
    indices_ptr = kept.indices_ptr + batch * max_poses
    tl.store(indices_ptr + rank, place.to(tl.int64), mask=is_kept)
    for start in range(0, max_poses, BLOCK_SIZE):
        index = start + place
        is_left = (index >= num_kept) & (index < max_poses)
        tl.store(indices_ptr + index, tl.full([BLOCK_SIZE], -1, dtype=tl.int64), mask=is_left)
    tl.store(kept.counts_ptr + batch, num_kept)


# --- launchers -------------------------------------------------------------------------------------------


def _poses_of(poses: Tensor, areas: Tensor, visible: Tensor | None) -> Poses:
    seen = (None,) * 4 if visible is None else (visible, *visible.stride())
    return Poses._make((poses, *poses.stride(), areas, *areas.stride(), *seen))


def _per_pose(numbers: Tensor | None) -> PerPose | None:
    return None if numbers is None else PerPose(numbers, *numbers.stride())


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
    with on_device_of(similarity):
        launch(
            _oks_fwd_kernel,
            (batch * triton.cdiv(num_a, block_size) * triton.cdiv(num_b, block_size), 1, 1),
            (
                similarity,
                _poses_of(poses_a, areas_a, visible_a),
                _poses_of(poses_b, areas_b, visible_b),
                Kappas(kappas, *kappas.stride()),
                num_a,
                num_b,
                poses_a.shape[2],
            ),
            {"BLOCK_SIZE": block_size, "num_warps": 8 if block_size == 32 else 1, **register_limit("oks")},
        )


def nms_shape(num_poses: int) -> dict[str, int]:
    """Choose BLOCK_SIZE and num_warps: rounds wait for the slowest warp, so as few as hold an image."""
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
    kept = Kept(keep, indices, counts, kept_scores)
    per_pose = _per_pose(scores), _per_pose(mask)
    inputs = (_poses_of(poses, areas, visible), *per_pose, Kappas(kappas, *kappas.stride()))
    with on_device_of(scores):
        if method == "hard" and image_ids is None and num_poses <= MOST_RIVALS:
            num_words = triton.cdiv(num_poses, WORD.value)
            rivals = scratch(scores.new_empty((batch, num_poses, num_words), dtype=torch.int32))
            launch(
                _rivals_kernel,
                (batch * num_words**2, 1, 1),
                (rivals, *inputs, num_poses, poses.shape[2], threshold),
                {"num_warps": 8, **register_limit("oks")},
            )
            num_words = triton.next_power_of_2(num_words)
            # A warp for 32 poses: fewer hold more rivals a thread than it has registers, or wait longer.
            launch(
                _keep_unrivalled_kernel,
                (batch, 1, 1),
                (kept, rivals, *per_pose, num_poses, max_poses),
                {"NUM_WORDS": num_words, "num_warps": num_words},
            )
            return
        images = None
        if image_ids is not None:
            order = image_ids.new_empty((2, num_poses), dtype=torch.int32)
            images = Images(image_ids, image_ids.stride(0), order, counter(scores.device))
        launch(
            _oks_nms_fwd_kernel,
            (batch if images is None else num_poses, 1, 1),
            (
                *(kept, scratch(torch.empty_like(kept_scores)), *inputs, images),
                *(num_poses, poses.shape[2], max_poses, threshold),
            ),
            {
                "METHOD": method,
                **nms_shape(num_poses if images is None else 128),
                "BLOCK_IDS": BLOCK_IDS,
                **register_limit("oks_nms"),
            },
        )
