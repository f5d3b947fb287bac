"""float32 and float16, special functions, and conversions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.instructions.comparing import JOINTS, OF_FLOATS, compared_floats, joined
from benchmarks.machine.instructions.table import instruction
from benchmarks.machine.writing import Writer

_SPECIAL = {
    "EX2": "exp2", "LG2": "log2", "RCP": "reciprocal", "RSQ": "rsqrt", "SQRT": "sqrt", "SIN": "sin", "COS": "cos",
    "TANH": "tanh",
}  # fmt: skip
_ROUNDINGS = {"FLOOR": "floorf", "CEIL": "ceilf", "TRUNC": "truncf"}
_DIRECTIONS = {"RM": "DOWN", "RP": "UP", "RZ": "TO_ZERO"}
_NEGATIVE_ZERO, _ZERO = "-RZ", "RZ"


def _flushed(i: Instruction, value: str) -> str:
    return f"as_bits(flushed({value}))" if "FTZ" in i.modifiers else f"as_bits({value})"


# --- arithmetic of float32 ----------------------------------------------------------------------------------


@instruction("FADD", "FTZ")
def _fadd(i: Instruction, w: Writer) -> str:
    to, a, b = i.operands
    return w.compute((to, _flushed(i, f"{w.number(a)} + {w.number(b)}")))


@instruction("FMUL", "FTZ D2 D4 D8 M2 M4 M8")
def _fmul(i: Instruction, w: Writer) -> str:
    """A product, of which the first factor may be scaled by a power of two."""
    to, a, b = i.operands
    scale = next((f" {'*' if each[0] == 'M' else '/'} {each[1]}.0f" for each in i.modifiers if each != "FTZ"), "")
    return w.compute((to, _flushed(i, f"({w.number(a)}{scale}) * {w.number(b)}")))


@instruction("FFMA", "FTZ RM RP RZ")
def _ffma(i: Instruction, w: Writer) -> str:
    to, *numbers = i.operands
    terms = ", ".join(map(w.number, numbers))
    for modifier, direction in _DIRECTIONS.items():
        if modifier in i.modifiers:
            return w.compute((to, f"as_bits(fused_towards({terms}, {direction}))"))
    return w.compute((to, _flushed(i, f"fmaf({terms})")))


@instruction("FSEL", "FTZ")
def _fsel(i: Instruction, w: Writer) -> str:
    to, a, b, choice = i.operands
    return w.compute((to, f"{w.predicate(choice)} ? as_bits({w.number(a)}) : as_bits({w.number(b)})"))


@instruction("FMNMX", "FTZ NAN")
def _fmnmx(i: Instruction, w: Writer) -> str:
    to, a, b, smaller = i.operands
    function = "extreme_or_nan" if "NAN" in i.modifiers else "extreme"
    return w.compute((to, f"as_bits({function}({w.number(a)}, {w.number(b)}, {w.predicate(smaller)}))"))


@instruction("FSETP", f"{OF_FLOATS} {JOINTS} FTZ")
def _fsetp(i: Instruction, w: Writer) -> str:
    yes, no, a, b, joint = i.operands
    given = f"const float a = {w.number(a)}, b = {w.number(b)};"
    condition, predicate = compared_floats(i.modifiers, "a", "b"), w.predicate(joint)
    out = [(yes, joined(i.modifiers, condition, predicate)), (no, joined(i.modifiers, f"!{condition}", predicate))]
    return w.compute(predicates=out, given=given)


@instruction("FSET", f"{OF_FLOATS} {JOINTS} FTZ BF")
def _fset(i: Instruction, w: Writer) -> str:
    """The same as a number: 1.0, or all bits."""
    to, a, b, joint = i.operands
    given = f"const float a = {w.number(a)}, b = {w.number(b)};"
    condition = joined(i.modifiers, compared_floats(i.modifiers, "a", "b"), w.predicate(joint))
    true = "as_bits(1.0f)" if "BF" in i.modifiers else "0xffffffffu"
    return w.compute((to, f"{condition} ? {true} : 0u"), given=given)


@instruction("FCHK", "DIVIDE")
def _fchk(i: Instruction, w: Writer) -> str:
    to, a, b = i.operands
    return w.compute(predicates=[(to, f"division_is_hard({w.number(a)}, {w.number(b)})")])


@instruction("MUFU", " ".join(_SPECIAL))
def _mufu(i: Instruction, w: Writer) -> str:
    to, a = i.operands
    return w.compute((to, f"as_bits(approximate_{_SPECIAL[i.modifiers[0]]}(s, {w.number(a)}))"))


# --- conversions --------------------------------------------------------------------------------------------


_LIMITS = {"U8": "0, UINT8_MAX", "S8": "INT8_MIN, INT8_MAX", "U16": "0, UINT16_MAX", "S16": "INT16_MIN, INT16_MAX"}


def _rounding(i: Instruction) -> str:
    return next((function for name, function in _ROUNDINGS.items() if name in i.modifiers), "rintf")


@instruction("FRND", " ".join(_ROUNDINGS) + " FTZ")
def _frnd(i: Instruction, w: Writer) -> str:
    return w.compute((i.operands[0], f"as_bits({_rounding(i)}({w.number(i.operands[1])}))"))


@instruction("F2I", " ".join(_ROUNDINGS) + " FTZ NTZ U8 S8 U16 S16 U32 S32 S64 U64")
def _f2i(i: Instruction, w: Writer) -> str:
    to, a = i.operands
    value = f"{_rounding(i)}({w.number(a)})"
    for kind in ("int64", "uint64"):
        if {"int64": "S64", "uint64": "U64"}[kind] in i.modifiers:
            given = f"const uint64_t both = (uint64_t)float_to_{kind}({value});"
            return w.compute((to, "(uint32_t)both"), (to, "(uint32_t)(both >> 32)", 1), given=given)
    for kind, limits in _LIMITS.items():
        if kind in i.modifiers:
            return w.compute((to, f"(uint32_t)limited(float_to_int32({value}), {limits})"))
    return w.compute((to, f"(uint32_t)float_to_{'uint32' if 'U32' in i.modifiers else 'int32'}({value})"))


_SMALL = {"U16": "uint16_t", "S16": "int16_t", "U8": "uint8_t", "S8": "int8_t"}
_PART = {"": 0, "H0": 0, "H1": 16, "B0": 0, "B1": 8, "B2": 16, "B3": 24}


@instruction("I2F I2FP", f"{' '.join(_SMALL)} F32 U32 S32 U64 S64 RP")
def _i2f(i: Instruction, w: Writer) -> str:
    to, a = i.operands
    upwards = int("RP" in i.modifiers)
    small = next((kind for kind in _SMALL if kind in i.modifiers), None)
    if small is not None:
        name, _, part = a.partition(".")
        value = f"(float)({_SMALL[small]})({w.integer(name)} >> {_PART[part]})"
    elif "U64" in i.modifiers:
        value = f"uint64_to_float({w.wide(a)}, {upwards})"
    elif "S64" in i.modifiers:
        value = f"int64_to_float((int64_t){w.wide(a)}, {upwards})"
    elif "U32" in i.modifiers:
        value = f"uint64_to_float((uint64_t){w.integer(a)}, {upwards})"
    else:
        value = f"int64_to_float((int64_t){w.signed(a)}, {upwards})"
    return w.compute((to, f"as_bits({value})"))


@instruction("F2FP", "F16 BF16 F32 PACK_AB")
def _f2fp(i: Instruction, w: Writer) -> str:
    """Two numbers into the halves of a register."""
    to, upper, lower = i.operands
    function = "float_to_bfloat16" if "BF16" in i.modifiers else "double_to_half"
    return w.compute((to, f"{function}({w.number(upper)}) << 16 | {function}({w.number(lower)})"))


@instruction("F2F", "F16 BF16 F32 F64")
def _f2f(i: Instruction, w: Writer) -> str:
    to, a = i.operands
    match i.modifiers[:2]:
        case ("F16", "F32"):
            return w.compute((to, f"double_to_half({w.number(a)})"))
        case ("BF16", "F32"):
            return w.compute((to, f"float_to_bfloat16({w.number(a)})"))
        case ("F64", "F32"):
            return _put_double(w, to, f"(double){w.number(a)}")
        case ("F32", "F64"):
            return w.compute((to, f"as_bits((float){w.double(a)})"))
        case ("F32", "F16"):
            return w.compute((to, f"as_bits({w.half(a, 0)})"))
    raise w.unknown("the conversion")


# --- float64 ------------------------------------------------------------------------------------------------


def _put_double(w: Writer, to: str, value: str) -> str:
    given = f"const uint64_t both = bits_of_double({value});"
    return w.compute((to, "(uint32_t)both"), (to, "(uint32_t)(both >> 32)", 1), given=given)


@instruction("DADD DMUL DFMA")
def _double_arithmetic(i: Instruction, w: Writer) -> str:
    to, *numbers = i.operands
    form = {"DADD": "{} + {}", "DMUL": "{} * {}", "DFMA": "fma({}, {}, {})"}[i.opcode]
    return _put_double(w, to, form.format(*map(w.double, numbers)))


@instruction("DSETP", f"{OF_FLOATS} {JOINTS}")
def _dsetp(i: Instruction, w: Writer) -> str:
    yes, no, a, b, joint = i.operands
    given = f"const double a = {w.double(a)}, b = {w.double(b)};"
    condition, predicate = compared_floats(i.modifiers, "a", "b"), w.predicate(joint)
    out = [(yes, joined(i.modifiers, condition, predicate)), (no, joined(i.modifiers, f"!{condition}", predicate))]
    return w.compute(predicates=out, given=given)


# --- two float16 or bfloat16 at a time ----------------------------------------------------------------------


def _halves(operands: Sequence[str]) -> list[str]:
    """Operands, of which two numbers behind each other are one: the halves of an immediate."""
    found: list[str] = []
    for operand in operands:
        is_number = re.match(r"[-+]?(\d|INF|QNAN)", operand) is not None
        if not (is_number and found and re.match(r"[-+]?(\d|INF|QNAN)", found[-1])):
            found.append(operand)
    return found


def _half(w: Writer, operand: str, which: int) -> str:
    return {_ZERO: "0.0f", _NEGATIVE_ZERO: "-0.0f"}.get(operand) or w.half(operand, which)


def _both(w: Writer, to: str, upper: str, lower: str) -> str:
    function = "double_to_bfloat16" if "BF16_V2" in w.instruction.modifiers else "double_to_half"
    return w.compute((to, f"{function}({upper}) << 16 | {function}({lower})"))


@instruction("HADD2 HMUL2 HFMA2", "F32 MMA BF16_V2")
def _half_arithmetic(i: Instruction, w: Writer) -> str:
    to, *numbers = _halves(i.operands)
    if i.opcode == "HADD2" and "F32" in i.modifiers:  # a conversion to float32
        return w.compute((to, f"as_bits({_half(w, numbers[0], 0)} + {_half(w, numbers[1], 0)})"))
    if i.opcode == "HFMA2" and numbers[:2] == [_NEGATIVE_ZERO, _ZERO]:  # a way to write an immediate
        return w.compute((to, w.parameter(i.immediate)))
    results = []
    for which in (1, 0):
        values = [f"(double){_half(w, each, which)}" for each in numbers]
        form = {"HADD2": "{} + {}", "HMUL2": "{} * {}", "HFMA2": "{} * {} + {}"}[i.opcode]
        results.append(form.format(*values))
    return _both(w, to, *results)


@instruction("HMNMX2 VHMNMX", "NAN BF16_V2")
def _half_extremes(i: Instruction, w: Writer) -> str:
    to, *numbers, smaller = i.operands
    function = "extreme_or_nan" if "NAN" in i.modifiers else "extreme"
    choice, results = w.predicate(smaller), []
    for which in (1, 0):
        value, *others = (w.half(each, which) for each in numbers)
        for other in others:
            value = f"{function}({value}, {other}, {choice})"
        results.append(value)
    return _both(w, to, *results)


@instruction("HSETP2", f"{OF_FLOATS} {JOINTS} BF16_V2")
def _hsetp2(i: Instruction, w: Writer) -> str:
    """A predicate for each half."""
    lower, upper, a, b, joint = _halves(i.operands)
    predicate, given, out = w.predicate(joint), "", []
    for which, to in enumerate((lower, upper)):
        given += f"const float a{which} = {_half(w, a, which)}, b{which} = {_half(w, b, which)};"
        out.append((to, joined(i.modifiers, compared_floats(i.modifiers, f"a{which}", f"b{which}"), predicate)))
    return w.compute(predicates=out, given=given)
