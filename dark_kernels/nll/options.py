"""What a loss is: the numbers and flags that the operators and both of their backends take."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """What a loss is, in the order of the operators' arguments."""

    stride: float
    is_offset: bool
    distribution: str
    beta: float
    fixed_log_var: float | None
    min_log_var: float
    max_log_var: float
    full: bool
