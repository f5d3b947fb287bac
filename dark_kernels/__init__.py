"""Fused Triton kernels for pose estimation: heatmaps to keypoints, and losses for their training."""

from . import metrics, nn, recipes
from .decode import decode
from .mixture_nll import gaussian_mixture_nll
from .nll import gaussian_nll, linear_gaussian_nll
from .nms import COCO_KAPPAS, oks, oks_nms, soft_oks_nms
from .recipes import Recipe
from .sampling import sample_keypoints
from .types import KeptPoses, Keypoints
from .voting import variance_voting, vote

__version__ = "0.1.0"

__all__ = [
    "COCO_KAPPAS",
    "KeptPoses",
    "Keypoints",
    "Recipe",
    "__version__",
    "decode",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "linear_gaussian_nll",
    "metrics",
    "nn",
    "oks",
    "oks_nms",
    "recipes",
    "sample_keypoints",
    "soft_oks_nms",
    "variance_voting",
    "vote",
]
