"""Run the benchmarks of a device and write what came out.

    python -m benchmarks.run --device cpu --output benchmarks/results
    python -m benchmarks.run --device cuda --minutes 5 --output results

Runs the benchmarks with pytest-benchmark in a process of its own, writes `<output>/<device>.json` (see
`results.py`) and prints the tables. Run it from the repository root; nothing needs to be installed there.

Rows are kept in `<output>/unfinished-<cpu or cuda>.jsonl` when they are measured. A run that ends before all are, by
`--minutes`, an error or a signal, is continued by the next one of the same commit, and results are written with the
last row. Rows that `benchmarks/results` has not of the device come first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.publish import tables
from benchmarks.unfinished import Unfinished

_FOLDER = Path(__file__).resolve().parent


def commit_of(root: Path) -> str:
    """The checked-out commit, with `-dirty` behind it if the tree differs; "unknown" without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    # The results themselves are written by this run.
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md")
    return f"{commit}-dirty" if changes else commit


def kept_rows(device: str, folder: Path) -> Path:
    """File of the rows of a run that is not finished."""
    return folder / f"unfinished-{device}.jsonl"


def _num_rows(device: str) -> int:
    """Count the rows of all suites, those included that cannot run on this machine."""
    from benchmarks.suites import SUITES  # seconds, which no run needs that ends before

    return sum(len(suite.rows_of(case, device)) for suite in SUITES.values() for case in suite.cases[device])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results", help="folder for <device>.json")
    parser.add_argument("--commit", default=os.environ.get("COMMIT"), help="to record where there is no git")
    parser.add_argument("--minutes", type=float, help="begin no row after these")
    parser.add_argument(
        "-k", dest="expression", metavar="EXPRESSION", help="only some rows, as pytest's -k; not written"
    )
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = kept_rows(options.device, Path(folder) if options.expression else options.output)
        command = [
            sys.executable, "-m", "pytest", str(_FOLDER),
            # Whatever pyproject.toml says for the tests: no parallel runs, no other reports.
            "-o", "addopts=", "-o", "filterwarnings=default", "-o", "timeout=0",
            "-p", "no:cacheprovider", "-p", "no:xdist",
            "-q", "--no-header", "--disable-warnings", "-rsf", "--tb=short",
            f"--bench-device={options.device}",
            f"--bench-rows={kept.resolve()}", f"--bench-known={_FOLDER / 'results'}",
            f"--bench-commit={options.commit or commit_of(_FOLDER.parent)}",
            "--benchmark-only", f"--benchmark-storage=file://{folder}/storage",
            "--benchmark-columns=median,iqr,rounds", "--benchmark-sort=fullname", "--benchmark-disable-gc",
        ]  # fmt: skip
        if options.minutes is not None:
            command.append(f"--bench-until={time.time() + 60 * options.minutes}")
        if options.expression:
            command += ["-k", options.expression]
        # Of a pytest that this was called by nothing holds for the one below.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        code = subprocess.run(command, cwd=_FOLDER.parent, env=environment, check=False).returncode
        if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED) or not kept.exists():
            # Rows that were measured before are kept, but nobody is shown a selection.
            print(f"benchmarks.run: pytest exited with {code}; no results written", file=sys.stderr)
            return code or 1
        unfinished = Unfinished(kept)
    report = unfinished.report()
    results.add_derived(report["benchmarks"])
    compacted = results.compact(report)
    try:
        results.check(compacted)
    except results.SchemaError as error:
        print(f"benchmarks.run: {error}; no results written", file=sys.stderr)
        return 1

    print(tables.device_section(compacted))
    if options.expression:
        print("A selection of rows: nothing written.")
        return 0
    num_left = _num_rows(options.device) - len(unfinished.names)
    if num_left:
        print(f"{num_left} rows are left. The others are kept in {kept}: run it again to go on.")
        return 0
    path = options.output / f"{results.device_slug(compacted['machine_info'])}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(compacted, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    kept.unlink()
    print(f"{len(compacted['benchmarks'])} rows in {time.perf_counter() - started:.0f} s, written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
