"""decode(): what users call."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import check_backend, is_plain
from ..recipes import DARKPOSE, Recipe
from ..types import Keypoints
from .library import decode_directly, decode_operator
from .reference import decode_reference

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def decode(
    heatmaps: Tensor,  # [B, K, H, W]
    recipe: Recipe = DARKPOSE,
    covariance: bool = False,
    backend: str = "auto",
) -> Keypoints:
    """Turn heatmaps into keypoints with sub-pixel coordinates.

    For each map: find the first maximum in row-major order, smooth the map around it, and take one Newton
    step towards the maximum of the log of the smoothed map (DARK: Zhang et al., "Distribution-Aware
    Coordinate Representation for Human Pose Estimation", CVPR 2020, eq. 4 to 12), or what else the recipe
    says. On CUDA, ROCm and XPU this is one launch that reads each element once; channels_last maps take two.

    A map whose peak is not positive, or which holds a NaN, has no keypoint: both coordinates are
    `recipe.invalid`, and the score is the raw peak. A peak of +inf stays on its pixel, and so does a peak
    whose step is not finite. Coordinates are finite unless `recipe.invalid` is not.

    The result does not depend on `heatmaps` in a differentiable way, as with `argmax`: a tensor that
    requires grad is accepted and the outputs carry no gradient. The input is never written to.

    Args:
        heatmaps: [B, K, H, W], float16, bfloat16, float32 or float64, any strides (channels_last, slices
            and expanded tensors are read where they are). Arithmetic is float32, in float64 for float64.
        recipe: Which decoder, a row of `dark_kernels.recipes` or a `Recipe` of your own.
        covariance: Also return the covariance of each keypoint: minus the inverse Hessian of the log of
            the smoothed map at the peak, less what the blur added (and less `recipe.target_sigma`
            squared, if given). NaN where the peak is invalid, was not refined, or is not a maximum with a
            positive semi-definite rest.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition: whole maps, slow). float64 is served by
            eager where Triton is asked for.

    Returns:
        Keypoints: `coords` [B, K, 2] as (x, y) in heatmap pixels with pixel centres at integers, `scores`
        [B, K], and `covariances` [B, K, 2, 2] in squared heatmap pixels or None; float32, or float64 for
        float64 heatmaps. Empty for B = 0 or K = 0.

    Raises:
        TypeError: `heatmaps` is not a dense tensor of one of the dtypes above, or `recipe` not a Recipe.
        ValueError: `heatmaps` has another rank or an empty H or W; `backend` is unknown or cannot serve
            this tensor; `covariance` is asked of a recipe whose stencil has no Hessian.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(8, 17, 64, 48)
        >>> keypoints = dark_kernels.decode(heatmaps)
        >>> keypoints.coords.shape
        torch.Size([8, 17, 2])
    """
    _check(heatmaps, recipe, covariance, backend)
    if heatmaps.requires_grad:
        heatmaps = heatmaps.detach()
    if backend == "reference":
        return Keypoints(*decode_reference(heatmaps, recipe, covariance))
    arguments = recipe.operator_arguments
    if is_plain(heatmaps):
        return Keypoints(*decode_directly(heatmaps, *arguments, covariance, backend))
    coords, scores, covariances = decode_operator(heatmaps, *arguments, covariance, backend)
    return Keypoints(coords, scores, covariances if covariance else None)


def _check(heatmaps: Tensor, recipe: Recipe, covariance: bool, backend: str) -> None:
    if not isinstance(heatmaps, Tensor):
        kind = f"{type(heatmaps).__module__}.{type(heatmaps).__name__}"
        hint = "; convert it with torch.from_numpy(heatmaps)" if kind == "numpy.ndarray" else ""
        raise TypeError(f"heatmaps: got {kind}, expected a torch.Tensor{hint}")
    if heatmaps.layout != torch.strided or heatmaps.is_quantized or heatmaps.is_nested:
        kind, conversion = "a sparse", "to_dense"
        if heatmaps.is_quantized:
            kind, conversion = "a quantized", "dequantize"
        elif heatmaps.is_nested:
            kind, conversion = "a nested", "to_padded_tensor"
        elif heatmaps.is_mkldnn:
            kind = "an mkldnn"
        raise TypeError(
            f"heatmaps: got {kind} tensor ({heatmaps.layout}, {heatmaps.dtype}), expected a dense one; "
            f"convert it with heatmaps.{conversion}()"
        )
    if heatmaps.dtype not in _DTYPES:
        raise TypeError(f"heatmaps: got {heatmaps.dtype}, expected one of {', '.join(str(dtype) for dtype in _DTYPES)}")
    if heatmaps.dim() != 4:
        raise ValueError(
            f"heatmaps: got shape {list(heatmaps.shape)}, expected 4 dimensions [B, K, H, W]"
            + ("; add a batch dimension with heatmaps[None]" if heatmaps.dim() == 3 else "")
        )
    if heatmaps.shape[2] == 0 or heatmaps.shape[3] == 0:
        raise ValueError(f"heatmaps: got shape {list(heatmaps.shape)}, expected H >= 1 and W >= 1")
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe: got {type(recipe).__name__} {recipe!r}, expected a dark_kernels.Recipe such as "
            "dark_kernels.recipes.DARKPOSE"
        )
    check_backend(backend)
    if not isinstance(covariance, bool):
        raise TypeError(f"covariance: got {covariance!r}, expected True or False")
    if covariance and not recipe.has_hessian:
        raise ValueError(
            f"covariance: got True with recipe {recipe.name!r}, whose stencil {recipe.stencil!r} has no "
            "Hessian; expected stencil 'wide' or 'compact'"
        )
