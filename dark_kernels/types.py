"""What the operations return."""

from __future__ import annotations

from typing import NamedTuple

import torch.utils._pytree as pytree
from torch import Tensor


class Keypoints(NamedTuple):
    """Decoded keypoints of a batch of heatmaps, as `decode` returns them.

    `nn.TwoStageDecoder` gives coordinates in input pixels and covariances in squared input pixels instead, both NaN
    where a heatmap has no keypoint.

    Attributes:
        coords: [B, K, 2], (x, y) in heatmap pixels, pixel centres at integers.
        scores: [B, K], the value of the peak.
        covariances: [B, K, 2, 2] in squared heatmap pixels, rows and columns in the order (x, y);
            positive semi-definite or NaN. None where none was asked for.
    """

    coords: Tensor
    scores: Tensor
    covariances: Tensor | None = None


class Peaks(NamedTuple):
    """The local maxima of a batch of heatmaps, the best P of each map, as `find_peaks` returns them.

    A map's peaks come first, by descending score; `torch.arange(P) < counts[..., None]` says which slots hold one.

    Attributes:
        coords: [B, K, P, 2], (x, y) in heatmap pixels, pixel centres at integers; `recipe.invalid` in unused slots.
        scores: [B, K, P], the values of the peaks; 0 in unused slots.
        counts: [B, K] int64, how many peaks a map has, P at the most.
        covariances: [B, K, P, 2, 2] in squared heatmap pixels, rows and columns in the order (x, y); positive
            semi-definite, or NaN, as in unused slots. None where none was asked for.
    """

    coords: Tensor
    scores: Tensor
    counts: Tensor
    covariances: Tensor | None = None


# An exported program that returns one of these can be saved only under a name; torch's own error asks for this call.
pytree._register_namedtuple(Keypoints, serialized_type_name="dark_kernels.Keypoints")
pytree._register_namedtuple(Peaks, serialized_type_name="dark_kernels.Peaks")
