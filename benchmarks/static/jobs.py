"""All launches for all targets, by several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from benchmarks.static.calls import Room
from benchmarks.static.compiling import options_on
from benchmarks.static.recording import Launch, record_launches
from benchmarks.static.row import Row, row_of
from benchmarks.static.targets import LONG_LIST_TARGETS, gpu_target

Job = tuple[Launch, str]  # for the target of that name


def jobs_of(
    rooms: Iterable[Room], targets: Sequence[str], full: bool = False, words: str = "", limited: bool = False
) -> list[Job]:
    """List the launches to compile, in the order of the table.

    Args:
        words: Only launches with these in their names.
        limited: Only launches that limit a thread's registers, on targets that know such a limit; of
            several targets none has the long list.
    """
    jobs = []
    for room in rooms:
        recorded = {lanes: record_launches(room, full, lanes) for lanes in {gpu_target(t).warp_size for t in targets}}
        for i in range(len(next(iter(recorded.values())))):
            for target in targets:
                launch = recorded[gpu_target(target).warp_size][i]
                if words not in f"{launch.kernel} {launch.label}":
                    continue
                if limited and "maxnreg" not in options_on(gpu_target(target), launch):
                    continue
                is_long = full or len(targets) == 1 or (target in LONG_LIST_TARGETS and not limited)
                if is_long or launch.everywhere:
                    jobs.append((launch, target))
    return jobs


def compile_all(jobs: Sequence[Job], processes: int) -> list[Row]:
    """Rows in the order of the jobs. A job that takes its process down is named, and the others go on."""
    spawn = multiprocessing.get_context("spawn")
    rows: list[Row | None] = [None] * len(jobs)
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        futures = [pool.submit(row_of, *job) for job in jobs]
        for i, future in enumerate(futures):
            with contextlib.suppress(BrokenProcessPool):
                rows[i] = future.result()
    return [_compile_alone(job) if row is None else row for job, row in zip(jobs, rows, strict=True)]


def _compile_alone(job: Job) -> Row:
    """In a process of its own, since one of the jobs that shared the last one took it down."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(row_of, *job).result()
        except BrokenProcessPool:
            launch, target = job
            failure = "does not compile: the compiler's process died"
            return Row(launch.kernel, launch.label, target, failures=[failure])
