"""Fused Triton kernels for pose estimation: heatmaps to keypoints, and losses for their training."""

from . import data, draw, metrics, nn, recipes, transforms
from .decode import decode, decode_offsets
from .encode import encode
from .heatmap_loss import (
    heatmap_adaptive_wing,
    heatmap_cross_entropy,
    heatmap_focal,
    heatmap_js,
    heatmap_mse,
)
from .nll import gaussian_mixture_nll, gaussian_nll, linear_gaussian_nll
from .peaks import find_peaks
from .poses import COCO_KAPPAS, oks, oks_nms, soft_oks_nms, variance_voting, vote
from .recipes import Recipe
from .sampling import sample_keypoints
from .simcc import decode_simcc
from .soft_argmax import soft_argmax
from .types import KeptPoses, Keypoints, Peaks, SimCCKeypoints

__version__ = "0.1.0"

__all__ = [
    "COCO_KAPPAS",
    "KeptPoses",
    "Keypoints",
    "Peaks",
    "Recipe",
    "SimCCKeypoints",
    "__version__",
    "data",
    "decode",
    "decode_offsets",
    "decode_simcc",
    "draw",
    "encode",
    "find_peaks",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "heatmap_adaptive_wing",
    "heatmap_cross_entropy",
    "heatmap_focal",
    "heatmap_js",
    "heatmap_mse",
    "linear_gaussian_nll",
    "metrics",
    "nn",
    "oks",
    "oks_nms",
    "recipes",
    "sample_keypoints",
    "soft_argmax",
    "soft_oks_nms",
    "transforms",
    "variance_voting",
    "vote",
]
