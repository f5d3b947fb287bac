"""Instructions by which lanes know of each other, of the warp and of the launch."""

from __future__ import annotations

import re

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.instructions.table import instruction
from benchmarks.machine.writing import ZERO_REGISTER, Writer, is_predicate

_SPECIAL = {
    "SR_TID.X": "w->thread[l]", "SR_TID.Y": "0u", "SR_TID.Z": "0u", "SR_LANEID": "(uint32_t)l", "SRZ": "0u",
    "SR_CTAID.X": "s->block[0]", "SR_CTAID.Y": "s->block[1]", "SR_CTAID.Z": "s->block[2]", "SR_CgaCtaId": "0u",
    "SR_LTMASK": "((1u << l) - 1u)",
}  # fmt: skip
_FIRST_LANE = "__builtin_ctz(m)"


def _special(w: Writer, name: str) -> str:
    if name not in _SPECIAL:
        raise w.unknown(f"the register {name!r}")
    return _SPECIAL[name]


@instruction("S2R")
def _s2r(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], _special(w, i.operands[1])))


@instruction("CS2R", "32")
def _cs2r(i: Instruction, w: Writer) -> str:
    to, name = i.operands
    upper = [] if "32" in i.modifiers else [(to, "0u", 1)]
    return w.compute((to, _special(w, name)), *upper)


@instruction("S2UR")
def _s2ur(i: Instruction, w: Writer) -> str:
    to, name = i.operands
    return f"if (m) {{ const int l = {_FIRST_LANE}; (void)l; {w.uniform_register(to)} = {_special(w, name)}; }}"


@instruction("R2UR")
def _r2ur(i: Instruction, w: Writer) -> str:
    to, source = (each for each in i.operands if not is_predicate(each))
    return f"if (m) {w.uniform_register(to)} = {w.register(source)}[{_FIRST_LANE}];"


@instruction("BMOV", "32 CLEAR")
def _bmov(i: Instruction, w: Writer) -> str:
    """The lanes of a convergence barrier."""
    to, source = i.operands
    if re.fullmatch(r"B\d+", to):
        barrier = w.parameter(int(to[1:]))
        return f"const int l = __builtin_ctz(active); (void)l; w->convergence[{barrier}] = {w.bits(source)};"
    barrier = f"w->convergence[{w.parameter(int(source[1:]))}]"
    return w.compute((to, barrier)) + (f"{barrier} = 0;" if "CLEAR" in i.modifiers else "")


# --- constants ----------------------------------------------------------------------------------------------


@instruction("LDC", "64 32 U8 S8 U16 S16")
def _ldc(i: Instruction, w: Writer) -> str:
    to, source = i.operands
    if {"U8", "S8", "U16", "S16"} & set(i.modifiers):
        raise w.unknown("a part of a constant")
    return w.compute(*((to, value, word) for word, value in enumerate(_constants(i, w, source))))


@instruction("ULDC", "64")
def _uldc(i: Instruction, w: Writer) -> str:
    to, source = i.operands
    values = _constants(i, w, source)
    given = "".join(f"const uint32_t v{word} = {value};" for word, value in enumerate(values))
    puts = "".join(f"{w.uniform_register(to, word)} = v{word};" for word in range(len(values)))
    return f"if (m) {{ {given} {puts} }}"


def _constants(i: Instruction, w: Writer, source: str) -> list[str]:
    """One word or two of the constants, at an offset that may be in a register."""
    words = range(2 if "64" in i.modifiers else 1)
    match = re.fullmatch(r"c\[0x0\]\[(U?R\d+)(?:\+(0x[0-9a-f]+))?\]", source)
    if match is None:
        return [w.bits(source, word) for word in words]
    at = f"(({w.bits(match[1])} + {w.parameter(int(match[2] or '0', 16))}) & 0xffcu)"
    return [f"CONSTANT({at} + {4 * word})" for word in words]


# --- all lanes ----------------------------------------------------------------------------------------------


@instruction("VOTE VOTEU", "ANY ALL EQ")
def _vote(i: Instruction, w: Writer) -> str:
    """Find the active lanes that have a predicate, and whether any, all, or all or none have it."""
    predicates = [each for each in i.operands if is_predicate(each)]
    registers = [each for each in i.operands if not is_predicate(each)]
    source = predicates.pop()
    name = source.lstrip("!")
    votes = "0xffffffffu" if name == "PT" else f"p[{w.parameter(int(name[1:]))}]"
    body = f"const uint32_t votes = ({'~' if source.startswith('!') else ''}{votes}) & active;"
    kind = next(each for each in ("ANY", "ALL", "EQ") if each in i.modifiers)
    verdict = {"ANY": "votes != 0", "ALL": "votes == active", "EQ": "votes == 0 || votes == active"}[kind]
    body += f"const uint32_t verdict = ({verdict}) ? 0xffffffffu : 0u;"
    body += "".join(w.put_predicate(each, "verdict") for each in predicates)
    for register in registers:
        put = w.put(register, "votes")
        body += put if register.startswith("U") else f"EACH_LANE {{ {put} }}"
    return body


@instruction("REDUX", "SUM MIN MAX OR AND XOR S32")
def _redux(i: Instruction, w: Writer) -> str:
    to, source = i.operands
    is_signed = "S32" in i.modifiers
    kind = next((each for each in ("SUM", "MIN", "MAX", "OR", "AND", "XOR") if each in i.modifiers), None)
    start, step = {
        "SUM": ("0", "all += one"), "OR": ("0", "all |= one"), "XOR": ("0", "all ^= one"),
        "AND": ("UINT32_MAX", "all &= one"),
        "MIN": ("INT32_MAX" if is_signed else "UINT32_MAX", "all = one < all ? one : all"),
        "MAX": ("INT32_MIN" if is_signed else "0", "all = one > all ? one : all"),
    }.get(kind or "", ("", ""))  # fmt: skip
    if not step:
        raise w.unknown("the reduction")
    name = "int32_t" if is_signed else "uint32_t"
    loop = f"EACH_LANE if (HAS(m)) {{ const {name} one = ({name}){w.bits(source)}; {step}; }}"
    loop = loop.replace("EACH_LANE", "for (int l = 0; l < LANES; l++)")
    return f"if (m) {{ {name} all = {start}; {loop} {w.uniform_register(to)} = (uint32_t)all; }}"


@instruction("SHFL", "BFLY UP DOWN IDX")
def _shfl(i: Instruction, w: Writer) -> str:
    """Take what another lane of a segment has, and whether it is in the segment. A lane out of it reads itself."""
    arrived, to, source, by, bounds = i.operands
    lane = {
        "BFLY": "l ^ by", "UP": "l - by", "DOWN": "l + by", "IDX": "first | (by & ~segment & 31)",
    }[i.modifiers[0]]  # fmt: skip
    number = ZERO_REGISTER if source == "RZ" else int(source[1:])
    return (
        f"uint32_t got[LANES], inside = 0; for (int l = 0; l < LANES; l++) {{"
        f"const int by = (int)({w.bits(by)} & 31u); const uint32_t bounds = {w.bits(bounds)};"
        "const int segment = (int)(bounds >> 8 & 31u), clamp = (int)(bounds & 31u);"
        "const int first = l & segment, last = first | (clamp & ~segment);"
        f"(void)first; const int lane = {lane}, is_inside = lane {'>=' if 'UP' in i.modifiers else '<='} last;"
        f"got[l] = r[{w.parameter(number)}][is_inside ? lane : l]; inside |= (uint32_t)is_inside << l; }}"
        f"EACH_LANE {{ {w.put(to, 'got[l]')} }} {w.put_predicate(arrived, 'inside')}"
    )
