"""The operators' contract with PyTorch: opcheck, fakes, torch.compile, graphs, launches."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dark_kernels import KeptPoses, oks, oks_nms, soft_oks_nms
from dark_kernels.poses import eager

from .. import launches
from ..conftest import SERVICES
from .cases import KAPPAS

OPERATORS = torch.ops.dark_kernels
TESTS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def some_poses(batch: int = 2, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    poses = torch.rand(batch, 5, 4, 2, generator=generator) * 20
    scores = torch.rand(batch, 5, generator=generator)
    return poses.to(device), scores.to(device), torch.full((batch, 5), 900.0, device=device)


@EVERY_FUSED
def test_opcheck(service: Service) -> None:
    backend, device = service
    poses, scores, areas = some_poses(1, device)
    kappas = torch.tensor(KAPPAS, device=device)
    seen, ids = torch.ones(poses.shape[:3], device=device) > 0, torch.zeros(5, dtype=torch.int64, device=device)
    for visible in (None, seen):
        arguments = (poses, poses, areas, areas, kappas, visible, visible, backend)
        torch.library.opcheck(OPERATORS.oks.default, arguments, test_utils=TESTS)
    for method, width, visible, image_ids in (
        ("hard", 5, None, None),
        ("gaussian", 3, seen, None),
        ("linear", 3, seen, ids),
    ):
        tensors = (poses, scores, areas, kappas, visible, scores, image_ids)
        torch.library.opcheck(OPERATORS.oks_nms.default, (*tensors, 0.5, method, width, backend), test_utils=TESTS)


@EVERY_FUSED
def test_fakes_are_like_the_real_outputs(service: Service) -> None:
    backend, device = service
    poses, scores, areas = some_poses(2, device)
    poses = poses.double() if backend == "eager" else poses.half()
    ids = torch.tensor([3, 1, 3, 1, 1], device=device)

    def everything(poses: Tensor, scores: Tensor, areas: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return (
            oks(poses, poses[:, :2], areas, areas[:, :2], KAPPAS, backend=backend),
            *oks_nms(poses, scores, areas, kappas=KAPPAS, backend=backend),
            *soft_oks_nms(poses, scores, areas, kappas=KAPPAS, max_poses=3, backend=backend),
            *oks_nms(poses[0], scores[0], areas[0], kappas=KAPPAS, image_ids=ids, backend=backend),
        )

    real = everything(poses, scores, areas, ids)
    with FakeTensorMode() as mode:
        fake = everything(*(mode.from_tensor(tensor) for tensor in (poses, scores, areas, ids)))
    assert len(real) == 13
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )


def best_of(poses: Tensor, scores: Tensor, areas: Tensor) -> tuple[Tensor, KeptPoses]:
    similarity = oks(poses, poses, areas, areas, KAPPAS)
    return similarity.sum(), soft_oks_nms(poses + 1, scores, areas, kappas=KAPPAS, mask=scores > 0.1, max_poses=4)


@pytest.mark.slow
def test_compiles_whole_and_once_for_any_batch(device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(best_of, fullgraph=True, backend=counting)
    for batch in (3, 5, 7, 6):
        inputs = some_poses(batch, device)
        (expected, kept), (actual, compiled_kept) = best_of(*inputs), compiled(*inputs)
        torch.testing.assert_close(actual, expected)
        for one, other in zip(compiled_kept, kept, strict=True):
            torch.testing.assert_close(one, other)
    assert len(graphs) == 2


def test_compiles_with_everything_dynamic() -> None:
    """Numbers of the caller's, such as kappas, are symbols then."""
    torch._dynamo.reset()
    inputs = some_poses()
    compiled = torch.compile(best_of, fullgraph=True, dynamic=True, backend="aot_eager")
    (expected, _), (actual, _) = best_of(*inputs), compiled(*inputs)
    torch.testing.assert_close(actual, expected)


def test_exports(tmp_path: Any) -> None:
    class Suppression(torch.nn.Module):
        def forward(self, poses: Tensor, scores: Tensor, areas: Tensor) -> KeptPoses:
            return oks_nms(poses, scores, areas, kappas=KAPPAS)

    inputs = some_poses()
    torch.export.save(torch.export.export(Suppression(), inputs), tmp_path / "suppression.pt2")
    kept = torch.export.load(tmp_path / "suppression.pt2").module()(*inputs)
    for one, other in zip(kept, Suppression()(*inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_cuda_graph(gpu: torch.device) -> None:
    poses, scores, areas = some_poses(2, gpu)
    ids = torch.tensor([3, 1, 3, 1, 1], device=gpu)

    def step() -> tuple[Tensor, ...]:
        return (
            *best_of(poses, scores, areas)[1],
            *oks_nms(poses[0], scores[0], areas[0], kappas=KAPPAS, image_ids=ids),
            *soft_oks_nms(poses[0], scores[0], areas[0], kappas=KAPPAS, image_ids=ids, backend="eager"),
        )

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    poses.uniform_(0, 20)
    scores.uniform_(0, 1)
    graph.replay()
    for one, other in zip(outputs, step(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(gpu: torch.device) -> None:
    poses, scores, areas = some_poses(2, gpu)
    ids = torch.tensor([3, 1, 3, 1, 1], device=gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            best_of(poses, scores, areas)
            oks_nms(poses[0], scores[0], areas[0], kappas=KAPPAS, image_ids=ids)
            oks_nms(poses, scores, areas, kappas=KAPPAS, backend="eager")
            soft_oks_nms(poses[0], scores[0], areas[0], kappas=KAPPAS, image_ids=ids, backend="eager")
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["hard", "gaussian", "linear"])
@pytest.mark.parametrize("has_ids", [False, True])
def test_eager_asks_the_device_for_nothing(has_ids: bool, method: str) -> None:
    """But for hard suppression with image ids. Tensors without numbers say so."""
    poses, scores, areas = some_poses(1, "meta")
    kappas = torch.empty(len(KAPPAS), device="meta")
    ids = torch.empty(5, dtype=torch.int64, device="meta") if has_ids else None
    waits = has_ids and method == "hard"
    with pytest.raises(NotImplementedError, match="meta tensor") if waits else contextlib.nullcontext():
        outputs = eager.oks_nms_fwd(poses, scores, areas, kappas, None, scores, ids, 0.5, method, 5, torch.float32)
        assert [each.shape for each in outputs] == [(1, 5), (1, 5), (1,), (1, 5)]


@pytest.mark.parametrize("function", [oks_nms, soft_oks_nms])
@pytest.mark.parametrize("service", [SERVICES[2], SERVICES[4]], indirect=True)
def test_a_batch_is_one_launch(function: Any, service: Service) -> None:
    """With image ids as well."""
    from dark_kernels.poses import kernels

    backend, device = service
    poses, scores, areas = some_poses(3, device)
    flat = [each.flatten(0, 1) for each in (poses, scores, areas)]
    ids = torch.arange(15, device=device) % 4
    options = {"kappas": KAPPAS, "backend": backend}
    for run in (
        functools.partial(function, poses, scores, areas, **options),
        functools.partial(function, *flat, image_ids=ids, **options),
    ):
        with launches.recorded(kernels) as launched:
            run()
        assert launched == ["_oks_nms_fwd_kernel"]
        assert device.type == "cpu" or launches.count(run) == 1
