"""Says how good predictions are: our measured rows of an H200 against what the model makes of their machine code.

    python -m benchmarks.machine.validate [WORDS] [--counts PATH] [--fit]

Counts go into PATH and are read from there again: all of them take some minutes. Measured rows are of the commit that
`results/nvidia-h200.json` names, so a kernel that has changed since is compared with its former self: check that commit
out to tell the model's error from the kernel's. --fit fits bandwidth, share and power anew and says with how much of an
error, all rows together and each row by the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.machine import toolchain
from benchmarks.machine.counts import Work
from benchmarks.machine.model import FITTED, Fitted
from benchmarks.machine.predict import MEASURED, cases, measured_seconds, seconds_of, work_of
from benchmarks.suite import Case

_BANDWIDTHS = [1e12 * (4.0 + 0.1 * i) for i in range(9)]
_SHARES = [0.45 + 0.05 * i for i in range(12)]
_POWERS = [1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 12.0]


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured case and its launches."""

    case: Case
    launches: list[Work]
    seconds: float

    def ratio(self, fitted: Fitted) -> float:
        """Predicted to measured."""
        return seconds_of(self.case, self.launches, fitted) / self.seconds


def fit(rows: Sequence[Row]) -> Fitted:
    """The numbers of the least mean error, in logarithms."""
    candidates = itertools.starmap(Fitted, itertools.product(_BANDWIDTHS, _SHARES, _POWERS))
    return min(candidates, key=lambda fitted: sum(abs(math.log(row.ratio(fitted))) for row in rows))


def summary(ratios: Sequence[float]) -> str:
    """Errors of predicted times, of which half and which all are at most so large."""
    errors = [math.exp(abs(math.log(ratio))) - 1 for ratio in ratios]
    within = sum(error <= 0.25 for error in errors) / len(errors)
    median = statistics.median(errors)
    return f"{len(ratios)} rows: median error {median:.0%}, {within:.0%} of them within 25%, largest {max(errors):.0%}"


def _read(path: Path | None) -> dict[str, list[Work]]:
    if path is None or not path.exists():
        return {}
    known: Mapping[str, list[dict[str, object]]] = json.loads(path.read_text(encoding="utf-8"))
    return {group: [Work(**work) for work in launches] for group, launches in known.items()}  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine.validate", description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="?", default="", help="groups with these words in their names")
    parser.add_argument("--counts", type=Path, metavar="PATH", help="where counts are kept")
    parser.add_argument("--fit", action="store_true", help="fit the model to the rows")
    options = parser.parse_args(arguments)
    if (problem := toolchain.problem()) is not None:
        print(f"validate: {problem}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    counts, measured, rows = _read(options.counts), measured_seconds(), []
    for suite, case in cases(options.words):
        if case.group not in measured:
            continue
        if case.group not in counts:
            counts[case.group] = work_of(suite, case)
            if options.counts:
                text = json.dumps({group: list(map(dataclasses.asdict, each)) for group, each in counts.items()})
                options.counts.write_text(text + "\n", encoding="utf-8")
        rows.append(Row(case, counts[case.group], measured[case.group]))
    if not rows:
        parser.error(f"words: got {options.words!r}, which no measured group has in its name")
    fitted = fit(rows) if options.fit else FITTED
    print("| row | measured us | predicted us | predicted / measured |\n|---|---|---|---|")
    for row in rows:
        predicted = row.seconds * row.ratio(fitted)
        print(f"| {row.case.group} | {1e6 * row.seconds:.1f} | {1e6 * predicted:.1f} | {row.ratio(fitted):.2f} |")
    print(f"\nmeasured at {results.load(MEASURED)['commit_info']['id'][:7]}; {fitted}")
    print(summary([row.ratio(fitted) for row in rows]))
    if options.fit and len(rows) > 2:
        others = [fit([*rows[:i], *rows[i + 1 :]]) for i in range(len(rows))]
        print(f"each by the others: {summary([row.ratio(each) for row, each in zip(rows, others, strict=True)])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
