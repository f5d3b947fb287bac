"""Modules over the functions: a head that predicts a distribution for each keypoint, losses, and decoding.

>>> import torch
>>> from dark_kernels.nn import DARKHead, TwoStageDecoder, VarianceSchedule
>>> backbone = torch.nn.Conv2d(3, 32, 4, stride=4)  # yours: images to features [B, C, H, W]
>>> heatmap_head = torch.nn.Conv2d(32, 17, 1)  # what you have
>>> head = DARKHead(32, 17, coordinates="offset")  # what is new
>>> schedule = VarianceSchedule(fixed_log_var=2.0, steps=1000)
>>> images, target = torch.rand(8, 3, 256, 192), torch.rand(8, 17, 2) * 190
>>> loss = head.loss(backbone(images), target, fixed_log_var=schedule(), reduction="mean_valid")
>>> loss.backward()
>>> schedule.step()
>>> keypoints = TwoStageDecoder(heatmap_head, head)(backbone(images))
>>> keypoints.coords.shape, keypoints.covariances.shape  # input pixels
(torch.Size([8, 17, 2]), torch.Size([8, 17, 2, 2]))
"""

from .decoders import SoftArgmax, TwoStageDecoder
from .heads import DARKHead
from .losses import (
    DARKLoss,
    HeatmapAdaptiveWingLoss,
    HeatmapCrossEntropyLoss,
    HeatmapFocalLoss,
    HeatmapJSLoss,
    HeatmapMSELoss,
)
from .schedules import VarianceSchedule

__all__ = [
    "DARKHead",
    "DARKLoss",
    "HeatmapAdaptiveWingLoss",
    "HeatmapCrossEntropyLoss",
    "HeatmapFocalLoss",
    "HeatmapJSLoss",
    "HeatmapMSELoss",
    "SoftArgmax",
    "TwoStageDecoder",
    "VarianceSchedule",
]
