"""Maps whose keypoints are known, and numbers of one backend against each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing

from .. import conftest

COCO_FLIP = list(dark_kernels.data.COCO_FLIP_INDICES)


def is_compiled(service: tuple[str, torch.device]) -> bool:
    """Whether each variant of a kernel is compiled for itself, which fuses products and sums as it likes."""
    backend, device = service
    return backend == "triton" and conftest.is_compiled(device)


def assert_agree(actual: Keypoints, service: tuple[str, torch.device], maps: Tensor, recipe: Recipe) -> None:
    """The keypoints of `maps`, decoded by the same backend: to the last bit where nothing was compiled otherwise."""
    if is_compiled(service):
        testing.assert_decodes_like_reference(actual, maps, recipe, testing.TRITON)
    else:
        expected = dark_kernels.decode(maps, recipe, actual.covariances is not None, service[0])
        testing.assert_same_keypoints(actual, expected)


def gaussians(
    centers: list[tuple[float, float]], sigmas: tuple[float, float], angle: float, size: tuple[int, int]
) -> Tensor:
    """Rotated Gaussian blobs with their centres where one likes: [1, K, H, W] in float64."""
    y, x = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in size), indexing="ij")
    maps = []
    for center_x, center_y in centers:
        along = math.cos(angle) * (x - center_x) + math.sin(angle) * (y - center_y)
        across = math.cos(angle) * (y - center_y) - math.sin(angle) * (x - center_x)
        maps.append(torch.exp(-0.5 * ((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2)))
    return torch.stack(maps)[None]


def pairs(distance: float, count: int = 300, second: float = 0.9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two Gaussians of sigma 2 a map, of peaks 1 and `second`, the larger of the two at each pixel: maps [1, N, H, W]
    and centres [N, 2, 2]."""
    generator = torch.Generator().manual_seed(seed)
    first = 14 + 12 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    centers = torch.stack([first, first + distance * torch.stack([angle.cos(), angle.sin()], -1)], 1)
    pixels = torch.arange(41, dtype=torch.float64)
    squares = (pixels - centers[..., 0, None, None]) ** 2 + (pixels[:, None] - centers[..., 1, None, None]) ** 2
    return (torch.tensor([1.0, second])[:, None, None] * torch.exp(-squares / 8)).amax(1)[None], centers


def off_and_astray(maps: Tensor, centers: Tensor, recipe: Recipe, backend: str = "auto") -> tuple[Tensor, int]:
    """How far the two peaks of each map are from their centres, and how many of them are nearer to the other one."""
    pixels = dark_kernels.find_peaks(maps, 2, 0.3, recipe=recipes.ARGMAX).coords[0]
    assert (pixels >= 0).all()
    coords = dark_kernels.find_peaks(maps, 2, 0.3, recipe=recipe, backend=backend).coords[0]
    whose = (pixels[:, :, None] - centers[:, None]).norm(dim=-1).argmin(-1, keepdim=True)
    distances = (coords[:, :, None] - centers[:, None]).norm(dim=-1)
    own, other = distances.gather(-1, whose)[..., 0], distances.gather(-1, 1 - whose)[..., 0]
    return own, int((other < own).sum())


def mirrored_disagreements(recipe: Recipe, threshold: float, backend: str) -> Tensor:
    """How far keypoints are from those of the mirrored image, mirrored back, in four pairs of real maps: [N, 2].

    Keypoints count whose peak is above the threshold in both.
    """
    example = dark_kernels.data.load()
    heatmaps = example.heatmaps.double()
    plain, mirrored = example.pairs()
    assert len(plain) == 4
    coords, scores, _ = dark_kernels.decode(heatmaps, recipe, backend=backend)
    back = coords[mirrored][:, COCO_FLIP]
    back[..., 0] = heatmaps.shape[-1] - 1 - back[..., 0]
    confident = torch.minimum(scores[plain], scores[mirrored][:, COCO_FLIP]) > threshold
    return (coords[plain] - back)[confident]
