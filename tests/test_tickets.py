"""The last program of a launch: it sees what all others left, and each launch finds its counter at zero."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

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


# --- which counter a launch gets, without a device --------------------------------------------------------


class Device:
    """What `counter` asks a device's module for."""

    def __init__(self) -> None:
        self.stream, self.capturing = 7, False

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_stream(self, device: torch.device) -> Any:
        return SimpleNamespace(stream_id=self.stream)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Device:
    module = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(tickets, "_counters", type(tickets._counters)(tickets._Counters))
    monkeypatch.setattr(tickets, "_zeros", lambda size, device: torch.zeros(size, dtype=torch.int32))
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


def test_a_captured_launch_has_its_own_counter(module: Device) -> None:
    device = torch.device("cuda", 0)
    own = tickets.counter(device)
    module.capturing = True
    captured = [tickets.counter(device) for _ in range(tickets._SPARE + 2)]  # two more than are spare
    assert len({counter.data_ptr() for counter in (own, *captured)}) == len(captured) + 1
    base = min(counter.data_ptr() for counter in captured[: tickets._SPARE])
    assert all((counter.data_ptr() - base) % 16 == 0 for counter in captured[: tickets._SPARE])
    module.capturing = False
    assert tickets.counter(device) is own
    module.capturing = True
    fresh = tickets.counter(device)
    assert fresh.data_ptr() not in {counter.data_ptr() for counter in captured}


def test_a_device_that_captures_nothing(module: Device) -> None:
    """XPU's module, for one, cannot be asked whether it does."""
    module.is_current_stream_capturing = None  # type: ignore[assignment, method-assign]
    assert tickets.counter(torch.device("xpu", 0)).item() == 0
