"""The program of a launch that finishes last, which puts together what the others left.

So a reduction over programs takes one launch and keeps one order of summation: each program stores its part, draws a
ticket, and the one that draws the last reads all parts.
"""

from __future__ import annotations

import collections

import torch
import triton
import triton.language as tl
from torch import Tensor

# Counters for launches that a graph captures, made so many at a time, and bytes from one to the next: Triton compiles
# once for addresses that divide by 16.
_SPARE, _COUNTER_BYTES = 64, 16


@triton.jit
def finishes_last(counter_ptr):
    """Whether all other programs of the launch have called this before, once each: what they stored until then can be
    read, past the first cache (".cg"). Leaves the counter at zero."""
    # The stores of all threads come before the ticket, which one thread draws.
    tl.debug_barrier()
    ticket = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    is_last = ticket == tl.num_programs(0) - 1
    tl.store(counter_ptr, 0, mask=is_last)
    return is_last


class _Counters:
    """Those of a device."""

    def __init__(self) -> None:
        self.of_streams: dict[int, Tensor] = {}
        self.spare: list[Tensor] = []


_counters: collections.defaultdict[torch.device, _Counters] = collections.defaultdict(_Counters)


def counter(device: torch.device) -> Tensor:
    """An int32 zero for `finishes_last`, for the next launch on the current device and stream: [1].

    Launches on one stream follow each other and share theirs. One that a graph captures gets its own, since the graph
    may be replayed beside any stream.
    """
    if device.type == "cpu":  # the interpreter
        return _zeros(1, device)
    module = torch.get_device_module(device)
    counters = _counters[device]
    is_capturing = getattr(module, "is_current_stream_capturing", None)
    if is_capturing is not None and is_capturing():
        # Without a spare one the fill is captured, too.
        return counters.spare.pop() if counters.spare else _zeros(1, device)
    stream = module.current_stream(device).stream_id
    own = counters.of_streams.get(stream)
    if own is None:
        own = counters.of_streams[stream] = _zeros(1, device)
    if not counters.spare:
        size = _COUNTER_BYTES // own.itemsize
        counters.spare += [part[:1] for part in _zeros(_SPARE * size, device).split(size)]
    return own


def _zeros(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, dtype=torch.int32, device=device)
