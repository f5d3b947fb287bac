"""Compile every kernel at its real configurations for many GPUs, without a GPU, and say what came out.

    python -m benchmarks.compile_report [--json PATH] [--targets sm_90,gfx942] [-k WORDS] [--limited] [--full]

Prints a table: registers, spills, shared memory and the widths of the loads in the streaming loop. Fails
(exit code 1, naming the offender) on a spill, on a streaming loop over contiguous and aligned maps whose loads are
narrower than 16 bytes, on a sum over lanes that is not the same in all of them, and on a target that does not compile.
Exit code 2 says that it could not run.

The configurations are those of the launchers themselves: a launcher is called on fake tensors with its
kernels replaced by recorders, and what it would have launched is compiled through Triton's own
specialisation. All of that is in `static/`, see there. To add a room, add a file to `static/rooms/`; a `kernels.py` or
`kernels_<part>.py` of the package without one is an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.static.compiling import problem
from benchmarks.static.jobs import compile_all, jobs_of
from benchmarks.static.rooms import ROOMS, unregistered_modules
from benchmarks.static.row import Row
from benchmarks.static.targets import TARGETS

_LEGEND = """\
spilled: bytes of local memory a thread (NVIDIA), bytes of spilled vector registers or scratch a lane (AMD); "+4s":
four scalar registers kept in lanes of a vector register, which is no failure. shared: bytes a program.
resident: warps an SM holds at once (NVIDIA), waves a SIMD holds at once (AMD); registers decide.
loads, stores: bytes that a thread's access moves in the loop over the map, widest..narrowest. B/element: bytes
that those loads ask for, for each element of the map; more than an element has would mean that it is read twice."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_report", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated, by default all: %(default)s")
    parser.add_argument("--full", action="store_true", help="every configuration for every target: takes many minutes")
    parser.add_argument("-k", dest="words", default="", metavar="WORDS", help="only configurations with these words")
    parser.add_argument("--limited", action="store_true", help="only kernels whose registers are limited")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    targets = options.targets.split(",")
    if unknown := [target for target in targets if target not in TARGETS]:
        parser.error(f"--targets: got {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")
    if (reason := problem()) is not None:
        print(f"compile_report: {reason}", file=sys.stderr)
        return 2

    import triton

    started = time.perf_counter()
    jobs = jobs_of(ROOMS, targets, options.full, options.words, options.limited)
    if not jobs:
        kind = "limited configuration" if options.limited else "configuration"
        parser.error(f"-k: got {options.words!r}, which no {kind} for {options.targets} has in its name")
    print(f"compiling {len(jobs)} kernels for {len(targets)} targets with triton {triton.__version__}", file=sys.stderr)
    rows = compile_all(jobs, options.jobs)
    seconds = time.perf_counter() - started
    print(_table(rows))
    print(f"\n{_LEGEND}\n\n{len(rows)} kernels compiled with triton {triton.__version__} in {seconds:.0f} s.")
    if options.json:
        report = {"triton": triton.__version__, "rows": [dataclasses.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    failures = [f"{row.target}, {row.kernel}, {row.configuration}: {text}" for row in rows for text in row.failures]
    failures += [f"{module}: no room of benchmarks/static/rooms has its kernels" for module in unregistered_modules()]
    for failure in failures:
        print(f"FAIL {failure}", file=sys.stderr)
    return 1 if failures else 0


def _table(rows: Sequence[Row]) -> str:
    numbers = ("registers", "spilled", "shared", "resident", "loads", "stores", "B/element")
    header = ("kernel", "configuration", "target", *numbers, "")
    cells = [
        (
            row.kernel,
            row.configuration,
            row.target,
            _number(row.registers),
            _number(row.spilled_bytes) + (f"+{row.scalar_spills}s" if row.scalar_spills else ""),
            _number(row.shared_bytes),
            _number(row.resident_warps),
            _range(row.widest_load, row.narrowest_load),
            _range(row.widest_store, row.narrowest_store),
            _number(row.bytes_per_element),
            "FAIL" if row.failures else "",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = []
    for line in [header, *cells]:
        padded = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _range(widest: int | None, narrowest: int | None) -> str:
    if widest is None or narrowest is None:
        return "-"
    return f"{widest}" if widest == narrowest else f"{widest}..{narrowest}"


if __name__ == "__main__":
    sys.exit(main())
