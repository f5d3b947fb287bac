"""The contract with PyTorch: schema, fake, and which backend serves which device.

`variance_voting` needs none: it is a few of PyTorch's own operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._operators import arithmetic_dtype, directly
from ..backends import choose
from . import eager

_library = torch.library.Library("dark_kernels", "FRAGMENT")
_library.define(
    "vote(Tensor samples, Tensor? heatmaps, float? bandwidth, str backend) "
    "-> (Tensor coords, Tensor scores, Tensor covariances)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def variance_voting_eager(
    poses: Tensor, variances: Tensor, similarities: Tensor, spread: float, mask: Tensor | None
) -> Tensor:
    """Eager, on any device."""
    dtype = arithmetic_dtype(poses, variances, similarities)
    return eager.variance_voting_fwd(poses, variances, similarities, spread, mask, dtype)


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
        return eager.vote_fwd(samples, heatmaps, bandwidth, dtype)
    from . import kernels  # Triton is imported when it first serves a call, not with the package

    kernels.vote_fwd(*outputs, samples, heatmaps, bandwidth)
    return outputs


def _vote_fake(samples: Tensor, heatmaps: Tensor | None, *unused: object) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised outputs."""
    dtype, shape = arithmetic_dtype(samples, heatmaps), samples.shape[:2]
    return (
        samples.new_empty((*shape, 2), dtype=dtype),
        samples.new_empty(shape, dtype=dtype),
        samples.new_empty((*shape, 2, 2), dtype=dtype),
    )


# One implementation for all devices: it asks `choose`, so a device without Triton is served by eager.
_library.impl("vote", _vote, "CompositeExplicitAutograd")
torch.library.register_fake("dark_kernels::vote", _vote_fake, lib=_library)

call_vote = directly(torch.ops.dark_kernels.vote.default, _vote)
