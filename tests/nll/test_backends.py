"""Eager and Triton against the reference in float64: values, every element of the gradient, layouts, odd inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import testing
from dark_kernels.nll import gaussian_nll

from ..conftest import SERVICES, is_compiled, require_service
from .cases import (
    FORMS,
    REDUCTIONS,
    Case,
    Inputs,
    assert_like_truth,
    call,
    counted_cells,
    every_case,
    grad_loss_like,
    make_inputs,
    some_cases,
)
from .labels import OUTSIDE, channels_last, stride_labels

FUSED = SERVICES[1:]


@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_eager_is_the_reference(case: Case, device: torch.device) -> None:
    assert_like_truth(make_inputs(case, seed=21), case, "eager", device)


@pytest.mark.parametrize("case", some_cases(), ids=lambda case: case.id)
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_backends_are_the_reference(case: Case, service: tuple[str, torch.device]) -> None:
    assert_like_truth(make_inputs(case, seed=22), case, *service)


@pytest.mark.gpu
@pytest.mark.parametrize("case", every_case(), ids=lambda case: case.id)
def test_triton_on_a_gpu_is_the_reference(case: Case, gpu: torch.device) -> None:
    assert_like_truth(make_inputs(case, 5, 17, 16, 12, seed=23), case, "triton", gpu)


@pytest.mark.parametrize("form", ["isotropic", "cholesky"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_half_precision_maps(form: str, dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    """Arithmetic is float32: only the gradient is rounded to the dtype of the maps."""
    if dtype == torch.bfloat16 and service[0] == "triton" and not is_compiled(service[1]):
        pytest.skip("Triton's interpreter has no bfloat16")
    case = Case(form, "offset", full=True)
    assert_like_truth(make_inputs(case, dtype=dtype, seed=24), case, *service)


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_float64_is_computed_in_float64(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky")
    inputs = make_inputs(case, dtype=torch.float64).to(device)
    loss = call(inputs, case, backend)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, call(inputs, case, "reference"), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_maps_of_two_dtypes(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("diagonal", reduction="sum")
    inputs = make_inputs(case, seed=25).to(device)
    half = inputs.mean.detach().half().requires_grad_()
    loss = gaussian_nll(half, inputs.log_var, inputs.target, reduction="sum", backend=backend)
    same = gaussian_nll(half.detach().float(), inputs.log_var, inputs.target, reduction="sum", backend=backend)
    assert torch.equal(loss, same)
    gradients = torch.autograd.grad(loss, (half, inputs.log_var))
    assert [gradient.dtype for gradient in gradients] == [torch.float16, torch.float32]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("num_keypoints", [64, 65, 401])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_so_many_keypoints_that_several_programs_share_them(
    num_keypoints: int, reduction: str, service: tuple[str, torch.device]
) -> None:
    """Up to ten programs of 128, the last of them with some or one."""
    case = Case("diagonal", weighted=True, reduction=reduction)
    assert_like_truth(make_inputs(case, 3, num_keypoints, 2, 3, seed=31), case, *service)


# --- what counts, and what does not ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["isotropic", "cholesky"])
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_nothing_but_the_cells_matters(form: str, service: tuple[str, torch.device]) -> None:
    """NaN everywhere but in the cells that count: the same loss, the same gradient, zeros elsewhere."""
    backend, device = service
    case = Case(form, reduction="mean_valid", weighted=True)
    clean = make_inputs(case, seed=26)
    dirty = Inputs(torch.full_like(clean.mean, math.nan), torch.full_like(clean.log_var, math.nan), clean.target, None)
    dirty.weight = clean.weight
    is_cell = torch.zeros(clean.mean.shape[:2] + clean.mean.shape[3:], dtype=torch.bool)
    for (b, k), (row, column) in counted_cells(clean, case.stride).items():
        is_cell[b, k, row, column] = True
    is_cell = is_cell[:, :, None]
    dirty.mean = torch.where(is_cell, clean.mean, math.nan)
    dirty.log_var = torch.where(is_cell, clean.log_var, math.inf)
    results = []
    for inputs in (clean.to(device), dirty.to(device)):
        loss = call(inputs, case, backend)
        results.append((loss, *torch.autograd.grad(loss, (inputs.mean, inputs.log_var))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    for gradient in results[1][1:]:
        assert bool((gradient[~is_cell.expand_as(gradient).to(device)] == 0).all())
        assert int(is_cell.sum()) == 2


@pytest.mark.parametrize("reduction", ["none", "mean_valid"])
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_targets_outside_the_maps_count_nothing(reduction: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction=reduction)
    inputs = make_inputs(case, 1, len(OUTSIDE), seed=27).to(device)
    inputs.target = torch.tensor([list(OUTSIDE.values())], device=device)
    with torch.no_grad():
        inputs.mean.fill_(math.nan)  # in every cell, so that whichever is read shows
    loss = call(inputs, case, backend)
    assert loss.requires_grad
    assert bool((loss == 0).all())
    for gradient in torch.autograd.grad(loss.sum(), (inputs.mean, inputs.log_var)):
        assert bool((gradient == 0).all())


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_corners_of_the_map_count(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction="none")
    inputs = make_inputs(case, 1, 4, seed=28).to(device)
    below = torch.nextafter(torch.tensor([20.0, 16.0]), torch.tensor(0.0)).tolist()
    corners = [[0.0, 0.0], [below[0], 0.0], [0.0, below[1]], below]
    inputs.target = torch.tensor([corners], device=device)
    assert len(counted_cells(inputs.to("cpu"), case.stride)) == 4
    assert bool((call(inputs, case, backend) != 0).all())
    assert_like_truth(inputs.to("cpu"), case, backend, device)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, -0.0])
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_keypoints_without_a_positive_weight_count_nothing(bad: float, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("diagonal", reduction="mean_valid")
    inputs = make_inputs(case, 1, 2).to(device)
    inputs.target = torch.tensor([[[5.0, 6.0], [5.0, 6.0]]], device=device)
    inputs.weight = torch.tensor([[bad, 2.0]], device=device)
    with torch.no_grad():
        inputs.mean[0, 0] = math.nan
    loss = call(inputs, case, backend)
    alone = Inputs(inputs.mean[:, 1:], inputs.log_var[:, 1:], inputs.target[:, 1:], None)
    torch.testing.assert_close(loss, call(alone, case, backend))
    for gradient in torch.autograd.grad(loss, (inputs.mean, inputs.log_var)):
        assert bool((gradient[0, 0] == 0).all())
        assert int((gradient[0, 1] != 0).sum()) == 2


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_visibilities_of_any_dtype_are_weights(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction="mean_valid")
    inputs = make_inputs(case, 1, 2).to(device)
    inputs.target = torch.tensor([[[5.0, 6.0], [9.0, 6.0]]], device=device)
    losses = []
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        inputs.weight = torch.tensor([[1, 0]], device=device).to(dtype)
        losses.append(call(inputs, case, backend))
    assert all(torch.equal(loss, losses[0]) for loss in losses)


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_a_nan_in_a_cell_that_counts_is_seen(service: tuple[str, torch.device]) -> None:
    """A diverged network should be noticed."""
    backend, device = service
    inputs = make_inputs(Case(), 1, 1).to(device)
    inputs.target = torch.tensor([[[5.0, 6.0]]], device=device)
    with torch.no_grad():
        inputs.log_var.fill_(math.nan)
    for case in (Case(), Case(log_var_bounds=(-1.0, 1.0))):
        loss = call(inputs, case, backend)
        assert bool(loss.isnan().all())
        assert int(torch.autograd.grad(loss.sum(), inputs.mean)[0].isnan().sum()) == 2


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_fixed_log_var_does_not_read_the_predicted_one(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(fixed_log_var=0.5, reduction="sum")
    inputs = make_inputs(case).to(device)
    with torch.no_grad():
        inputs.log_var.fill_(math.nan)
    loss = call(inputs, case, backend)
    assert bool(loss.isfinite())
    g_mean, g_log_var = torch.autograd.grad(loss, (inputs.mean, inputs.log_var))
    assert bool(g_mean.isfinite().all())
    assert bool((g_log_var == 0).all())


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_the_default_device_does_not_matter(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction="mean_valid")
    inputs = make_inputs(case).to(device)
    with torch.device("meta"):
        loss = call(inputs, case, backend)
    assert torch.equal(loss, call(inputs, case, backend))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_bounds_do_not_touch_a_fixed_log_var(form: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(form, fixed_log_var=2.5, reduction="sum")
    inputs = make_inputs(case).to(device)
    losses = [call(inputs, dataclasses.replace(case, log_var_bounds=bounds), backend) for bounds in (None, (-1.0, 1.0))]
    assert torch.equal(*losses)
    assert torch.equal(*[torch.autograd.grad(loss, inputs.mean)[0] for loss in losses])


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_small_variances_do_not_overflow(service: tuple[str, torch.device]) -> None:
    """e^-s alone is infinite in float32 at s = -100, and half precision stops at e^11."""
    backend, device = service
    mean = torch.full((1, 1, 2, 1, 1), 2.0, device=device, requires_grad=True)
    log_var = torch.full((1, 1, 1, 1, 1), -100.0, device=device, requires_grad=True)
    loss = gaussian_nll(mean, log_var, torch.full((1, 1, 2), 2.0, device=device), backend=backend)
    assert loss.item() == -100.0
    assert [g.flatten().tolist() for g in torch.autograd.grad(loss, (mean, log_var))] == [[0.0, 0.0], [1.0]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_nothing_to_do(shape: tuple[int, int], reduction: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case(reduction=reduction)
    inputs = make_inputs(Case(), *shape).to(device)
    loss = call(inputs, case, backend)
    assert loss.shape == (shape if reduction == "none" else ())
    assert bool((loss == 0).all())
    gradient = torch.autograd.grad(loss.sum(), inputs.mean)[0]
    assert gradient.shape == inputs.mean.shape


# --- memory ----------------------------------------------------------------------------------------------


def one_head(inputs: Inputs) -> Inputs:
    """Means and log variances as views of one [B, K * P, H, W] tensor."""
    batch, num_keypoints, _, height, width = inputs.mean.shape
    maps = torch.cat([inputs.mean.flatten(1, 2), inputs.log_var.flatten(1, 2)], dim=1)
    mean, log_var = maps.split([2 * num_keypoints, maps.shape[1] - 2 * num_keypoints], dim=1)
    return Inputs(
        mean.view(batch, num_keypoints, 2, height, width),
        log_var.reshape(batch, num_keypoints, -1, height, width),
        inputs.target,
        inputs.weight,
    )


def each(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    def change(inputs: Inputs) -> Inputs:
        return Inputs(function(inputs.mean), function(inputs.log_var), inputs.target, inputs.weight)

    return change


def strange_labels(inputs: Inputs) -> Inputs:
    return Inputs(inputs.mean, inputs.log_var, *stride_labels(inputs.target, inputs.weight))


LAYOUTS: dict[str, Callable[[Inputs], Inputs]] = {
    "channels_last": each(channels_last),
    "one_head": one_head,
    "transposed": each(lambda maps: maps.transpose(3, 4).contiguous().transpose(3, 4)),
    "batch_innermost": each(lambda maps: maps.movedim(0, -1).contiguous().movedim(-1, 0)),
    "sliced": each(lambda maps: torch.nn.functional.pad(maps, (1, 2, 3, 1), value=math.nan)[..., 3:-1, 1:-2]),
    "expanded": each(lambda maps: maps[:1].expand_as(maps)),
    "mixed": lambda inputs: Inputs(channels_last(inputs.mean), inputs.log_var, inputs.target, inputs.weight),
    "labels": strange_labels,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_any_strides(layout: str, service: tuple[str, torch.device]) -> None:
    """Read where they are, with the numbers of a copy, and not written to."""
    backend, device = service
    case = Case("diagonal", reduction="mean", weighted=True)
    inputs = LAYOUTS[layout](make_inputs(case, seed=29))
    there = Inputs(
        inputs.mean.to(device), inputs.log_var.to(device), inputs.target.to(device), inputs.weight
    )  # keeps the strides of what is dense
    there.weight = None if inputs.weight is None else inputs.weight.to(device)
    if device.type == "cpu":
        there = inputs
    copy = Inputs(
        there.mean.clone(memory_format=torch.contiguous_format).requires_grad_(),
        there.log_var.clone(memory_format=torch.contiguous_format).requires_grad_(),
        there.target.contiguous(),
        None if there.weight is None else there.weight.contiguous(),
    )
    there.mean, there.log_var = there.mean.detach().requires_grad_(), there.log_var.detach().requires_grad_()
    results = []
    with testing.assert_unchanged(there.mean), testing.assert_unchanged(there.log_var):
        for each_inputs in (there, copy):
            loss = call(each_inputs, case, backend)
            results.append((loss, *torch.autograd.grad(loss, (each_inputs.mean, each_inputs.log_var))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_gradients_lie_in_memory_as_the_maps(service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", reduction="sum")
    inputs = make_inputs(case).to(device)
    gradients = torch.autograd.grad(call(inputs, case, backend), (inputs.mean, inputs.log_var))
    assert all(gradient.is_contiguous() for gradient in gradients)
    inputs.mean = channels_last(inputs.mean.detach()).requires_grad_()
    inputs.log_var = channels_last(inputs.log_var.detach()).requires_grad_()
    others = torch.autograd.grad(call(inputs, case, backend), (inputs.mean, inputs.log_var))
    for gradient, other, maps in zip(gradients, others, (inputs.mean, inputs.log_var), strict=True):
        assert other.stride() == maps.stride()
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_only_the_gradient_that_is_asked_for(needs: tuple[bool, bool], service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", reduction="none")
    inputs = make_inputs(case).to(device)
    loss = call(inputs, case, backend)
    both = torch.autograd.grad(loss, (inputs.mean, inputs.log_var), grad_loss_like(loss))
    inputs.mean.requires_grad_(needs[0])
    inputs.log_var.requires_grad_(needs[1])
    loss = call(inputs, case, backend)
    (one,) = torch.autograd.grad(loss, inputs.mean if needs[0] else inputs.log_var, grad_loss_like(loss))
    assert torch.equal(one, both[0] if needs[0] else both[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_two_runs_agree_to_the_last_bit(reduction: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    case = Case("cholesky", "offset", 0.5, reduction=reduction, weighted=True)
    size = (2, 3, 4, 5) if device.type == "cpu" else (64, 17, 64, 48)
    inputs = make_inputs(case, *size).to(device)
    runs = []
    for _ in range(2):
        loss = call(inputs, case, backend)
        runs.append((loss, *torch.autograd.grad(loss, (inputs.mean, inputs.log_var), grad_loss_like(loss))))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("service", SERVICES[2::2], indirect=True)
def test_kernels_write_every_element(service: tuple[str, torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer is NaN before a kernel fills it."""
    _, device = service
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(math.nan))
    for case in (Case("diagonal"), Case("cholesky", reduction="mean_valid", weighted=True)):
        assert_like_truth(make_inputs(case, 2, 3, 3, 7), case, "triton", device)


@pytest.mark.parametrize(
    ("shape", "reduction"),
    [((1, 1, 1, 1), "none"), ((1, 131, 1, 2), "mean_valid"), ((3, 2, 67, 62), "sum")],
)
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_shapes_on_either_side_of_a_block(
    shape: tuple[int, int, int, int], reduction: str, service: tuple[str, torch.device]
) -> None:
    """One of each; more keypoints than a block holds; more pixels than a tile holds."""
    case = Case("isotropic", reduction=reduction)
    assert_like_truth(make_inputs(case, *shape, seed=30), case, *service)


@pytest.mark.gpu
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_31_elements(gpu: torch.device) -> None:
    if torch.cuda.mem_get_info(gpu)[0] < 24 << 30:
        pytest.skip("less than 24 GiB free on the device")
    batch, num_keypoints, height, width = 24, 308, 384, 384  # 2.2e9 elements of means
    mean = torch.zeros(batch, num_keypoints, 2, height, width, device=gpu, dtype=torch.float16, requires_grad=True)
    log_var = torch.zeros(1, 1, 1, 1, 1, device=gpu).expand(batch, num_keypoints, 1, height, width)
    target = torch.full((batch, num_keypoints, 2), 4.0 * 384 - 1, device=gpu)
    loss = gaussian_nll(mean, log_var, target, reduction="none", backend="triton")
    assert bool((loss == loss[0, 0]).all())
    (gradient,) = torch.autograd.grad(loss.sum(), mean)
    assert int(torch.count_nonzero(gradient)) == batch * num_keypoints * 2
    assert bool((gradient[..., -1, -1] == -(4.0 * 384 - 1)).all())


# --- anything --------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn) -> tuple[Case, Inputs]:
    fixed = draw(st.sampled_from((None, None, -2.0, 0.7)))
    case = Case(
        draw(st.sampled_from(sorted(FORMS))),
        draw(st.sampled_from(("absolute", "offset"))),
        draw(st.sampled_from((0.0, 0.3, 1.0))),
        fixed,
        draw(st.sampled_from((None, (-1.0, 0.5), (-math.inf, 0.2)))) if fixed is None else None,
        draw(st.booleans()),
        draw(st.sampled_from(REDUCTIONS)),
        draw(st.booleans()),
        draw(st.sampled_from((1.0, 4.0, 2.5, 32.0))),
    )
    sizes = draw(st.tuples(*(st.integers(1, high) for high in (3, 5, 6, 7))))
    inputs = make_inputs(case, *sizes, seed=draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        inputs = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](inputs)
    return case, inputs


@given(calls())
@settings(max_examples=100)
def test_eager_is_the_reference_for_anything(call_: tuple[Case, Inputs]) -> None:
    case, inputs = call_
    assert_like_truth(inputs, case, "eager")


@given(calls())
@settings(max_examples=15)
def test_triton_interpreted_is_the_reference_for_anything(call_: tuple[Case, Inputs]) -> None:
    case, inputs = call_
    assert_like_truth(inputs, case, "triton", require_service("triton", "cpu"))


@pytest.mark.gpu
@given(calls())
@settings(max_examples=200)
def test_triton_on_a_gpu_is_the_reference_for_anything(call_: tuple[Case, Inputs]) -> None:
    case, inputs = call_
    assert_like_truth(inputs, case, "triton", require_service("triton", "cuda"))
