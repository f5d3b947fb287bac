"""Keypoints to heatmaps."""

from .api import encode
from .reference import encode_reference

__all__ = ["encode", "encode_reference"]
