"""Heatmaps to test with, how far a backend may be from the truth on each of them, and assertions that use both.

>>> import dark_kernels
>>> from dark_kernels import recipes, testing
>>> heatmaps = testing.gaussian_blobs(2, 3, 32, 24, seed=0).heatmaps
>>> keypoints = dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP)
>>> testing.assert_decodes_like_reference(keypoints, heatmaps, recipes.MMPOSE_UDP)
Comparison(maps=6, refined=6, bounded=6, other_peaks=0)
"""

from .arithmetic import EAGER, EAGER_ON_DEVICE, TRITON, Arithmetic, arithmetic_of
from .asserts import Comparison, assert_decodes_like_reference, assert_same_keypoints, assert_unchanged
from .factories import LAYOUTS, VALUE_KINDS, Blobs, gaussian_blobs, heatmaps_of_kinds, with_layout
from .tolerances import DecodeBounds, decode_bounds

__all__ = [
    "EAGER",
    "EAGER_ON_DEVICE",
    "LAYOUTS",
    "TRITON",
    "VALUE_KINDS",
    "Arithmetic",
    "Blobs",
    "Comparison",
    "DecodeBounds",
    "arithmetic_of",
    "assert_decodes_like_reference",
    "assert_same_keypoints",
    "assert_unchanged",
    "decode_bounds",
    "gaussian_blobs",
    "heatmaps_of_kinds",
    "with_layout",
]
