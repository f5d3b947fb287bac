"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels.nll import gaussian_mixture_nll

from .. import launches
from ..conftest import SERVICES
from .cases_mixture import REDUCTIONS, Case, Inputs, call, make_inputs

OPERATORS = torch.ops.dark_kernels
OPTIONS = (4.0, True, -3.0, 3.0)
TESTS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def some_inputs(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, means, log variances and targets that all count."""
    inputs = make_inputs(Case(3), batch, 2, 3, 4, dtype=dtype).to(device)
    target = torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)) * 12
    return (*inputs.maps, target.to(device))


@pytest.mark.parametrize("reduction", ["none", "mean_valid"])
@EVERY_FUSED
def test_opcheck(reduction: str, service: Service) -> None:
    """Of the raw operators, which have no gradient of their own: the autograd function around them does."""
    backend, device = service
    logits, mean, log_var, target = (each.detach() for each in some_inputs(2 if backend == "eager" else 1, device))
    arguments = (*OPTIONS, reduction, backend)
    for weight in (torch.ones(target.shape[:2], device=device), None):
        torch.library.opcheck(
            OPERATORS.gaussian_mixture_nll.default,
            (logits, mean, log_var, target, weight, *arguments),
            test_utils=TESTS,
        )
    loss, *saved = OPERATORS.gaussian_mixture_nll(logits, mean, log_var, target, None, *arguments)
    for dtypes, channels_last in (
        ((torch.float32, torch.float16, torch.float32), False),
        ((None, torch.float32, None), True),
    ):
        torch.library.opcheck(
            OPERATORS.gaussian_mixture_nll_backward.default,
            (torch.ones_like(loss), *saved, 3, 4, *dtypes, channels_last, backend),
            test_utils=TESTS,
        )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("channels_last", [False, True])
@EVERY_FUSED
def test_fakes_are_like_the_real_outputs(reduction: str, channels_last: bool, service: Service) -> None:
    backend, device = service
    *maps, target = (each.detach() for each in some_inputs(2, device, torch.float16))
    maps[2] = maps[2].float()
    if channels_last:
        maps = [each.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1)) for each in maps]
        target = target.movedim(0, -1).contiguous().movedim(-1, 0)
    arguments = (*OPTIONS, reduction, backend)

    def everything(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
        loss = gaussian_mixture_nll(*leaves, tensors[3], reduction=reduction, backend=backend)
        raw = OPERATORS.gaussian_mixture_nll(*tensors, None, *arguments)
        return (loss, *raw, *torch.autograd.grad(loss.sum(), leaves))

    real = everything(*maps, target)
    with FakeTensorMode() as mode:
        fake = everything(*(mode.from_tensor(tensor) for tensor in (*maps, target)))
    assert len(real) == 8
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )


# --- torch.compile ---------------------------------------------------------------------------------------


def scaled_loss(logits: Tensor, mean: Tensor, log_var: Tensor, target: Tensor) -> Tensor:
    return gaussian_mixture_nll(
        logits + 1, mean * 2, log_var - 1, target, weight=torch.ones_like(target[..., 0]), log_var_bounds=(-5, 5),
        reduction="mean_valid",
    )  # fmt: skip


@pytest.mark.slow
def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)

    compiled = torch.compile(scaled_loss, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        inputs = some_inputs(batch, device)
        expected, loss = scaled_loss(*inputs), compiled(*inputs)
        torch.testing.assert_close(loss, expected)
        results = (torch.autograd.grad(each, inputs[:3]) for each in (loss, expected))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
            assert torch.equal(one != 0, other != 0)
    assert len(graphs) == 2


def test_compiled_without_a_gradient() -> None:
    torch._dynamo.reset()
    inputs = tuple(tensor.detach() for tensor in some_inputs())
    compiled = torch.compile(scaled_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), scaled_loss(*inputs))


def test_the_reference_compiles_whole() -> None:
    """Forwards and backwards, its own products included."""
    torch._dynamo.reset()
    *leaves, target = some_inputs()

    def loss(*leaves: Tensor) -> Tensor:
        return gaussian_mixture_nll(*leaves, target, backend="reference")

    compiled, expected = torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), loss(*leaves)
    torch.testing.assert_close(compiled, expected)
    gradients = (torch.autograd.grad(each, leaves) for each in (compiled, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# --- autograd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_torch_func(backend: str) -> None:
    """grad, and gradients for each sample by vmap, are the gradients of autograd."""
    *maps, target = some_inputs(3)

    def loss(*maps: Tensor) -> Tensor:
        return gaussian_mixture_nll(*maps, target, reduction="sum", backend=backend)

    expected = torch.autograd.grad(loss(*maps), maps)
    gradients = torch.func.grad(loss, (0, 1, 2))(*(each.detach() for each in maps))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)

    def of_one(*tensors: Tensor) -> Tensor:
        return gaussian_mixture_nll(*(tensor[None] for tensor in tensors), reduction="sum", backend=backend)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        per_sample = torch.func.vmap(torch.func.grad(of_one, (0, 1, 2)))(*(each.detach() for each in maps), target)
    for one, other in zip(per_sample, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("how", ["product", "sum", "func"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_second_derivative_raises(which: int, how: str) -> None:
    """Also where it is one of several terms, and under torch.func: never silent zeros."""
    *maps, target = some_inputs(1)

    def loss(variable: Tensor) -> Tensor:
        return gaussian_mixture_nll(*maps[:which], variable, *maps[which + 1 :], target, backend="eager")

    variable = maps[which]

    def second_derivative() -> None:
        if how == "func":
            torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(variable.detach())
            return
        value = loss(variable) * variable.sum() if how == "product" else loss(variable) + variable.square().sum()
        (gradient,) = torch.autograd.grad(value, variable, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), variable)

    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative()


@EVERY_FUSED
def test_maps_may_change_after_the_forward_pass(service: Service) -> None:
    """Keep what backward needs of them, and not them."""
    backend, device = service
    *maps, target = some_inputs(2, device)
    expected = torch.autograd.grad(gaussian_mixture_nll(*maps, target, backend=backend), maps)
    copies = [each * 1 for each in maps]
    loss = gaussian_mixture_nll(*copies, target, backend=backend)
    assert all(saved.dim() <= 3 for saved in loss.grad_fn.saved_tensors)  # type: ignore[union-attr]
    for each in (*copies, target):
        each.detach().fill_(math.nan)
    for one, other in zip(torch.autograd.grad(loss, maps), expected, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_kept_without_a_gradient() -> None:
    *maps, target = some_inputs()
    assert not gaussian_mixture_nll(*(each.detach() for each in maps), target).requires_grad
    with torch.no_grad():
        assert not gaussian_mixture_nll(*maps, target).requires_grad


def test_gradients_accumulate_over_uses() -> None:
    *maps, target = some_inputs()
    loss = gaussian_mixture_nll(*maps, target)
    loss.backward(retain_graph=True)
    once = [each.grad.clone() for each in maps]
    loss.backward()
    for each, gradient in zip(maps, once, strict=True):
        torch.testing.assert_close(each.grad, 2 * gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, device: torch.device) -> None:
    """The loss is float32 and close to that without autocast; parameters get gradients of their own dtype."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 2 * 3 * 4, 1).to(device)
    image = torch.randn(2, 4, 3, 4, device=device)
    target = torch.rand(2, 2, 2, device=device) * 12

    def loss() -> Tensor:
        logits, mean, log_var = layer(image).split([6, 12, 6], dim=1)
        maps = logits.unflatten(1, (2, 3)), mean.unflatten(1, (2, 3, 2)), log_var.unflatten(1, (2, 3))
        return gaussian_mixture_nll(*maps, target, coordinates="offset")

    expected = loss()
    expected.backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    with torch.autocast(device.type, dtype):
        actual = loss()
    actual.backward()
    assert actual.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(layer.weight.grad, gradient, rtol=0.05, atol=0.1)


@pytest.mark.gpu
def test_cuda_graph(gpu: torch.device) -> None:
    """Captured with its backward pass, and replayed on other numbers."""
    *maps, target = some_inputs(2, gpu)

    def step() -> tuple[Tensor, ...]:
        loss = gaussian_mixture_nll(*maps, target, reduction="mean_valid")
        return (loss, *torch.autograd.grad(loss, maps))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        for each in maps:
            each.normal_()
        target.uniform_(0, 12)
    graph.replay()
    for one, other in zip(outputs, step(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(gpu: torch.device) -> None:
    *maps, target = some_inputs(2, gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for reduction in REDUCTIONS:
                gaussian_mixture_nll(*maps, target, reduction=reduction).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", SERVICES[2:3], indirect=True)
def test_one_launch_forward_and_one_backward_of_many_keypoints(
    reduction: str, service: tuple[str, torch.device]
) -> None:
    from dark_kernels.nll import kernels_mixture

    *maps, target = some_inputs(70)
    with launches.recorded(kernels_mixture) as launched:
        gaussian_mixture_nll(*maps, target, reduction=reduction, backend="triton").sum().backward()
    assert launched == ["_gaussian_mixture_nll_fwd_kernel", "_gaussian_mixture_nll_bwd_kernel"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 3, (torch.float32, torch.float16, torch.bfloat16)])
def test_one_launch_forward_and_one_backward(dtypes: tuple[torch.dtype, ...], gpu: torch.device) -> None:
    *maps, target = some_inputs(2, gpu)
    maps = [each.detach().to(dtype).requires_grad_() for each, dtype in zip(maps, dtypes, strict=True)]

    loss = gaussian_mixture_nll(*maps, target)
    grad_loss = torch.ones_like(loss)
    assert launches.count(lambda: gaussian_mixture_nll(*maps, target)) == 1
    assert launches.count(lambda: torch.autograd.grad(loss, maps, grad_loss, retain_graph=True)) == 1


def test_the_operator_gives_the_loss_of_the_function() -> None:
    logits, mean, log_var, target = some_inputs()
    case = Case(3, "offset", (-3.0, 3.0), "mean")
    loss, *_ = OPERATORS.gaussian_mixture_nll(logits, mean, log_var, target, None, *OPTIONS, "mean", "eager")
    assert torch.equal(loss, call(Inputs(logits, mean, log_var, target, None), case, "eager"))
