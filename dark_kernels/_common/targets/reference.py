"""The definition of a target map: whole maps, plain PyTorch, one person after the other.

Sources: `biased` is the target of B. Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018
(MSRA); `unbiased` that of F. Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation",
CVPR 2020 (DARK); `udp` that of J. Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for
Human Pose Estimation", CVPR 2020. Windows and roundings are those of their published code.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_targets(
    keypoints: Tensor,  # [B, N, K, 2]
    size: tuple[int, int],  # (H, W)
    sigma: float | Tensor,  # a number or [K]
    encoding: str,
    visible: Tensor | None,  # [B, N, K]
) -> tuple[Tensor, Tensor]:
    """Target maps [B, K, H, W] and weights [B, K], in the dtype of `keypoints`: see `dark_kernels.encode`."""
    batch, num_people, num_keypoints, _ = keypoints.shape
    sigma = torch.as_tensor(sigma, dtype=keypoints.dtype, device=keypoints.device).expand(num_keypoints)
    targets = keypoints.new_zeros(batch, num_keypoints, *size)
    weight = keypoints.new_zeros(batch, num_keypoints)
    for person in range(num_people):
        visibility = torch.ones_like(weight) if visible is None else visible[:, person].to(weight.dtype)
        values, is_drawn = draw_person(keypoints[:, person], size, sigma, encoding, visibility)
        targets = torch.maximum(targets, values)
        weight = torch.maximum(weight, torch.where(is_drawn, visibility.clamp(max=1), 0.0))
    return targets, weight


def draw_person(
    keypoints: Tensor,  # [B, K, 2]
    size: tuple[int, int],
    sigma: Tensor,  # [K]
    encoding: str,
    visibility: Tensor,  # [B, K]
) -> tuple[Tensor, Tensor]:
    """Maps of one person in each image [B, K, H, W], and whether there is something to draw [B, K]."""
    height, width = size
    radius = 3 * sigma[:, None]
    # The window: pixels from `first` up to, and without, `end`.
    if encoding == "unbiased":
        center, first, end = keypoints, keypoints - radius, keypoints + radius + 1
    else:
        pixel = (keypoints + 0.5).trunc()
        center = pixel if encoding == "biased" else keypoints
        first, end = (pixel - radius).trunc(), (pixel + radius + 1).trunc()
    # False for a NaN. A window that ends just before the map is not outside in the published code either.
    reaches_map = ((first < keypoints.new_tensor([width, height])) & (end >= 0)).all(-1)
    is_drawn = reaches_map & (visibility >= 0.5) & (sigma > 0)

    factors = []
    for axis, pixels in ((1, height), (0, width)):
        pixel = torch.arange(pixels, dtype=keypoints.dtype, device=keypoints.device)
        distance = pixel - torch.where(is_drawn, center[..., axis], 0.0)[..., None]
        values = torch.exp(-(distance**2) / (2 * torch.where(sigma > 0, sigma, 1.0)[:, None] ** 2))
        if encoding != "unbiased":
            in_window = (pixel >= first[..., axis, None]) & (pixel < end[..., axis, None])
            values = torch.where(in_window, values, 0.0)
        factors.append(torch.where(is_drawn[..., None], values, 0.0))
    rows, columns = factors
    return rows[..., :, None] * columns[..., None, :], is_drawn


def keypoint_weight(
    weight_of_targets: Tensor,  # [B, K]
    weight: Tensor | None,  # [B, K]
    keeps_empty: bool,
) -> Tensor:
    """Weight of the loss of each map [B, K], 0 where it is ignored; `weight_of_targets` is 0 where nothing is
    drawn."""
    if keeps_empty:
        weight_of_targets = torch.where(weight_of_targets > 0, weight_of_targets, 1.0)
    if weight is None:
        return weight_of_targets
    weight = weight.to(weight_of_targets.dtype)
    return torch.where(weight > 0, weight * weight_of_targets, 0.0)  # a NaN is not above 0
