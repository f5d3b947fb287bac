"""All that waits for a GPU, in the order of its worth, in as many minutes as there are.

    python -m benchmarks.gpu_day --minutes 11 --output results

Every operation once against its reference; the benchmarks, those first that have no result of this device; the tests
that need a GPU, a folder after the other; the kernels under compute-sanitizer. What is done is written down in
`<output>/gpu-day.json`, and a second run of the same commit goes on from there. At the end stands what was measured
beside what was predicted (`benchmarks/predictions.json`). Exit code 1 if something has failed, which a second run does
again, and 0 also where time was too short for all of it: it says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.run import commit_of, kept_rows
from benchmarks.unfinished import Unfinished

_FOLDER = Path(__file__).resolve().parent
_ROOT = _FOLDER.parent
PREDICTIONS = _FOLDER / "predictions.json"
# What no process takes that is not stuck, and what the shortest takes: it imports PyTorch and begins with CUDA.
_LONGEST, _SHORTEST = 300.0, 15.0


class Step(NamedTuple):
    """A command that is done or not.

    Attributes:
        name: In the list of what is done.
        arguments: Of Python.
    """

    name: str
    arguments: list[str]


class Day:
    """The list of what is done of a commit, and the time that is left.

    Args:
        path: Of the list of what is done.
        commit: Which; what is done of another one, or of one that is "unknown" or dirty, is not done.
        minutes: How long to begin steps.
    """

    def __init__(self, path: Path, commit: str, minutes: float) -> None:
        self._path, self._until = path, time.monotonic() + 60 * minutes
        self.done: dict[str, float] = {}  # seconds of each step
        self._commit = commit
        if path.exists() and commit != "unknown" and not commit.endswith("-dirty"):
            before = json.loads(path.read_text(encoding="utf-8"))
            self.done = before["done"] if before["commit"] == commit else {}
        self.failed: list[str] = []
        self.left: list[str] = []

    def seconds_left(self) -> float:
        return self._until - time.monotonic()

    def run(self, step: Step) -> None:
        """Run a step that is not done, if there is time."""
        if step.name in self.done:
            return
        if self.seconds_left() < _SHORTEST:
            self.left.append(step.name)
            return
        started = time.monotonic()
        print(f"== {step.name}", flush=True)
        try:
            limit = min(_LONGEST, self.seconds_left())
            code = subprocess.run([sys.executable, *step.arguments], cwd=_ROOT, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            is_late = self.seconds_left() < 1
            print(f"{step.name}: not finished after {time.monotonic() - started:.0f} s", flush=True)
            (self.left if is_late else self.failed).append(step.name)
            return
        if code != 0:
            print(f"{step.name}: exit code {code}", flush=True)
            self.failed.append(step.name)
            return
        self.finish(step.name, time.monotonic() - started)

    def finish(self, name: str, seconds: float) -> None:
        """Write down that a step is done."""
        self.done[name] = round(seconds, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"commit": self._commit, "done": self.done}, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)

    def measure(self, device: str, output: Path) -> None:
        """Run the benchmarks for as long as there is time. They keep their rows themselves."""
        name = "benchmarks"
        if name in self.done:
            return
        if self.seconds_left() < _SHORTEST:
            self.left.append(name)
            return
        minutes = f"--minutes={self.seconds_left() / 60:.2f}"
        command = [sys.executable, "-m", "benchmarks.run", "--device", device, "--output", str(output), minutes]
        print(f"== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=_ROOT, check=False).returncode
        if code != 0:
            print(f"{name}: exit code {code}", flush=True)
            self.failed.append(name)
        elif kept_rows(device, output).exists():
            self.left.append(name)
        else:
            self.finish(name, time.monotonic() - started)


def _steps_of_tests(device: str) -> Iterator[Step]:
    """The tests that need a device, by their folders."""
    folder = _ROOT / "tests"
    places = [[path] for path in sorted(folder.iterdir()) if path.is_dir() and any(path.rglob("test_*.py"))]
    places.append(sorted(folder.glob("test_*.py")))
    # They are short, and share a GPU well.
    parallel = ["--numprocesses", "auto", "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    for paths in places:
        name = paths[0].relative_to(_ROOT).as_posix() if len(paths) == 1 else "tests/*.py"
        marked = ["-m", "gpu"] if device == "cuda" else ["-m", "not slow"]
        # A folder that has none is done as well.
        run = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]) % 5)"
        yield Step(name, ["-c", run, *map(str, paths), *marked, "-q", "--no-header", *parallel])


def _measured(device: str, output: Path) -> list[dict[str, Any]]:
    """Our own rows that are measured so far."""
    kept = kept_rows(device, output)
    if kept.exists():
        report = Unfinished(kept).report()
        results.add_derived(report["benchmarks"])
        rows = report["benchmarks"]
    else:
        files = [each for each in map(results.load, results.device_files(output))]
        rows = [row for each in files if each["machine_info"]["device"] == device for row in each["benchmarks"]]
    return [row for row in rows if row["extra_info"]["role"] == "ours"]


def summary(rows: Sequence[dict[str, Any]], predictions: dict[str, Any]) -> str:
    """Compare rows with what was predicted, the farthest off first: a table."""
    seconds = predictions["seconds"]
    pairs = [
        (row["extra_info"]["seconds"], seconds[row["group"]], row["group"]) for row in rows if row["group"] in seconds
    ]
    pairs.sort(key=lambda pair: -abs(pair[0] / pair[1] - 1))
    lines = [
        f"Predicted at {predictions['commit']}, and measured:",
        "",
        "| what | predicted us | measured us | ratio |",
    ]
    lines += ["|---|---:|---:|---:|"]
    lines += [
        f"| {group} | {1e6 * predicted:.1f} | {1e6 * measured:.1f} | {measured / predicted:.2f} |"
        for measured, predicted, group in pairs
    ]
    return "\n".join(lines if pairs else ["Nothing was measured that was predicted."])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_day", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=11.0, help="begin nothing after these")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results", help="folder for what comes out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    day = Day(output / "gpu-day.json", commit_of(_ROOT), options.minutes)
    kernels = ["-m", "benchmarks.sanitize", "--device", options.device]
    day.run(Step("kernels", [*kernels, "--kernels-only"]))
    day.measure(options.device, output)
    for step in _steps_of_tests(options.device):
        day.run(step)
    day.run(Step("sanitizer", [*kernels, "--output", str(output)]))

    print(summary(_measured(options.device, output), json.loads(PREDICTIONS.read_text(encoding="utf-8"))))
    for what, names in (("done", list(day.done)), ("failed", day.failed), ("left, for a second run", day.left)):
        print(f"{what}: {', '.join(names) or 'nothing'}")
    return 1 if day.failed else 0


if __name__ == "__main__":
    sys.exit(main())
