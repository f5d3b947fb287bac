"""Reading entries of annotations and results: of JSON, of data frames, and with NumPy or PyTorch inside.

`where` names the entry for the message, such as "annotations: got annotation 11 (image 1)".
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._common import checks

# Neither a number nor several.
_NO_NUMBERS = (str, bytes, bytearray, Mapping)


def read_json(given: Any) -> Any:
    """Read a file, if it is the path of one. JSON says itself in which Unicode it is written."""
    return json.loads(Path(given).read_bytes()) if isinstance(given, (str, os.PathLike)) else given


def shown(value: Any) -> str:
    """For messages: the type, and the beginning of the value."""
    return f"{type(value).__name__} {reprlib.repr(value)}"


def is_missing(value: Any) -> bool:
    """None, or the NaN or NA that stands for it in a data frame."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    value = checks.plain(value)
    return isinstance(value, float) and math.isnan(value)


def check_mapping(where: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where} {shown(entry)}, expected a dict")


def identity(where: str, key: str, value: Any) -> Any:
    """An id: an int, a string, or anything else that can be looked up."""
    value = checks.plain(value)
    if getattr(value, "ndim", 0) == 0 and not isinstance(value, _NO_NUMBERS[1:]):
        try:
            hash(value)
        except TypeError:
            pass
        else:
            return value
    raise TypeError(f"{where} with {key!r} {shown(value)}, expected an int or a string")


def number(where: str, key: str, value: Any, expected: str = "a number") -> float:
    """Maybe NaN or infinite."""
    plain = checks.plain(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise TypeError(f"{where} with {key!r} {shown(value)}, expected {expected}")
    return plain


def count(where: str, key: str, value: Any) -> int:
    """From 0."""
    found = number(where, key, value)
    if not (0 <= found < math.inf and found == int(found)):
        raise ValueError(f"{where} with {key!r} {shown(value)}, expected an integer from 0")
    return int(found)


def flag(where: str, key: str, value: Any) -> int:
    """0 or 1; what is missing is 0."""
    if is_missing(value):
        return 0
    found = checks.plain(value)
    if not isinstance(found, (int, float)):
        raise TypeError(f"{where} with {key!r} {shown(value)}, expected 0 or 1")
    if found not in (0, 1):
        raise ValueError(f"{where} with {key!r} {shown(value)}, expected 0 or 1")
    return int(found)


def box(where: str, value: Any) -> list[float] | None:
    """(x, y, width, height), or None where there is none."""
    if is_missing(value):
        return None
    expected = "4 finite numbers: x, y, width and height"
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{where} with 'bbox' {shown(value)}, expected {expected}")
    given = value.tolist() if hasattr(value, "tolist") else list(value)
    if all(map(is_missing, given)):  # also []
        return None
    found = [number(where, "bbox", each, f"{expected}, in {reprlib.repr(given)}") for each in given]
    if len(found) != 4 or not all(map(math.isfinite, found)):
        raise ValueError(f"{where} with 'bbox' {reprlib.repr(given)}, expected {expected}")
    return found


def triplets(where: str, value: Any, third: str) -> list[float]:
    """x, y and a `third` number of each keypoint behind each other: of such a list, or of one for each keypoint,
    [K, 3]. Arrays and tensors are lists too."""
    expected = f"x, y and {third} of each keypoint, as 3 K numbers or [K, 3]"
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{where} with 'keypoints' {shown(value)}, expected {expected}")
    given = value.tolist() if hasattr(value, "tolist") else list(value)
    if all(type(each) in (int, float) for each in given):
        return given
    rows = [
        (each.tolist() if hasattr(each, "tolist") else list(each))
        if isinstance(each, Iterable) and not isinstance(each, _NO_NUMBERS) and getattr(each, "ndim", 1) != 0
        else None
        for each in given
    ]
    if all(row is not None for row in rows):
        wrong = next((row for row in rows if len(row or ()) != 3), None)
        if wrong is not None:
            raise ValueError(f"{where} with {reprlib.repr(wrong)} in 'keypoints', expected {expected}")
        given = [each for row in rows for each in row or ()]
    found = [checks.plain(each) for each in given]
    for each in found:
        if not isinstance(each, (int, float)):
            raise TypeError(f"{where} with {shown(each)} in 'keypoints', expected {expected}")
    return found
