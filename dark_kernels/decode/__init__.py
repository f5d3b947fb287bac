"""Heatmaps to keypoints."""

from .api import decode
from .reference import decode_reference

__all__ = ["decode", "decode_reference"]
