"""`post_process_pose_estimation` of the image processors of Hugging Face transformers: VitPose and Sapiens2.

    # results = processor.post_process_pose_estimation(outputs, boxes)
    from dark_kernels.integrations.transformers import post_process_pose_estimation
    results = post_process_pose_estimation(processor, outputs, boxes)

Of the processor only its `size` is read, so this needs no version of transformers in particular, and imports none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import transforms
from ..decode import decode
from ..recipes import SAPIENS_HF, VITPOSE_HF, Recipe
from ._recipes import with_kernel_size

__all__ = ["post_process_pose_estimation", "post_process_sapiens2", "post_process_vitpose"]

Pose = dict[str, Tensor]


def post_process_pose_estimation(
    processor: Any, outputs: Any, boxes: Any, *args: Any, **kwargs: Any
) -> list[list[Pose]]:
    """Same arguments and result as `processor.post_process_pose_estimation(outputs, boxes, ...)`.

    Args:
        processor: The image processor that made the crops. A Sapiens2ImageProcessor is served by
            `post_process_sapiens2`, any other, VitPoseImageProcessor above all, by `post_process_vitpose`.
        outputs: What the model returned: `outputs.heatmaps` [N, K, H, W], on any device.
        boxes: For each image, its boxes.
        *args, **kwargs: The further arguments of the processor's own method, in its own order, as those functions
            document them: `kernel_size`, `threshold` and `target_sizes`, for Sapiens2 also `outputs_flipped` and
            `source_sizes`.

    Returns:
        For each image, for each of its boxes, a dict with `keypoints` [K, 2], `scores` [K], `labels` [K] and `bbox`
        [4].

    Raises:
        TypeError, ValueError: As those functions.
    """
    is_sapiens = any(kind.__name__ == "Sapiens2ImageProcessor" for kind in type(processor).__mro__)
    post_process = post_process_sapiens2 if is_sapiens else post_process_vitpose
    return post_process(processor, outputs, boxes, *args, **kwargs)


def post_process_vitpose(
    processor: Any,
    outputs: Any,
    boxes: Any,
    kernel_size: int = 11,
    threshold: float | None = None,
    target_sizes: Any = None,
) -> list[list[Pose]]:
    """`VitPoseImageProcessor.post_process_pose_estimation`.

    Equal to it to within 1e-4 heatmap pixels where the score is positive and the map is not nearly flat
    (docs/decoders.md), but for these, where the published function is wrong: with one keypoint (K = 1) several boxes
    are served, where it raises, and `scores` stays [1]; batches of more than 2^24 padded heatmap pixels are read at the
    right places; and `target_sizes` are (height, width), as its documentation says, where its code swaps them.
    Keypoints without a positive score, for which it returns what the neighbouring map holds, are at (-1, -1). `bbox` is
    what is published: the centre of the crop, and the centre plus the crop's size in units of 200 pixels less 1, which
    is not the box.

    Args:
        processor: Its `size["width"]` and `size["height"]` give the aspect ratio of the crops.
        outputs: `outputs.heatmaps` [N, K, H, W], of any floating dtype, on any device.
        boxes: For each image, its boxes (left, top, width, height) in image pixels, N in all; as shares of the image if
            `target_sizes` are given.
        kernel_size: Of the blur; the number below an even one.
        threshold: Keypoints with this score or a lower one are left out.
        target_sizes: (height, width) of each image, or of the image of each box.

    Returns:
        For each image, for each of its boxes, a dict with `keypoints` [K, 2] in image pixels, `scores` [K], `labels`
        [K] (which keypoints they are) and `bbox` [4], all on the CPU.

    Raises:
        TypeError: `processor` has no size, `outputs.heatmaps` is no tensor of floats, or `boxes` are no lists.
        ValueError: The boxes or sizes do not fit the heatmaps.
    """
    heatmaps = _heatmaps_of(processor, outputs)
    per_image, flat_boxes = _flatten(boxes, heatmaps)
    if target_sizes is not None:
        sizes = _rows(target_sizes, 2, "target_sizes", "(height, width)")
        if len(sizes) == len(per_image):  # else one for each box, as the published check has it
            sizes = sizes.repeat_interleave(torch.tensor(per_image, dtype=torch.int64, device="cpu"), dim=0)
        if len(sizes) != len(flat_boxes):
            raise ValueError(
                f"target_sizes: got {len(sizes)}, expected {len(per_image)}, one for each image, or {len(flat_boxes)}, "
                "one for each box"
            )
        flat_boxes = flat_boxes * sizes.flip(-1).repeat(1, 2)

    center, scale = transforms.center_scale_from_boxes(flat_boxes, _size(processor), unit=transforms.PIXELS_PER_SCALE)
    matrices = transforms.mmpose_legacy(center, scale, _heatmap_size(heatmaps), use_udp=True)
    recipe = with_kernel_size(VITPOSE_HF, 2 * ((kernel_size - 1) // 2) + 1)
    coords, scores = _decode(heatmaps, recipe, matrices)
    bboxes = torch.cat([center, center + scale - 1], dim=1).float()
    return _by_image(coords.cpu(), scores.cpu(), bboxes, per_image, threshold)


def post_process_sapiens2(
    processor: Any,
    outputs: Any,
    boxes: Any,
    outputs_flipped: Any = None,
    kernel_size: int = 11,
    threshold: float | None = None,
    source_sizes: Any = None,
    target_sizes: Any = None,
) -> list[list[Pose]]:
    """`Sapiens2ImageProcessor.post_process_pose_estimation`.

    Equal to it to within 1e-4 heatmap pixels where the score is positive and the map is not nearly flat
    (docs/decoders.md). Keypoints without a positive score, for which the published function returns what the
    neighbouring map holds, are at (-1, -1).

    Args:
        processor: Its `size["width"]` and `size["height"]` give the aspect ratio of the crops.
        outputs: `outputs.heatmaps` [N, K, H, W], of any floating dtype, on any device.
        boxes: For each image, its boxes (left, top, width, height) in image pixels, N in all.
        outputs_flipped: The model's outputs for the mirrored crops, mirrored back by the model (its `flip_pairs`);
            both are averaged.
        kernel_size: Of the blur, an odd number.
        threshold: Keypoints with this score or a lower one are left out.
        source_sizes: (height, width) of each image, needed with `target_sizes`.
        target_sizes: (height, width) of each image to which keypoints and boxes are scaled.

    Returns:
        For each image, for each of its boxes, a dict with `keypoints` [K, 2] in image pixels, `scores` [K], `labels`
        [K] (which keypoints they are) and `bbox` [4] (left, top, right, bottom), all on the device of the heatmaps.

    Raises:
        TypeError: `processor` has no size, `outputs.heatmaps` is no tensor of floats, or `boxes` are no lists.
        ValueError: The boxes or sizes do not fit the heatmaps, or the kernel size is even.
    """
    heatmaps = _heatmaps_of(processor, outputs)
    if outputs_flipped is not None:
        heatmaps = (heatmaps + _heatmaps_of(processor, outputs_flipped, "outputs_flipped")) / 2
    per_image, flat_boxes = _flatten(boxes, heatmaps)
    if target_sizes is not None and source_sizes is None:
        raise ValueError("source_sizes: got None, expected (height, width) of each image, since target_sizes are given")
    sizes = {"source_sizes": source_sizes, "target_sizes": target_sizes}
    rows = {name: _rows(value, 2, name, "(height, width)") for name, value in sizes.items() if value is not None}
    for name, each in rows.items():
        if len(each) != len(per_image):
            raise ValueError(f"{name}: got {len(each)}, expected {len(per_image)}, one for each image")

    center, scale = transforms.center_scale_from_boxes(flat_boxes, _size(processor))
    matrices = transforms.mmpose(center, scale, _heatmap_size(heatmaps), use_udp=True)
    bboxes = torch.cat([flat_boxes[:, :2], flat_boxes[:, :2] + flat_boxes[:, 2:]], dim=1)
    if target_sizes is not None:
        factors = (rows["target_sizes"] / rows["source_sizes"]).flip(-1)
        factors = factors.repeat_interleave(torch.tensor(per_image, dtype=torch.int64, device="cpu"), dim=0)
        matrices = matrices * factors[..., None]
        bboxes = bboxes * factors.repeat(1, 2)
    coords, scores = _decode(heatmaps, with_kernel_size(SAPIENS_HF, kernel_size), matrices)
    return _by_image(coords, scores.float(), bboxes.to(coords), per_image, threshold)


def _heatmaps_of(processor: Any, outputs: Any, name: str = "outputs") -> Tensor:
    """The heatmaps [N, K, H, W] of a model's outputs, after a look at who is who."""
    if not hasattr(processor, "size"):
        raise TypeError(
            f"processor: got {type(processor).__name__}, which has no size; expected the image processor first, then "
            "the outputs of the model"
        )
    heatmaps = getattr(outputs, "heatmaps", None)
    if not isinstance(heatmaps, Tensor):
        raise TypeError(
            f"{name}: got {type(outputs).__name__}, which has no tensor of heatmaps; expected the outputs of the model "
            "behind the image processor, then the boxes"
        )
    return heatmaps


def _decode(
    heatmaps: Tensor,  # [N, K, H, W]
    recipe: Recipe,
    matrices: Tensor,  # [N, 2, 3], float64 on the host
) -> tuple[Tensor, Tensor]:
    """Keypoints in the image, float32, and their scores, on the device of the maps."""
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    coords, scores, _ = decode(heatmaps, recipe, image_transform=matrices.to(heatmaps.device, dtype))
    return coords.float(), scores


def _by_image(
    coords: Tensor,  # [N, K, 2]
    scores: Tensor,  # [N, K]
    bboxes: Tensor,  # [N, 4]
    per_image: Sequence[int],
    threshold: float | None,
) -> list[list[Pose]]:
    labels = torch.arange(coords.shape[1], device=coords.device)
    poses = []
    for keypoints, values, bbox in zip(coords, scores, bboxes, strict=True):
        pose = {"keypoints": keypoints, "scores": values, "labels": labels}
        if threshold is not None:
            keep = values > threshold
            pose = {name: tensor[keep] for name, tensor in pose.items()}
        poses.append({**pose, "bbox": bbox})
    remaining = iter(poses)
    return [[next(remaining) for _ in range(count)] for count in per_image]


def _flatten(boxes: Any, heatmaps: Tensor) -> tuple[list[int], Tensor]:
    """Number of boxes of each image, and all of them, [N, 4] in float64 on the host."""
    try:
        per_image = [len(of_image) for of_image in boxes]
        rows = [box[:4] for of_image in boxes for box in of_image]
    except (TypeError, IndexError):  # no boxes, or those of one image
        raise TypeError(
            f"boxes: got {type(boxes).__name__}, expected for each image a list of its boxes (left, top, width, height)"
        ) from None
    flat = _rows(rows, 4, "boxes", "(left, top, width, height)")
    if len(flat) != len(heatmaps):
        raise ValueError(
            f"boxes: got {len(flat)} in {len(per_image)} images, expected {len(heatmaps)}, one for each of the heatmaps"
        )
    return per_image, flat


def _rows(values: Iterable[Any], columns: int, name: str, expected: str) -> Tensor:
    """[N, columns] in float64 on the host, from nested sequences, arrays or tensors."""
    rows = [[float(number) for number in row] for row in values]
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"{name}: got {row}, expected {expected}")
    return torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(-1, columns)


def _size(processor: Any) -> tuple[int, int]:
    return processor.size["width"], processor.size["height"]


def _heatmap_size(heatmaps: Tensor) -> tuple[int, int]:
    height, width = heatmaps.shape[-2:]
    return width, height
