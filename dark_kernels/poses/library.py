"""The contract with PyTorch: schemas, fakes, and which backend serves which device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .._common.operators import arithmetic_dtype, register
from .._common.plans import held
from ..backends import choose, is_plain
from . import eager, eager_voting

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_TAGS = (torch.Tag.pt2_compliant_tag,)
_library.define(
    "oks(Tensor poses_a, Tensor poses_b, Tensor areas_a, Tensor areas_b, Tensor kappas, Tensor? visible_a, "
    "Tensor? visible_b, str backend) -> Tensor",
    tags=_TAGS,
)
_library.define(
    "oks_nms(Tensor poses, Tensor scores, Tensor areas, Tensor kappas, Tensor? visible, Tensor? mask, "
    "Tensor? image_ids, float threshold, str method, SymInt max_poses, str backend) "
    "-> (Tensor keep, Tensor indices, Tensor counts, Tensor scores)",
    tags=_TAGS,
)
_library.define(
    "vote(Tensor samples, Tensor? heatmaps, float? bandwidth, str backend) "
    "-> (Tensor coords, Tensor scores, Tensor covariances)",
    tags=_TAGS,
)


def _oks(
    poses_a: Tensor,  # [B, N, K, 2]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_a: Tensor,  # [B, N]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [B, N, K]
    visible_b: Tensor | None,  # [B, M, K]
    backend: str,
) -> Tensor:
    arguments = (poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    dtype = arithmetic_dtype(poses_a, poses_b, areas_a, areas_b)
    if choose(backend, poses_a.device.type, dtype).backend != "triton":
        return eager.oks_fwd(*arguments, dtype)
    similarity = _oks_fake(*arguments, backend)
    if similarity.numel():
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        kernels.oks_fwd(similarity, *arguments)
    return similarity


def _oks_fake(poses_a: Tensor, poses_b: Tensor, areas_a: Tensor, areas_b: Tensor, *unused: object) -> Tensor:
    """Make uninitialised similarities."""
    shape = (*poses_a.shape[:2], poses_b.shape[1])
    return poses_a.new_empty(shape, dtype=arithmetic_dtype(poses_a, poses_b, areas_a, areas_b))


def _oks_nms(
    poses: Tensor,  # [B, N, K, 2]
    scores: Tensor,  # [B, N]
    areas: Tensor,  # [B, N]
    kappas: Tensor,  # [K]
    visible: Tensor | None,  # [B, N, K]
    mask: Tensor | None,  # [B, N]
    image_ids: Tensor | None,  # [N], of the poses of a single batch entry
    threshold: float,
    method: str,
    max_poses: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options = (threshold, method, max_poses)
    dtype = arithmetic_dtype(poses, scores, areas)
    serves = choose(backend, poses.device.type, dtype).backend
    if serves == "triton" or scores.numel() == 0:
        outputs = _oks_nms_fake(poses, scores, areas, kappas, visible, mask, image_ids, *options, backend)
        keep, indices, counts, kept_scores = outputs
        if scores.numel() == 0:
            return keep, indices.fill_(-1), counts.zero_(), kept_scores
        from . import kernels

        kernels.oks_nms_fwd(*outputs, poses, scores, areas, kappas, visible, mask, image_ids, *options)
        return outputs
    return eager.oks_nms_fwd(poses, scores, areas, kappas, visible, mask, image_ids, *options, dtype)


def _oks_nms_fake(
    poses: Tensor,
    scores: Tensor,
    areas: Tensor,
    kappas: Tensor,
    visible: Tensor | None,
    mask: Tensor | None,
    image_ids: Tensor | None,
    threshold: float,
    method: str,
    max_poses: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make uninitialised outputs."""
    shape = scores.shape
    width = shape[1] if image_ids is not None else max_poses
    return (
        scores.new_empty(shape, dtype=torch.bool),
        scores.new_empty((shape[0], width), dtype=torch.int64),
        scores.new_empty(shape[:1], dtype=torch.int64),
        scores.new_empty(shape, dtype=arithmetic_dtype(poses, scores, areas)),
    )


def _vote(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor | None,  # [B, K, H, W]
    bandwidth: float | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = arithmetic_dtype(samples, heatmaps)
    outputs = _vote_fake(samples, heatmaps)
    if outputs[1].numel() == 0:
        return outputs
    if choose(backend, samples.device.type, dtype).backend != "triton":
        return eager_voting.vote_fwd(samples, heatmaps, bandwidth, dtype)
    from . import kernels_voting

    kernels_voting.vote_fwd(*outputs, samples, heatmaps, bandwidth)
    return outputs


def _vote_fake(samples: Tensor, heatmaps: Tensor | None, *unused: object) -> tuple[Tensor, Tensor, Tensor]:
    """Make uninitialised outputs."""
    dtype, shape = arithmetic_dtype(samples, heatmaps), samples.shape[:2]
    return (
        samples.new_empty((*shape, 2), dtype=dtype),
        samples.new_empty(shape, dtype=dtype),
        samples.new_empty((*shape, 2, 2), dtype=dtype),
    )


call_oks = register(_library, "oks", _oks, _oks_fake)
call_oks_nms = register(_library, "oks_nms", _oks_nms, _oks_nms_fake)
call_vote = register(_library, "vote", _vote, _vote_fake)


def call_oks_symmetric(
    poses_a: Tensor,  # [B, N, K, 2]
    poses_b: Tensor,  # [B, M, K, 2]
    areas_a: Tensor,  # [B, N]
    areas_b: Tensor,  # [B, M]
    kappas: Tensor,  # [K]
    visible_a: Tensor | None,  # [B, N, K]
    visible_b: Tensor | None,  # [B, M, K]
    partners: Sequence[int],  # [K]
    swap: str,
    backend: str,
) -> Tensor:
    """Call the operator twice if whole poses are swapped. Pairs are swapped by eager, on every device."""
    if swap == "pose":
        order = torch.tensor(partners, dtype=torch.int64, device=poses_a.device)
        swapped_visible = None if visible_a is None else visible_a[:, :, order]
        kept = call_oks(poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b, backend)
        swapped = call_oks(poses_a[:, :, order], poses_b, areas_a, areas_b, kappas, swapped_visible, visible_b, backend)
        return torch.maximum(kept, swapped)
    arguments = (poses_a, poses_b, areas_a, areas_b, kappas, visible_a, visible_b)
    dtype = arithmetic_dtype(poses_a, poses_b, areas_a, areas_b)
    if not torch.compiler.is_compiling():  # its cache would be traced, with a warning
        choose(backend, poses_a.device.type, dtype)  # which says if there is no such backend
    return eager.oks_swapped_fwd(*arguments, partners, dtype)


def variance_voting_eager(
    poses: Tensor, variances: Tensor, similarities: Tensor, spread: float, mask: Tensor | None
) -> Tensor:
    """Call eager, on any device: a few of PyTorch's own operations, which need no operator."""
    dtype = arithmetic_dtype(poses, variances, similarities)
    return eager_voting.variance_voting_fwd(poses, variances, similarities, spread, mask, dtype)


def kappas_for(kappas: Sequence[float], *tensors: Tensor) -> Tensor:
    """Kappas on the device of the tensors, in the dtype of their arithmetic; kept, so that the next call copies nothing
    to the device."""
    dtype, device = arithmetic_dtype(*tensors), tensors[0].device
    if is_plain(*tensors):
        return held(_kept_kappas(tuple(kappas), dtype, device))
    return torch.tensor(tuple(kappas), dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _kept_kappas(kappas: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(kappas, dtype=dtype, device=device)
