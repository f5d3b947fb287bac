"""The contract with PyTorch: schema, fake, and which backend serves which device."""

from __future__ import annotations

import torch
from torch import Tensor

from .._common.operators import arithmetic_dtype, register
from ..backends import choose
from . import eager

_library = torch.library.Library("dark_kernels", "FRAGMENT")
_library.define(
    "sample_keypoints(Tensor means, Tensor covariances, SymInt n, int seed, int offset, float tolerance, str backend) "
    "-> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _sample_keypoints(
    means: Tensor,  # [P, 2]
    covariances: Tensor,  # [P, 2, 2]
    n: int,
    seed: int,
    offset: int,
    tolerance: float,
    backend: str,
) -> Tensor:
    dtype = arithmetic_dtype(means, covariances)
    if choose(backend, means.device.type, dtype).backend != "triton":
        return eager.sample_keypoints_fwd(means, covariances, n, seed, offset, tolerance, dtype)
    samples = _sample_keypoints_fake(means, covariances, n)
    if samples.numel():
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        kernels.sample_keypoints_fwd(samples, means, covariances, seed, offset, tolerance)
    return samples


def _sample_keypoints_fake(means: Tensor, covariances: Tensor, n: int, *unused: object) -> Tensor:
    """Uninitialised samples."""
    return means.new_empty((means.shape[0], n, 2), dtype=arithmetic_dtype(means, covariances))


call_sample_keypoints = register(_library, "sample_keypoints", _sample_keypoints, _sample_keypoints_fake)
