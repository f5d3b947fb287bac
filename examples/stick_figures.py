"""Photographs of people, without people or photographs: articulated stick figures on textured backgrounds.

Drawn as tensors, a batch at a time, so that training never sees an image twice. All figures face the camera: left
and right can be told, and a mirrored figure is a figure again if the names of its sides are swapped.

What makes keypoints hard is known for each of them: whether something is in front of it (`occluded`), and whether
the camera moved during the exposure (`blurred`). A moving keypoint has no one place; the annotation is where it was
at some moment of the exposure. On top of it, annotators are not exact: `JITTER`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = (
    "head", "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
    "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
)  # fmt: skip
LIMBS = ((1, 2), (7, 8), (1, 7), (2, 8), (7, 9), (9, 11), (8, 10), (10, 12), (1, 3), (3, 5), (2, 4), (4, 6))
MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11)

JITTER = 0.004
"""Standard deviation of annotations along each axis, in sides of the image: 0.4 pixels of 96."""

_OCCLUDERS = 3  # at most, in one image
_CLUTTER = 4  # lines behind the figure that could be limbs


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Conditions of a drawing.

    Attributes:
        occlusion: Whether in half of the images things are in front of the figure.
        blur: Whether in a third of the images the camera moved.
        augment: Rotation, scale, place and flip at random; otherwise upright figures in the middle.
    """

    occlusion: bool = True
    blur: bool = True
    augment: bool = True


class Figures(NamedTuple):
    """A batch.

    Attributes:
        images: [B, 3, S, S], about 0 to 1.
        keypoints: [B, K, 2], annotated (x, y) in pixels; pixel i covers i to i + 1.
        visible: bool [B, K], inside the image; the others are not annotated.
        occluded: bool [B, K], behind something.
        blurred: bool [B, K], in an image that the camera moved in.
        height: [B], of the figure standing upright, in pixels.
    """

    images: Tensor
    keypoints: Tensor
    visible: Tensor
    occluded: Tensor
    blurred: Tensor
    height: Tensor


def draw(
    batch: int,
    size: int,
    generator: torch.Generator,
    conditions: Conditions = Conditions(),
    device: torch.device | str = "cpu",
) -> Figures:
    """Draw `batch` images of `size` x `size` pixels.

    Everything random comes from `generator` (of the CPU), so that a seed gives the same figures on every device.
    """
    device = torch.device(device)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    # Where, how large, how turned.
    height = size * (uniform(0.55, 0.95) if conditions.augment else uniform(0.8, 0.8))
    angle = uniform(-0.6, 0.6) if conditions.augment else uniform(0, 0)
    place = size * (uniform(0.4, 0.6, 2) if conditions.augment else uniform(0.5, 0.5, 2))
    joints = _poses(uniform)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = joints.unbind(-1)
    joints = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) * height[:, None, None] + place[:, None]

    is_blurred = (uniform(0, 1) < 1 / 3) if conditions.blur else torch.zeros(batch, dtype=torch.bool)
    direction = uniform(0, math.pi)
    motion = torch.stack([direction.cos(), direction.sin()], dim=-1) * (size * uniform(0.06, 0.14))[:, None]
    motion = torch.where(is_blurred[:, None], motion, 0.0)  # pixels from the first to the last moment

    moment = uniform(-0.5, 0.5, len(NAMES), 1)
    jitter = torch.randn(batch, len(NAMES), 2, generator=generator) * (JITTER * size)
    keypoints = joints + moment * motion[:, None] + jitter

    tones, paint = uniform(0, 1, 3, 3), uniform(-0.12, 0.12, len(LIMBS) + 1, 3)
    thickness = height * uniform(0.016, 0.03)
    clutter = uniform(0, 1, _CLUTTER, 2, 2) * size
    clutter[:, :, 1] = clutter[:, :, 0] + (clutter[:, :, 1] - clutter[:, :, 0]) * 0.4
    clutter_tones = uniform(0, 1, _CLUTTER, 3)
    coarse, fine = (torch.rand(batch, 3, cells, cells, generator=generator) for cells in (4, 13))
    patches = torch.rand(batch, 3, 9, 9, generator=generator)
    # Things stand in front of a keypoint more often than elsewhere.
    joint = torch.randint(len(NAMES), (batch, _OCCLUDERS), generator=generator)
    centers = joints[torch.arange(batch)[:, None], joint] + uniform(-0.04, 0.04, _OCCLUDERS, 2) * size
    sides = uniform(0.05, 0.13, _OCCLUDERS, 2) * size
    turns = uniform(0, math.pi, _OCCLUDERS)
    count = torch.randint(1, _OCCLUDERS + 1, (batch,), generator=generator)
    count = torch.where(uniform(0, 1) < 0.5, count, 0) if conditions.occlusion else torch.zeros_like(count)
    sides = torch.where((torch.arange(_OCCLUDERS) < count[:, None])[..., None], sides, -size)  # none of it is inside
    is_flipped = (uniform(0, 1) < 0.5) if conditions.augment else torch.zeros(batch, dtype=torch.bool)
    occluded = (_box(joints[..., 0], joints[..., 1], centers, sides, turns) < 0).any(1)
    visible = ((keypoints >= 0) & (keypoints < size)).all(-1)

    # From here on pixels. A background, lines, the figure, what is in front of it.
    tones, paint, thickness, clutter, clutter_tones, coarse, fine, patches, centers, sides, turns, joints, motion = (
        tensor.to(device)
        for tensor in (
            tones, paint, thickness, clutter, clutter_tones, coarse, fine, patches, centers, sides, turns, joints,
            motion,
        )
    )  # fmt: skip
    images = 0.4 * _enlarge(coarse, size) + 0.3 * _enlarge(fine, size) + 0.3 * tones[:, 0, :, None, None]
    images = torch.lerp(images, images.mean(1, keepdim=True), 0.5)
    grid = torch.arange(size, device=device) + 0.5
    for i in range(_CLUTTER):
        alpha = _line(grid, clutter[:, i, 0], clutter[:, i, 1], thickness)
        images = torch.lerp(images, clutter_tones[:, i, :, None, None], alpha)
    figure = torch.where(tones < 0.5, tones**2, 1 - (1 - tones) ** 2)[:, 1, None]  # not grey, as the background is
    figure = figure + paint  # one person, one paint, but for the light
    for i, (a, b) in enumerate(LIMBS):
        alpha = _line(grid, joints[:, a], joints[:, b], thickness)
        images = torch.lerp(images, figure[:, i, :, None, None], alpha)
    # The circle's middle is the keypoint.
    head = joints[:, 0]
    alpha = _line(grid, head, head + 1e-3, 2.6 * thickness)
    images = torch.lerp(images, figure[:, -1, :, None, None], alpha)
    if conditions.occlusion:
        distance = _box(grid[None, None, :], grid[None, :, None], centers, sides, turns)  # [B, occluders, S, S]
        alpha = (0.5 - distance.amin(1, keepdim=True)).clamp(0, 1)
        images = torch.lerp(images, 0.6 * _enlarge(patches, size) + 0.4 * tones[:, 2, :, None, None], alpha)
    if is_blurred.any():
        moved = is_blurred.nonzero()[:, 0].to(device)
        images[moved] = _move(images[moved], motion[moved], math.ceil(0.14 * size / 2))

    flip = is_flipped.to(device)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    mirrored = torch.stack([size - keypoints[..., 0], keypoints[..., 1]], dim=-1)[:, list(MIRRORED)]
    blurred = is_blurred[:, None].expand(visible.shape)
    one, two = is_flipped[:, None], is_flipped[:, None, None]
    return Figures(
        images,
        torch.where(two, mirrored, keypoints).to(device),
        torch.where(one, visible[:, list(MIRRORED)], visible).to(device),
        torch.where(one, occluded[:, list(MIRRORED)], occluded).to(device),
        blurred.to(device),
        height.to(device),
    )


def _poses(uniform: Callable[..., Tensor]) -> Tensor:
    """[B, K, 2], in heights of the figure, around the middle of it; the figure's left is on the right."""

    def limb(start: Tensor, angle: Tensor, length: float, side: float) -> Tensor:
        """The end of a limb; 0 hangs down, positive angles lead away from the body."""
        return start + length * torch.stack([side * angle.sin(), angle.cos()], dim=-1)

    lean = uniform(-0.15, 0.15)
    hip = torch.zeros(len(lean), 2)
    up = torch.stack([lean.sin(), -lean.cos()], dim=-1)
    across = torch.stack([lean.cos(), lean.sin()], dim=-1)
    chest = hip + 0.3 * up
    points: dict[str, Tensor] = {"head": chest + 0.16 * up}
    for name, side in (("left", 1.0), ("right", -1.0)):
        points[f"{name} shoulder"] = chest + side * 0.11 * across
        points[f"{name} hip"] = hip + side * 0.075 * across
        arm = uniform(-0.3, 2.8)
        points[f"{name} elbow"] = limb(points[f"{name} shoulder"], arm, 0.17, side)
        points[f"{name} wrist"] = limb(points[f"{name} elbow"], arm + uniform(-0.5, 2.0), 0.16, side)
        leg = uniform(-0.15, 0.9)
        points[f"{name} knee"] = limb(points[f"{name} hip"], leg, 0.23, side)
        points[f"{name} ankle"] = limb(points[f"{name} knee"], leg + uniform(-1.0, 0.3), 0.22, side)
    return torch.stack([points[name] for name in NAMES], dim=1)


def _enlarge(texture: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(texture, (size, size), mode="bilinear", align_corners=False)


def _line(grid: Tensor, start: Tensor, end: Tensor, radius: Tensor) -> Tensor:
    """Share of each pixel that a line with round ends covers: [B, 1, S, S]."""
    x = grid[None, None, :] - start[:, 0, None, None]  # [B, 1, S]
    y = grid[None, :, None] - start[:, 1, None, None]  # [B, S, 1]
    dx, dy = ((end - start)[:, i, None, None] for i in (0, 1))
    squared = dx * dx + dy * dy
    along = (x * (dx / squared) + y * (dy / squared)).clamp_(0, 1)
    distance = torch.addcmul(x, along, dx, value=-1).square_().add_((y - along * dy).square_()).sqrt_()
    return (radius[:, None, None] + 0.5 - distance).clamp_(0, 1)[:, None]


def _box(x: Tensor, y: Tensor, centers: Tensor, sides: Tensor, turns: Tensor) -> Tensor:
    """Distance to turned rectangles, negative inside: [B, rectangles, *] for x and y of [B, *]."""
    shape = (*turns.shape, *[1] * (x.dim() - 1))
    x, y = x[:, None] - centers[..., 0].reshape(shape), y[:, None] - centers[..., 1].reshape(shape)
    cos, sin = turns.cos().reshape(shape), turns.sin().reshape(shape)
    u = (cos * x + sin * y).abs() - sides[..., 0].reshape(shape)
    v = (cos * y - sin * x).abs() - sides[..., 1].reshape(shape)
    return torch.maximum(u, v)


def _move(images: Tensor, motion: Tensor, reach: int) -> Tensor:
    """Each image's mean over a straight motion, which starts and ends half of `motion` away."""
    taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    start, end = -motion / 2, motion / 2
    kernels = _line(taps, start, end, torch.zeros_like(motion[:, 0]) + 0.3)  # [B, 1, k, k]
    kernels = kernels / kernels.sum((2, 3), keepdim=True)
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    moved = torch.nn.functional.conv2d(padded, kernels.repeat_interleave(channels, 0), groups=batch * channels)
    return moved[0].unflatten(0, (batch, channels)).reshape(batch, channels, height, width)
