"""DarkPose's `get_final_preds` (`lib/core/inference.py`, Zhang et al., CVPR 2020).

    # from core.inference import get_final_preds
    from dark_kernels.integrations.darkpose import get_final_preds

Needs neither DarkPose nor OpenCV.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import transforms
from ..decode import decode
from ..recipes import DARKPOSE
from ._recipes import with_kernel_size

__all__ = ["get_final_preds"]


def get_final_preds(config: Any, hm: Any, center: Any, scale: Any) -> tuple[Any, Any]:
    """Keypoints in the image, from heatmaps and the crops that these are of.

    The arguments and results of the function it is named after, for all heatmaps with a positive peak within 1e-4
    heatmap pixels (but for nearly flat ones, where rounding decides: docs/decoders.md). A map without one gives what is
    published as well: the upper left corner of the crop, (0, 0) in heatmap pixels. What differs: `hm` is not
    overwritten; a map with a NaN is such a map, and no NaN comes out; a map whose smoothed maximum is not positive is
    not rescaled (the published division by it gives NaN or another sign); and tensors are taken as well, on any device.

    Args:
        config: Its `config.TEST.BLUR_KERNEL` is the size of the blur, an odd number; yacs or anything with attributes.
        hm: Heatmaps [N, K, H, W], an array or a tensor of floats.
        center: [N, 2], (x, y) of the crops in image pixels: an array, a tensor or a list.
        scale: [N, 2], (width, height) of the crops in units of 200 pixels, or [N] for square ones, as `center`. The
            height is not used (as published).

    Returns:
        Keypoints [N, K, 2], (x, y) in image pixels, and scores [N, K, 1]. Arrays for an array: the keypoints float32,
        the scores of the dtype of `hm`. Tensors for a tensor: on its device, float32, or float64 for float64 maps.

    Raises:
        TypeError: `hm` holds no floats.
        ValueError: A shape does not fit, or the kernel size is even.
    """
    is_tensor = isinstance(hm, Tensor)
    if not is_tensor and np.asarray(hm).dtype.kind != "f":
        raise TypeError(f"hm: got {np.asarray(hm).dtype} numbers, expected an array or a tensor of floats")
    # Torch reads neither negative strides nor, without a warning, an array that can't be written.
    heatmaps = hm if is_tensor else torch.from_numpy(np.require(hm, requirements=["C", "W"]))
    recipe = with_kernel_size(DARKPOSE, config.TEST.BLUR_KERNEL)
    coords, scores, _ = decode(heatmaps, recipe)

    # On the host twice the digits cost nothing.
    dtype = torch.float64 if coords.device.type == "cpu" else coords.dtype
    num_crops, _, height, width = heatmaps.shape
    centers = _per_crop("center", center, num_crops, dtype, coords.device)
    scales = _per_crop("scale", scale, num_crops, dtype, coords.device)
    matrices = transforms.darkpose(centers, scales, (width, height))
    # Not decode's own image_transform, which leaves keypoints without a peak where they are.
    factors, translations = matrices.diagonal(dim1=1, dim2=2), matrices[..., 2]
    preds = torch.addcmul(translations[:, None], coords.to(dtype), factors[:, None]).to(coords.dtype)
    maxvals = scores[..., None]
    if is_tensor:
        return preds, maxvals
    return preds.float().numpy(), maxvals.to(heatmaps.dtype).numpy()


def _per_crop(name: str, value: Any, num_crops: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[N, 2] from what pipelines hold their centres and scales in."""
    tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
    if name == "scale" and tensor.dim() == 1:
        tensor = tensor[:, None].expand(-1, 2)
    if tensor.shape != (num_crops, 2):
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected [{num_crops}, 2], one for each of the maps")
    return tensor.to(device, dtype)
