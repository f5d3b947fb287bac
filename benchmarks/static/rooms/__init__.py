"""The rooms and their real configurations, a file for each."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable

import dark_kernels
from benchmarks.static.calls import Room
from benchmarks.static.rooms import (
    benchmark,
    decode,
    encode,
    heatmap_loss,
    nll,
    peaks,
    poses,
    sampling,
    simcc,
    soft_argmax,
)

# In the order of the table.
ROOMS: tuple[Room, ...] = (
    decode.ROOM,
    nll.ROOM,
    nll.LINEAR_ROOM,
    nll.MIXTURE_ROOM,
    simcc.ROOM,
    poses.ROOM,
    poses.VOTING_ROOM,
    sampling.ROOM,
    soft_argmax.ROOM,
    peaks.ROOM,
    encode.ROOM,
    heatmap_loss.ROOM,
    benchmark.ROOM,
)


def unregistered_modules(rooms: Iterable[Room] = ROOMS) -> list[str]:
    """Modules of the package named `kernels` or `kernels_<part>` that none of these rooms registers."""
    known = {room.module for room in rooms}
    modules = pkgutil.walk_packages(dark_kernels.__path__, dark_kernels.__name__ + ".")
    return sorted(m.name for m in modules if m.name.rsplit(".", 1)[-1].startswith("kernels") and m.name not in known)
