"""Heatmaps and keypoints to a loss, without target maps."""

from .api import heatmap_adaptive_wing, heatmap_cross_entropy, heatmap_focal, heatmap_js, heatmap_mse
from .reference import heatmap_loss_reference

__all__ = [
    "heatmap_adaptive_wing",
    "heatmap_cross_entropy",
    "heatmap_focal",
    "heatmap_js",
    "heatmap_loss_reference",
    "heatmap_mse",
]
