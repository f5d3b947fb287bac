"""The README's block and docs/benchmarks.md, as text: what the results files say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import regression, results, targets
from benchmarks.publish import charts

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"

# What an operation usually is: not repeated in every row.
_USUAL_VARIANTS = ("darkpose", "isotropic")
_USUAL_VALUES = ("blobs", "normal")

_METHOD = """\
Times are medians of one call, outputs are compared with the truth before they are timed, and inputs rotate
through more memory than the last cache holds. *Floor* is the time in which the same machine, in the same
run, moves the bytes that have to be moved and does nothing else, in its fastest pass: reads the maps (a loss of
distributions: writes the gradients; of heatmaps: reads the maps twice and writes the gradient once); *of the floor* is
floor / time. *Times ours* is the row's time over that of our own row: below 1 the other one is faster. On a GPU
times are those of CUDA-graph replays, without the host; *host clock* marks rows that were timed call by call instead,
each with the wait for the device."""

_SHORT_METHOD = """\
Medians of one call; outputs are compared with the truth before they are timed, inputs rotate through more memory
than the last cache holds. *Of the floor*: the share of the time that the same machine, in the same run, needs to move
the bytes that have to be moved: to read the maps (a loss of distributions: to write the gradients; of heatmaps: to read
the maps twice and write the gradient). Others: their time over ours, below 1 they are faster; what is wrong is not
timed. All rows, targets and pictures: [docs/benchmarks.md](docs/benchmarks.md)."""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    unit, size = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("us", 1e-6)
    value = seconds / size
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def percent(share: float) -> str:
    """Whole per cents, or two digits below ten."""
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.2g}%"


def size(num_bytes: int) -> str:
    """Three digits and a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} B"


def times(ratio: float) -> str:
    """Three digits, no exponent."""
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"


def device_section(record: dict[str, Any]) -> str:
    """Markdown of one device: what it is, its tables, what was left out, where we lose, and the targets."""
    lines = [*_heading(record, "##"), ""]
    operations = list(dict.fromkeys(b["extra_info"]["operation"] for b in record["benchmarks"]))
    for operation in operations:
        rows = [b["extra_info"] for b in record["benchmarks"] if b["extra_info"]["operation"] == operation]
        lines += [f"### {operation}", ""]
        lines += [*_operation_table(rows, on_gpu=on_gpu(record)), ""]
        lines += [line for text in _losses(rows) for line in (text, "")]
        for wrong in record["wrong"]:
            extra = wrong["extra_info"]
            if extra["operation"] == operation:
                lines += [f"Wrong, and so not timed: {_maps(extra)}, {extra['row']}: {wrong['reason']}.", ""]
    for reason, names in _skipped_by_reason(record["skipped"]).items():
        lines += [f"Not measured: {', '.join(names)}: {reason}.", ""]
    verdicts = targets.evaluate(record)
    if verdicts:
        lines += ["### Targets", "", *_target_table(verdicts), ""]
    return "\n".join(lines)


def on_gpu(record: dict[str, Any]) -> bool:
    """True if a results file is of a GPU."""
    return bool(record["machine_info"]["device"] != "cpu")


def _heading(record: dict[str, Any], marks: str) -> list[str]:
    machine = record["machine_info"]
    versions = [f"torch {machine['torch']}"]
    versions += [f"triton {machine['triton']}"] if machine["triton"] and machine["device"] == "cuda" else []
    versions += [f"OpenCV {machine['opencv']}"] if machine["opencv"] else []
    versions += [f"{name} {machine[name]}" for name in ("transformers", "kornia") if machine.get(name)]
    versions += [f"driver {machine['driver']}"] if machine["driver"] else []
    lines = [
        f"{marks} {machine['device_name']}",
        "",
        f"Commit {record['commit_info']['id']}, {record['datetime'][:10]}, Python {machine['python']}, "
        f"{', '.join(versions)}.",
    ]
    if machine["load"] > 0.5 * (1 if machine["device"] == "cpu" else machine["cores"]):
        lines += ["", f"Other programs were running (load {machine['load']:.1f} before the start): times are too long."]
    return lines


def _skipped_by_reason(skipped: Iterable[dict[str, str]]) -> dict[str, list[str]]:
    """Names of the rows that could not run, by why."""
    reasons: dict[str, list[str]] = {}
    for row in skipped:
        reasons.setdefault(row["reason"].removeprefix("Skipped: "), []).append(row["name"])
    return reasons


def table(header: Sequence[str], rows: Iterable[Sequence[str]], num_words: int) -> list[str]:
    """Markdown, the columns behind the first `num_words` flush right."""
    line = "|" + "---|" * num_words + "---:|" * (len(header) - num_words)
    return ["| " + " | ".join(header) + " |", line, *("| " + " | ".join(cells) + " |" for cells in rows)]


def _operation_table(rows: list[dict[str, Any]], on_gpu: bool) -> list[str]:
    extra = ["host", "memory"] if on_gpu else []
    header = ["maps", "what", "time", "GB/s", "floor", "of the floor", *extra, "times ours"]
    lines = []
    previous = None
    for row in rows:
        maps = _maps(row)
        ours, is_floor, is_peer = row["role"] == "ours", row["role"] == "floor", row["role"] in results.OTHERS
        remarks = [row["note"]] if row["note"] else []
        remarks += ["host clock"] if on_gpu and row["clock"] != "graph replay" else []
        note = f" ({', '.join(remarks)})" if remarks else ""
        cells = [
            maps if maps != previous else "",
            (f"**{row['row']}**" if ours else row["row"]) + note,
            duration(row["seconds"]),
            f"{row['bytes'] / row['seconds'] / 1e9:.3g}" if (ours and row["floor_seconds"]) or is_floor else "",
            duration(row["floor_seconds"]) if ours and row["floor_seconds"] else "",
            percent(row["floor_share"]) if (ours or is_peer) and row["floor_share"] else "",
        ]
        if on_gpu:
            cells += [
                duration(row["host_seconds"]) if row["host_seconds"] else "",
                size(row["peak_bytes"]) if (ours or is_peer) and row["peak_bytes"] is not None else "",
            ]
        lines.append([*cells, times(row["ratio"]) if row["ratio"] and (ours or is_peer) else ""])
        previous = maps
    return table(header, lines, num_words=2)


def _maps(row: dict[str, Any]) -> str:
    words = [row["workload"], "[" + ", ".join(map(str, row["shape"])) + "]", row["dtype"]]
    words += [row["memory_format"]] if row["memory_format"] != "contiguous" else []
    words += [row["values"]] if row["values"] not in _USUAL_VALUES else []
    words += [row["variant"]] if row["variant"] not in _USUAL_VARIANTS else []
    return " ".join(words)


def _losses(rows: list[dict[str, Any]]) -> list[str]:
    others = [row for row in rows if row["role"] in results.OTHERS and row["ratio"] is not None]
    if not others:
        return []
    lost = [f"{_maps(r)} against {r['row']} ({times(r['ratio'])})" for r in others if r["ratio"] < 1]
    if not lost:
        return [f"Slower than another in none of {len(others)} comparisons."]
    return [f"Slower than another in {len(lost)} of {len(others)} comparisons: {'; '.join(lost)}."]


def _target_table(verdicts: Sequence[targets.Verdict]) -> list[str]:
    lines = []
    for verdict in verdicts:
        target = verdict.target
        shown = verdict.missed or verdict.numbers[:1]
        details = [f"{_case(group)}: {times(number)}{target.unit}" for group, number in shown]
        share = f"{len(verdict.numbers) - len(verdict.missed)} of {len(verdict.numbers)}" if verdict.numbers else ""
        word = f"**{verdict.word}**" if verdict.word == "missed" else verdict.word
        lines.append([target.what, target.wanted, word, share, "; ".join(details)])
    return table(["what", "target", "", "groups", "worst, or all that miss"], lines, num_words=5)


def _case(group: targets.Group) -> str:
    """Short name of a group: without the shape."""
    row = next(iter(group.rows.values()))
    words = _maps(row).replace(" [" + ", ".join(map(str, row["shape"])) + "]", "")
    return words if row["operation"] == "decode" else f"{row['operation']} {words}"


def short_section(record: dict[str, Any]) -> str:
    """Markdown of one device for the README: a line for each group of the usual kind, and how the targets fare."""
    lines = []
    for group in targets.groups_of(record):
        ours = group.ours
        peers = [row for row in group.rows.values() if row["role"] == "peer" and row["ratio"]]
        others = [f"{row['row']} {times(row['ratio'])}" for row in peers]
        others += [f"{w['extra_info']['row']} is wrong" for w in record["wrong"] if w["group"] == group.name]
        if ours is None or not others or ours["dtype"] != "float32" or not ours["operation"].endswith(_SHOWN):
            continue
        lines.append(
            [
                f"{ours['operation']} {_maps(ours).replace(' float32', '')}",
                duration(ours["seconds"]),
                percent(ours["floor_share"]) if ours["floor_share"] else "",
                ", ".join(others),
            ]
        )
    text = [*_heading(record, "###"), "", *table(["float32", "time", "of the floor", "others"], lines, num_words=1)]
    verdicts = targets.evaluate(record)
    measured = [verdict for verdict in verdicts if verdict.numbers]
    if measured:
        missed = [verdict.target.what for verdict in measured if verdict.missed]
        summary = f"Targets: {len(measured) - len(missed)} of {len(measured)} hit"
        text += ["", f"{summary}; missed: {'; '.join(missed)}." if missed else f"{summary}."]
    return "\n".join(text)


# Operations that the README shows; a forward pass alone is in the long tables.
_SHOWN = ("decode", "forward + backward")


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Write the README's block."""
    sections = [_SHORT_METHOD]
    for record in records:
        sections += [short_section(record).rstrip(), *_unmeasured(record, records)]
    if not any(map(on_gpu, records)):
        sections.append("No GPU has been measured yet.")
    return "\n\n".join(sections) + "\n"


def page(records: Sequence[dict[str, Any]]) -> str:
    """Write docs/benchmarks.md: everything."""
    title = (
        "# Benchmarks\n\nWritten by `python -m benchmarks.report` from `benchmarks/results/`; changes here are lost."
    )
    sections = [title, _METHOD]
    for record in records:
        sections += [device_section(record).rstrip(), *_unmeasured(record, records)]
        sections += [f"![{words}](benchmarks/{name})" for name, words in charts.names(record).items()]
    if not any(map(on_gpu, records)):
        sections.append("No GPU has been measured yet.")
    return "\n\n".join(sections) + "\n"


def _unmeasured(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence about the operations that other devices have rows of and this one has not, if there are any."""
    others = {operation for other in records for operation in _operations(other)}
    missing = sorted(others - _operations(record))
    return [f"Not measured on this device: {'; '.join(missing)}."] if missing else []


def _operations(record: dict[str, Any]) -> set[str]:
    """Their names without the pass: `soft_argmax` for its forward pass and for both."""
    return {b["extra_info"]["operation"].partition(" forward")[0] for b in record["benchmarks"]}


def regressions(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, bool]:
    """A table of the rows that are slower than before by more than the noise, and whether there are any."""
    changes = regression.changes(before, after)
    slower = sorted((c for c in changes if c.is_regression), key=lambda change: change.slower, reverse=True)
    commits = f"{before['commit_info']['id']} -> {after['commit_info']['id']}"
    name = after["machine_info"]["device_name"]
    if not slower:
        return f"{name}, {commits}: none of {len(changes)} rows is slower by more than the noise.\n", False
    rows = [
        [c.group, c.row, duration(c.before), duration(c.after), f"+{percent(c.slower)}", percent(c.noise)]
        for c in slower
    ]
    header = ["group", "what", "before", "after", "slower", "noise"]
    title = f"{name}, {commits}: {len(slower)} of {len(changes)} rows are slower by more than the noise."
    return "\n".join([title, "", *table(header, rows, num_words=2)]) + "\n", True


def insert(readme: str, text: str) -> str:
    """`readme` with `text` between its markers.

    Raises:
        ValueError: It has no markers, or has them twice or in the wrong order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"expected {BEGIN} and then {END}, each once")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}"
