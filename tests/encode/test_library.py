"""The operator's contract with PyTorch: opcheck, fakes, torch.compile, graphs, import without Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels import encode

from .. import launches
from ..conftest import SERVICES
from .cases import make_keypoints

OPERATOR = torch.ops.dark_kernels.encode.default
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


@EVERY_FUSED
def test_opcheck(service: Service) -> None:
    backend, device = service
    keypoints, visible = (each.to(device) for each in make_keypoints(2, 1, 3))
    sigma = torch.ones(3, device=device)
    for labels in ((visible, sigma), (None, None)):
        torch.library.opcheck(OPERATOR, (keypoints, *labels, 2.0, 5, 6, "udp", torch.float16, backend))


@EVERY_FUSED
def test_fakes_are_like_the_real_outputs(service: Service) -> None:
    backend, device = service
    keypoints = make_keypoints(2, None, 3)[0].to(device)

    def outputs(keypoints: Tensor) -> list[Tensor]:
        return [
            each
            for dtype in (torch.float32, torch.float16, torch.float64)
            for each in encode(keypoints, (5, 6), dtype=dtype, backend=backend)
        ]

    real = outputs(keypoints)
    with FakeTensorMode() as mode:
        fake = outputs(mode.from_tensor(keypoints))
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape, other.stride(), other.dtype, other.device,
        )  # fmt: skip


def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def function(keypoints: Tensor) -> Tensor:
        heatmaps, weight = encode(keypoints * 2, (9, 7), sigma=1.5)
        return heatmaps * weight[..., None, None]

    compiled = torch.compile(function, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        keypoints = make_keypoints(batch, None, 2)[0].to(device)
        assert torch.equal(compiled(keypoints), function(keypoints))
    assert len(graphs) == 2


@pytest.mark.gpu
def test_cuda_graph(gpu: torch.device) -> None:
    keypoints = make_keypoints(2, None, 3)[0].to(gpu)
    encode(keypoints, (64, 48))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = encode(keypoints, (64, 48))
    keypoints.uniform_(0, 40)
    graph.replay()
    for one, other in zip(outputs, encode(keypoints, (64, 48)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_one_launch_that_waits_for_nothing(gpu: torch.device) -> None:
    keypoints = make_keypoints(2, None, 3)[0].to(gpu)
    assert launches.count(lambda: encode(keypoints, (64, 48))) == 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        encode(keypoints, (64, 48))
    finally:
        torch.cuda.set_sync_debug_mode("default")
