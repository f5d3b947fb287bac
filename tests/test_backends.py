"""Which backend serves a call, and why it says so."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import dark_kernels
from dark_kernels import backends
from dark_kernels.backends import choose, is_plain

from .conftest import SERVICES

WITHOUT_TRITON = "triton cannot be imported (ImportError: blocked)"


@pytest.fixture(autouse=True)
def _fresh_choices() -> Iterator[None]:
    """Choices are remembered, and these tests change what they depend on."""
    choose.cache_clear()
    yield
    choose.cache_clear()


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_problem", lambda: None)


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "triton_problem", lambda: WITHOUT_TRITON)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_auto_takes_triton_on_its_devices(device: str) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        choice = choose("auto", device, dtype)
        assert choice.backend == "triton"
        assert device in choice.reason


@pytest.mark.usefixtures("no_triton")
def test_auto_falls_back_and_says_why() -> None:
    assert choose("auto", "cuda", torch.float32) == ("eager", WITHOUT_TRITON)


@pytest.mark.parametrize("device", ["cpu", "mps", "hpu"])
def test_auto_asks_not_for_triton_elsewhere(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def imports_triton() -> None:
        raise AssertionError("Triton was imported for a device that it does not run on")

    monkeypatch.setattr(backends, "triton_problem", imports_triton)
    choice = choose("auto", device, torch.float32)
    assert choice.backend == "eager"
    assert device in choice.reason


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("requested", ["auto", "triton"])
def test_float64_is_eagers(requested: str) -> None:
    choice = choose(requested, "cuda", torch.float64)
    assert choice.backend == "eager"
    assert "float64" in choice.reason


@pytest.mark.parametrize("requested", ["eager", "reference"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_asked_for_is_taken(requested: str, device: str) -> None:
    assert choose(requested, device, torch.float32) == (requested, "asked for")


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("value", ["1", "true", "on", "YES", "y"])
def test_the_interpreter_serves_cpu_tensors(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert choose("triton", "cpu", torch.float32).backend == "triton"
    assert choose("auto", "cpu", torch.float32).backend == "eager"


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("value", ["", "0", "false", "off"])
def test_no_interpreter_no_cpu_tensors(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(ValueError, match=r"got 'triton' with a tensor on 'cpu', expected .*TRITON_INTERPRET=1"):
        choose("triton", "cpu", torch.float32)


@pytest.mark.usefixtures("no_triton")
def test_triton_is_refused_where_it_is_not() -> None:
    with pytest.raises(ValueError, match=r"got 'triton', but triton cannot be imported .*expected an installed Triton"):
        choose("triton", "cuda", torch.float32)


WITHOUT_NUMBA = "numba cannot be imported (ImportError: blocked)"


@pytest.fixture
def numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "numba_problem", lambda: None)


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "numba_problem", lambda: WITHOUT_NUMBA)


@pytest.mark.usefixtures("numba")
def test_numba_serves_who_asks_for_it() -> None:
    assert choose("auto", "cpu", torch.float32, True).backend == "eager"
    assert choose("numba", "cpu", torch.float32, True) == ("numba", "asked for")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        choice = choose("numba", "cpu", dtype, True)
        assert choice.backend == "eager"
        assert "the compiled loops are of float32" in choice.reason
    assert choose("numba", "cpu", torch.float32) == ("eager", "the operation has no loops for Numba")
    for requested in ("eager", "reference"):
        assert choose(requested, "cpu", torch.float32, True) == (requested, "asked for")


@pytest.mark.usefixtures("no_numba")
def test_numba_is_optional() -> None:
    assert choose("auto", "cpu", torch.float32, True).backend == "eager"
    with pytest.raises(ValueError, match=r"got 'numba', but numba cannot .*expected .*dark-kernels\[cpu\]"):
        choose("numba", "cpu", torch.float32, True)


@pytest.mark.usefixtures("numba", "triton")
def test_numba_is_refused_elsewhere_than_on_a_cpu() -> None:
    with pytest.raises(ValueError, match=r"got 'numba' with a tensor on 'cuda', expected a tensor on 'cpu'"):
        choose("numba", "cuda", torch.float32, True)


def test_numba_is_not_imported_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def imports_numba() -> None:
        raise AssertionError("Numba was imported for what it does not serve")

    monkeypatch.setattr(backends, "numba_problem", imports_numba)
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert choose("auto", "cpu", dtype, True).backend == "eager"


@pytest.mark.parametrize("error", [ImportError("not there"), OSError("libcuda.so.1"), RuntimeError("two drivers")])
def test_a_broken_triton_is_a_reason_and_no_crash(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", raises)
    for name in ("triton", "numba"):
        problem = getattr(backends, f"{name}_problem").__wrapped__()
        assert problem == f"{name} cannot be imported ({type(error).__name__}: {error})"


def test_check_backend() -> None:
    for backend in backends.BACKENDS:
        backends.check_backend(backend)
    for wrong in ("cuda", "", "Eager", None):
        with pytest.raises(ValueError, match=r"backend: got .*, expected one of 'auto', 'triton', 'numba', 'eager'"):
            backends.check_backend(wrong)  # type: ignore[arg-type]


def test_a_plain_call() -> None:
    assert is_plain()
    assert is_plain(torch.rand(2), torch.nn.Parameter(torch.rand(2)), torch.rand(2, requires_grad=True))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_plain(torch.rand(2))
    with torch.inference_mode():
        assert is_plain(torch.rand(2))


def negated(*size: int) -> torch.Tensor:
    """A view whose numbers are minus what lies in memory."""
    return torch.complex(torch.zeros(size), -torch.rand(size)).conj().imag


def test_what_a_kernel_would_read_otherwise_is_not_plain() -> None:
    maps = negated(1, 2, 9, 8)
    assert maps.is_neg()
    assert (maps >= 0).all()
    assert not is_plain(torch.rand(2), maps)


@pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
def test_a_view_that_negates_is_read_as_what_it_is(service: tuple[str, torch.device]) -> None:
    backend, device = service
    maps, axis = negated(1, 2, 19, 18).to(device), negated(1, 2, 64).to(device)
    if device.type == "cpu":
        assert maps.is_neg()
    for function, inputs in (
        (dark_kernels.decode, (maps,)),
        (dark_kernels.decode_simcc, (axis, axis)),
        (dark_kernels.soft_argmax, (maps,)),
    ):
        actual = function(*inputs, backend=backend)
        expected = function(*(each.resolve_neg() for each in inputs), backend=backend)
        for one, other in zip(as_tensors(actual), as_tensors(expected), strict=True):
            assert torch.equal(one, other)


def as_tensors(output: torch.Tensor | tuple[torch.Tensor | None, ...]) -> list[torch.Tensor]:
    parts = (output,) if isinstance(output, torch.Tensor) else output
    return [part for part in parts if part is not None]


def test_what_is_traced_transformed_or_watched_is_not_plain() -> None:
    class Wrapped(torch.Tensor):
        pass

    seen: list[bool] = []

    def look(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(is_plain(tensor))
        return tensor * 1

    assert not is_plain(torch.rand(2, device="meta"))
    assert not is_plain(torch.rand(2).as_subclass(Wrapped))
    with FakeTensorMode() as mode:
        assert not is_plain(mode.from_tensor(torch.rand(2)))
        assert not is_plain()
    torch.vmap(look)(torch.rand(3, 2))
    torch.func.grad(lambda tensor: look(tensor).sum())(torch.rand(2))
    make_fx(look)(torch.rand(2))
    torch.jit.trace(look, torch.rand(2), check_trace=False)
    with FlopCounterMode(display=False):
        look(torch.rand(2))
    assert len(seen) >= 5
    assert not any(seen)
    compiled = torch.compile(lambda tensor: tensor + is_plain(tensor), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == [0, 0]


def test_what_a_graph_captures_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.zeros(3)
    monkeypatch.setattr(backends, "_captured", [])
    assert backends.held_by_graphs(tensor) is tensor
    assert not backends._captured
    monkeypatch.setattr(backends, "is_capturing", lambda device: True)
    assert backends.held_by_graphs(tensor) is tensor
    assert backends._captured[0] is tensor


def test_a_cpu_captures_nothing() -> None:
    assert not backends.is_capturing(torch.device("cpu"))
