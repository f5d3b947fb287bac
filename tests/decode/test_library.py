"""The operator's contract with PyTorch: opcheck, fake tensors, torch.compile, torch.export, dispatch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode.library import decode_operator

from ..conftest import SERVICES

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SOME_RECIPES = [recipes.DARKPOSE, recipes.MMPOSE_UDP, recipes.VITPOSE_HF, recipes.QUARTER, recipes.MEGVII]
# Each recipe and each dtype: what opcheck looks at has one part for either.
RECIPES_AND_DTYPES = [
    *((recipe, torch.float32) for recipe in SOME_RECIPES),
    *((recipes.DARKPOSE, dtype) for dtype in DTYPES[1:]),
]


def by_name(recipe: Recipe) -> str:
    return recipe.name


def maps(batch: int = 2, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    # No covariance is NaN: opcheck takes two NaN for different.
    return testing.gaussian_blobs(batch, 2, 13, 11, margin=5, seed=1).heatmaps.to(device, dtype)


@pytest.mark.parametrize(
    ("recipe", "dtype"), [pytest.param(*each, id=f"{each[0].name}-{each[1]}") for each in RECIPES_AND_DTYPES]
)
@pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
def test_opcheck(recipe: Recipe, dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = maps(1 if backend == "triton" and device.type == "cpu" else 2, device, dtype)
    for covariance in (False, True) if recipe.has_hessian else (False,):
        torch.library.opcheck(decode_operator, (heatmaps, *recipe.operator_arguments, covariance, backend))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "expanded_batch"])
def test_opcheck_of_other_layouts(layout: str) -> None:
    arguments = (*recipes.MMPOSE_UDP.operator_arguments, True, "eager")
    torch.library.opcheck(decode_operator, (testing.with_layout(maps(), layout), *arguments))


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (0, 3, 13, 11), (2, 0, 13, 11)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("covariance", [False, True])
def test_fakes_are_like_the_real_outputs(
    shape: tuple[int, ...], dtype: torch.dtype, covariance: bool, device: torch.device
) -> None:
    heatmaps = torch.rand(shape, device=device).to(dtype)
    real = dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, covariance)
    with FakeTensorMode() as mode:
        fake = dark_kernels.decode(mode.from_tensor(heatmaps), recipes.MMPOSE_UDP, covariance)
    meta = dark_kernels.decode(heatmaps.to("meta"), recipes.MMPOSE_UDP, covariance)
    for one, other, third in zip(real, fake, meta, strict=True):
        if one is None:
            assert other is None
            assert third is None
            continue
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert (one.shape, one.stride(), one.dtype) == (third.shape, third.stride(), third.dtype)
        assert one.device.type == other.device.type
        assert not other.requires_grad


def test_the_operator_takes_numbers_and_returns_three_tensors() -> None:
    coords, scores, covariances = decode_operator(maps(), *recipes.DARKPOSE.operator_arguments, False, "eager")
    assert covariances.numel() == 0
    expected = dark_kernels.decode(maps(), recipes.DARKPOSE, backend="eager")
    testing.assert_same_keypoints(Keypoints(coords, scores), expected)
    assert torch.Tag.pt2_compliant_tag in decode_operator.tags


# --- torch.compile ---------------------------------------------------------------------------------------


def recipe_of(recipe: Recipe, covariance: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function around decode with an operation before and after it."""

    def function(heatmaps: Tensor) -> tuple[Tensor, ...]:
        keypoints = dark_kernels.decode(heatmaps * 0.5, recipe, covariance)
        extra = () if keypoints.covariances is None else (keypoints.covariances,)
        return (keypoints.coords * 4 + 1.5, keypoints.scores, *extra)

    return function


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "compiler"),
    [  # what Inductor writes around the operator depends on its outputs alone, of which there are two or three
        *(pytest.param(recipe, "aot_eager", id=f"{recipe.name}-aot_eager") for recipe in SOME_RECIPES),
        pytest.param(recipes.DARKPOSE, "inductor", id="darkpose-inductor"),
        pytest.param(recipes.QUARTER, "inductor", id="quarter-inductor"),
    ],
)
def test_compiles_whole_and_once_for_any_batch(recipe: Recipe, compiler: str, device: torch.device) -> None:
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(compiler)(graph, inputs)

    function = recipe_of(recipe, recipe.has_hessian)
    compiled = torch.compile(function, fullgraph=True, backend=counting, dynamic=True)
    # The first call may start over, to make constants of a recipe's numbers.
    compiled(maps(3, device))
    after_the_first = len(graphs)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (3, 4, 7):  # none of the other sizes, which would be taken for the same
            heatmaps = maps(batch, device)
            torch.testing.assert_close(compiled(heatmaps), function(heatmaps), rtol=0, atol=1e-5, equal_nan=True)
    assert len(graphs) == after_the_first


@pytest.mark.slow
def test_a_third_batch_size_compiles_nothing(device: torch.device) -> None:
    """Without dynamic=True: the second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(recipe_of(recipes.MMPOSE_DARK, True), fullgraph=True, backend=counting)
    for batch in (3, 4):
        compiled(maps(batch, device))
    before = len(graphs)
    for batch in (5, 9):
        compiled(maps(batch, device))
    assert len(graphs) == before <= 2


@pytest.mark.slow
def test_compiles_inside_a_module_that_trains(device: torch.device) -> None:
    """The maps require grad, the keypoints don't, and the rest of the graph is differentiated."""
    torch._dynamo.reset()
    head = nn.Conv2d(3, 2, 3, padding=1).to(device)

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = head(images)
        return heatmaps.square().mean(), dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP).coords

    images = torch.rand(2, 3, 16, 12, device=device)
    loss, coords = torch.compile(function, fullgraph=True, backend="aot_eager")(images)
    assert not coords.requires_grad
    loss.backward()
    assert head.weight.grad is not None
    assert bool(head.weight.grad.abs().sum() > 0)


# --- torch.export ----------------------------------------------------------------------------------------


class Head(nn.Module):
    def __init__(self, recipe: Recipe, returns: type) -> None:
        super().__init__()
        self.recipe, self.returns = recipe, returns

    def forward(self, heatmaps: Tensor) -> Any:
        keypoints = dark_kernels.decode(heatmaps, self.recipe, self.recipe.has_hessian)
        return keypoints if self.returns is Keypoints else tuple(each for each in keypoints if each is not None)


@pytest.mark.slow
@pytest.mark.parametrize("returns", [tuple, Keypoints])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("recipe", [recipes.DARKPOSE, recipes.QUARTER], ids=by_name)
def test_exports_with_a_dynamic_batch_and_survives_a_file(
    recipe: Recipe, strict: bool, returns: type, device: torch.device
) -> None:
    module = Head(recipe, returns)
    dynamic = {"heatmaps": {0: torch.export.Dim("batch", min=1, max=1024)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (maps(3, device),), dynamic_shapes=dynamic, strict=strict)
        calls = [node for node in program.graph.nodes if node.target is decode_operator]
        assert len(calls) == 1
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for batch in (1, 2, 5):
        heatmaps = maps(batch, device)
        actual, expected = loaded(heatmaps), module(heatmaps)
        assert type(actual) is returns
        for one, other in zip(actual, expected, strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_make_fx_sees_one_operator() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def coords(heatmaps: Tensor) -> Tensor:
        return dark_kernels.decode(heatmaps, recipes.DARKPOSE).coords

    graph = make_fx(coords, tracing_mode="symbolic")(maps())
    assert [node.target for node in graph.graph.nodes].count(decode_operator) == 1
    assert torch.equal(graph(maps(5)), coords(maps(5)))


# --- other ways to call it -------------------------------------------------------------------------------


def test_no_gradient_flows_and_none_is_asked_for() -> None:
    heatmaps = maps().requires_grad_()
    outputs = decode_operator(heatmaps.detach(), *recipes.DARKPOSE.operator_arguments, True, "eager")
    assert not any(each.requires_grad for each in outputs)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with mode:
            assert not dark_kernels.decode(heatmaps, recipes.DARKPOSE).coords.requires_grad


def test_tensors_made_in_inference_mode() -> None:
    with torch.inference_mode():
        heatmaps = maps()
        expected = dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True)
    testing.assert_same_keypoints(dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True), expected)


def test_threads_agree() -> None:
    from concurrent.futures import ThreadPoolExecutor

    inputs = [testing.heatmaps_of_kinds(["noisy_blob"], 3, 2, 15 + i % 5, 12, seed=i) for i in range(40)]
    expected = [dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True) for heatmaps in inputs]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda heatmaps: dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True), inputs))
    for one, other in zip(actual, expected, strict=True):
        testing.assert_same_keypoints(one, other)
