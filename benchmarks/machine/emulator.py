"""Runs compiled launches: sm_90 machine code on the memory of CPU tensors."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.machine import toolchain
from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.launches import Launch, launches_go_to
from benchmarks.machine.program import Native, program

Array = NDArray[Any]
# Where the driver leaves things for a kernel of sm_90, in its bank of constants.
_BANK_BYTES = 0x1000
_BLOCK_SIZE, _GRID_SIZE, _STACK, _ARGUMENTS = 0x0, 0xC, 0x28, 0x210
_LOCAL_BYTES = 1024  # of a lane, as in native/machine.h: a stack that grows downwards
_FORMATS = {
    "i1": "B", "u8": "B", "i8": "b", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp32": "f", "fp64": "d",
}  # fmt: skip
_SHARED_BESIDE = 1024  # that the driver takes of each program, and addresses begin behind
_SECTOR = 32
# Larger storages (which tests of offsets make, and never touch whole) are not copied: their stores are visible at once.
_LARGEST_LATE = 2**26


@dataclasses.dataclass(frozen=True)
class Freedom:
    """Freedoms that a GPU has.

    Attributes:
        seed: Of the order in which programs run; None for their own.
        late: Whether stores become visible as late, and plain loads see what is as old, as PTX's memory model allows.
        approximate: Whether special functions (exp2, log2, reciprocals, roots) are as far off as PTX' manual allows.
    """

    seed: int | None = None
    late: bool = False
    approximate: bool = False


STRICT = Freedom()


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Cycles until a load is served by memory and by the two caches, an atomic is, and a fence is passed."""

    memory: int = 650
    second_cache: int = 260
    first_cache: int = 36
    atomic: int = 700
    fence: int = 400


PUBLISHED = Latencies()


@dataclasses.dataclass(frozen=True)
class Counts:
    """The doings of a launch, as far as it was run.

    Attributes:
        instructions: The code.
        issued: Of each instruction, how often a warp issued it.
        stalled: Cycles that it waited for what was not ready.
        requests: Accesses to memory that had a lane.
        sectors: Of 32 bytes that these touched; passes over the banks of shared memory.
        cycles: Of each program, alone on its multiprocessor.
        first_read: Cycles to its first read of what nobody had touched, and
        last_read: to its last.
        first_bytes: That nobody had touched.
        second_cache_sectors: That another program had touched before.
        first_cache_sectors: That the program itself had.
    """

    instructions: Sequence[Instruction]
    issued: Array
    stalled: Array
    requests: Array
    sectors: Array
    cycles: Array
    first_read: Array
    last_read: Array
    first_bytes: int
    second_cache_sectors: int
    first_cache_sectors: int


class EmulatorError(RuntimeError):
    """A program did what no program may do: read beyond its tensors, or waited for ever."""


# --- native structures --------------------------------------------------------------------------------------


class _Range(ctypes.Structure):
    _fields_ = [
        ("first", ctypes.c_uint64), ("last", ctypes.c_uint64), ("last_program", ctypes.c_void_p),
        ("before", ctypes.c_void_p), ("own", ctypes.c_void_p), ("own_program", ctypes.c_void_p),
    ]  # fmt: skip


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("issued", "stalled", "requests", "sectors")]


class _Latencies(ctypes.Structure):
    _fields_ = [(field.name, ctypes.c_uint32) for field in dataclasses.fields(Latencies)]


class _Grid(ctypes.Structure):
    _fields_ = [
        ("num_warps", ctypes.c_uint32), ("grid", ctypes.c_uint32 * 3), ("num_programs", ctypes.c_uint64),
        ("programs", ctypes.c_void_p), ("cycles", ctypes.c_void_p), ("first_read", ctypes.c_void_p),
        ("last_read", ctypes.c_void_p),
    ]  # fmt: skip


@functools.lru_cache(maxsize=1)
def _core() -> ctypes.CDLL:
    core = toolchain.load(toolchain.build((toolchain.NATIVE / "core.c").read_text(encoding="utf-8")))
    core.size_of_instruction.restype = ctypes.c_size_t
    if core.size_of_instruction() != ctypes.sizeof(Native):
        raise RuntimeError("an instruction has other fields in C than in Python")
    return core


def _pointer(array: Array | None) -> ctypes.c_void_p | None:
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


# --- a launch -----------------------------------------------------------------------------------------------


def run(
    launch: Launch,
    freedom: Freedom = STRICT,
    *,
    last: int | None = None,
    counting: bool = False,
    latencies: Latencies = PUBLISHED,
) -> Counts:
    """Run a launch on its tensors.

    Args:
        freedom: What it may do.
        last: Run programs before this one only.
        counting: Whether instructions, sectors and cycles are counted.

    Raises:
        UnknownInstructionError: The code has an instruction that the emulator does not know.
        EmulatorError: The code went wrong.
    """
    code = program(launch.cubin)
    total = launch.grid[0] * launch.grid[1] * launch.grid[2]
    programs = np.arange(total if last is None else min(last, total), dtype=np.uint32)
    if freedom.seed is not None:
        np.random.default_rng(freedom.seed).shuffle(programs)
    size = len(code.listing.instructions)
    issued, stalled, requests, sectors = (np.zeros(size, np.uint64) for _ in range(4))
    cycles, first_read, last_read = (np.zeros(max(1, len(programs)), np.uint64) for _ in range(3))
    grid = _Grid(
        launch.num_warps, (ctypes.c_uint32 * 3)(*launch.grid), len(programs),
        _pointer(programs), _pointer(cycles), _pointer(first_read), _pointer(last_read),
    )  # fmt: skip
    counts = _Counts(*map(_pointer, (issued, stalled, requests, sectors))) if counting else _Counts()
    constants, tensors = _bank_of_constants(launch)
    totals, message = (ctypes.c_uint64 * 3)(), ctypes.create_string_buffer(256)
    with _ranges(tensors, freedom.late, counting) as ranges:
        failed = _core().run_grid(
            code.native, constants, ctypes.c_uint32(launch.shared + _SHARED_BESIDE), ranges, len(ranges),
            ctypes.byref(counts), ctypes.byref(_Latencies(*dataclasses.astuple(latencies))), ctypes.byref(grid),
            int(freedom.late), int(freedom.approximate), ctypes.c_uint64(freedom.seed or 0), totals, message,
        )  # fmt: skip
    if failed:
        address = int(message.value.split(b"at 0x")[-1].split()[0], 16)
        raise EmulatorError(f"{launch.name}: {message.value.decode()}: {_text(code.listing.instructions, address)}")
    return Counts(
        code.listing.instructions, issued, stalled, requests, sectors, cycles, first_read, last_read, *map(int, totals)
    )


@contextlib.contextmanager
def emulated(seeds: Callable[[], int]) -> Iterator[None]:
    """While this is open, kernels run on CPU tensors as machine code, which takes every freedom.

    Args:
        seeds: Returns one for each launch.
    """
    with launches_go_to(lambda launch: run(launch, Freedom(seeds(), late=True, approximate=True))):
        yield


def _text(instructions: Sequence[Instruction], address: int) -> str:
    return next((each.text for each in instructions if each.address == address), "no instruction")


def _bank_of_constants(launch: Launch) -> tuple[bytes, list[Tensor]]:
    """Sizes and arguments as a kernel finds them, and the tensors among these."""
    bank = bytearray(_BANK_BYTES)
    struct.pack_into("<III", bank, _BLOCK_SIZE, 32 * launch.num_warps, 1, 1)
    struct.pack_into("<III", bank, _GRID_SIZE, *launch.grid)
    struct.pack_into("<I", bank, _STACK, _LOCAL_BYTES)
    offset, tensors = _ARGUMENTS, []
    for argument in launch.arguments:
        is_tensor = isinstance(argument.value, Tensor)
        if not is_tensor and argument.type not in _FORMATS:
            raise TypeError(f"{launch.name}: got the argument {argument.name} of type {argument.type}")
        letter = "Q" if is_tensor else _FORMATS[argument.type]
        size = struct.calcsize(letter)
        offset = -(-offset // size) * size
        value = argument.value
        if is_tensor:
            tensors.append(value)
            value = value.data_ptr()
        elif argument.type.startswith("u"):
            value %= 1 << 8 * size
        struct.pack_into(f"<{letter}", bank, offset, value)
        offset += size
    return bytes(bank), tensors


@contextlib.contextmanager
def _ranges(tensors: Sequence[Tensor], late: bool, counting: bool) -> Iterator[ctypes.Array[_Range]]:
    """The storages of tensors, with what the emulator keeps about them while this is open."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    ranges, kept = [], []
    for address, size in storages.items():
        if not size:
            continue
        arrays: list[Array | None] = [None] * 4
        if counting:
            arrays[0] = np.zeros(size // _SECTOR + 2, np.uint32)
        if late and size <= _LARGEST_LATE:
            arrays[1] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).copy()
            arrays[2], arrays[3] = np.zeros(size, np.uint8), np.zeros(size, np.uint32)
        kept.append(arrays)
        ranges.append(_Range(address, address + size, *map(_pointer, arrays)))
    yield (_Range * len(ranges))(*ranges)
    kept.clear()
