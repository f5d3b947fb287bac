"""Distributions of keypoints to samples of them."""

from .api import sample_keypoints
from .reference import sample_keypoints_reference

__all__ = ["sample_keypoints", "sample_keypoints_reference"]
