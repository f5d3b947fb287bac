"""Eager and Triton against the reference in float64: values, every element of the gradient, layouts, odd inputs."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import testing

from ..conftest import SERVICES, is_compiled
from .cases import (
    ENCODINGS,
    FUNCTIONS,
    KINDS,
    REDUCTIONS,
    SOFTMAX,
    Case,
    Inputs,
    assert_like_truth,
    call,
    every_case,
    grad_loss_like,
    loss_and_gradient,
    make_inputs,
    some_cases,
)

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
Service = tuple[str, torch.device]


@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_eager_is_the_reference(case: Case, device: torch.device) -> None:
    assert_like_truth(make_inputs(case, seed=21), case, "eager", device)


@pytest.mark.parametrize("case", some_cases(), ids=lambda case: case.id)
@EVERY_FUSED
def test_backends_are_the_reference(case: Case, service: Service) -> None:
    assert_like_truth(make_inputs(case, seed=22), case, *service)


@pytest.mark.gpu
@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_triton_on_a_gpu_is_the_reference(case: Case, gpu: torch.device) -> None:
    assert_like_truth(make_inputs(case, 5, 17, 48, 36, seed=23), case, "triton", gpu)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@EVERY_FUSED
def test_half_precision_maps(dtype: torch.dtype, kind: str, service: Service) -> None:
    """Arithmetic is float32: only the gradient is rounded to the dtype of the maps."""
    if dtype == torch.bfloat16 and service[0] == "triton" and not is_compiled(service[1]):
        pytest.skip("Triton's interpreter has no bfloat16")
    case = Case(kind)
    assert_like_truth(make_inputs(case, dtype=dtype, seed=24), case, *service)


@EVERY_KIND
@EVERY_FUSED
def test_float64_is_computed_in_float64(kind: str, service: Service) -> None:
    backend, device = service
    case = Case(kind, labels=True)
    inputs = make_inputs(case, dtype=torch.float64).to(device)
    results = [loss_and_gradient(inputs, case, each) for each in (backend, "reference")]
    assert results[0][0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(KINDS),
    encoding=st.sampled_from(ENCODINGS),
    reduction=st.sampled_from(REDUCTIONS),
    people=st.sampled_from([None, 1, 2]),
    labels=st.booleans(),
    empty=st.sampled_from(["skip", "zero"]),
    batch=st.integers(0, 3),
    num_keypoints=st.integers(0, 4),
    height=st.sampled_from([1, 2, 3, 8, 13]),
    width=st.sampled_from([1, 2, 5, 16, 17]),
    seed=st.integers(0, 2**16),
)
def test_eager_for_any_shape(
    kind: str, encoding: str, reduction: str, people: int | None, labels: bool, empty: str, batch: int,
    num_keypoints: int, height: int, width: int, seed: int,
) -> None:  # fmt: skip
    case = Case(kind, encoding, reduction, people, labels, empty="skip" if kind in SOFTMAX else empty)
    assert_like_truth(make_inputs(case, batch, num_keypoints, height, width, seed=seed), case, "eager")


@EVERY_KIND
def test_eager_takes_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several images, and of several keypoints or one of an image. The last elements of a vector are computed apart
    from the others, and may round otherwise."""
    from dark_kernels._common.targets import eager

    case = Case(kind, "udp", people=2, labels=True)
    inputs = make_inputs(case, 5, 4, seed=25)
    expected = loss_and_gradient(inputs.to(), case, "eager")
    for block in (1, 300, 1000):
        monkeypatch.setattr(eager, "_BLOCK", block)
        for one, other in zip(loss_and_gradient(inputs.to(), case, "eager"), expected, strict=True):
            torch.testing.assert_close(one, other)


@EVERY_FUSED
@pytest.mark.parametrize("pixels", ["few", "many"])
def test_rows_of_any_map_are_found(pixels: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """By float32 in maps of few pixels and by integers in maps of many."""
    backend, device = service
    if backend == "triton":
        from dark_kernels._triton import targets

        monkeypatch.setattr(targets, "EXACT_PIXELS", 0 if pixels == "many" else 2**19)
    case = Case("mse", "unbiased")
    for height, width in ((7, 3), (1, 40), (31, 29)):
        assert_like_truth(make_inputs(case, 1, 1, height, width, seed=26), case, backend, device)


def test_float32_finds_rows_exactly() -> None:
    """floor((pixel + 1/2) * (1 / width)) for the last pixel of each row and the first of the next, up to the limit."""
    targets = pytest.importorskip("dark_kernels._triton.targets", reason="Triton is not installed")
    for width in (*range(1, 130), 191, 192, 193, 333, 511, 512, 720, 727, 1023, 4099, 65537, 524287):
        row = torch.arange(targets.EXACT_PIXELS // width + 1)
        # A division may be off by two units in the last place.
        for reciprocal in (torch.tensor(1.0 / width) * (1 + 2.0**-22 * sign) for sign in (-1, 0, 1)):
            for pixel in (row * width, row * width + width - 1):
                found = ((pixel.float() + 0.5) * reciprocal.float()).floor().long()
                inside = pixel < targets.EXACT_PIXELS
                assert torch.equal(found[inside], row[inside]), width


# --- what counts, and what does not ----------------------------------------------------------------------


NOWHERE = {
    "nan": (math.nan, 4.0),
    "inf": (4.0, math.inf),
    "left": (-40.0, 4.0),
    "right": (51.0, 4.0),
    "above": (4.0, -40.0),
    "below": (4.0, 49.0),
    "far": (1e30, 4.0),
}


@EVERY_KIND
@pytest.mark.parametrize("encoding", ENCODINGS)
@EVERY
def test_absent_keypoints_count_nothing(encoding: str, kind: str, service: Service) -> None:
    """Whatever their maps hold, and whatever gradient their loss is sent."""
    backend, device = service
    case = Case(kind, encoding)
    keypoints = torch.tensor([list(NOWHERE.values())], device=device)
    maps = torch.full((1, len(NOWHERE), 3, 4), math.nan, device=device, requires_grad=True)
    loss = call(Inputs(maps, keypoints), case, backend)
    (gradient,) = torch.autograd.grad(loss, maps, torch.full_like(loss, math.nan))
    assert bool((loss == 0).all())
    assert bool((gradient == 0).all())


@EVERY_KIND
@EVERY
def test_maps_without_a_positive_weight_count_nothing(kind: str, service: Service) -> None:
    backend, device = service
    case = Case(kind)
    inputs = make_inputs(case, 1, 6, 3, 4).to(device)
    inputs.keypoints = torch.full((1, 6, 2), 2.0, device=device)
    inputs.weight = torch.tensor([[0.0, -1.0, math.nan, -0.0, 2.0, 1.0]], device=device)
    inputs.visible = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 0.4]], device=device)
    with torch.no_grad():
        inputs.heatmaps[:, :4] = math.nan
        inputs.heatmaps[:, 5] = math.inf
    loss, gradient = loss_and_gradient(inputs, case, backend)
    assert (loss != 0).tolist() == [[False, False, False, False, True, False]]
    assert bool((gradient[0, 4] != 0).all())
    assert bool((gradient[0, [0, 1, 2, 3, 5]] == 0).all())
    single = Inputs(inputs.heatmaps[:, 4:5], inputs.keypoints[:, 4:5])
    torch.testing.assert_close(2 * call(single, case, backend), loss[:, 4:5])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SOFTMAX])
@EVERY
def test_absent_keypoints_train_towards_zero_if_asked(kind: str, service: Service) -> None:
    """With their own weight; nobody at all is as absent."""
    backend, device = service
    case = Case(kind, empty="zero")
    inputs = make_inputs(case, 1, 3, 3, 4).to(device)
    weight = torch.tensor([[1.0, 0.5, 0.0]], device=device)
    inputs.weight = weight
    results = []
    for keypoints, visible in (
        (torch.full((1, 3, 2), math.nan, device=device), None),
        (torch.full((1, 3, 2), -30.0, device=device), None),
        (torch.full((1, 3, 2), 1.0, device=device), torch.zeros(1, 3, device=device)),
        (torch.zeros(1, 0, 3, 2, device=device), None),
    ):
        inputs.keypoints, inputs.visible = keypoints, visible
        results.append(loss_and_gradient(inputs, case, backend))
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)
    loss, gradient = results[0]
    assert (loss > 0).tolist() == [[True, True, False]]
    assert bool((gradient[0, :2] > 0).all())
    assert bool((gradient[0, 2] == 0).all())
    if kind == "mse":
        torch.testing.assert_close(loss, weight * inputs.heatmaps.detach().square().mean((2, 3)))


@EVERY_KIND
@EVERY
def test_a_nan_in_a_map_that_counts_shows(kind: str, service: Service) -> None:
    backend, device = service
    case = Case(kind)
    inputs = make_inputs(case, 1, 2, 3, 4).to(device)
    inputs.keypoints = torch.full((1, 2, 2), 1.0, device=device)
    with torch.no_grad():
        inputs.heatmaps[0, 0, 2, 3] = math.nan
    loss, gradient = loss_and_gradient(inputs, case, backend)
    assert loss.isnan().tolist() == [[True, False]]
    assert bool(gradient[0, 1].isfinite().all())


@EVERY_KIND
@EVERY
def test_large_numbers_do_not_overflow(kind: str, service: Service) -> None:
    """Float16 maps of up to 1e4: a finite loss, and a finite gradient of float16."""
    backend, device = service
    case = Case(kind, reduction="mean")
    inputs = make_inputs(case, 2, 3, 5, 6).to(device)
    inputs.keypoints = torch.full((2, 3, 2), 2.0, device=device)
    signs = torch.where(torch.arange(6, device=device) % 2 == 0, 1.0, -1.0)
    for maps in (signs.expand(2, 3, 5, 6) * 1e4, torch.full((2, 3, 5, 6), 1e4, device=device)):
        large = inputs.with_maps(maps.half().requires_grad_())
        loss, gradient = loss_and_gradient(large, case, backend)
        assert bool(loss.isfinite())
        assert bool(gradient.isfinite().all())
        assert gradient.dtype == torch.float16
        expected, _ = loss_and_gradient(large.to(device, torch.float64), case, "reference")
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SOFTMAX)
@EVERY
def test_pixels_without_a_probability(kind: str, service: Service) -> None:
    """A logit of -inf where no target is costs nothing and gets no gradient."""
    backend, device = service
    case = Case(kind, "biased")
    inputs = make_inputs(case, 1, 1, 9, 20).to(device)
    inputs.keypoints = torch.full((1, 1, 2), 4.0, device=device)
    with torch.no_grad():
        inputs.heatmaps[..., 10:] = -math.inf
    loss, gradient = loss_and_gradient(inputs, case, backend)
    narrow = Inputs(inputs.heatmaps.detach()[..., :10].contiguous().requires_grad_(), inputs.keypoints)
    expected, expected_gradient = loss_and_gradient(narrow, case, backend)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[..., :10], expected_gradient)
    assert bool((gradient[..., 10:] == 0).all())


@pytest.mark.parametrize("kind", SOFTMAX)
@EVERY
def test_a_target_of_zeros_is_no_distribution(kind: str, service: Service) -> None:
    """A window that ends just before the map: encode gives it a weight, but there is nothing to compare with, and what
    the map holds does not matter."""
    backend, device = service
    case = Case(kind, "biased")
    inputs = make_inputs(case, 1, 1, 9, 11).to(device)
    inputs.sigma = 2.0
    inputs.keypoints = torch.tensor([[[-8.0, 4.0]]], device=device)
    for maps in (inputs.heatmaps, torch.full_like(inputs.heatmaps, math.nan)):
        loss, gradient = loss_and_gradient(inputs.with_maps(maps.detach().requires_grad_()), case, backend)
        assert bool((loss == 0).all())
        assert bool((gradient == 0).all())


@EVERY_KIND
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@EVERY
def test_no_maps(shape: tuple[int, int], reduction: str, kind: str, service: Service) -> None:
    """A loss of 0 with a graph."""
    backend, device = service
    case = Case(kind, reduction=reduction)
    inputs = make_inputs(case, *shape).to(device)
    loss, gradient = loss_and_gradient(inputs, case, backend)
    assert loss.requires_grad
    assert loss.shape == (shape if reduction == "none" else ())
    assert bool((loss == 0).all())
    assert gradient.shape == inputs.heatmaps.shape


def test_no_images_to_mine() -> None:
    inputs = make_inputs(Case(), 0, 3).to()
    for reduction in REDUCTIONS:
        case = Case(topk=2, reduction=reduction)
        assert bool((loss_and_gradient(inputs, case, "eager")[0] == 0).all())


# --- memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [name for name in testing.LAYOUTS if name != "contiguous"])
@EVERY_FUSED
def test_layouts(layout: str, service: Service) -> None:
    """The same numbers as for contiguous maps that hold the same."""
    backend, device = service
    case = Case("mse", "udp", labels=True)
    inputs = make_inputs(case, 2, 3, 7, 6, seed=27)
    laid_out = testing.with_layout(inputs.heatmaps.to(device), layout)
    plain = inputs.with_maps(laid_out.contiguous()).to(device)
    expected, expected_gradient = loss_and_gradient(plain, case, backend)
    other = dataclasses.replace(plain, heatmaps=laid_out.requires_grad_())
    loss, gradient = loss_and_gradient(other, case, backend)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@EVERY_FUSED
def test_the_gradient_of_interleaved_maps_is_interleaved(service: Service) -> None:
    backend, device = service
    inputs = make_inputs(Case(), 2, 5, 4, 3).to(device)
    maps = inputs.heatmaps.detach().to(memory_format=torch.channels_last).requires_grad_()
    _, gradient = loss_and_gradient(inputs.with_maps(maps), Case(), backend)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@EVERY_FUSED
def test_labels_of_any_strides_and_dtypes(service: Service) -> None:
    backend, device = service
    case = Case("mse", people=2, labels=True)
    inputs = make_inputs(case, 2, 2, 3, 4, seed=28).to(device)
    assert inputs.visible is not None
    assert inputs.weight is not None
    inputs.visible, inputs.weight = (inputs.visible >= 0.5).float(), (inputs.weight > 0).float()
    expected = loss_and_gradient(inputs, case, backend)
    for dtype in (torch.bool, torch.int64, torch.float64):
        strided = dataclasses.replace(
            inputs,
            keypoints=inputs.keypoints.transpose(0, 2).contiguous().transpose(0, 2).double(),
            visible=inputs.visible.transpose(1, 2).contiguous().transpose(1, 2).to(dtype),
            weight=inputs.weight.mT.contiguous().mT.to(dtype),
        )
        for one, other in zip(loss_and_gradient(strided, case, backend), expected, strict=True):
            assert torch.equal(one, other)


@EVERY_KIND
@EVERY_FUSED
def test_two_runs_agree_and_nothing_is_written_to(kind: str, service: Service) -> None:
    backend, device = service
    case = Case(kind, reduction="mean", people=2, labels=True)
    inputs = make_inputs(case, seed=29).to(device)
    tensors = [each for each in vars(inputs).values() if isinstance(each, Tensor)]
    before = [each.detach().clone() for each in tensors]
    runs = [loss_and_gradient(inputs, case, backend) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    for each, copy in zip(tensors, before, strict=True):
        assert torch.equal(each.detach().nan_to_num(-1), copy.nan_to_num(-1))


@EVERY_KIND
@EVERY_FUSED
def test_all_of_the_output_is_written(kind: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is handed out full of NaN shows what is left out."""
    backend, device = service
    empty = torch.empty

    def poisoned(*arguments: object, **options: object) -> Tensor:
        memory = empty(*arguments, **options)  # type: ignore[call-overload]
        return memory.fill_(math.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch, "empty", poisoned)
    case = Case(kind, labels=True)
    loss, gradient = loss_and_gradient(make_inputs(case, 2, 5, 7, 9, seed=30).to(device), case, backend)
    assert not bool(loss.isnan().any())
    assert not bool(gradient.isnan().any())


_PEAK = """
import torch
import dark_kernels

torch.set_num_threads(1)
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024  # MiB

def losses(maps):
    return [getattr(dark_kernels, name)(maps, keypoints[: maps.shape[0]]) for name in FUNCTIONS]

keypoints = torch.rand(16, 32, 2) * 60
maps = (0.1 + 0.8 * torch.rand(16, 32, 128, 64)).requires_grad_()  # 16 MiB
for loss in losses(maps[:2]):
    torch.autograd.grad(loss, maps)
start = peak()
results = losses(maps)
forward = peak()
for loss in results:
    torch.autograd.grad(loss, maps)
print(forward - start, peak() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_map_size_exists_on_a_cpu() -> None:
    """Measured: the peak of memory grows by some blocks in the forward passes, and by one gradient in the backward
    passes."""
    names = [function.__name__ for function in FUNCTIONS.values()]
    code = f"FUNCTIONS = {names}\n{_PEAK}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    forward, both = map(float, result.stdout.split())
    assert forward < 8
    assert both < 16 + 8


# --- mining ----------------------------------------------------------------------------------------------


@EVERY_FUSED
def test_only_the_hardest_maps_get_a_gradient(service: Service) -> None:
    backend, device = service
    case = Case(topk=2, weighting="hrnet", reduction="none")
    inputs = make_inputs(Case(), 3, 5, seed=31).to(device)
    inputs.keypoints = torch.full((3, 5, 2), 4.0, device=device)
    losses = call(inputs, case, backend, topk=None)
    loss, gradient = loss_and_gradient(inputs, case, backend)
    is_hard = losses >= losses.sort(dim=1, descending=True).values[:, 1:2]
    assert torch.equal(loss, torch.where(is_hard, losses, 0.0))
    assert torch.equal((gradient != 0).any(-1).any(-1), is_hard)
    full = torch.autograd.grad(losses, inputs.heatmaps, grad_loss_like(losses))[0]
    assert torch.equal(gradient[is_hard], full[is_hard])
