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
from dark_kernels.nll import gaussian_mixture_nll

from ..conftest import SERVICES, is_compiled, require_service
from .cases_mixture import (
    REDUCTIONS,
    Case,
    Inputs,
    assert_like_truth,
    call,
    counted_cells,
    every_case,
    grad_loss_like,
    loss_and_gradients,
    make_inputs,
    some_cases,
)
from .labels import OUTSIDE, channels_last, stride_labels

FUSED = SERVICES[1:]
EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", FUSED, indirect=True)
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
    assert_like_truth(make_inputs(case, 5, 17, 16, 12, seed=23), case, "triton", gpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@EVERY_FUSED
def test_half_precision_maps(dtype: torch.dtype, service: Service) -> None:
    """Arithmetic is float32: only the gradient is rounded to the dtype of the maps."""
    if dtype == torch.bfloat16 and service[0] == "triton" and not is_compiled(service[1]):
        pytest.skip("Triton's interpreter has no bfloat16")
    case = Case(3, "offset", switched=True)
    assert_like_truth(make_inputs(case, dtype=dtype, seed=24), case, *service)


@EVERY_FUSED
def test_float64_is_computed_in_float64(service: Service) -> None:
    backend, device = service
    case = Case()
    inputs = make_inputs(case, dtype=torch.float64).to(device)
    results = [loss_and_gradients(inputs, case, each) for each in (backend, "reference")]
    assert results[0][0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


@EVERY_FUSED
def test_maps_of_three_dtypes(service: Service) -> None:
    """Each gradient has the dtype of its map, and the rounding of that."""
    backend, device = service
    case = Case(2, reduction="sum")
    inputs = make_inputs(case, seed=25).to(device)
    dtypes = (torch.float32, torch.float16, torch.float32 if backend == "triton" else torch.bfloat16)
    inputs = inputs.with_maps(
        *(maps.detach().to(dtype).requires_grad_() for maps, dtype in zip(inputs.maps, dtypes, strict=True))
    )
    assert_like_truth(inputs, case, backend, device)


# --- what counts, and what does not ----------------------------------------------------------------------


@EVERY
def test_nothing_but_the_cells_matters(service: Service) -> None:
    """NaN everywhere but in the cells that count: the same loss, the same gradient, zeros elsewhere."""
    backend, device = service
    case = Case(3, reduction="mean_valid", weighted=True)
    clean = make_inputs(case, seed=26)
    is_cell = torch.zeros(2, 3, *clean.logits.shape[3:], dtype=torch.bool)
    for (b, k), (row, column) in counted_cells(clean, case.stride).items():
        is_cell[b, k, row, column] = True
    masks = is_cell[:, :, None], is_cell[:, :, None, None], is_cell[:, :, None]
    rests = math.inf, math.nan, math.nan
    maps = (torch.where(mask, each, rest) for mask, each, rest in zip(masks, clean.maps, rests, strict=True))
    dirty = clean.with_maps(*maps)
    results = [loss_and_gradients(inputs.to(device), case, backend) for inputs in (clean, dirty)]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    for gradient, mask in zip(results[1][1:], masks, strict=True):
        assert bool((gradient[~mask.expand_as(gradient).to(device)] == 0).all())
    assert int(is_cell.sum()) == 2


@pytest.mark.parametrize("reduction", ["none", "mean_valid"])
@EVERY
def test_targets_outside_the_maps_count_nothing(reduction: str, service: Service) -> None:
    backend, device = service
    case = Case(2, reduction=reduction)
    inputs = make_inputs(case, 1, len(OUTSIDE), seed=27).to(device)
    inputs.target = torch.tensor([list(OUTSIDE.values())], device=device)
    with torch.no_grad():
        for maps in inputs.maps:
            maps.fill_(math.nan)  # in every cell, so that whichever is read shows
    loss, *gradients = loss_and_gradients(inputs, case, backend)
    assert loss.requires_grad
    assert all(bool((each == 0).all()) for each in (loss, *gradients))


@EVERY
def test_corners_of_the_map_count(service: Service) -> None:
    backend, device = service
    case = Case(2)
    inputs = make_inputs(case, 1, 4, seed=28)
    below = torch.nextafter(torch.tensor([20.0, 16.0]), torch.tensor(0.0)).tolist()
    inputs.target = torch.tensor([[[0.0, 0.0], [below[0], 0.0], [0.0, below[1]], below]])
    assert len(counted_cells(inputs, case.stride)) == 4
    assert bool((call(inputs.to(device), case, backend) != 0).all())
    assert_like_truth(inputs, case, backend, device)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, -0.0])
@EVERY
def test_keypoints_without_a_positive_weight_count_nothing(bad: float, service: Service) -> None:
    backend, device = service
    case = Case(2, reduction="mean_valid")
    inputs = make_inputs(case, 1, 2).to(device)
    inputs.target = torch.tensor([[[5.0, 6.0], [5.0, 6.0]]], device=device)
    inputs.weight = torch.tensor([[bad, 2.0]], device=device)
    with torch.no_grad():
        inputs.mean[0, 0] = math.nan
    loss, *gradients = loss_and_gradients(inputs, case, backend)
    alone = Inputs(*(maps[:, 1:] for maps in inputs.maps), inputs.target[:, 1:], None)
    torch.testing.assert_close(loss, call(alone, case, backend))
    for gradient in gradients:
        assert bool((gradient[0, 0] == 0).all())
        assert int((gradient[0, 1] != 0).sum()) == gradient[0, 1, ..., 0, 0].numel()


@EVERY
def test_ignored_keypoints_ignore_the_gradient_that_they_are_sent(service: Service) -> None:
    """It is NaN if what follows divides by their number, say."""
    backend, device = service
    inputs = make_inputs(Case(2), 1, 2).to(device)
    inputs.target = torch.tensor([[[math.nan, 6.0], [5.0, 6.0]]], device=device)
    loss = call(inputs, Case(2), backend)
    gradients = torch.autograd.grad(loss, inputs.maps, torch.tensor([[math.nan, 1.0]], device=device))
    for gradient in gradients:
        assert bool((gradient[0, 0] == 0).all())
        assert bool(gradient[0, 1].isfinite().all())
        assert bool((gradient[0, 1] != 0).any())


@EVERY
def test_visibilities_of_any_dtype_are_weights(service: Service) -> None:
    backend, device = service
    case = Case(2, reduction="mean_valid")
    inputs = make_inputs(case, 1, 2).to(device)
    inputs.target = torch.tensor([[[5.0, 6.0], [9.0, 6.0]]], device=device)
    losses = []
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        inputs.weight = torch.tensor([[1, 0]], device=device).to(dtype)
        losses.append(call(inputs, case, backend))
    assert all(torch.equal(loss, losses[0]) for loss in losses)


@pytest.mark.parametrize("which", ["logits", "mean", "log_var"])
@EVERY
def test_a_nan_in_a_cell_that_counts_is_seen(which: str, service: Service) -> None:
    """A diverged network should be noticed, also where only one component is, and the others are off."""
    backend, device = service
    for others in (0.0, -math.inf):
        for case in (Case(3), Case(3, log_var_bounds=(-1.0, 1.0))):
            inputs = make_inputs(case, 1, 1).to(device)
            inputs.target = torch.tensor([[[5.0, 6.0]]], device=device)
            with torch.no_grad():
                inputs.logits[:, :, 1:] = others
                getattr(inputs, which)[:, :, 0] = math.nan
            loss, *gradients = loss_and_gradients(inputs, case, backend)
            assert bool(loss.isnan().all())
            assert any(bool(gradient.isnan().any()) for gradient in gradients)
            if others == -math.inf and backend != "reference":
                assert all(bool((gradient[:, :, 1:] == 0).all()) for gradient in gradients)


# --- extremes --------------------------------------------------------------------------------------------


def one_cell(
    logits: list[float], means: list[list[float]], log_vars: list[float], device: torch.device | str = "cpu"
) -> Inputs:
    """A single keypoint with its target at (1, 1), in a map of one cell."""
    return Inputs(
        torch.tensor(logits)[None, None, :, None, None],
        torch.tensor(means)[None, None, :, :, None, None],
        torch.tensor(log_vars)[None, None, :, None, None],
        torch.ones(1, 1, 2),
        None,
    ).to(device)


def results(inputs: Inputs, backend: str) -> list[list[float]]:
    """Loss, and gradients of logits, means and log variances, as numbers."""
    loss = call(inputs, Case(reduction="sum"), backend)
    return [each.flatten().tolist() for each in (loss, *torch.autograd.grad(loss, inputs.maps))]


LOG_2_PI = math.log(2 * math.pi)


@EVERY
def test_all_components_off(service: Service) -> None:
    """No density is left: the loss says so, and the gradient is zero."""
    backend, device = service
    off = -math.inf
    inputs = one_cell([off, off], [[0.0, 1.0], [math.nan, 1.0]], [0.0, 0.0], device)
    assert results(inputs, backend) == [[math.inf], [0.0] * 2, [0.0] * 4, [0.0] * 2]


@EVERY
def test_extreme_logits(service: Service) -> None:
    """Only their differences matter, be they large; the component that has all the weight is alone."""
    backend, device = service
    means, log_vars = [[0.0, 1.0], [3.0, 1.0]], [0.5, -0.5]
    alone = results(one_cell([0.0], means[1:], log_vars[1:], device), backend)
    for logits in ([-1e30, 1e30], [-1e4, 0.0], [1e4, 3e4], [-3e38, -1e38]):
        loss, for_logits, for_mean, for_log_var = results(one_cell(logits, means, log_vars, device), backend)
        assert loss == pytest.approx(alone[0], rel=1e-6)
        assert for_logits == [0.0, 0.0]
        assert for_mean[:2] == [0.0, 0.0]
        assert for_mean[2:] == pytest.approx(alone[2], rel=1e-6)
        assert [for_log_var[0], for_log_var[1]] == [0.0, pytest.approx(alone[3][0], rel=1e-6)]


@pytest.mark.parametrize("extreme", [-1e4, -400.0, -100.0, 100.0, 400.0, 1e4])
@EVERY
def test_extreme_log_variances(extreme: float, service: Service) -> None:
    """Where e^s or e^-s over- or underflows in float32: at the mean, off it, alone and beside an ordinary one."""
    backend, device = service
    # At the mean the density is as high as e^-s: all there is if s is low, nothing if it is high.
    assert results(one_cell([0.0], [[1.0, 1.0]], [extreme], device), backend) == [
        [pytest.approx(extreme + LOG_2_PI)],
        [0.0],
        [0.0, 0.0],
        [1.0],
    ]
    ordinary = results(one_cell([0.0], [[0.0, 1.0]], [0.0], device), backend)
    # Off the mean it is nothing in both cases.
    for mean in ([3.0, 1.0],) if extreme < 0 else ([3.0, 1.0], [1.0, 1.0]):
        inputs = one_cell([0.0, 0.0], [mean, [0.0, 1.0]], [extreme, 0.0], device)
        loss, for_logits, for_mean, for_log_var = results(inputs, backend)
        assert loss == pytest.approx([ordinary[0][0] + math.log(2)])
        assert for_logits == pytest.approx([0.5, -0.5])
        assert for_mean == pytest.approx([0.0, 0.0, *ordinary[2]])
        assert for_log_var == pytest.approx([0.0, *ordinary[3]])
    if extreme < 0:
        inputs = one_cell([0.0, 0.0], [[1.0, 1.0], [0.0, 1.0]], [extreme, 0.0], device)
        loss, for_logits, for_mean, for_log_var = results(inputs, backend)
        assert loss == pytest.approx([extreme + LOG_2_PI + math.log(2)])
        assert for_logits == pytest.approx([-0.5, 0.5])
        assert for_mean == pytest.approx([0.0] * 4)
        assert for_log_var == pytest.approx([1.0, 0.0])


@EVERY
def test_densities_that_all_underflow(service: Service) -> None:
    """A target so far off that no density is left in float32: the loss is infinite, and no gradient is NaN."""
    backend, device = service
    inputs = one_cell([0.0, 0.0], [[1e6, 1.0], [-1e6, 1.0]], [-100.0, -100.0], device)
    loss, *gradients = results(inputs, backend)
    assert loss == [math.inf]
    assert not any(math.isnan(number) for gradient in gradients for number in gradient)
    assert gradients[1][0] > 0 > gradients[1][2]  # descent brings both means back
    # A component that is off has no share.
    more = one_cell([0.0, 0.0, -math.inf], [[1e6, 1.0], [-1e6, 1.0], [math.nan, 1.0]], [-100.0, -100.0, 0.0], device)
    for one, other in zip(results(more, backend)[1:], gradients, strict=True):
        assert one == pytest.approx([*other, *[0.0] * (len(one) - len(other))])


@EVERY
def test_no_nan_of_finite_maps(service: Service) -> None:
    """A thousand mixtures of what over- and underflows, some of whose components are off."""
    backend, device = service
    generator = torch.Generator().manual_seed(31)
    numbers = torch.tensor([0, 1, 1e-30, 88, 103, 200, 1e4, 1e30, 3e38])
    numbers = torch.cat([numbers, -numbers])

    def draw(*shape: int) -> Tensor:
        return numbers[torch.randint(len(numbers), shape, generator=generator)]

    logits = draw(50, 20, 3, 1, 1)
    logits[torch.rand(logits.shape, generator=generator) < 0.2] = -math.inf
    target = torch.rand(50, 20, 2, generator=generator)
    inputs = Inputs(logits, draw(50, 20, 3, 2, 1, 1), draw(50, 20, 3, 1, 1), target, None).to(device)
    for result in loss_and_gradients(inputs, Case(), backend):
        assert not bool(result.isnan().any())


@EVERY
def test_half_precision_does_not_overflow(service: Service) -> None:
    """float16 stops at e^11."""
    backend, device = service
    inputs = one_cell([0.0, 0.0], [[1.0, 1.0], [2.0, 1.0]], [-30.0, 30.0], device)
    half = inputs.with_maps(*(maps.detach().half().requires_grad_() for maps in inputs.maps))
    for one, other in zip(results(half, backend), results(inputs, backend), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@EVERY
def test_nothing_to_do(shape: tuple[int, int], reduction: str, service: Service) -> None:
    backend, device = service
    case = Case(2, reduction=reduction)
    inputs = make_inputs(case, *shape).to(device)
    loss, *gradients = loss_and_gradients(inputs, case, backend)
    assert loss.shape == (shape if reduction == "none" else ())
    assert bool((loss == 0).all())
    assert [gradient.shape for gradient in gradients] == [maps.shape for maps in inputs.maps]


# --- memory ----------------------------------------------------------------------------------------------


def one_head(inputs: Inputs) -> Inputs:
    """Views of one [B, K * 4 M, H, W] tensor."""
    maps = torch.cat([maps.flatten(1, -3) for maps in inputs.maps], dim=1)
    sizes = [each[0, ..., 0, 0].numel() for each in inputs.maps]
    parts = (part.view(each.shape) for part, each in zip(maps.split(sizes, dim=1), inputs.maps, strict=True))
    return inputs.with_maps(*parts)


def each(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: inputs.with_maps(*map(function, inputs.maps))


def strange_labels(inputs: Inputs) -> Inputs:
    target, weight = stride_labels(inputs.target, inputs.weight)
    return dataclasses.replace(inputs, target=target, weight=weight)


LAYOUTS: dict[str, Callable[[Inputs], Inputs]] = {
    "channels_last": each(channels_last),
    "one_head": one_head,
    "transposed": each(lambda maps: maps.transpose(-1, -2).contiguous().transpose(-1, -2)),
    "components_innermost": each(lambda maps: maps.movedim(2, -1).contiguous().movedim(-1, 2)),
    "batch_innermost": each(lambda maps: maps.movedim(0, -1).contiguous().movedim(-1, 0)),
    "sliced": each(lambda maps: torch.nn.functional.pad(maps, (1, 2, 3, 1), value=math.nan)[..., 3:-1, 1:-2]),
    "expanded": each(lambda maps: maps[:1].expand_as(maps)),
    "mixed": lambda inputs: inputs.with_maps(inputs.logits, channels_last(inputs.mean), inputs.log_var),
    "labels": strange_labels,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY_FUSED
def test_any_strides(layout: str, service: Service) -> None:
    """Read where they are, with the numbers of a copy, and not written to."""
    backend, device = service
    case = Case(3, reduction="mean", weighted=True)
    plain = make_inputs(case, seed=29)
    there = LAYOUTS[layout](plain)
    if device.type != "cpu":  # keeps the strides of what is dense
        there = Inputs(*(maps.to(device) for maps in there.maps), there.target.to(device), there.weight.to(device))
    there = there.with_maps(*(maps.detach().requires_grad_() for maps in there.maps))
    copy = Inputs(
        *(maps.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for maps in there.maps),
        there.target.contiguous(),
        there.weight.contiguous(),
    )
    with (
        testing.assert_unchanged(there.logits),
        testing.assert_unchanged(there.mean),
        testing.assert_unchanged(there.log_var),
    ):
        mine = loss_and_gradients(there, case, backend)
    for one, other in zip(mine, loss_and_gradients(copy, case, backend), strict=True):
        assert torch.equal(one, other)


@EVERY_FUSED
def test_gradients_lie_in_memory_as_the_maps(service: Service) -> None:
    backend, device = service
    case = Case(2, reduction="sum")
    inputs = make_inputs(case).to(device)
    gradients = loss_and_gradients(inputs, case, backend)[1:]
    assert all(gradient.is_contiguous() for gradient in gradients)
    inputs = inputs.with_maps(*(channels_last(maps.detach()).requires_grad_() for maps in inputs.maps))
    others = loss_and_gradients(inputs, case, backend)[1:]
    for gradient, other, maps in zip(gradients, others, inputs.maps, strict=True):
        assert other.stride() == maps.stride()
        assert torch.equal(gradient, other)


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
@EVERY_FUSED
def test_only_the_gradients_that_are_asked_for(needs: tuple[bool, ...], service: Service) -> None:
    backend, device = service
    case = Case(2)
    inputs = make_inputs(case).to(device)
    everything = loss_and_gradients(inputs, case, backend)[1:]
    for maps, need in zip(inputs.maps, needs, strict=True):
        maps.requires_grad_(need)
    wanted = [maps for maps, need in zip(inputs.maps, needs, strict=True) if need]
    loss = call(inputs, case, backend)
    some = torch.autograd.grad(loss, wanted, grad_loss_like(loss))
    expected = [gradient for gradient, need in zip(everything, needs, strict=True) if need]
    assert all(torch.equal(one, other) for one, other in zip(some, expected, strict=True))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@EVERY_FUSED
def test_two_runs_agree_to_the_last_bit(reduction: str, service: Service) -> None:
    backend, device = service
    case = Case(3, "offset", (-3.0, 3.0), reduction, True)
    size = (2, 3, 4, 5) if device.type == "cpu" else (64, 17, 64, 48)
    inputs = make_inputs(case, *size).to(device)
    runs = [loss_and_gradients(inputs, case, backend) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("service", SERVICES[2::2], indirect=True)
def test_kernels_write_every_element(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer is NaN, or the lowest integer, before a kernel fills it."""
    _, device = service
    empty = torch.empty

    def poisoned(*size: object, **options: object) -> Tensor:
        tensor = empty(*size, **options)  # type: ignore[call-overload]
        return tensor.fill_(math.nan if tensor.is_floating_point() else -(2**63))

    monkeypatch.setattr(torch, "empty", poisoned)
    for case in (Case(3), Case(5, reduction="mean_valid", weighted=True)):
        for change in (lambda inputs: inputs, each(channels_last)):
            assert_like_truth(change(make_inputs(case, 2, 3, 3, 7)), case, "triton", device)


@pytest.mark.parametrize(
    ("num_components", "shape", "reduction"),
    [
        (1, (1, 1, 1, 1), "none"),
        (3, (1, 131, 1, 2), "none"),
        (5, (3, 131, 1, 2), "mean_valid"),
        (2, (1, 2, 67, 62), "sum"),
    ],
)
@EVERY_FUSED
def test_shapes_on_either_side_of_a_block(
    num_components: int, shape: tuple[int, int, int, int], reduction: str, service: Service
) -> None:
    """One of each; more keypoints than a block holds, and than a program's first one; more pixels than a tile."""
    case = Case(num_components, reduction=reduction)
    assert_like_truth(make_inputs(case, *shape, seed=30), case, *service)


@pytest.mark.gpu
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_31_elements(gpu: torch.device) -> None:
    if torch.cuda.mem_get_info(gpu)[0] < 24 << 30:
        pytest.skip("less than 24 GiB free on the device")
    batch, num_keypoints, height, width = 12, 308, 384, 384  # 2.2e9 elements of means
    shape = (batch, num_keypoints, 2, height, width)
    logits = torch.zeros(1, 1, 1, 1, 1, device=gpu).expand(shape)
    mean = torch.zeros(batch, num_keypoints, 2, 2, height, width, device=gpu, dtype=torch.float16, requires_grad=True)
    target = torch.full((batch, num_keypoints, 2), 4.0 * 384 - 1, device=gpu)
    loss = gaussian_mixture_nll(logits, mean, logits, target, reduction="none", backend="triton")
    assert bool((loss == loss[0, 0]).all())
    (gradient,) = torch.autograd.grad(loss.sum(), mean)
    assert int(torch.count_nonzero(gradient)) == batch * num_keypoints * 4
    assert bool((gradient[..., -1, -1] == -(4.0 * 384 - 1) / 2).all())


# --- anything --------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn) -> tuple[Case, Inputs]:
    case = Case(
        draw(st.integers(1, 8)),
        draw(st.sampled_from(("absolute", "offset"))),
        draw(st.sampled_from((None, (-1.0, 0.5), (-math.inf, 0.2)))),
        draw(st.sampled_from(REDUCTIONS)),
        draw(st.booleans()),
        draw(st.sampled_from((1.0, 4.0, 2.5, 32.0))),
        draw(st.booleans()),
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
