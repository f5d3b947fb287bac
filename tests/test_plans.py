"""Repeating a call whose properties are known: what it may depend on, and what goes the whole way."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dark_kernels import recipes
from dark_kernels._common import plans


class Struct(NamedTuple):
    ptr: Any
    stride: Any


class Kernel:
    """Notes what it is launched with."""

    def __init__(self, takes_addresses: bool = True) -> None:
        self.takes_addresses = takes_addresses
        self.current = True
        self.launched: list[tuple[tuple[int, int, int], list[Any]]] = []

    def is_current(self) -> bool:
        return self.current

    def launch(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        self.launched.append((grid, list(arguments)))


class Result(NamedTuple):
    coords: Tensor
    scores: Tensor
    covariances: Tensor | None


class Room:
    """A function with a plan, and how often it was called."""

    def __init__(self, kernel: Kernel | None) -> None:
        self.kernel, self.calls = kernel, 0
        self.call = plans.planned(self._call)

    def _call(self, heatmaps: Tensor, recipe: Any = recipes.DARKPOSE, other: Any = None, **options: Any) -> Result:
        self.calls += 1
        coords, scores = heatmaps.new_empty((2, 2)), heatmaps.new_empty(2)
        partial = plans.scratch(heatmaps.new_empty((4, 4), dtype=torch.float64))
        indices = plans.held(HELD)
        tensors = coords, 7, Struct(heatmaps.detach(), 5), Struct(heatmaps[:, 4:], 6), partial, indices, other
        plans.record(self.kernel, (3, 1, 1), tensors)
        return Result(coords, scores, None)


HELD = torch.zeros(4, dtype=torch.int64)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_PLANS_ON_CPU", True)


def maps(*shape: int) -> Tensor:
    return torch.zeros(*(shape or (2, 16)))


def test_a_known_call_launches_with_its_own_tensors() -> None:
    kernel = Kernel()
    room = Room(kernel)
    room.call(maps())
    given = maps()
    result = room.call(given)
    assert room.calls == 1
    assert type(result) is Result
    assert result.covariances is None
    assert result.coords.shape == (2, 2)
    assert result.scores.shape == (2,)
    ((grid, arguments),) = kernel.launched
    assert grid == (3, 1, 1)
    coords, number, whole, part, partial, held, other = arguments
    assert (coords, number, held, other) == (result.coords.data_ptr(), 7, HELD.data_ptr(), None)
    assert whole == (given.data_ptr(), 5)
    assert part == (given.data_ptr() + 16, 6)
    assert partial % 16 == 0
    assert room.call(given).coords.data_ptr() != result.coords.data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        {"heatmaps": maps().double()},
        {"heatmaps": maps(3, 16)},
        {"heatmaps": maps(16, 2).t()},
        {"recipe": recipes.FIT},
        {"recipe": 1},
        {"recipe": True},
        {"recipe": 1.0},
        {"flag": [1, 2]},
        {"flag": [True, 2]},
        {"flag": [1, 2, 3]},
        {"other": maps()},
    ],
    ids=str,
)
def test_other_properties_are_another_call(change: dict[str, Any]) -> None:
    room = Room(Kernel())
    for known in ({"heatmaps": maps()}, {"heatmaps": maps(), "recipe": 2}, {"heatmaps": maps(), "flag": (1, 2)}):
        room.call(**known)
    calls = room.calls
    room.call(**{"heatmaps": maps(), **change})
    assert room.calls == calls + 1
    room.call(**{"heatmaps": maps(), **change})
    assert room.calls == calls + 1


def test_recipes_of_equal_numbers_are_one() -> None:
    room = Room(Kernel())
    room.call(maps(), recipes.DARKPOSE)
    room.call(maps(), dataclasses.replace(recipes.DARKPOSE, name="mine"))
    assert room.calls == 1


@pytest.mark.parametrize(
    "heatmaps",
    [
        maps().requires_grad_(),
        torch.nn.Parameter(maps()),
        torch._neg_view(maps()),
        maps().to_sparse(),
        maps().numpy(),
        [[0.0]],
        None,
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_no_plain_tensor_goes_the_whole_way(heatmaps: Any) -> None:
    calls = []
    call = plans.planned(lambda heatmaps: calls.append(heatmaps))
    for _ in range(3):
        call(heatmaps)
    assert len(calls) == 3


def test_what_is_traced_or_transformed_goes_the_whole_way() -> None:
    room = Room(Kernel())
    room.call(maps())
    with FlopCounterMode(display=False):
        room.call(maps())
    assert room.calls == 2
    torch.func.vmap(lambda each: room.call(each).coords)(maps(1, 2, 16))
    assert room.calls == 3


def test_addresses_and_devices_are_looked_at() -> None:
    kernel = Kernel()
    room = Room(kernel)
    shifted = torch.zeros(33)[1:].view(2, 16)
    room.call(shifted)  # and no plan is made of it
    room.call(maps())
    room.call(maps())
    assert room.calls == 2
    room.call(shifted)
    kernel.current = False
    room.call(maps())
    assert room.calls == 4


def test_one_tensor_given_twice_is_a_call_of_its_own() -> None:
    kernel = Kernel()
    room = Room(kernel)
    first, second = maps(), maps()
    for _ in range(2):
        room.call(first, other=first)
        room.call(first, other=second)
    assert room.calls == 2
    assert [arguments[-1] for _, arguments in kernel.launched] == [first.data_ptr(), second.data_ptr()]


def test_two_tensors_of_one_memory_make_no_plan() -> None:
    """Which would take one for the other."""
    kernel = Kernel()
    room = Room(kernel)
    same = maps()
    room.call(same, other=same.detach())
    first, second = maps(), maps()
    room.call(first, other=second)
    assert room.calls == 2
    room.call(first, other=second)
    assert room.calls == 2
    assert kernel.launched[-1][1][-1] == second.data_ptr()


def test_parts_of_one_tensor_are_told_apart() -> None:
    """The maps and mirrored maps of a batch, if the room takes them as they are."""
    kernel, calls = Kernel(), []

    @plans.planned
    def call(heatmaps: Tensor, flipped: Tensor) -> Tensor:
        calls.append(flipped)
        scores = heatmaps.new_empty(2)
        plans.record(kernel, (1, 1, 1), (scores, heatmaps, flipped))
        return scores

    for batch in (maps(4, 16), maps(4, 16)):
        scores = call(batch[:2], batch[2:])
    assert len(calls) == 1
    assert kernel.launched[0][1] == [scores.data_ptr(), batch.data_ptr(), batch[2:].data_ptr()]


@pytest.mark.parametrize(
    "why", ["nothing is launched", "nothing is kept", "a tensor of its own", "an output that is a part"]
)
def test_calls_without_a_plan(why: str) -> None:
    calls = []

    @plans.planned
    def call(heatmaps: Tensor) -> Tensor:
        calls.append(heatmaps)
        scores = heatmaps.new_empty(8)
        if why == "an output that is a part":
            scores = scores[:4]
        own = (maps(),) if why == "a tensor of its own" else ()
        if why != "nothing is launched":
            plans.record(None if why == "nothing is kept" else Kernel(), (1, 1, 1), (scores, heatmaps, *own))
        return scores

    for _ in range(3):
        call(maps())
    assert len(calls) == 3


def test_an_error_ends_the_noting() -> None:
    @plans.planned
    def call(heatmaps: Tensor) -> None:
        raise ValueError("expected something else")

    with pytest.raises(ValueError, match="something else"):
        call(maps())
    assert not plans.is_recording()


def test_a_call_within_a_call_is_noted_with_it() -> None:
    kernel = Kernel()
    inner = plans.planned(lambda heatmaps: _scores(kernel, heatmaps))
    outer = plans.planned(lambda heatmaps: inner(heatmaps))
    inner(maps())
    inner(maps())
    assert len(kernel.launched) == 1
    outer(maps())
    outer(maps())
    assert len(kernel.launched) == 2


def _scores(kernel: Kernel, heatmaps: Tensor) -> Tensor:
    scores = heatmaps.new_empty(2)
    plans.record(kernel, (1, 1, 1), (scores, heatmaps))
    return scores


def test_threads_do_not_note_each_others_launches() -> None:
    seen = []

    @plans.planned
    def call(heatmaps: Tensor) -> None:
        thread = threading.Thread(target=lambda: seen.append(plans.is_recording()))
        thread.start()
        thread.join()
        seen.append(plans.is_recording())

    call(maps())
    assert seen == [False, True]


def test_it_does_not_keep_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST_KEPT", 3)
    room = Room(Kernel())
    for width in range(8, 80, 8):
        room.call(maps(2, width))
        room.call(maps(2, width))
    assert room.calls == 9
    room.call(maps(2, 8))
    assert room.calls == 10
