"""All backends against the published target makers, and what is drawn where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import decode, encode, recipes

from .. import published
from ..conftest import SERVICES, is_compiled
from .cases import ENCODINGS, SIZE, TOLERANCE, make_keypoints

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
EVERY_ENCODING = pytest.mark.parametrize("encoding", ENCODINGS)
Service = tuple[str, torch.device]


def assert_like_published(
    keypoints: Tensor, visible: Tensor | None, sigma: float | Tensor, encoding: str, service: Service,
    size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    backend, device = service

    def there(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    heatmaps, weight = encode(
        keypoints.to(device), size, there(sigma) if isinstance(sigma, Tensor) else sigma, encoding, there(visible),
        dtype, backend,
    )  # fmt: skip
    people = keypoints[:, None] if keypoints.dim() == 3 else keypoints
    visibilities = None if visible is None else visible.view(people.shape[:-1]).numpy()
    spread = sigma.numpy() if isinstance(sigma, Tensor) else sigma
    expected, expected_weight = published.draw(people.numpy(), size, spread, encoding, visibilities)
    assert heatmaps.dtype == dtype
    assert heatmaps.is_contiguous()
    tolerance = 1e-14 if dtype == torch.float64 else TOLERANCE + torch.finfo(dtype).eps / 2
    np.testing.assert_allclose(heatmaps.cpu().double().numpy(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(weight.cpu().numpy(), expected_weight, rtol=1e-7)


# Three sigma is an integer, ends in a half, and in less than that.
@pytest.mark.parametrize("sigma", [2.0, 1.5, 1.1, torch.tensor([1.0, 2.0, 0.5, 3.0, 1.7, 0.0, -1.0, math.nan])])
@EVERY_ENCODING
@EVERY
def test_draws_what_is_published(sigma: float | Tensor, encoding: str, service: Service) -> None:
    interpreted = service[0] == "triton" and service[1].type == "cpu"
    keypoints, visible = make_keypoints(4 if interpreted else 60, None, 8, seed=1)
    assert_like_published(keypoints, visible, sigma, encoding, service)
    assert_like_published(keypoints[:2], None, sigma, encoding, service)


@EVERY_ENCODING
@EVERY
def test_several_people(encoding: str, service: Service) -> None:
    """The largest of their values, and of their visibilities."""
    keypoints, visible = make_keypoints(3, 4, 5, seed=2)
    keypoints[0, 0] = math.nan
    assert_like_published(keypoints, visible, 1.5, encoding, service)
    assert_like_published(keypoints, None, torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]), encoding, service)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@EVERY
def test_dtypes(dtype: torch.dtype, service: Service) -> None:
    if dtype == torch.bfloat16 and service[0] == "triton" and not is_compiled(service[1]):
        pytest.skip("Triton's interpreter has no bfloat16")
    keypoints, visible = make_keypoints(2, None, 4, seed=3)
    # float64 keypoints for float64 heatmaps, and keypoints of half a precision for halves.
    keypoints = keypoints.to(dtype).to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert_like_published(keypoints, visible, 2.0, "udp", service, dtype=dtype)


@EVERY
def test_rounds_towards_zero(service: Service) -> None:
    """-0.6 + 0.5 is -0.1, which is pixel 0 as 0.4 is; 2.5 is pixel 3."""
    backend, device = service
    keypoints = torch.tensor([[[-0.6, 2.5], [0.4, 3.4], [-1.4, -1.5]]], device=device)
    heatmaps, weight = encode(keypoints, (7, 8), 1.0, "biased", backend=backend)
    assert heatmaps[0, 0, 3, 0] == 1
    assert torch.equal(heatmaps[0, 0], heatmaps[0, 1])
    assert heatmaps[0, 2, 0, 0] < 1  # trunc(-0.9) is 0, trunc(-1) is -1
    assert heatmaps[0, 2, 0, 0] == heatmaps[0, 2].max()
    assert bool((weight == 1).all())


@EVERY
def test_the_peak_of_biased_targets_is_exactly_one(service: Service) -> None:
    backend, device = service
    keypoints = torch.rand(5, 7, 2, device=device) * torch.tensor([13.4, 10.4], device=device)
    heatmaps, _ = encode(keypoints, SIZE, torch.linspace(0.3, 4, 7, device=device), "biased", backend=backend)
    x, y = (keypoints + 0.5).long().unbind(-1)
    assert bool((heatmaps.flatten(2).gather(2, (y * SIZE[1] + x)[..., None]) == 1).all())
    assert int((heatmaps == 1).sum()) == 35


@EVERY
def test_windows_end_at_three_sigma(service: Service) -> None:
    """Seven pixels a side for a sigma of 1; the corner counts, the next pixel does not."""
    backend, device = service
    for encoding in ("biased", "udp"):
        heatmaps, _ = encode(torch.tensor([[[5.2, 6.3]]], device=device), (14, 14), 1.0, encoding, backend=backend)
        rows, columns = (heatmaps[0, 0] > 0).nonzero().unbind(1)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 9, 2, 8)
        assert len(rows) == 49


ABSENT = {
    "nan": (math.nan, 3.0),
    "inf": (3.0, math.inf),
    "-inf": (-math.inf, 3.0),
    "left": (-8.6, 3.0),
    "above": (3.0, -8.6),
    "right": (20.4, 3.0),
    "below": (3.0, 17.0),
    "far": (1e30, -1e30),
}


@EVERY_ENCODING
@EVERY
def test_absent_keypoints_draw_nothing(encoding: str, service: Service) -> None:
    """A map of zeros and a weight of 0; in company the others are drawn."""
    backend, device = service
    keypoints = torch.tensor([list(ABSENT.values())], device=device)
    heatmaps, weight = encode(keypoints, SIZE, 2.0, encoding, backend=backend)
    assert bool((heatmaps == 0).all())
    assert bool((weight == 0).all())
    crowd = torch.stack([keypoints, torch.full_like(keypoints, 4.0), keypoints], dim=1)
    heatmaps, weight = encode(crowd, SIZE, 2.0, encoding, backend=backend)
    alone, _ = encode(crowd[:, 1], SIZE, 2.0, encoding, backend=backend)
    assert torch.equal(heatmaps, alone)
    assert bool((weight == 1).all())


@EVERY
def test_a_window_that_ends_before_the_map_is_not_outside(service: Service) -> None:
    """In the published code a window up to and without pixel 0 counts, with a map of zeros; one pixel further it is
    outside. To the right a window from the first pixel that is not there is outside."""
    backend, device = service
    keypoints = torch.tensor([[[-8.0, 4.0], [-9.0, 4.0], [19.0, 4.0], [20.0, 4.0]]], device=device)
    heatmaps, weight = encode(keypoints, SIZE, 2.0, "biased", backend=backend)
    assert weight.tolist() == [[1, 0, 1, 0]]
    assert heatmaps.amax((2, 3)).gt(0).tolist() == [[False, False, True, False]]


@EVERY
def test_visibility(service: Service) -> None:
    """Drawn from 0.5 on; the weight is the visibility, at most 1. Any dtype."""
    backend, device = service
    keypoints = torch.full((1, 5, 2), 4.0, device=device)
    visible = torch.tensor([[0.0, 0.49, 0.5, 0.75, 2.0]], device=device)
    heatmaps, weight = encode(keypoints, SIZE, visible=visible, backend=backend)
    assert weight.tolist() == [[0, 0, 0.5, 0.75, 1]]
    assert heatmaps.amax((2, 3)).tolist() == [[0, 0, 1, 1, 1]]
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        flags = torch.tensor([[0, 1, 1, 0, 1]], device=device).to(dtype)
        _, weight = encode(keypoints, SIZE, visible=flags, backend=backend)
        assert weight.tolist() == [[0, 1, 1, 0, 1]]


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (0, 2, 3, 2), (2, 0, 3, 2), (2, 2, 0, 2)])
@EVERY
def test_nothing_to_draw(shape: tuple[int, ...], service: Service) -> None:
    backend, device = service
    heatmaps, weight = encode(torch.rand(shape, device=device), (4, 5), backend=backend)
    assert heatmaps.shape == (shape[0], shape[-2], 4, 5)
    assert weight.shape == (shape[0], shape[-2])
    assert bool((heatmaps == 0).all())
    assert bool((weight == 0).all())


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (64, 48), (73, 61)])
@EVERY_FUSED
def test_sizes(size: tuple[int, int], service: Service) -> None:
    keypoints, _ = make_keypoints(1, None, 2, size, seed=4)
    assert_like_published(keypoints, None, 2.0, "udp", service, size)


@EVERY_FUSED
def test_labels_of_any_strides(service: Service) -> None:
    backend, device = service
    keypoints, visible = (each.to(device) for each in make_keypoints(3, 2, 4, seed=5))
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    expected = encode(keypoints, SIZE, sigma, "udp", visible, backend=backend)
    strided = (
        torch.stack([keypoints, torch.full_like(keypoints, math.nan)], dim=-1)[..., 0],
        torch.stack([visible, visible], dim=0)[1].mT.contiguous().mT,
        sigma.flip(0).contiguous().flip(0),
    )
    actual = encode(strided[0], SIZE, strided[2], "udp", strided[1], backend=backend)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@EVERY_FUSED
def test_two_runs_agree_and_nothing_is_written_to(service: Service) -> None:
    backend, device = service
    keypoints, visible = (each.to(device) for each in make_keypoints(2, 2, 3, seed=6))
    before = keypoints.clone(), visible.clone()
    runs = [encode(keypoints, SIZE, 1.5, "unbiased", visible, backend=backend) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(keypoints, before[0])
    assert torch.equal(visible, before[1])


@pytest.mark.gpu
@EVERY_ENCODING
def test_triton_on_a_gpu(encoding: str, gpu: torch.device) -> None:
    keypoints, visible = make_keypoints(4, 2, 17, (96, 72), seed=7)
    assert_like_published(keypoints, visible, 2.0, encoding, ("triton", gpu), (96, 72))


# --- there and back --------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    height=st.integers(32, 65),
    width=st.integers(32, 65),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    sigma=st.floats(1.0, 3.0),
    encoding=st.sampled_from(["unbiased", "udp"]),
)
def test_decode_gives_back_what_was_encoded(
    height: int, width: int, x: float, y: float, sigma: float, encoding: str
) -> None:
    """Keypoints that are far enough from the border for the blur and the stencil to see all of the blob's middle."""
    margin = 10.0
    point = torch.tensor([[[margin + x * (width - 1 - 2 * margin), margin + y * (height - 1 - 2 * margin)]]])
    heatmaps, _ = encode(point, (height, width), sigma, encoding)
    coords = decode(heatmaps, recipes.DARKPOSE).coords
    # A window cuts values of e^-4.5 off, in places that depend on the rounding: of these targets decode is a little
    # less certain.
    torch.testing.assert_close(coords, point, rtol=0, atol=1e-3 if encoding == "unbiased" else 0.03)


@EVERY
def test_decode_gives_back_a_batch(service: Service) -> None:
    backend, device = service
    point = torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0)).to(device) * 20 + 10
    heatmaps, _ = encode(point, (40, 41), backend=backend)
    coords = decode(heatmaps, backend=backend).coords
    torch.testing.assert_close(coords, point, rtol=0, atol=1e-3)
