"""Tables and pictures from the JSON files in `results/`: never typed.

python -m benchmarks.report                  writes README.md (between its markers), docs/benchmarks.md and the pictures
python -m benchmarks.report --print          prints the tables and writes nothing
python -m benchmarks.report --check          exit code 1 if README.md or docs/benchmarks.md is not what the files say
python -m benchmarks.report --against FILE   rows that are slower than in an earlier results file of the same device;
                                             exit code 1 if there are any
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.publish import charts, tables

_ROOT = Path(__file__).resolve().parent.parent


def load_all(folder: Path) -> list[dict[str, Any]]:
    """The results of all devices, CPUs first.

    Raises:
        SchemaError: A file is not what it should be, or there is none.
    """
    records = [results.load(path) for path in results.device_files(folder)]
    if not records:
        raise results.SchemaError(f"{folder.name}: holds no results; run python -m benchmarks.run first")
    return sorted(records, key=tables.on_gpu)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs", help="folder of benchmarks.md and the pictures")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--print", action="store_true", help="print the tables and write nothing")
    action.add_argument("--check", action="store_true", help="exit code 1 if the tables on file are not these")
    action.add_argument("--against", type=Path, metavar="FILE", help="exit code 1 if a row is slower than in FILE")
    options = parser.parse_args(arguments)
    try:
        records = load_all(options.results)
        if options.against:
            return _report_regressions(options.against, records)
        if options.print:
            print(tables.page(records), end="")
            return 0
        readme = options.readme.read_text(encoding="utf-8")
        wanted = {
            options.readme: tables.insert(readme, tables.summary(records)),
            options.docs / "benchmarks.md": tables.page(records),
        }
    except (results.SchemaError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"benchmarks.report: {options.readme.name}: {error}", file=sys.stderr)
        return 2
    if options.check:
        stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in stale:
            print(f"{path.name} is not what benchmarks/results says: run python -m benchmarks.report")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for record in records:
        charts.draw(record, options.docs / "benchmarks")
    return 0


def _report_regressions(path: Path, records: Sequence[dict[str, Any]]) -> int:
    before = results.load(path)
    name = before["machine_info"]["device_name"]
    after = next((record for record in records if record["machine_info"]["device_name"] == name), None)
    if after is None:
        raise results.SchemaError(f"{path.name}: is of {name}, of which there are no results now")
    text, found = tables.regressions(before, after)
    print(text, end="")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
