"""The operator's contract with PyTorch: opcheck, fake tensors, torch.compile, torch.export."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dark_kernels
from dark_kernels import Peaks, recipes, testing
from dark_kernels.peaks.library import find_peaks_operator

from ..conftest import SERVICES

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def maps(batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    # Two blobs a map and two slots, so that no covariance is NaN: opcheck takes two NaN for different.
    blobs = testing.gaussian_blobs(batch, 4, 15, 13, margin=6, seed=1).heatmaps
    return torch.cat(blobs.chunk(2, dim=1), dim=3).to(device, dtype)


def operator_arguments(recipe: dark_kernels.Recipe, covariance: bool, backend: str) -> tuple[Any, ...]:
    return (2, 0.125, 3, "first", *recipe.operator_arguments, covariance, backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
def test_opcheck(dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    is_interpreted = backend == "triton" and device.type == "cpu"
    heatmaps = maps(1, device, dtype)[:, : 1 if is_interpreted else 2]
    for recipe, covariance in ((recipes.MMPOSE_UDP, True), (recipes.QUARTER, False)):
        torch.library.opcheck(find_peaks_operator, (heatmaps, *operator_arguments(recipe, covariance, backend)))


def test_opcheck_of_another_layout_and_of_smoothed_maps() -> None:
    heatmaps = testing.with_layout(maps(), "channels_last")
    for recipe, covariance in ((recipes.DARKPOSE, True), (recipes.MEGVII, False)):
        torch.library.opcheck(find_peaks_operator, (heatmaps, *operator_arguments(recipe, covariance, "eager")))


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (0, 3, 13, 11), (2, 0, 13, 11), (1, 1, 2, 1)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("covariance", [False, True])
def test_fakes_are_like_the_real_outputs(
    shape: tuple[int, ...], dtype: torch.dtype, covariance: bool, device: torch.device
) -> None:
    heatmaps = torch.rand(shape, device=device).to(dtype)
    real = dark_kernels.find_peaks(heatmaps, 7, covariance=covariance)
    with FakeTensorMode() as mode:
        fake = dark_kernels.find_peaks(mode.from_tensor(heatmaps), 7, covariance=covariance)
    meta = dark_kernels.find_peaks(heatmaps.to("meta"), 7, covariance=covariance)
    for one, other, third in zip(real, fake, meta, strict=True):
        if one is None:
            assert other is None
            assert third is None
            continue
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert (one.shape, one.stride(), one.dtype) == (third.shape, third.stride(), third.dtype)
        assert one.device.type == other.device.type


def peaks_and_more(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """find_peaks with an operation before and after it."""
    peaks = dark_kernels.find_peaks(heatmaps * 0.5, 3, threshold=0.0625, recipe=recipes.MMPOSE_UDP, covariance=True)
    assert peaks.covariances is not None
    is_used = torch.arange(3, device=heatmaps.device) < peaks.counts[..., None]
    return torch.where(is_used[..., None], peaks.coords * 4 + 1.5, 0.0), peaks.scores, peaks.covariances


@pytest.mark.slow
def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(peaks_and_more, fullgraph=True, dynamic=True)
    compiled(maps(3, device))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (3, 4, 7):
            heatmaps = maps(batch, device)
            expected = peaks_and_more(heatmaps)
            torch.testing.assert_close(compiled(heatmaps), expected, rtol=0, atol=1e-5, equal_nan=True)


def test_traces_to_one_operator_without_a_break(device: torch.device) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    heatmaps = maps(3, device)
    actual = torch.compile(peaks_and_more, fullgraph=True, backend=counting)(heatmaps)
    torch.testing.assert_close(actual, peaks_and_more(heatmaps), rtol=0, atol=0, equal_nan=True)
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes].count(find_peaks_operator) == 1


class Finder(nn.Module):
    def forward(self, heatmaps: Tensor) -> Peaks:
        return dark_kernels.find_peaks(heatmaps, 3, 0.125, covariance=True)


@pytest.mark.slow
def test_exports_with_a_dynamic_batch_and_survives_a_file(device: torch.device) -> None:
    dynamic = {"heatmaps": {0: torch.export.Dim("batch", min=1, max=1024)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Finder(), (maps(3, device),), dynamic_shapes=dynamic)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for batch in (1, 5):
        heatmaps = maps(batch, device)
        actual = loaded(heatmaps)
        assert type(actual) is Peaks
        for one, other in zip(actual, Finder()(heatmaps), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_autocast_and_inference_mode_change_nothing(device: torch.device) -> None:
    heatmaps = maps(2, device)
    expected = dark_kernels.find_peaks(heatmaps, 3, covariance=True)
    with torch.autocast(device.type, torch.bfloat16):
        autocast = dark_kernels.find_peaks(heatmaps, 3, covariance=True)
    with torch.inference_mode():
        inference = dark_kernels.find_peaks(heatmaps.clone(), 3, covariance=True)
    for actual in (autocast, inference):
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
