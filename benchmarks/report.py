"""README tables from the JSON files in `results/`: never typed.

python -m benchmarks.report            rewrites README.md between its markers
python -m benchmarks.report --print    prints the tables
python -m benchmarks.report --check    exit code 1 if README.md is not what the files say
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

_ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

_METHOD = """\
Times are medians of one call, outputs are compared with the truth before they are timed, and inputs rotate
through more memory than the last cache holds. *Floor* is the time in which the same machine, in the same
run, only reads the same maps (its fastest pass); *of the floor* is floor / time. *Times ours* is the row's
time over that of our own row: below 1 the other one is faster."""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    unit, size = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("us", 1e-6)
    value = seconds / size
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def percent(share: float) -> str:
    """Whole per cents, or two digits below ten."""
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.2g}%"


def times(ratio: float) -> str:
    """Three digits, no exponent."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"


def device_section(record: dict[str, Any]) -> str:
    """Markdown of one device: what it is, its tables, what was left out, and where we lose."""
    machine = record["machine_info"]
    versions = [f"torch {machine['torch']}"]
    versions += [f"triton {machine['triton']}"] if machine["triton"] and machine["device"] == "cuda" else []
    versions += [f"OpenCV {machine['opencv']}"] if machine["opencv"] and machine["device"] == "cpu" else []
    versions += [f"driver {machine['driver']}"] if machine["driver"] else []
    lines = [
        f"### {machine['device_name']}",
        "",
        f"Commit {record['commit_info']['id']}, {record['datetime'][:10]}, Python {machine['python']}, "
        f"{', '.join(versions)}.",
        "",
    ]
    if machine["load"] > 0.5:
        lines += [f"Other programs were running (load {machine['load']:.1f} before the start): times are too long.", ""]
    operations = list(dict.fromkeys(b["extra_info"]["operation"] for b in record["benchmarks"]))
    for operation in operations:
        rows = [b["extra_info"] for b in record["benchmarks"] if b["extra_info"]["operation"] == operation]
        lines += [*_operation_table(rows, on_gpu=machine["device"] != "cpu"), ""]
        lines += [*_losses(rows), ""]
    for skipped in record["skipped"]:
        lines += [f"Not measured: {skipped['name']}: {skipped['reason'].removeprefix('Skipped: ')}.", ""]
    return "\n".join(lines)


def _operation_table(rows: list[dict[str, Any]], on_gpu: bool) -> list[str]:
    host = ["host"] if on_gpu else []
    header = ["maps", "what", "time", "GB/s", "floor", "of the floor", *host, "times ours"]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    previous = None
    for row in rows:
        maps = _maps(row)
        ours, read_only = row["row"] == results.OURS, row["row"] == results.READ_ONLY
        does_the_job = not read_only
        cells = [
            maps if maps != previous else "",
            f"**{row['row']}**" if ours else row["row"],
            duration(row["seconds"]),
            f"{row['bytes'] / row['seconds'] / 1e9:.3g}" if ours or read_only else "",
            duration(row["floor_seconds"]) if ours and row["floor_seconds"] else "",
            percent(row["floor_share"]) if does_the_job and row["floor_share"] else "",
            *([duration(row["host_seconds"]) if row["host_seconds"] else ""] if on_gpu else []),
            times(row["ratio"]) if row["ratio"] and does_the_job else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        previous = maps
    return lines


def _maps(row: dict[str, Any]) -> str:
    words = [row["workload"], "[" + ", ".join(map(str, row["shape"])) + "]", row["dtype"]]
    words += [row["memory_format"]] if row["memory_format"] != "contiguous" else []
    words += [row["values"]] if row["values"] != "blobs" else []
    words += [row["recipe"]] if row["recipe"] != "darkpose" else []
    return " ".join(words)


def _losses(rows: list[dict[str, Any]]) -> list[str]:
    others = [r for r in rows if r["row"] not in (results.OURS, results.READ_ONLY) and r["ratio"] is not None]
    if not others:
        return []
    lost = [f"{_maps(r)} against {r['row']} ({times(r['ratio'])})" for r in others if r["ratio"] < 1]
    if not lost:
        return [f"Slower than another in none of {len(others)} comparisons."]
    return [f"Slower than another in {len(lost)} of {len(others)} comparisons: {'; '.join(lost)}."]


def tables(folder: Path) -> str:
    """All devices, CPUs first.

    Raises:
        SchemaError: A file is not what it should be, or there is none.
    """
    records = [results.load(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise results.SchemaError(f"{folder.name}: holds no results; run python -m benchmarks.run first")
    records.sort(key=lambda record: record["machine_info"]["device"] != "cpu")
    sections = [_METHOD, *(device_section(record).rstrip() for record in records)]
    if all(record["machine_info"]["device"] == "cpu" for record in records):
        sections.append("No GPU has been measured yet.")
    return "\n\n".join(sections) + "\n"


def insert(readme: str, text: str) -> str:
    """`readme` with `text` between its markers.

    Raises:
        ValueError: It has no markers, or has them twice or in the wrong order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"expected {BEGIN} and then {END}, each once")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--print", action="store_true", help="print the tables and write nothing")
    action.add_argument("--check", action="store_true", help="exit code 1 if the README's tables are not these")
    options = parser.parse_args(arguments)
    try:
        text = tables(options.results)
        if options.print:
            print(text, end="")
            return 0
        readme = options.readme.read_text()
        updated = insert(readme, text)
    except (results.SchemaError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"benchmarks.report: {options.readme.name}: {error}", file=sys.stderr)
        return 2
    if options.check:
        if readme != updated:
            print(f"{options.readme.name} is not what benchmarks/results says: run python -m benchmarks.report")
            return 1
        return 0
    options.readme.write_text(updated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
