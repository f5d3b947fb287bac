"""The definition: published outputs, and spec and papers once more in NumPy, one axis at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dark_kernels import decode_simcc
from dark_kernels.recipes import opencv_taps, simcc_kernel_size
from dark_kernels.simcc import decode_simcc_reference

from ..conftest import GOLDEN_SERVICES, require_service
from .cases import make_axis

DATA = Path(__file__).parent.parent / "data"
FILES = ("simcc_small", "simcc_tie")
VARIANTS: dict[str, dict[str, Any]] = {
    "mmpose_simcc": {},
    "mmpose_simcc_dark": {"dark": True},
    "mmpose_simcc_vis": {"visibility": True},
    "rtmlib_simcc": {"score": "mean"},
}


def test_every_published_output_is_compared() -> None:
    for name in FILES:
        with np.load(DATA / f"{name}.npz") as file:
            assert {entry.split("/")[0] for entry in file.files if "/" in entry} == set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("backend", "kind", "dtype"), GOLDEN_SERVICES)
def test_published_outputs(name: str, variant: str, backend: str, kind: str, dtype: torch.dtype) -> None:
    device = require_service(backend, kind)
    with np.load(DATA / f"{name}.npz") as file:
        axes = [torch.from_numpy(file[axis]).to(device, dtype) for axis in ("simcc_x", "simcc_y")]
        sigma = tuple(file["sigma"].tolist())
        bins, scores = (torch.from_numpy(file[f"{variant}/{what}"]).double() for what in ("bins", "scores"))
        visibility = torch.from_numpy(file[f"{variant}/visibility"]) if variant == "mmpose_simcc_vis" else None
    for split_ratio in (1.0, 2.0):
        actual = decode_simcc(*axes, sigma, **VARIANTS[variant], split_ratio=split_ratio, backend=backend)
        valid = scores > 0
        assert valid.sum() == 17
        assert (actual.coords.cpu().double() * split_ratio - bins)[valid].abs().max() <= 1e-4
        torch.testing.assert_close(actual.scores.cpu().double(), scores, rtol=4e-7, atol=0)
        assert (actual.visibility is None) == (visibility is None)
        if visibility is not None:
            assert actual.visibility is not None
            # Their product with 150 is rounded to float32 before the largest is subtracted: 8e-6, times 5.66.
            assert (actual.visibility.cpu() - visibility).abs().max() <= 5e-5


# --- once more, one axis at a time -----------------------------------------------------------------------


def smoothed(axis: NDArray[np.float64], kernel_size: int) -> NDArray[np.float64]:
    """OpenCV's Gaussian of that size, with zeros beyond the ends."""
    tables = {
        1: [1], 3: [1, 2, 1], 5: [1, 4, 6, 4, 1], 7: [2, 7, 14, 18, 14, 7, 2], 9: [4, 13, 30, 51, 60, 51, 30, 13, 4],
    }  # fmt: skip
    if kernel_size in tables:
        taps = np.array(tables[kernel_size], dtype=np.float64)
    else:
        distance = np.arange(kernel_size) - kernel_size // 2
        taps = np.exp(-0.5 * (distance / (0.3 * ((kernel_size - 1) / 2 - 1) + 0.8)) ** 2)
    radius = kernel_size // 2
    return np.convolve(np.pad(axis, radius), taps / taps.sum(), mode="valid")


def refined(axis: NDArray[np.float64], sigma: float) -> float:
    index = int(axis.argmax())
    kernel_size = int((20 * sigma - 7) // 3)
    kernel_size -= kernel_size % 2 == 0
    blurred = smoothed(axis, kernel_size)
    if blurred.max() > 0:
        blurred = blurred * axis.max() / blurred.max()
    logs = np.pad(np.log(np.clip(blurred, 1e-3, 50)), 2, mode="edge")
    at = index + 2
    first = (logs[at + 1] - logs[at - 1]) / 2
    second = (logs[at + 2] - 2 * logs[at] + logs[at - 2]) / 4
    return index - first / (1e-9 + second)


@pytest.mark.parametrize("sigma", [0.5, 0.9, 1.3, 1.5, 1.7, 2.0, 4.9])
def test_refinement_step_by_step(sigma: float) -> None:
    kinds = ("blob", "noisy_blob", "noise", "weak_blob", "strong_noise", "huge")
    axis = make_axis(kinds, (2, 12), 45, torch.float64, seed=3)
    coords, _, _ = decode_simcc_reference(axis, axis.flip(0), sigma, dark=True)
    for b in range(2):
        for k in range(12):
            expected = [refined(axis[i, k].numpy(), sigma) for i in (b, 1 - b)]
            assert coords[b, k].tolist() == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_an_off_centre_blob_is_found() -> None:
    """The log of a Gaussian that has been smoothed by a Gaussian is a parabola, of which a Newton step is exact."""
    bins = torch.arange(384, dtype=torch.float64)
    axis = torch.exp(-0.5 * ((bins - 131.37) / 4.9) ** 2)[None, None]
    coords, scores, _ = decode_simcc_reference(axis, axis, 4.9, dark=True, split_ratio=2.0)
    assert coords[0, 0].tolist() == pytest.approx([131.37 / 2] * 2, abs=1e-3)
    assert scores.item() == axis.max().item()


def test_visibility_and_scores_by_hand() -> None:
    simcc_x, simcc_y = torch.tensor([[[0.0, 1.0]]]).double(), torch.tensor([[[0.5, 0.5, 0.25]]]).double()
    coords, scores, visibility = decode_simcc_reference(simcc_x, simcc_y, (2.0, 3.0), visibility=True, beta=0.5)
    of_x, of_y = 1 / (1 + math.exp(-0.5 * 2 * 1)), 1 / (2 + math.exp(-0.5 * 3 * 0.25))
    assert visibility is not None
    assert visibility.item() == pytest.approx(min(of_x, of_y), rel=1e-12)
    assert coords.tolist() == [[[1.0, 0.0]]]
    assert scores.item() == 0.5
    assert decode_simcc_reference(simcc_x, simcc_y, score="mean")[1].item() == 0.75


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_scores_of_logits_by_hand(activation: str) -> None:
    simcc_x, simcc_y = torch.tensor([[[0.0, -1.0, -3.0]]]).double(), torch.tensor([[[-0.5, 2.0]]]).double()
    options: dict[str, Any] = {"activation": activation, "logit_scale": 3.0}
    coords, scores, _ = decode_simcc_reference(simcc_x, simcc_y, **options)
    of_x, of_y = 0.5, 1 / (1 + math.exp(-6))
    if activation == "softmax":
        of_x, of_y = 1 / (1 + math.exp(-3) + math.exp(-9)), 1 / (1 + math.exp(-7.5))
    assert scores.item() == pytest.approx(min(of_x, of_y), rel=1e-12)
    assert coords.tolist() == [[[0.0, 1.0]]]
    mean = decode_simcc_reference(simcc_x, simcc_y, score="mean", **options)[1]
    assert mean.item() == pytest.approx((of_x + of_y) / 2, rel=1e-12)


def test_what_is_said_of_the_scores_of_targets() -> None:
    """In the docstring and in the README: of RTMPose's for crops of 256 x 192 pixels, and of flat axes."""
    targets = [
        torch.exp(-0.5 * ((torch.arange(width) - width // 2) / sigma) ** 2)[None, None]
        for width, sigma in ((384, 4.9), (512, 5.66))
    ]
    options: dict[str, Any] = {"activation": "softmax", "logit_scale": 10.0}
    assert decode_simcc(*targets, **options).scores.item() == pytest.approx(0.21, abs=0.005)
    flat = torch.full((1, 1, 500), -2.0)
    assert decode_simcc(flat, flat, **options).scores.item() == pytest.approx(1 / 500, rel=1e-6)


def test_kernel_sizes() -> None:
    """mmpose's codec at the sigmas of its configs, and where a rounding would decide."""
    sizes = {0.49: -1, 0.5: 1, 0.7: 1, 0.8: 3, 2.0: 11, 4.9: 29, 5.66: 35, 6.0: 37, 6.93: 43}
    assert {sigma: simcc_kernel_size(sigma) for sigma in sizes} == sizes
    for size in (1, 3, 5, 7, 9, 11, 29):
        taps = opencv_taps(size)
        assert len(taps) == size // 2 + 1
        assert taps[0] + 2 * sum(taps[1:]) == pytest.approx(1, abs=1e-15)
