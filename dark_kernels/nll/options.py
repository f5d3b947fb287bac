"""Options of a loss: the numbers and flags that the operators and both of their backends take."""

from __future__ import annotations

import math
from typing import NamedTuple


class Options(NamedTuple):
    """Options of a loss, in the order of the operators' arguments. A mixture's are those of a Gaussian."""

    stride: float
    is_offset: bool
    distribution: str = "gaussian"
    beta: float = 0.0
    fixed_log_var: float | None = None
    min_log_var: float = -math.inf
    max_log_var: float = math.inf
    full: bool = False


def options_of(
    stride: float,
    coordinates: str,
    distribution: str = "gaussian",
    beta: float = 0.0,
    fixed_log_var: float | None = None,
    log_var_bounds: tuple[float, float] | None = None,
    full: bool = False,
) -> Options:
    """Turn what users give, which is checked already, into options."""
    low, high = (-math.inf, math.inf) if log_var_bounds is None else log_var_bounds
    return Options(
        stride=float(stride),
        is_offset=coordinates == "offset",
        distribution=distribution,
        beta=float(beta),
        fixed_log_var=None if fixed_log_var is None else float(fixed_log_var),
        min_log_var=float(low),
        max_log_var=float(high),
        full=bool(full),
    )


def mixture_options(stride: float, is_offset: bool, min_log_var: float, max_log_var: float) -> Options:
    """Put together the arguments of the mixture's operator."""
    return Options(stride, is_offset, min_log_var=min_log_var, max_log_var=max_log_var, full=True)
