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
ACTIVATIONS = ("sigmoid", "softmax")
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
    assert tally["valid"] >= 0.3 * examples
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "examples"), [("eager", 120), ("reference", 60), ("triton", 20)])
def test_any_logits(activation: str, backend: str, examples: int) -> None:
    device = require_service(backend, "cpu")
    dtypes = {"eager": DTYPES, "reference": DTYPES[:3], "triton": DTYPES[:3:2]}[backend]
    compare_any(examples, backend, device, share=0.5, max_keypoints=3, dtypes=dtypes, activations=(activation,))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_any_logits_on_a_device(backend: str, gpu: torch.device) -> None:
    compare_any(150, backend, gpu, share=0.2, max_keypoints=12, dtypes=DTYPES, activations=ACTIVATIONS)


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@pytest.mark.parametrize("dtypes", [(DTYPES[0], DTYPES[0]), (DTYPES[1], DTYPES[2]), (DTYPES[2], DTYPES[0])], ids=str)
@EVERY_FUSED
def test_dtypes(dtypes: tuple[torch.dtype, torch.dtype], activation: str, service: Service) -> None:
    case = Case(("noisy_blob", "blob"), (1, 2), (64, 90), dtypes, activation=activation, logit_scale=10.0)
    assert assert_like_truth(case, *service).bounded == 2


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@EVERY_FUSED
def test_float64_is_computed_in_float64(activation: str, service: Service) -> None:
    """One axis is enough."""
    backend, device = service
    for dtypes in ((torch.float64, torch.float64), (torch.float32, torch.float64)):
        case = Case(("noisy_blob", "blob"), dtypes=dtypes, activation=activation, logit_scale=10.0)
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_so_it_is_with_logits(activation: str, service: Service) -> None:
    """A narrow blob and a broad one, and so many bins below the lower clip that all of them sum to 1."""
    backend, device = service
    bins = torch.arange(600, dtype=torch.float64)
    narrow, broad = (torch.exp(-0.5 * ((bins - at) / width) ** 2) for at, width in ((100.3, 1.5), (490.2, 12.0)))
    blobs = 3.2e-3 * torch.maximum(narrow, 0.97 * broad).clamp(min=1e-12)
    count = int((1 - blobs.sum()) / 9e-4)
    probabilities = torch.cat([blobs, (1 - blobs.sum()).expand(count) / count]).view(1, 1, -1)
    one_bin = torch.ones(1, 1, 1, dtype=torch.float64)
    options: dict[str, Any] = {"sigma": 4.9, "dark": True}
    expected = decode_simcc(probabilities, one_bin, **options, backend="reference")
    near = decode_simcc(probabilities[..., :300], one_bin, **options, backend="reference").coords
    logits = (probabilities.log() if activation == "softmax" else probabilities.logit()).float().to(device)
    one_logit = 88.0 * one_bin.float().to(device)
    actual = decode_simcc(logits, one_logit, **options, backend=backend, activation=activation)
    torch.testing.assert_close(actual.scores.cpu().double(), expected.scores, rtol=1e-5, atol=0)
    assert (actual.coords.cpu() - expected.coords).abs().max() < 2e-4 < 0.02 < (near - expected.coords).abs().max()
    # Unscaled all smoothed bins would be below the clip.
    assert expected.coords[0, 0, 0].item() != 100.0


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
def test_so_do_probabilities_that_are_all_below_it(service: Service) -> None:
    backend, device = service
    logits = torch.zeros(1, 2, 1200, device=device)
    logits[0, 1] = -1e30
    logits[..., 7] += 0.01
    actual = decode_simcc(logits, logits, sigma=2.0, dark=True, backend=backend, activation="softmax")
    assert actual.coords.tolist() == [[[7.0, 7.0], [0.0, 0.0]]]
    assert actual.scores.tolist() == [pytest.approx([math.exp(0.01) / (1199 + math.exp(0.01)), 1 / 1200], rel=1e-5)]


@EVERY
def test_without_curvature_the_step_is_the_slope_over_the_epsilon(service: Service) -> None:
    """Absurd, and published. What is above the upper clip has one log; a blur of one bin changes nothing."""
    backend, device = service
    axis = torch.tensor([[[51.0, 20.0, 60.0, 40.0, 55.0]]], device=device)
    coords = decode_simcc(axis, axis, sigma=0.5, dark=True, backend=backend).coords
    assert coords.flatten().tolist() == pytest.approx([2 - 0.5 * math.log(2) * 1e9] * 2, rel=1e-5)


# --- equal numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@EVERY
def test_runs_and_keypoints_alone_agree_bit_for_bit(activation: str, service: Service) -> None:
    backend, device = service
    case = Case(widths=(33, 48), seed=5, activation=activation, logit_scale=10.0)
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


# --- logits ----------------------------------------------------------------------------------------------


def some_logits(device: torch.device, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """What RTMPose's loss teaches: a Gaussian, whose softmax is taken at ten times its height."""
    bins, generator = torch.arange(96), torch.Generator().manual_seed(4)
    logits = []
    for sigma in (4.9, 5.66):
        centers = 30 + 36 * torch.rand(1, 3, 1, generator=generator)
        noise = 0.02 * torch.randn(1, 3, 96, generator=generator)
        logits.append((1.1 * torch.exp(-0.5 * ((bins - centers) / sigma) ** 2) - 0.1 + noise).to(device, dtype))
    return logits


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_logits_are_decoded_as_their_probabilities_are(activation: str, dark: bool, service: Service) -> None:
    backend, device = service
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        logits = some_logits(device, dtype)
        exact = [10 * axis.cpu().double() for axis in logits]
        probabilities = [axis.softmax(-1) if activation == "softmax" else axis.sigmoid() for axis in exact]
        for score in ("min", "mean"):
            options: dict[str, Any] = {"sigma": (4.9, 5.66), "dark": dark, "split_ratio": 2.0, "score": score}
            expected = decode_simcc(*probabilities, **options, backend="reference")
            actual = decode_simcc(*logits, **options, backend=backend, activation=activation, logit_scale=10)
            assert (actual.coords.cpu().double() - expected.coords).abs().max() < tolerance
            assert (actual.scores.cpu().double() - expected.scores).abs().max() < tolerance / 100


@pytest.mark.parametrize("dtype", DTYPES[::3], ids=str)
@pytest.mark.parametrize("dark", [False, True])
@EVERY
def test_saturated_sigmoids_do_not_move_the_maximum(dark: bool, dtype: torch.dtype, service: Service) -> None:
    """The sigmoids of 40 and of 41 are both 1, in float64 as well."""
    backend, device = service
    logits = torch.tensor([-9.0, 0.0, 40.0, 40.0, 41.0, 40.0, 40.0, 0.0, -9.0], dtype=dtype, device=device)
    logits = logits.expand(1, 1, -1)
    assert float(logits.double().sigmoid().argmax()) == 2
    actual = decode_simcc(logits, logits, 1.0, dark, 1.0, backend=backend, activation="sigmoid")
    assert actual.coords.tolist() == [[[4.0, 4.0]]]  # around which all is equal, and the step is 0
    assert actual.scores.tolist() == [[1.0]]


@EVERY
def test_a_saturated_softmax_has_one_bin(service: Service) -> None:
    backend, device = service
    logits = torch.full((1, 2, 40), -600.0, device=device)
    logits[..., 11:13] = torch.tensor([400.0, 410.0])
    logits[0, 1] *= 1e3
    actual = decode_simcc(logits, logits, 0.9, True, backend=backend, activation="softmax")
    assert actual.coords[..., 0].isfinite().all()
    assert ((actual.coords - 12).abs() < 0.5).all()
    assert actual.scores.tolist() == [pytest.approx([1 / (1 + math.exp(-10)), 1.0], rel=1e-6)]


@pytest.mark.parametrize("score", ["min", "mean"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_logits_are_valid_whatever_their_sign(activation: str, score: str, service: Service) -> None:
    """Unless there is none above -inf, or a NaN. A probability that is too small for its dtype is 0 and valid."""
    backend, device = service
    good = torch.tensor([-1.0, 2.0, 0.0])
    rows = torch.tensor(
        [
            [0.0, 0.0, 0.0],
            [-2.0, -0.95, -3.0],
            [-math.inf, -300.0, -math.inf],
            [-math.inf, -math.inf, -math.inf],
            [math.nan, math.nan, math.nan],
            [0.5, 0.4, math.nan],
            [math.inf, -math.inf, math.nan],
        ]
    )
    simcc_x, simcc_y = torch.stack([rows, good.expand_as(rows)]), torch.stack([good.expand_as(rows), rows])
    inputs = simcc_x.to(device), simcc_y.to(device)
    options: dict[str, Any] = {"backend": backend, "activation": activation}
    for dark in (False, True):
        actual = decode_simcc(*inputs, 1.0, dark, 4.0, score, True, **options)
        is_valid = (actual.coords != -1).all(-1)
        assert is_valid.tolist() == [[True, True, True, False, False, False, False]] * 2
        assert bool(((actual.coords == -1).all(-1) | is_valid).all())
        softmax, sigmoid = rows.softmax(-1).amax(-1), rows.amax(-1).sigmoid()
        softmax[3] = 0.0  # no bin has any of it
        of_good = good.softmax(-1).amax() if activation == "softmax" else good.amax().sigmoid()
        expected = softmax if activation == "softmax" else sigmoid
        expected = torch.minimum(expected, of_good) if score == "min" else 0.5 * (expected + of_good)
        for b in range(2):
            torch.testing.assert_close(actual.scores[b].cpu(), expected, equal_nan=True)
        if not dark:
            assert actual.coords[0, :3].tolist() == [[0.0, 0.25], [0.25, 0.25], [0.25, 0.25]]
    if activation == "sigmoid" and score == "min":
        assert actual.scores[0, 2].item() == 0.0


@pytest.mark.parametrize("place", [0, 20, 38])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_an_infinite_logit_stays_in_its_bin(activation: str, place: int, service: Service) -> None:
    backend, device = service
    simcc_x, simcc_y = Case(("noisy_blob",), (1, 2), (40, 50), seed=2).axes(device)
    options: dict[str, Any] = {"sigma": 2.0, "dark": True, "activation": activation, "backend": backend}
    expected = decode_simcc(torch.ones_like(simcc_x), simcc_y, **options)
    simcc_x = simcc_x.clone()
    simcc_x[..., place] = math.inf
    simcc_x[:, 1, place + 1] = math.inf  # towards which a step would go
    actual = decode_simcc(simcc_x, simcc_y, **options)
    assert actual.coords[..., 0].tolist() == [[float(place)] * 2]
    assert torch.equal(actual.coords[..., 1], expected.coords[..., 1])
    both = decode_simcc(simcc_x, simcc_x, **options)
    assert both.scores.tolist() == [[1.0, 0.5 if activation == "softmax" else 1.0]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_scores_of_any_logits_are_probabilities(activation: str, service: Service) -> None:
    backend, device = service
    extremes = ("all_minus_infinite", "both_infinite", "huge_and_tiny", "some_nan", "zeros")
    others = ("negative", "plateau", "signed_noise", "some_infinite", "some_minus_infinite", "strong_blob")
    for logit_scale, kinds in ((10.0, extremes + others), (1e-30, extremes), (1e30, extremes)):
        axes = [make_axis(kinds, (1, len(kinds)), width, seed=11, device=device) for width in (9, 17)]
        options: dict[str, Any] = {"activation": activation, "logit_scale": logit_scale, "backend": backend}
        actual = decode_simcc(*axes, 1.5, True, **options)
        assert actual.coords.isfinite().all()
        has_nan = torch.stack([axis.isnan().any(-1) for axis in axes]).any(0)
        assert torch.equal(actual.scores.isnan(), has_nan)
        assert ((actual.scores >= 0) & (actual.scores <= 1) | has_nan).all()
        for kind, (x, y), score in zip(kinds, actual.coords[0].tolist(), actual.scores[0].tolist(), strict=True):
            assert ((x, y) == (-1, -1)) == (kind in ("some_nan", "all_minus_infinite")), kind
            assert kind != "all_minus_infinite" or score == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@EVERY
def test_visibilities_are_those_of_the_logits(activation: str, service: Service) -> None:
    backend, device = service
    logits = some_logits(device)
    options: dict[str, Any] = {"sigma": (4.9, 5.66), "visibility": True, "beta": 2.0, "backend": backend}
    expected = decode_simcc(*logits, **options).visibility
    actual = decode_simcc(*logits, **options, activation=activation, logit_scale=10.0).visibility
    assert expected is not None
    assert actual is not None
    assert torch.equal(actual, expected)


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
