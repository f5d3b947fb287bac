"""`KeyPoints` of supervision (0.29 or newer), both ways: for its annotators, trackers and data sets.

    from dark_kernels.integrations.supervision import from_supervision, to_supervision
    sv.EdgeAnnotator().annotate(scene=image, key_points=to_supervision(keypoints))

Covariances travel under `data["covariance"]`, where supervision's annotators of ellipses look for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import supervision
import torch
from torch import Tensor

from ..types import Keypoints

__all__ = ["from_supervision", "to_supervision"]

_COVARIANCE = "covariance"


def to_supervision(
    keypoints: Keypoints,  # coords [N, K, 2], scores [N, K]
    class_ids: Sequence[int] | Tensor | None = None,  # [N]
    pose_scores: Sequence[float] | Tensor | None = None,  # [N]
    threshold: float | None = None,
) -> supervision.KeyPoints:
    """Poses as `supervision.KeyPoints`, in float32 on the CPU.

    Args:
        keypoints: Of N poses in pixels of their image, as `decode` returns them with `image_transform`.
        class_ids: [N], of each pose; None for none.
        pose_scores: [N], of each pose, which becomes its `detection_confidence`; None for none.
        threshold: Keypoints with this score or a lower one are not `visible`; None leaves visibilities out.

    Returns:
        supervision.KeyPoints: `xy` [N, K, 2], `keypoint_confidence` [N, K], and `data["covariance"]` [N, K, 2, 2]
        where there are covariances.

    Raises:
        TypeError: `keypoints` is no Keypoints.
        ValueError: Shapes do not fit.
    """
    if not isinstance(keypoints, Keypoints):
        raise TypeError(f"keypoints: got {type(keypoints).__name__}, expected dark_kernels.Keypoints")
    coords, scores, covariances = (None if each is None else _float32(each) for each in keypoints)
    if coords is None or scores is None or coords.ndim != 3 or scores.shape != coords.shape[:-1]:
        shapes = [None if each is None else list(each.shape) for each in (coords, scores)]
        raise ValueError(f"keypoints: got shapes {shapes}, expected coords [N, K, 2] and scores [N, K]")
    return supervision.KeyPoints(
        xy=coords,
        class_id=_one_a_pose("class_ids", class_ids, len(coords), np.int64),
        keypoint_confidence=scores,
        detection_confidence=_one_a_pose("pose_scores", pose_scores, len(coords), np.float32),
        visible=None if threshold is None else scores > threshold,
        data={} if covariances is None else {_COVARIANCE: covariances},
    )


def from_supervision(key_points: supervision.KeyPoints) -> Keypoints:
    """Keypoints of `supervision.KeyPoints`, as tensors in float32 on the CPU.

    Args:
        key_points: Of N poses of K keypoints.

    Returns:
        Keypoints: `coords` [N, K, 2] in its pixels; `scores` [N, K], its confidences, or 1 where there are none, and 0
        for what is not `visible`; `covariances` [N, K, 2, 2] if its data has them.

    Raises:
        TypeError: It is no `supervision.KeyPoints`.
    """
    if not isinstance(key_points, supervision.KeyPoints):
        raise TypeError(f"key_points: got {type(key_points).__name__}, expected supervision.KeyPoints")
    coords = np.array(key_points.xy, np.float32)
    confidences = key_points.keypoint_confidence
    scores = np.ones(coords.shape[:-1], np.float32) if confidences is None else np.array(confidences, np.float32)
    if key_points.visible is not None:
        scores = np.where(key_points.visible, scores, np.float32(0))
    covariances = key_points.data.get(_COVARIANCE)
    return Keypoints(
        torch.from_numpy(coords),
        torch.from_numpy(scores),
        None if covariances is None else torch.from_numpy(np.array(covariances, np.float32)),
    )


def _float32(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.numpy(force=True) if isinstance(tensor, Tensor) else tensor, np.float32)


def _one_a_pose(name: str, values: Any, num_poses: int, dtype: Any) -> np.ndarray | None:
    if values is None:
        return None
    array = np.array(values.numpy(force=True) if isinstance(values, Tensor) else values, dtype)
    if array.shape != (num_poses,):
        raise ValueError(f"{name}: got shape {list(array.shape)}, expected [{num_poses}], one for each pose")
    return array
