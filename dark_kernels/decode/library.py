"""The contract with PyTorch: schema, fake implementation, and which backend serves which device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._common.operators import register, run_eagerly
from ..backends import choose
from ..recipes import OperatorRecipe, operator_schema
from . import eager
from .options import NO_EXTRAS, Extras, in_floats

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_library.define(
    f"decode(Tensor heatmaps, {operator_schema()}, bool covariance, str backend, "
    "Tensor? flipped=None, Tensor? flip_indices=None, bool shift_flipped=False, Tensor? keypoint_indices=None, "
    "Tensor? image_transform=None, Tensor? offsets=None, float offset_scale=0.0) "
    "-> (Tensor coords, Tensor scores, Tensor covariances)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def output_dtype(heatmaps: Tensor) -> torch.dtype:
    """float64 for float64 heatmaps, float32 for all others."""
    return torch.float64 if heatmaps.dtype == torch.float64 else torch.float32


def output_shape(heatmaps: Tensor, extras: Extras = NO_EXTRAS) -> tuple[int, int]:
    """[B, K]: a keypoint for every map, or for those that are chosen."""
    batch, num_channels = heatmaps.shape[:2]
    return batch, num_channels if extras.keypoint_indices is None else extras.keypoint_indices.shape[0]


def empty_outputs(heatmaps: Tensor, covariance: bool, extras: Extras = NO_EXTRAS) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised coords, scores and covariances. The last has no element where none is asked for: the
    number of outputs of an operator is fixed."""
    shape = output_shape(heatmaps, extras)
    dtype = output_dtype(heatmaps)
    return (
        heatmaps.new_empty((*shape, 2), dtype=dtype),
        heatmaps.new_empty(shape, dtype=dtype),
        heatmaps.new_empty((*shape, 2, 2) if covariance else (0,), dtype=dtype),
    )


def _has_loops(recipe: OperatorRecipe) -> bool:
    """Whether `compiled.py` does what the recipe says: logits and masses are eager's."""
    return recipe.activation == "none" and recipe.mass_radius == 0


def decode_directly(
    heatmaps: Tensor, recipe: OperatorRecipe, covariance: bool, backend: str, extras: Extras = NO_EXTRAS
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Calls the backend, skipping the dispatcher, which costs the host as much as the rest of a call.

    Only for calls that nothing traces, transforms or watches (`backends.is_plain`).
    """
    serves = choose(backend, heatmaps.device.type, heatmaps.dtype, _has_loops(recipe)).backend
    shape = heatmaps.shape[:2] if extras is NO_EXTRAS else output_shape(heatmaps, extras)
    if serves == "triton" and 0 not in shape:
        from . import kernels  # Triton is imported when it first serves a call, not with the package

        coords = heatmaps.new_empty((*shape, 2), dtype=torch.float32)
        scores = heatmaps.new_empty(shape, dtype=torch.float32)
        covariances = heatmaps.new_empty((*shape, 2, 2), dtype=torch.float32) if covariance else None
        third = scores if covariances is None else covariances
        heatmaps, extras = in_floats(heatmaps, extras)
        kernels.decode_fwd(coords, scores, third, heatmaps, recipe, covariance, extras)
        return coords, scores, covariances
    if 0 in shape:
        coords, scores, covariances = empty_outputs(heatmaps, covariance, extras)
        return coords, scores, covariances if covariance else None
    if serves == "numba":
        from . import compiled  # like Triton

        return compiled.decode_fwd(heatmaps, recipe, covariance, extras)
    return run_eagerly(eager.decode_fwd, heatmaps, recipe, covariance, extras)


def _split(arguments: tuple[Any, ...]) -> tuple[OperatorRecipe, bool, str, Extras]:
    """What an operator is called with besides heatmaps. Extras that are as by default may be left out at the end."""
    count = len(OperatorRecipe._fields)
    return OperatorRecipe(*arguments[:count]), *arguments[count : count + 2], Extras(*arguments[count + 2 :])


def _decode(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    coords, scores, covariances = decode_directly(heatmaps, *_split(arguments))
    return coords, scores, scores.new_empty(0) if covariances is None else covariances


def _decode_fake(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, covariance, _, extras = _split(arguments)
    return empty_outputs(heatmaps, covariance, extras)


register(_library, "decode", _decode, _decode_fake)
decode_operator = torch.ops.dark_kernels.decode.default
