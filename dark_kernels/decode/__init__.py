"""Heatmaps to keypoints."""

from .api import decode, decode_offsets
from .reference import decode_reference

__all__ = ["decode", "decode_offsets", "decode_reference"]
