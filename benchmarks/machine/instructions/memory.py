"""Loads, stores and atomics, of global and of shared memory."""

from __future__ import annotations

from benchmarks.machine.disassembly import Instruction
from benchmarks.machine.instructions.table import instruction
from benchmarks.machine.writing import Writer, is_predicate

_WIDTHS = {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
_SMALL = {"U8": "uint8_t", "S8": "int8_t", "U16": "uint16_t", "S16": "int16_t"}
# What a cache is told of a line (.EF, .EL, .LU, .NA), and hints of the compiler's, change no number.
_HINTS = "E EF EL LU NA CONSTANT LTC64B LTC128B LTC256B"
_WIDE = " ".join((*_WIDTHS, "32"))
# All addresses come first: a load may overwrite the registers that they are in.
_EACH_ACTIVE = "for (int l = 0; l < LANES; l++) if (HAS(m))"


def _width(i: Instruction) -> int:
    return next((width for name, width in _WIDTHS.items() if name in i.modifiers), 4)


def _addresses(w: Writer, operand: str) -> str:
    return f"uint64_t at[LANES]; EACH_LANE at[l] = {w.address(operand)};"


def _small(i: Instruction) -> str | None:
    return next((name for kind, name in _SMALL.items() if kind in i.modifiers), None)


def _loaded(i: Instruction, w: Writer, to: str) -> str:
    """Statements that put `value` into registers of a lane."""
    if to == "RZ":
        return ""
    if small := _small(i):
        return f"{w.register(to)}[l] = (uint32_t)(int32_t)*({small} *)value;"
    return "".join(f"{w.register(to, word)}[l] = value[{word}];" for word in range(_width(i) // 4))


def _stored(i: Instruction, w: Writer, source: str) -> str:
    """Statements that put registers of a lane into `value`: of less than a word its lowest bytes."""
    words = max(1, _width(i) // 4)
    return "".join(f"value[{word}] = {w.register(source, word)}[l];" for word in range(words))


@instruction("LDG LD", f"{_WIDE} {_HINTS} STRONG GPU SYS SM")
def _ldg(i: Instruction, w: Writer) -> str:
    to, address = (each for each in i.operands if not is_predicate(each))
    width, strong = _width(i), int("STRONG" in i.modifiers)
    return (
        f"{_addresses(w, address)} {_EACH_ACTIVE} {{ uint32_t value[4];"
        f"load_global(s, at[l], value, {width}, {strong}, x); {_loaded(i, w, to)} }}"
        f"const uint32_t cycles = served_global(s, w, at, m, {width}, 0, x);"
        "latest(&w->scoreboard[x->writes], w->time + cycles); latest(&w->scoreboard[x->reads], w->time + 10);"
    )


@instruction("STG ST", f"{_WIDE} {_HINTS} STRONG GPU SYS SM")
def _stg(i: Instruction, w: Writer) -> str:
    address, source = (each for each in i.operands if not is_predicate(each))
    width = _width(i)
    if "STRONG" in i.modifiers:
        raise w.unknown("a strong store")
    return (
        f"{_addresses(w, address)} {_EACH_ACTIVE} {{ uint32_t value[4]; {_stored(i, w, source)}"
        f"store_global(s, w, at[l], value, {width}, x); }} served_global(s, w, at, m, {width}, 1, x);"
    )


@instruction("LDS", f"{_WIDE} U")
def _lds(i: Instruction, w: Writer) -> str:
    to, address = (each for each in i.operands if not is_predicate(each))
    width = _width(i)
    return (
        f"{_addresses(w, address)} {_EACH_ACTIVE} {{ const uint32_t *value ="
        f"(const uint32_t *)shared_at(s, at[l], {width}, x); {_loaded(i, w, to)} }}"
        f"served_shared(s, at, m, {width}, x);"
    )


@instruction("STS", _WIDE)
def _sts(i: Instruction, w: Writer) -> str:
    address, source = (each for each in i.operands if not is_predicate(each))
    width = _width(i)
    return (
        f"{_addresses(w, address)} {_EACH_ACTIVE} {{ uint32_t value[4]; {_stored(i, w, source)}"
        f"memcpy(shared_at(s, at[l], {width}, x), value, {width}); }} served_shared(s, at, m, {width}, x);"
    )


@instruction("LDL", "128 64 32 LU")
def _ldl(i: Instruction, w: Writer) -> str:
    """Read memory of a lane's own: arrays, and registers that were spilled."""
    to, address = i.operands
    width = _width(i)
    loads = "".join(f"{w.register(to, word)}[l] = place[{word} * LANES + l];" for word in range(width // 4))
    place = f"const uint32_t *place = local_at(s, w, at[l], {width}, x);"
    return f"{_addresses(w, address)} {_EACH_ACTIVE} {{ {place} {loads} }}"


@instruction("STL", "128 64 32")
def _stl(i: Instruction, w: Writer) -> str:
    address, source = i.operands
    width = _width(i)
    stores = "".join(f"place[{word} * LANES + l] = {w.register(source, word)}[l];" for word in range(width // 4))
    place = f"uint32_t *place = local_at(s, w, at[l], {width}, x);"
    return f"{_addresses(w, address)} {_EACH_ACTIVE} {{ {place} {stores} }}"


# --- matrices of 8 by 8 halves ------------------------------------------------------------------------------

# Lanes 0 to 7 have the addresses of the first matrix' rows, lanes 8 to 15 those of the second, and so on. Each lane
# gets two neighbours of a row, or of a column.


def _matrices(i: Instruction) -> int:
    return int(i.modifiers[-1]) if i.modifiers[-1].isdigit() else 1


@instruction("LDSM", "16 M88 MT88 1 2 4")
def _ldsm(i: Instruction, w: Writer) -> str:
    to, address = i.operands
    body = _addresses(w, address)
    for matrix in range(_matrices(i)):
        register = w.register(to, matrix)
        if "MT88" in i.modifiers:
            halves = (
                f"*(uint16_t *)shared_at(s, at[{8 * matrix} + 2 * (l % 4) + {n}] + 2 * (l / 4), 2, x)" for n in (0, 1)
            )
            value = " | ".join(f"(uint32_t){half} << {16 * n}" for n, half in enumerate(halves))
        else:
            value = f"*(uint32_t *)shared_at(s, at[{8 * matrix} + l / 4] + 4 * (l % 4), 4, x)"
        body += f"for (int l = 0; l < LANES; l++) {{ {register}[l] = {value}; }}"
    return f"{body} served_shared(s, at, m, 16, x);"


@instruction("STSM", "16 M88 1 2 4")
def _stsm(i: Instruction, w: Writer) -> str:
    address, source = i.operands
    body = _addresses(w, address)
    for matrix in range(_matrices(i)):
        place = f"shared_at(s, at[{8 * matrix} + l / 4] + 4 * (l % 4), 4, x)"
        body += f"for (int l = 0; l < LANES; l++) *(uint32_t *){place} = {w.register(source, matrix)}[l];"
    return f"{body} served_shared(s, at, m, 16, x);"


# --- atomics ------------------------------------------------------------------------------------------------


@instruction("ATOMG ATOM", f"{_HINTS} ADD STRONG GPU")
def _atomg(i: Instruction, w: Writer) -> str:
    """An integer sum in global memory, which is visible at once; returns what was there before."""
    to, address, source = (each for each in i.operands if not is_predicate(each))
    if "ADD" not in i.modifiers:
        raise w.unknown("the operation")
    return (
        f"{_addresses(w, address)} {_EACH_ACTIVE} {{ checked(s, at[l], 4, x); uint32_t *place = (uint32_t *)at[l];"
        f"const uint32_t before = *place; *place = before + {w.bits(source)};"
        f"{'' if to == 'RZ' else f'{w.register(to)}[l] = before;'} }}"
        "latest(&w->scoreboard[x->writes], w->time + (m ? s->latencies.atomic : 10));"
    )
