"""decode, find_peaks, decode_simcc and soft_argmax: outputs that are wrong are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import peers, suite
from benchmarks.suites import decode, peaks, simcc, soft_argmax
from benchmarks.workloads import W1
from dark_kernels import recipes
from dark_kernels.decode import reference as definition
from tests.benchmarks.suites.small import assert_wrong, group_of, run


def test_a_wrong_output_of_ours_is_an_error() -> None:
    group = group_of(decode.SUITE, decode.case_of(W1))
    for name in (decode.OURS, suite.REFERENCE):
        row, keypoints = run(group, name)
        moved = keypoints._replace(coords=keypoints.coords + 0.01)
        assert_wrong(row, moved, "compared keypoints are wrong", AssertionError)
        assert_wrong(row, keypoints._replace(scores=keypoints.scores * 1.01), "scores are off", AssertionError)


@pytest.mark.parametrize("name", [decode.BLUR_LOOP, decode.DARK_LOOP])
@pytest.mark.parametrize("shape", [(2, 3, 40, 30), (3, 2, 17, 23)])
def test_the_opencv_loops_do_what_they_say(
    name: str, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2", reason="opencv is not installed")
    group = group_of(decode.SUITE, decode.case_of(W1), shape=shape)
    monkeypatch.setattr(decode.workloads, "ALL", (group.case.workload,))
    row, output = run(group, name)
    error, _ = row.compare(output)
    assert error is not None
    assert error < 1e-4
    assert_wrong(row, group.inputs[0] if name == decode.BLUR_LOOP else (output[0] + 0.1, None), "are off")


def test_transformers_vitpose_is_called_as_its_processor_calls_it(fake_module: Any) -> None:
    def post(coords: Any, heatmaps: Any, kernel: int) -> Any:
        assert (coords.shape, heatmaps.shape, kernel) == ((2, 3, 2), (2, 3, 40, 30), 11)
        return coords

    def predictions(heatmaps: Any) -> Any:
        coords, scores, _ = definition.decode_reference(torch.from_numpy(heatmaps).double(), recipes.VITPOSE_HF)
        return coords.numpy(), scores[..., None].numpy()

    name = "transformers.models.vitpose.image_processing_vitpose"
    fake_module(name, get_keypoint_predictions=predictions, post_dark_unbiased_data_processing=post)
    row, output = run(group_of(decode.SUITE, decode.case_of(W1, recipe=recipes.VITPOSE_HF)), decode.VITPOSE)
    error, _ = row.compare(output)
    assert error is not None
    assert error < 1e-6
    assert_wrong(row, (output[0] - 3, output[1]), "6 of 6 compared keypoints are off, by up to 3 px")


def test_transformers_sapiens_gets_float_maps_where_they_are(fake_module: Any) -> None:
    def predictions(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        assert heatmaps.dtype == torch.float32
        coords, scores, _ = definition.decode_reference(heatmaps, recipes.SAPIENS_HF)
        return coords, scores

    fake_module(
        "transformers.models.sapiens2.image_processing_sapiens2",
        get_keypoint_predictions=predictions,
        post_dark_unbiased_data_processing=lambda keypoints, heatmaps, kernel: keypoints,
    )
    run(group_of(decode.SUITE, decode.case_of(W1, dtype="float16", recipe=recipes.SAPIENS_HF)), decode.SAPIENS)


def test_kornia_is_compared_with_its_own_definition(fake_module: Any) -> None:
    def spatial_soft_argmax2d(heatmaps: Tensor, temperature: Tensor, normalized: bool) -> Tensor:
        assert not normalized
        height, width = heatmaps.shape[-2:]
        probability = (heatmaps * temperature).flatten(2).softmax(-1)
        index = torch.arange(height * width)
        return torch.stack([(probability * (index % width)).sum(-1), (probability * (index // width)).sum(-1)], -1)

    fake_module("kornia.geometry.subpix", spatial_soft_argmax2d=spatial_soft_argmax2d)
    row, output = run(group_of(decode.SUITE, decode.case_of(W1)), decode.SOFT_ARGMAX)
    assert (row.role, row.note) == ("other", "another estimator")
    assert_wrong(row, output.flip(-1), "mean positions are off by up to")
    run(group_of(soft_argmax.SUITE, soft_argmax.case_of(W1)), soft_argmax.KORNIA)


def test_a_reference_that_does_not_fit_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    group = group_of(decode.SUITE, decode.case_of(W1), "cuda")
    with pytest.raises(peers.NotInstalled, match="the reference needs about 0 GB of device memory"):
        decode.SUITE.rows[suite.REFERENCE].make(group)


@pytest.mark.parametrize("values", ["blobs", "noise"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_peaks_are_found_out(dtype: str, values: Any) -> None:
    group = group_of(peaks.SUITE, peaks.case_of(W1, dtype=dtype, values=values))
    row, found = run(group, peaks.OURS)
    for wrong, words in (
        (found._replace(coords=found.coords + 0.01), "compared peaks are wrong"),
        (found._replace(scores=found.scores * 1.01), "other peaks"),
        (found._replace(counts=found.counts + 1), "other numbers of peaks"),
    ):
        assert_wrong(row, wrong, words, AssertionError)
    if dtype == "float32":  # of many equal values in float16 the pooled map keeps all
        row, (values_of_peaks, index) = run(group, peaks.POOL)
        assert_wrong(row, (values_of_peaks + 1, index), "values of peaks are off")


@pytest.mark.parametrize("variant", simcc.VARIANTS)
@pytest.mark.parametrize("name", [suite.READ_ONLY, simcc.OURS, suite.REFERENCE, simcc.LOOP])
def test_simcc_rows_compare_their_output(name: str, variant: str) -> None:
    if name == simcc.LOOP:
        pytest.importorskip("cv2", reason="opencv is not installed")
        variant = "dark"
    row, output = run(group_of(simcc.SUITE, simcc.case_of(simcc.S1, variant=variant)), name)
    if name != suite.READ_ONLY:
        for i in range(len(output)):
            wrong = [each + 0.02 * (i == j) for j, each in enumerate(output)]
            assert_wrong(row, tuple(wrong), ("keypoints", "scores", "visibilities")[i] + r" are off by up to 0\.0")
    assert row.bytes == 6 * 224 * 4 + (0 if name == suite.READ_ONLY else 96 if "vis" in variant else 72)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", [soft_argmax.OURS, suite.REFERENCE, soft_argmax.TORCH])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_soft_argmax_rows_compare_their_output(name: str, dtype: str, backward: bool) -> None:
    group = group_of(soft_argmax.SUITE, soft_argmax.case_of(W1, dtype=dtype, backward=backward))
    row, output = run(group, name)
    assert len(output) == 1 + backward
    for i, what in enumerate(("coordinates are off", "the gradient is off")[: len(output)]):
        wrong = [each * (1.5 if i == j else 1) for j, each in enumerate(output)]
        assert_wrong(row, tuple(wrong), what)
    maps = 6 * 40 * 30 * (4 if dtype == "float32" else 2)
    assert row.bytes == (3 if backward else 1) * maps + 6 * 16
