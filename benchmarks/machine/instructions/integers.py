"""Integers, bits, and predicates."""

from __future__ import annotations

import re

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.instructions.comparing import JOINTS, SIGNS, joined
from benchmarks.machine.instructions.table import instruction
from benchmarks.machine.writing import Writer, is_predicate


def _results(operands: tuple[str, ...]) -> tuple[str, list[str], list[str]]:
    """The register that is written, the predicates that are, and the other operands."""
    first, *rest = operands
    predicates = []
    while rest and is_predicate(rest[0]):
        predicates.append(rest.pop(0))
    return first, predicates, rest


def _type(i: Instruction) -> str:
    return "uint32_t" if "U32" in i.modifiers else "int32_t"


@instruction("MOV", uniform=True)
def _mov(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], w.integer(i.operands[1])))


# --- sums and products --------------------------------------------------------------------------------------


@instruction("IADD3", "X", uniform=True)
def _iadd3(i: Instruction, w: Writer) -> str:
    """Add three, and carries; those that come out are in predicates."""
    to, carries, (a, b, c, *carried) = _results(i.operands)
    terms = [*map(w.addend, (a, b, c)), *map(w.predicate, carried)]
    out = [(name, f"(sum >> 32) > {n}") for n, name in enumerate(carries)]
    return w.compute((to, "(uint32_t)sum"), predicates=out, given=f"uint64_t sum = {' + '.join(terms)};")


@instruction("VIADD", "16x2", uniform=True)
def _viadd(i: Instruction, w: Writer) -> str:
    to, a, b = (i.operands[0], *map(w.integer, i.operands[1:]))
    return w.compute((to, f"added_halves({a}, {b})" if "16x2" in i.modifiers else f"{a} + {b}"))


@instruction("IMAD IMUL", "MOV IADD SHL U32 X WIDE HI", uniform=True)
def _imad(i: Instruction, w: Writer) -> str:
    """A product and a sum; .MOV, .IADD and .SHL are names for some of them."""
    to, carries, (a, b, c, *carried) = _results(i.operands)
    carry = f" + {w.predicate(carried[0])}" if "X" in i.modifiers and carried else ""
    if not {"WIDE", "HI"} & set(i.modifiers):
        if any(name not in ("PT", "UPT") for name in carries):
            raise w.unknown("the carry")
        return w.compute((to, f"{w.integer(a)} * {w.integer(b)} + {w.integer(c)}{carry}"))
    if "U32" in i.modifiers:
        product = f"(uint64_t)({w.integer(a)}) * (uint64_t)({w.integer(b)})"
    else:
        product = f"(uint64_t)((int64_t){w.signed(a)} * (int64_t){w.signed(b)})"
    given = f"uint64_t addend = {w.wide(c)}, sum = {product} + addend{carry};"
    low = [] if "HI" in i.modifiers else [(to, "(uint32_t)sum")]
    high = (to, "(uint32_t)(sum >> 32)", len(low))
    return w.compute(*low, high, predicates=[(name, "sum < addend") for name in carries], given=given)


@instruction("LEA", "HI SX32 X", uniform=True)
def _lea(i: Instruction, w: Writer) -> str:
    """An index that is shifted, and an address."""
    to, carries, rest = _results(i.operands)
    if "HI" not in i.modifiers:
        a, b, shift, *carried = rest
        carry = f" + {w.predicate(carried[0])}" if "X" in i.modifiers else ""
        given = f"uint64_t sum = (uint64_t)(uint32_t)({w.integer(a)} << {w.bits(shift)}) + {w.addend(b)}{carry};"
        return w.compute(
            (to, "(uint32_t)sum"), predicates=[(name, "(sum >> 32) != 0") for name in carries], given=given
        )
    if any(name not in ("PT", "UPT") for name in carries):
        raise w.unknown("the carry")
    if "SX32" in i.modifiers:
        a, b, shift, *carried = rest
        index = f"(uint64_t)(int64_t){w.signed(a)}"
    else:
        a, b, high, shift, *carried = rest
        index = f"WIDE({w.integer(high)}, {w.integer(a)})"
    carry = f" + {w.predicate(carried[0])}" if "X" in i.modifiers and carried else ""
    return w.compute((to, f"(uint32_t)(({index} << {w.bits(shift)}) >> 32) + {w.integer(b)}{carry}"))


@instruction("IABS", uniform=True)
def _iabs(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], f"absolute({w.integer(i.operands[1])})"))


# --- comparisons --------------------------------------------------------------------------------------------


@instruction("ISETP", f"{' '.join(SIGNS)} {JOINTS} U32 EX", uniform=True)
def _isetp(i: Instruction, w: Writer) -> str:
    yes, no, a, b, joint, *low = i.operands
    sign = next(each for each in i.modifiers if each in SIGNS)
    given = f"const {_type(i)} a = ({_type(i)})({w.integer(a)}), b = ({_type(i)})({w.integer(b)});"
    condition = f"(a {SIGNS[sign]} b)"
    if "EX" in i.modifiers:  # the high words of numbers whose low ones have been compared
        lower = w.predicate(low[0])
        condition = {
            "EQ": f"((a == b) & {lower})",
            "NE": f"((a != b) | {lower})",
        }.get(sign, f"((a {SIGNS[sign][0]} b) | ((a == b) & {lower}))")
    predicate = w.predicate(joint)
    out = [(yes, joined(i.modifiers, condition, predicate)), (no, joined(i.modifiers, f"!{condition}", predicate))]
    return w.compute(predicates=out, given=given)


@instruction("SEL", uniform=True)
def _sel(i: Instruction, w: Writer) -> str:
    to, a, b, choice = i.operands
    return w.compute((to, f"{w.predicate(choice)} ? {w.integer(a)} : {w.integer(b)}"))


@instruction("VIMNMX VIMNMX3 VIADDMNMX", "U32 RELU", uniform=True)
def _vimnmx(i: Instruction, w: Writer) -> str:
    """The smaller or larger one of two or three numbers, of which the first may be a sum; .RELU: and no less than 0."""
    to, *numbers, smaller = i.operands
    values = [w.integer(each) for each in numbers]
    if i.opcode == "VIADDMNMX":
        values = [f"({values[0]} + {values[1]})", *values[2:]]
    given = f"const uint32_t smaller = {w.predicate(smaller)}; {_type(i)} v = ({_type(i)}){values[0]};"
    for n, value in enumerate(values[1:]):
        given += f"const {_type(i)} n{n} = ({_type(i)}){value}; v = (smaller ? n{n} < v : n{n} > v) ? n{n} : v;"
    return w.compute((to, "v < 0 ? 0u : (uint32_t)v" if "RELU" in i.modifiers else "(uint32_t)v"), given=given)


# --- bits ---------------------------------------------------------------------------------------------------


@instruction("LOP3", "LUT", uniform=True)
def _lop3(i: Instruction, w: Writer) -> str:
    """Any function of three bits, given as a table of eight."""
    operands = list(i.operands)
    into = operands.pop(0) if is_predicate(operands[0]) else None
    to, *names, table, otherwise = operands
    given = "".join(f"const uint32_t {letter} = {w.integer(name)};" for letter, name in zip("abc", names, strict=True))
    value = _of_three_bits(int(table, 16))
    return w.compute(
        (to, "bits"), predicates=[(into, f"(bits != 0) | {w.predicate(otherwise)}")],
        given=f"{given} const uint32_t bits = {value};",
    )  # fmt: skip


def _of_three_bits(table: int) -> str:
    """The rows of the table in which the bit is one; a has the highest place in their number."""
    rows = [row for row in range(8) if table >> row & 1]
    return " | ".join(f"({' & '.join(_bit(row, n, 'abc'[n]) for n in range(3))})" for row in rows) or "0u"


def _bit(row: int, place: int, name: str) -> str:
    return name if row >> (2 - place) & 1 else f"~{name}"


@instruction("PLOP3", "LUT", uniform=True)
def _plop3(i: Instruction, w: Writer) -> str:
    one, other, a, b, c, *tables = i.operands
    given = f"const uint32_t row = {w.predicate(a)} << 2 | {w.predicate(b)} << 1 | {w.predicate(c)};"
    first, second = (f"(({w.bits(table)} >> row) & 1u)" for table in tables)
    return w.compute(predicates=[(one, first), (other, second)], given=given)


@instruction("SHF", "L R W HI U32 S32 U64 S64", uniform=True)
def _shf(i: Instruction, w: Writer) -> str:
    """Shift two words, and take one of them."""
    to, low, by, high = i.operands
    kinds = set(i.modifiers)
    is_wide = bool({"U64", "S64"} & kinds)
    given = f"const uint32_t low = {w.integer(low)}, high = {w.integer(high)}; uint32_t by = {w.integer(by)};"
    if "W" in kinds:
        given += f"by &= {63 if is_wide else 31}u;"
    if not is_wide:
        given += "if (by > 32) by = 32;"
    both, upper = "WIDE(high, low)", "HI" in kinds
    if "L" in kinds:
        value = f"shifted_left({both if is_wide or upper else 'low'}, by)"
    elif is_wide:
        value = f"shifted_right({both}, by)" if "U64" in kinds else f"shifted_right_signed((int64_t){both}, by)"
    elif upper:
        value = "shifted_right(high, by)" if "U32" in kinds else "shifted_right_signed((int32_t)high, by)"
        upper = False
    else:
        value = f"shifted_right({both}, by)"
    return w.compute((to, f"(uint32_t)((uint64_t)({value}) >> {32 if upper else 0})"), given=given)


@instruction("PRMT", uniform=True)
def _prmt(i: Instruction, w: Writer) -> str:
    to, low, selection, high = i.operands
    return w.compute((to, f"permuted({w.integer(low)}, {w.integer(selection)}, {w.integer(high)})"))


@instruction("SGXT", "U32 W", uniform=True)
def _sgxt(i: Instruction, w: Writer) -> str:
    to, a, width = i.operands
    function = "unsigned_of_width" if "U32" in i.modifiers else "signed_of_width"
    return w.compute((to, f"{function}({w.integer(a)}, {w.integer(width)})"))


@instruction("FLO", "U32", uniform=True)
def _flo(i: Instruction, w: Writer) -> str:
    if "U32" not in i.modifiers:
        raise w.unknown("the leading bit of signed numbers")
    return w.compute((i.operands[0], f"highest_bit({w.integer(i.operands[1])})"))


@instruction("POPC", uniform=True)
def _popc(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], f"(uint32_t)__builtin_popcount({w.integer(i.operands[1])})"))


@instruction("BREV", uniform=True)
def _brev(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], f"reversed({w.integer(i.operands[1])})"))


@instruction("P2R")
def _p2r(i: Instruction, w: Writer) -> str:
    """All predicates as the low bits of a register, where a mask says so."""
    to, *rest = (each for each in i.operands if each != "PR")
    old, mask = map(w.integer, rest)
    given = f"uint32_t bits = 0, mask = {mask}; for (int n = 0; n < 7; n++) bits |= HAS(p[n]) << n;"
    return w.compute((to, f"({old} & ~mask) | (bits & mask)"), given=given)


@instruction("R2P")
def _r2p(i: Instruction, w: Writer) -> str:
    source, mask = (each for each in i.operands if each != "PR")
    match = re.fullmatch(r"0x([0-9a-f]+)", mask)
    if match is None:
        raise w.unknown("the mask")
    places = [n for n in range(7) if int(match[1], 16) >> n & 1]
    bits = w.integer(source)
    return w.compute(predicates=[(f"P{n}", f"({bits} >> {n}) & 1u") for n in places])
