"""A run of the benchmarks that may be cut short: each row is written when it is measured, and a later run goes on.

A file of JSON lines. The first says what all rows have in common, the machine and the commit. Each other one has a
`kind`, "benchmarks", "wrong" or "skipped", the `name` of its test, and the `row`, what `results.compact` takes of that
kind. A file of another machine, commit or version is begun anew: rows of two commits are no results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = ("benchmarks", "wrong", "skipped")
# Of a machine, what may differ between the parts of a run.
_MAY_DIFFER = ("load", "driver")


class Unfinished:
    """The rows of a run that are known so far.

    Args:
        path: Of the file. It is made with the first row.
        about: "machine_info", "commit_info", "datetime" and "version" of the run, as in a results file. A commit that
            is "unknown" or dirty is no other's: such a run begins anew. None takes what is there.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.about = dict(about or {})
        self.names: set[str] = set()  # of the tests that need not run again
        self.rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        lines = _read(path)
        if lines and (about is None or (_identity(lines[0]) == _identity(about) and _can_be_continued(about))):
            self.about = lines[0]
            for line in lines[1:]:
                self._take(**line)
            # Without the line that was not written to its end, which the next would be a part of.
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        else:
            path.unlink(missing_ok=True)

    def _take(self, kind: str, name: str, row: dict[str, Any]) -> None:
        self.rows[kind].append(row)
        self.names.add(name)

    def add(self, kind: str, name: str, row: dict[str, Any]) -> None:
        """Keep a row, also if the process ends at once."""
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps(self.about) + "\n")
            file.write(json.dumps({"kind": kind, "name": name, "row": row}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(kind, name, row)

    def report(self) -> dict[str, Any]:
        """All rows as pytest-benchmark reports them, for `results.compact`."""
        return {**self.about, **self.rows}


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, but for one that was not written to its end."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _identity(about: Mapping[str, Any]) -> Any:
    machine = {name: value for name, value in about["machine_info"].items() if name not in _MAY_DIFFER}
    return json.dumps([machine, about["commit_info"]], sort_keys=True)


def _can_be_continued(about: Mapping[str, Any]) -> bool:
    commit = about["commit_info"]["id"]
    return commit != "unknown" and not commit.endswith("-dirty")
