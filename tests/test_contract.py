"""The contract with PyTorch: every kind of test for every row of `contract.py`, but for those that a row leaves out.

A test's id says which row it is of. What only one operation promises is in its own room's tests.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import dark_kernels
from dark_kernels._common import plans

from . import launches
from .conftest import SERVICES, require_service
from .contract import OF_GRADIENTS, ROWS, Inputs, Row, tensors

Service = tuple[str, torch.device]

# --- rows and inputs -------------------------------------------------------------------------------------


def rows(kind: str) -> pytest.MarkDecorator:
    """The rows that a kind of test is for."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS if kind not in row.without])


def _to_dtypes(inputs: Inputs, *dtypes: torch.dtype) -> Inputs:
    """Inputs of floating dtypes have the given ones in turn."""
    names = [name for name, each in inputs.items() if each.is_floating_point()]
    return {**inputs, **{name: inputs[name].to(dtypes[i % len(dtypes)]) for i, name in enumerate(names)}}


def _strided(tensor: Tensor) -> Tensor:
    """Maps with the channels last in memory; what has fewer dimensions is transposed."""
    if tensor.dim() >= 4:
        return tensor.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


# By name: what becomes of a row's inputs.
INPUTS: dict[str, Callable[[Row], Inputs]] = {
    "float32": lambda row: row.inputs(2, 2),
    "float16": lambda row: _to_dtypes(row.inputs(2, 2), torch.float16),
    "bfloat16": lambda row: _to_dtypes(row.inputs(2, 2), torch.bfloat16),
    "float64": lambda row: _to_dtypes(row.inputs(2, 2), torch.float64),
    "mixed": lambda row: _to_dtypes(row.inputs(2, 2), torch.float16, torch.float32, torch.bfloat16),
    "strided": lambda row: {name: _strided(each) for name, each in row.inputs(2, 2).items()},
    "no_images": lambda row: row.inputs(0, 2),
    "no_keypoints": lambda row: row.inputs(2, 0),
}


def rows_and_inputs(kind: str, *names: str) -> pytest.MarkDecorator:
    """The rows that a kind of test is for, each with all of the named inputs that it can have."""
    return pytest.mark.parametrize(
        ("row", "inputs"),
        [
            pytest.param(row, name, id=f"{row.name}-{name}")
            for row in ROWS
            for name in names or INPUTS
            if kind not in row.without and name not in row.without
        ],
    )


def make(row: Row, batch: int, device: torch.device | str = "cpu", *, leaves: bool = True) -> Inputs:
    """float32 inputs, with gradients for those that a row is differentiable in."""
    inputs = {name: each.to(device) for name, each in row.inputs(batch, 2).items()}
    return with_leaves(row, inputs) if leaves else inputs


def with_leaves(row: Row, inputs: Inputs) -> Inputs:
    return {name: each.detach().requires_grad_(name in row.leaves) for name, each in inputs.items()}


def skip_without(row: Row, what: str, device: torch.device | None = None) -> None:
    """Skip one of a kind's cases, with the row's reason."""
    if what == "triton" and device == torch.device("cpu") and "interpreted" in row.without:
        pytest.skip(row.without["interpreted"])
    if what in row.without:
        pytest.skip(row.without[what])


def total(result: Any) -> Tensor:
    """One number, of which every output has another gradient."""
    return sum(each.square().sum() for each in tensors(result))  # type: ignore[return-value]


def gradients(row: Row, result: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total(result), [inputs[name] for name in row.leaves]) if row.leaves else ()


def everything(row: Row, inputs: Inputs, backend: str = "auto") -> tuple[Tensor, ...]:
    """What a call returns, and its gradients."""
    inputs = with_leaves(row, inputs)
    result = row(inputs, backend)
    return *tensors(result), *gradients(row, result, inputs)


def assert_equal(actual: Any, expected: Any) -> None:
    """To the last bit."""
    torch.testing.assert_close(tensors(actual), tensors(expected), rtol=0, atol=0, equal_nan=True)


class Recorder(TorchDispatchMode):
    """The calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "dark_kernels":
            self.calls.append((function, *tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))))
        return function(*args, **(kwargs or {}))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(function.name().removeprefix("dark_kernels::") for function, *_ in self.calls)


# --- the table -------------------------------------------------------------------------------------------


def registered() -> set[str]:
    """Names of all operators, whichever rooms define them."""
    for module in pkgutil.walk_packages(dark_kernels.__path__, "dark_kernels."):
        if module.name.endswith(".library"):
            importlib.import_module(module.name)
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("dark_kernels::") for name in names if name.startswith("dark_kernels::")}


def test_every_operator_has_a_row() -> None:
    assert registered() == {name for row in ROWS for name in (*row.operators, *row.backward)}


def test_every_public_function_has_a_row() -> None:
    public = {name for name in dark_kernels.__all__ if inspect.isfunction(getattr(dark_kernels, name))}
    assert public == {row.function.__name__ for row in ROWS}


def test_reasons_are_given_for_what_there_is() -> None:
    """No row leaves out what is no kind of test, and none has two names."""
    kinds = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for row in ROWS:
        assert set(row.without) <= {*kinds, *INPUTS, "triton", "interpreted", "strict", "eager_on_a_gpu"}
        assert all(row.without.values())
        assert not row.leaves or not {"no_gradient_flows", *OF_GRADIENTS} <= set(row.without)
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", sorted(registered()))
def test_operators_are_tagged(name: str) -> None:
    assert torch.Tag.pt2_compliant_tag in getattr(torch.ops.dark_kernels, name).default.tags


# --- operators and their fakes ---------------------------------------------------------------------------


@rows_and_inputs("opcheck", "float32")
@pytest.mark.parametrize("service", [SERVICES[1], *SERVICES[3:]], indirect=True)
def test_opcheck(row: Row, inputs: str, service: Service) -> None:
    """Of the operators that a call goes through, backward for all gradients and for each alone. The autograd functions
    around them have the gradients."""
    backend, device = service
    skip_without(row, backend)
    given = {name: each.to(device) for name, each in INPUTS[inputs](row).items()}
    check_operators(row, given, backend, row.leaves)
    for leaf in row.leaves if len(row.leaves) > 1 else ():
        check_operators(row, given, backend, (leaf,))


@rows_and_inputs("opcheck_of_other_inputs", "float16", "float64", "mixed", "strided")
@pytest.mark.parametrize("service", [SERVICES[1], *SERVICES[3:]], indirect=True)
def test_opcheck_of_other_inputs(row: Row, inputs: str, service: Service) -> None:
    backend, device = service
    skip_without(row, backend)
    given = {name: each.to(device) for name, each in INPUTS[inputs](row).items()}
    check_operators(row, given, backend, row.leaves)


@rows("opcheck_of_one_image")
@pytest.mark.parametrize("service", SERVICES[2:3], indirect=True)
def test_opcheck_of_one_image(row: Row, service: Service) -> None:
    """In the interpreter, which takes its time."""
    skip_without(row, "triton")
    check_operators(row, row.inputs(1, 2), "triton", row.leaves)


def check_operators(row: Row, inputs: Inputs, backend: str, wanted: tuple[str, ...]) -> None:
    """opcheck of the operators that the gradients of some leaves go through, and of all others."""
    inputs = {name: each.detach().requires_grad_(name in wanted) for name, each in inputs.items()}
    with Recorder() as recorder:
        result = row(inputs, backend)
        if wanted:
            torch.autograd.grad(total(result), [inputs[name] for name in wanted])
    assert recorder.names == (*row.operators, *row.backward)
    # Forward it is the same for each gradient.
    for operator, arguments, options in recorder.calls if wanted == row.leaves else recorder.calls[-1:]:
        torch.library.opcheck(operator, arguments, options)


@rows_and_inputs("fakes_are_like_the_real_outputs")
@pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
def test_fakes_are_like_the_real_outputs(row: Row, inputs: str, service: Service) -> None:
    backend, device = service
    skip_without(row, backend, device)
    given = {name: each.to(device) for name, each in INPUTS[inputs](row).items()}
    real = everything(row, given, backend)
    with FakeTensorMode() as mode:
        fake = everything(row, {name: mode.from_tensor(each) for name, each in given.items()}, backend)
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape, other.stride(), other.dtype, other.device,
        )  # fmt: skip
        assert one.requires_grad == other.requires_grad


@rows_and_inputs("meta_tensors_are_like_the_real_outputs")
def test_meta_tensors_are_like_the_real_outputs(row: Row, inputs: str) -> None:
    given = INPUTS[inputs](row)
    meta = everything(row, {name: each.to("meta") for name, each in given.items()})
    for one, other in zip(everything(row, given), meta, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert other.device.type == "meta"


@rows("the_operators_give_what_the_function_does")
@pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
def test_the_operators_give_what_the_function_does(row: Row, service: Service) -> None:
    """A plain call leaves them out, and one that is watched does not."""
    backend, device = service
    skip_without(row, backend, device)
    inputs = make(row, 2, device)
    with Recorder() as recorder:
        watched = everything(row, inputs, backend)
    assert recorder.names == (*row.operators, *row.backward)
    assert_equal(everything(row, inputs, backend), watched)


# --- torch.compile, torch.export, make_fx ----------------------------------------------------------------


class Counter:
    """A compiler that counts the graphs it is given."""

    def __init__(self, compiler: str) -> None:
        self.compiler, self.graphs = compiler, 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return torch._dynamo.lookup_backend(self.compiler)(graph, inputs)


def amid(row: Row, backend: str = "auto") -> Callable[..., tuple[Tensor, ...]]:
    """The function with an operation before and after it, of its tensors in order."""

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        named = zip(row.names, arguments, strict=True)
        halved = {name: each * 0.5 if each.is_floating_point() else each for name, each in named}
        return tuple(each + 1 if each.is_floating_point() else each for each in tensors(row(halved, backend)))

    return function


def assert_compiled(row: Row, compiled: Callable[..., Any], inputs: Inputs, backend: str = "auto") -> None:
    """That it gives what the function gives, its gradients included."""
    actual, expected = compiled(*inputs.values()), amid(row, backend)(*inputs.values())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    if all(each.requires_grad for each in expected):
        results = (gradients(row, each, inputs) for each in (actual, expected))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
            assert torch.equal(one != 0, other != 0)


@pytest.mark.slow
@rows("compiles_whole_and_once_for_any_batch")
def test_compiles_whole_and_once_for_any_batch(row: Row, device: torch.device) -> None:
    """The second size makes the batch dynamic, the third finds it so."""
    torch._dynamo.reset()
    counter = Counter(row.compiler)
    compiled = torch.compile(amid(row), fullgraph=True, backend=counter)
    for batch in (3, 5, 7, 6):
        assert_compiled(row, compiled, make(row, batch, device))
    assert counter.graphs == 2


@pytest.mark.slow
@rows("compiles_with_all_sizes_dynamic")
def test_compiles_with_all_sizes_dynamic(row: Row, device: torch.device) -> None:
    """But for those of parameters. Numbers of the caller's, such as kappas, are symbols then."""
    torch._dynamo.reset()
    compiled = torch.compile(amid(row), fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (8, 9):  # none of the other sizes, which would be taken for the same
        inputs = make(row, batch, device)
        for name in row.parameters:
            torch._dynamo.mark_static(inputs[name])
        # The first call may start over, to make constants of numbers.
        with torch._dynamo.config.patch(error_on_recompile=batch > 8):
            assert_compiled(row, compiled, inputs)


@rows("compiled_without_a_gradient")
def test_compiled_without_a_gradient(row: Row) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(amid(row), fullgraph=True, backend="aot_eager")
    assert_compiled(row, compiled, make(row, 2, leaves=False))


@rows("the_reference_compiles_whole")
def test_the_reference_compiles_whole(row: Row) -> None:
    """Forwards and backwards, its own products included."""
    torch._dynamo.reset()
    compiled = torch.compile(amid(row, "reference"), fullgraph=True, backend="aot_eager")
    assert_compiled(row, compiled, make(row, 2), "reference")


class Module(nn.Module):
    """A call, of the row's tensors in order."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row

    def forward(self, *arguments: Tensor) -> Any:
        return self.row(dict(zip(self.row.names, arguments, strict=True)))


@pytest.mark.slow
@rows("exports_with_a_dynamic_batch_and_survives_a_file")
@pytest.mark.parametrize("strict", [False, True], ids=["tracing", "strict"])
def test_exports_with_a_dynamic_batch_and_survives_a_file(row: Row, strict: bool, device: torch.device) -> None:
    """Results keep their type."""
    skip_without(row, "strict" if strict else "tracing")
    module, batch = Module(row), torch.export.Dim("batch", min=1, max=1024)
    inputs = make(row, 3, device, leaves=False)
    sizes = tuple(None if name in row.parameters else {0: batch} for name in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=(sizes,), strict=strict)
        assert operators_of(program.graph) == row.operators
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for size in (1, 5):
        arguments = tuple(make(row, size, device, leaves=False).values())
        actual, expected = loaded(*arguments), module(*arguments)
        assert type(actual) is type(expected)
        assert_equal(actual, expected)


def operators_of(graph: Any) -> tuple[str, ...]:
    """Our operators in a graph."""
    targets = (node.target for node in graph.nodes)
    return tuple(
        each.name().removeprefix("dark_kernels::")
        for each in targets
        if isinstance(each, torch._ops.OpOverload) and each.namespace == "dark_kernels"
    )


@rows("make_fx_sees_the_operators")
def test_make_fx_sees_the_operators(row: Row) -> None:
    function = amid(row)
    graph = make_fx(function, tracing_mode="symbolic")(*make(row, 3, leaves=False).values())
    assert operators_of(graph.graph) == row.operators
    inputs = tuple(make(row, 5, leaves=False).values())
    assert_equal(graph(*inputs), function(*inputs))


# --- autograd and torch.func -----------------------------------------------------------------------------


@contextlib.contextmanager
def known_to_vmap() -> Iterator[None]:
    """vmap calls what it does not know once for each entry, and asks users to file an issue; that is forbidden here."""
    was_enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(was_enabled)


def of_one(row: Row, backend: str) -> Callable[..., Any]:
    """The call of one entry of the batch, of its tensors in order."""

    def function(*arguments: Tensor) -> Any:
        named = zip(row.names, arguments, strict=True)
        return row({name: each if name in row.parameters else each[None] for name, each in named}, backend)

    return function


def batched(row: Row, inputs: Inputs) -> tuple[int | None, ...]:
    return tuple(None if name in row.parameters else 0 for name in inputs)


@rows("vmap")
@pytest.mark.parametrize("backend", ["eager"])
def test_vmap(row: Row, backend: str) -> None:
    """Entries of a batch have nothing to do with each other."""
    inputs = make(row, 3)
    with known_to_vmap():
        found = torch.func.vmap(
            lambda *arguments: tensors(of_one(row, backend)(*arguments)), batched(row, inputs)
        )(*inputs.values())  # fmt: skip
    # A batch of one may be added up in another order.
    torch.testing.assert_close(tuple(one.flatten(0, 1) for one in found), tensors(row(inputs, backend)))


@rows("torch_func")
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_torch_func(row: Row, backend: str) -> None:
    """grad, and gradients for each sample by vmap, are the gradients of autograd."""
    inputs = make(row, 3)
    places = tuple(index for index, name in enumerate(inputs) if name in row.leaves)
    arguments = tuple(each.detach() for each in inputs.values())

    def loss(*arguments: Tensor) -> Tensor:
        return total(row(dict(zip(inputs, arguments, strict=True)), backend))

    expected = gradients(row, row(inputs, backend), inputs)
    for one, other in zip(torch.func.grad(loss, places)(*arguments), expected, strict=True):
        torch.testing.assert_close(one, other)

    def loss_of_one(*arguments: Tensor) -> Tensor:
        return total(of_one(row, backend)(*arguments))

    with known_to_vmap():
        found = torch.func.vmap(torch.func.grad(loss_of_one, places), batched(row, inputs))(*arguments)
    for index, one in enumerate(found):
        for sample in range(3):
            single = with_leaves(
                row,
                {n: each if n in row.parameters else each[sample : sample + 1] for n, each in inputs.items()},
            )
            wanted = gradients(row, row(single, backend), single)[index]
            torch.testing.assert_close(one[sample], wanted.reshape(one[sample].shape))


@pytest.mark.parametrize("how", ["product", "sum", "func"])
@pytest.mark.parametrize(
    ("row", "leaf"),
    [
        pytest.param(row, leaf, id=f"{row.name}-{leaf}")
        for row in ROWS
        if "a_second_derivative_raises" not in row.without
        for leaf in row.leaves
    ],
)
def test_a_second_derivative_raises(row: Row, leaf: str, how: str) -> None:
    """Also where it is one of several terms, and under torch.func: never silent zeros."""
    inputs = make(row, 1)
    variable = inputs[leaf]

    def loss(variable: Tensor) -> Tensor:
        return total(row({**inputs, leaf: variable}, "eager"))

    def second_derivative() -> None:
        if how == "func":
            torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(variable.detach())
            return
        value = loss(variable) * variable.sum() if how == "product" else loss(variable) + variable.square().sum()
        (gradient,) = torch.autograd.grad(value, variable, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), variable)

    with pytest.raises(RuntimeError, match="double backward"):
        second_derivative()


@rows("gradcheck")
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_gradcheck(row: Row, backend: str) -> None:
    inputs = with_leaves(row, _to_dtypes(row.inputs(1, 2), torch.float64))

    def result(*leaves: Tensor) -> Tensor:
        return row({**inputs, **dict(zip(row.leaves, leaves, strict=True))}, backend)

    assert torch.autograd.gradcheck(result, tuple(inputs[name] for name in row.leaves))


@rows("nothing_is_kept_without_a_gradient")
def test_nothing_is_kept_without_a_gradient(row: Row, device: torch.device) -> None:
    inputs = make(row, 2, device)
    assert all(each.requires_grad for each in tensors(row(inputs)))
    assert not any(each.requires_grad for each in tensors(row(make(row, 2, device, leaves=False))))
    with torch.no_grad():
        assert not any(each.requires_grad for each in tensors(row(inputs)))


@rows("gradients_accumulate_over_uses")
def test_gradients_accumulate_over_uses(row: Row, device: torch.device) -> None:
    inputs = make(row, 2, device)
    loss = total(row(inputs))
    loss.backward(retain_graph=True)
    once = [inputs[name].grad.clone() for name in row.leaves]  # type: ignore[union-attr]
    loss.backward()
    for name, gradient in zip(row.leaves, once, strict=True):
        torch.testing.assert_close(inputs[name].grad, 2 * gradient)


@rows("no_gradient_flows")
@pytest.mark.parametrize("service", [*SERVICES[:2], *SERVICES[3:]], indirect=True)
def test_no_gradient_flows(row: Row, service: Service) -> None:
    """What requires grad is taken and its gradient ends there, whether it is asked for or not."""
    backend, device = service
    inputs = make(row, 2, device)
    expected = row(inputs, backend)
    for name, each in inputs.items():
        each.requires_grad_(each.is_floating_point() and name not in row.constants)
    for mode in (torch.no_grad(), torch.enable_grad(), Recorder()):
        with mode:
            result = row(inputs, backend)
        assert not any(each.requires_grad for each in tensors(result))
        assert_equal(result, expected)


@rows("constants_are_refused_with_a_gradient")
def test_constants_are_refused_with_a_gradient(row: Row) -> None:
    """A gradient that would be lost is an error."""
    for name in row.constants:
        inputs = make(row, 2)
        if not inputs[name].is_floating_point():
            continue
        inputs[name].requires_grad_()
        with pytest.raises(ValueError, match=f"{name}: got a tensor that requires grad"):
            row(inputs)


# --- modes -----------------------------------------------------------------------------------------------


@rows("autocast_changes_nothing")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast_changes_nothing(row: Row, backend: str, dtype: torch.dtype, device: torch.device) -> None:
    """Of given inputs, forward and backward: no bit where it is fused."""
    inputs = make(row, 2, device)
    expected = everything(row, inputs, backend)
    with torch.autocast(device.type, dtype):
        actual = everything(row, inputs, backend)
    if backend == "reference":  # its products are in float64 then
        torch.testing.assert_close(actual, expected, equal_nan=True)
    else:
        assert_equal(actual, expected)


@rows("autocast_of_a_network")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_of_a_network(row: Row, dtype: torch.dtype, device: torch.device) -> None:
    """Results are float32 and close to those without autocast; parameters get gradients of their own dtype."""
    inputs = make(row, 2, device, leaves=False)
    name = row.leaves[0]
    layer = nn.Linear(inputs[name].shape[-1], inputs[name].shape[-1]).to(device)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(layer.in_features))
        layer.bias.zero_()

    def result() -> Tensor:
        made = layer(inputs[name])
        assert made.dtype == (dtype if torch.is_autocast_enabled(device.type) else torch.float32)
        (found,) = tensors(row({**inputs, name: made}))
        return found

    expected = result()
    (gradient,) = torch.autograd.grad(expected.sum(), layer.weight)
    with torch.autocast(device.type, dtype):
        actual = result()
    (other,) = torch.autograd.grad(actual.sum(), layer.weight)
    assert actual.dtype == other.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(other, gradient, rtol=0.05, atol=0.05 * float(gradient.abs().max()))


@rows("inference_mode_changes_nothing")
@pytest.mark.parametrize("service", [*SERVICES[:2], *SERVICES[3:]], indirect=True)
def test_inference_mode_changes_nothing(row: Row, service: Service) -> None:
    """And tensors that were made there may be used elsewhere."""
    backend, device = service
    skip_without(row, backend)
    expected = row(make(row, 2, device, leaves=False), backend)
    with torch.inference_mode():
        inputs = make(row, 2, device, leaves=False)
        assert_equal(row(inputs, backend), expected)
    assert_equal(row(inputs, backend), expected)


# --- launches --------------------------------------------------------------------------------------------


def kernel_modules() -> list[Any]:
    names = [module.name for module in pkgutil.walk_packages(dark_kernels.__path__, "dark_kernels.")]
    return [importlib.import_module(name) for name in names if name.rpartition(".")[2].startswith("kernels")]


@rows("launches")
@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_launches(row: Row, kind: str) -> None:
    """Of our kernels, forward and backward, and on a GPU of all others."""
    skip_without(row, "triton")
    device = require_service("triton", kind)
    given = make(row, 2, device)
    forward, backward = row.kernels

    def launched(function: Callable[[], object]) -> int:
        with contextlib.ExitStack() as stack:
            found = [stack.enter_context(launches.recorded(module)) for module in kernel_modules()]
            function()
        return sum(len(each) for each in found)

    assert launched(lambda: row(given, "triton")) == forward
    result = row(given, "triton")

    def backwards() -> object:
        seed = [torch.ones_like(each) for each in tensors(result)]
        return torch.autograd.grad(tensors(result), [given[name] for name in row.leaves], seed, retain_graph=True)

    assert not row.leaves or launched(backwards) == backward
    if device.type == "cpu" or row.others is None:
        return
    assert launches.count(lambda: row(given)) == forward + row.others


class Interpreted:
    """A kernel for `_common/plans.py`, which is interpreted."""

    takes_addresses = False

    def __init__(self, kernel: Any, grid: tuple[int, int, int], arguments: Any, constants: dict[str, Any]) -> None:
        self.kernel, self.constants = kernel, constants
        self.makers = [getattr(type(each), "_make", None) for each in arguments]
        self.launch(grid, arguments)

    def is_current(self) -> bool:
        return True

    def launch(self, grid: tuple[int, int, int], arguments: Any) -> None:
        # What is compiled takes structs as tuples.
        structs = (make(each) if make else each for make, each in zip(self.makers, arguments, strict=True))
        self.kernel[grid](*structs, **self.constants)


@pytest.mark.parametrize("inputs", ["float32", "strided"])
@rows("a_known_call_is_repeated")
def test_a_known_call_is_repeated(row: Row, inputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches follow from properties alone, and outputs are new each time."""
    device = require_service("triton", "cpu")
    skip_without(row, "triton", device)
    launch = importlib.import_module("dark_kernels._triton.launch")
    monkeypatch.setattr(launch, "_launch_compiled", Interpreted)
    given = INPUTS[inputs](row)
    if inputs == "strided":  # of small ones a room makes copies
        given = {name: each if each.dim() >= 4 else each.contiguous() for name, each in given.items()}
    other = {name: each.clone() if name in row.parameters else _reversed(each) for name, each in given.items()}
    expected = row(given, "triton")
    repeated: list[object] = []
    run = plans._Plan.run
    monkeypatch.setattr(plans._Plan, "run", lambda plan, inputs: repeated.append(plan) or run(plan, inputs))
    monkeypatch.setattr(plans, "_PLANS_ON_CPU", True)
    torch.use_deterministic_algorithms(True, warn_only=True)  # and what is not initialised is NaN
    try:
        row(other, "triton")
        repeated.clear()
        actual = row(given, "triton")
        row(other, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(repeated) == 2
    assert_equal(actual, expected)


@pytest.mark.gpu
@rows("a_known_call_is_repeated")
def test_a_known_call_is_repeated_on_a_gpu(row: Row, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without(row, "triton")
    given = make(row, 2, gpu, leaves=False)
    other = {name: each if name in row.parameters else each.flip(0) for name, each in given.items()}
    with monkeypatch.context() as without_plans:
        without_plans.setattr(plans, "runs_now", lambda: False)
        expected = row(given), row(other)
    for _ in range(2):
        assert_equal(row(given), expected[0])
        assert_equal(row(other), expected[1])


def _reversed(tensor: Tensor) -> Tensor:
    """The images in another order, as they lie in memory."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor.flip(0))


@pytest.mark.gpu
@rows("cuda_graph")
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_cuda_graph(row: Row, backend: str, gpu: torch.device) -> None:
    """Captured with its backward pass, and replayed on other numbers."""
    skip_without(row, "triton" if backend == "triton" else "eager_on_a_gpu")
    inputs = make(row, 2, gpu)

    def step() -> tuple[Tensor, ...]:
        result = row(inputs, backend)
        return *tensors(result), *gradients(row, result, inputs)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    with torch.no_grad():
        for each in inputs.values():
            each.copy_(each.flip(0))
    graph.replay()
    assert_equal(outputs, step())


@pytest.mark.gpu
@rows("nothing_waits_for_the_device")
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_nothing_waits_for_the_device(row: Row, backend: str, gpu: torch.device) -> None:
    skip_without(row, "triton" if backend == "triton" else "eager_on_a_gpu")
    inputs = make(row, 2, gpu)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            everything(row, inputs, backend)
        finally:
            torch.cuda.set_sync_debug_mode("default")


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for row in ROWS
        if "what_is_refused" not in row.without
        for name in row.names
    ],
)
def test_what_is_refused(row: Row, name: str) -> None:
    """A complex tensor, a sparse one, one of another rank or on another device, and what is no tensor."""
    inputs = make(row, 2, leaves=False)
    given = inputs[name]
    for wrong in (given.to(torch.complex64), given.to_sparse(), "no tensor"):
        if isinstance(wrong, Tensor) or given.is_floating_point():  # of indices a sequence does
            with pytest.raises(TypeError, match=f"^{name}: got"):
                row({**inputs, name: wrong})
    with pytest.raises(ValueError, match=r"^\w+: got shape"):
        row({**inputs, name: given.expand(2, 2, 2, *given.shape)})
    if len(inputs) > 1 and given.is_floating_point():  # indices are brought to where they are needed
        with pytest.raises(ValueError, match=r"got a tensor on (meta|cpu)"):
            row({**inputs, name: given.to("meta")})


@rows("an_unknown_backend_is_refused")
def test_an_unknown_backend_is_refused(row: Row) -> None:
    with pytest.raises(ValueError, match=r"^backend: got 'best', expected"):
        row(make(row, 2), "best")
