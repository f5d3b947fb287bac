"""Heatmaps to expected coordinates, with a gradient."""

from .api import soft_argmax
from .reference import soft_argmax_reference

__all__ = ["soft_argmax", "soft_argmax_reference"]
