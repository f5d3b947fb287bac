"""Takes times: caches to leave, a read-only pass, CUDA-graph replays, host time a call."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# A replay lasts at least this long, so that starting it and waiting for it (some 10 us) is less than 1% of it.
_SHORTEST_REPLAY = 2e-3
_MOST_CALLS = 2000


def cache_bytes(device: str) -> int:
    """Size of the last-level cache of a device, in bytes; 32 MiB where it can't be read."""
    if device == "cpu":
        sizes = []
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
            if match := re.fullmatch(r"(\d+)([KM])", path.read_text(encoding="utf-8").strip()):
                sizes.append(int(match[1]) * (1024 if match[2] == "K" else 1024**2))
        return max(sizes, default=32 * 1024**2)
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or 64 * 1024**2


def read_once(heatmaps: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that reads every byte of maps like these once and does next to nothing with them.

    It returns B K numbers, of which the largest is that of all maps.

    On CPU the maximum of the bytes as 32-bit integers, in the order in which they lie in memory: PyTorch
    vectorises it and spreads it over the cores whatever the maps' dtype. On CUDA a Triton kernel.
    """
    if heatmaps.device.type != "cpu":
        from benchmarks.kernels import read_maps

        largest = torch.empty(heatmaps.shape[:2], dtype=torch.float32, device=heatmaps.device)

        def read_on_device(maps: Tensor) -> Tensor:
            read_maps(largest, maps)
            return largest

        return read_on_device

    num_maps = heatmaps.shape[0] * heatmaps.shape[1]

    def read(maps: Tensor) -> Tensor:
        return maps.as_strided((maps.numel(),), (1,)).view(torch.int32).view(num_maps, -1).amax(1)

    return read


def rounds_for(seconds_a_call: float, budget: float = 1.0, fewest: int = 3, most: int = 300) -> int:
    """Number of repetitions of a call of that length within a budget of seconds."""
    return max(fewest, min(most, int(budget / max(seconds_a_call, 1e-9))))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that one call took, and what it returned."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Run another process that takes all of one core."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        yield
    finally:
        process.kill()
        process.communicate()


def rotation(inputs: Sequence[Any]) -> Callable[[], tuple[tuple[Any], dict[str, Any]]]:
    """A `setup` for `benchmark.pedantic`: the next input on every round."""
    forever: Iterator[Any] = itertools.cycle(inputs)
    return lambda: ((next(forever),), {})


class GraphReplay:
    """A CUDA graph with many calls of one function on rotated inputs; calling it replays it and waits.

    What the last calls returned is kept until as many others have followed as there are inputs, so that outputs
    rotate as inputs do: a gradient that is written where the last one was would be written to the cache.

    Attributes:
        calls: How many calls a replay holds.
    """

    def __init__(self, call: Callable[[Any], Any], inputs: Sequence[Any]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, and loads modules: neither may happen while capturing
            for arguments in inputs[:3]:
                call(arguments)
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for arguments in inputs:
                call(arguments)
            end.record()
        torch.cuda.synchronize()
        seconds_a_call = begin.elapsed_time(end) / 1000 / len(inputs)
        self.calls = calls_for(seconds_a_call, len(inputs))
        # What the warm-up left in the allocator's cache is of no use to the graph, which has a pool of its own.
        torch.cuda.empty_cache()
        self._graph = torch.cuda.CUDAGraph()
        outputs: collections.deque[Any] = collections.deque(maxlen=len(inputs))
        with torch.cuda.graph(self._graph):
            for i in range(self.calls):
                outputs.append(call(inputs[i % len(inputs)]))
        outputs.clear()
        self()

    def __call__(self) -> None:
        self._graph.replay()
        torch.cuda.synchronize()


def calls_for(seconds_a_call: float, num_inputs: int) -> int:
    """Number of calls in a replay: whole turns of the inputs, and long enough for the host's clock."""
    turns = math.ceil(_SHORTEST_REPLAY / max(seconds_a_call, 1e-7) / num_inputs)
    return num_inputs * max(1, min(turns, _MOST_CALLS // num_inputs))


def host_seconds(call: Callable[[Any], Any], arguments: Any, calls: int = 20, repeats: int = 20) -> float:
    """Median time in which the host issues a call, without waiting for the device."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            call(arguments)
        times.append((time.perf_counter() - started) / calls)
    torch.cuda.synchronize()
    return sorted(times)[repeats // 2]


def driver_version() -> str | None:
    """Version of the GPU driver, or None where nvidia-smi can't say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.split("\n")[0].strip() or None
