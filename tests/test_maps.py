"""Rows of flat indices: found by a product with a reciprocal, they are those of the division."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dark_kernels import decode, recipes, testing

from .conftest import is_compiled, require_service

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
maps = pytest.importorskip("dark_kernels._triton.maps")
row_of = maps.row_of


@triton.jit
def _rows_kernel(rows_ptr, index_ptr, width, BLOCK_SIZE: tl.constexpr, USES_RECIPROCAL: tl.constexpr):
    lane = tl.arange(0, BLOCK_SIZE)
    tl.store(rows_ptr + lane, row_of(tl.load(index_ptr + lane), width, USES_RECIPROCAL))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    return require_service("triton", request.param)


def uses_reciprocal(height: int, width: int, step: int = 0) -> bool:
    heatmaps = torch.empty((1, 1, height, width), device="meta")
    return maps.index_flags(heatmaps, heatmaps, step)["USES_RECIPROCAL"]


# The last one: the largest that two rows can have.
WIDTHS = (2, 3, 7, 48, 64, 72, 191, 192, 193, 255, 257, 333, 511, 720, 1023, 1625, 4099, 40961, 46340)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_products_find_the_rows_of_the_largest_maps(dtype: torch.dtype, triton_device: torch.device) -> None:
    for width in WIDTHS:
        height = 2**32 // width**2
        assert uses_reciprocal(height, width)
        assert not uses_reciprocal(height + 1, width)
        # The first and the last pixels of 512 rows, of which the last is the map's.
        rows = torch.linspace(0, height - 1, 512, dtype=torch.float64).long()
        index = torch.cat([rows * width, rows * width + width - 1]).to(dtype)
        index = index.clamp(max=torch.iinfo(torch.int32).max)
        found = torch.empty_like(index, device=triton_device)
        _rows_kernel[(1,)](found, index.to(triton_device), width, BLOCK_SIZE=1024, USES_RECIPROCAL=True)
        assert torch.equal(found.cpu(), index // width), width


def test_maps_that_rows_are_divided_for() -> None:
    assert uses_reciprocal(64, 48)
    assert uses_reciprocal(1024, 1024)
    assert not uses_reciprocal(64, 1)  # the reciprocal is 2^32
    assert not uses_reciprocal(2048, 2048)
    assert uses_reciprocal(1290, 1290)
    assert uses_reciprocal(1290, 1290, step=2**20)
    assert not uses_reciprocal(1290, 1290, step=2**21)


@pytest.mark.parametrize("layout", ["transposed", "flip test"])
def test_both_ways_give_the_same_keypoints(
    layout: str, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dark_kernels.decode import kernels

    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "weak_blob", "ties"], 1, 3, 19, 11, seed=9).to(triton_device)
    flags = []

    def found() -> tuple[Tensor, Tensor]:
        if layout == "transposed":
            coords, scores, _ = decode(heatmaps.mT, recipes.DARKPOSE, backend="triton")
        else:
            mirrored = {"flipped": heatmaps.flip(-1), "flip_indices": [1, 0, 2], "shift_flipped": True}
            coords, scores, _ = decode(heatmaps, recipes.DARKPOSE, backend="triton", **mirrored)
        return coords, scores

    def divided(*arguments: object) -> dict[str, bool]:
        flags.append(maps.index_flags(*arguments))
        return {**flags[-1], "USES_RECIPROCAL": False}

    expected = found()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "index_flags", divided)
        patch.setattr(kernels, "launch_key", lambda *_: None)
        # On a device these are two kernels, each of which fuses as it likes.
        atol = 1e-4 if is_compiled(triton_device) else 0
        for one, other in zip(found(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=atol)
    assert [each["USES_RECIPROCAL"] for each in flags] == [True]
