"""Launching a known kernel again: the same arguments in the same places, other tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

import dark_kernels
from dark_kernels import recipes, testing

triton = pytest.importorskip("triton", reason="Triton is not installed")
launch = pytest.importorskip("dark_kernels._triton.launch")


class Compiled:
    """Records what it is launched with, as a kernel that is compiled already."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments: self.calls.append((grid, arguments))


class Kernel:
    """A kernel to be looked up, which finds `compiled`."""

    arg_names = ("out_ptr", "size", "maps_ptr", "maps_stride", "WIDE", "BLOCK")

    def __init__(self) -> None:
        self.compiled = Compiled()
        self.lookups = 0

    def __getitem__(self, grid: Any) -> Any:
        def look_up(*arguments: Any, **constants: Any) -> Compiled:
            self.lookups += 1
            return self.compiled

        return look_up


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    before = dict(launch._kept)
    launch._kept.clear()
    yield
    launch._kept.clear()
    launch._kept.update(before)


def test_a_kept_launch_takes_new_tensors_in_the_old_places() -> None:
    kernel, first, second = Kernel(), (torch.zeros(2), torch.ones(3)), (torch.zeros(4), torch.ones(5))
    constants = {"BLOCK": 64, "num_warps": 4, "WIDE": False}
    launch.launch(kernel, (7, 1, 1), (first[0], 11, first[1], 13), constants, key="key")
    assert kernel.lookups == 1
    assert launch.launch_again("key", second)
    assert kernel.lookups == 1
    [(grid, arguments)] = kernel.compiled.calls
    assert grid == (7, 1, 1)
    assert arguments[0] is second[0]
    assert arguments[2] is second[1]
    # Constants by the order of the signature, and no launch options among them.
    assert (arguments[1], *arguments[3:]) == (11, 13, False, 64)


class Pair(NamedTuple):
    ptr: Any
    size: Any
    other_ptr: Any


def test_a_kept_launch_takes_new_tensors_in_structs() -> None:
    """Also where one is absent, and no more and no fewer than before."""
    kernel = Kernel()
    first, second = [torch.full((2,), float(i)) for i in range(3)], [torch.full((2,), float(i)) for i in range(3, 6)]
    arguments = (first[0], Pair(first[1], 7, None), Pair(None, 8, first[2]), 13)
    launch.launch(kernel, (1, 1, 1), arguments, {"WIDE": False, "BLOCK": 64}, key="key")
    assert launch.launch_again("key", tuple(second))
    ((_, given),) = kernel.compiled.calls
    assert given[0] is second[0]
    assert given[1] == (second[1], 7, None)
    assert given[2] == (None, 8, second[2])
    assert given[3:] == (13, False, 64)
    with pytest.raises(ValueError, match="got 4 tensors"):
        launch.launch_again("key", (*second, second[0]))


def test_structs_of_structs_are_refused() -> None:
    nested = Pair(Pair(torch.zeros(1), 1, None), 2, None)
    with pytest.raises(TypeError, match="struct of structs, Pair"):
        launch.launch(Kernel(), (1, 1, 1), (nested,), {"size": 1}, key="key")


def test_only_what_has_a_key_is_kept() -> None:
    kernel, tensors = Kernel(), (torch.zeros(2), torch.ones(3))
    launch.launch(kernel, (1, 1, 1), (tensors[0], 1, tensors[1], 1), {"BLOCK": 1, "WIDE": True})
    assert not launch.launch_again("key", tensors)
    assert not launch.launch_again(None, tensors)


def test_tensors_are_not_kept_alive() -> None:
    out = torch.zeros(2)
    launch.launch(Kernel(), (1, 1, 1), (out, 1, out, 1), {"BLOCK": 1, "WIDE": True}, key="key")
    alive = weakref.ref(out)
    del out
    gc.collect()
    assert alive() is None


def test_it_does_not_keep_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_MOST_KEPT", 3)
    tensor = torch.zeros(1)
    for i in range(10):
        launch.launch(Kernel(), (1, 1, 1), (tensor, 1, tensor, 1), {"BLOCK": 1, "WIDE": True}, key=i)
        assert len(launch._kept) <= 3
        assert launch.launch_again(i, (tensor, tensor))


def test_what_a_hook_has_stopped_is_not_kept() -> None:
    kernel, tensor = Kernel(), torch.zeros(1)
    kernel.compiled = None  # type: ignore[assignment]
    launch.launch(kernel, (1, 1, 1), (tensor, 1, tensor, 1), {"BLOCK": 1, "WIDE": True}, key="key")
    assert not launch.launch_again("key", (tensor, tensor))


def test_stand_ins_for_a_kernel_have_no_key() -> None:
    assert launch.launch_key(Kernel(), (torch.zeros(4),), "anything") is None


class Size(NamedTuple):
    BLOCK: int


class Flag(NamedTuple):
    WIDE: bool


def test_constants_of_equal_numbers_are_of_their_own_kind() -> None:
    assert type(launch._constant_struct(Size(1))) is Size
    assert type(launch._constant_struct(Flag(True))) is Flag
    assert launch._constant_struct(Size(1)) is launch._constant_struct(Size(1))


@pytest.mark.gpu
def test_a_second_call_launches_what_the_first_has_compiled(gpu: torch.device) -> None:
    maps = testing.heatmaps_of_kinds(["noisy_blob", "noise"], 3, 4, 33, 20, seed=1).to(gpu)
    others = testing.heatmaps_of_kinds(["weak_blob", "plateau"], 3, 4, 33, 20, seed=2).to(gpu)
    for layout in ("contiguous", "channels_last"):
        first = dark_kernels.decode(testing.with_layout(maps, layout), recipes.DARKPOSE, covariance=True)
        kept = len(launch._kept)
        assert kept > 0
        second = dark_kernels.decode(testing.with_layout(others, layout), recipes.DARKPOSE, covariance=True)
        again = dark_kernels.decode(testing.with_layout(maps, layout), recipes.DARKPOSE, covariance=True)
        assert len(launch._kept) == kept
        testing.assert_same_keypoints(again, first)
        testing.assert_decodes_like_reference(second, others, recipes.DARKPOSE, testing.TRITON)


@pytest.mark.gpu
def test_maps_that_are_not_aligned_are_looked_up(gpu: torch.device) -> None:
    maps = testing.heatmaps_of_kinds(["noisy_blob"], 2, 3, 16, 16, seed=1).to(gpu)
    dark_kernels.decode(maps)
    kept = len(launch._kept)
    shifted = torch.empty(maps.numel() + 1, device=gpu)[1:].view(maps.shape).copy_(maps)
    testing.assert_decodes_like_reference(dark_kernels.decode(shifted), maps, recipes.DARKPOSE, testing.TRITON)
    assert len(launch._kept) == kept
