"""Comparisons, and how they are joined with a predicate."""

from __future__ import annotations

from collections.abc import Sequence

SIGNS = {"LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!="}
JOINTS = "AND OR XOR"
OF_FLOATS = " ".join((*SIGNS, *(f"{each}U" for each in SIGNS), "NAN", "NUM"))


def joined(modifiers: Sequence[str], condition: str, predicate: str) -> str:
    """A condition, with the predicate that an instruction joins it with."""
    for joint, sign in (("AND", "&"), ("OR", "|"), ("XOR", "^")):
        if joint in modifiers:
            return f"((uint32_t)({condition}) {sign} {predicate})"
    return f"(uint32_t)({condition})"


def compared_floats(modifiers: Sequence[str], one: str, other: str) -> str:
    """Tell if two floats compare as an instruction asks; those that end with U are true of NaN as well."""
    is_nan = f"({one} != {one} || {other} != {other})"
    for modifier in modifiers:
        if modifier == "NE":
            return f"(({one} < {other}) || ({one} > {other}))"
        if modifier in SIGNS:
            return f"({one} {SIGNS[modifier]} {other})"
        if modifier == "NEU":
            return f"!({one} == {other})"
        if modifier.endswith("U") and modifier[:-1] in SIGNS:
            return f"({is_nan} || {one} {SIGNS[modifier[:-1]]} {other})"
        if modifier in ("NAN", "NUM"):
            return is_nan if modifier == "NAN" else f"!{is_nan}"
    raise ValueError(f"no comparison among {' '.join(modifiers)}")
