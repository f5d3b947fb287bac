"""From heatmap pixels to the image: the affine matrices of published pipelines.

A top-down pose network sees a crop: the part of the image around `center` that is `scale` wide and high, resized to the
network's input. Each function here gives, for a batch of crops, the [B, 2, 3] matrices that take keypoints from the
heatmap back to the image, (x', y') = A @ (x, y, 1), as one published pipeline does it: `decode(...,
image_transform=matrices)`. The pipelines differ by up to a heatmap pixel, so the one that made the crops is the one to
take.

| function | x' | used by |
|---|---|---|
| `darkpose` | (x - (W-1)/2) f + center_x with f = (200 scale_x - 1) / (W-1) on both axes | DarkPose |
| `mmpose_legacy` | 200 scale_x x / W + center_x - 100 scale_x | HRNet-style code, mmpose 0.x |
| `mmpose_legacy(use_udp=True)` | the same with W - 1 for W | mmpose 0.x with UDP, ViTPose, transformers' VitPose |
| `mmpose` | scale_x x / W + center_x - scale_x / 2 | mmpose 1.x: MSRAHeatmap, MegviiHeatmap, SimCCLabel |
| `mmpose(use_udp=True)` | the same with W - 1 for W | mmpose 1.x: UDPHeatmap; transformers' Sapiens2 |

mmpose 1.x goes by way of the network's input, whose size drops out of the product. For coordinates that are in input
pixels already (SimCC, or what a codec returned) the same formula holds with the input size in place of the heatmap's:
`mmpose(center, scale, input_size)`.

Centres, scales and boxes are tensors, NumPy arrays (results are arrays) or lists of numbers, of a batch of crops or
of one (results have no batch). Integers in arrays and lists become float32. Nothing here waits for a device;
gradients flow to centres and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from ._common.checks import check_devices, check_name, check_positive, check_tensor
from ._common.inputs import is_batch, take, to_numbers
from ._common.names import BoxFormat, Numbers

__all__ = ["center_scale_from_boxes", "darkpose", "mmpose", "mmpose_legacy"]

BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
# Image pixels in one unit of `scale`, by HRNet's convention.
PIXELS_PER_SCALE = 200.0


@overload
def darkpose(center: Tensor | Sequence[Any], scale: Numbers, heatmap_size: tuple[int, int]) -> Tensor: ...
@overload
def darkpose(center: NDArray[Any], scale: Numbers, heatmap_size: tuple[int, int]) -> NDArray[Any]: ...
def darkpose(
    center: Numbers,  # [B, 2]
    scale: Numbers,  # [B, 2] in 200 image pixels
    heatmap_size: tuple[int, int],  # (W, H)
) -> Tensor | NDArray[Any]:
    """DarkPose's `get_affine_transform`: pixel centres to pixel centres, one factor for both axes, from the width.

    Args:
        center: [B, 2], (x, y) of the crop's centre in image pixels, float16 to float64.
        scale: [B, 2], (width, height) of the crop in units of 200 image pixels. The height is not used.
        heatmap_size: (W, H) of the heatmaps, W at least 2.

    Returns:
        [B, 2, 3], heatmap pixels to image pixels, of the dtype and on the device of `center`.

    Raises:
        TypeError, ValueError: An argument has another type, dtype, shape or device, or a size is too small.

    Example:
        >>> import torch
        >>> from dark_kernels import transforms
        >>> transforms.darkpose(torch.tensor([[100.0, 120.0]]), torch.tensor([[1.0, 1.5]]), (48, 64))
        tensor([[[  4.2340,   0.0000,   0.5000],
                 [  0.0000,   4.2340, -13.3723]]])
    """
    if not (is_batch(center, 2) and is_batch(scale, 2)):
        return _of_crops(darkpose, center, scale, heatmap_size)
    width, height = _check(center, scale, heatmap_size, least=2)
    factor = (PIXELS_PER_SCALE * scale[:, :1] - 1.0) / (width - 1)
    return _matrices(factor.expand(-1, 2), center, middle=((width - 1) / 2, (height - 1) / 2))


@overload
def mmpose_legacy(
    center: Tensor | Sequence[Any], scale: Numbers, heatmap_size: tuple[int, int], use_udp: bool = ...
) -> Tensor: ...
@overload
def mmpose_legacy(
    center: NDArray[Any], scale: Numbers, heatmap_size: tuple[int, int], use_udp: bool = ...
) -> NDArray[Any]: ...
def mmpose_legacy(
    center: Numbers,  # [B, 2]
    scale: Numbers,  # [B, 2] in 200 image pixels
    heatmap_size: tuple[int, int],  # (W, H)
    use_udp: bool = False,
) -> Tensor | NDArray[Any]:
    """`transform_preds` of mmpose 0.x, ViTPose and transformers' VitPose.

    Args:
        center: [B, 2], (x, y) of the crop's centre in image pixels, float16 to float64.
        scale: [B, 2], (width, height) of the crop in units of 200 image pixels.
        heatmap_size: (W, H) of the heatmaps.
        use_udp: The crop spans W - 1 pixels from the first pixel's centre to the last one's (UDP, Huang et al., CVPR
            2020), and not W. Then W and H are at least 2.

    Returns:
        [B, 2, 3], heatmap pixels to image pixels, of the dtype and on the device of `center`.

    Raises:
        TypeError, ValueError: An argument has another type, dtype, shape or device, or a size is too small.
    """
    if not (is_batch(center, 2) and is_batch(scale, 2)):
        return _of_crops(mmpose_legacy, center, scale, heatmap_size, use_udp)
    _check(center, scale, heatmap_size, least=2 if use_udp else 1)
    return mmpose(center, PIXELS_PER_SCALE * scale, heatmap_size, use_udp)


@overload
def mmpose(
    center: Tensor | Sequence[Any], scale: Numbers, heatmap_size: tuple[int, int], use_udp: bool = ...
) -> Tensor: ...
@overload
def mmpose(
    center: NDArray[Any], scale: Numbers, heatmap_size: tuple[int, int], use_udp: bool = ...
) -> NDArray[Any]: ...
def mmpose(
    center: Numbers,  # [B, 2]
    scale: Numbers,  # [B, 2] in image pixels
    heatmap_size: tuple[int, int],  # (W, H)
    use_udp: bool = False,
) -> Tensor | NDArray[Any]:
    """mmpose 1.x: a codec's way from the heatmap to the network's input, and from there to the image.

    Args:
        center: [B, 2], (x, y) of the crop's centre in image pixels (`input_center` of a data sample), float16 to
            float64.
        scale: [B, 2], (width, height) of the crop in image pixels (`input_scale`).
        heatmap_size: (W, H) of the heatmaps; of the network's input for coordinates that are in input pixels.
        use_udp: As UDPHeatmap does it: the crop spans W - 1 pixels, and not W. Then W and H are at least 2.

    Returns:
        [B, 2, 3], heatmap pixels to image pixels, of the dtype and on the device of `center`.

    Raises:
        TypeError, ValueError: An argument has another type, dtype, shape or device, or a size is too small.
    """
    if not (is_batch(center, 2) and is_batch(scale, 2)):
        return _of_crops(mmpose, center, scale, heatmap_size, use_udp)
    width, height = _check(center, scale, heatmap_size, least=2 if use_udp else 1)
    spans = (width - 1, height - 1) if use_udp else (width, height)
    factors = torch.stack([scale[:, axis] / span for axis, span in enumerate(spans)], dim=-1)
    return _matrices(factors, center, middle=(spans[0] / 2, spans[1] / 2))


@overload
def center_scale_from_boxes(
    boxes: Tensor | Sequence[Any],
    input_size: tuple[int, int],
    box_format: BoxFormat = ...,
    padding: float = ...,
    unit: float = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def center_scale_from_boxes(
    boxes: NDArray[Any],
    input_size: tuple[int, int],
    box_format: BoxFormat = ...,
    padding: float = ...,
    unit: float = ...,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def center_scale_from_boxes(
    boxes: Numbers,  # [B, 4]
    input_size: tuple[int, int],  # (width, height)
    box_format: BoxFormat = "xywh",
    padding: float = 1.25,
    unit: float = 1.0,
) -> tuple[Tensor, Tensor] | tuple[NDArray[Any], NDArray[Any]]:
    """The crops that top-down pipelines take for boxes: padded, and widened to the aspect ratio of the network's input.

    As mmpose (`GetBBoxCenterScale` and `TopdownAffine`) and transformers (VitPose, Sapiens2) do it.

    Args:
        boxes: [B, 4] in image pixels, float16 to float64.
        input_size: (width, height) of the network's input, or anything of its aspect ratio.
        box_format: `"xywh"` (left, top, width, height; COCO's) or `"xyxy"` (left, top, right, bottom).
        padding: Size of the crop in sizes of the box.
        unit: Image pixels in one unit of the scale: 1 for `mmpose`, 200 for `darkpose` and `mmpose_legacy`.

    Returns:
        Centres [B, 2] in image pixels and scales [B, 2], (width, height) in units of `unit` pixels.

    Raises:
        TypeError, ValueError: An argument has another type, dtype or shape, or is not positive.

    Example:
        >>> import torch
        >>> from dark_kernels import transforms
        >>> boxes = torch.tensor([[100.0, 100.0, 50.0, 80.0]])
        >>> transforms.center_scale_from_boxes(boxes, (192, 256))
        (tensor([[125., 140.]]), tensor([[ 75., 100.]]))
    """
    if not is_batch(boxes, 2):
        given = take("boxes", boxes, 2, "[B, 4] or [4]", least=1, lists=True)
        return given.give_back(center_scale_from_boxes(given.tensor, input_size, box_format, padding, unit))
    check_tensor("boxes", boxes, 2, "[B, 4]")
    if boxes.shape[1] != 4:
        raise ValueError(f"boxes: got shape {list(boxes.shape)}, expected [B, 4], a box for each crop")
    width, height = _check_size("input_size", input_size, least=1)
    check_name("box_format", box_format, BOX_FORMATS)
    check_positive("padding", padding)
    check_positive("unit", unit)
    corner, other = boxes[:, :2], boxes[:, 2:]
    size = other if box_format == "xywh" else other - corner
    aspect_ratio = width / height
    box_width, box_height = size.unbind(-1)
    crop = torch.stack(
        [torch.maximum(box_width, box_height * aspect_ratio), torch.maximum(box_height, box_width / aspect_ratio)],
        dim=-1,
    )
    return corner + size / 2, crop * (padding / unit)


def _of_crops(function: Callable[..., Any], center: Any, scale: Any, *options: Any) -> Any:
    """Matrices as the centres have it: of arrays, of lists, of a single crop."""
    given = take("center", center, 2, "[B, 2] or [2]", least=1, lists=True)
    if not isinstance(scale, Tensor):
        scale = to_numbers("scale", scale, given.tensor).to(given.tensor.dtype)
    scale = given.also("scale", scale, 2)
    check_tensor("scale", scale, 2, "[B, 2]")
    return given.give_back(function(given.tensor, scale, *options))


def _matrices(
    factors: Tensor,  # [B, 2]
    center: Tensor,  # [B, 2]
    middle: tuple[float, float],
) -> Tensor:
    """[B, 2, 3] that scale by `factors` and take `middle` of the heatmap to `center`."""
    translation = center - torch.stack([factors[:, axis] * middle[axis] for axis in (0, 1)], dim=-1)
    return torch.cat([torch.diag_embed(factors), translation[..., None]], dim=-1)


def _check(center: Tensor, scale: Tensor, heatmap_size: tuple[int, int], least: int) -> tuple[int, int]:
    for name, tensor in (("center", center), ("scale", scale)):
        check_tensor(name, tensor, 2, "[B, 2]")
        if tensor.shape[1] != 2:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected [B, 2], x and y of every crop")
    if scale.shape != center.shape:
        raise ValueError(f"scale: got shape {list(scale.shape)}, expected {list(center.shape)}, as center")
    if scale.dtype != center.dtype:
        raise TypeError(f"scale: got {scale.dtype}, expected {center.dtype}, as center")
    check_devices(center=center, scale=scale)
    return _check_size("heatmap_size", heatmap_size, least)


def _check_size(name: str, size: tuple[int, int], least: int) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"{name}: got {size!r}, expected (width, height)")
    width, height = size
    for value in (width, height):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: got {size!r}, expected two integers (width, height)")
        if value < least:
            raise ValueError(f"{name}: got {size!r}, expected at least {least} pixel{'s' * (least > 1)} on each axis")
    return width, height
