"""Rows on maps small enough for a test: outputs are compared, wrong ones are not timed, missing ones have a reason."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import (
    measure,
    peers,
    rows,
    test_decode,
    test_heatmap_loss,
    test_nll,
    test_peaks,
    test_simcc,
    test_soft_argmax,
    workloads,
)
from benchmarks.rows import Row
from benchmarks.workloads import Workload
from dark_kernels import recipes
from dark_kernels.decode import reference as definition

SMALL = Workload("W1", (2, 3, 40, 30), "a small one")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (test_decode._inputs, test_decode._compared, test_decode._truth, test_nll._inputs, test_nll._truth)
    caches += (test_simcc.inputs_of, test_simcc._truth, test_soft_argmax.inputs_of, test_soft_argmax._truth)
    caches += (test_peaks.inputs_of, test_peaks._truth)
    caches += (test_heatmap_loss._inputs, test_heatmap_loss._truth)
    monkeypatch.setattr(workloads, "ALL", (SMALL,))
    yield
    for cache in caches:
        cache.cache_clear()


# --- decode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(workloads.DTYPES))
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_rows_compare_their_output(dtype: str, memory_format: str) -> None:
    case = test_decode.Case(SMALL, dtype, memory_format)  # type: ignore[arg-type]
    for name in (test_decode.READ_ONLY, test_decode.OURS, test_decode.REFERENCE):
        made = test_decode.ROWS[name](case, "cpu")
        error, _ = made.compare(made.call(test_decode._inputs(case, "cpu")[0]))
        assert error is None or error < 1e-4


def test_a_wrong_output_of_ours_is_an_error() -> None:
    made = test_decode.ROWS[test_decode.OURS](test_decode.Case(SMALL), "cpu")
    keypoints = made.call(test_decode._inputs(test_decode.Case(SMALL), "cpu")[0])
    with pytest.raises(AssertionError, match="compared keypoints are wrong"):
        made.compare(keypoints._replace(coords=keypoints.coords + 0.01))


@pytest.mark.parametrize("name", [test_decode.BLUR_LOOP, test_decode.DARK_LOOP])
@pytest.mark.parametrize("shape", [(2, 3, 40, 30), (3, 2, 17, 23)])
def test_the_opencv_loops_do_what_they_say(name: str, shape: tuple[int, int, int, int]) -> None:
    pytest.importorskip("cv2", reason="opencv is not installed")
    case = test_decode.Case(dataclasses.replace(SMALL, shape=shape))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(workloads, "ALL", (case.workload,))
        made = test_decode.ROWS[name](case, "cpu")
        maps = test_decode._inputs(case, "cpu")[0]
        error, _ = made.compare(made.call(maps))
        assert error is not None
        assert error < 1e-4
        with pytest.raises(peers.Wrong):
            made.compare(maps if name == test_decode.BLUR_LOOP else (made.call(maps)[0] + 0.1, None))


@pytest.mark.parametrize("recipe", [recipes.DARKPOSE, recipes.MMPOSE_DARK], ids=lambda recipe: recipe.name)
def test_the_dark_loop_is_right_at_borders_and_without_a_peak(recipe: Any) -> None:
    pytest.importorskip("cv2", reason="opencv is not installed")
    decode = peers.opencv_dark_loop(recipe)
    maps = torch.rand(1, 7, 16, 12, generator=torch.Generator().manual_seed(0)) * 0.01
    for keypoint, (y, x) in enumerate([(0, 0), (15, 11), (1, 5), (2, 2), (13, 9), (14, 6)]):
        maps[0, keypoint, y, x] = 1
    maps[0, 6] = 0
    coords, scores = decode(maps)
    expected, expected_scores, _ = definition.decode_reference(maps.double(), recipe)
    assert torch.equal(scores.double(), expected_scores)
    torch.testing.assert_close(coords.double(), expected, atol=1e-3, rtol=0)


def _fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    vars(sys.modules[name]).update(functions)


def test_transformers_vitpose_is_called_as_its_processor_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def post(coords: Any, heatmaps: Any, kernel: int) -> Any:
        assert (coords.shape, heatmaps.shape, kernel) == ((2, 3, 2), SMALL.shape, 11)
        return coords

    def predictions(heatmaps: Any) -> Any:
        coords, scores, _ = definition.decode_reference(torch.from_numpy(heatmaps).double(), recipes.VITPOSE_HF)
        return coords.numpy(), scores[..., None].numpy()

    name = "transformers.models.vitpose.image_processing_vitpose"
    _fake_module(monkeypatch, name, get_keypoint_predictions=predictions, post_dark_unbiased_data_processing=post)
    case = test_decode.Case(SMALL, recipe=recipes.VITPOSE_HF)
    made = test_decode.ROWS[test_decode.VITPOSE](case, "cpu")
    output = made.call(test_decode._inputs(case, "cpu")[0])
    error, _ = made.compare(output)
    assert error is not None
    assert error < 1e-6
    with pytest.raises(peers.Wrong, match="6 of 6 compared keypoints are off, by up to 3 px"):
        made.compare((output[0] - 3, output[1]))


def test_transformers_sapiens_gets_float_maps_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "transformers.models.sapiens2.image_processing_sapiens2"

    def predictions(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        assert heatmaps.dtype == torch.float32
        coords, scores, _ = definition.decode_reference(heatmaps, recipes.SAPIENS_HF)
        return coords, scores

    _fake_module(
        monkeypatch,
        name,
        get_keypoint_predictions=predictions,
        post_dark_unbiased_data_processing=lambda keypoints, heatmaps, kernel: keypoints,
    )
    case = test_decode.Case(SMALL, "float16", recipe=recipes.SAPIENS_HF)
    made = test_decode.ROWS[test_decode.SAPIENS](case, "cpu")
    made.compare(made.call(test_decode._inputs(case, "cpu")[0]))


def test_kornia_is_compared_with_its_own_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    def soft_argmax(heatmaps: Tensor, temperature: Tensor, normalized: bool) -> Tensor:
        assert not normalized
        height, width = heatmaps.shape[-2:]
        probability = (heatmaps * temperature).flatten(2).softmax(-1)
        index = torch.arange(height * width)
        return torch.stack([(probability * (index % width)).sum(-1), (probability * (index // width)).sum(-1)], -1)

    _fake_module(monkeypatch, "kornia.geometry.subpix", spatial_soft_argmax2d=soft_argmax)
    case = test_decode.Case(SMALL)
    made = test_decode.ROWS[test_decode.SOFT_ARGMAX](case, "cpu")
    assert (made.role, made.note) == ("other", "another estimator")
    output = made.call(test_decode._inputs(case, "cpu")[0])
    made.compare(output)
    with pytest.raises(peers.Wrong, match="mean positions"):
        made.compare(output.flip(-1))


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (peers.opencv_blur_loop, "cv2", "cv2"),
        (lambda: peers.opencv_dark_loop(recipes.DARKPOSE), "cv2", "cv2"),
        (peers.transformers_vitpose, "transformers", "transformers"),
        (peers.transformers_sapiens, "transformers", "transformers"),
        (peers.kornia_soft_argmax, "kornia", "kornia"),
    ],
)
def test_a_missing_peer_is_a_reason(
    make: Callable[[], Any], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(peers.NotInstalled, match=f"{package} is not installed"):
        make()


def test_a_peer_without_what_it_needs_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "transformers.models.vitpose.image_processing_vitpose"
    _fake_module(monkeypatch, name)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(peers.NotInstalled, match="transformers can't be used here"):
        peers.transformers_vitpose()


def test_a_peer_without_its_function_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_module(monkeypatch, "kornia.geometry.subpix")
    with pytest.raises(peers.NotInstalled, match=r"kornia of unknown version has no .*spatial_soft_argmax2d"):
        peers.kornia_soft_argmax()


def test_what_does_not_compile_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: Any, dynamic: bool) -> Any:
        def run(*arguments: Any) -> Any:
            raise RuntimeError("no C++ compiler\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(peers.NotInstalled, match=r"torch.compile fails here \(RuntimeError: no C\+\+ compiler\)$"):
        peers.compiled(lambda maps: maps, lambda function: function(torch.zeros(1)))


# --- SimCC --------------------------------------------------------------------------------------------------

SMALL_AXES = Workload("S1", (2, 3, 96, 128), "a small one")


@pytest.mark.parametrize("variant", test_simcc.VARIANTS)
@pytest.mark.parametrize("name", [test_simcc.READ_ONLY, test_simcc.OURS, test_simcc.REFERENCE, test_simcc.LOOP])
def test_simcc_rows_compare_their_output(name: str, variant: str) -> None:
    if name == test_simcc.LOOP:
        pytest.importorskip("cv2", reason="opencv is not installed")
        variant = "dark"
    case = test_simcc.Case(SMALL_AXES, "float32", variant)
    made = test_simcc.ROWS[name](case, "cpu")
    output = made.call(test_simcc.inputs_of(case.workload, case.dtype, "cpu")[0])
    made.compare(output)
    if name != test_simcc.READ_ONLY:
        for i in range(len(output)):
            wrong = list(output)
            wrong[i] = output[i] + 0.02
            with pytest.raises(peers.Wrong, match="keypoints are off" if i == 0 else "scores or visibilities are off"):
                made.compare(tuple(wrong))
    assert made.bytes == 6 * 224 * 4 + (0 if name == test_simcc.READ_ONLY else 96 if "vis" in variant else 72)


def test_simcc_cases_have_rows() -> None:
    for cases in (test_simcc.CPU_CASES, test_simcc.CUDA_CASES):
        assert len({str(case) for case in cases}) == len(cases)
        for case in cases:
            assert set(case.rows) <= set(test_simcc.ROWS)


# --- soft-argmax --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", [test_soft_argmax.OURS, test_soft_argmax.REFERENCE, test_soft_argmax.TORCH])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_soft_argmax_rows_compare_their_output(name: str, dtype: str, backward: bool) -> None:
    case = test_soft_argmax.Case(SMALL, dtype, backward)
    made = test_soft_argmax.ROWS[name](case, "cpu")
    output = made.call(test_soft_argmax.inputs_of(SMALL, dtype, "cpu")[0])
    made.compare(output)
    assert len(output) == 1 + backward
    for i, what in enumerate(("coordinates are off", "the gradient is off")[: len(output)]):
        wrong = list(output)
        wrong[i] = output[i] * 1.5
        with pytest.raises(peers.Wrong, match=what):
            made.compare(tuple(wrong))
    maps = 6 * 40 * 30 * (4 if dtype == "float32" else 2)
    assert made.bytes == (3 if backward else 1) * maps + 6 * 16


def test_soft_argmax_cases_have_rows() -> None:
    for cases in (test_soft_argmax.CPU_CASES, test_soft_argmax.CUDA_CASES):
        assert len({str(case) for case in cases}) == len(cases)
        for case in cases:
            assert set(case.rows) <= set(test_soft_argmax.ROWS)
    made = test_soft_argmax.ROWS[test_soft_argmax.READ_ONLY](test_soft_argmax.Case(SMALL), "cpu")
    made.compare(made.call(test_soft_argmax.inputs_of(SMALL, "float32", "cpu")[0]))


# --- peaks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["blobs", "noise"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_peaks_rows_compare_their_output(dtype: str, values: Any) -> None:
    case = test_peaks.Case(SMALL, dtype, values=values)
    maps = test_peaks.inputs_of(case, "cpu")[0]
    for name in (test_peaks.OURS, test_peaks.REFERENCE, test_peaks.READ_ONLY):
        made = test_peaks.ROWS[name](case, "cpu")
        made.compare(made.call(maps))
    made = test_peaks.ROWS[test_peaks.OURS](case, "cpu")
    peaks = made.call(maps)
    for wrong, words in (
        (peaks._replace(coords=peaks.coords + 0.01), "compared peaks are wrong"),
        (peaks._replace(scores=peaks.scores * 1.01), "other peaks"),
        (peaks._replace(counts=peaks.counts + 1), "other numbers of peaks"),
    ):
        with pytest.raises(AssertionError, match=words):
            made.compare(wrong)
    if dtype == "float32":  # of many equal values in float16 the pooled map keeps all
        made = test_peaks.ROWS[test_peaks.POOL](case, "cpu")
        values_of_peaks, index = made.call(maps)
        made.compare((values_of_peaks, index))
        with pytest.raises(peers.Wrong, match="values of peaks are off"):
            made.compare((values_of_peaks + 1, index))


def test_peaks_cases_have_rows() -> None:
    for cases in (test_peaks.CPU_CASES, test_peaks.CUDA_CASES):
        assert len({str(case) for case in cases}) == len(cases)
        for case in cases:
            assert set(case.rows) <= set(test_peaks.ROWS)


# --- losses -------------------------------------------------------------------------------------------------

LOSS_ROWS = [
    ("gaussian_nll", "gaussian_nll"),
    ("gaussian_nll", "reference"),
    ("gaussian_nll", test_nll.LOOP),
    ("linear_gaussian_nll", "linear_gaussian_nll"),
    ("linear_gaussian_nll", "reference"),
    ("linear_gaussian_nll", test_nll.CONV_REFERENCE),
    ("linear_gaussian_nll", test_nll.CONV_OURS),
    ("gaussian_mixture_nll", "gaussian_mixture_nll"),
    ("gaussian_mixture_nll", "reference"),
]


@pytest.mark.parametrize(("function", "name"), LOSS_ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backward", [True, False])
def test_losses_are_those_of_the_reference(function: str, name: str, dtype: str, backward: bool) -> None:
    case = test_nll.Case(function, SMALL, (name,), dtype, backward)
    made = test_nll.ROWS[name](case, "cpu")
    output = made.call(test_nll.inputs_of(case, "cpu")[0])
    assert len(output) == (1 if not backward else 3 if function == "gaussian_nll" else 4)
    error, _ = made.compare(output)
    assert error is not None
    for i in range(len(output)):
        wrong = list(output)
        wrong[i] = output[i] * 1.1
        with pytest.raises(peers.Wrong, match="the loss is off" if i == 0 else "gradient is off"):
            made.compare(tuple(wrong))


def test_some_targets_are_outside_and_most_are_not() -> None:
    case = test_nll.Case("gaussian_nll", Workload("W1", (16, 17, 40, 30), ""), ())
    target = test_nll.make_arguments(case, "cpu").target / test_nll.STRIDE
    inside = (target >= 0).all(-1) & (target < torch.tensor([30, 40])).all(-1)
    assert 0.7 < inside.float().mean() < 0.95


def test_the_loop_skips_what_the_library_skips() -> None:
    mean = torch.zeros(1, 4, 2, 3, 5, requires_grad=True)
    log_var = torch.zeros(1, 4, 1, 3, 5, requires_grad=True)
    # Just below zero, just beyond the end, not a number, and one inside: (19.9, 0) is 1.9 px right of and 2 px above
    # the centre of its cell.
    target = torch.tensor([[[-0.1, 4.0], [20.0, 4.0], [float("nan"), 4.0], [19.9, 0.0]]])
    loss = peers.gaussian_nll_loop(mean, log_var, target, 4.0)
    assert loss.item() == pytest.approx((1.9**2 + 2**2) / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert gradient.count_nonzero() == 2


@pytest.mark.parametrize("function", ["gaussian_nll", "linear_gaussian_nll", "gaussian_mixture_nll"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_floor_writes_as_many_bytes_as_the_gradients_have(function: str, dtype: str) -> None:
    case = test_nll.Case(function, SMALL, (), dtype)
    arguments = test_nll.inputs_of(case, "cpu")[0]
    wanted = sum(tensor.numel() * tensor.itemsize for tensor in arguments if tensor.requires_grad)
    assert test_nll.gradient_bytes(case) == wanted
    made = test_nll.ROWS[test_nll.FILL](case, "cpu")
    written = made.call(arguments)
    assert written.numel() * written.itemsize == made.bytes
    assert wanted <= made.bytes < wanted + 4
    made.compare(written)
    assert test_nll.step_bytes(case) > wanted
    assert test_nll.step_bytes(dataclasses.replace(case, backward=False)) < wanted


HEATMAP_ROWS = [
    *(
        (function, encoding, function)
        for function in test_heatmap_loss.FUNCTIONS
        for encoding in ("unbiased", "biased")
    ),
    ("heatmap_mse", "unbiased", "reference"),
    ("heatmap_mse", "unbiased", test_heatmap_loss.NUMPY),
    ("heatmap_mse", "biased", test_heatmap_loss.NUMPY),
]


@pytest.mark.parametrize(("function", "encoding", "name"), HEATMAP_ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_heatmap_losses_are_those_of_the_reference(function: str, encoding: str, name: str, dtype: str) -> None:
    case = test_heatmap_loss.Case(function, SMALL, (name,), dtype, encoding)
    made = test_heatmap_loss.ROWS[name](case, "cpu")
    loss, gradient = made.call(test_heatmap_loss.inputs_of(case, "cpu")[0])
    error, _ = made.compare((loss, gradient))
    assert error is not None
    for wrong, message in (((loss * 1.1, gradient), "the loss is off"), ((loss, gradient * 1.1), "gradient is off")):
        with pytest.raises(peers.Wrong, match=message):
            made.compare(wrong)


def test_the_floor_of_a_heatmap_loss_moves_the_maps_three_times() -> None:
    case = test_heatmap_loss.Case("heatmap_mse", SMALL, (), "float16")
    made = test_heatmap_loss.ROWS[test_heatmap_loss.FLOOR](case, "cpu")
    arguments = test_heatmap_loss.inputs_of(case, "cpu")[0]
    assert made.bytes == 3 * arguments.heatmaps.numel() * 2
    made.compare(made.call(arguments))


def test_cases_of_both_devices_have_rows() -> None:
    for device, module in itertools.product(("cpu", "cuda"), (test_nll, test_heatmap_loss)):
        cases = module._cases(device)
        assert len({str(case) for case in cases}) == len(cases)
        for case in cases:
            assert set(case.rows) <= set(module.ROWS)
            assert [name for name in case.rows if name == case.function] == [case.function]
    for case in (*test_decode.CPU_CASES, *test_decode.CUDA_CASES):
        assert set(case.rows) <= set(test_decode.ROWS)


# --- timing -------------------------------------------------------------------------------------------------


class FakeBenchmark:
    """What of pytest-benchmark's fixture a row uses."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""
        self.timed = 0

    def pedantic(self, function: Callable[..., Any], setup: Any = None, rounds: int = 1, iterations: int = 1) -> None:
        arguments, _ = setup() if setup else ((), {})
        function(*arguments)
        self.timed += rounds


IDENTITY = {"operation": "decode", "row": "a row"}


def _time(row: Row, request: pytest.FixtureRequest, device: str = "cpu") -> FakeBenchmark:
    benchmark = FakeBenchmark()
    rows.time_row(benchmark, request, lambda: row, [1, 2], device, "a group", IDENTITY)
    return benchmark


def _row(**fields: Any) -> Row:
    defaults: dict[str, Any] = {"call": lambda _: 1, "compare": lambda _: (0.5, "things"), "bytes": 8}
    return Row(**{**defaults, **fields})


def test_a_row_is_timed_on_the_host(request: pytest.FixtureRequest) -> None:
    benchmark = _time(_row(note="a note"), request)
    assert benchmark.timed >= 5
    assert benchmark.group == "a group"
    wanted = {"role": "peer", "note": "a note", "error": 0.5, "bytes": 8, "clock": "host", "copies": 2, **IDENTITY}
    assert wanted.items() <= benchmark.extra_info.items()


def test_a_wrong_peer_is_reported_and_not_timed(request: pytest.FixtureRequest) -> None:
    def compare(_: Any) -> Any:
        raise peers.Wrong("off by 3 px")

    with pytest.raises(pytest.skip.Exception, match="wrong: off by 3 px"):
        _time(_row(compare=compare), request)
    ((name, reported),) = request.node.user_properties
    assert name == rows.WRONG
    assert reported == {"group": "a group", "extra_info": IDENTITY, "reason": "off by 3 px"}


def test_a_wrong_row_of_ours_fails(request: pytest.FixtureRequest) -> None:
    def compare(_: Any) -> Any:
        raise peers.Wrong("off by 3 px")

    with pytest.raises(AssertionError, match="a row: off by 3 px"):
        _time(_row(compare=compare, role="ours"), request)


def test_what_is_not_installed_is_skipped(request: pytest.FixtureRequest) -> None:
    def call(_: Any) -> Any:
        raise peers.NotInstalled("no such package")

    with pytest.raises(pytest.skip.Exception, match="no such package"):
        _time(_row(call=call), request)


def test_wrong_and_skipped_rows_are_collected_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import conftest

    monkeypatch.setattr(conftest, "_wrong", [])
    monkeypatch.setattr(conftest, "_skipped", [])

    def report(skipped: bool, properties: list[tuple[str, Any]]) -> Any:
        longrepr = ("rows.py", 1, "Skipped: why") if skipped else None
        fields = {"nodeid": "test_decode.py::test_decode[x]", "skipped": skipped, "longrepr": longrepr}
        return types.SimpleNamespace(**fields, user_properties=properties)

    conftest.pytest_runtest_logreport(report(True, [(rows.WRONG, {"reason": "off"})]))
    conftest.pytest_runtest_logreport(report(False, [(rows.WRONG, {"reason": "off"})]))  # the teardown says it again
    conftest.pytest_runtest_logreport(report(True, []))
    assert conftest._wrong == [{"reason": "off"}]
    assert conftest._skipped == [{"name": "test_decode[x]", "reason": "Skipped: why"}]


@pytest.fixture
def _pretended_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of torch.cuda to walk through the timing code."""
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)

    class Replay:
        calls = 6

        def __init__(self, call: Any, inputs: Any) -> None:
            if call(inputs[0]) == "not capturable":
                raise RuntimeError("operation not permitted when stream is capturing")

        def __call__(self) -> None:
            pass

    monkeypatch.setattr(measure, "GraphReplay", Replay)


@pytest.mark.usefixtures("_pretended_device")
def test_a_row_is_replayed_on_a_device(request: pytest.FixtureRequest) -> None:
    info = _time(_row(capture="always", role="ours"), request, "cuda").extra_info
    assert (info["clock"], info["calls_per_round"], info["peak_bytes"]) == ("graph replay", 6, 250)
    assert info["host_seconds"] > 0


@pytest.mark.usefixtures("_pretended_device")
def test_a_peer_that_cannot_be_captured_is_timed_by_the_host(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    info = _time(_row(call=lambda _: "not capturable"), request, "cuda").extra_info
    assert (info["clock"], info["calls_per_round"]) == ("host, synchronised", 1)
    assert "can't be captured (operation not permitted" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="capturing"):
        _time(_row(call=lambda _: "not capturable", role="ours", capture="always"), request, "cuda")


@pytest.mark.usefixtures("_pretended_device")
def test_what_waits_for_the_device_is_not_captured(request: pytest.FixtureRequest) -> None:
    info = _time(_row(capture="never"), request, "cuda").extra_info
    assert info["clock"] == "host, synchronised"
    assert info["host_seconds"] is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gaussian_nll", "reference", test_nll.FILL, test_nll.MEMSET, test_nll.EMPTY])
def test_loss_rows_can_be_captured(name: str, gpu: torch.device) -> None:
    case = test_nll.Case("gaussian_nll", SMALL, (name,))
    made = test_nll.ROWS[name](case, gpu.type)
    inputs = test_nll.inputs_of(case, gpu.type)
    made.compare(made.call(inputs[0]))
    replay = measure.GraphReplay(made.call, inputs)
    assert replay.calls % len(inputs) == 0


@pytest.mark.gpu
def test_decode_rows_can_be_captured(gpu: torch.device) -> None:
    case = test_decode.Case(SMALL)
    for name in (test_decode.OURS, test_decode.READ_ONLY, test_decode.EMPTY, test_decode.REFERENCE):
        made = test_decode.ROWS[name](case, gpu.type)
        inputs = test_decode._inputs(case, gpu.type)
        made.compare(made.call(inputs[0]))
        measure.GraphReplay(made.call, inputs)
