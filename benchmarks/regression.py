"""Rows that are slower than in an earlier results file, by more than the noise of both."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

# Two runs of the same code on the same quiet machine differ by this much.
_LEAST_NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class Change:
    """A row in two files.

    Attributes:
        group: Of the row.
        row: Its name.
        before: Seconds a call in the earlier file.
        after: Seconds a call now.
        noise: Share of `before` by which the two may differ without a reason.
    """

    group: str
    row: str
    before: float
    after: float
    noise: float

    @property
    def slower(self) -> float:
        """0.1 where it takes 10% longer, negative where it takes less long."""
        return self.after / self.before - 1

    @property
    def is_regression(self) -> bool:
        """True if it is slower by more than the noise."""
        return self.slower > self.noise


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """All rows that both files have, in the order of the later one.

    The noise of a row is twice the spread of both of its medians together, with a quartile distance taken for the
    spread: half of all rounds lie within it.

    Raises:
        ValueError: The files are of different devices.
    """
    names = [record["machine_info"]["device_name"] for record in (before, after)]
    if names[0] != names[1]:
        raise ValueError(f"device: got {names[0]!r} before and {names[1]!r} after, expected the same device")
    earlier = {(b["group"], b["extra_info"]["row"]): b for b in before["benchmarks"]}
    found = []
    for benchmark in after["benchmarks"]:
        key = (benchmark["group"], benchmark["extra_info"]["row"])
        if key not in earlier:
            continue
        spreads = [b["stats"]["iqr"] / b["stats"]["median"] for b in (earlier[key], benchmark)]
        noise = max(_LEAST_NOISE, 2 * math.hypot(*spreads))
        seconds = [b["extra_info"]["seconds"] for b in (earlier[key], benchmark)]
        found.append(Change(*key, *seconds, noise))
    return found
