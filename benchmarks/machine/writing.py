"""Writes an instruction in C: its operands as expressions, and what it computes as a body over lanes.

Numbers of registers, immediates and offsets into the constants are parameters (`k0`, `k1`, ...), so that instructions
which differ in nothing else share what is compiled of them. What is the same in all lanes is read before the loop over
them: the host's compiler cannot know that no lane writes it. The words are those of `native/machine.h`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.machine.disassembly import Instruction

MOST_PARAMETERS = 32  # MAX_OPERANDS of machine.h
ZERO_REGISTER = 255

_NUMBER = re.compile(r"[-+]?(\d+(\.\d+)?(e[-+]?\d+)?|INF|QNAN|SNAN)")
_INTEGER = re.compile(r"-?0x[0-9a-f]+")
_CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_PREDICATE = re.compile(r"!?U?P(T|\d)")
_ALWAYS = ("PT", "UPT")


class UnknownInstructionError(NotImplementedError):
    """The emulator does not know what an instruction does."""

    def __init__(self, instruction: Instruction, what: str = "the instruction") -> None:
        super().__init__(f"the emulator does not know {what} of {instruction.text!r}: add it to benchmarks/machine")


class Writer:
    """Writes one instruction. `uniform`: of the warp, not of its lanes."""

    def __init__(self, instruction: Instruction, uniform: bool = False) -> None:
        self.instruction = instruction
        self.uniform = uniform
        self.parameters: list[int] = []
        self._read_before: list[str] = []

    def reads(self) -> str:
        """The statements that read what is the same in all lanes."""
        names = "".join(f"const uint32_t k{i} = x->k[{i}];" for i in range(len(self.parameters)))
        return names + "".join(self._read_before)

    def _before(self, value: str) -> str:
        """A name for what is the same in all lanes."""
        name = f"same{len(self._read_before)}"
        self._read_before.append(f"const uint32_t {name} = {value};")
        return name

    def unknown(self, what: str) -> UnknownInstructionError:
        return UnknownInstructionError(self.instruction, what)

    def parameter(self, value: int) -> str:
        if len(self.parameters) == MOST_PARAMETERS:
            raise self.unknown("how to hold so many operands")
        self.parameters.append(value & 0xFFFFFFFF)
        return f"k{len(self.parameters) - 1}"

    # --- operands as they are -------------------------------------------------------------------------------

    def register(self, name: str, offset: int = 0) -> str:
        """The row of a register: 32 lanes."""
        match = re.match(r"R(\d+|Z)", name)
        if match is None:
            raise self.unknown(f"the register {name!r}")
        number = ZERO_REGISTER if match[1] == "Z" else int(match[1]) + offset
        return f"r[{self.parameter(number)}]"

    def uniform_register(self, name: str, offset: int = 0) -> str:
        match = re.match(r"UR(\d+)", name)
        if match is None:
            raise self.unknown(f"the uniform register {name!r}")
        return f"ur[{self.parameter(int(match[1]) + offset)}]"

    def bits(self, operand: str, offset: int = 0) -> str:
        """32 bits of an operand without a sign: of a register, a constant or an immediate."""
        if operand in ("RZ", "URZ", "SRZ"):
            return "0u"
        if re.fullmatch(r"R\d+", operand):
            return f"{self.register(operand, offset)}[l]"
        if re.fullmatch(r"UR\d+", operand):
            return self._before(self.uniform_register(operand, offset))
        if match := _CONSTANT.fullmatch(operand):
            return self._before(f"CONSTANT({self.parameter(int(match[1], 16) + 4 * offset)})")
        if _INTEGER.fullmatch(operand):
            return self.parameter(int(operand, 16) >> 32 * offset)
        if _NUMBER.fullmatch(operand):
            return self.parameter(self.instruction.immediate)
        raise self.unknown(f"the operand {operand!r}")

    def predicate(self, operand: str) -> str:
        """0 or 1."""
        name = operand.lstrip("!")
        if name in _ALWAYS:
            return "0u" if operand.startswith("!") else "1u"
        place = self.parameter(int(name[-1]))
        negated = operand.startswith("!")
        if name[0] == "P":
            return f"(HAS({self._before('~' * negated + f'p[{place}]')}))"
        return self._before(f"(({'~' * negated}w->up) >> {place}) & 1u")

    # --- operands as numbers --------------------------------------------------------------------------------

    def integer(self, operand: str) -> str:
        if operand.startswith("-") and not operand.startswith("-0x"):
            return f"(0u - {self.bits(operand[1:])})"
        if operand.startswith("~"):
            return f"(~{self.bits(operand[1:])})"
        if operand.startswith("|"):
            return f"absolute({self.bits(operand.strip('|'))})"
        return self.bits(operand)

    def signed(self, operand: str) -> str:
        return f"(int32_t)({self.integer(operand)})"

    def addend(self, operand: str) -> str:
        """64 bits of a summand whose carry counts: -a is ~a + 1 there."""
        if operand.startswith("-") and not operand.startswith("-0x"):
            return f"((uint64_t)(~{self.bits(operand[1:])}) + 1u)"
        return f"(uint64_t)({self.integer(operand)})"

    def wide(self, operand: str) -> str:
        """64 bits of two registers, two constants, or an immediate."""
        if operand in ("RZ", "URZ", "-RZ", "-URZ"):
            return "0ull"
        if _INTEGER.fullmatch(operand):
            return f"WIDE({self.bits(operand, 1)}, {self.bits(operand)})"
        if operand.startswith("-"):
            return f"(0ull - {self.wide(operand[1:])})"
        return f"WIDE({self.bits(operand, 1)}, {self.bits(operand)})"

    def number(self, operand: str) -> str:
        """A float32, denormal ones being zero where the instruction says so."""
        if _NUMBER.fullmatch(operand):
            return f"as_float({self.bits(operand)})"
        sign, magnitude, name = _signs(operand)
        value = f"as_float({self.bits(name)})"
        if "FTZ" in self.instruction.modifiers:
            value = f"flushed({value})"
        return f"({sign}{f'fabsf({value})' if magnitude else value})"

    def double(self, operand: str) -> str:
        """A float64: of an immediate the upper half."""
        if _NUMBER.fullmatch(operand):
            return f"double_of_bits((uint64_t){self.bits(operand)} << 32)"
        sign, magnitude, name = _signs(operand)
        value = f"double_of_bits({self.wide(name)})"
        return f"({sign}{f'fabs({value})' if magnitude else value})"

    def half(self, operand: str, which: int) -> str:
        """A float32 of one of the two halves, float16 or bfloat16, of a register or an immediate."""
        kind = "bfloat16" if "BF16_V2" in self.instruction.modifiers else "half"
        if _NUMBER.fullmatch(operand):
            return f"{kind}_to_float(({self.bits(operand)} >> {16 * which}) & 0xffffu)"
        sign, magnitude, name = _signs(operand)
        name, _, choice = name.partition(".")
        which = {"": which, "H1_H0": which, "H0_H0": 0, "H1_H1": 1}.get(choice, -1)
        if which < 0:
            raise self.unknown(f"the choice {choice!r}")
        value = f"{kind}_to_float(({self.bits(name)} >> {16 * which}) & 0xffffu)"
        return f"({sign}{f'fabsf({value})' if magnitude else value})"

    def address(self, operand: str) -> str:
        """Address of a lane: 64 bits for global memory, an offset for shared memory."""
        match = re.fullmatch(r"(?:desc\[UR\d+\])?\[(.*)\]", operand)
        if match is None:
            raise self.unknown(f"the address {operand!r}")
        is_global = operand.startswith("desc")
        terms = []
        for sign, part in re.findall(r"([+-]?)([^+-]+)", match[1]):
            name, _, kind = part.partition(".")
            if _INTEGER.fullmatch(part):
                value = int(part, 16)
                terms.append(f"(int32_t){self.parameter(-value if sign == '-' else value)}")
            elif name in ("RZ", "URZ"):
                continue
            elif kind == "64" or (is_global and name.startswith("UR") and not kind):
                terms.append(f"(int64_t){self.wide(name)}")
            elif kind in ("", "U32"):
                terms.append(f"(int64_t){self.bits(name)}")
            elif kind in ("X4", "X8", "X16"):
                terms.append(f"(int64_t)({self.bits(name)} * {kind[1:]}u)")
            else:
                raise self.unknown(f"the address {operand!r}")
        return f"(uint64_t)({' + '.join(terms) or '0'})"

    def guard(self) -> str:
        """The lanes for which the instruction is."""
        guard = self.instruction.guard
        name, negated = guard.lstrip("!"), guard.startswith("!")
        if name in _ALWAYS:
            return "0u" if negated else "active"
        place = self.parameter(int(name[-1]))
        if name[0] == "P":
            return f"(active & {'~' if negated else ''}p[{place}])"
        return f"(((w->up >> {place}) & 1u) == {0 if negated else 1}u ? active : 0u)"

    # --- what is computed -----------------------------------------------------------------------------------

    def put(self, operand: str, value: str, offset: int = 0) -> str:
        """A statement that writes 32 bits to a register, in a lane or of the warp."""
        if operand in ("RZ", "URZ"):
            return ""
        if operand.startswith("UR"):
            return f"{self.uniform_register(operand, offset)} = {value};"
        return f"PUT({self.register(operand, offset)}, {value});"

    def put_predicate(self, operand: str, value: str) -> str:
        """A statement that writes a predicate: a bit a lane, or one bit of the warp."""
        if operand in _ALWAYS:
            return ""
        if operand.startswith("UP"):
            return f"PUT_UNIFORM_PREDICATE({self.parameter(int(operand[2:]))}, {value});"
        return f"PUT_PREDICATE(p[{self.parameter(int(operand[1:]))}], {value});"

    def compute(
        self,
        *registers: tuple[str, str] | tuple[str, str, int],
        predicates: Sequence[tuple[str | None, str]] = (),
        given: str = "",
    ) -> str:
        """A body that computes results in every lane (or once, for the warp) and then writes them.

        Args:
            registers: Names, expressions, and how far behind the named register they go.
            predicates: Names and conditions.
            given: Statements before, for what expressions share.
        """
        live = [(name, value) for name, value in predicates if name is not None and name not in _ALWAYS]
        values = "".join(f"uint32_t v{i} = {each[1]};" for i, each in enumerate(registers))
        puts = "".join(self.put(each[0], f"v{i}", *each[2:]) for i, each in enumerate(registers))
        ends = "".join(self.put_predicate(name, f"q{i}") for i, (name, _) in enumerate(live))
        if self.uniform:
            bits = "".join(f"uint32_t q{i} = ({value}) ? 1u : 0u;" for i, (_, value) in enumerate(live))
            return f"{given}{bits}{values}{puts}{ends}"
        before = "".join(f"uint32_t q{i} = 0;" for i in range(len(live)))
        bits = "".join(f"q{i} |= (({value}) ? 1u : 0u) << l;" for i, (_, value) in enumerate(live))
        return f"{before} EACH_LANE {{ {given}{bits}{values}{puts} }} {ends}"


def is_predicate(operand: str) -> bool:
    return _PREDICATE.fullmatch(operand) is not None


def _signs(operand: str) -> tuple[str, bool, str]:
    """The parts of -|R0|: the sign, whether its magnitude is taken, and the rest."""
    sign = "-" if operand.startswith("-") else ""
    rest = operand.removeprefix("-")
    return sign, rest.startswith("|"), rest.replace("|", "")
