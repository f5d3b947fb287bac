"""Heatmaps to several keypoints of each map."""

from .api import find_peaks
from .reference import find_peaks_reference

__all__ = ["find_peaks", "find_peaks_reference"]
