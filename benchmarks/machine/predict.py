"""Predicts the times of the suites' cases on an H200, from machine code that runs on a CPU.

    python -m benchmarks.machine.predict WORDS [--json PATH]

WORDS select groups by their names, such as "find_peaks W2". A case takes seconds to minutes. Predicted times are no
measured ones: the table says so, and what was measured is beside them where `results/nvidia-h200.json` has the row (of
the commit that it names). `python -m benchmarks.machine.validate` says how good predictions are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.machine import counts, model, toolchain
from benchmarks.machine.counts import Work
from benchmarks.machine.launches import Launch, launches_go_to
from benchmarks.machine.model import FITTED, Fitted
from benchmarks.suite import Case, Group, Suite
from benchmarks.suites import SUITES

MEASURED = Path(__file__).parents[1] / "results" / "nvidia-h200.json"
# PyTorch's own launches, which are not in the counts: it fills the gradient of a loss, and sums the losses of maps.
_FILL, _SUM = 1.26e-6, 1.5e-6


def cases(words: str = "") -> Iterator[tuple[Suite, Case]]:
    """The cases of a GPU with these words in their group's name, but for those of gigabytes."""
    for suite in SUITES.values():
        for case in suite.cases["cuda"]:
            if all(word in case.group for word in words.split()) and not case.workload.gpu_only:
                yield suite, case


def work_of(suite: Suite, case: Case) -> list[Work]:
    """Counts of each launch of a case."""
    torch.manual_seed(0)
    call = Group(suite, case, "cpu").bind(suite.function(case, "triton"))
    inputs = suite.inputs(case, "cpu")
    launches: list[Launch] = []
    found: list[Work] = []

    def count(launch: Launch) -> None:
        for before in launches[-1:]:
            counts.finish(before)
        launches.append(launch)
        found.append(counts.count(launch))

    with torch.set_grad_enabled(suite.gradients), launches_go_to(count):
        call(inputs)
    return found


def seconds_of(case: Case, launches: Sequence[Work], fitted: Fitted = FITTED) -> float:
    """Predicted time of a case."""
    others = (_FILL if case.backward else 0.0) + (_SUM if case.function.startswith("heatmap_") else 0.0)
    return sum(model.predict(work, fitted).seconds for work in launches) + others


def measured_seconds() -> dict[str, float]:
    """Measured times of our rows, by their groups."""
    rows = results.load(MEASURED)["benchmarks"]
    return {row["group"]: float(row["extra_info"]["seconds"]) for row in rows if row["extra_info"]["role"] == "ours"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine.predict", description=__doc__.split("\n")[0])
    parser.add_argument("words", help="groups with these words in their names")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the counts there")
    options = parser.parse_args(arguments)
    if (problem := toolchain.problem()) is not None:
        print(f"predict: {problem}", file=sys.stderr)
        return 2
    selected = list(cases(options.words))
    if not selected:
        parser.error(f"words: got {options.words!r}, which no group has in its name")
    torch.set_num_threads(1)
    measured, written = measured_seconds(), {}
    print("| predicted, not measured | predicted us | measured us | launches: bound by, registers, instructions |")
    print("|---|---|---|---|")
    for suite, case in selected:
        started = time.perf_counter()
        launches = work_of(suite, case)
        print(_line(case, launches, measured.get(case.group)), flush=True)
        written[case.group] = [dataclasses.asdict(work) for work in launches]
        print(f"{case.group}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(written) + "\n", encoding="utf-8")
    return 0


def _line(case: Case, launches: Sequence[Work], measured: float | None) -> str:
    parts = []
    for work in launches:
        name = work.kernel.strip("_").removesuffix("_kernel")
        instructions = work.instructions / work.programs
        bound = model.predict(work).bound
        parts.append(f"{name}: {bound}, {work.registers}, {instructions:.0f} x {work.programs}")
    time_measured = "" if measured is None else f"{1e6 * measured:.1f}"
    return f"| {case.group} | {1e6 * seconds_of(case, launches):.1f} | {time_measured} | {'; '.join(parts)} |"


if __name__ == "__main__":
    sys.exit(main())
