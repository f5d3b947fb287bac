"""One row of a table, whatever the operation: its output is compared with the truth, and then it is timed.

A `Row` is what is called and how its output is compared; `time_row` does the rest, with pytest-benchmark's clock on a
CPU and by CUDA-graph replay on a GPU. `suite.py` has what suites make rows of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch

from benchmarks import measure, results
from benchmarks.peers import NotInstalled, Wrong

# Name of the pytest property under which a wrong row is reported; conftest.py collects them.
WRONG = "wrong"

# Calls that last longer than this are timed by the host's clock on a GPU too: waiting for them costs nothing beside
# it, and a graph would keep all they allocate.
_LONG_CALL = 20e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """Something to time.

    Attributes:
        call: Takes one of the rotated inputs.
        compare: Takes what `call` returned for the first input; returns the largest error and what it is of. Raises
            AssertionError where it is too large, or `Wrong` if that is a peer's.
        bytes: What a call must move.
        role: One of `results.ROLES`.
        note: What a reader has to know to compare the row.
        capture: Whether a CUDA graph may hold the call. `"try"` falls back to the host's clock: nobody else has
            promised to be capturable. `"never"` is for what waits for the device, or is not ours to try.
        is_disturbed: Whether a busy process runs beside it while it is timed on a CPU.
    """

    call: Callable[[Any], Any]
    compare: Callable[[Any], tuple[float | None, str]]
    bytes: int
    role: str = "peer"
    note: str | None = None
    capture: Literal["always", "try", "never"] = "try"
    is_disturbed: bool = False


def time_row(
    benchmark: Any,
    request: pytest.FixtureRequest,
    make: Callable[[], Row],
    inputs: Sequence[Any],
    device: str,
    group: str,
    identity: dict[str, Any],
) -> None:
    """Compare a row's output and time it; skip with a reason where it can't run or is wrong.

    Args:
        benchmark: pytest-benchmark's fixture.
        request: pytest's, of the test that this is.
        make: Returns the row. May raise `NotInstalled`.
        inputs: What to rotate through; each is handed to the row's call.
        device: "cpu" or "cuda".
        group: Which rows are compared with each other.
        identity: `results.IDENTITY_FIELDS`.
    """
    try:
        row = make()
        first_seconds, output = measure.timed(lambda: row.call(inputs[0]))
    except NotInstalled as reason:
        pytest.skip(str(reason))
    try:
        error, error_of = row.compare(output)
    except Wrong as reason:
        if row.role not in results.OTHERS:
            raise AssertionError(f"{identity['row']}: {reason}") from reason
        request.node.user_properties.append(
            (WRONG, {"group": group, "extra_info": identity, "reason": str(reason)}),
        )
        pytest.skip(f"wrong: {reason}")
    del output

    benchmark.group = group
    benchmark.extra_info.update(
        identity,
        role=row.role,
        note=row.note,
        error=error,
        error_of=error_of,
        bytes=row.bytes,
        copies=len(inputs),
        calls_per_round=1,
        host_seconds=None,
        peak_bytes=None,
    )
    if device == "cpu":
        with measure.busy_process() if row.is_disturbed else contextlib.nullcontext():
            _time_on_cpu(benchmark, row, inputs, first_seconds)
    else:
        _time_on_cuda(benchmark, row, inputs)


def read_row(maps: Sequence[torch.Tensor], note: str | None = None) -> Row:
    """A floor: reading maps [B, K, ...] once, one of these after the other."""
    read, following = measure.read_once(maps[0]), itertools.cycle(maps)

    def compare(output: torch.Tensor) -> tuple[None, str]:
        elements = maps[0].as_strided((maps[0].numel(),), (1,))
        expected = (elements.view(torch.int32) if elements.device.type == "cpu" else elements).max()
        assert float(output.max()) == float(expected), "the read-only pass does not read all of the maps"
        return None, "nothing but the largest value of all maps"

    size = maps[0].numel() * maps[0].itemsize
    return Row(lambda _: read(next(following)), compare, size, role="floor", note=note, capture="always")


def copy_row(maps: Sequence[torch.Tensor]) -> Row:
    """A floor: reading maps [B, K, ...] and copying them to where something has been written before, one of these after
    the other."""
    read = measure.read_once(maps[0])
    following = itertools.cycle([(each, torch.zeros_like(each)) for each in maps])

    def call(_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        source, target = next(following)
        return read(source), target.copy_(source)

    def compare(output: tuple[torch.Tensor, torch.Tensor]) -> tuple[None, str]:
        assert torch.equal(output[1], maps[0])
        return None, "a copy"

    note = "in place; a gradient that is new memory costs its pages as well" if maps[0].device.type == "cpu" else None
    num_bytes = 3 * maps[0].numel() * maps[0].itemsize
    return Row(call, compare, num_bytes, role="floor", note=note, capture="always")


def write_row(num_bytes: int, copies: int, device: str, memset: bool = False) -> Row:
    """A floor: writing so many bytes once, to as many buffers in turn as there are inputs."""
    buffers = [torch.empty(-(-num_bytes // 4), dtype=torch.float32, device=device) for _ in range(copies)]
    following = itertools.cycle(buffers)

    def write(_: Any) -> torch.Tensor:
        buffer = next(following)
        return buffer.zero_() if memset else buffer.fill_(0.0)

    def compare(output: torch.Tensor) -> tuple[None, str]:
        assert not output.any()
        return None, "nothing but zeros"

    note = "in place; an output that is new memory costs its pages as well" if device == "cpu" else None
    return Row(write, compare, 4 * buffers[0].numel(), role="floor", note=note, capture="always")


def empty_row(num_programs: int, device: str) -> Row:
    """A launch of so many programs that do nothing."""
    from benchmarks.kernels import launch_nothing

    unused = torch.empty(1, device=device)
    return Row(
        lambda _: launch_nothing(unused, num_programs),
        lambda _: (None, "nothing"),
        bytes=0,
        role="overhead",
        capture="always",
    )


def _time_on_cpu(benchmark: Any, row: Row, inputs: Sequence[Any], first_seconds: float) -> None:
    benchmark.extra_info["clock"] = "host"
    # A call of seconds has no warm-up to speak of, and no time for one.
    seconds = first_seconds if first_seconds > 1 else measure.timed(lambda: row.call(inputs[-1]))[0]
    rounds = measure.rounds_for(seconds, fewest=2 if seconds > 1 else 5)
    benchmark.pedantic(row.call, setup=measure.rotation(inputs), rounds=rounds, iterations=1)


def _time_on_cuda(benchmark: Any, row: Row, inputs: Sequence[Any]) -> None:
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    row.call(inputs[0])
    torch.cuda.synchronize()
    peak_bytes = torch.cuda.max_memory_allocated() - before
    benchmark.extra_info["peak_bytes"] = peak_bytes

    def wait(arguments: Any) -> None:
        row.call(arguments)
        torch.cuda.synchronize()

    seconds, _ = measure.timed(lambda: wait(inputs[-1]))
    replay = None
    if row.capture == "always" or (row.capture == "try" and seconds < _LONG_CALL):
        calls = 20 if seconds < 1e-3 else 5
        repeats = measure.rounds_for(calls * seconds, budget=0.3, most=20)
        benchmark.extra_info["host_seconds"] = measure.host_seconds(row.call, inputs[0], calls, repeats)
        try:
            replay = measure.GraphReplay(row.call, inputs)
        except RuntimeError as error:
            if row.capture == "always":
                raise
            torch.cuda.synchronize()
            print(f"{benchmark.extra_info['row']}: can't be captured ({str(error).splitlines()[0]})")
    if replay is None:
        benchmark.extra_info["clock"] = "host, synchronised"
        rounds = measure.rounds_for(seconds, budget=0.5)
        benchmark.pedantic(wait, setup=measure.rotation(inputs), rounds=rounds, iterations=1)
        return
    benchmark.extra_info["clock"] = "graph replay"
    benchmark.extra_info["calls_per_round"] = replay.calls
    seconds, _ = measure.timed(replay)
    rounds = measure.rounds_for(seconds, budget=0.5, fewest=10, most=100)
    benchmark.pedantic(replay, rounds=rounds, iterations=1)
