"""Whatever else is set in a process, the numbers are the same.

A table of settings times operations. Most settings change no bit. Those under which an operation may add in another
order, or products of matrices are rounded once instead of as they are added up, are held to float64 truth: a float32
result of n addends is off by at most n roundings of its size.

A CPU without bfloat16 computes in float32 whatever it is allowed to, so for products it is also looked at what they
are computed in.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dark_kernels
from dark_kernels import Recipe, backends, recipes, testing
from dark_kernels._common import products
from dark_kernels._common.products import product
from dark_kernels.testing.arithmetic import unit_roundoff

from .conftest import require_service
from .process_operations import ALONE, OPERATIONS, Results, forget, prepare, run

# --- settings --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _set(setter: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


def _autocast() -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _matmul_precision(value: str) -> contextlib.AbstractContextManager[Any]:
    return _set(torch.set_float32_matmul_precision, value, torch.get_float32_matmul_precision())


_GETTER = getattr(torch._C, "_get_fp32_precision_getter", None)
_SETTER = getattr(torch._C, "_set_fp32_precision_setter", None)


def _fp32_precision(backend: str, operation: str, value: str) -> contextlib.AbstractContextManager[Any]:
    """`torch.backends.<backend>.<operation>.fp32_precision = value`."""
    if _SETTER is None or _GETTER is None:
        pytest.skip(f"PyTorch {torch.__version__} has no fp32_precision")
    # What a backend inherits is not its own, and "none" inherits.
    with contextlib.ExitStack() as stack:
        if backend == "generic":
            was = _GETTER("mkldnn", "matmul")
            stack.enter_context(_set(functools.partial(_SETTER, "mkldnn", "matmul"), "none", was))
        was = _GETTER(backend, operation)
        stack.enter_context(_set(functools.partial(_SETTER, backend, operation), value, was))
        return stack.pop_all()


def _default_dtype() -> contextlib.AbstractContextManager[Any]:
    return _set(torch.set_default_dtype, torch.float64, torch.get_default_dtype())


def _default_device() -> contextlib.AbstractContextManager[Any]:
    return _set(torch.set_default_device, "meta", None)


def _deterministic() -> contextlib.AbstractContextManager[Any]:
    return _set(torch.use_deterministic_algorithms, True, False)


@contextlib.contextmanager
def _without_mkldnn() -> Iterator[None]:
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def _threads(count: int) -> contextlib.AbstractContextManager[Any]:
    return _set(torch.set_num_threads, count, torch.get_num_threads())


def _flush_denormal() -> contextlib.AbstractContextManager[Any]:
    return _set(torch.set_flush_denormal, True, False)


Setting = Callable[[], contextlib.AbstractContextManager[Any]]

# Products of matrices may be rounded, by what the process says.
ROUNDING: dict[str, Setting] = {
    "autocast": _autocast,
    "matmul-high": lambda: _matmul_precision("high"),
    "matmul-medium": lambda: _matmul_precision("medium"),
    "mkldnn-matmul-bf16": lambda: _fp32_precision("mkldnn", "matmul", "bf16"),
    "mkldnn-matmul-tf32": lambda: _fp32_precision("mkldnn", "matmul", "tf32"),
    "all-tf32": lambda: _fp32_precision("generic", "all", "tf32"),
    "all-bf16": lambda: _fp32_precision("generic", "all", "bf16"),
}
# No bit changes.
SAME_BITS: dict[str, Setting] = {
    "deterministic": _deterministic,
    "default-dtype": _default_dtype,
    "default-device": _default_device,
    "device-context": lambda: torch.device("meta"),
    "flush-denormal": _flush_denormal,
    "without-mkldnn": _without_mkldnn,
    "inference-mode": torch.inference_mode,
    "no-grad": torch.no_grad,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}
# Sums may be added up in another order.
ANOTHER_ORDER: dict[str, Setting] = {
    "one-thread": lambda: _threads(1),
    "two-threads": lambda: _threads(2),
}
# The same, but read once, when the process begins.
ENVIRONMENTS = {
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-bf16": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "omp-two-threads": {"OMP_NUM_THREADS": "2"},
}
SETTINGS = {**ROUNDING, **SAME_BITS, **ANOTHER_ORDER}

# Operations that multiply matrices, all of float32 or some.
WITH_PRODUCTS = {name for name in OPERATIONS if name.split("-")[0] in ("decode", "find_peaks", "linear_gaussian_nll")}
# Addends of a result: the pixels of a map are the most, whose sums meet others of their sign alone.
_ADDENDS = 21 * 18
# Coordinates in heatmap pixels, quotients of differences of logs, of peaks as they are here. The contract of decode.
_PIXELS = 1e-4


@functools.cache
def _plain(name: str, backend: str) -> Results:
    prepare()
    return run(name, torch.float32, backend)


@functools.cache
def _truth(name: str) -> Results:
    prepare()
    return run(name, torch.float64, "reference")


def _is_same(actual: Results, expected: Results, lost: float = 0.0) -> bool:
    """To the bit, or but for what was lost. There may be no gradients."""
    return len(actual) >= 1 and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a.isnan(), b.isnan())
        and bool(((a == b) | a.isnan() | ((a.double() - b.double()).abs() < lost)).all())
        for a, b in zip(actual, expected, strict=False)
    )  # fmt: skip


def _assert_near_truth(actual: Results, backend: str, name: str) -> None:
    u = unit_roundoff(torch.float32)
    for i, (result, expected, truth) in enumerate(zip(actual, _plain(name, backend), _truth(name), strict=True)):
        assert result.dtype == expected.dtype
        if not result.is_floating_point():
            assert torch.equal(result, expected)
            continue
        size = float(truth.nan_to_num().abs().max()) if truth.numel() else 0.0
        tolerance = _ADDENDS * u * size
        if i == 0 and name.startswith(("decode", "find_peaks")):
            # Linear parts of the transforms are of up to 4 in each element.
            tolerance = _PIXELS * (8 if name == "decode-flip-image" else 1)
        torch.testing.assert_close(
            result.double(), truth, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text: f"{backend} {name}: {text}"
        )


# --- the table -------------------------------------------------------------------------------------------

BACKENDS = pytest.mark.parametrize("backend", ["eager", "reference"])


def _names(backend: str) -> list[str]:
    return [name for name in OPERATIONS if backend == "eager" or name not in ALONE]


@BACKENDS
def test_inputs_are_such_that_float32_is_near_the_truth(backend: str) -> None:
    for name in _names(backend):
        _assert_near_truth(_plain(name, backend), backend, name)


@BACKENDS
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_process_do_not_change_the_numbers(setting: str, backend: str) -> None:
    expected = {name: _plain(name, backend) for name in _names(backend)}
    # What is kept of a shape must not depend on the setting under which it was made.
    forget()
    with SETTINGS[setting]():
        actual = {name: run(name, torch.float32, backend) for name in expected}
    if backend == "eager":  # the one that keeps anything
        after = {name: run(name, torch.float32, backend) for name in expected}
        assert not [name for name in expected if not _is_same(after[name], expected[name])]
    # A result is a sum of a few numbers, of which each may have been denormal.
    lost = 4 * torch.finfo(torch.float32).tiny if setting == "flush-denormal" else 0.0
    changed = [name for name in expected if not _is_same(actual[name], expected[name], lost)]
    for name in changed:
        may_change = setting in ANOTHER_ORDER or (setting in ROUNDING and name in WITH_PRODUCTS)
        assert may_change, f"{name} under {setting}"
        _assert_near_truth(actual[name], backend, name)
    if setting not in ("inference-mode", "no-grad"):
        assert not [name for name in expected if len(actual[name]) != len(expected[name])]


@pytest.mark.parametrize("setting", ["inference-mode", "no-grad"])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_what_is_kept_under_inference_serves_training(recipe: Recipe, setting: str) -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "weak_blob", "noise"], 2, 3, 19, 17, seed=3)
    forget()
    with SAME_BITS[setting]():
        dark_kernels.decode(heatmaps, recipe, recipe.has_hessian, backend="eager")
    after = dark_kernels.decode(heatmaps.clone().requires_grad_(), recipe, recipe.has_hessian, backend="eager")
    testing.assert_decodes_like_reference(after, heatmaps, recipe)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    """One for each environment, all at once: most of the time they import PyTorch."""
    folder = tmp_path_factory.mktemp("environments")
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = {
        name: (
            subprocess.Popen(
                [sys.executable, "-m", "tests.process_operations", str(folder / name)],
                env={**os.environ, **threads, **ENVIRONMENTS[name]}, cwd=Path(__file__).parents[1],
            ),
            folder / name,
        )
        for name in ENVIRONMENTS
    }  # fmt: skip
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_environment_does_not_change_the_numbers(
    environment: str, processes: dict[str, tuple[subprocess.Popen[bytes], Path]]
) -> None:
    process, path = processes[environment]
    assert process.wait() == 0
    for (name, backend), actual in torch.load(path).items():
        _assert_near_truth(actual, backend, name)


# Of every way to launch a kernel one that the interpreter is quick with.
INTERPRETED = [
    "decode-darkpose", "encode", "gaussian_mixture_nll", "gaussian_nll-laplace", "heatmap_mse-topk", "oks", "oks_nms",
    "sample_keypoints", "vote-bandwidth",
]  # fmt: skip


@pytest.mark.parametrize("name", INTERPRETED)
def test_kernels_do_not_see_the_settings(name: str) -> None:
    """All settings at once, since an interpreted launch takes long."""
    require_service("triton", "cpu")
    expected = _plain(name, "triton")
    forget()
    with contextlib.ExitStack() as stack:
        for setting in ("autocast", "matmul-medium", "deterministic", "default-dtype", "default-device", "anomaly"):
            stack.enter_context(SETTINGS[setting]())
        actual = run(name, torch.float32, "triton")
    assert len(actual) == len(expected)
    assert _is_same(actual, expected)


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_denormal_peaks_count_as_zero_where_they_are_flushed(backend: str) -> None:
    """What the CPU takes for 0 is no keypoint. The other maps stay as they are, and nothing is NaN."""
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 3, 19, 17, seed=3)
    heatmaps[0, 1] *= 1e-40
    assert 0 < heatmaps[0, 1].max() < torch.finfo(torch.float32).tiny
    for recipe in recipes.ALL:
        expected = dark_kernels.decode(heatmaps, recipe, backend=backend)
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU cannot flush denormal numbers")
        try:
            actual = dark_kernels.decode(heatmaps, recipe, backend=backend)
        finally:
            torch.set_flush_denormal(False)
        for result, other in zip(actual[:2], expected[:2], strict=True):
            assert torch.equal(result[:, ::2], other[:, ::2])
        assert (actual.coords[0, 1] == recipe.invalid).all()
        assert (expected.coords[0, 1] != recipe.invalid).any()
        assert actual.scores.isfinite().all()


# --- what products are computed in -----------------------------------------------------------------------

_PRODUCT_NAMES = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "linear", "convolution")


class _Products(TorchDispatchMode):
    """What matrices that are multiplied consist of, whoever does it."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.rstrip("_") in _PRODUCT_NAMES:
            self.dtypes |= {each.dtype for each in args if isinstance(each, Tensor)}
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _recorded_products() -> Iterator[set[torch.dtype]]:
    """As of a plain call, which a mode otherwise sends through the operator, into which it does not see."""
    with mock.patch.object(backends, "_num_modes", return_value=0), _Products() as products:
        yield products.dtypes


LOWERED = [*ROUNDING, "environment"]


def _lowered(setting: str) -> contextlib.AbstractContextManager[Any]:
    if setting == "environment":
        return mock.patch.object(products, "_rounds_by_default", True)
    return ROUNDING[setting]()


@BACKENDS
@pytest.mark.parametrize("setting", LOWERED)
def test_products_are_float64_where_float32_may_be_rounded(setting: str, backend: str) -> None:
    prepare()
    found: dict[str, set[torch.dtype]] = {}
    # All operations once, and one of each way to a product under every setting.
    some = ["decode-darkpose", "decode-fit", "decode-flip-image", "find_peaks", "linear_gaussian_nll"]
    names = _names(backend) if setting == "matmul-medium" else some
    for name in names:
        with _lowered(setting), _recorded_products() as dtypes:
            run(name, torch.float32, backend)
        found[name] = dtypes
    expected = {torch.float64}
    if setting == "autocast" and backend == "eager":
        # Switched off for as long as an implementation runs, as nothing else can be.
        expected = {torch.float32, torch.float64}
    assert not {name: dtypes for name, dtypes in found.items() if not dtypes <= expected}
    assert {name for name, dtypes in found.items() if dtypes} <= WITH_PRODUCTS
    assert found["decode-darkpose"] | found["linear_gaussian_nll"] or backend == "reference"


@BACKENDS
def test_products_are_float32_where_nothing_rounds_them(backend: str) -> None:
    """What makes the test above one that can fail."""
    prepare()
    with _recorded_products() as dtypes:
        run("decode-darkpose" if backend == "eager" else "decode-fit", torch.float32, backend)
    assert torch.float32 in dtypes


@pytest.mark.parametrize("setting", ["default", *LOWERED])
def test_what_a_product_is_computed_in(setting: str) -> None:
    left, right = torch.rand(3, 4, 5), torch.rand(3, 5, 6)
    exact = (left.double() @ right.double()).float()
    with contextlib.nullcontext() if setting == "default" else _lowered(setting), _recorded_products() as dtypes:
        actual = product(left, right), product(left[0], right[0]), product(left, right, right.mT)
        doubled = product(left.double(), right.double())
    assert dtypes == ({torch.float32, torch.float64} if setting == "default" else {torch.float64})
    assert all(each.dtype == torch.float32 for each in actual)
    assert doubled.dtype == torch.float64
    tolerance = 10 * unit_roundoff(torch.float32)
    torch.testing.assert_close(actual[0], exact, rtol=tolerance, atol=0)
    if setting != "default":
        assert torch.equal(actual[0], exact)
        assert torch.equal(actual[1], exact[0])


def test_the_older_and_the_newer_setting_may_be_mixed() -> None:
    """PyTorch raises when it is then asked for the older one."""
    left, right = torch.rand(4, 5), torch.rand(5, 6)
    for older, newer, expected in (
        ("highest", "bf16", torch.float64),
        ("medium", "ieee", torch.float32),
        ("high", "bf16", torch.float64),
    ):
        with _matmul_precision(older), _fp32_precision("mkldnn", "matmul", newer), _recorded_products() as dtypes:
            product(left, right)
        assert dtypes == {expected}


def test_without_the_newer_settings_the_older_one_counts() -> None:
    with mock.patch.object(torch._C, "_get_fp32_precision_getter", None, create=True):
        precision = products._getter()
    with mock.patch.object(products, "_precision", precision):
        for value, expected in (("highest", torch.float32), ("high", torch.float64), ("medium", torch.float64)):
            with _matmul_precision(value), _recorded_products() as dtypes:
                product(torch.rand(4, 5), torch.rand(5, 6))
            assert dtypes == {expected}


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
@pytest.mark.parametrize(
    ("value", "rounds"), [("BF16", True), ("bf16", True), ("ANY", True), ("TF32", True), ("STRICT", False), ("", False)]
)
def test_what_the_environment_says(name: str, value: str, rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE", raising=False)
    monkeypatch.delenv("DNNL_DEFAULT_FPMATH_MODE", raising=False)
    assert not products._environment_rounds()
    monkeypatch.setenv(name, value)
    assert products._environment_rounds() is rounds


def test_gradients_of_a_product_are_as_exact_as_it_is() -> None:
    """Also where the setting comes between the two."""
    left, right = torch.rand(3, 4, 5, requires_grad=True), torch.rand(3, 5, 6, requires_grad=True)
    result = product(left, right)
    weight = torch.rand_like(result)
    for setting in LOWERED:
        with _lowered(setting), _recorded_products() as dtypes:
            gradients = torch.autograd.grad(result, (left, right), weight, retain_graph=True)
        assert dtypes == {torch.float64}
        assert torch.equal(gradients[0], (weight.double() @ right.detach().double().mT).float())
    assert torch.autograd.gradcheck(product, (left.double().detach().requires_grad_(), right.double()))


def test_transforms_of_a_product() -> None:
    left, right = torch.rand(3, 4, 5), torch.rand(3, 5, 6)
    exact = (left.double() @ right.double()).float()
    close = functools.partial(torch.testing.assert_close, rtol=10 * unit_roundoff(torch.float32), atol=0)
    for setting in ("default", *LOWERED):
        with contextlib.nullcontext() if setting == "default" else _lowered(setting):
            close(torch.vmap(product)(left, right), exact)
            close(torch.func.jvp(lambda a: product(a, right), (left,), (left,))[1], exact)
            ones = torch.func.grad(lambda a: product(a, right).sum())(left)
        close(ones, right.double().sum(-1).float()[:, None].expand_as(left))


def test_a_traced_product_is_float64_whatever_was_set_then() -> None:
    """The graph may be run elsewhere, and later."""

    class Module(torch.nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return product(left, right)

    left, right = torch.rand(3, 4, 5), torch.rand(3, 5, 6)
    exact = (left.double() @ right.double()).float()
    assert products._precision() in products._EXACT
    exported = torch.export.export(Module(), (left, right)).module()
    graphs: list[torch.fx.GraphModule] = []
    torch.compile(Module(), backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)(left, right)
    traced = torch.jit.trace(Module(), (left, right))
    for module in (exported, *graphs, traced):
        with _matmul_precision("medium"), _recorded_products() as dtypes:
            result = module(left, right)
        assert torch.equal(result[0] if isinstance(result, (tuple, list)) else result, exact)
        assert dtypes == {torch.float64}


@pytest.mark.parametrize(
    "shapes", [((4, 5), (5, 6)), ((3, 4, 5), (3, 5, 6)), ((2, 1, 4, 5), (3, 5, 6)), ((3, 4, 5), (5, 6))]
)
def test_products_of_other_devices_are_added_up(
    shapes: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = (torch.rand(shape, dtype=torch.float64) for shape in shapes)
    assert product(left.to("meta"), right.to("meta")).shape == (left @ right).shape
    for many in (2**26, 60, 1):  # all at once, some rows, one row
        monkeypatch.setattr(products, "_MANY_PRODUCTS", many)
        torch.testing.assert_close(products._sum_of_products(left, right), left @ right, rtol=1e-14, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(WITH_PRODUCTS))
def test_tensor_cores_do_not_change_the_numbers(name: str, gpu: torch.device) -> None:
    """cuBLAS multiplies in TF32 if it may, and raises in deterministic mode."""
    from . import process_operations

    on_gpu = lambda of: lambda *arguments: of(*arguments).to(gpu)  # noqa: E731
    with mock.patch.object(process_operations, "_input", on_gpu(process_operations._input)):
        expected = run(name, torch.float32, "eager")
        for setting in (lambda: _matmul_precision("medium"), lambda: torch.autocast(gpu.type), _deterministic):
            with setting():
                actual = run(name, torch.float32, "eager")
            assert _is_same(actual, expected)
