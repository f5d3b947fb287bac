"""Options of a search for peaks."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """As `find_peaks` documents its arguments, in the order of the operator's schema."""

    max_peaks: int
    threshold: float
    window: int
    plateau: str
