"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels.nll import gaussian_nll, linear_gaussian_nll
from dark_kernels.nll.library import Options

from .. import launches
from ..conftest import SERVICES
from .cases import REDUCTIONS, Case, call, make_inputs

OPTIONS = Options(4.0, True, "gaussian", 0.5, None, -3.0, 3.0, True)
OPERATORS = torch.ops.dark_kernels
FUSED = SERVICES[1:]


def maps(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, log variance, target and weight."""
    inputs = make_inputs(Case("cholesky", weighted=True), batch, 2, 3, 4, dtype=dtype).to(device)
    inputs.target = torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(0)).to(device) * 12
    weight = torch.ones(batch, 2, device=device)
    return inputs.mean, inputs.log_var, inputs.target, weight


def head(batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Features, weight, bias, target."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 3, 3, 4, generator=generator)
    weight = torch.randn(2 * 4, 3, generator=generator)
    bias = torch.randn(2 * 4, generator=generator)
    target = torch.rand(batch, 2, 2, generator=generator) * 12
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in (features, weight, bias)]
    return (*leaves, target.to(device))


@pytest.mark.parametrize("reduction", ["none", "mean_valid"])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_opcheck(reduction: str, service: tuple[str, torch.device]) -> None:
    """Of the raw operators, which have no gradient of their own: the autograd functions around them do."""
    backend, device = service
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    mean, log_var, target, weight = (tensor.detach() for tensor in maps(2 if backend == "eager" else 1, device))
    for each in (weight, None):
        torch.library.opcheck(
            OPERATORS.gaussian_nll.default,
            (mean, log_var, target, each, *OPTIONS, reduction, backend),
            test_utils=tests,
        )
    loss, scale, values = OPERATORS.gaussian_nll(mean, log_var, target, weight, *OPTIONS, reduction, backend)
    for dtypes, channels_last in (((torch.float32, torch.float16), False), ((None, torch.float32), True)):
        torch.library.opcheck(
            OPERATORS.gaussian_nll_backward.default,
            (torch.ones_like(loss), values, target, weight, scale, 3, 4, *dtypes, channels_last, *OPTIONS, backend),
            test_utils=tests,
        )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_opcheck_of_the_head(channels_last: bool, service: tuple[str, torch.device]) -> None:
    backend, device = service
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    features, weight, bias, target = (tensor.detach() for tensor in head(2 if backend == "eager" else 1, device))
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    for each in (bias, None):
        torch.library.opcheck(
            OPERATORS.linear_gaussian_nll.default,
            (features, weight, each, target, None, *OPTIONS, "mean", backend),
            test_utils=tests,
        )
    outputs = OPERATORS.linear_gaussian_nll(features, weight, bias, target, None, *OPTIONS, "mean", backend)
    loss, scale, *rest = outputs
    for needs in ((True, True, torch.float16), (False, True, None), (True, False, torch.float32)):
        torch.library.opcheck(
            OPERATORS.linear_gaussian_nll_backward.default,
            (torch.ones_like(loss), *rest, features, weight, target, None, scale, *needs, *OPTIONS, backend),
            test_utils=tests,
        )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_fakes_are_like_the_real_outputs(
    reduction: str, channels_last: bool, service: tuple[str, torch.device]
) -> None:
    backend, device = service
    mean, log_var, target, _ = (tensor.detach() for tensor in maps(2, device, torch.float16))
    features, weight, bias, _ = (tensor.detach() for tensor in head(2, device, torch.float16))
    if channels_last:
        mean = mean.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
        features = features.contiguous(memory_format=torch.channels_last)
        target = target.movedim(0, -1).contiguous().movedim(-1, 0)

    def everything(*tensors: Tensor) -> tuple[Tensor, ...]:
        mean, log_var, features, weight, bias = (tensor.detach().requires_grad_() for tensor in tensors[:5])
        loss = gaussian_nll(mean, log_var, tensors[5], reduction=reduction, backend=backend)
        other = linear_gaussian_nll(features, weight, bias, tensors[5], reduction=reduction, backend=backend)
        gradients = torch.autograd.grad(loss.sum(), (mean, log_var))
        return loss, other, *gradients, *torch.autograd.grad(other.sum(), (features, weight, bias))

    tensors = (mean, log_var, features, weight, bias, target)
    real = everything(*tensors)
    with FakeTensorMode() as mode:
        fake = everything(*(mode.from_tensor(tensor) for tensor in tensors))
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )


# --- torch.compile ---------------------------------------------------------------------------------------


def of_maps(mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return gaussian_nll(
        mean * 2, log_var - 1, target, weight=weight, beta=0.5, log_var_bounds=(-5, 5), reduction="mean_valid"
    )


def of_head(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    return linear_gaussian_nll(features * 2, weight, bias, target, coordinates="offset", reduction="none").sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "make", "compiler"),
    [(of_maps, maps, "inductor"), (of_head, head, "inductor")],
    ids=["maps", "head"],
)
def test_compiles_whole_and_once_for_any_batch(
    function: Callable[..., Tensor], make: Callable[..., Any], compiler: str, device: torch.device
) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(compiler)(graph, inputs)

    compiled = torch.compile(function, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        inputs = make(batch, device)
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        expected = function(*inputs)
        loss = compiled(*inputs)
        torch.testing.assert_close(loss, expected)
        for one, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(one, other)
            assert torch.equal(one != 0, other != 0)
    assert len(graphs) == 2


def test_compiled_without_a_gradient() -> None:
    torch._dynamo.reset()
    inputs = tuple(tensor.detach() for tensor in maps())
    compiled = torch.compile(of_maps, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), of_maps(*inputs))


@pytest.mark.parametrize(
    ("function", "make"), [(gaussian_nll, maps), (linear_gaussian_nll, head)], ids=["maps", "head"]
)
def test_the_reference_compiles_whole(function: Callable[..., Tensor], make: Callable[..., Any]) -> None:
    """Forwards and backwards, its own products included."""
    torch._dynamo.reset()
    *leaves, target = make() if make is head else make()[:3]

    def loss(*leaves: Tensor) -> Tensor:
        return function(*leaves, target, beta=0.5, backend="reference")

    compiled, expected = torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), loss(*leaves)
    torch.testing.assert_close(compiled, expected)
    gradients = (torch.autograd.grad(each, leaves) for each in (compiled, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_compiles_with_every_size_dynamic_but_the_parameters() -> None:
    """The number of keypoints is known of the head, and open in the targets."""
    torch._dynamo.reset()
    layer = nn.Conv2d(4, 2 * 3, 1)

    def loss(image: Tensor, target: Tensor) -> Tensor:
        return linear_gaussian_nll(image, layer.weight, layer.bias, target)

    image, target = torch.randn(3, 4, 3, 5), torch.rand(3, 2, 2) * 12
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, target), loss(image, target))


# --- autograd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize(("function", "make"), [(gaussian_nll, maps), (linear_gaussian_nll, head)])
def test_torch_func(function: Callable[..., Tensor], make: Callable[..., Any], backend: str) -> None:
    """grad, and gradients for each sample by vmap, are the gradients of autograd."""
    *variables, target = make(3)[:-1] if make is maps else make(3)
    count = len(variables)

    def loss(*tensors: Tensor) -> Tensor:
        return function(*tensors, target, reduction="sum", backend=backend)

    expected = torch.autograd.grad(loss(*variables), variables)
    gradients = torch.func.grad(loss, tuple(range(count)))(*(variable.detach() for variable in variables))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)

    def of_one(mapped: Tensor, target: Tensor, *others: Tensor) -> Tensor:
        return function(mapped[None], *others, target[None], reduction="sum", backend=backend)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        if make is maps:
            per_sample = torch.func.vmap(torch.func.grad(lambda m, t, s: of_one(m, t, s[None])))(
                variables[0].detach(), target, variables[1].detach()
            )
        else:
            per_sample = torch.func.vmap(torch.func.grad(of_one), (0, 0, None, None))(
                variables[0].detach(), target, variables[1].detach(), variables[2].detach()
            )
    torch.testing.assert_close(per_sample, expected[0])


@pytest.mark.parametrize("how", ["product", "sum", "func"])
@pytest.mark.parametrize(("function", "make"), [(gaussian_nll, maps), (linear_gaussian_nll, head)])
def test_a_second_derivative_raises(function: Callable[..., Tensor], make: Callable[..., Any], how: str) -> None:
    """Also where it is one of several terms, and under torch.func: never silent zeros."""
    *variables, target = make(1)[:-1] if make is maps else make(1)

    def loss(first: Tensor) -> Tensor:
        return function(first, *variables[1:], target, backend="eager")

    first = variables[0]

    def second_derivative() -> None:
        if how == "func":
            torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(first.detach())
            return
        value = loss(first) * first.sum() if how == "product" else loss(first) + first.square().sum()
        (gradient,) = torch.autograd.grad(value, first, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), first)

    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative()


@pytest.mark.parametrize("service", FUSED, indirect=True)
def test_maps_may_change_after_the_forward_pass(service: tuple[str, torch.device]) -> None:
    """Keep what backward needs of them, and not them."""
    backend, device = service
    mean, log_var, target, _ = maps(2, device)
    expected = torch.autograd.grad(gaussian_nll(mean, log_var, target, backend=backend), (mean, log_var))
    maps_ = [mean * 1, log_var * 1]
    loss = gaussian_nll(*maps_, target, backend=backend)
    assert all(saved.shape != mean.shape for saved in loss.grad_fn.saved_tensors if saved is not None)  # type: ignore
    for each in maps_:
        each.detach().fill_(float("nan"))
    for one, other in zip(torch.autograd.grad(loss, (mean, log_var)), expected, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_kept_without_a_gradient() -> None:
    mean, log_var, target, _ = maps()
    assert not gaussian_nll(mean.detach(), log_var.detach(), target).requires_grad
    with torch.no_grad():
        assert not gaussian_nll(mean, log_var, target).requires_grad


def test_gradients_accumulate_over_uses() -> None:
    mean, log_var, target, _ = maps()
    loss = gaussian_nll(mean, log_var, target)
    loss.backward(retain_graph=True)
    once = mean.grad.clone()
    loss.backward()
    torch.testing.assert_close(mean.grad, 2 * once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_autocast(dtype: torch.dtype, fused: bool, device: torch.device) -> None:
    """The loss is float32 and close to that without autocast; parameters get gradients of their own dtype."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 2 * 3, 1).to(device)
    image = torch.randn(2, 4, 3, 4, device=device)
    target = torch.rand(2, 2, 2, device=device) * 12

    def loss() -> Tensor:
        if fused:
            return linear_gaussian_nll(image, layer.weight, layer.bias, target)
        output = layer(image)
        return gaussian_nll(output[:, :4].unflatten(1, (2, 2)), output[:, 4:].unflatten(1, (2, 1)), target)

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


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast_does_not_round_what_the_head_reads(backend: str, device: torch.device) -> None:
    """Means of hundreds of pixels would be a pixel off in bfloat16. Forward and backward."""
    results = []
    for enabled in (False, True):
        image, weight, bias, target = head(2, device)[:4]
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            loss = linear_gaussian_nll(image, weight, bias, target, reduction="none", backend=backend)
            results.append((loss, *torch.autograd.grad(loss.sum(), (image, weight, bias))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize(("function", "make"), [(gaussian_nll, maps), (linear_gaussian_nll, head)])
def test_cuda_graph(function: Callable[..., Tensor], make: Callable[..., Any], gpu: torch.device) -> None:
    """Captured with its backward pass, and replayed on other numbers."""
    *variables, target = make(2, gpu)[:-1] if make is maps else make(2, gpu)

    def step() -> tuple[Tensor, ...]:
        loss = function(*variables, target, reduction="mean_valid")
        return (loss, *torch.autograd.grad(loss, variables))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        for variable in variables:
            variable.normal_()
        target.uniform_(0, 12)
    graph.replay()
    for one, other in zip(outputs, step(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(gpu: torch.device) -> None:
    mean, log_var, target, weight = maps(2, gpu)
    features, head_weight, bias, _ = head(2, gpu)
    for _ in range(2):  # the first compiles
        torch.cuda.set_sync_debug_mode("error" if _ else "default")
        try:
            for reduction in REDUCTIONS:
                gaussian_nll(mean, log_var, target, weight=weight, reduction=reduction).sum().backward()
                linear_gaussian_nll(features, head_weight, bias, target, reduction=reduction).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("service", SERVICES[2:3], indirect=True)
def test_one_launch_forward_and_one_or_two_backward(reduction: str, service: tuple[str, torch.device]) -> None:
    """Two for a head: all gradients of values and the zeros, then the cells. For any number of keypoints."""
    from dark_kernels.nll import kernels, kernels_linear

    mean, log_var, target, _ = maps(70)
    with launches.recorded(kernels) as launched:
        gaussian_nll(mean, log_var, target, reduction=reduction, backend="triton").sum().backward()
    assert launched == ["_gaussian_nll_fwd_kernel", "_gaussian_nll_bwd_kernel"]
    features, weight, bias, target = head(20)
    with launches.recorded(kernels_linear) as launched:
        linear_gaussian_nll(features, weight, bias, target, reduction=reduction, backend="triton").sum().backward()
    assert launched[0] == "_linear_gaussian_nll_fwd_kernel"
    assert len(launched) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [2, 300])
def test_launches(batch: int, gpu: torch.device) -> None:
    """One forward and one backward for maps; one and two for a head."""
    mean, log_var, target, _ = maps(batch, gpu)
    features, weight, bias, _ = head(batch, gpu)
    loss = gaussian_nll(mean, log_var, target)
    grad_loss = torch.ones_like(loss)
    assert launches.count(lambda: gaussian_nll(mean, log_var, target)) == 1
    assert launches.count(lambda: torch.autograd.grad(loss, (mean, log_var), grad_loss, retain_graph=True)) == 1
    other = linear_gaussian_nll(features, weight, bias, target)
    assert launches.count(lambda: linear_gaussian_nll(features, weight, bias, target)) == 1
    inputs = (features, weight, bias)
    assert launches.count(lambda: torch.autograd.grad(other, inputs, grad_loss, retain_graph=True)) == 2


def test_one_case_through_every_name() -> None:
    """The operator alone gives the loss of the function."""
    mean, log_var, target, weight = maps()
    case = Case("cholesky", "offset", 0.5, log_var_bounds=(-3.0, 3.0), full=True, reduction="mean", weighted=True)
    inputs = make_inputs(case)
    inputs.mean, inputs.log_var, inputs.target, inputs.weight = mean, log_var, target, weight
    loss, _, _ = OPERATORS.gaussian_nll(mean, log_var, target, weight, *OPTIONS, "mean", "eager")
    assert torch.equal(loss, call(inputs, case, "eager"))
