"""encode(): what users call."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._common.checks import DTYPES, ENCODINGS, check_devices, check_keypoints, check_name, check_sigma, to_float
from .._common.inputs import take, to_tensor
from .._common.names import Encoding
from .._common.plans import planned
from ..backends import Backend, check_backend
from .library import call_encode
from .reference import encode_reference


@overload
def encode(
    keypoints: Tensor,
    size: tuple[int, int],
    sigma: float | Tensor | NDArray[Any] = ...,
    encoding: Encoding = ...,
    visible: Tensor | NDArray[Any] | None = ...,
    dtype: torch.dtype = ...,
    backend: Backend = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def encode(
    keypoints: NDArray[Any],
    size: tuple[int, int],
    sigma: float | Tensor | NDArray[Any] = ...,
    encoding: Encoding = ...,
    visible: Tensor | NDArray[Any] | None = ...,
    dtype: torch.dtype = ...,
    backend: Backend = ...,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@planned
def encode(
    keypoints: Tensor | NDArray[Any],  # [B, K, 2] or [B, N, K, 2]
    size: tuple[int, int],
    sigma: float | Tensor | NDArray[Any] = 2.0,  # a number or [K]
    encoding: Encoding = "unbiased",
    visible: Tensor | NDArray[Any] | None = None,  # [B, K] or [B, N, K]
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[NDArray[Any], NDArray[Any]]:
    """Draw keypoints as Gaussian heatmaps: the training targets of the published heatmap networks.

    With d the distance of a pixel from the centre, its value is exp(-d.d / (2 sigma^2)). `encoding` says where the
    centre is and which pixels have a value. With m = trunc(keypoint + 0.5), the keypoint's pixel:

    - `"unbiased"` (DARK: Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR
      2020): around the keypoint, on the whole map
    - `"biased"` (MSRA: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018): around m,
      where the value is exactly 1, in a window of 3 sigma to each side of m
    - `"udp"` (Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose
      Estimation", CVPR 2020): around the keypoint, in that window

    Windows reach from trunc(m - 3 sigma) up to, and without, trunc(m + 3 sigma + 1), and are cut at the border, as in
    the published code. (Where 3 sigma is no integer, that code can draw the whole blob a pixel beside the keypoint;
    this one does not.) On CUDA, ROCm and XPU this is one launch that writes each element once.

    A keypoint is not drawn, and its weight is 0, if its visibility is below 0.5, a coordinate is NaN or infinite, or
    its window (keypoint - 3 sigma to keypoint + 3 sigma + 1 for `"unbiased"`) is outside the map. As in the published
    code, a window that ends where the map begins is not outside: its map is zero and its weight is not.

    For training use `heatmap_mse` and its siblings, which need no target maps. The inverse of `encode` is `decode`:
    keypoints in the interior come back from `"unbiased"` maps to within 1e-3 pixels.

    Args:
        keypoints: [B, K, 2], or [B, N, K, 2] for N people in an image, or [K, 2] (results have no batch), (x, y) in
            heatmap pixels, with pixel centres at integers; a tensor or a NumPy array (results are arrays) of a floating
            dtype. From input pixels: x / (input / heatmap) for `"biased"` and `"unbiased"`,
            x / ((input - 1) / (heatmap - 1)) for `"udp"`. A constant: no gradient flows to it.
        size: (H, W).
        sigma: Standard deviation in heatmap pixels, positive, or [K] of them; a keypoint whose element is not positive
            is not drawn. Published: 2 at an input of 256 x 192, 3 at 384 x 288.
        encoding: `"unbiased"`, `"biased"` or `"udp"`.
        visible: [B, K], [B, N, K] or [K], like `keypoints`; any dtype. COCO's flags 0, 1, 2 will do.
        dtype: Dtype of the heatmaps. Arithmetic is float32, or float64 for float64.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised PyTorch on
            any device) or `"reference"` (the definition). float64 is served by eager where Triton is asked for.

    Returns:
        Heatmaps [B, K, H, W], of several people the largest value, and weights [B, K]: the visibility, at most 1, of
        several people the largest; 0 where nothing is drawn. Weights are float32, float64 for float64.

    Raises:
        TypeError: An argument is not a dense tensor of a floating dtype, or not a number.
        ValueError: A shape does not fit, tensors are on several devices, a tensor requires grad, a number is out of
            range, or a name is unknown.

    Example:
        >>> import torch, dark_kernels
        >>> keypoints = torch.rand(8, 17, 2) * 40
        >>> heatmaps, weight = dark_kernels.encode(keypoints, size=(64, 48))
        >>> heatmaps.shape, weight.shape
        (torch.Size([8, 17, 64, 48]), torch.Size([8, 17]))
    """
    if not isinstance(keypoints, Tensor) or keypoints.dim() == 2:
        dim = max(3, getattr(keypoints, "ndim", 3))
        given = take("keypoints", keypoints, min(dim, 4), "[B, N, K, 2], [B, K, 2] or [K, 2]", least=2)
        visible = given.also("visible", visible, 2)
        return given.give_back(encode(given.tensor, size, sigma, encoding, visible, dtype, backend))
    visible = None if visible is None else to_tensor("visible", visible)
    sigma = to_tensor("sigma", sigma) if isinstance(sigma, np.ndarray) else sigma
    check_keypoints(keypoints, visible)
    check_sigma(sigma, keypoints.shape[-2])
    _check_size(size)
    check_name("encoding", encoding, ENCODINGS)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: got {dtype!r}, expected one of {', '.join(map(str, DTYPES))}")
    check_backend(backend)
    sigmas = sigma if isinstance(sigma, Tensor) else None
    check_devices(keypoints=keypoints, visible=visible, sigma=sigmas)
    if backend == "reference":
        return encode_reference(keypoints, size, sigma, encoding, visible, dtype)
    if keypoints.dim() == 3:  # one person in each image
        keypoints, visible = keypoints[:, None], None if visible is None else visible[:, None]
    number = 0.0 if isinstance(sigma, Tensor) else float(sigma)
    return call_encode(keypoints, to_float(visible), sigmas, number, *size, encoding, dtype, backend)


def _check_size(size: tuple[int, int]) -> None:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size: got {size!r}, expected (H, W)")
    for side in size:
        if isinstance(side, bool) or not isinstance(side, (int, torch.SymInt)):
            raise TypeError(f"size: got {size!r}, expected (H, W), two integers")
        if side < 1:
            raise ValueError(f"size: got {tuple(size)}, expected H >= 1 and W >= 1")
