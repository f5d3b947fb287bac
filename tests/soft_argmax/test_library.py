"""What soft_argmax promises PyTorch beside the contract of all operations (tests/test_contract.py)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dark_kernels import soft_argmax, testing

from .cases import Case

OPERATORS = torch.ops.dark_kernels


def some_maps(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> Tensor:
    return Case(shape=(batch, 2, 5, 7), dtype=dtype, layout=layout).heatmaps(device)


# --- autograd --------------------------------------------------------------------------------------------


def test_what_is_kept_for_the_backward_pass() -> None:
    """The maps themselves and four numbers for each of them; nothing without a gradient."""
    heatmaps = some_maps()
    saved = soft_argmax(heatmaps).grad_fn.saved_tensors  # type: ignore[union-attr]
    assert saved[0].data_ptr() == heatmaps.data_ptr()
    assert [tuple(each.shape) for each in saved[1:]] == [(2, 2, 2), (2, 2), (2, 2)]
    assert not soft_argmax(heatmaps.detach()).requires_grad
    with torch.no_grad():
        assert not soft_argmax(heatmaps).requires_grad


def test_maps_that_change_before_the_backward_pass_are_noticed() -> None:
    heatmaps = some_maps() * 1
    coords = soft_argmax(heatmaps)
    heatmaps.detach().fill_(math.nan)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        coords.sum().backward()


# --- the kernels -----------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    from ..conftest import require_service

    return require_service("triton", request.param)


def test_outputs_are_written_whole(triton_device: torch.device) -> None:
    """Into memory that holds NaN."""
    from dark_kernels.soft_argmax import kernels

    heatmaps = some_maps(2, triton_device).detach()
    coords, peaks, totals = (torch.full(shape, math.nan, device=triton_device) for shape in ((2, 2, 2), (2, 2), (2, 2)))
    kernels.soft_argmax_fwd(coords, peaks, totals, heatmaps, 2.0)
    assert torch.equal(peaks, heatmaps.amax((-2, -1)))
    weights = torch.exp(2.0 * (heatmaps - peaks[..., None, None]))
    torch.testing.assert_close(totals, weights.sum((-2, -1)))
    larger = torch.full((3, 3, 7, 9), math.nan, device=triton_device)
    gradient = larger[1:, :-1, 1:-1, 2:]
    kernels.soft_argmax_bwd(gradient, torch.ones_like(coords), heatmaps, coords, peaks, totals, 2.0)
    assert bool(gradient.isfinite().all())
    assert int(larger.isfinite().sum()) == heatmaps.numel()


@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_maps_whose_rows_lie_more_than_2_to_the_31_apart(triton_device: torch.device) -> None:
    """Of the 4 GiB between them no page but two is ever touched on a CPU."""
    stride = 2**31 + 1024
    if triton_device.type != "cpu" and torch.cuda.mem_get_info(triton_device)[0] < 10 * 2**30:
        pytest.skip("less than 10 GiB of free device memory")
    maps = torch.rand(1, 1, 2, 7, generator=torch.Generator().manual_seed(0)).half().to(triton_device)
    storage = torch.empty(stride + 8, dtype=torch.float16, device=triton_device)
    heatmaps = storage.as_strided(maps.shape, (0, 0, stride, 1))
    heatmaps.copy_(maps)
    grad_coords = torch.ones(1, 1, 2, device=triton_device)
    results = []
    for each in (heatmaps, maps):
        saved = OPERATORS.soft_argmax(each, 3.0, "triton")
        gradient = torch.zeros_like(maps)
        from dark_kernels.soft_argmax import kernels

        kernels.soft_argmax_bwd(gradient, grad_coords, each, *saved, 3.0)
        results.append((*saved, gradient))
    # Another layout is another kernel, which may add up in another order.
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    if torch.cuda.mem_get_info(gpu)[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of free device memory")
    heatmaps = torch.full((1, 1, 46400, 46400), -100.0, dtype=torch.float16, device=gpu)
    blob = testing.gaussian_blobs(1, 1, 32, 32, seed=1).heatmaps.to(gpu, torch.float16) * 50
    heatmaps[..., -32:, -32:] = blob
    expected = soft_argmax(blob, backend="reference") + (46400 - 32)
    assert (soft_argmax(heatmaps) - expected).abs().max() < 0.1  # 46400 px has a rounding of 2e-3
