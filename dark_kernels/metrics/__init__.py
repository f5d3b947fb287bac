"""Metrics of keypoints, poses and uncertainty, in float64.

What is compared: coords [..., 2] and covariances [..., 2, 2] of a prediction, such as `decode` and `nn.TwoStageDecoder`
return them, with targets [..., 2] in the same pixels; all of them tensors, or all NumPy arrays, and so is what comes
back. A keypoint counts if its target is finite and its `mask`, if there is one, above 0. A share or a mean over no
keypoint is NaN.

A prediction that is missing, NaN or infinite, is not a good one: it is infinitely far away and outside of every
ellipse. But it has no distribution, nor has one whose covariance is not positive definite, so likelihood, calibration
and sharpness leave these out: `has_distribution` says how many they are.

Poses and files of annotations are compared by `oks_average_precision`, which warns with `AnnotationWarning` where
they cannot be what was meant.
"""

from .accuracy import auc, distances, epe, nme, pck, pckh, sizes_from_boxes, sizes_from_keypoints
from .agreement import kappas, kappas_from_annotations
from .annotations import AnnotationWarning
from .coco import coco_results, oks_average_precision
from .distributions import (
    LEVELS,
    calibration_error,
    chi_square,
    coverage,
    has_distribution,
    negative_log_likelihood,
    rank_correlation,
    sharpness,
    sigmas,
    squared_distances,
)

__all__ = [
    "LEVELS",
    "AnnotationWarning",
    "auc",
    "calibration_error",
    "chi_square",
    "coco_results",
    "coverage",
    "distances",
    "epe",
    "has_distribution",
    "kappas",
    "kappas_from_annotations",
    "negative_log_likelihood",
    "nme",
    "oks_average_precision",
    "pck",
    "pckh",
    "rank_correlation",
    "sharpness",
    "sigmas",
    "sizes_from_boxes",
    "sizes_from_keypoints",
    "squared_distances",
]
