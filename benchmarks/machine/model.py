"""Seconds of a launch on an H200, predicted from what its machine code does.

    launch + starts of resident programs + head + tail + (sum of parts^p)^(1/p),    the parts being

    memory   bytes that nobody has touched before, at the bandwidth
    unit     cycles of the busiest unit of a multiprocessor, as far as it can be kept busy; where programs are unequal,
             and what the longest takes beyond the mean
    chain    the programs' own chains, as resident programs follow each other, without head and tail
    starts   starting all programs, without head and tail
    cache    sectors that come from the second cache

head is one program from its start to its first read of memory, tail from its last one to its end. A launch, a program's
start and the latencies are measured or published numbers; bandwidth, share and power are fitted to measured rows, see
`validate.py`, which says how good all this is: when they were fitted, to 37 rows of the kernels that were measured, the
median error was 3 % (4 % for a row that is left out of the fit), and all but one were within 21 %. Only one of these is
bound by instructions, and no second GPU is known: of launches that compute much expect 20 to 30 %. Forward passes of
the losses at keypoints, which were not among the rows, took 1.2 to 2.2 us more than is predicted.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import statistics
from collections.abc import Sequence

from benchmarks.machine.counts import Work

_MULTIPROCESSORS, _SCHEDULERS = 132, 4
_CLOCK = 1.98e9  # Hz
_REGISTERS, _MOST_WARPS, _MOST_PROGRAMS, _SHARED_BYTES = 65536, 64, 32, 227 * 1024  # of a multiprocessor
# Of empty kernels of 17 and of 4256 programs in a graph, measured: 0.76 and 3.4 us.
_LAUNCH, _START = 0.76e-6, 0.62e-9
_SECOND_CACHE = 5.5e12  # bytes a second
# Cycles that a scheduler's unit is taken for a warp instruction.
_INTEGER, _FMA, _PRODUCT, _SPECIAL = 2, 1, 2, 8


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The numbers that are fitted to measured rows."""

    bandwidth: float = 4.8e12  # bytes a second
    share: float = 0.70  # of the cycles of a unit, in which it can be kept busy
    power: float = 4.0


FITTED = Fitted()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of a launch, its parts, and which of them it is bound by."""

    seconds: float
    parts: dict[str, float]
    bound: str


def predict(work: Work, fitted: Fitted = FITTED) -> Prediction:
    """Predict a launch."""
    programs, resident = work.programs, resident_programs(work)
    unit, busy = max(_cycles_of_units(work).items(), key=lambda each: each[1])
    chain = _chain(work.cycles, programs, resident) / _CLOCK
    head, tail = work.head / _CLOCK, work.tail / _CLOCK
    uneven = max(work.cycles) - statistics.fmean(work.cycles) if programs > resident else 0.0
    parts = {
        "memory": work.memory_bytes / fitted.bandwidth,
        unit: busy / _CLOCK / fitted.share + uneven / _CLOCK,
        "chain": max(0.0, chain - head - tail),
        "starts": max(0.0, programs * _START - head - tail),
        "cache": (work.memory_bytes + 32 * work.second_cache_sectors) / _SECOND_CACHE,
    }
    body = sum(seconds**fitted.power for seconds in parts.values()) ** (1 / fitted.power)
    around = _LAUNCH + min(programs, resident) * _START + head + tail
    bound = "latency" if around > body else max(parts, key=lambda name: parts[name])
    return Prediction(around + body, parts, bound)


def resident_programs(work: Work) -> int:
    """Programs that the GPU holds at once."""
    registers_of_a_warp = math.ceil(work.registers * 32 / 256) * 256
    warps = min(_MOST_WARPS, _REGISTERS // registers_of_a_warp)
    programs = min(_MOST_PROGRAMS, warps // work.warps)
    if work.shared:
        programs = min(programs, _SHARED_BYTES // (work.shared + 1024))
    return max(1, programs) * _MULTIPROCESSORS


def _cycles_of_units(work: Work) -> dict[str, float]:
    """Numbers of one multiprocessor, if all are as busy as each other."""
    count = work.units.get
    schedulers = _SCHEDULERS * _MULTIPROCESSORS
    shared = max(count("shared_cycles", 0.0), count("shared", 0.0))
    memory = max(count("global_cycles", 0.0), count("global", 0.0))
    return {
        "issue": work.instructions / schedulers,
        "integer": _INTEGER * count("integer", 0.0) / schedulers,
        "fma": (_FMA * count("fma", 0.0) + _PRODUCT * count("product", 0.0)) / schedulers,
        "special": _SPECIAL * count("special", 0.0) / schedulers,
        "loads": (count("exchange", 0.0) + shared + memory) / _MULTIPROCESSORS,
    }


def _chain(cycles: Sequence[float], programs: int, resident: int) -> float:
    """Cycles until the last program ends, if each begins when another one ends; `cycles` are those of some of them."""
    if programs <= resident:
        return max(cycles)
    if len(cycles) == 1:
        return cycles[0] * programs / resident
    ends = [0.0] * resident
    for i in range(programs):
        heapq.heapreplace(ends, ends[0] + cycles[i % len(cycles)])
    return max(ends)
