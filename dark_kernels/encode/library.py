"""The contract with PyTorch: schema, fake implementation, and which backend serves which device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._common.operators import empty_in_huge_pages, register
from ..backends import choose
from . import eager

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_library.define(
    "encode(Tensor keypoints, Tensor? visible, Tensor? sigmas, float sigma, SymInt height, SymInt width, "
    "str encoding, ScalarType dtype, str backend) -> (Tensor heatmaps, Tensor weight)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _encode(
    keypoints: Tensor,
    visible: Tensor | None,
    sigmas: Tensor | None,
    sigma: float,
    height: int,
    width: int,
    encoding: str,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    serves = choose(backend, keypoints.device.type, dtype).backend
    heatmaps, weight = _make_outputs(empty_in_huge_pages, keypoints, height, width, dtype)
    if keypoints.shape[1] == 0:  # nobody
        return heatmaps.zero_(), weight.zero_()
    if weight.numel() == 0:
        return heatmaps, weight
    arguments = (heatmaps, weight, keypoints, visible, sigmas, sigma, encoding)
    if serves == "triton":
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        kernels.encode_fwd(*arguments)
    else:
        eager.encode_fwd(*arguments)
    return heatmaps, weight


def _encode_fake(
    keypoints: Tensor,
    visible: Tensor | None,
    sigmas: Tensor | None,
    sigma: float,
    height: int,
    width: int,
    encoding: str,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _make_outputs(torch.empty, keypoints, height, width, dtype)


def _make_outputs(
    make: Callable[..., Tensor], keypoints: Tensor, height: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Make uninitialised outputs."""
    batch, num_keypoints, device = keypoints.shape[0], keypoints.shape[2], keypoints.device
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        make((batch, num_keypoints, height, width), dtype=dtype, device=device),
        torch.empty((batch, num_keypoints), dtype=arithmetic, device=device),
    )


call_encode = register(_library, "encode", _encode, _encode_fake)
