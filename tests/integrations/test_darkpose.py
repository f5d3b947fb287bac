"""DarkPose's function: its published outputs, what it is called with, and what differs on purpose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels import recipes, testing, transforms
from dark_kernels.decode.reference import decode_reference
from dark_kernels.integrations._recipes import with_kernel_size
from dark_kernels.integrations.darkpose import get_final_preds

DATA = Path(__file__).parents[1] / "data"


def config(kernel_size: int = 11) -> SimpleNamespace:
    return SimpleNamespace(TEST=SimpleNamespace(BLUR_KERNEL=kernel_size))


def crops(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.uniform(50, 400, (count, 2)), generator.uniform(0.5, 2.5, (count, 2))


@pytest.mark.parametrize("case", ["small", "border", "odd", "tie", "zero"])
def test_published_outputs(case: str) -> None:
    """Maps without a positive peak included: what is published for them is the corner of the crop."""
    with np.load(DATA / f"{case}.npz") as file:
        hm, center, scale = (file[name].copy() for name in ("heatmaps", "center", "scale"))
        expected, scores = file["darkpose_k11/image_coords"], file["darkpose_k11/scores"]
    untouched = hm.copy()
    preds, maxvals = get_final_preds(config(), hm, center, scale)
    assert (preds.dtype, maxvals.dtype) == (np.float32, np.float32)
    assert (preds.shape, maxvals.shape) == (expected.shape, (*scores.shape, 1))
    # 1e-4 heatmap pixels, and three roundings of numbers below 512.
    factor = (200 * scale[0, 0] - 1) / (hm.shape[3] - 1)
    np.testing.assert_allclose(preds, expected, rtol=0, atol=1e-4 * factor + 3 * 512 * 2.0**-24)
    np.testing.assert_array_equal(maxvals[..., 0], scores)
    np.testing.assert_array_equal(hm, untouched)


@pytest.mark.parametrize("kernel_size", [3, 9, 11, 17])
def test_kernel_sizes(kernel_size: int, device: torch.device) -> None:
    """Against the definition, in float64; the config's kernel size, and both coordinates by the width's factor."""
    hm = testing.gaussian_blobs(3, 5, 24, 18, seed=1).heatmaps.double().to(device)
    center, scale = crops(3)
    preds, maxvals = get_final_preds(config(kernel_size), hm, center, scale)
    assert (preds.dtype, preds.device.type) == (torch.float64, device.type)
    coords, scores, _ = decode_reference(hm, with_kernel_size(recipes.DARKPOSE, kernel_size), False)
    matrices = transforms.darkpose(torch.from_numpy(center), torch.from_numpy(scale), (18, 24)).to(device)
    torch.testing.assert_close(preds, coords @ matrices[:, :, :2].mT + matrices[:, None, :, 2], rtol=0, atol=1e-6)
    torch.testing.assert_close(maxvals[..., 0], scores)


def test_arrays_and_tensors_agree(device: torch.device) -> None:
    hm = testing.gaussian_blobs(4, 5, 24, 18, seed=2).heatmaps
    center, scale = crops(4)
    preds, maxvals = get_final_preds(config(), hm.numpy(), center, scale)
    tensors = get_final_preds(config(), hm.to(device), torch.from_numpy(center).to(device), torch.from_numpy(scale))
    for tensor, array in zip(tensors, (preds, maxvals), strict=True):
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.device.type == device.type
        # On a device the transform is computed in float32 as well: five roundings of numbers below 1024.
        np.testing.assert_allclose(tensor.cpu().numpy(), array, rtol=0, atol=5 * 1024 * 2.0**-24)


@pytest.mark.parametrize("as_list", [list, lambda array: [torch.from_numpy(row) for row in array], np.ndarray.tolist])
def test_lists_of_crops(as_list: Any) -> None:
    hm = testing.gaussian_blobs(2, 3, 24, 18, seed=3).heatmaps.numpy()
    center, scale = crops(2)
    expected = get_final_preds(config(), hm, center, scale)[0]
    np.testing.assert_array_equal(get_final_preds(config(), hm, as_list(center), as_list(scale))[0], expected)


def test_square_crops() -> None:
    hm = testing.gaussian_blobs(2, 3, 24, 18, seed=3).heatmaps.numpy()
    center, scale = crops(2)
    square = np.stack([scale[:, 0], scale[:, 0]], axis=-1)
    expected = get_final_preds(config(), hm, center, square)[0]
    np.testing.assert_array_equal(get_final_preds(config(), hm, center, scale[:, 0])[0], expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes_of_arrays(dtype: Any) -> None:
    hm = testing.gaussian_blobs(2, 3, 24, 18, seed=4).heatmaps.numpy().astype(dtype)
    preds, maxvals = get_final_preds(config(), hm, *crops(2))
    assert (preds.dtype, maxvals.dtype) == (np.float32, dtype)
    np.testing.assert_array_equal(maxvals[..., 0], hm.max((2, 3)))


def test_arrays_that_torch_does_not_read() -> None:
    """A mirrored view, which DarkPose's own `flip_back` returns, and one that can't be written."""
    hm = testing.gaussian_blobs(2, 3, 24, 18, seed=5).heatmaps.numpy()
    expected = get_final_preds(config(), hm[..., ::-1].copy(), *crops(2))[0]
    mirrored = hm[..., ::-1]
    mirrored.flags.writeable = False
    np.testing.assert_array_equal(get_final_preds(config(), mirrored, *crops(2))[0], expected)


def test_maps_without_a_keypoint() -> None:
    hm = np.zeros((1, 3, 24, 18), dtype=np.float32)
    hm[0, 1] = -1.0
    hm[0, 2, 5, 5] = np.nan
    preds, maxvals = get_final_preds(config(), hm, [[100.0, 50.0]], [[1.0, 1.0]])
    factor = 199 / 17
    corner = [100 - 17 / 2 * factor, 50 - 23 / 2 * factor]
    np.testing.assert_allclose(preds, [[corner] * 3], rtol=1e-6)
    np.testing.assert_array_equal(maxvals[0, :, 0], [0.0, -1.0, np.nan])


def test_no_crops() -> None:
    preds, maxvals = get_final_preds(config(), np.zeros((0, 3, 24, 18), np.float32), np.zeros((0, 2)), np.zeros((0, 2)))
    assert (preds.shape, maxvals.shape) == ((0, 3, 2), (0, 3, 1))


def test_what_is_refused() -> None:
    hm = np.zeros((2, 3, 24, 18), dtype=np.float32)
    center, scale = crops(2)
    with pytest.raises(ValueError, match=r"center: got shape \[1, 2\], expected \[2, 2\], one for each of the maps"):
        get_final_preds(config(), hm, center[:1], scale)
    with pytest.raises(ValueError, match=r"scale: got shape \[2, 3\], expected \[2, 2\]"):
        get_final_preds(config(), hm, center, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"kernel_size: got 10, expected an odd positive int"):
        get_final_preds(config(10), hm, center, scale)
    with pytest.raises(TypeError, match=r"hm: got uint8 numbers, expected an array or a tensor of floats"):
        get_final_preds(config(), hm.astype(np.uint8), center, scale)
