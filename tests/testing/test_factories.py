"""Heatmaps to test with are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from dark_kernels import testing


def test_blobs_have_their_centres_and_covariances() -> None:
    blobs = testing.gaussian_blobs(2, 3, 40, 50, (1.5, 3.0), margin=15.0, seed=1, peak=0.7)
    assert blobs.heatmaps.shape == (2, 3, 40, 50)
    assert blobs.heatmaps.dtype == torch.float64
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    at = torch.stack([x, y], -1).double()
    weights = blobs.heatmaps / blobs.heatmaps.sum((-2, -1), keepdim=True)
    means = torch.einsum("bkhw,hwc->bkc", weights, at)
    apart = at - blobs.centers[:, :, None, None]
    covariances = torch.einsum("bkhw,bkhwc,bkhwd->bkcd", weights, apart, apart)
    assert (means - blobs.centers).abs().max() < 1e-3
    assert (covariances - blobs.covariances).abs().max() < 1e-2
    assert torch.linalg.eigvalsh(blobs.covariances)[0, 0].tolist() == pytest.approx([2.25, 9.0])
    assert blobs.centers.amin() >= 15
    assert blobs.heatmaps.max() <= 0.7


def test_blobs_fit_into_maps_smaller_than_their_margin() -> None:
    blobs = testing.gaussian_blobs(1, 2, 5, 1, dtype=torch.float16)
    assert blobs.heatmaps.dtype == torch.float16
    assert blobs.centers[..., 0].tolist() == [[0.0, 0.0]]
    assert blobs.centers[..., 1].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("kind", sorted(testing.VALUE_KINDS))
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_kinds_are_made_anew_from_a_seed(kind: str, size: tuple[int, int]) -> None:
    one, again, other = (
        testing.heatmaps_of_kinds([kind], 2, 3, *size, seed=seed, dtype=torch.float64) for seed in (1, 1, 2)
    )
    assert one.shape == (2, 3, *size)
    assert torch.equal(one.nan_to_num(9.0), again.nan_to_num(9.0))
    if size != (1, 1) and kind not in ("zeros", "all_minus_infinite", "one_pixel", "both_infinite", "some_infinite"):
        assert not torch.equal(one, other)


def test_kinds_are_what_they_are_called() -> None:
    def of(kind: str) -> torch.Tensor:
        return testing.heatmaps_of_kinds([kind], 1, 20, 16, 12, seed=3, dtype=torch.float64)

    assert (of("zeros") == 0).all()
    assert (of("negative") < 0).all()
    assert of("some_nan").isnan().flatten(2).any(-1).all()
    assert (of("some_infinite") == math.inf).flatten(2).any(-1).all()
    assert (of("some_minus_infinite") == -math.inf).flatten(2).any(-1).all()
    assert (of("ties").flatten(2).sort(-1).values.diff(dim=-1) == 0).any(-1).all()
    assert of("weak_blob").amax() < 6e-3
    assert of("huge").amax() > 1e29
    assert 0 < of("tiny").amax() < 1e-29
    assert (of("constant").flatten(2).diff(dim=-1) == 0).all()


def test_no_maps() -> None:
    assert testing.heatmaps_of_kinds(["noise"], 0, 3, 4, 5).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 1, 7, 2)])
@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
def test_layouts_keep_the_values(layout: str, shape: tuple[int, ...]) -> None:
    maps = torch.rand(shape)
    laid_out = testing.with_layout(maps, layout)
    assert laid_out.shape == maps.shape
    if layout == "expanded_keypoints":
        maps = maps[:, :1].expand(shape)
    elif layout == "expanded_batch":
        maps = maps[:1].expand(shape)
    elif layout == "expanded_rows":
        maps = maps[:, :, :1].expand(shape)
    elif layout == "expanded_columns":
        maps = maps[..., :1].expand(shape)
    assert torch.equal(laid_out, maps)


def test_layouts_are_laid_out() -> None:
    maps = torch.rand(2, 3, 4, 5)
    strides = {layout: testing.with_layout(maps, layout).stride() for layout in testing.LAYOUTS}
    assert strides["contiguous"] == strides["offset"] == (60, 20, 5, 1)
    assert strides["channels_last"] == (60, 1, 15, 3)
    assert strides["transposed"] == (60, 20, 1, 4)
    assert strides["batch_innermost"][0] == 1
    assert strides["keypoints_outermost"] == (20, 40, 5, 1)
    assert strides["expanded_batch"][0] == strides["expanded_keypoints"][1] == 0
    assert strides["expanded_rows"][2] == strides["expanded_columns"][3] == 0
    assert strides["sliced"][3] == 3
    assert testing.with_layout(maps, "offset").storage_offset() == 5
    assert testing.with_layout(maps, "sliced").storage_offset() > 0
