"""Keypoints onto an image or matplotlib's axes: limbs, ellipses of covariances, scores, heatmaps and tracks.

    >>> import numpy as np
    >>> import dark_kernels
    >>> from dark_kernels import draw
    >>> example = dark_kernels.data.load()
    >>> keypoints = dark_kernels.decode(example.heatmaps[:1], covariance=True)
    >>> image = draw.heatmap(np.array(example.crops[0]), example.heatmaps[0])
    >>> in_crop = keypoints._replace(coords=keypoints.coords * 4 + 1.5, covariances=keypoints.covariances * 16)
    >>> image = draw.poses(image, in_crop, threshold=0.4)

Edges are smooth and places exact to a fraction of a pixel. Images need NumPy, text on them Pillow (the extra `draw`),
axes matplotlib. Nothing is imported before it is needed.
"""

from .drawing import ellipses, heatmap, keypoints, limbs, poses, scores, tracks
from .skeletons import COLOURS, SKELETONS, Skeleton

__all__ = [
    "COLOURS",
    "SKELETONS",
    "Skeleton",
    "ellipses",
    "heatmap",
    "keypoints",
    "limbs",
    "poses",
    "scores",
    "tracks",
]
