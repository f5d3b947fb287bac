"""Fused Triton kernels for pose estimation: heatmaps to keypoints, and losses for their training."""

from . import nn, recipes
from .decode import decode
from .encode import encode
from .heatmap_loss import (
    heatmap_adaptive_wing,
    heatmap_cross_entropy,
    heatmap_focal,
    heatmap_js,
    heatmap_mse,
)
from .mixture_nll import gaussian_mixture_nll
from .nll import gaussian_nll, linear_gaussian_nll
from .recipes import Recipe
from .types import Keypoints

__version__ = "0.1.0"

__all__ = [
    "Keypoints",
    "Recipe",
    "__version__",
    "decode",
    "encode",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "heatmap_adaptive_wing",
    "heatmap_cross_entropy",
    "heatmap_focal",
    "heatmap_js",
    "heatmap_mse",
    "linear_gaussian_nll",
    "nn",
    "recipes",
]
