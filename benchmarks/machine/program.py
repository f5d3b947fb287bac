"""A kernel's machine code as the emulator runs it: an array of instructions, each with what was compiled for it."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import re
from collections.abc import Sequence

from benchmarks.machine import instructions, toolchain
from benchmarks.machine.disassembly import Instruction, Listing, disassemble
from benchmarks.machine.writing import MOST_PARAMETERS, ZERO_REGISTER, UnknownInstructionError, is_predicate

# As in native/machine.h.
_KINDS = (
    "OPERATION", "NO_OPERATION", "EXIT", "BRANCH", "BRANCH_IF_APART", "MEET", "LEAVE", "WAIT", "SYNC_WARP", "CALL",
    "RETURN", "BARRIER", "FENCE", "INVALIDATE", "COLLECTIVE", "END",
)  # fmt: skip
_KIND = {name: number for number, name in enumerate(_KINDS)}
_ALWAYS, _OF_LANES, _OF_WARP, _NEVER = range(4)

# What decides where lanes go on, and with whom.
_CONTROL = {
    "EXIT": "EXIT", "BRA": "BRANCH", "BSSY": "MEET", "BREAK": "LEAVE", "BSYNC": "WAIT", "WARPSYNC": "SYNC_WARP",
    "CALL": "CALL", "RET": "RETURN", "BAR": "BARRIER", "MEMBAR": "FENCE", "CCTL": "INVALIDATE",
    **dict.fromkeys(("NOP", "ERRBAR", "CGAERRBAR", "DEPBAR", "YIELD", "ENDCOLLECTIVE"), "NO_OPERATION"),
}  # fmt: skip
_CONTROL_MODIFIERS = {
    "BRA": {"DIV", "U", "ANY"}, "BSSY": {"RECONVERGENT"}, "BSYNC": {"RECONVERGENT"}, "WARPSYNC": {"ALL", "COLLECTIVE"},
    "CALL": {"REL", "NOINC"}, "RET": {"REL", "NODEC"}, "BAR": {"SYNC", "DEFER_BLOCKING"}, "CCTL": {"IVALL"},
    "MEMBAR": {"ALL", "SC", "GPU"}, "DEPBAR": {"LE"},
}  # fmt: skip

# Cycles until a result is there whose scoreboard is waited for: microbenchmarks of sm_90 as published, rounded. What is
# not named has the six cycles that ptxas' schedule counts with.
_LATENCIES = {
    "LDS": 29, "LDSM": 33, "STS": 20, "STSM": 33, "STG": 20, "MUFU": 23, "SHFL": 24, "S2R": 30, "S2UR": 30, "CS2R": 12,
    "LDC": 45, "ULDC": 45, "REDUX": 30, "R2UR": 12, "I2F": 23, "F2I": 23, "FRND": 23, "F2F": 23, "FLO": 23, "POPC": 23,
    "FCHK": 23, "VOTEU": 12, "VOTE": 12, "BAR": 22, "BMOV": 20,
}  # fmt: skip
_LATENCY = 6
_TIME_THEMSELVES = ("LDG", "LD", "ATOMG", "ATOM")


class _Predicate(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint8) for name in ("kind", "number", "negated")]


class Native(ctypes.Structure):
    """`Instruction` of native/machine.h."""

    _fields_ = [
        ("run", ctypes.c_void_p), ("kind", ctypes.c_int32), ("address", ctypes.c_uint32), ("index", ctypes.c_uint32),
        ("latency", ctypes.c_uint32), ("stall", ctypes.c_uint8), ("writes", ctypes.c_uint8), ("reads", ctypes.c_uint8),
        ("waits", ctypes.c_uint8), ("joins", ctypes.c_uint8), ("times_itself", ctypes.c_uint8), ("guard", _Predicate),
        ("condition", _Predicate), ("target", ctypes.c_uint32), ("k", ctypes.c_uint32 * MOST_PARAMETERS),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """The code of a kernel, as text and to be run."""

    listing: Listing
    native: ctypes.Array[Native]


@functools.lru_cache(maxsize=512)
def program(cubin: bytes) -> Program:
    """The program of a cubin with one kernel."""
    listing = disassemble(cubin)
    code = (Native * (len(listing.instructions) + 1))()
    bodies: dict[int, str] = {}
    for each in listing.instructions:
        native = code[each.index]
        native.address, native.index, native.stall = each.address, each.index, each.stall
        native.writes, native.reads, native.waits = each.writes, each.reads, each.waits
        native.latency = _LATENCIES.get(each.opcode, _LATENCY)
        native.times_itself = each.opcode in _TIME_THEMSELVES
        if each.opcode in _CONTROL:
            _write_control(native, each, listing)
        else:
            bodies[each.index], parameters = instructions.write(each)
            native.k[: len(parameters)] = parameters
    addresses = _compiled(list(bodies.values()))
    for index, body in bodies.items():
        code[index].run = addresses[body]
    for place in _joins(listing, code):
        code[place].joins = 1
    code[len(listing.instructions)].kind = _KIND["END"]
    return Program(listing, code)


def _predicate(name: str) -> _Predicate:
    negated, name = name.startswith("!"), name.lstrip("!")
    if name in ("PT", "UPT"):
        return _Predicate(_NEVER if negated else _ALWAYS, 0, 0)
    return _Predicate(_OF_WARP if name.startswith("U") else _OF_LANES, int(name[-1]), negated)


def _write_control(native: Native, instruction: Instruction, listing: Listing) -> None:
    if unknown := set(instruction.modifiers) - _CONTROL_MODIFIERS.get(instruction.opcode, set()):
        raise UnknownInstructionError(instruction, f"the modifier {min(unknown)!r}")
    kind = _CONTROL[instruction.opcode]
    operands = [each for each in instruction.operands if not is_predicate(each)]
    conditions = [each for each in instruction.operands if is_predicate(each)]
    native.guard = _predicate(instruction.guard)
    native.condition = _predicate(conditions[0]) if conditions else _Predicate(_ALWAYS, 0, 0)
    if kind in ("BRANCH", "CALL"):
        target = listing.target(instruction)
        if target is None or len(conditions) > 1:
            raise UnknownInstructionError(instruction, "the target")
        native.target = target
        if "DIV" in instruction.modifiers:
            kind, mask = "BRANCH_IF_APART", operands[0]
            native.k[0] = 63 if mask == "URZ" else int(mask[2:])
    elif kind in ("MEET", "LEAVE", "WAIT"):
        native.k[0] = int(next(each for each in operands if re.fullmatch(r"B\d+", each))[1:])
    elif "COLLECTIVE" in instruction.modifiers:  # where an exchange goes on whose lanes are apart
        kind = "COLLECTIVE"
    elif kind == "SYNC_WARP":
        register = re.fullmatch(r"R(\d+)", operands[0]) if operands else None
        if register is None and "ALL" not in instruction.modifiers and operands != ["0xffffffff"]:
            raise UnknownInstructionError(instruction, "the lanes")
        native.k[0] = int(register[1]) if register else ZERO_REGISTER
    elif kind == "RETURN":
        native.k[0] = int(operands[0].split()[0][1:])
    elif kind == "BARRIER" and operands != ["0x0"]:
        raise UnknownInstructionError(instruction, "the barrier")
    native.kind = _KIND[kind]


def _joins(listing: Listing, code: ctypes.Array[Native]) -> set[int]:
    """Places at which lanes may go on with others: behind control flow, where it leads, and where calls return to."""
    places = {0}
    for each in listing.instructions:
        if each.opcode in _CONTROL:
            places.add(each.index + 1)
            if (target := listing.target(each)) is not None:
                places.add(target)
    if any(each.opcode == "RET" for each in listing.instructions):
        addresses = {each.immediate for each in listing.instructions}
        places |= {each.index for each in listing.instructions if each.address in addresses}
    return places - {len(listing.instructions)}


# --- compiled bodies ----------------------------------------------------------------------------------------

_addresses: dict[str, int] = {}


def _compiled(bodies: Sequence[str]) -> dict[str, int]:
    """Addresses of functions with these bodies. What was not compiled here before is compiled together."""
    missing = sorted(set(bodies) - _addresses.keys())
    if new := [body for body in missing if toolchain.noted(_name(body)) is None]:
        library = toolchain.build('#include "machine.h"\n' + "".join(map(_function, new)))
        for body in new:
            toolchain.note(_name(body), library)
    for body in missing:
        function = getattr(toolchain.load(str(toolchain.noted(_name(body)))), _name(body))
        _addresses[body] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return {body: _addresses[body] for body in bodies}


@functools.cache
def _name(body: str) -> str:
    return f"operation_{toolchain.key(body)}"


def _function(body: str) -> str:
    return (
        f"void {_name(body)}(State *s, Warp *w, const Instruction *x)\n"
        "{ uint32_t (*const r)[LANES] = w->r; uint32_t *const ur = w->ur, *const p = w->p; (void)s, (void)r, (void)ur,"
        f" (void)p;\n{body} }}\n"
    )
