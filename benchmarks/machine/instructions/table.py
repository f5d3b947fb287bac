"""The table of instructions, which the modules beside it fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.writing import Writer

Write = Callable[[Instruction, Writer], str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """The writing of an opcode, and the modifiers that are known of it."""

    write: Write
    modifiers: frozenset[str]


TABLE: dict[str, Entry] = {}
# Opcodes that also exist for uniform registers, with a U before their name.
UNIFORM: set[str] = set()


def instruction(opcodes: str, modifiers: str = "", uniform: bool = False) -> Callable[[Write], Write]:
    """Enter a function for opcodes: names and modifiers with blanks between them."""

    def enter(write: Write) -> Write:
        for opcode in opcodes.split():
            if opcode in TABLE:
                raise ValueError(f"{opcode} is in the table already")
            TABLE[opcode] = Entry(write, frozenset(modifiers.split()))
            if uniform:
                UNIFORM.add(opcode)
        return write

    return enter
