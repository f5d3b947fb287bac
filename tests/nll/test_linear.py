"""The head and the loss in one: the numbers of a convolution, a gather and a loss, without the maps."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels.nll import gaussian_nll, gaussian_nll_reference, linear_gaussian_nll

from ..conftest import SERVICES
from .cases import FORMS, REDUCTIONS, Case, every_case, grad_loss_like, some_cases

FUSED = SERVICES[1:]
Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]

# Roundings of a sum of C products and of the operations behind it.
_OPERATIONS = 16


def make(
    case: Case,
    batch: int = 2,
    num_keypoints: int = 3,
    channels: int = 5,
    height: int = 4,
    width: int = 5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Tensors:
    """Features, weight, bias, target and keypoint weight. Keypoints 0 and 1 share a cell, the last is outside."""
    generator = torch.Generator().manual_seed(seed)
    rows = num_keypoints * (2 + FORMS[case.form][0])
    features = torch.randn(batch, channels, height, width, generator=generator)
    weight = torch.randn(rows, channels, generator=generator) / channels**0.5
    bias = torch.randn(rows, generator=generator)
    target = torch.rand(batch, num_keypoints, 2, generator=generator) * torch.tensor([width, height]) * case.stride
    if num_keypoints > 1:
        target[:, 1] = (target[:, 0] / case.stride).floor() * case.stride + 0.25 * case.stride
    if num_keypoints > 2 and batch:
        target[0, -1] = math.nan
    keypoint_weight = torch.rand(batch, num_keypoints, generator=generator) + 0.5 if case.weighted else None
    return features.to(dtype), weight.to(dtype), bias.to(dtype), target, keypoint_weight


def call(tensors: Tensors, case: Case, backend: str = "auto") -> Tensor:
    features, weight, bias, target, keypoint_weight = tensors
    return linear_gaussian_nll(
        features, weight, bias, target, keypoint_weight=keypoint_weight, reduction=case.reduction, backend=backend,
        **case.options,
    )  # fmt: skip


def by_convolution(tensors: Tensors, case: Case) -> Tensor:
    """The maps, and their loss."""
    features, weight, bias, target, keypoint_weight = tensors
    num_keypoints = target.shape[1]
    maps = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
    mean = maps[:, : 2 * num_keypoints].unflatten(1, (num_keypoints, 2))
    log_var = maps[:, 2 * num_keypoints :].unflatten(1, (num_keypoints, -1))
    return gaussian_nll_reference(
        mean, log_var, target, weight=keypoint_weight, reduction=case.reduction, **case.options
    )


def leaves(tensors: Tensors, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensors:
    variables = [
        tensor.detach().to(device, dtype or tensor.dtype, copy=True).requires_grad_() for tensor in tensors[:3]
    ]
    target, keypoint_weight = tensors[3:]
    return (*variables, target.to(device), None if keypoint_weight is None else keypoint_weight.to(device))  # type: ignore


def assert_like_truth(tensors: Tensors, case: Case, backend: str, device: torch.device | str = "cpu") -> None:
    """Loss and gradients against the convolution in float64, within the error of rounding the inputs to float32."""
    double = leaves(tensors, torch.float64)
    expected = by_convolution(double, case)
    expected_gradients = torch.autograd.grad(expected, double[:3], grad_loss_like(expected))

    # What float32 arithmetic does to the exact numbers, from a few random perturbations of that size.
    generator = torch.Generator().manual_seed(0)
    epsilon = torch.finfo(torch.float32).eps
    bounds = [epsilon * result.abs().amax() for result in (expected, *expected_gradients)]
    for _ in range(4):
        moved = leaves(tensors, torch.float64)
        with torch.no_grad():
            for tensor in moved[:3]:
                noise = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
                tensor.mul_(1 + epsilon * noise)
        loss = by_convolution(moved, case)
        gradients = torch.autograd.grad(loss, moved[:3], grad_loss_like(loss))
        for i, (one, other) in enumerate(zip((expected, *expected_gradients), (loss, *gradients), strict=True)):
            bounds[i] = torch.maximum(bounds[i], (one - other).abs().amax())

    there = leaves(tensors, device=device)
    loss = call(there, case, backend)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, there[:3], grad_loss_like(loss))
    for name, actual, exact, bound in zip(
        ("loss", "features", "weight", "bias"), (loss, *gradients), (expected, *expected_gradients), bounds, strict=True
    ):
        rounding = 0.0 if name == "loss" else torch.finfo(actual.dtype).eps
        tolerance = _OPERATIONS * bound + rounding * exact.abs()
        error = (actual.detach().cpu().double() - exact).abs()
        assert bool((error <= tolerance).all()), f"{name}: {case.id}: error {error.max()}, tolerance {bound}"
        if name == "features":
            assert torch.equal((actual != 0).any(1).cpu(), (exact != 0).any(1))


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_is_the_loss_of_the_convolution(case: Case, backend: str) -> None:
    assert_like_truth(make(case, seed=1), case, backend)


@pytest.mark.parametrize("case", some_cases()[::2], ids=lambda case: case.id)
@pytest.mark.parametrize("service", FUSED[1:], indirect=True)
def test_kernels_are_the_loss_of_the_convolution(case: Case, service: tuple[str, torch.device]) -> None:
    assert_like_truth(make(case, seed=2), case, *service)


@pytest.mark.gpu
@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_kernels_on_a_gpu(case: Case, gpu: torch.device) -> None:
    assert_like_truth(make(case, 9, 37, 150, 16, 12, seed=3), case, "triton", gpu)


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_half_precision(service: tuple[str, torch.device]) -> None:
    case = Case("diagonal", "offset", reduction="none")
    assert_like_truth(make(case, dtype=torch.float16, seed=4), case, *service)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize(("form", "reduction"), list(itertools.product(FORMS, REDUCTIONS)))
def test_gradcheck(form: str, reduction: str, backend: str) -> None:
    """With two keypoints in one cell and one outside."""
    case = Case(form, reduction=reduction, weighted=reduction != "sum")
    tensors = leaves(make(case, 2, 3, 2, 2, 2, torch.float64, seed=5))

    def loss(*variables: Tensor) -> Tensor:
        return call((*variables, *tensors[3:]), case, backend)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, tensors[:3])


@pytest.mark.parametrize("reduction", ["none", "mean_valid"])
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_many_keypoints_in_one_cell(reduction: str, service: tuple[str, torch.device]) -> None:
    """All of them add up, in one rounding and in one order: twice the same to the last bit."""
    backend, device = service
    case = Case("diagonal", reduction=reduction)
    tensors = list(make(case, 1, 9, 3, 2, 3, seed=6))  # more than a program takes at once
    tensors[3][:, ::2] = torch.tensor([5.0, 5.0])
    tensors[3][:, 1::4] = torch.tensor([9.0, 1.0])
    assert_like_truth(tuple(tensors), case, backend, device)  # type: ignore[arg-type]
    runs = []
    for _ in range(2):
        there = leaves(tuple(tensors), device=device)  # type: ignore[arg-type]
        loss = call(there, case, backend)
        runs.append((loss, *torch.autograd.grad(loss, there[:3], grad_loss_like(loss))))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_half_precision_rounds_what_keypoints_in_one_cell_add_up_to_once(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", "offset", fixed_log_var=4.0, reduction="sum")
    tensors = make(case, 1, 65, 3, 1, 1, seed=6)
    tensors = (tensors[0].half(), *tensors[1:])  # type: ignore[assignment]
    double = leaves(tensors, torch.float64)
    (exact,) = torch.autograd.grad(call(double, case, "reference"), double[0])
    there = leaves(tensors, device=device)
    (gradient,) = torch.autograd.grad(call(there, case, backend), there[0])
    torch.testing.assert_close(gradient.cpu().double(), exact, rtol=torch.finfo(torch.float16).eps / 2, atol=1e-4)


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_nothing_but_the_cells_matters(service: tuple[str, torch.device]) -> None:
    """NaN features elsewhere change no loss and no gradient, that of the head included."""
    backend, device = service
    case = Case(reduction="mean_valid")
    clean = make(case, 2, 2, 3, seed=7)
    clean[3][0, 0] = -1.0  # its own cell is none, and cell 0 is not its own
    dirty = list(clean)
    cell = (clean[3] / case.stride).floor().long()
    keep = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    for b, k in itertools.product(range(2), range(2)):
        if (b, k) != (0, 0):
            keep[b, 0, cell[b, k, 1], cell[b, k, 0]] = True
    dirty[0] = torch.where(keep, clean[0], math.nan)
    results = []
    for tensors in (clean, tuple(dirty)):
        there = leaves(tensors, device=device)  # type: ignore[arg-type]
        loss = call(there, case, backend)
        results.append((loss, *torch.autograd.grad(loss, there[:3])))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_bounds_do_not_touch_a_fixed_log_var(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", fixed_log_var=2.5, reduction="sum")
    tensors = leaves(make(case), device=device)
    cases = [case, dataclasses.replace(case, log_var_bounds=(-1.0, 1.0))]
    losses = [call(tensors, each, backend) for each in cases]
    assert torch.equal(*losses)
    assert torch.equal(*[torch.autograd.grad(loss, tensors[0])[0] for loss in losses])


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_no_keypoint_counts(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction="mean_valid")
    tensors = list(make(case, seed=8))
    tensors[3][:] = math.nan
    tensors[0][:] = math.nan
    there = leaves(tuple(tensors), device=device)  # type: ignore[arg-type]
    loss = call(there, case, backend)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, there[:3]):
        assert bool((gradient == 0).all())


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "no_bias", "convolution"])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_any_layout(layout: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", reduction="sum")
    features, weight, bias, target, _ = leaves(make(case, seed=9), device=device)
    expected = call((features, weight, bias, target, None), case, backend)
    expected_gradients = torch.autograd.grad(expected, (features, weight, bias))
    other, other_weight, other_bias = features.detach(), weight.detach(), bias.detach()
    if layout == "channels_last":
        other = other.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        other = torch.nn.functional.pad(other, (1, 2, 3, 4), value=math.nan)[..., 3:-4, 1:-2]
        other_weight = torch.nn.functional.pad(other_weight, (1, 2, 3, 4), value=math.nan)[3:-4, 1:-2]
        other_bias = torch.stack([other_bias, other_bias * math.nan], dim=-1)[:, 0]
    elif layout == "transposed":
        other = other.transpose(2, 3).contiguous().transpose(2, 3)
        other_weight = other_weight.t().contiguous().t()
    elif layout == "expanded":
        other = other[:, :, :1, :1].expand_as(other)
        features = other.contiguous().requires_grad_()
        expected = call((features, weight, bias, target, None), case, backend)
        expected_gradients = torch.autograd.grad(expected, (features, weight, bias))
    elif layout == "no_bias":
        other_bias = torch.zeros_like(bias)
        expected = call((features, weight, other_bias, target, None), case, backend)
        expected_gradients = torch.autograd.grad(expected, (features, weight))
    elif layout == "convolution":
        other_weight = other_weight[:, :, None, None]
    variables = [other.requires_grad_(), other_weight.requires_grad_()]
    if layout != "no_bias":
        variables.append(other_bias.requires_grad_())
    loss = call((*variables[:2], variables[2] if len(variables) > 2 else None, target, None), case, backend)  # type: ignore
    gradients = torch.autograd.grad(loss, variables)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other)
    if layout == "channels_last":
        assert gradients[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3))[1:])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_only_the_gradients_that_are_asked_for(
    needs: tuple[bool, bool, bool], service: tuple[str, torch.device]
) -> None:
    backend, device = service
    case = Case("diagonal", reduction="none")
    tensors = leaves(make(case, 1, 2, 3, 2, 3, seed=10), device=device)
    loss = call(tensors, case, backend)
    every = torch.autograd.grad(loss, tensors[:3], grad_loss_like(loss))
    for tensor, need in zip(tensors[:3], needs, strict=True):
        tensor.requires_grad_(need)  # type: ignore[union-attr]
    loss = call(tensors, case, backend)
    wanted = [tensor for tensor, need in zip(tensors[:3], needs, strict=True) if need]
    some = torch.autograd.grad(loss, wanted, grad_loss_like(loss))  # type: ignore[arg-type]
    for one, other in zip(some, [each for each, need in zip(every, needs, strict=True) if need], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_nothing_to_do(shape: tuple[int, int], service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction="sum")
    tensors = leaves(make(case, *shape), device=device)
    loss = call(tensors, case, backend)
    assert loss.item() == 0
    for gradient, tensor in zip(torch.autograd.grad(loss, tensors[:3]), tensors[:3], strict=True):
        assert gradient.shape == tensor.shape  # type: ignore[union-attr]
        assert bool((gradient == 0).all())


@pytest.mark.parametrize("service", SERVICES[2::2], indirect=True)
def test_kernels_write_every_element(service: tuple[str, torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    _, device = service
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(math.nan))
    case = Case("cholesky", reduction="mean_valid", weighted=True)
    assert_like_truth(make(case, 2, 3, 35, 3, 7, seed=11), case, "triton", device)


def test_no_map_is_stored() -> None:
    """The largest tensors of forward and backward are the features and their gradient."""
    case = Case(reduction="mean")
    features, weight, bias, target, _ = leaves(make(case, 2, 40, 3, 8, 8, seed=12))
    sizes: list[int] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            tensors = [result] if isinstance(result, Tensor) else [r for r in result if isinstance(r, Tensor)]
            sizes.extend(tensor.untyped_storage().nbytes() for tensor in tensors)
            return result

    with Recorder():
        linear_gaussian_nll(features, weight, bias, target).backward()
    a_map = 2 * 40 * 3 * 8 * 8 * 4
    assert max(sizes) < a_map / 4


@st.composite
def calls(draw: st.DrawFn) -> tuple[Case, Tensors]:
    fixed = draw(st.sampled_from((None, None, 0.7)))
    case = Case(
        draw(st.sampled_from(sorted(FORMS))),
        draw(st.sampled_from(("absolute", "offset"))),
        draw(st.sampled_from((0.0, 0.3))),
        fixed,
        None,
        draw(st.booleans()),
        draw(st.sampled_from(REDUCTIONS)),
        draw(st.booleans()),
        draw(st.sampled_from((1.0, 4.0))),
    )
    sizes = draw(st.tuples(*(st.integers(1, high) for high in (2, 4, 9, 4, 5))))
    features, weight, bias, target, keypoint_weight = make(case, *sizes, seed=draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        features = features.contiguous(memory_format=torch.channels_last)
    if draw(st.booleans()):
        target = target[:, :1].expand_as(target)
    return case, (features, weight, bias, target, keypoint_weight)


@given(calls())
@settings(max_examples=60)
def test_eager_for_anything(call_: tuple[Case, Tensors]) -> None:
    case, tensors = call_
    assert_like_truth(tensors, case, "eager")


@given(calls())
@settings(max_examples=6)
def test_triton_interpreted_for_anything(call_: tuple[Case, Tensors]) -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled on a machine with a device, not interpreted")
    pytest.importorskip("triton", reason="Triton is not installed")
    case, tensors = call_
    assert_like_truth(tensors, case, "triton")


def test_is_the_fused_loss_of_given_maps() -> None:
    """linear_gaussian_nll and gaussian_nll agree through the public names."""
    case = Case("cholesky", "offset", 0.5, reduction="mean")
    features, weight, bias, target, _ = make(case, seed=13)
    maps = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
    mean, log_var = maps[:, :6].unflatten(1, (3, 2)), maps[:, 6:].unflatten(1, (3, 3))
    expected = gaussian_nll(mean, log_var, target, reduction="mean", **case.options)
    torch.testing.assert_close(call((features, weight, bias, target, None), case), expected)


@pytest.mark.parametrize("reduction", ["mean", "mean_valid"])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_so_many_keypoints_that_many_programs_share_them(reduction: str, service: tuple[str, torch.device]) -> None:
    case = Case("isotropic", weighted=True, reduction=reduction)
    assert_like_truth(make(case, 3, 30), case, *service)
