"""Registers that a thread may take, for each kind of work.

NVIDIA's compiler aims at the next step of occupancy and spills a word or two to reach it. Named a limit it stays below
that. Each limit spills nothing on any GPU of `make compile-report`, and one of an older Triton on compute capabilities
8.0 and 9.0. Triton hands its own code to the same compiler, so versions differ by some registers.

A scheduler has 16384 registers, in steps of 8 a thread: it holds 8 warps at 64, 7 at 72, 6 at 80, 5 at 96, 4 at 128, 3
at 168, and 2 above. Of limits on one step the lower is no faster. A spill is not monotone in the limit: try each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton


class Limit(NamedTuple):
    """Registers of a thread, from 1 to 255."""

    registers: int
    before_3_7: int | None = None  # where older Tritons need another


LIMITS = {
    "decode": Limit(96, before_3_7=128),
    "decode, wide stencil": Limit(96, before_3_7=176),
    "decode, wide search": Limit(128, before_3_7=168),
    "decode, search": Limit(120, before_3_7=128),
    "decode, fit": Limit(128, before_3_7=136),
    "decode, matched search": Limit(168),
    "decode, matched search, masses": Limit(232, before_3_7=168),
    "decode, flip test": Limit(120, before_3_7=144),
    "decode, flip test, fit or wide search": Limit(136, before_3_7=232),
    "decode, flip test, matched search": Limit(168, before_3_7=224),
    "decode, flip test of logits or masses": Limit(152, before_3_7=168),
    "find_peaks": Limit(128),
    "find_peaks, wide index": Limit(168),
    "find_peaks of logits": Limit(128, before_3_7=144),
    "find_peaks, fit": Limit(184),
    "find_peaks, fit of logits": Limit(200),
    "find_peaks, blob": Limit(168, before_3_7=192),
    "find_peaks, wide blob": Limit(232),
    "decode_simcc": Limit(96),
    "soft_argmax": Limit(96),
    "linear_gaussian_nll": Limit(128),
    "heatmap_loss of several people": Limit(96),
    "heatmap_loss of several people, interleaved": Limit(128),
    "oks": Limit(96),
    "oks_nms": Limit(96),
    "vote": Limit(96),
}


def register_limit(work: str) -> dict[str, int]:
    """The option of a launch that names the limit to the compiler. Other vendors' compilers know no such option."""
    elsewhere = torch.version.hip is not None or getattr(torch.version, "xpu", None) is not None
    return {} if elsewhere else {"maxnreg": limit_for(work, triton.__version__)}


def limit_for(work: str, version: str) -> int:
    """Registers of a thread with that version of Triton."""
    limit = LIMITS[work]
    is_older = tuple(map(int, version.split(".")[:2])) < (3, 7)
    return limit.before_3_7 if is_older and limit.before_3_7 is not None else limit.registers
