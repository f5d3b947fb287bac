"""Every backend against the reference in float64: values, dtypes, layouts, odd inputs."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from dark_kernels import SimCCKeypoints, decode_simcc, testing
from dark_kernels.simcc import eager

from ..conftest import SERVICES, require_service
from .cases import Case, assert_like_truth, cases, make_axis

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def compare_any(examples: int, backend: str, device: torch.device, share: float = 0.6, **limits: Any) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=examples)
    @given(cases(**limits))
    def check(case: Case) -> None:
        tally.update(assert_like_truth(case, backend, device)._asdict())

    check()
    # What cannot be bounded is not compared; this has to be the exception.
    assert tally["valid"] > 0.3 * examples
    assert tally["bounded"] > share * tally["valid"]


def test_eager_is_the_reference_for_any_axis() -> None:
    compare_any(200, "eager", torch.device("cpu"), dtypes=DTYPES)


def test_the_reference_in_float32_is_within_its_rounding() -> None:
    """Its logs are rounded before they are subtracted: on a flat axis that is a step of many bins."""
    compare_any(100, "reference", torch.device("cpu"), share=0.3, dtypes=DTYPES[:3])


def test_the_interpreted_kernel_is_the_reference_for_any_axis() -> None:
    compare_any(40, "triton", require_service("triton", "cpu"), share=0.4, max_keypoints=3, dtypes=DTYPES[:3:2])


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_any_axis_on_a_device(backend: str, gpu: torch.device) -> None:
    compare_any(150, backend, gpu, share=0.3, max_keypoints=12, dtypes=DTYPES)


@pytest.mark.parametrize("dtypes", [(DTYPES[0], DTYPES[0]), (DTYPES[1], DTYPES[2]), (DTYPES[2], DTYPES[0])], ids=str)
@EVERY_FUSED
def test_dtypes(dtypes: tuple[torch.dtype, torch.dtype], service: Service) -> None:
    case = Case(("noisy_blob", "blob"), (1, 2), (64, 90), dtypes)
    assert assert_like_truth(case, *service).bounded == 2


@EVERY_FUSED
def test_float64_is_computed_in_float64(service: Service) -> None:
    """One axis is enough."""
    backend, device = service
    for dtypes in ((torch.float64, torch.float64), (torch.float32, torch.float64)):
        case = Case(("noisy_blob", "blob"), dtypes=dtypes)
        assert_like_truth(case, backend, device)
        actual = decode_simcc(*case.axes(device), **case.options, backend=backend)
        expected = decode_simcc(*case.axes(device), **case.options, backend="reference")
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@EVERY_FUSED
def test_layouts(layout: str, service: Service) -> None:
    assert_like_truth(Case(shape=(2, 2), widths=(20, 33), layout=layout, seed=3), *service)


@pytest.mark.parametrize("peak", [1.97e-3, 100.0])
@EVERY_FUSED
def test_the_scale_is_taken_from_the_whole_axis_where_a_clip_binds(peak: float, service: Service) -> None:
    """Two blobs: the broader one, which the peak's window does not show, has the largest smoothed value."""
    backend, device = service
    bins = torch.arange(600, dtype=torch.float64)
    narrow, broad = (torch.exp(-0.5 * ((bins - at) / width) ** 2) for at, width in ((100.3, 1.5), (490.2, 12.0)))
    axis = (torch.maximum(narrow, 0.97 * broad) * peak).view(1, 1, -1)
    options: dict[str, Any] = {"sigma": 4.9, "dark": True}
    expected = decode_simcc(axis, axis, **options, backend="reference").coords
    near = decode_simcc(axis[..., :300], axis[..., :300], **options, backend="reference").coords
    single = axis.float().to(device)
    actual = decode_simcc(single, single, **options, backend=backend).coords
    # So the test can fail: the scale of the window would be off by a hundred times as much.
    assert (actual.cpu() - expected).abs().max() < 2e-4 < 0.02 < (near - expected).abs().max()


@EVERY
def test_where_all_smoothed_bins_clip_to_one_number_there_is_no_step(service: Service) -> None:
    """A rounding of their logs, over an epsilon of 1e-9, would be a step of a hundred bins."""
    backend, device = service
    axis = torch.full((1, 3, 64), 60.0)
    axis[..., :8] = axis[..., -8:] = 0.0
    axis[0, :, 30:32] = torch.tensor([61.0, 60.5])
    axis[0, 1] *= 1e-5  # of a peak below the lower clip
    axis[0, 2] = -1.0  # of a peak that the blur hides
    axis[0, 2, 30] = 0.5
    axis = axis.to(device)
    actual = decode_simcc(axis, axis, sigma=1.0, dark=True, backend=backend)
    assert actual.coords.tolist() == [[[30.0, 30.0]] * 3]


@EVERY
def test_without_curvature_the_step_is_the_slope_over_the_epsilon(service: Service) -> None:
    """Absurd, and published. What is above the upper clip has one log; a blur of one bin changes nothing."""
    backend, device = service
    axis = torch.tensor([[[51.0, 20.0, 60.0, 40.0, 55.0]]], device=device)
    coords = decode_simcc(axis, axis, sigma=0.5, dark=True, backend=backend).coords
    assert coords.flatten().tolist() == pytest.approx([2 - 0.5 * math.log(2) * 1e9] * 2, rel=1e-5)


# --- equal numbers ---------------------------------------------------------------------------------------


@EVERY
def test_runs_and_keypoints_alone_agree_bit_for_bit(service: Service) -> None:
    backend, device = service
    case = Case(widths=(33, 48), seed=5)
    simcc_x, simcc_y = case.axes(device)
    together = decode_simcc(simcc_x, simcc_y, **case.options, backend=backend)
    again = decode_simcc(simcc_x, simcc_y, **case.options, backend=backend)
    assert_same(again, together)
    for b in range(2):
        for k in range(3):
            one = (slice(b, b + 1), slice(k, k + 1))
            alone = decode_simcc(simcc_x[one], simcc_y[one], **case.options, backend=backend)
            assert_same(alone, SimCCKeypoints(*(each[one] for each in together if each is not None)))


def assert_same(actual: SimCCKeypoints, expected: SimCCKeypoints) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("width", [1, 15, 511, 512, 513])
@EVERY_FUSED
def test_the_first_maximum_is_found_wherever_it_is(width: int, service: Service) -> None:
    backend, device = service
    places = ((0,), (width - 1,), (width // 2, width - 1))
    axis = torch.zeros(1, 3, width, device=device)
    for k, where in enumerate(places):
        axis[0, k, list(where)] = 0.5
    coords = decode_simcc(axis, axis.flip(1), backend=backend).coords
    expected = [[float(places[k][0]), float(places[2 - k][0])] for k in range(3)]
    assert coords.tolist() == [expected]


@pytest.mark.parametrize("kind", ["ties", "nan", "minus infinity", "noise"])
def test_groups_of_bins_find_the_same_maximum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    axis = torch.randn(2, 3, 192, generator=torch.Generator().manual_seed(6))
    if kind == "ties":
        axis = axis.round()
    elif kind != "noise":
        axis[:, :, 70::50] = math.nan if kind == "nan" else -math.inf
        axis[0] = -math.inf
    at_once = eager._first_maximum(axis)
    monkeypatch.setattr(eager, "_FEW_BINS", 0)
    for one, other in zip(at_once, eager._first_maximum(axis), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# --- keypoints that are none, and numbers that are none --------------------------------------------------


@pytest.mark.parametrize("score", ["min", "mean"])
@EVERY
def test_a_score_that_is_not_positive_is_invalid(score: str, service: Service) -> None:
    """Both coordinates are -1 whatever the split ratio; the score stays what it is."""
    backend, device = service
    good = torch.tensor([0.1, 0.9, 0.3])
    bad = {
        "zeros": torch.zeros(3),
        "negative": torch.tensor([-2.0, -0.95, -3.0]),
        "minus infinity": torch.full((3,), -math.inf),
        "nan": torch.full((3,), math.nan),
        "a nan": torch.tensor([0.5, 0.4, math.nan]),
    }
    rows = torch.stack(list(bad.values()))
    simcc_x, simcc_y = torch.stack([rows, good.expand_as(rows)]), torch.stack([good.expand_as(rows), rows])
    inputs = simcc_x.to(device), simcc_y.to(device)
    actual = decode_simcc(*inputs, 1.0, True, 4.0, score, True, backend=backend)
    peaks = torch.tensor([0.0, -0.95, -math.inf, math.nan, math.nan])
    expected = peaks if score == "min" else 0.5 * peaks + 0.5 * torch.tensor(0.9)
    for b in range(2):
        torch.testing.assert_close(actual.scores[b].cpu(), expected, equal_nan=True)
        is_valid = (expected > 0).tolist()
        assert [coords == [-1.0, -1.0] for coords in actual.coords[b].tolist()] == [not valid for valid in is_valid]
        # What is seen of it does not depend on whether it counts. Zeros, like -inf, are three bins of one value.
        assert actual.visibility is not None
        assert actual.visibility[b, [0, 2]].tolist() == pytest.approx([1 / 3, 1 / 3], rel=1e-6)
        assert actual.visibility[b].isnan().tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("place", [0, 1, 20, 39])
@EVERY
def test_an_infinite_peak_stays_in_its_bin(place: int, service: Service) -> None:
    """And the other axis is refined as ever. Of two infinities each has half of the probability."""
    backend, device = service
    simcc_x, simcc_y = Case(("noisy_blob",), (1, 2), (40, 50), seed=2).axes(device)
    simcc_x = simcc_x.clone()
    simcc_x[..., place] = math.inf
    simcc_x[:, 1, 39] = math.inf
    expected = decode_simcc(torch.ones_like(simcc_x), simcc_y, 2.0, True, visibility=True, backend=backend)
    actual = decode_simcc(simcc_x, simcc_y, 2.0, True, visibility=True, backend=backend)
    assert actual.coords[..., 0].tolist() == [[float(place)] * 2]
    assert torch.equal(actual.coords[..., 1], expected.coords[..., 1])
    assert decode_simcc(simcc_x, simcc_y, score="mean", backend=backend).scores.tolist() == [[math.inf] * 2]
    both = decode_simcc(simcc_x, simcc_x, 2.0, visibility=True, backend=backend).visibility
    assert both is not None
    assert both.tolist() == [[1.0, 1.0 if place == 39 else 0.5]]


@EVERY
def test_minus_infinity_is_a_very_low_number(service: Service) -> None:
    backend, device = service
    axis = make_axis(("blob",), (1, 3), 60, seed=1).clone()
    peaks = axis.argmax(-1)
    for k, distance in enumerate((-2, 3, 1)):
        axis[0, k, (int(peaks[0, k]) + distance) % 60] = -math.inf
    inputs = [each.to(device) for each in (axis, axis.clamp(min=-1e30))]
    results = [decode_simcc(each, each, 2.0, True, visibility=True, backend=backend) for each in inputs]
    assert results[0].coords.isfinite().all()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@EVERY
def test_numbers_as_large_as_there_are(service: Service) -> None:
    """Neither a distance from the peak nor a mean of the two peaks overflows."""
    backend, device = service
    largest = torch.finfo(torch.float32).max
    axis = torch.tensor([-1.0, 0.2, 0.9, 1.0, 0.8, -1.0, -1.0], device=device).mul(largest).expand(1, 1, -1)
    for score in ("min", "mean"):
        actual = decode_simcc(axis, axis, 1.0, True, score=score, visibility=True, backend=backend)
        assert actual.scores.item() == largest
        expected = decode_simcc(axis.double(), axis.double(), 1.0, True, backend="reference")
        torch.testing.assert_close(actual.coords.double(), expected.coords, rtol=0, atol=1e-4)
        assert actual.visibility is not None
        assert actual.visibility.item() == 1.0


@pytest.mark.parametrize("kind", sorted(testing.VALUE_KINDS))
@EVERY
def test_coordinates_are_finite(kind: str, service: Service) -> None:
    backend, device = service
    axes = [make_axis((kind,), (1, 2), width, seed=11, device=device) for width in (23, 31)]
    before = [axis.clone() for axis in axes]
    assert decode_simcc(*axes, 1.5, True, backend=backend).coords.isfinite().all()
    for axis, copy in zip(axes, before, strict=True):
        torch.testing.assert_close(axis, copy, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 17), (2, 0), (0, 0)])
@EVERY
def test_no_keypoints(shape: tuple[int, int], service: Service) -> None:
    backend, device = service
    axes = torch.rand(*shape, 8, device=device), torch.rand(*shape, 9, device=device)
    for visibility in (False, True):
        actual = decode_simcc(*axes, 2.0, True, visibility=visibility, backend=backend)
        assert actual.coords.shape == (*shape, 2)
        assert actual.scores.shape == shape
        assert (actual.visibility is not None) == visibility
