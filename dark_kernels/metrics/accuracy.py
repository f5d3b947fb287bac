"""Distances of keypoints: PCK, PCKh, EPE, NME and AUC, as mmpose and the data sets report them.

`pck`, `epe`, `nme` and `auc` take poses in 2 or 3 dimensions; `average` says of what the mean is:

- "micro": of all keypoints that count, alike;
- "macro": of the keypoints' own means, so that one which is rarely annotated weighs as much as others;
- "none": nothing; the result is that of each keypoint, [K].

A keypoint that counts nowhere is NaN, and left out of "macro"; where none counts, all are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._common import checks
from .._common.inputs import call_with_tensors
from .._common.names import ArrayT, Average, KindOfSize
from . import _shared

KINDS_OF_SIZES: tuple[KindOfSize, ...] = get_args(KindOfSize)


def distances(
    coords: ArrayT,  # [..., 2]
    targets: ArrayT,  # [..., 2]
) -> ArrayT:
    """Distances of predictions from their targets, [...], infinite where a prediction is missing; NaN for a target that
    is not finite.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(distances, coords=coords, targets=targets)
    _shared.check_pairs(coords, targets)
    return _shared.distances_between(coords, targets)


def pck(
    coords: ArrayT,  # [..., K, D]
    targets: ArrayT,  # [..., K, D]
    sizes: ArrayT | float,  # [...]
    threshold: float | Sequence[float] | Tensor | NDArray[Any] = 0.05,
    mask: ArrayT | None = None,  # [..., K]
    average: Average = "macro",
) -> ArrayT:
    """PCK: the share of keypoints that are nearer to their targets than `threshold` sizes of their person.

    What `sizes` are gives it its name: PCK with those of boxes (`sizes_from_boxes`), tPCK of the torso
    (`sizes_from_keypoints`), 3DPCK with 1.0 and a threshold of 150 mm. With "macro" it is what mmpose reports, whose
    distances also have to be below the threshold. For PCKh as MPII defines it, with distances up to the threshold, see
    `pckh`.

    Source: Y. Yang and D. Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", TPAMI 2013.

    Args:
        coords: [..., K, D], D = 2 or 3. A missing prediction, NaN or infinite, is a miss.
        targets: [..., K, D].
        sizes: [...], one a person, in the unit of the coordinates, or one number for all. A person whose size is not
            positive and finite does not count.
        threshold: Positive, or several.
        mask: [..., K], above 0 where a keypoint is annotated.
        average: "macro", "micro" or "none", see above.

    Returns:
        [], or [K] with "none"; of T thresholds [T] or [T, K]. NaN where no keypoint counts.

    Raises:
        TypeError: An argument is not a dense floating tensor, or not a number.
        ValueError: Shapes or devices differ, a threshold is not positive, or `average` is unknown.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> coords, targets = torch.rand(8, 17, 2) * 100, torch.rand(8, 17, 2) * 100
        >>> sizes = metrics.sizes_from_boxes(torch.tensor([[0.0, 0.0, 100.0, 80.0]]).expand(8, 4))
        >>> metrics.pck(coords, targets, sizes, (0.05, 0.1, 0.2)).shape
        torch.Size([3])
        >>> metrics.pck(coords, targets, sizes, 0.2, average="none").shape
        torch.Size([17])
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            pck, coords=coords, targets=targets, sizes=sizes, threshold=threshold, mask=mask, average=average
        )
    relative, counts = _relative(coords, targets, sizes, mask)
    checks.check_name("average", average, _shared.AVERAGES)
    numbers = _numbers("threshold", threshold)
    several = isinstance(numbers, list)
    thresholds = [checks.to_positive("threshold", each) for each in (numbers if several else [numbers])]
    shares = _shares(relative, counts, thresholds, average)
    return shares if several else shares[0]


def pckh(
    coords: ArrayT,  # [..., K, 2]
    targets: ArrayT,  # [..., K, 2]
    head_sizes: ArrayT,  # [...]
    threshold: float = 0.5,
    mask: ArrayT | None = None,  # [..., K]
    average: Average = "micro",
) -> ArrayT:
    """PCKh: the share of keypoints that are within `threshold` head sizes of their targets, [].

    Source: M. Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014. In
    its MPII data set a head size is 0.6 times the diagonal of the head's box (`sizes_from_boxes`), and its total leaves
    pelvis and thorax out (by `mask`, 6 and 7 of its 16 keypoints).

    Args:
        coords: [..., K, 2].
        targets: [..., K, 2].
        head_sizes: [...], one a person, in the unit of the coordinates. A person whose size is not positive and finite
            does not count.
        threshold: Positive.
        mask: [..., K], above 0 where a keypoint is annotated.
        average: "micro" as MPII's total, "macro" or "none" for [K], see above.

    Raises:
        TypeError: An argument is not a dense floating tensor, or not a number.
        ValueError: Shapes or devices differ, `threshold` is not positive, or `average` is unknown.
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            pckh, coords=coords, targets=targets, head_sizes=head_sizes, threshold=threshold, mask=mask, average=average
        )
    found = distances(coords, targets)
    checks.check_tensor("head_sizes", head_sizes, found.dim() - 1, "one for each person")
    checks.check_shape("head_sizes", head_sizes, found.shape[:-1], "one for each person")
    checks.check_devices(coords=coords, head_sizes=head_sizes)
    threshold = checks.to_positive("threshold", threshold)
    checks.check_name("average", average, _shared.AVERAGES)
    sizes = head_sizes.detach().double()[..., None]
    counts = _shared.which_count(targets, mask) & (sizes > 0) & (sizes < math.inf)
    return _shared.average_of((found <= threshold * sizes).double(), counts, average)


def epe(
    coords: ArrayT,  # [..., K, D]
    targets: ArrayT,  # [..., K, D]
    mask: ArrayT | None = None,  # [..., K]
    average: Average = "micro",
) -> ArrayT:
    """EPE: the mean distance of keypoints from their targets (end-point error), in the unit of the coordinates. In
    3 dimensions the same is called MPJPE.

    Args:
        coords: [..., K, D], D = 2 or 3. A missing prediction makes the mean infinite: leave it out by `mask`, and say
            how many those were.
        targets: [..., K, D].
        mask: [..., K], above 0 where a keypoint is annotated.
        average: "micro" as mmpose reports it, "macro" or "none", see above.

    Returns:
        [], or [K] with "none"; NaN where no keypoint counts.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ, or `average` is unknown.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> float(metrics.epe(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)))
        5.0
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(epe, coords=coords, targets=targets, mask=mask, average=average)
    _shared.check_poses(coords, targets)
    checks.check_name("average", average, _shared.AVERAGES)
    found = _shared.distances_between(coords, targets)
    return _shared.average_of(found, _shared.which_count(targets, mask), average)


def nme(
    coords: ArrayT,  # [..., K, D]
    targets: ArrayT,  # [..., K, D]
    sizes: ArrayT | float,  # [...]
    mask: ArrayT | None = None,  # [..., K]
    average: Average = "micro",
) -> ArrayT:
    """NME: the mean distance of keypoints from their targets in sizes of their face or person (normalised mean error).

    Faces are measured by the distance between the outer corners of the eyes (`sizes_from_keypoints` of 36 and 45 of
    the 68 landmarks of 300W, 60 and 72 of the 98 of WFLW, 8 and 9 of the 29 of COFW), or by their box
    (`sizes_from_boxes` with "area").

    Args:
        coords: [..., K, D], D = 2 or 3. A missing prediction makes the mean infinite: leave it out by `mask`, and say
            how many those were.
        targets: [..., K, D].
        sizes: [...], one a person, in the unit of the coordinates, or one number for all. A person whose size is not
            positive and finite does not count.
        mask: [..., K], above 0 where a keypoint is annotated.
        average: "micro" as mmpose reports it, "macro" or "none", see above.

    Returns:
        [], or [K] with "none"; NaN where no keypoint counts. Not in percent.

    Raises:
        TypeError: An argument is not a dense floating tensor, or not a number.
        ValueError: Shapes or devices differ, or `average` is unknown.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> coords, targets = torch.rand(8, 68, 2) * 100, torch.rand(8, 68, 2) * 100
        >>> metrics.nme(coords, targets, metrics.sizes_from_keypoints(targets, 36, 45)).shape
        torch.Size([])
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(nme, coords=coords, targets=targets, sizes=sizes, mask=mask, average=average)
    relative, counts = _relative(coords, targets, sizes, mask)
    checks.check_name("average", average, _shared.AVERAGES)
    return _shared.average_of(relative, counts, average)


def auc(
    coords: ArrayT,  # [..., K, D]
    targets: ArrayT,  # [..., K, D]
    sizes: ArrayT | float,  # [...]
    thresholds: int | Sequence[float] | Tensor | NDArray[Any] = 20,
    mask: ArrayT | None = None,  # [..., K]
    average: Average = "macro",
) -> ArrayT:
    """AUC: the area under the curve of PCK over its threshold, as the mean of `pck` at the thresholds.

    As mmpose reports it: of hands with sizes of 30 px and 20 thresholds; of 3-D poses with sizes of 1.0, the thresholds
    0, 5, ..., 150 mm (D. Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision",
    3DV 2017) and the average "micro". Nothing is nearer than 0, so what is perfect has 0.95 with the 20 thresholds.

    Args:
        coords: [..., K, D], D = 2 or 3. A missing prediction is a miss.
        targets: [..., K, D].
        sizes: [...], one a person, in the unit of the coordinates, or one number for all. A person whose size is not
            positive and finite does not count.
        thresholds: How many, n: 0, 1 / n, ..., (n - 1) / n. Or which, from 0.
        mask: [..., K], above 0 where a keypoint is annotated.
        average: "macro", "micro" or "none", see above.

    Returns:
        [], or [K] with "none"; NaN where no keypoint counts.

    Raises:
        TypeError: An argument is not a dense floating tensor, or not a number.
        ValueError: Shapes or devices differ, there is no threshold or a negative one, or `average` is unknown.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> hands = torch.rand(8, 21, 2) * 100
        >>> float(metrics.auc(hands + 10, hands, sizes=30.0))  # 14.1 px off: nearer than 15, 16.5, ..., 28.5 px
        0.5
    """
    if isinstance(coords, np.ndarray):
        return call_with_tensors(
            auc, coords=coords, targets=targets, sizes=sizes, thresholds=thresholds, mask=mask, average=average
        )
    relative, counts = _relative(coords, targets, sizes, mask)
    checks.check_name("average", average, _shared.AVERAGES)
    given = _numbers("thresholds", thresholds)
    if isinstance(given, list):
        numbers = [checks.to_number("thresholds", each) for each in given]
    else:
        count = checks.to_count("thresholds", given)
        numbers = [i / count for i in range(count)]
    for each in numbers:
        if each < 0:
            raise ValueError(f"thresholds: got {each}, expected numbers from 0")
    return _shares(relative, counts, numbers, average).mean(0)


def sizes_from_boxes(
    boxes: ArrayT,  # [..., 4]
    kind: KindOfSize = "longest",
) -> ArrayT:
    """Sizes for `pck`, `nme` and `auc`, from boxes: float64 [...]. NaN where a box is not finite, or a side of it
    not positive.

    Args:
        boxes: [..., 4], (x, y, width, height) as COCO has them.
        kind: "longest" for the longer side (PCK), "diagonal", "area" for its square root (NME of faces), or "head" for
            0.6 times the diagonal of the head's box (PCKh of MPII).

    Returns:
        float64 [...].

    Raises:
        TypeError: `boxes` is not a dense floating tensor.
        ValueError: It is not [..., 4], or `kind` is unknown.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> metrics.sizes_from_boxes(torch.tensor([[10.0, 10.0, 30.0, 40.0]]), "diagonal").tolist()
        [50.0]
    """
    if isinstance(boxes, np.ndarray):
        return call_with_tensors(sizes_from_boxes, boxes=boxes, kind=kind)
    checks.check_tensor("boxes", boxes, max(boxes.dim(), 1) if isinstance(boxes, Tensor) else 1, "[..., 4]")
    if boxes.shape[-1] != 4:
        raise ValueError(f"boxes: got shape {list(boxes.shape)}, expected [..., 4], (x, y, width, height)")
    checks.check_name("kind", kind, KINDS_OF_SIZES)
    width, height = boxes.detach().double()[..., 2:].unbind(-1)
    if kind == "longest":
        sizes = torch.maximum(width, height)
    elif kind == "area":
        sizes = width.clamp(min=0).sqrt() * height.clamp(min=0).sqrt()
    else:
        sizes = torch.hypot(width, height) * (0.6 if kind == "head" else 1.0)
    return torch.where(boxes.isfinite().all(-1) & (width > 0) & (height > 0), sizes, math.nan)


def sizes_from_keypoints(
    targets: ArrayT,  # [..., K, D]
    first: int,
    second: int,
    mask: ArrayT | None = None,  # [..., K]
) -> ArrayT:
    """Sizes for `pck`, `nme` and `auc`, from the distance between two keypoints: float64 [...], such as the torso
    from a shoulder to the hip of the other side, or the outer corners of the eyes. NaN where one is not annotated.

    Args:
        targets: [..., K, D], D = 2 or 3.
        first: Which keypoint, 0 to K - 1.
        second: Which other one.
        mask: [..., K], above 0 where a keypoint is annotated.

    Returns:
        float64 [...].

    Raises:
        TypeError: An argument is not a dense floating tensor, or not an integer.
        ValueError: Shapes or devices differ, or there is no such keypoint.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> metrics.sizes_from_keypoints(torch.tensor([[[0.0, 0.0], [9.0, 9.0], [3.0, 4.0]]]), 0, 2).tolist()
        [5.0]
    """
    if isinstance(targets, np.ndarray):
        return call_with_tensors(sizes_from_keypoints, targets=targets, first=first, second=second, mask=mask)
    _shared.check_poses(targets, targets)
    first, second = checks.to_count("first", first, least=0), checks.to_count("second", second, least=0)
    for name, index in (("first", first), ("second", second)):
        if index >= targets.shape[-2]:
            raise ValueError(f"{name}: got {index}, expected one of {targets.shape[-2]} keypoints")
    counts = _shared.which_count(targets, mask)
    sizes = _shared.distances_between(targets[..., first, :], targets[..., second, :])
    return torch.where(counts[..., first] & counts[..., second], sizes, math.nan)


def _relative(coords: Tensor, targets: Tensor, sizes: Tensor | float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distances in sizes, and which of them count: [..., K] both."""
    _shared.check_poses(coords, targets)
    counts = _shared.which_count(targets, mask)
    found = _shared.distances_between(coords, targets)
    if not isinstance(sizes, Tensor) or (sizes.dim() == 0 and found.dim() > 1):
        return found / checks.to_positive("sizes", sizes), counts
    checks.check_tensor("sizes", sizes, found.dim() - 1, "one for each person")
    checks.check_shape("sizes", sizes, found.shape[:-1], "one for each person")
    checks.check_devices(coords=coords, sizes=sizes)
    sizes = sizes.detach().double()[..., None]
    return found / sizes, counts & (sizes > 0) & (sizes < math.inf)


def _shares(relative: Tensor, counts: Tensor, thresholds: Sequence[float], average: Average) -> Tensor:
    """[T] or [T, K]."""
    return torch.stack([_shared.average_of((relative < each).double(), counts, average) for each in thresholds])


def _numbers(name: str, given: Any) -> Any:
    """A list of at least one where several are given, else a number of Python."""
    one = checks.plain(given)
    if isinstance(one, (int, float)):
        return one
    if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise TypeError(f"{name}: got {type(given).__name__} {given!r}, expected a number or several")
    found = given.tolist() if hasattr(given, "tolist") else list(given)
    if getattr(given, "ndim", 1) != 1:
        raise ValueError(f"{name}: got {given.ndim} dimensions, expected a number or [T]")  # type: ignore[attr-defined]
    if not found:
        raise ValueError(f"{name}: got none, expected at least one")
    return found
