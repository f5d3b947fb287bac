"""Machine code as text: what NVIDIA's disassembler says of a kernel, instruction by instruction."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.machine import toolchain

INSTRUCTION_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        index: Its place in the code.
        text: As it was disassembled.
        guard: The predicate that lanes must have, such as "!P0"; "PT" without one.
        opcode: Such as "IADD3".
        modifiers: Such as ("X",).
        operands: In order, without what is a hint only.
        immediate: Bits 32 to 63 of the encoding, where an immediate number stands.
        stall: Cycles until the next instruction.
        writes: Scoreboard that is released when results are there; 7 for none.
        reads: Scoreboard that is released when operands are read; 7 for none.
        waits: Scoreboards that are waited for, a bit each.
    """

    index: int
    text: str
    guard: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    immediate: int
    stall: int = 1
    writes: int = 7
    reads: int = 7
    waits: int = 0

    @property
    def address(self) -> int:
        return self.index * INSTRUCTION_BYTES


@dataclasses.dataclass(frozen=True)
class Listing:
    """The code of a kernel, and the places of its labels."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def target(self, instruction: Instruction) -> int | None:
        """Place that a branch names, if it names one."""
        for operand in instruction.operands:
            match = re.fullmatch(r"`\((.*)\)", operand)
            if match and match[1] in self.labels:
                return self.labels[match[1]]
        return None


def disassemble(cubin: bytes) -> Listing:
    """The code of a cubin with one kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [toolchain.disassembler(), "-hex", "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvdisasm: {done.stderr.strip()}")
    return parse(done.stdout)


_SECTION = re.compile(r"\t\.section\t(\S+)")
_LABEL = re.compile(r"(\.L_x_\d+|\$?[\w$.]+):\s*$")
_CODE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?) ?;\s+/\* (0x[0-9a-f]{16}) \*/")
_HIGH_WORD = re.compile(r"\s+/\* (0x[0-9a-f]{16}) \*/")


def parse(text: str) -> Listing:
    """Read what nvdisasm prints with -hex -c."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    in_code = False
    pending: tuple[str, int] | None = None  # an instruction's text and low word; the high one is in the next line
    for line in text.splitlines():
        if section := _SECTION.match(line):
            in_code = ".text." in section[1]
        elif not in_code:
            continue
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif code := _CODE.match(line):
            pending = code[2].strip(), int(code[3], 16)
        elif pending and (high := _HIGH_WORD.match(line)):
            instructions.append(read_instruction(len(instructions), *pending, int(high[1], 16)))
            pending = None
    if not instructions:
        raise RuntimeError("nvdisasm: no code found")
    return Listing(tuple(instructions), labels)


def read_instruction(index: int, text: str, low: int = 0, high: int = 0) -> Instruction:
    """Read one instruction from its text and the two words of its encoding."""
    match = re.match(r"(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*)$", text)
    if match is None:
        raise ValueError(f"no instruction: {text!r}")
    guard, full_name, rest = match.groups()
    opcode, *modifiers = full_name.split(".")
    control = high >> 41
    return Instruction(
        index, text, guard or "PT", opcode, tuple(modifiers), tuple(_operands(rest)), low >> 32 & 0xFFFFFFFF,
        max(1, control & 15), control >> 5 & 7, control >> 8 & 7, control >> 11 & 63,
    )  # fmt: skip


def _operands(text: str) -> list[str]:
    """Split at the commas that stand in no brackets."""
    parts = re.split(r",(?![^(\[]*[)\]])", text) if text else []
    return [part.replace(".reuse", "").strip() for part in parts]
