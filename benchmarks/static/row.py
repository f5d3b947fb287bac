"""A line of the table: one launch, compiled for one target, read and judged."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from benchmarks.static import assembly, rules
from benchmarks.static.compiling import compile_for
from benchmarks.static.recording import Launch
from benchmarks.static.targets import gpu_target


@dataclasses.dataclass
class Row:
    """One line of the table. None for a number that does not apply or was not found."""

    kernel: str
    configuration: str
    target: str
    registers: int | None = None
    spilled_bytes: int | None = None
    scalar_spills: int = 0
    shared_bytes: int | None = None
    narrowest_load: int | None = None
    widest_load: int | None = None
    narrowest_store: int | None = None
    widest_store: int | None = None
    bytes_per_element: float | None = None
    resident_warps: int | None = None
    seconds: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)


def row_of(launch: Launch, target_name: str) -> Row:
    """Compile one launch for one target and judge it."""
    row = Row(launch.kernel, launch.label, target_name)
    target = gpu_target(target_name)
    started = time.perf_counter()
    try:
        compiled = compile_for(target, launch)
    except Exception as error:
        row.failures += rules.compiles(error)
        return row
    row.seconds = time.perf_counter() - started

    num_warps = compiled.metadata.num_warps
    row.shared_bytes = compiled.metadata.shared
    if target.backend == "cuda":
        text = compiled.asm["ptx"]
        resources = assembly.cubin_resources(compiled.asm["cubin"], target.arch, num_warps)
        row.failures += rules.names_resources(resources, "cuobjdump")
        row.failures += rules.sums_agree(text)
    else:
        text = compiled.asm["amdgcn"]
        resources = assembly.amdgcn_resources(text)
        row.failures += rules.names_resources(resources, "the assembly")
    if resources is not None:
        row.registers, row.resident_warps = resources.registers, resources.resident_warps
        row.spilled_bytes, row.scalar_spills = resources.spilled_bytes, resources.scalar_spills
    row.failures += rules.spills_nothing(resources)

    loads = assembly.widths_in(text, "load", launch.module, launch.loads)
    stores = assembly.widths_in(text, "store", launch.module, launch.stores)
    row.failures += rules.accesses_are_wide("load", launch.loads, loads, launch.contiguous)
    row.failures += rules.accesses_are_wide("store", launch.stores, stores, launch.contiguous)
    row.narrowest_load, row.widest_load = min(loads, default=None), max(loads, default=None)
    row.narrowest_store, row.widest_store = min(stores, default=None), max(stores, default=None)
    constants = _numbers(launch.kwargs)
    step = constants.get("BLOCK_SIZE", 0) * constants.get("LOADS", 1) * constants.get("NUM_MAPS", 1)
    if loads and step:
        row.bytes_per_element = sum(loads) * num_warps * target.warp_size / step
    return row


def _numbers(constants: dict[str, Any]) -> dict[str, Any]:
    """The constants of a launch by name, those in structs included."""
    found: dict[str, Any] = {}
    for name, value in constants.items():
        value = getattr(value, "value", value)  # of a tl.constexpr
        found |= _numbers(value._asdict()) if hasattr(value, "_asdict") else {name: value}
    return found
