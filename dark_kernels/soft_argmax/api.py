"""soft_argmax(): what users call."""

from __future__ import annotations

from typing import Any, overload

from numpy.typing import NDArray
from torch import Tensor

from .._common import checks
from .._common.inputs import is_batch, take
from .._common.plans import planned
from ..backends import Backend, check_backend
from .library import soft_argmax_function
from .reference import soft_argmax_reference


@overload
def soft_argmax(heatmaps: Tensor, beta: float = ..., backend: Backend = ...) -> Tensor: ...
@overload
def soft_argmax(heatmaps: NDArray[Any], beta: float = ..., backend: Backend = ...) -> NDArray[Any]: ...
@planned
def soft_argmax(
    heatmaps: Tensor | NDArray[Any],  # [B, K, H, W]
    beta: float = 1.0,
    backend: Backend = "auto",
) -> Tensor | NDArray[Any]:
    """Average the pixel coordinates of each map under softmax(beta * map), with a gradient.

    Sun et al., "Integral Human Pose Regression", ECCV 2018, eq. 2. With p the softmax over all pixels of a map and m
    the mean position under it,

        m = sum_i p_i (x_i, y_i),   d m / d map_i = beta p_i ((x_i, y_i) - m)

    On CUDA, ROCm and XPU the forward pass is one launch that reads each element once, and the backward pass another,
    which reads each element and writes its gradient. The backward pass keeps the maps and four numbers of each, and no
    softmax. Two runs agree bit for bit.

    The softmax is over the whole map, so pixels far from the peak count. A small beta draws the mean to the centre of
    the map, and so does a large map whose background is not far below the peak.

    Maps without a NaN give none. A pixel of -inf has probability 0 and gradient 0. Of a map whose largest value
    is +inf all such pixels have the same probability, of one that is -inf everywhere all pixels; either has gradient 0.
    A map that holds a NaN gives NaN, and a gradient of NaN.

    Args:
        heatmaps: [B, K, H, W], [K, H, W] or [H, W], float16, bfloat16, float32 or float64, any strides; the result
            lacks the same dimensions. Arithmetic is float32, in float64 for float64: float16 does not overflow. NumPy
            arrays (the result is one), uint8, int8, int16 and uint16 are taken as in `decode`, without a gradient.
        beta: Inverse temperature, positive. To learn it, multiply the maps by it before the call.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised PyTorch on
            any device) or `"reference"` (the definition, which has all derivatives). float64 is served by eager where
            Triton is asked for.

    Returns:
        [B, K, 2], (x, y) in heatmap pixels with pixel centres at integers; float32, or float64 for float64 maps. The
        gradient has the dtype of the maps. Empty for B = 0 or K = 0.

    Raises:
        TypeError: `heatmaps` is not dense or not of one of the dtypes above, or `beta` not a number.
        ValueError: `heatmaps` has another rank or an empty H or W, `beta` is not positive, or `backend` is unknown or
            cannot serve this tensor.
        RuntimeError: A second derivative is asked for (take `backend="reference"`).

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(8, 17, 64, 48, requires_grad=True)
        >>> coords = dark_kernels.soft_argmax(heatmaps, beta=10.0)
        >>> coords.square().mean().backward()
        >>> coords.shape, heatmaps.grad.shape
        (torch.Size([8, 17, 2]), torch.Size([8, 17, 64, 48]))
    """
    if not is_batch(heatmaps, 4):
        given = take("heatmaps", heatmaps, 4, "[B, K, H, W], [K, H, W] or [H, W]", least=2)
        return given.give_back(soft_argmax(given.tensor, beta, backend))
    checks.check_maps(heatmaps)
    checks.check_positive("beta", beta)
    check_backend(backend)
    heatmaps = checks.to_float(heatmaps)
    if backend == "reference":
        return soft_argmax_reference(heatmaps, beta)
    return soft_argmax_function(heatmaps, float(beta), backend)
