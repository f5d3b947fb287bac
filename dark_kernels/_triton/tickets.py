"""Device function that finds the program of a launch that finishes last, which puts together what the others left.

So a reduction over programs takes one launch and keeps one order of summation: each program stores its part, draws a
ticket, and the one that draws the last reads all parts.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backends import is_capturing

# Counters are made so many at a time, with so many bytes from one to the next: Triton compiles once for addresses that
# divide by 16. A graph that is captured after a plain launch finds at least half as many.
_BLOCK, _COUNTER_BYTES = 2048, 16


@triton.jit
def finishes_last(counter_ptr):
    """True if all other programs of the launch have called this before, once each.

    Then all that they stored until then can be read, past the first cache (".cg"). Leaves the counter at zero.
    """
    # The stores of all threads come before the ticket, which one thread draws.
    tl.debug_barrier()
    ticket = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    is_last = ticket == tl.num_programs(0) - 1
    tl.store(counter_ptr, 0, mask=is_last)
    return is_last


def counter(device: torch.device) -> Tensor:
    """Give an int32 zero for `finishes_last`, for the next launch on the current device and stream: [1].

    Launches on one stream follow each other and share theirs. One that a graph captures gets its own, since the graph
    may be replayed beside any stream.
    """
    if device.type == "cpu":  # the interpreter
        return torch.zeros(1, dtype=torch.int32, device=device)
    module = torch.get_device_module(device)
    counters = _counters[device]
    if is_capturing(device):
        # Where there is none left the fill is captured, too.
        return counters.unused.pop() if counters.unused else torch.zeros(1, dtype=torch.int32, device=device)
    stream = module.current_stream(device)
    own = counters.of_streams.get(stream.stream_id)
    if own is None or counters.are_few():
        with counters.lock:
            own = counters.prepare(module, device, stream)
    return own


class _Counters:
    """Counters of a device."""

    def __init__(self) -> None:
        self.of_streams: dict[int, Tensor] = {}
        self.unused: list[Tensor] = []
        self.blocks: list[Tensor] = []  # for good: graphs go on counting in what they have captured
        self.made: Any = None  # the event after which the latest are zero
        self.lock = threading.Lock()

    def are_few(self) -> bool:
        return len(self.unused) < _BLOCK // 2

    def prepare(self, module: Any, device: torch.device, stream: Any) -> Tensor:
        """Take a counter for a stream that has none. Make unused ones before there are none left."""
        if self.are_few():
            # In a thread of its own: what a graph's warm-up allocates in this one belongs to the graph's memory, in
            # which nothing may stay.
            maker = threading.Thread(target=self._make, args=(module, device))
            maker.start()
            maker.join()
        if stream.stream_id not in self.of_streams:
            stream.wait_event(self.made)
            self.of_streams[stream.stream_id] = self.unused.pop()
        return self.of_streams[stream.stream_id]

    def _make(self, module: Any, device: torch.device) -> None:
        with module.device(device):
            size = _COUNTER_BYTES // torch.int32.itemsize
            counters = torch.zeros(_BLOCK * size, dtype=torch.int32, device=device)
            self.made = module.Event()
            self.made.record(module.current_stream(device))
        self.blocks.append(counters)
        self.unused += [part[:1] for part in counters.split(size)]


_counters: collections.defaultdict[torch.device, _Counters] = collections.defaultdict(_Counters)
