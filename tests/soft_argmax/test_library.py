"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, torch.func, autocast, graphs, autograd."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels import soft_argmax, testing
from dark_kernels.nn import SoftArgmax

from .. import launches
from ..conftest import SERVICES
from .cases import Case

OPERATORS = torch.ops.dark_kernels
TESTS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def some_maps(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> Tensor:
    return Case(shape=(batch, 2, 5, 7), dtype=dtype, layout=layout).heatmaps(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@EVERY_FUSED
def test_opcheck(dtype: torch.dtype, layout: str, service: Service) -> None:
    """Of the raw operators, which have no gradient of their own: the autograd function around them does."""
    backend, device = service
    heatmaps = some_maps(2, device, dtype, layout).detach()
    torch.library.opcheck(OPERATORS.soft_argmax.default, (heatmaps, 3.0, backend), test_utils=TESTS)
    saved = OPERATORS.soft_argmax(heatmaps, 3.0, backend)
    arguments = (torch.ones_like(saved[0]), heatmaps, *saved, 3.0, backend)
    torch.library.opcheck(OPERATORS.soft_argmax_backward.default, arguments, test_utils=TESTS)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded_batch"])
@EVERY_FUSED
def test_fakes_are_like_the_real_outputs(layout: str, service: Service) -> None:
    backend, device = service

    def everything(heatmaps: Tensor) -> tuple[Tensor, ...]:
        leaf = heatmaps.detach().requires_grad_()
        coords = soft_argmax(leaf, backend=backend)
        raw = OPERATORS.soft_argmax(heatmaps, 1.0, backend)
        return (coords, *raw, *torch.autograd.grad(coords.sum(), leaf))

    heatmaps = some_maps(2, device, torch.float16, layout).detach()
    real = everything(heatmaps)
    with FakeTensorMode() as mode:
        fake = everything(mode.from_tensor(heatmaps))
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


# --- torch.compile ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def function(heatmaps: Tensor) -> Tensor:
        return soft_argmax(heatmaps * 2, beta=5.0) + 1

    compiled = torch.compile(function, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        heatmaps = some_maps(batch, device)
        expected, actual = function(heatmaps), compiled(heatmaps)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(each.square().sum(), heatmaps)[0] for each in (actual, expected))
        )
    assert len(graphs) == 2


# --- autograd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_torch_func(backend: str) -> None:
    """grad, and gradients for each sample by vmap, are the gradients of autograd."""
    heatmaps = some_maps(3)

    def loss(maps: Tensor) -> Tensor:
        return soft_argmax(maps, 3.0, backend).square().sum()

    (expected,) = torch.autograd.grad(loss(heatmaps), heatmaps)
    torch.testing.assert_close(torch.func.grad(loss)(heatmaps.detach()), expected)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        per_sample = torch.func.vmap(torch.func.grad(lambda maps: loss(maps[None])))(heatmaps.detach())
    torch.testing.assert_close(per_sample, expected)


@pytest.mark.parametrize("how", ["product", "sum", "func"])
def test_a_second_derivative_raises(how: str) -> None:
    """Also where it is one of several terms, and under torch.func: never silent zeros."""
    heatmaps = some_maps(1)

    def loss(maps: Tensor) -> Tensor:
        return soft_argmax(maps, backend="eager").square().sum()

    def second_derivative() -> None:
        if how == "func":
            torch.func.grad(lambda maps: torch.func.grad(loss)(maps).square().sum())(heatmaps.detach())
            return
        value = loss(heatmaps) * heatmaps.sum() if how == "product" else loss(heatmaps) + heatmaps.square().sum()
        (gradient,) = torch.autograd.grad(value, heatmaps, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), heatmaps)

    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative()


def test_what_is_kept_for_the_backward_pass() -> None:
    """The maps themselves and four numbers for each of them; nothing without a gradient."""
    heatmaps = some_maps()
    saved = soft_argmax(heatmaps).grad_fn.saved_tensors  # type: ignore[union-attr]
    assert saved[0].data_ptr() == heatmaps.data_ptr()
    assert [tuple(each.shape) for each in saved[1:]] == [(2, 2, 2), (2, 2), (2, 2)]
    assert not soft_argmax(heatmaps.detach()).requires_grad
    with torch.no_grad():
        assert not soft_argmax(heatmaps).requires_grad


def test_maps_that_change_before_the_backward_pass_are_noticed() -> None:
    heatmaps = some_maps() * 1
    coords = soft_argmax(heatmaps)
    heatmaps.detach().fill_(math.nan)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        coords.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, device: torch.device) -> None:
    """Coordinates are float32 and close to those without autocast; parameters get gradients of their own dtype."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), SoftArgmax(2.0)).to(device)
    images = torch.randn(2, 3, 9, 8, device=device)
    expected = network(images)
    (gradient,) = torch.autograd.grad(expected.square().sum(), network[0].weight)
    with torch.autocast(device.type, dtype):
        actual = network(images)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    (other,) = torch.autograd.grad(actual.square().sum(), network[0].weight)
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, gradient, rtol=0.05, atol=0.05 * float(gradient.abs().max()))


# --- the kernels -----------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    from ..conftest import require_service

    return require_service("triton", request.param)


def test_outputs_are_written_whole(triton_device: torch.device) -> None:
    """Into memory that holds NaN."""
    from dark_kernels.soft_argmax import kernels

    heatmaps = some_maps(2, triton_device).detach()
    coords, peaks, totals = (torch.full(shape, math.nan, device=triton_device) for shape in ((2, 2, 2), (2, 2), (2, 2)))
    kernels.soft_argmax_fwd(coords, peaks, totals, heatmaps, 2.0)
    assert torch.equal(peaks, heatmaps.amax((-2, -1)))
    weights = torch.exp(2.0 * (heatmaps - peaks[..., None, None]))
    torch.testing.assert_close(totals, weights.sum((-2, -1)))
    larger = torch.full((3, 3, 7, 9), math.nan, device=triton_device)
    gradient = larger[1:, :-1, 1:-1, 2:]
    kernels.soft_argmax_bwd(gradient, torch.ones_like(coords), heatmaps, coords, peaks, totals, 2.0)
    assert bool(gradient.isfinite().all())
    assert int(larger.isfinite().sum()) == heatmaps.numel()


@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_maps_whose_rows_lie_more_than_2_to_the_31_apart(triton_device: torch.device) -> None:
    """Of the 4 GiB between them no page but two is ever touched on a CPU."""
    stride = 2**31 + 1024
    if triton_device.type != "cpu" and torch.cuda.mem_get_info(triton_device)[0] < 10 * 2**30:
        pytest.skip("less than 10 GiB of free device memory")
    maps = torch.rand(1, 1, 2, 7, generator=torch.Generator().manual_seed(0)).half().to(triton_device)
    storage = torch.empty(stride + 8, dtype=torch.float16, device=triton_device)
    heatmaps = storage.as_strided(maps.shape, (0, 0, stride, 1))
    heatmaps.copy_(maps)
    grad_coords = torch.ones(1, 1, 2, device=triton_device)
    results = []
    for each in (heatmaps, maps):
        saved = OPERATORS.soft_argmax(each, 3.0, "triton")
        gradient = torch.zeros_like(maps)
        from dark_kernels.soft_argmax import kernels

        kernels.soft_argmax_bwd(gradient, grad_coords, each, *saved, 3.0)
        results.append((*saved, gradient))
    # Another layout is another kernel, which may add up in another order.
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_cuda_graph(gpu: torch.device) -> None:
    """Captured with its backward pass, and replayed on other numbers."""
    heatmaps = some_maps(2, gpu)

    def step() -> tuple[Tensor, ...]:
        coords = soft_argmax(heatmaps, 3.0)
        return (coords, *torch.autograd.grad(coords.square().sum(), heatmaps))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        heatmaps.normal_()
    graph.replay()
    for one, other in zip(outputs, step(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_one_launch_forward_and_one_backward_and_no_waiting(gpu: torch.device) -> None:
    heatmaps = some_maps(2, gpu)

    coords = soft_argmax(heatmaps)
    grad_coords = torch.ones_like(coords)
    assert launches.count(lambda: soft_argmax(heatmaps)) == 1
    assert launches.count(lambda: torch.autograd.grad(coords, heatmaps, grad_coords, retain_graph=True)) == 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        for backend in ("triton", "eager"):
            soft_argmax(heatmaps, backend=backend).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    if torch.cuda.mem_get_info(gpu)[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of free device memory")
    heatmaps = torch.full((1, 1, 46400, 46400), -100.0, dtype=torch.float16, device=gpu)
    blob = testing.gaussian_blobs(1, 1, 32, 32, seed=1).heatmaps.to(gpu, torch.float16) * 50
    heatmaps[..., -32:, -32:] = blob
    expected = soft_argmax(blob, backend="reference") + (46400 - 32)
    assert (soft_argmax(heatmaps) - expected).abs().max() < 0.1  # 46400 px has a rounding of 2e-3
