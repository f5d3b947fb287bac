"""decode_offsets(): UDP's combined heatmaps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import testing

from ..conftest import SERVICES_WITH_LOOPS

DATA = Path(__file__).parent.parent / "data"


def combined(batch: int, num_keypoints: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Disks of radius 3 around random pixels, in noise, and random offsets."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.rand(batch, num_keypoints, 3, height, width, generator=generator) * 0.1
    y, x = torch.arange(height)[:, None], torch.arange(width)
    for b in range(batch):
        for k in range(num_keypoints):
            center_y, center_x = (int(torch.randint(size, (), generator=generator)) for size in (height, width))
            maps[b, k, 0] += ((y - center_y) ** 2 + (x - center_x) ** 2 <= 9).float()
    maps[:, :, 1:] = torch.rand(maps[:, :, 1:].shape, generator=generator) * 2 - 1
    return maps.flatten(1, 2).to(device)


def by_hand(heatmaps: Tensor, kernel_size: int, factor: float) -> tuple[Tensor, Tensor]:
    """The published steps in NumPy, map by map: blur with reflected borders, argmax, offset."""
    batch, channels, height, width = heatmaps.shape
    size = 2 * kernel_size + 1
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    distance = np.arange(size) - kernel_size
    taps = np.exp(-(distance**2) / (2 * sigma**2)) if size > 9 else np.array(
        {3: [1, 2, 1], 5: [1, 4, 6, 4, 1], 7: [2, 7, 14, 18, 14, 7, 2], 9: [4, 13, 30, 51, 60, 51, 30, 13, 4]}[size],
        dtype=np.float64,
    )  # fmt: skip
    taps = taps / taps.sum()
    coords, scores = torch.empty(batch, channels // 3, 2), torch.empty(batch, channels // 3)
    for b in range(batch):
        for k in range(channels // 3):
            disk, offset_x, offset_y = heatmaps[b, 3 * k : 3 * k + 3].double().numpy()
            padded = np.pad(disk, kernel_size, mode="reflect")
            rows = np.stack([np.convolve(row, taps, mode="valid") for row in padded])
            blurred = np.stack([np.convolve(column, taps, mode="valid") for column in rows.T]).T
            y, x = np.unravel_index(blurred.argmax(), blurred.shape)
            reach = factor * max(height, width)
            coords[b, k, 0] = x + offset_x[y, x] * reach
            coords[b, k, 1] = y + offset_y[y, x] * reach
            scores[b, k] = blurred[y, x]
    return coords, scores


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_published_outputs(service: tuple[str, torch.device]) -> None:
    backend, device = service
    with np.load(DATA / "udp_combined_small.npz") as file:
        heatmaps, coords, scores = (torch.from_numpy(file[name]) for name in ("heatmaps", "coords", "scores"))
    if backend == "triton" and device.type == "cpu":  # a second a map
        heatmaps, coords, scores = heatmaps[:, :9], coords[:, :3], scores[:, :3]
    keypoints = dark_kernels.decode_offsets(heatmaps.to(device), backend=backend)
    assert (scores > 0).all()
    assert (keypoints.coords.cpu() - coords).abs().max() <= 1e-4
    torch.testing.assert_close(keypoints.scores.cpu(), scores, rtol=1e-6, atol=0)
    assert keypoints.covariances is None


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 8, 11])
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_as_written_by_hand(kernel_size: int, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = combined(2, 1, 17, 19)
    with testing.assert_unchanged(heatmaps):
        keypoints = dark_kernels.decode_offsets(heatmaps.to(device), kernel_size, 0.1, backend)
    coords, scores = by_hand(heatmaps, kernel_size, 0.1)
    # The peak's pixel is the same, so what is left is the rounding of the offset's product and sum.
    assert (keypoints.coords.cpu() - coords).abs().max() < 4 * 2**-24 * 30
    torch.testing.assert_close(keypoints.scores.cpu(), scores, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "offset"])
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS[1:], indirect=True)
def test_layout_does_not_matter(layout: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = combined(2, 2, 14, 11, device)
    actual = dark_kernels.decode_offsets(testing.with_layout(heatmaps, layout), 3, backend=backend)
    expected = dark_kernels.decode_offsets(heatmaps, 3, backend=backend)
    torch.testing.assert_close(actual.coords, expected.coords, rtol=0, atol=0)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_dtypes(dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = combined(1, 2, 14, 11, device).to(dtype)
    actual = dark_kernels.decode_offsets(heatmaps, 3, backend=backend)
    expected = dark_kernels.decode_offsets(heatmaps.double(), 3, backend="reference")
    assert actual.coords.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.coords.double(), expected.coords, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.scores.double(), expected.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_what_has_no_keypoint_and_what_has_no_offset(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = combined(1, 6, 12, 12, device).view(6, 3, 12, 12)
    heatmaps[0, 0] = 0.0
    heatmaps[1, 0] = -1.0
    heatmaps[2, 0, 5, 5] = math.nan
    heatmaps[3, 1] = math.nan
    heatmaps[4, 2] = math.inf
    heatmaps[5, 0, 6, 7] = math.inf
    keypoints = dark_kernels.decode_offsets(heatmaps.view(1, 18, 12, 12), 3, backend=backend)
    assert (keypoints.coords[0, :3] == -1).all()
    assert keypoints.scores[0, :2].tolist() == [0, pytest.approx(-1)]
    assert keypoints.scores[0, 2].isnan()
    assert keypoints.coords.isfinite().all()
    assert torch.equal(keypoints.coords[0, 3:], keypoints.coords[0, 3:].round())
    assert keypoints.coords[0, 5].tolist() == [7, 6]


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_keypoints_in_the_image(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = combined(2, 2, 14, 11, device)
    transform = torch.tensor([[4.0, 0, 10], [0, 4, 20]], device=device).expand(2, 2, 3)
    actual = dark_kernels.decode_offsets(heatmaps, 3, backend=backend, image_transform=transform)
    plain = dark_kernels.decode_offsets(heatmaps, 3, backend=backend)
    expected = plain.coords * 4 + torch.tensor([10.0, 20], device=device)
    torch.testing.assert_close(actual.coords, expected, rtol=1e-6, atol=0)


def test_sizes(device: torch.device) -> None:
    assert dark_kernels.decode_offsets(torch.empty(0, 6, 5, 4, device=device)).coords.shape == (0, 2, 2)
    assert dark_kernels.decode_offsets(torch.empty(2, 0, 5, 4, device=device)).coords.shape == (2, 0, 2)
    one = torch.tensor([0.5, 0.25, -0.5], device=device).view(1, 3, 1, 1)
    keypoints = dark_kernels.decode_offsets(one, radius_factor=0.1)
    torch.testing.assert_close(keypoints.coords.cpu(), torch.tensor([[[0.025, -0.05]]]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"heatmaps": torch.rand(1, 4, 5, 5)}, ValueError, r"heatmaps: got shape \[1, 4, 5, 5\], expected \[B, 3 K"),
        ({"heatmaps": torch.rand(5, 5)}, ValueError, "heatmaps: got shape"),
        ({"heatmaps": torch.zeros(1, 3, 5, 5).int()}, TypeError, "heatmaps: got torch.int32"),
        ({"kernel_size": 0}, ValueError, "kernel_size: got 0"),
        ({"kernel_size": 2.5}, TypeError, "kernel_size: got float 2.5"),
        ({"radius_factor": 0.0}, ValueError, "radius_factor: got 0"),
        ({"radius_factor": math.nan}, ValueError, "radius_factor: got nan"),
        ({"backend": "cuda"}, ValueError, "backend: got 'cuda'"),
        ({"image_transform": torch.zeros(1, 3, 3)}, ValueError, "image_transform: got shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dark_kernels.decode_offsets(**{"heatmaps": torch.rand(1, 3, 5, 5), **arguments})
