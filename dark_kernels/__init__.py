"""Fused Triton kernels for pose estimation: heatmaps to keypoints, and losses for their training."""

from . import nn, recipes
from .decode import decode, decode_offsets
from .mixture_nll import gaussian_mixture_nll
from .nll import gaussian_nll, linear_gaussian_nll
from .peaks import find_peaks
from .recipes import Recipe
from .types import Keypoints, Peaks

__version__ = "0.1.0"

__all__ = [
    "Keypoints",
    "Peaks",
    "Recipe",
    "__version__",
    "decode",
    "decode_offsets",
    "find_peaks",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "linear_gaussian_nll",
    "nn",
    "recipes",
]
