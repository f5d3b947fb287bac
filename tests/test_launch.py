"""Launching a known kernel again: the same arguments in the same places, other tensors."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

import dark_kernels
from dark_kernels import recipes, testing

triton = pytest.importorskip("triton", reason="Triton is not installed")
launch = pytest.importorskip("dark_kernels._triton.launch")


class Compiled:
    """Records what it is launched with, as a kernel that is compiled already."""

    function, packed_metadata = "function", "metadata"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def run(self, x: int, y: int, z: int, stream: int, function: str, metadata: str, *arguments: Any) -> None:
        assert (stream, function, metadata) == (70 + CURRENT, self.function, self.packed_metadata)
        assert arguments[:3] == (None, None, None)  # nobody is to be told
        self.calls.append(((x, y, z), arguments[3:]))

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments: self.calls.append(("told", arguments))


class Kernel:
    """A kernel to be looked up, which finds `compiled`."""

    arg_names = ("out_ptr", "size", "maps_ptr", "maps_stride", "WIDE", "BLOCK")
    params = tuple(SimpleNamespace(do_not_specialize=name == "maps_stride") for name in arg_names)

    def __init__(self) -> None:
        self.compiled: Compiled | None = Compiled()
        self.lookups = 0
        self.fn = object()

    def __getitem__(self, grid: Any) -> Any:
        def look_up(*arguments: Any, **constants: Any) -> Compiled | None:
            self.lookups += 1
            return self.compiled

        return look_up


CURRENT = 3  # device


class Driver:
    def __init__(self, backend: str) -> None:
        self.backend = backend

    def get_current_device(self) -> int:
        return CURRENT

    def get_current_stream(self, device: int) -> int:
        return 70 + device

    def get_current_target(self) -> SimpleNamespace:
        return SimpleNamespace(backend=self.backend)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_kept", {})
    monkeypatch.setattr(launch, "_compiled", {})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes kernels that are none be kept, on a device that is none."""
    monkeypatch.setattr(launch, "_keeps", lambda kernel: True)
    monkeypatch.setattr(launch, "_driver", lambda: Driver("cuda"))


stands_in = pytest.mark.usefixtures("stand_in")
CONSTANTS = {"BLOCK": 64, "num_warps": 4, "WIDE": False}


@stands_in
def test_a_kept_launch_takes_new_tensors_in_the_old_places() -> None:
    kernel, first, second = Kernel(), (torch.zeros(2), torch.ones(3)), (torch.zeros(4), torch.ones(5))
    launch.launch(kernel, (7, 1, 1), (first[0], 11, first[1], 13), CONSTANTS, key="key")
    assert kernel.lookups == 1
    assert launch.launch_again("key", second)
    assert kernel.lookups == 1
    assert kernel.compiled is not None
    # Constants by the order of the signature, and no launch options among them.
    arguments = (second[0].data_ptr(), 11, second[1].data_ptr(), 13, False, 64)
    assert kernel.compiled.calls == [((7, 1, 1), arguments)]


@stands_in
def test_a_kernel_is_looked_up_once_for_all_that_it_is_compiled_for() -> None:
    kernel, size = Kernel(), 2
    # Of memory whose addresses are known to divide by 16, or not to.
    memory = torch.zeros(64, dtype=torch.uint8)
    out = memory[-memory.data_ptr() % 16 :][:16].view(torch.float32)
    arguments = (out, size, Pair(out, 2.5, None), 13)
    launch.launch(kernel, (7, 1, 1), arguments, CONSTANTS)
    for same in (arguments, (torch.zeros(4), size, Pair(out, 0.5, None), 2**31 - 1)):
        launch.launch(kernel, (8, 1, 1), same, CONSTANTS)
    assert kernel.lookups == 1
    assert kernel.compiled is not None
    assert kernel.compiled.calls[0] == ((8, 1, 1), (out.data_ptr(), size, (out.data_ptr(), 2.5, None), 13, False, 64))
    others = [
        (out.double(), *arguments[1:]),
        (out[1:], *arguments[1:]),
        (out, 3, *arguments[2:]),
        (out, size, Pair(out[1:], 2.5, None), 13),
        (out, size, Pair(out, 2, None), 13),
        (out, size, Pair(None, 2.5, None), 13),
        (out, size, Pair(out, 2.5, out), 13),
        (*arguments[:3], 2**31),
    ]
    for known, other in enumerate(others, start=1):
        launch.launch(kernel, (7, 1, 1), other, CONSTANTS)
        assert kernel.lookups == known + 1, other
    for known, changed in enumerate(({"BLOCK": 32}, {"WIDE": True}, {"num_warps": 8}), start=len(others) + 1):
        launch.launch(kernel, (7, 1, 1), arguments, {**CONSTANTS, **changed})
        assert kernel.lookups == known + 1, changed


@stands_in
def test_launches_that_a_profiler_asks_for_are_tritons() -> None:
    kernel, out = Kernel(), torch.zeros(2)
    launch.launch(kernel, (7, 1, 1), (out, 1, out, 1), CONSTANTS, key="key")
    hooks = triton.knobs.runtime
    before = hooks.launch_enter_hook
    hooks.launch_enter_hook = lambda metadata: None
    try:
        launch.launch(kernel, (7, 1, 1), (out, 1, out, 1), CONSTANTS)
        launch.launch_again("key", (out, out))
    finally:
        hooks.launch_enter_hook = before
    assert kernel.compiled is not None
    assert [grid for grid, _ in kernel.compiled.calls] == ["told", "told"]


@stands_in
def test_other_vendors_drivers_are_given_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_driver", lambda: Driver("xpu"))
    kernel, out = Kernel(), torch.zeros(2)
    for _ in range(2):
        launch.launch(kernel, (7, 1, 1), (out, 1, Pair(out, 1, None), 1), CONSTANTS, key="key")
    launch.launch_again("key", (out, out))
    assert kernel.compiled is not None
    for _, arguments in kernel.compiled.calls:
        assert arguments[0] is arguments[2][0] is out


class Pair(NamedTuple):
    ptr: Any
    size: Any
    other_ptr: Any


@stands_in
def test_a_kept_launch_takes_new_tensors_in_structs() -> None:
    """Also where one is absent, and no more and no fewer than before."""
    kernel = Kernel()
    first, second = [torch.full((2,), float(i)) for i in range(3)], [torch.full((2,), float(i)) for i in range(3, 6)]
    arguments = (first[0], Pair(first[1], 7, None), Pair(None, 8, first[2]), 13)
    launch.launch(kernel, (1, 1, 1), arguments, {"WIDE": False, "BLOCK": 64}, key="key")
    assert launch.launch_again("key", tuple(second))
    assert kernel.compiled is not None
    ((_, given),) = kernel.compiled.calls
    addresses = [tensor.data_ptr() for tensor in second]
    assert given == (addresses[0], (addresses[1], 7, None), (None, 8, addresses[2]), 13, False, 64)
    with pytest.raises(ValueError, match="got 4 tensors"):
        launch.launch_again("key", (*second, second[0]))


@stands_in
def test_structs_of_structs_are_refused() -> None:
    nested = Pair(Pair(torch.zeros(1), 1, None), 2, None)
    with pytest.raises(TypeError, match="struct of structs, Pair"):
        launch.launch(Kernel(), (1, 1, 1), (nested, 1, torch.zeros(1), 1), CONSTANTS, key="key")


@stands_in
def test_only_what_has_a_key_is_kept() -> None:
    kernel, tensors = Kernel(), (torch.zeros(2), torch.ones(3))
    launch.launch(kernel, (1, 1, 1), (tensors[0], 1, tensors[1], 1), {"BLOCK": 1, "WIDE": True})
    assert not launch.launch_again("key", tensors)
    assert not launch.launch_again(None, tensors)


@stands_in
def test_tensors_are_not_kept_alive() -> None:
    out = torch.zeros(2)
    launch.launch(Kernel(), (1, 1, 1), (out, 1, out, 1), {"BLOCK": 1, "WIDE": True}, key="key")
    alive = weakref.ref(out)
    del out
    gc.collect()
    assert alive() is None


@stands_in
def test_it_does_not_keep_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_MOST_KEPT", 3)
    tensor = torch.zeros(1)
    for i in range(10):
        launch.launch(Kernel(), (1, 1, 1), (tensor, 1, tensor, 1), {"BLOCK": 1, "WIDE": True}, key=i)
        assert len(launch._kept) <= 3
        assert launch.launch_again(i, (tensor, tensor))


@stands_in
def test_what_a_hook_has_stopped_is_not_kept() -> None:
    kernel, tensor = Kernel(), torch.zeros(1)
    kernel.compiled = None
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
