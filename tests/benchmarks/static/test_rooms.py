"""The rooms: every module with kernels has one, and every call of one a name of its own."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("triton", reason="rooms name kernels")

from benchmarks.static.calls import Room
from benchmarks.static.rooms import ROOMS, unregistered_modules


def test_every_module_with_kernels_has_a_room() -> None:
    assert not unregistered_modules()
    assert "dark_kernels.decode.kernels" in unregistered_modules(())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_calls_have_names_of_their_own(room: Room) -> None:
    labels = [call.label for call in room.calls(False)]
    assert labels
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_full_list_has_all_of_the_short_one(room: Room) -> None:
    assert {call.label for call in room.calls(False)} <= {call.label for call in room.calls(True)}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_judged_functions_exist(room: Room) -> None:
    module, shared = (importlib.import_module(name) for name in (room.module, "dark_kernels._triton.maps"))
    for kernel, functions in (*room.loads.items(), *room.stores.items()):
        assert hasattr(module, kernel)
        assert all(hasattr(module, name) or hasattr(shared, name) for name in functions), kernel
