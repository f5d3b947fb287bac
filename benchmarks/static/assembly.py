"""Reading what was compiled: registers and spills, the widths of loads and stores, how sums over lanes add."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import math
import re
import subprocess
import tempfile
import textwrap
from pathlib import Path

# --- registers and memory -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Resources:
    """Registers, shared memory and spills of a kernel.

    Attributes:
        registers: Of a thread; vector registers on AMD.
        spilled_bytes: Of a thread: local memory on NVIDIA, spilled vector registers or scratch on AMD.
        scalar_spills: AMD's scalar registers kept in lanes of a vector register: no memory is touched.
        resident_warps: Warps an SM, or waves a SIMD, holds at once.
    """

    registers: int
    spilled_bytes: int
    scalar_spills: int = 0
    resident_warps: int | None = None


def cubin_resources(cubin: bytes, arch: int, num_warps: int) -> Resources | None:
    """Read them from NVIDIA's cuobjdump; None if it names nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [_cuobjdump(), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if match is None:
        return None
    registers = int(match[1])
    return Resources(
        registers, int(match[2]) + int(match[4]), resident_warps=_resident_warps(registers, arch, num_warps)
    )


@functools.lru_cache(maxsize=1)
def _cuobjdump() -> str:
    import triton.backends.nvidia

    return str(Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump")


def _resident_warps(registers: int, arch: int, num_warps: int) -> int:
    """Warps that an SM holds at once (CUDA programming guide, compute capabilities): of 32, 48 or 64.

    Each of its four schedulers has a quarter of the registers.
    """
    most = {75: 32, 86: 48, 87: 48, 89: 48, 120: 48}.get(arch, 64)
    registers_of_a_warp = math.ceil(registers * 32 / 256) * 256
    return min(most, 4 * (16384 // registers_of_a_warp)) // num_warps * num_warps


def amdgcn_resources(assembly: str) -> Resources | None:
    """Read them from AMD's assembly; None if it doesn't name them."""

    def number(pattern: str) -> int | None:
        match = re.search(pattern, assembly)
        return int(match[1]) if match else None

    registers = number(r"\.vgpr_count:\s+(\d+)")
    vectors, scalars = (number(rf"\.{kind}_spill_count:\s+(\d+)") for kind in ("vgpr", "sgpr"))
    scratch = number(r"\.private_segment_fixed_size:\s+(\d+)")
    if registers is None or vectors is None or scalars is None or scratch is None:
        return None
    return Resources(registers, max(scratch, 4 * vectors), scalars, number(r";\s*Occupancy:\s+(\d+)"))


# --- loads and stores ---------------------------------------------------------------------------------------

_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?')
_LOCATION = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")
_PTX_ACCESS = re.compile(r"\b(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bfus](\d+)\s")
_PTX_ASYNC_COPY = re.compile(r"\bcp\.async\.\w+\.shared\S*\.global\S*\s+\[[^\]]*\],\s*\[[^\]]*\],\s*(0x[0-9a-f]+|\d+)")
_AMD_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(?:lds_)?([a-z]+[a-z0-9_]*)")
_AMD_WIDTHS = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


def access_widths(assembly: str, access: str = "load") -> list[tuple[tuple[str, int], int]]:
    """((file, line), bytes a thread) of every load from (or store to) global memory.

    Reads PTX and AMD assembly with line information. The line is that of the innermost inlined function.
    """
    lines = assembly.splitlines()
    files = {}
    for line in lines:  # PTX lists them last
        if match := _FILE.match(line):
            number, folder, name = match.groups()
            files[number] = _short_path(f"{folder}/{name}" if name else folder)
    found = []
    where = ("", 0)
    for line in lines:
        if match := _LOCATION.match(line):
            where = (files.get(match[1], ""), int(match[2]))
        elif match := _PTX_ACCESS.search(line):
            if match[1] == {"load": "ld", "store": "st"}[access]:
                found.append((where, int(match[2] or 1) * int(match[3]) // 8))
        elif match := _PTX_ASYNC_COPY.search(line):
            if access == "load":
                found.append((where, int(match[1], 0)))
        elif (match := _AMD_ACCESS.search(line)) and match[1] == access:
            found.append((where, _amd_width(match[2])))
    return found


def _amd_width(suffix: str) -> int:
    if suffix in _AMD_WIDTHS:
        return _AMD_WIDTHS[suffix]
    return 1 if "byte" in suffix or suffix.endswith("8") else 2


def widths_in(assembly: str, access: str, module: str, functions: tuple[str, ...]) -> list[int]:
    """Bytes a thread of every access (load or store) that stands in those functions of a module."""
    if not functions:
        return []
    lines = _lines_of(module, functions, access)
    return [width for where, width in access_widths(assembly, access) if where in lines]


@functools.lru_cache(maxsize=8)
def _lines_of(module_name: str, functions: tuple[str, ...], access: str) -> frozenset[tuple[str, int]]:
    """(file name, line) of every `tl.<access>` in those functions. File names with their last folder only."""
    module = importlib.import_module(module_name)
    shared = importlib.import_module("dark_kernels._triton.maps")  # what reads maps for several modules
    lines = set()
    for name in functions:
        function = getattr(module, name, None) or getattr(shared, name)
        function = function.fn
        source, first_line = inspect.getsourcelines(function)
        for node in ast.walk(ast.parse(textwrap.dedent("".join(source)))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == access:
                lines.add((_short_path(inspect.getfile(function)), first_line + node.lineno - 1))
    if not lines:
        raise RuntimeError(f"{module_name}: no tl.{access} in {', '.join(functions)}")
    return frozenset(lines)


def _short_path(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


# --- sums over lanes ----------------------------------------------------------------------------------------

_PTX_EXCHANGE = re.compile(r"\bshfl\.sync\.bfly\S*\s+(%\w+), (%\w+),")
_PTX_PRODUCT = re.compile(r"\bmul(?:\.rn)?(?:\.ftz)?\.f32\s+(%\w+),")
_PTX_FUSED = re.compile(r"\bfma\.rn(?:\.ftz)?\.f32\s+%\w+, \S+, \S+, (%\w+);")


def fused_exchanges(ptx: str) -> int:
    """Count sums over lanes that add another lane's product, rounded, to an exact product."""
    products, received, found = set(), set(), 0
    for line in ptx.splitlines():
        if match := _PTX_PRODUCT.search(line):
            products.add(match[1])
        elif match := _PTX_EXCHANGE.search(line):
            if match[2] in products:
                received.add(match[1])
        elif match := _PTX_FUSED.search(line):
            found += match[1] in received
    return found
