"""The contract with PyTorch: schema, fake implementation, and which backend serves which device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._common.operators import arithmetic_dtype, register
from ..backends import choose
from ..recipes import opencv_taps
from . import eager

_library = torch.library.Library("dark_kernels", "FRAGMENT")

# A kernel size of 0 stands for no refinement, a sharpness (beta * sigma) of 0 for no visibility. What has a default
# came later: programs that were exported before have no such arguments.
_library.define(
    "decode_simcc(Tensor simcc_x, Tensor simcc_y, int kernel_size_x, int kernel_size_y, float sharpness_x, "
    "float sharpness_y, float split_ratio, bool mean_score, str backend, str activation='none', "
    "float logit_scale=1.0) "
    "-> (Tensor coords, Tensor scores, Tensor visibility)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _decode_simcc(
    simcc_x: Tensor,
    simcc_y: Tensor,
    kernel_size_x: int,
    kernel_size_y: int,
    sharpness_x: float,
    sharpness_y: float,
    split_ratio: float,
    mean_score: bool,
    backend: str,
    activation: str = "none",
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = arithmetic_dtype(simcc_x, simcc_y)
    serves = choose(backend, simcc_x.device.type, dtype).backend
    is_empty = simcc_x.shape[0] == 0 or simcc_x.shape[1] == 0
    taps_x, taps_y = (opencv_taps(size) if size else None for size in (kernel_size_x, kernel_size_y))
    options: tuple[Any, ...] = (taps_x, taps_y, sharpness_x, sharpness_y, split_ratio, mean_score)
    options = (*options, activation, logit_scale)
    if is_empty or serves == "triton":
        outputs = _empty_outputs(simcc_x, simcc_y, sharpness_x > 0)
        if not is_empty:
            from . import kernels  # Triton is imported when it first serves a call, not with the package

            kernels.decode_simcc_fwd(*outputs, simcc_x, simcc_y, *options)
        return outputs
    coords, scores, visibility = eager.decode_simcc_fwd(simcc_x, simcc_y, dtype, *options)
    return coords, scores, scores.new_empty(0) if visibility is None else visibility


def _empty_outputs(simcc_x: Tensor, simcc_y: Tensor, visibility: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised coords, scores and visibilities. The last has no element where none is asked for: the number of
    outputs of an operator is fixed."""
    batch, num_keypoints = simcc_x.shape[:2]
    dtype = arithmetic_dtype(simcc_x, simcc_y)
    return (
        simcc_x.new_empty((batch, num_keypoints, 2), dtype=dtype),
        simcc_x.new_empty((batch, num_keypoints), dtype=dtype),
        simcc_x.new_empty((batch, num_keypoints) if visibility else (0,), dtype=dtype),
    )


def _decode_simcc_fake(simcc_x: Tensor, simcc_y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(simcc_x, simcc_y, arguments[2] > 0)


_call_decode_simcc = register(_library, "decode_simcc", _decode_simcc, _decode_simcc_fake)

decode_simcc_operator = torch.ops.dark_kernels.decode_simcc.default


def decode_simcc_function(simcc_x: Tensor, simcc_y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Call the operator; visibilities that are not asked for are None."""
    coords, scores, visibility = _call_decode_simcc(simcc_x, simcc_y, *arguments)
    return coords, scores, visibility if arguments[2] > 0 else None
