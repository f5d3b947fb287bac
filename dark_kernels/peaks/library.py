"""The contract with PyTorch: schema, fake implementation, and which backend serves which device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._common.operators import arithmetic_dtype, register, run_eagerly
from ..backends import choose
from ..recipes import OperatorRecipe, operator_schema
from . import eager
from .options import Rule

_library = torch.library.Library("dark_kernels", "FRAGMENT")

_library.define(
    f"find_peaks(Tensor heatmaps, int max_peaks, float threshold, int window, str plateau, {operator_schema()}, "
    "bool covariance, str backend) "
    "-> (Tensor coords, Tensor scores, Tensor counts, Tensor covariances)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def empty_outputs(heatmaps: Tensor, max_peaks: int, covariance: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised coords, scores, counts and covariances. The last has no element where none is asked for: the
    number of outputs of an operator is fixed."""
    shape = heatmaps.shape[:2]
    dtype = arithmetic_dtype(heatmaps)
    return (
        heatmaps.new_empty((*shape, max_peaks, 2), dtype=dtype),
        heatmaps.new_empty((*shape, max_peaks), dtype=dtype),
        heatmaps.new_empty(shape, dtype=torch.int64),
        heatmaps.new_empty((*shape, max_peaks, 2, 2) if covariance else (0,), dtype=dtype),
    )


def find_peaks_directly(
    heatmaps: Tensor, rule: Rule, recipe: OperatorRecipe, covariance: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Calls the backend, skipping the dispatcher: see `decode_directly`."""
    serves = choose(backend, heatmaps.device.type, heatmaps.dtype).backend
    if serves == "triton" or 0 in heatmaps.shape:
        coords, scores, counts, covariances = empty_outputs(heatmaps, rule.max_peaks, covariance)
        if 0 not in heatmaps.shape:
            from . import kernels  # Triton is imported when it first serves a call, not with the package

            fourth = covariances if covariance else scores
            kernels.find_peaks_fwd(coords, scores, counts, fourth, heatmaps, rule, recipe, covariance)
        return coords, scores, counts, covariances if covariance else None
    found: tuple[Tensor, Tensor, Tensor, Tensor | None] = run_eagerly(
        eager.find_peaks_fwd, heatmaps, rule, recipe, covariance
    )
    return found


def _find_peaks(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *numbers, covariance, backend = arguments
    rule, recipe = Rule(*numbers[: len(Rule._fields)]), OperatorRecipe(*numbers[len(Rule._fields) :])
    coords, scores, counts, covariances = find_peaks_directly(heatmaps, rule, recipe, covariance, backend)
    return coords, scores, counts, scores.new_empty(0) if covariances is None else covariances


def _find_peaks_fake(heatmaps: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return empty_outputs(heatmaps, arguments[0], arguments[-2])


register(_library, "find_peaks", _find_peaks, _find_peaks_fake)
find_peaks_operator = torch.ops.dark_kernels.find_peaks.default
