"""The last program of a launch: it sees what all others left, and each launch finds its counter at zero."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import dark_kernels

from .conftest import require_service

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")
tickets = pytest.importorskip("dark_kernels._triton.tickets")
finishes_last = tickets.finishes_last


@triton.jit
def _sum_of_squares_kernel(total_ptr, parts_ptr, counter_ptr, BLOCK_SIZE: tl.constexpr):
    program = tl.program_id(0)
    tl.store(parts_ptr + program, program * program)
    if finishes_last(counter_ptr):
        total = 0
        for start in range(0, tl.num_programs(0), BLOCK_SIZE):
            index = start + tl.arange(0, BLOCK_SIZE)
            part = tl.load(parts_ptr + index, mask=index < tl.num_programs(0), other=0, cache_modifier=".cg")
            total += tl.sum(part, axis=0)
        tl.store(total_ptr, total)


def sum_of_squares(num_programs: int, device: torch.device) -> Tensor:
    parts = torch.full((num_programs,), -(10**6), dtype=torch.int32, device=device)
    total = torch.full((), -1, dtype=torch.int32, device=device)
    _sum_of_squares_kernel[(num_programs,)](total, parts, tickets.counter(device), BLOCK_SIZE=64)
    return total


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    device = require_service("triton", request.param)
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device


@pytest.mark.parametrize("num_programs", [1, 2, 65, 200])
def test_the_last_program_sees_all_parts(num_programs: int, triton_device: torch.device) -> None:
    for _ in range(2):
        assert sum_of_squares(num_programs, triton_device).item() == sum(n * n for n in range(num_programs))


@pytest.mark.gpu
def test_again_and_again_and_on_other_streams(gpu: torch.device) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    streams = [torch.cuda.Stream() for _ in range(4)]
    totals = []
    for turn in range(400):
        with torch.cuda.stream(streams[turn % 4]):
            totals.append(sum_of_squares(1000, device))
    torch.cuda.synchronize()
    assert {int(total) for total in totals} == {sum(n * n for n in range(1000))}
    assert all(int(counter) == 0 for counter in tickets._counters[device].of_streams.values())


@pytest.mark.gpu
def test_in_a_graph_beside_other_launches(gpu: torch.device) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    sum_of_squares(1000, device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        of_graph = [sum_of_squares(1000, device) for _ in range(3)]
    other = torch.cuda.Stream()
    for _ in range(100):
        for total in of_graph:
            total.fill_(-1)
        graph.replay()
        with torch.cuda.stream(other):
            beside = sum_of_squares(1000, device)
        torch.cuda.synchronize()
        assert {int(total) for total in (*of_graph, beside)} == {sum(n * n for n in range(1000))}


@pytest.mark.gpu
def test_in_a_graph_that_torch_compile_makes(gpu: torch.device) -> None:
    """Its warm-up allocates in the graph's memory, where nothing may be left."""
    tickets._counters.clear()
    maps, log_var = torch.rand(2, 3, 2, 8, 8, device=gpu), torch.rand(2, 3, 1, 8, 8, device=gpu)
    target = torch.rand(2, 3, 2, device=gpu) * 32

    def loss(maps: Tensor) -> Tensor:
        return dark_kernels.gaussian_nll(maps, log_var, target) * 2

    compiled = torch.compile(loss, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(compiled(maps).clone(), loss(maps))


# --- which counter a launch gets, without a device --------------------------------------------------------


class Stream:
    def __init__(self, stream_id: int) -> None:
        self.stream_id, self.waited_for = stream_id, []

    def wait_event(self, event: object) -> None:
        self.waited_for.append(event)


class Device:
    """Stand in for what `counter` asks a device's module for."""

    def __init__(self) -> None:
        self.streams = {number: Stream(number) for number in (7, 8)}
        self.stream, self.capturing = 7, False
        self.made_in: list[int] = []

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_stream(self, device: torch.device) -> Stream:
        return self.streams[self.stream]

    def device(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        self.made_in.append(threading.get_ident())
        return contextlib.nullcontext()

    class Event:
        def record(self, stream: Stream) -> None:
            self.stream = stream


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Device:
    module, zeros = Device(), torch.zeros
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(torch, "zeros", lambda size, dtype, device=None: zeros(size, dtype=dtype))
    monkeypatch.setattr(tickets, "_counters", type(tickets._counters)(tickets._Counters))
    monkeypatch.setattr(tickets, "_BLOCK", 8)
    return module


def test_a_stream_keeps_its_counter(module: Device) -> None:
    first = tickets.counter(torch.device("cuda", 0))
    assert (first.shape, first.dtype, first.item()) == ((1,), torch.int32, 0)
    assert tickets.counter(torch.device("cuda", 0)) is first
    module.stream = 8
    assert tickets.counter(torch.device("cuda", 0)).data_ptr() != first.data_ptr()
    module.stream = 7
    assert tickets.counter(torch.device("cuda", 1)).data_ptr() != first.data_ptr()
    assert tickets.counter(torch.device("cuda", 0)) is first


def test_counters_are_made_elsewhere_and_waited_for(module: Device) -> None:
    device = torch.device("cuda", 0)
    for stream in (7, 8, 7, 8):
        module.stream = stream
        tickets.counter(device)
    assert len(module.made_in) == 1
    assert module.made_in[0] != threading.get_ident()
    made = tickets._counters[device].made
    assert [stream.waited_for for stream in module.streams.values()] == [[made], [made]]


def test_a_captured_launch_has_its_own_counter(module: Device) -> None:
    device = torch.device("cuda", 0)
    own = tickets.counter(device)
    module.capturing = True
    captured = [tickets.counter(device) for _ in range(tickets._BLOCK + 1)]  # two more than there are
    assert len({counter.data_ptr() for counter in (own, *captured)}) == len(captured) + 1
    assert all((counter.data_ptr() - own.data_ptr()) % 16 == 0 for counter in captured[:-2])
    assert len(module.made_in) == 1
    module.capturing = False
    assert tickets.counter(device) is own
    assert len(module.made_in) == 2
    module.capturing = True
    assert tickets.counter(device).data_ptr() not in {counter.data_ptr() for counter in captured}


def test_what_graphs_count_in_stays(module: Device) -> None:
    """Nobody else holds it while they are replayed."""
    device, held = torch.device("cuda", 0), []
    for _ in range(4):
        module.capturing = False
        tickets.counter(device)
        module.capturing = True
        held += [StorageWeakRef(tickets.counter(device).untyped_storage()) for _ in range(tickets._BLOCK // 2)]
    assert len(module.made_in) > 1
    assert not any(storage.expired() for storage in held)


def test_a_launch_that_is_the_first_is_captured(module: Device) -> None:
    module.capturing = True
    assert tickets.counter(torch.device("cuda", 0)).item() == 0
    assert not module.made_in


def test_a_device_that_captures_nothing(module: Device) -> None:
    """XPU's module, for one, cannot be asked whether it does."""
    module.is_current_stream_capturing = None  # type: ignore[assignment, method-assign]
    assert tickets.counter(torch.device("xpu", 0)).item() == 0
