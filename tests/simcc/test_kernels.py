"""The Triton kernel by itself: what it writes, axes of any length, offsets, launches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import SimCCKeypoints, decode_simcc
from dark_kernels.recipes import opencv_taps

from ..conftest import require_service
from .cases import Case, assert_like_truth, assert_within_bounds

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the kernel runs: interpreted on the CPU, or compiled."""
    return require_service("triton", request.param)


@pytest.mark.parametrize("visibility", [False, True])
def test_outputs_are_written_whole_and_nothing_beside_them(visibility: bool, triton_device: torch.device) -> None:
    from dark_kernels.simcc import kernels

    case = Case(visibility=visibility, sigma=2.0)
    guarded, outputs = [], []
    for shape in ((*case.shape, 2), case.shape, case.shape):
        memory = torch.full((math.prod(shape) + 16,), math.nan, device=triton_device)
        memory[:8] = memory[-8:] = 12345.0
        guarded.append(memory)
        outputs.append(memory[8:-8].view(shape))
    axes, sharpness = case.axes(triton_device), case.beta * 2.0 if visibility else 0.0
    taps = opencv_taps(11)
    kernels.decode_simcc_fwd(*outputs, *axes, taps, taps, sharpness, sharpness, case.split_ratio, False, "none", 1.0)
    for memory in guarded:
        assert bool((memory[:8] == 12345.0).all() & (memory[-8:] == 12345.0).all()), "written beside an output"
    assert bool(outputs[2].isnan().all()) == (not visibility)
    actual = SimCCKeypoints(outputs[0], outputs[1], outputs[2] if visibility else None)
    assert_within_bounds(actual, *axes, case, "triton")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dark", [False, True])
def test_long_axes_of_logits(dark: bool, activation: str, triton_device: torch.device) -> None:
    """Held whole, or walked along with two softmaxes on the way."""
    kinds = ("strong_blob", "noise", "some_minus_infinite")
    case = Case(kinds, (1, 3), (600, 2500), sigma=4.9, beta=0.5, dark=dark, activation=activation, logit_scale=0.2)
    assert assert_like_truth(case, "triton", triton_device).bounded > 0
    simcc_x, simcc_y = (axis.clone() for axis in case.axes(triton_device))
    simcc_y[0, 0] = -math.inf
    simcc_y[0, 1, 2] = simcc_x[0, 2, 599] = math.nan
    actual = decode_simcc(simcc_x, simcc_y, 4.9, dark, backend="triton", activation=activation)
    assert actual.coords.tolist() == [[[-1.0, -1.0]] * 3]
    assert actual.scores.isnan().tolist() == [[False, True, True]]
    assert actual.scores[0, 0].item() == 0.0


@pytest.mark.parametrize("widths", [(512, 513), (2048, 2049), (3000, 5000)])
def test_axes_of_any_length(widths: tuple[int, int], triton_device: torch.device) -> None:
    """Held in registers whole, or walked along with a softmax on the way."""
    kinds = ("noisy_blob", "noise")
    case = Case(kinds, (1, 2), widths, sigma=(4.9, 9.0), beta=1.0)
    assert assert_like_truth(case, "triton", triton_device).bounded > 0
    simcc_x, simcc_y = (axis.clone() for axis in case.axes(triton_device))
    for k, place in enumerate((0, widths[1] - 1)):
        simcc_y[0, k, place] = 1e30  # in the first block, and in the last
    coords = decode_simcc(simcc_x, simcc_y, backend="triton").coords
    assert coords[0, :, 1].tolist() == [0.0, widths[1] - 1.0]
    simcc_y[0, 0, 2] = simcc_x[0, 1, widths[0] - 1] = math.nan
    assert decode_simcc(simcc_x, simcc_y, backend="triton").scores.isnan().all()
    nothing = torch.full_like(simcc_y, -math.inf)
    visibility = decode_simcc(nothing, nothing, 1.0, visibility=True, backend="triton").visibility
    assert visibility is not None
    assert visibility.flatten().tolist() == pytest.approx([1 / widths[1]] * 2, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("far", ["batch", "bin"])
@pytest.mark.usefixtures("much_memory")
def test_axes_that_reach_beyond_2_to_the_31(far: str, triton_device: torch.device) -> None:
    """Of the memory between them no page is ever touched on a CPU."""
    if triton_device.type != "cpu" and torch.cuda.mem_get_info(triton_device)[0] < 10 * 2**30:
        pytest.skip("less than 10 GiB of free device memory")
    axis = torch.rand(3, 1, 5, generator=torch.Generator().manual_seed(0)).half().to(triton_device)
    stride = 2**30 + 4096 if far == "batch" else 2**29 + 1024
    storage = torch.empty(2 * 2**30 + 20000, dtype=torch.float16, device=triton_device)
    strides = (stride, 0, 1) if far == "batch" else (5, 0, stride)
    wide = storage.as_strided(axis.shape, strides)
    if far == "bin":
        axis, wide = axis[:1], wide[:1]
    wide.copy_(axis)
    actual, expected = (decode_simcc(each, each, 1.0, True, backend="triton") for each in (wide, axis))
    # Other strides are another kernel, which may add up in another order.
    torch.testing.assert_close(actual.coords, expected.coords, rtol=0, atol=1e-4)
    assert torch.equal(actual.scores, expected.scores)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The constexprs of each launch, recorded as they happen."""
    from dark_kernels.simcc import kernels

    recorded: list[dict[str, Any]] = []
    kernel = kernels._decode_simcc_fwd_kernel

    class Recorder:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*arguments: Any, **constants: Any) -> None:
                recorded.append(constants)
                kernel[grid](*arguments, **constants)

            return launch

    monkeypatch.setattr(kernels, "_decode_simcc_fwd_kernel", Recorder())
    return recorded


def test_one_launch_whatever_is_asked_for(launches: list[dict[str, Any]], triton_device: torch.device) -> None:
    axes = Case().axes(triton_device)
    decode_simcc(*axes, backend="triton")
    decode_simcc(*axes, (2.0, 1.0), True, 2.0, "mean", True, backend="triton")
    decode_simcc(*axes, (2.0, 1.0), True, visibility=True, backend="triton", activation="softmax", logit_scale=10)
    decode_simcc(*axes, backend="triton", logit_scale=10)  # which nothing asks for
    plain, full, logits, again = launches
    assert not plain["DARK"]
    assert (plain["X"].SHARPNESS, plain["Y"].SHARPNESS) == (0.0, 0.0)
    assert (full["X"].SHARPNESS, full["Y"].SHARPNESS) == (300.0, 150.0)
    assert (full["X"].TAPS.RADIUS, full["Y"].TAPS.RADIUS) == (5, 1)
    assert (full["MEAN_SCORE"], full["SPLIT_RATIO"]) == (True, 2.0)
    plans = [launch[axis] for launch in (full, logits) for axis in ("X", "Y")]
    assert [plan.ACTIVATION for plan in plans] == ["none", "none", "softmax", "softmax"]
    assert [plan.LOGIT_SCALE for plan in plans] == [1.0, 1.0, 10.0, 10.0]
    assert again == plain


@pytest.mark.gpu
def test_a_new_batch_size_compiles_nothing(gpu: torch.device) -> None:
    from triton import knobs

    compiled: list[object] = []
    simcc_x, simcc_y = torch.rand(37, 5, 384, device=gpu), torch.rand(37, 5, 512, device=gpu)
    decode_simcc(simcc_x[:3], simcc_y[:3], 4.9, True)
    knobs.runtime.jit_post_compile_hook = lambda **arguments: compiled.append(arguments["key"])
    try:
        for batch, num_keypoints in ((1, 1), (2, 1), (16, 5), (37, 3)):
            axes: list[Tensor] = [axis[:batch, :num_keypoints].contiguous() for axis in (simcc_x, simcc_y)]
            decode_simcc(*axes, 4.9, True)
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []
