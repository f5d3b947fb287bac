"""The operator's contract with PyTorch: opcheck, fakes, torch.compile, torch.export, graphs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels import SimCCKeypoints, decode_simcc
from dark_kernels.simcc.library import decode_simcc_operator

from ..conftest import SERVICES
from .cases import make_axis

EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]
Decoder = Callable[[Tensor, Tensor], SimCCKeypoints]


def some_axes(
    batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    return tuple(  # type: ignore[return-value]
        make_axis(("blob",), (batch, 2), width, dtype, seed=width, device=device) for width in (31, 40)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@EVERY_FUSED
def test_opcheck(dtype: torch.dtype, service: Service) -> None:
    backend, device = service
    axes = some_axes(1 if backend == "triton" else 2, device, dtype)
    torch.library.opcheck(decode_simcc_operator, (*axes, 11, 7, 75.0, 60.0, 2.0, False, backend))
    strided = axes[0].mT.contiguous().mT, axes[1]
    torch.library.opcheck(decode_simcc_operator, (*strided, 0, 0, 0.0, 0.0, 1.0, True, backend))
    logits = (*axes, 11, 7, 75.0, 60.0, 2.0, False, backend, "softmax", 10.0)
    torch.library.opcheck(decode_simcc_operator, logits)


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
@pytest.mark.parametrize("visibility", [False, True])
def test_fakes_are_like_the_real_outputs(shape: tuple[int, int], visibility: bool, device: torch.device) -> None:
    for dtypes in ((torch.float16, torch.float32), (torch.float32, torch.float64)):
        axes = [torch.rand(*shape, 9, device=device).to(dtype) for dtype in dtypes]
        options: dict[str, Any] = {"sigma": 2.0, "dark": True, "visibility": visibility}
        real = decode_simcc(*axes, **options)
        with FakeTensorMode() as mode:
            fake = decode_simcc(*(mode.from_tensor(axis) for axis in axes), **options)
        meta = decode_simcc(*(axis.to("meta") for axis in axes), **options)
        for one, *others in zip(real, fake, meta, strict=True):
            for other in others:
                if one is None:
                    assert other is None
                    continue
                assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


def test_the_operator_takes_numbers_and_returns_three_tensors() -> None:
    axes = some_axes()
    coords, scores, visibility = decode_simcc_operator(*axes, 11, 11, 0.0, 0.0, 2.0, False, "eager")
    expected = decode_simcc(*axes, sigma=2.0, dark=True, split_ratio=2.0, backend="eager")
    assert torch.equal(coords, expected.coords)
    assert torch.equal(scores, expected.scores)
    assert visibility.numel() == 0
    _, scores, _ = decode_simcc_operator(*axes, 11, 11, 0.0, 0.0, 2.0, False, "eager", "softmax", 10.0)
    expected = decode_simcc(*axes, backend="eager", activation="softmax", logit_scale=10.0)
    assert torch.equal(scores, expected.scores)
    assert torch.Tag.pt2_compliant_tag in decode_simcc_operator.tags


def scaled_logits(simcc_x: Tensor, simcc_y: Tensor) -> SimCCKeypoints:
    return decode_simcc(simcc_x * 2, simcc_y, (2.0, 3.0), True, visibility=True, activation="softmax", logit_scale=10)


def scaled(simcc_x: Tensor, simcc_y: Tensor) -> SimCCKeypoints:
    coords, scores, visibility = decode_simcc(simcc_x * 2, simcc_y * 0.5, (2.0, 3.0), True, 2.0, visibility=True)
    return SimCCKeypoints(coords + 1, scores, visibility)


@pytest.mark.slow
@pytest.mark.parametrize("function", [scaled, scaled_logits])
def test_compiles_whole_and_once_for_any_batch(function: Decoder, device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(function, fullgraph=True, backend=counting)
    for batch in (3, 4, 7, 5):
        axes = some_axes(batch, device)
        torch.testing.assert_close(compiled(*axes), function(*axes), rtol=0, atol=1e-5)
    assert len(graphs) == 2


class Head(nn.Module):
    def __init__(self, function: Decoder) -> None:
        super().__init__()
        self.function = function

    def forward(self, simcc_x: Tensor, simcc_y: Tensor) -> SimCCKeypoints:
        return self.function(simcc_x, simcc_y)


@pytest.mark.slow
@pytest.mark.parametrize("function", [scaled, scaled_logits])
def test_exports_with_a_dynamic_batch_and_survives_a_file(function: Decoder) -> None:
    batch = torch.export.Dim("batch", min=1, max=1024)
    dynamic = {"simcc_x": {0: batch}, "simcc_y": {0: batch}}
    program = torch.export.export(Head(function), some_axes(3), dynamic_shapes=dynamic)
    assert [node.target for node in program.graph.nodes].count(decode_simcc_operator) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for size in (1, 5):
        actual = loaded(*some_axes(size))
        assert type(actual) is SimCCKeypoints
        for one, other in zip(actual, function(*some_axes(size)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERY_FUSED
def test_autocast_changes_nothing(dtype: torch.dtype, service: Service) -> None:
    backend, device = service
    axes = some_axes(1, device)
    expected = decode_simcc(*axes, 2.0, True, visibility=True, backend=backend)
    with torch.autocast(device.type, dtype):
        actual = decode_simcc(*axes, 2.0, True, visibility=True, backend=backend)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_a_cuda_graph_replays_on_changed_inputs(backend: str, gpu: torch.device) -> None:
    axes = some_axes(4, gpu)

    def decode() -> SimCCKeypoints:
        return decode_simcc(*axes, 2.0, True, visibility=True, backend=backend)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        decode()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = decode()
    for axis in axes:
        axis.copy_(axis.flip(-1))
    graph.replay()
    for one, other in zip(outputs, decode(), strict=True):
        assert torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_nothing_waits_for_the_device(backend: str, gpu: torch.device) -> None:
    axes = some_axes(4, gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            decode_simcc(*axes, 2.0, True, visibility=True, backend=backend)
        finally:
            torch.cuda.set_sync_debug_mode("default")
