"""Instructions as text and in C, without a kernel."""

from __future__ import annotations

import pytest

from benchmarks.machine import instructions
from benchmarks.machine.disassembly import parse, read_instruction
from benchmarks.machine.writing import UnknownInstructionError

LISTING = """
\t.section\t.nv.info,"",@"SHT_CUDA_INFO"
        /*0000*/                   NOT.CODE ;                       /* 0x0000000000000000 */
                                                                    /* 0x0000000000000000 */
\t.section\t.text._a_kernel,"ax",@progbits
_a_kernel:
.text._a_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;           /* 0x00000a00ff017b82 */
                                                                    /* 0x000fe20000000800 */
        /*0010*/              @!P0 IADD3 R0, P1, R4.reuse, -R5, 0x10 ; /* 0x0000001004007810 */
                                                                    /* 0x042fca0007f3e805 */
.L_x_1:
        /*0020*/              @P0  BRA `(.L_x_1) ;                  /* 0xfffffffc00f80947 */
                                                                    /* 0x000fea000383ffff */
"""


def test_a_listing_is_read() -> None:
    listing = parse(LISTING)
    load, add, branch = listing.instructions
    assert (load.opcode, load.operands, load.guard) == ("LDC", ("R1", "c[0x0][0x28]"), "PT")
    assert (add.opcode, add.operands, add.guard) == ("IADD3", ("R0", "P1", "R4", "-R5", "0x10"), "!P0")
    assert (add.address, add.immediate, add.stall, add.waits) == (16, 0x10, 5, 2)
    assert listing.target(branch) == 2
    assert listing.target(add) is None


@pytest.mark.parametrize(
    ("text", "opcode", "modifiers", "operands"),
    [
        ("EXIT", "EXIT", (), ()),
        ("LDG.E.128 R4, desc[UR4][R2.64+0x10], P1", "LDG", ("E", "128"), ("R4", "desc[UR4][R2.64+0x10]", "P1")),
        ("RET.REL.NODEC R2 `(_a_kernel)", "RET", ("REL", "NODEC"), ("R2 `(_a_kernel)",)),
    ],
)
def test_an_instruction_is_read(text: str, opcode: str, modifiers: tuple[str, ...], operands: tuple[str, ...]) -> None:
    read = read_instruction(0, text)
    assert (read.opcode, read.modifiers, read.operands) == (opcode, modifiers, operands)


def test_instructions_that_differ_in_registers_share_their_code() -> None:
    one, other = (instructions.write(read_instruction(0, f"@P{n} FFMA R{n}, R4, {n + 1}, R6")) for n in (0, 1))
    assert one[0] == other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("HGMMA.64x8x16.F32 R24, gdesc[UR4], R24", "the instruction"),
        ("FADD.SAT R0, R1, R2", "the modifier 'SAT'"),
        ("MOV R0, c[0x4][0x8]", r"the operand 'c\[0x4\]\[0x8\]'"),
        ("S2R R0, SR_CLOCKLO", "the register 'SR_CLOCKLO'"),
        ("ATOMG.E.EXCH.STRONG.GPU PT, R0, desc[UR4][R2.64], R4", "the modifier 'EXCH'"),
        ("F2F.F32.BF16 R0, R1", "the conversion"),
        ("IMAD R0, P1, R2, R3, R4", "the carry"),
    ],
)
def test_what_is_not_known_is_named(text: str, what: str) -> None:
    with pytest.raises(UnknownInstructionError, match=f"does not know {what} of .*: add it to benchmarks/machine"):
        instructions.write(read_instruction(0, text))


@pytest.mark.parametrize("table", range(256))
def test_any_function_of_three_bits(table: int) -> None:
    """As an expression that C and Python read alike."""
    body, _ = instructions.write(read_instruction(0, f"LOP3.LUT R0, R1, R2, R3, 0x{table:x}, !PT"))
    expression = body.partition("const uint32_t bits = ")[2].partition(";")[0].removesuffix("u")
    value = eval(expression, {"a": 0xF0, "b": 0xCC, "c": 0xAA}) & 0xFF
    assert value == table
