"""oks(), oks_nms(), soft_oks_nms(), vote() and variance_voting(): what users call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._common import checks
from .._common.inputs import call_with_tensors
from .._common.kappas import COCO_KAPPAS
from .._common.names import ArrayT, SoftMethod, Swap
from .._common.plans import planned
from ..backends import Backend, check_backend
from ..types import KeptPoses, Keypoints
from .library import call_oks, call_oks_nms, call_oks_symmetric, call_vote, kappas_for, variance_voting_eager
from .reference import (
    oks_nms_reference,
    oks_reference,
    oks_symmetric_reference,
    variance_voting_reference,
    vote_reference,
)

METHODS: tuple[SoftMethod, ...] = get_args(SoftMethod)
SWAPS: tuple[Swap, ...] = get_args(Swap)


@planned
def oks(
    poses_a: ArrayT,  # [..., N, K, 2]
    poses_b: ArrayT,  # [..., M, K, 2]
    areas_a: ArrayT,  # [..., N]
    areas_b: ArrayT,  # [..., M]
    kappas: Sequence[float] | Tensor | NDArray[Any] = COCO_KAPPAS,  # [K]
    visible_a: ArrayT | None = None,  # [..., N, K]
    visible_b: ArrayT | None = None,  # [..., M, K]
    backend: Backend = "auto",
    *,
    symmetric: Sequence[tuple[int, int]] | Tensor | NDArray[Any] | None = None,
    swap: Swap = "pairs",
) -> ArrayT:
    """Compare every pose of one set with every pose of another: object keypoint similarity (OKS).

    It is 1 for the same pose and falls towards 0 with the distance of the keypoints, relative to the size of the person
    and to how well a keypoint is defined.

    For a pair of poses with keypoints d_i apart it is the mean over i of

        exp(-d_i^2 / (2 kappa_i)^2 / ((area_a + area_b) / 2 + 2.2e-16) / 2)

    over all K keypoints, or over those that are visible in both poses; 0 if none is (COCO's keypoint similarity,
    with the mean of two areas in the place of the annotation's). One launch on CUDA, ROCm and XPU; nothing waits for
    the device.

    A keypoint whose coordinates are NaN or infinite in one of the poses is infinitely far: it adds 0 to the mean
    (leave it out by `visible`). A pose whose area is NaN, infinite or negative is like no other: 0. So similarities
    are finite, 0 to 1. No gradient flows through them.

    `symmetric` names pairs of keypoints that cannot be told apart, such as left and right of an object that looks the
    same from both sides. They are compared both ways, and the better one counts. With `swap="pairs"` each pair decides
    on its own, by the sum of its two similarities; equal sums stay as they are. With `swap="pose"` all pairs of a pose
    are swapped or none. Visibilities of `poses_a` are swapped with its keypoints. A kappa belongs to a place in
    `poses_b`.

    Args:
        poses_a: [..., N, K, 2], (x, y) of K keypoints of N poses; float16, bfloat16, float32 or float64, any strides.
            Any leading dimensions, for a batch of images: poses are compared within an image. With a NumPy array all
            may be, and the result is one.
        poses_b: [..., M, K, 2] with the same leading dimensions; dtypes may differ, those of the areas as well.
        areas_a: [..., N], of the persons (of their masks, or of their boxes), in the squared unit of the poses.
        areas_b: [..., M].
        kappas: One positive number for each keypoint, by default COCO's for its 17. COCO's evaluation and others
            call the same numbers sigmas. A tensor on the poses' device is taken as it is, without a check of its
            values.
        visible_a: [..., N, K] of any real dtype; a keypoint is visible if above 0. None: all are.
        visible_b: [..., M, K], the same.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition). float64 is served by eager where Triton is
            asked for, and so are pairs that are swapped.
        symmetric: Pairs (i, j) of keypoints that may be swapped, or [N, 2] of them. No keypoint is in two pairs. None:
            no keypoints are swapped.
        swap: `"pairs"`, each pair on its own, or `"pose"`, all or none.

    Returns:
        [..., N, M]; float32, or float64 if poses or areas are float64.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or kappas are not numbers.
        ValueError: A shape does not fit, kappas are not positive, pairs are none of keypoints, tensors are on several
            devices, or `backend` or `swap` is unknown or cannot serve.

    Example:
        >>> import torch, dark_kernels
        >>> poses, areas = torch.rand(8, 30, 17, 2) * 200, torch.full((8, 30), 9000.0)
        >>> dark_kernels.oks(poses, poses, areas, areas).shape
        torch.Size([8, 30, 30])
    """
    if isinstance(poses_a, np.ndarray):
        return call_with_tensors(
            oks, poses_a=poses_a, poses_b=poses_b, areas_a=areas_a, areas_b=areas_b, kappas=kappas,
            visible_a=visible_a, visible_b=visible_b, backend=backend, symmetric=symmetric, swap=swap,
        )  # fmt: skip
    _check_poses("poses_a", poses_a, "[..., N, K, 2]", least=3)
    _check_poses("poses_b", poses_b, "[..., M, K, 2]", least=3)
    leading: tuple[int, ...] = poses_a.shape[:-3]
    num_keypoints = poses_a.shape[-2]
    expected = [*leading, poses_b.shape[-3], num_keypoints, 2]
    checks.check_shape("poses_b", poses_b, expected, "leading dimensions and keypoints as poses_a")
    for name, areas, poses in (("areas_a", areas_a, poses_a), ("areas_b", areas_b, poses_b)):
        checks.check_tensor(name, areas, poses.dim() - 2, "as the poses without keypoints")
        checks.check_shape(name, areas, poses.shape[:-2], "one for each pose")
    for name, visible, poses in (("visible_a", visible_a, poses_a), ("visible_b", visible_b, poses_b)):
        checks.check_flags(name, visible, poses.shape[:-1], "one for each keypoint")
    checks.check_devices(
        poses_a=poses_a, poses_b=poses_b, areas_a=areas_a, areas_b=areas_b, visible_a=visible_a, visible_b=visible_b
    )
    check_backend(backend)
    checks.check_name("swap", swap, SWAPS)
    partners = None if symmetric is None else checks.to_partners(symmetric, num_keypoints)
    kappas = _kappas(kappas, num_keypoints, poses_a, poses_b, areas_a, areas_b)
    poses_a, poses_b, areas_a, areas_b = poses_a.detach(), poses_b.detach(), areas_a.detach(), areas_b.detach()
    if backend == "reference":
        if partners is not None:
            pairs = [(i, j) for i, j in enumerate(partners) if i < j]
            return oks_symmetric_reference(
                poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b, pairs, swap
            )
        return oks_reference(poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    batch = math.prod(leading)
    arguments = (
        poses_a.reshape(batch, *poses_a.shape[-3:]),
        poses_b.reshape(batch, *poses_b.shape[-3:]),
        areas_a.reshape(batch, *areas_a.shape[-1:]),
        areas_b.reshape(batch, *areas_b.shape[-1:]),
        kappas,
        None if visible_a is None else visible_a.reshape(batch, *visible_a.shape[-2:]),
        None if visible_b is None else visible_b.reshape(batch, *visible_b.shape[-2:]),
    )
    if partners is None:
        similarity = call_oks(*arguments, backend)
    else:
        similarity = call_oks_symmetric(*arguments, partners, swap, backend)
    return similarity.view(*leading, *similarity.shape[-2:])


@planned
def oks_nms(
    poses: ArrayT,  # [B, N, K, 2] or [N, K, 2]
    scores: ArrayT,  # [B, N] or [N]
    areas: ArrayT,  # [B, N] or [N]
    threshold: float = 0.9,
    kappas: Sequence[float] | Tensor | NDArray[Any] = COCO_KAPPAS,  # [K]
    visible: ArrayT | None = None,  # as scores, and K
    mask: ArrayT | None = None,  # as scores
    image_ids: ArrayT | None = None,  # [N]
    backend: Backend = "auto",
) -> KeptPoses[ArrayT]:
    """Keep the best pose of each person, in all images of a batch (non-maximum suppression by OKS).

    In each image, again and again: keep the pose with the highest score that is left, the one with the lower index
    of equal ones, and drop the others whose similarity (`oks`) with it exceeds `threshold` (Papandreou et al.,
    "Towards Accurate Multi-person Pose Estimation in the Wild", CVPR 2017; HRNet and mmpose evaluate with it).

    Images have different numbers of poses. Either they are padded, poses [B, N, K, 2], and `mask` says which exist;
    or they lie behind each other, poses [N, K, 2], and `image_ids` says whose they are. On CUDA, ROCm and XPU a batch
    is one launch either way. The shapes of the outputs do not depend on how many are kept, and nothing waits for the
    device, but for `oks_nms` with image ids where eager serves it (float64 on a GPU is an example): how many images
    there are, and how full the fullest is, the host then has to know.

    A pose whose score is NaN or -inf is none, as if masked. NaN and infinity in a pose or an area count as in `oks`:
    such a keypoint matches nothing, such a pose neither drops another nor is dropped. No output is NaN.

    Args:
        poses: [B, N, K, 2], or [N, K, 2] of a single image or with image ids; dtypes and strides as in `oks`. With a
            NumPy array all may be, and results are arrays.
        scores: [B, N] or [N].
        areas: [B, N] or [N], in the squared unit of the poses.
        threshold: Similarity above which the worse of two poses is dropped; positive.
        kappas: [K], as in `oks`.
        visible: [B, N, K] or [N, K] of any real dtype, above 0 where visible; similarities are of what is visible in
            both poses. None: all are.
        mask: [B, N] or [N] of any real dtype, above 0 where there is a pose. None: everywhere.
        image_ids: [N] integers in any order, for poses [N, K, 2]: only poses of one image drop each other.
        backend: As in `oks`.

    Returns:
        KeptPoses: which poses are kept, their indices by descending score, padded with -1, how many they are, and
        their scores. For [N, K, 2] without the batch dimension; with image ids, indices are those of the image with
        the lowest id first, followed by the next, and the count is that of all images.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype that `oks` takes, or ids are not integers.
        ValueError: A shape does not fit, image ids come with a batch dimension, kappas or threshold are not
            positive, tensors are on several devices, or `backend` is unknown or cannot serve.

    Example:
        >>> import torch, dark_kernels
        >>> poses, scores = torch.rand(8, 30, 17, 2) * 200, torch.rand(8, 30)
        >>> kept = dark_kernels.oks_nms(poses, scores, torch.full((8, 30), 9000.0), mask=scores > 0.2)
        >>> kept.keep.shape, kept.indices.shape, kept.counts.shape
        (torch.Size([8, 30]), torch.Size([8, 30]), torch.Size([8]))
    """
    if isinstance(poses, np.ndarray):
        return call_with_tensors(
            oks_nms, poses=poses, scores=scores, areas=areas, threshold=threshold, kappas=kappas, visible=visible,
            mask=mask, image_ids=image_ids, backend=backend,
        )  # fmt: skip
    checks.check_positive("threshold", threshold)
    return _suppress(poses, scores, areas, threshold, "hard", None, kappas, visible, mask, image_ids, backend)


@planned
def soft_oks_nms(
    poses: ArrayT,  # [B, N, K, 2] or [N, K, 2]
    scores: ArrayT,  # [B, N] or [N]
    areas: ArrayT,  # [B, N] or [N]
    threshold: float = 0.9,
    method: SoftMethod = "gaussian",
    max_poses: int = 20,
    kappas: Sequence[float] | Tensor | NDArray[Any] = COCO_KAPPAS,  # [K]
    visible: ArrayT | None = None,  # as scores, and K
    mask: ArrayT | None = None,  # as scores
    image_ids: ArrayT | None = None,  # [N]
    backend: Backend = "auto",
) -> KeptPoses[ArrayT]:
    """Lower the scores of poses that are similar to a better one, where `oks_nms` drops them (soft NMS).

    In each image, up to `max_poses` times: keep the pose with the highest score that is left, the one with the
    lower index of equal ones, and multiply the scores s of the others, with similarity o, for the next round:
    s e^(-o^2 / threshold) for `method="gaussian"`, s (1 - o) where o >= threshold for `"linear"` (Bodla et al.,
    "Soft-NMS - Improving Object Detection With One Line of Code", ICCV 2017, with OKS for the overlap of boxes). Scores
    should not be negative, since a factor below 1 would raise them.

    Args:
        poses: As in `oks_nms`, with `scores`, `areas`, `kappas`, `visible`, `mask`, `image_ids` and `backend`.
        scores: See there.
        areas: See there.
        threshold: Of the method, positive: the less, the more of a score is lost (gaussian), or the more poses lose
            it (linear).
        method: `"gaussian"` or `"linear"`.
        max_poses: At most so many are kept in an image, at least 1.
        kappas: As in `oks_nms`.
        visible: As in `oks_nms`.
        mask: As in `oks_nms`.
        image_ids: As in `oks_nms`.
        backend: As in `oks_nms`.

    Returns:
        KeptPoses, as `oks_nms` does; scores are the ones with which a pose was kept, indices are [B, max_poses] or
        [max_poses], and [N] with image ids.

    Raises:
        TypeError: As `oks_nms`; `max_poses` is not an integer.
        ValueError: As `oks_nms`; `method` is unknown, or `max_poses` below 1.

    Example:
        >>> import torch, dark_kernels
        >>> poses, scores = torch.rand(50, 17, 2) * 200, torch.rand(50)
        >>> images = torch.randint(4, (50,))
        >>> kept = dark_kernels.soft_oks_nms(poses, scores, torch.full((50,), 9000.0), image_ids=images)
        >>> kept.scores.shape
        torch.Size([50])
    """
    if isinstance(poses, np.ndarray):
        return call_with_tensors(
            soft_oks_nms, poses=poses, scores=scores, areas=areas, threshold=threshold, method=method,
            max_poses=max_poses, kappas=kappas, visible=visible, mask=mask, image_ids=image_ids, backend=backend,
        )  # fmt: skip
    checks.check_positive("threshold", threshold)
    checks.check_name("method", method, METHODS)
    checks.check_count("max_poses", max_poses)
    return _suppress(poses, scores, areas, threshold, method, max_poses, kappas, visible, mask, image_ids, backend)


@planned
def vote(
    samples: ArrayT,  # [B, K, S, 2]
    heatmaps: ArrayT | None = None,  # [B, K, H, W]
    bandwidth: float | None = None,
    backend: Backend = "auto",
) -> Keypoints[ArrayT, ArrayT]:
    """Reduce samples of each keypoint to their weighted mean, their covariance and the share of the votes.

    Each sample of a keypoint has one vote and gives a share w of it:

    - with `heatmaps`, the value of the keypoint's map at the sample, bilinear between pixel centres and falling
      to 0 within a pixel beyond the border;
    - with `bandwidth`, the density of the keypoint's samples there: the mean over all S of them, itself included, of
      exp(-d^2 / (2 bandwidth^2)), d its distance;
    - else 1.

    The keypoint is sum w x / sum w, its covariance sum w (x - mean) (x - mean)^T / sum w, and its score sum w / S,
    the share of the votes that were given: 1 if all were, and near 0 where the samples and the heatmap (or the
    samples among themselves) disagree. Samples of a Gaussian N(m, P) on a map that is exp(-(x - c)^T Q^-1 (x - c) / 2)
    approach the product of the two: covariance (P^-1 + Q^-1)^-1, and a share of sqrt(|Q| / |P + Q|)
    exp(-(m - c)^T (P + Q)^-1 (m - c) / 2). With a density of bandwidth h the same with m for c and P + h^2 I for Q, but
    for a factor of sqrt(h^4 / |P + h^2 I|) in the share.

    On CUDA, ROCm and XPU this is one launch. Eager takes some twenty operations for it, and for a density keeps
    the kernels of all pairs of some keypoints at a time. Nothing waits for the device; no gradient flows.

    A sample that is NaN or infinite gives no vote, neither does one whose weight is NaN, infinite or not positive.
    Where no sample votes, coordinates and covariance are NaN and the score is 0.

    Args:
        samples: [B, K, S, 2], S >= 1 samples (x, y) of each keypoint, in heatmap pixels with pixel centres at
            integers if there are heatmaps; float16, bfloat16, float32 or float64, any strides. With a
            NumPy array both may be, and results are arrays.
        heatmaps: [B, K, H, W] or None; the dtype may differ.
        bandwidth: Standard deviation of the kernels of a density, positive, or None.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition). float64 is served by eager where Triton is
            asked for.

    Returns:
        Keypoints: `coords` [B, K, 2], `scores` [B, K] and `covariances` [B, K, 2, 2], symmetric and positive
        semi-definite; float32, or float64 if an input is.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, `bandwidth` is not positive or comes with heatmaps, tensors are on two
            devices, or `backend` is unknown or cannot serve.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(8, 17, 64, 48)
        >>> keypoints = dark_kernels.decode(heatmaps, covariance=True)
        >>> samples = dark_kernels.sample_keypoints(keypoints.coords, keypoints.covariances, n=100, seed=0)
        >>> dark_kernels.vote(samples, heatmaps).coords.shape
        torch.Size([8, 17, 2])
    """
    if isinstance(samples, np.ndarray):
        return call_with_tensors(vote, samples=samples, heatmaps=heatmaps, bandwidth=bandwidth, backend=backend)
    checks.check_tensor("samples", samples, 4, "[B, K, S, 2]")
    if samples.shape[2] == 0 or samples.shape[3] != 2:
        raise ValueError(f"samples: got shape {list(samples.shape)}, expected [B, K, S, 2] with S >= 1 samples (x, y)")
    if heatmaps is not None:
        checks.check_tensor("heatmaps", heatmaps, 4, "[B, K, H, W]")
        checks.check_size("heatmaps", heatmaps)
        batch, num_keypoints = samples.shape[:2]
        height, width = heatmaps.shape[2:]
        checks.check_shape("heatmaps", heatmaps, (batch, num_keypoints, height, width), "a map for each keypoint")
        heatmaps = heatmaps.detach()
    if bandwidth is not None:
        checks.check_positive("bandwidth", bandwidth)
        if heatmaps is not None:
            raise ValueError(f"bandwidth: got {bandwidth} with heatmaps, expected None; a vote has one weight")
        bandwidth = float(bandwidth)
    checks.check_devices(samples=samples, heatmaps=heatmaps)
    check_backend(backend)
    samples = samples.detach()
    if backend == "reference":
        return Keypoints(*vote_reference(samples, heatmaps, bandwidth))
    return Keypoints(*call_vote(samples, heatmaps, bandwidth, backend))


def variance_voting(
    poses: ArrayT,  # [..., N, K, 2]
    variances: ArrayT,  # [..., N, K] or [..., N, K, 2]
    similarities: ArrayT,  # [..., M, N]
    spread: float = 0.01,
    mask: ArrayT | None = None,  # [..., N]
    backend: Backend = "auto",
) -> ArrayT:
    """Average overlapping poses, keypoint by keypoint, weighted by their similarity and inverse variance.

    Keypoint k of pose m becomes sum_i p_i x_i / v_i over sum_i p_i / v_i, where x_i is that keypoint of pose i, v_i its
    variance, and p_i = exp(-(1 - o_mi)^2 / spread) says how much the poses, of similarity o_mi, are about the
    same person (variance voting: He et al., "Bounding Box Regression with Uncertainty for Accurate Object
    Detection", CVPR 2019, eq. 11). To be used on what `oks_nms` keeps, with the votes of what it drops:

        similarities = oks(poses, poses, areas, areas)
        voted = variance_voting(poses, variances, similarities)

    A coordinate gives no vote if it is NaN or infinite, if its variance is NaN, infinite or not positive, or if the
    similarity is NaN. Each axis is voted on by itself. Where nobody votes the result is NaN.

    It has no kernel: ten of PyTorch's operations on M N K 2 numbers, which `torch.compile` fuses. Gradients flow
    through them.

    Args:
        poses: [..., N, K, 2]; float16, bfloat16, float32 or float64, any strides. With a NumPy array all may be,
            and the result is one.
        variances: [..., N, K], or [..., N, K, 2] of each axis, in the squared unit of the poses; the dtype may differ.
        similarities: [..., M, N], of the poses that are asked for with all poses, as `oks` returns them.
        spread: How fast a pose loses its vote with the similarity, positive.
        mask: [..., N] of any real dtype, above 0 where there is a pose. None: everywhere.
        backend: `"auto"` or `"eager"`, or `"reference"` (the definition, in float64).

    Returns:
        [..., M, K, 2]; float32, or float64 if an input is.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, `spread` is not positive, tensors are on several devices, or `backend` is
            unknown or `"triton"`.

    Example:
        >>> import torch, dark_kernels
        >>> poses, areas = torch.rand(8, 30, 17, 2) * 200, torch.full((8, 30), 9000.0)
        >>> similarities = dark_kernels.oks(poses, poses, areas, areas)
        >>> dark_kernels.variance_voting(poses, torch.ones(8, 30, 17), similarities).shape
        torch.Size([8, 30, 17, 2])
    """
    if isinstance(poses, np.ndarray):
        return call_with_tensors(
            variance_voting, poses=poses, variances=variances, similarities=similarities, spread=spread, mask=mask,
            backend=backend,
        )  # fmt: skip
    dim = poses.dim() if isinstance(poses, Tensor) else 3
    checks.check_tensor("poses", poses, max(dim, 3), "[..., N, K, 2]")
    if poses.shape[-1] != 2:
        raise ValueError(f"poses: got shape {list(poses.shape)}, expected [..., N, K, 2], (x, y) of every keypoint")
    is_round = isinstance(variances, Tensor) and variances.dim() == dim - 1  # one variance for both axes
    checks.check_tensor("variances", variances, dim - is_round, "[..., N, K] or [..., N, K, 2]")
    shape = poses.shape[:-1] if is_round else poses.shape
    checks.check_shape("variances", variances, shape, "one for each keypoint, or for each axis")
    variances = variances[..., None] if is_round else variances
    checks.check_tensor("similarities", similarities, dim - 1, "[..., M, N]")
    expected = (*poses.shape[:-3], similarities.shape[-2], poses.shape[-3])
    checks.check_shape("similarities", similarities, expected, "of each pose asked for with each of poses")
    checks.check_flags("mask", mask, poses.shape[:-2], "one for each pose")
    checks.check_devices(poses=poses, variances=variances, similarities=similarities, mask=mask)
    checks.check_positive("spread", spread)
    check_backend(backend)
    if backend == "triton":
        raise ValueError(
            "backend: got 'triton', expected 'auto', 'eager' or 'reference'; variance voting has no kernel"
        )
    arguments = (poses, variances, similarities, spread, mask)
    return variance_voting_reference(*arguments) if backend == "reference" else variance_voting_eager(*arguments)


def _suppress(
    poses: Tensor,
    scores: Tensor,
    areas: Tensor,
    threshold: float,
    method: str,
    max_poses: int | None,
    kappas: Sequence[float] | Tensor | NDArray[Any],
    visible: Tensor | None,
    mask: Tensor | None,
    image_ids: Tensor | None,
    backend: Backend,
) -> KeptPoses:
    _check_poses("poses", poses, "[B, N, K, 2] or [N, K, 2]", least=3, most=4)
    for name, tensor in (("scores", scores), ("areas", areas)):
        checks.check_tensor(name, tensor, poses.dim() - 2, "as the poses without keypoints")
        checks.check_shape(name, tensor, poses.shape[:-2], "one for each pose")
    checks.check_flags("visible", visible, poses.shape[:-1], "one for each keypoint")
    checks.check_flags("mask", mask, poses.shape[:-2], "one for each pose")
    if image_ids is not None:
        checks.check_integers("image_ids", image_ids)
        if poses.dim() == 4:
            raise ValueError(
                f"image_ids: got ids with poses {list(poses.shape)}, expected [N, K, 2]; a batch dimension says which "
                "image already"
            )
        checks.check_shape("image_ids", image_ids, poses.shape[:1], "one for each pose")
    checks.check_devices(poses=poses, scores=scores, areas=areas, visible=visible, mask=mask, image_ids=image_ids)
    check_backend(backend)
    tensors: tuple[Tensor | None, ...] = (poses.detach(), scores.detach(), areas.detach(), visible, mask)
    is_batched = poses.dim() == 4
    if not is_batched:
        tensors = tuple(None if tensor is None else tensor[None] for tensor in tensors)
    poses, scores, areas, visible, mask = tensors  # type: ignore[assignment]
    kappas = _kappas(kappas, poses.shape[2], poses, scores, areas)
    # What is 0 in float32 would divide by 0.
    threshold = max(float(threshold), torch.finfo(torch.float32).tiny)
    max_poses = scores.shape[1] if max_poses is None else max_poses
    if backend == "reference":
        outputs = oks_nms_reference(
            poses, scores, areas, kappas, threshold, method, max_poses, visible, mask, image_ids
        )
    else:
        outputs = call_oks_nms(
            poses, scores, areas, kappas, visible, mask, image_ids, threshold, method, max_poses, backend
        )
    return KeptPoses(*outputs) if is_batched else KeptPoses(*(output[0] for output in outputs))


def _check_poses(name: str, poses: Tensor, shape: str, least: int, most: int = 64) -> None:
    dim = poses.dim() if isinstance(poses, Tensor) else least
    checks.check_tensor(name, poses, min(max(dim, least), most), shape)
    if poses.shape[-1] != 2:
        raise ValueError(f"{name}: got shape {list(poses.shape)}, expected {shape}, (x, y) of every keypoint")


def _kappas(kappas: Sequence[float] | Tensor | NDArray[Any], num_keypoints: int, *tensors: Tensor) -> Tensor:
    """Check kappas and bring them to the device of the tensors, [K]."""
    if isinstance(kappas, Tensor):
        checks.check_tensor("kappas", kappas, 1, "[K]")
        checks.check_shape("kappas", kappas, (num_keypoints,), "one for each keypoint")
        return kappas.detach().to(tensors[0].device)
    if isinstance(kappas, str):
        raise TypeError(
            f"kappas: got {kappas!r}, expected {num_keypoints} numbers or a tensor; those of data sets are "
            f"dark_kernels.metrics.kappas({kappas!r})"
        )
    if not isinstance(kappas, Iterable):
        raise TypeError(f"kappas: got {type(kappas).__name__} {kappas!r}, expected {num_keypoints} numbers or a tensor")
    numbers = [checks.to_positive("kappas", kappa) for kappa in kappas]
    if len(numbers) != num_keypoints:
        raise ValueError(f"kappas: got {len(numbers)} of them, expected {num_keypoints}, one for each keypoint")
    return kappas_for(numbers, *tensors)
