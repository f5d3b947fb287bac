"""Each instruction in C. A new one is a function in the file that it belongs to.

`write` returns the body of one instruction, of which control flow is none: that is in `native/core.c`.
"""

from __future__ import annotations

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.instructions import floats, integers, memory, warp  # noqa: F401  # they fill the table
from benchmarks.machine.instructions.table import TABLE, UNIFORM
from benchmarks.machine.writing import UnknownInstructionError, Writer


def write(instruction: Instruction) -> tuple[str, list[int]]:
    """The body of an instruction and its parameters."""
    opcode = instruction.opcode
    uniform = opcode not in TABLE and opcode.startswith("U") and opcode[1:] in UNIFORM
    entry = TABLE.get(opcode[1:] if uniform else opcode)
    if entry is None:
        raise UnknownInstructionError(instruction)
    if unknown := set(instruction.modifiers) - entry.modifiers:
        raise UnknownInstructionError(instruction, f"the modifier {min(unknown)!r}")
    writer = Writer(instruction, uniform)
    guard = writer.guard()
    body = entry.write(instruction, writer)
    lanes = f"const uint32_t active = w->active; {writer.reads()} const uint32_t m = {guard}; (void)m;"
    if uniform:  # once for the warp; of the lanes' operands none is read
        body = f"if (m) {{ const int l = 0; (void)l; {body} }}"
    return f"{lanes} {body}", writer.parameters
