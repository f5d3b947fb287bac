"""Run the benchmarks of a device and write what came out.

    python -m benchmarks.run --device cpu --output benchmarks/results

Runs the benchmarks with pytest-benchmark in a process of its own, writes `<output>/<device>.json` (see
`results.py`) and prints the tables. Run it from the repository root; nothing needs to be installed there.
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

from benchmarks import results
from benchmarks.publish import tables

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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results", help="folder for <device>.json")
    parser.add_argument("--commit", default=os.environ.get("COMMIT"), help="to record where there is no git")
    parser.add_argument(
        "-k", dest="expression", metavar="EXPRESSION", help="only some rows, as pytest's -k; not written"
    )
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [
            sys.executable, "-m", "pytest", str(_FOLDER),
            # Whatever pyproject.toml says for the tests: no parallel runs, no other reports.
            "-o", "addopts=", "-o", "filterwarnings=default", "-o", "timeout=0",
            "-p", "no:cacheprovider", "-p", "no:xdist",
            "-q", "--no-header", "--disable-warnings", "-rsf", "--tb=short",
            f"--bench-device={options.device}",
            f"--bench-commit={options.commit or commit_of(_FOLDER.parent)}",
            "--benchmark-only", f"--benchmark-json={raw}", f"--benchmark-storage=file://{folder}/storage",
            "--benchmark-columns=median,iqr,rounds", "--benchmark-sort=fullname", "--benchmark-disable-gc",
        ]  # fmt: skip
        if options.expression:
            command += ["-k", options.expression]
        code = subprocess.run(command, cwd=_FOLDER.parent, check=False).returncode
        if code != 0 or not raw.exists():
            print(f"benchmarks.run: pytest exited with {code}; nothing written", file=sys.stderr)
            return code or 1
        compacted = results.compact(json.loads(raw.read_text(encoding="utf-8")))
    try:
        results.check(compacted)
    except results.SchemaError as error:
        print(f"benchmarks.run: {error}; nothing written", file=sys.stderr)
        return 1

    print(tables.device_section(compacted))
    if options.expression:
        print("A selection of rows: nothing written.")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{results.device_slug(compacted['machine_info'])}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(compacted, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    print(f"{len(compacted['benchmarks'])} rows in {time.perf_counter() - started:.0f} s, written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
