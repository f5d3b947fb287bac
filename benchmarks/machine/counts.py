"""Counts of a launch: its instructions by the unit that runs them, its bytes, and the chains of its programs."""

from __future__ import annotations

import dataclasses
from collections import Counter

from benchmarks.machine import emulator
from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.launches import Launch
from benchmarks.machine.program import program
from benchmarks.static.assembly import cubin_resources

# Units of a multiprocessor of sm_90, as far as they are known.
_FMA = "FFMA FMUL FADD HFMA2 HADD2 HMUL2"
_PRODUCT = "IMAD IMUL"
_SPECIAL = "MUFU I2F F2I FRND F2F FLO POPC BREV"
_GLOBAL = "LDG LD STG ST ATOMG ATOM"
_SHARED = "LDS STS LDSM STSM"
_CONTROL = "BRA BSSY BSYNC EXIT BAR WARPSYNC CALL RET NOP BREAK MEMBAR ERRBAR CCTL"
_UNIFORM = "R2UR S2UR REDUX VOTEU"
_UNITS = {
    opcode: unit
    for unit, opcodes in (
        ("fma", _FMA), ("product", _PRODUCT), ("special", _SPECIAL), ("exchange", "SHFL"), ("global", _GLOBAL),
        ("shared", _SHARED), ("control", _CONTROL), ("uniform", _UNIFORM), ("other", "S2R CS2R LDC VOTE BMOV"),
    )
    for opcode in opcodes.split()
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Work:
    """Sums over a launch.

    Attributes:
        kernel: Its name.
        programs: How many.
        warps: Of a program.
        registers: Of a thread.
        shared: Bytes of a program.
        instructions: That warps issue.
        units: How many of these each unit runs; "global_cycles" and "shared_cycles" are passes of the first cache and
            of the banks of shared memory.
        cycles: Of programs that are alone: of each, or of one if all are alike.
        head: Cycles to a program's first read of memory, on average.
        tail: Cycles from its last one.
        memory_bytes: That nobody has touched before.
        second_cache_sectors: Of 32 bytes, that another program has.
    """

    kernel: str
    programs: int
    warps: int
    registers: int
    shared: int
    instructions: float
    units: dict[str, float]
    cycles: list[float]
    head: float
    tail: float
    memory_bytes: float
    second_cache_sectors: float


# Programs that are run of a launch whose programs leave nothing for each other; the others are taken to be like them.
_FEW = 600
# Above this share of the mean the longest program counts for itself.
_ALIKE = 1.3


def finish(launch: Launch) -> None:
    """Run what `count` has left out, for launches that read what this one writes."""
    if _num_counted(launch) < _num_programs(launch):
        emulator.run(launch)


def _num_programs(launch: Launch) -> int:
    return launch.grid[0] * launch.grid[1] * launch.grid[2]


def _num_counted(launch: Launch) -> int:
    opcodes = {each.opcode for each in program(launch.cubin).listing.instructions}
    total = _num_programs(launch)
    return total if {"ATOMG", "ATOM"} & opcodes else min(total, _FEW)


def count(launch: Launch) -> Work:
    """Run a launch, or its first programs, and count."""
    counts = emulator.run(launch, last=_num_counted(launch), counting=True)
    total = _num_programs(launch)
    share = total / len(counts.cycles)
    resources = cubin_resources(launch.cubin, 90, launch.num_warps)
    if resources is None:
        raise RuntimeError(f"{launch.name}: cuobjdump names no resource usage")
    units: Counter[str] = Counter()
    for each in counts.instructions:
        if issued := int(counts.issued[each.index]):
            units.update({name: share * value for name, value in _units_of(each, issued, counts).items()})
    cycles = counts.cycles.astype(float)
    is_alike = cycles.max() <= _ALIKE * cycles.mean()
    return Work(
        kernel=launch.name,
        programs=total,
        warps=launch.num_warps,
        registers=resources.registers,
        shared=launch.shared,
        instructions=share * float(counts.issued.sum()),
        units=dict(units),
        cycles=[float(cycles.mean())] if is_alike else cycles.tolist(),
        head=float(counts.first_read.mean()),
        tail=float((cycles - counts.last_read).mean()),
        memory_bytes=share * counts.first_bytes,
        second_cache_sectors=share * counts.second_cache_sectors,
    )


def _units_of(instruction: Instruction, issued: int, counts: emulator.Counts) -> dict[str, float]:
    is_uniform = instruction.opcode.startswith("U") and instruction.opcode not in _UNITS
    unit = "uniform" if is_uniform else _UNITS.get(instruction.opcode, "integer")
    found: dict[str, float] = {unit: issued}
    sectors, requests = int(counts.sectors[instruction.index]), int(counts.requests[instruction.index])
    if unit == "shared":
        found["shared_cycles"] = sectors
    if unit == "global":  # four sectors a cycle, and no less than a lane's width asks for
        words = 4 if "128" in instruction.modifiers else 2 if "64" in instruction.modifiers else 1
        found["global_cycles"] = max(sectors / 4, requests * words)
    return found
