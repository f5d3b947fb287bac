"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels import heatmap_focal, heatmap_mse
from dark_kernels.heatmap_loss.options import Options

from .. import launches
from ..conftest import SERVICES
from .cases import FUNCTIONS, KINDS, REDUCTIONS, SOFTMAX, Case, Inputs, call, loss_and_gradient, make_inputs

OPERATORS = torch.ops.dark_kernels
TESTS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
Service = tuple[str, torch.device]


def options_of(kind: str) -> Options:
    return Options(kind, "udp", False, kind not in SOFTMAX, 2.1, 14.0, 1.0, 0.5)


def some_inputs(
    kind: str = "mse", batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Inputs:
    """Maps and keypoints that all count."""
    inputs = make_inputs(Case(kind), batch, 2, 5, 6, dtype=dtype).to(device)
    inputs.keypoints = (torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)) * 4).to(device)
    return inputs


@EVERY_KIND
@EVERY_FUSED
def test_opcheck(kind: str, service: Service) -> None:
    """Of the raw operators, which have no gradient of their own: the autograd function around them does."""
    backend, device = service
    inputs = some_inputs(kind, 2 if backend == "eager" else 1, device)
    heatmaps, keypoints = inputs.heatmaps.detach(), inputs.keypoints[:, None]
    weight = torch.ones(keypoints.shape[0], 2, device=device)
    for labels, reduction in (
        ((weight[:, None], weight, torch.ones(2, device=device)), "none"),
        ((None, None, None), "mean"),
    ):
        arguments = (keypoints, *labels, 1.5, *options_of(kind), reduction, backend)
        torch.library.opcheck(OPERATORS.heatmap_loss.default, (heatmaps, *arguments), test_utils=TESTS)
        loss, saved = OPERATORS.heatmap_loss(heatmaps, *arguments)
        torch.library.opcheck(
            OPERATORS.heatmap_loss_backward.default,
            (torch.ones_like(loss), saved, heatmaps, *arguments),
            test_utils=TESTS,
        )


@pytest.mark.parametrize("channels_last", [False, True])
@EVERY_KIND
@EVERY_FUSED
def test_fakes_are_like_the_real_outputs(kind: str, channels_last: bool, service: Service) -> None:
    backend, device = service
    inputs = some_inputs(kind, 2, device, torch.float16)
    heatmaps = inputs.heatmaps.detach()
    if channels_last:
        heatmaps = heatmaps.contiguous(memory_format=torch.channels_last)

    def everything(heatmaps: Tensor, keypoints: Tensor) -> list[Tensor]:
        results = []
        for reduction in REDUCTIONS:
            leaf = heatmaps.detach().requires_grad_()
            loss = FUNCTIONS[kind](leaf, keypoints, reduction=reduction, backend=backend)
            results += [loss, *torch.autograd.grad(loss.sum(), leaf)]
            arguments = (keypoints[:, None], None, None, None, 1.5, *options_of(kind), reduction, backend)
            results += OPERATORS.heatmap_loss(heatmaps, *arguments)
        return results

    real = everything(heatmaps, inputs.keypoints)
    with FakeTensorMode() as mode:
        fake = everything(mode.from_tensor(heatmaps), mode.from_tensor(inputs.keypoints))
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape, other.stride(), other.dtype, other.device,
        )  # fmt: skip


# --- torch.compile ---------------------------------------------------------------------------------------


def all_losses(heatmaps: Tensor, keypoints: Tensor) -> Tensor:
    """Every loss, with labels, mining and a crowd."""
    visible = torch.ones_like(keypoints[..., 0])
    total = heatmap_mse(heatmaps, keypoints, visible=visible, weighting="hrnet", topk=1)
    for kind in KINDS:
        total = total + FUNCTIONS[kind](heatmaps * 0.5, keypoints[:, None], weight=visible)
    return total


def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(all_losses, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        inputs = some_inputs("mse", batch, device)
        expected, loss = (each(inputs.heatmaps, inputs.keypoints) for each in (all_losses, compiled))
        torch.testing.assert_close(loss, expected)
        results = (torch.autograd.grad(each, inputs.heatmaps)[0] for each in (loss, expected))
        torch.testing.assert_close(*results)
    assert len(graphs) == 2


def test_compiled_without_a_gradient() -> None:
    torch._dynamo.reset()
    inputs = some_inputs()
    compiled = torch.compile(all_losses, fullgraph=True, backend="aot_eager")
    heatmaps = inputs.heatmaps.detach()
    torch.testing.assert_close(compiled(heatmaps, inputs.keypoints), all_losses(heatmaps, inputs.keypoints))


# --- autograd --------------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_torch_func(backend: str, kind: str) -> None:
    """grad, and gradients for each sample by vmap, are the gradients of autograd."""
    inputs = some_inputs(kind, 3)
    options: dict[str, Any] = {"reduction": "sum", "backend": backend}

    def loss(heatmaps: Tensor) -> Tensor:
        return FUNCTIONS[kind](heatmaps, inputs.keypoints, **options)

    def of_one(heatmaps: Tensor, keypoints: Tensor) -> Tensor:
        return FUNCTIONS[kind](heatmaps[None], keypoints[None], **options)

    (expected,) = torch.autograd.grad(loss(inputs.heatmaps), inputs.heatmaps)
    heatmaps = inputs.heatmaps.detach()
    torch.testing.assert_close(torch.func.grad(loss)(heatmaps), expected)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        per_sample = torch.func.vmap(torch.func.grad(of_one))(heatmaps, inputs.keypoints)
    torch.testing.assert_close(per_sample, expected)


@pytest.mark.parametrize("how", ["product", "sum", "func"])
@EVERY_KIND
def test_a_second_derivative_raises(kind: str, how: str) -> None:
    """Also where it is one of several terms, and under torch.func: never silent zeros."""
    inputs = some_inputs(kind, 1)
    variable = inputs.heatmaps

    def loss(heatmaps: Tensor) -> Tensor:
        return FUNCTIONS[kind](heatmaps, inputs.keypoints, backend="eager")

    def second_derivative() -> None:
        if how == "func":
            torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(variable.detach())
            return
        value = loss(variable) * variable.sum() if how == "product" else loss(variable) + variable.square().sum()
        (gradient,) = torch.autograd.grad(value, variable, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), variable)

    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative()


def test_maps_that_changed_after_the_forward_pass_are_noticed() -> None:
    """The backward pass reads them again."""
    inputs = some_inputs()
    maps = inputs.heatmaps * 1
    loss = heatmap_mse(maps, inputs.keypoints)
    maps.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_kept_without_a_gradient() -> None:
    inputs = some_inputs()
    assert not heatmap_mse(inputs.heatmaps.detach(), inputs.keypoints).requires_grad
    with torch.no_grad():
        assert not heatmap_mse(inputs.heatmaps, inputs.keypoints).requires_grad


def test_gradients_accumulate_over_uses() -> None:
    inputs = some_inputs()
    loss = heatmap_focal(inputs.heatmaps, inputs.keypoints)
    loss.backward(retain_graph=True)
    assert inputs.heatmaps.grad is not None
    once = inputs.heatmaps.grad.clone()
    loss.backward()
    torch.testing.assert_close(inputs.heatmaps.grad, 2 * once)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, kind: str, device: torch.device) -> None:
    """The loss is float32 and close to that without autocast; parameters get gradients of their own dtype."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 2, 1).to(device)
    image = torch.randn(2, 4, 5, 6, device=device)
    keypoints = torch.rand(2, 2, 2, device=device) * 4

    def loss() -> Tensor:
        maps = layer(image)
        return FUNCTIONS[kind](maps.sigmoid() if kind == "focal" else maps, keypoints)

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


@EVERY_KIND
@pytest.mark.gpu
def test_cuda_graph(kind: str, gpu: torch.device) -> None:
    """Captured with its backward pass, and replayed on other numbers."""
    inputs = some_inputs(kind, 2, gpu)
    case = Case(kind, reduction="mean")

    def step() -> tuple[Tensor, ...]:
        return loss_and_gradient(inputs, case)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        inputs.heatmaps.uniform_()
        inputs.keypoints.uniform_(0, 5)
    graph.replay()
    for one, other in zip(outputs, step(), strict=True):
        assert torch.equal(one, other)


@EVERY_KIND
@pytest.mark.gpu
def test_nothing_waits_for_the_device(kind: str, gpu: torch.device) -> None:
    inputs = some_inputs(kind, 2, gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for backend in ("triton", "eager"):
                for reduction in REDUCTIONS:
                    call(inputs, Case(kind, reduction=reduction), backend).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@EVERY_KIND
@pytest.mark.gpu
def test_one_launch_forward_and_one_backward(kind: str, gpu: torch.device) -> None:
    """Of [B, K] losses; adding them up is another."""
    inputs = some_inputs(kind, 2, gpu)

    loss = call(inputs, Case(kind))
    grad_loss = torch.ones_like(loss)
    assert launches.count(lambda: call(inputs, Case(kind))) == 1
    assert launches.count(lambda: torch.autograd.grad(loss, inputs.heatmaps, grad_loss, retain_graph=True)) == 1
    assert launches.count(lambda: call(inputs, Case(kind, reduction="sum"))) == 2
