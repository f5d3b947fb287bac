"""Fused Triton kernels for pose estimation: heatmaps to keypoints, and losses for their training."""

from . import nn, recipes
from .decode import decode
from .mixture_nll import gaussian_mixture_nll
from .nll import gaussian_nll, linear_gaussian_nll
from .recipes import Recipe
from .simcc import decode_simcc
from .soft_argmax import soft_argmax
from .types import Keypoints, SimCCKeypoints

__version__ = "0.1.0"

__all__ = [
    "Keypoints",
    "Recipe",
    "SimCCKeypoints",
    "__version__",
    "decode",
    "decode_simcc",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "linear_gaussian_nll",
    "nn",
    "recipes",
    "soft_argmax",
]
