"""Pictures of a results file: how many times as long others take, and how close to the floor we are.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any colour vision can tell
apart; what they tell apart is written beside the marks as well.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from benchmarks import results, targets

_OURS, _FLOOR, INK, FAINT = "#0072B2", "#595959", "#222222", "#D9D9D9"
_PEERS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_MARKS = {"contiguous": "o", "channels_last": "s"}


def names(record: dict[str, Any]) -> dict[str, str]:
    """File name and alternative text of each picture of a results file."""
    found = {}
    device, slug = record["machine_info"]["device_name"], results.device_slug(record["machine_info"])
    for operation, groups in _by_operation(record).items():
        stem = f"{slug}-{re.sub(r'[^a-z0-9]+', '-', operation.lower())}"
        if any(_peers(group) for group in groups):
            found[f"{stem}-ratios.png"] = f"{operation} on {device}: times of others over ours"
        if any(_on_roofline(group) for group in groups):
            found[f"{stem}-roofline.png"] = f"{operation} on {device}: bandwidth over bytes, beside the floor"
    return found


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures of a results file into `folder`; returns what was written.

    Where matplotlib is not installed it says so and draws nothing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"no pictures: matplotlib is not installed ({error})")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    files = list(names(record))
    for groups in _by_operation(record).values():
        figures = []
        if any(_peers(group) for group in groups):
            figures.append(_draw_ratios(Figure, record, [group for group in groups if _peers(group)]))
        if any(_on_roofline(group) for group in groups):
            figures.append(_draw_roofline(Figure, record, [group for group in groups if _on_roofline(group)]))
        for figure in figures:
            path = folder / files[len(written)]
            # No date and no version in the file: the same numbers give the same bytes.
            figure.savefig(path, dpi=110, metadata={"Software": None}, facecolor="white")
            written.append(path)
    return written


def _by_operation(record: dict[str, Any]) -> dict[str, list[targets.Group]]:
    operations: dict[str, list[targets.Group]] = {}
    for group in targets.groups_of(record):
        if group.ours is not None:
            operations.setdefault(group.ours["operation"], []).append(group)
    return operations


def _peers(group: targets.Group) -> list[dict[str, Any]]:
    return [row for row in group.rows.values() if row["role"] in results.OTHERS and row["ratio"]]


def _on_roofline(group: targets.Group) -> bool:
    """True for groups with a floor, of the usual kind: others would lie on the same spot."""
    row = group.ours
    if row is None or not row["floor_seconds"] or row["values"] not in ("blobs", "normal"):
        return False
    return row["operation"] != "decode" or bool(row["variant"] == "darkpose")


def _label(row: dict[str, Any]) -> str:
    usual = {"float32", "contiguous", "blobs", "normal", "darkpose", "isotropic"}
    words = (row["dtype"], row["memory_format"], row["values"], row["variant"])
    return " ".join([row["workload"], *(word for word in words if word not in usual)])


def _title(record: dict[str, Any], groups: list[targets.Group]) -> str:
    assert groups[0].ours is not None
    return f"{groups[0].ours['operation']} on {record['machine_info']['device_name']}"


def _draw_ratios(figure_class: Any, record: dict[str, Any], groups: list[targets.Group]) -> Any:
    peers = list(dict.fromkeys(row["row"] for group in groups for row in _peers(group)))
    colors = {peer: _PEERS[i % len(_PEERS)] for i, peer in enumerate(peers)}
    bars = sum(len(_peers(group)) for group in groups)
    height = 1.3 + 0.24 * bars + 0.22 * len(groups)
    figure = figure_class(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    position, ticks, labels = 0.0, [], []
    ratios, longest = [], 0
    for group in groups:
        first = position
        for row in _peers(group):
            ratio = row["ratio"]
            ratios.append(ratio)
            axes.barh(position, ratio - 1, left=1, height=0.85, color=colors[row["row"]], linewidth=0)
            text = f"{ratio:.3g} x" if ratio < 1000 else f"{ratio:,.0f} x"
            text += f"  {row['row']}" + (f" ({row['note']})" if row["note"] else "")
            longest = max(longest, len(text))
            axes.annotate(
                text, (max(ratio, 1), position), (4, 0), textcoords="offset points", va="center", size=8, color=INK
            )
            position += 1
        ticks.append((first + position - 1) / 2)
        labels.append(_label(group.ours or {}))
        position += 0.9
    axes.set_xscale("log")
    # Room on the right for the words behind the longest bar: a letter is about a hundredth of the axis wide.
    low, high = min(0.7, 0.7 * min(ratios)), max(10.0, max(ratios))
    words = min(0.011 * longest, 0.6)
    axes.set_xlim(low, high * (high / low) ** (words / (1 - words)))
    axes.set_ylim(position - 0.9, -0.9)
    decades = range(math.ceil(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_xticks([10.0**power for power in decades], [f"{10.0**power:,.10g}" for power in decades])
    axes.axvline(1, color=_OURS, linewidth=2)
    axes.annotate("ours", (1, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                  ha="center", size=9, color=_OURS, weight="bold")  # fmt: skip
    axes.set_yticks(ticks, labels, size=9)
    axes.set_xlabel("time over ours (log scale); left of the line the other one is faster")
    axes.set_title(_title(record, groups), loc="left", size=11, pad=16)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    quiet(axes)
    return figure


def _draw_roofline(figure_class: Any, record: dict[str, Any], groups: list[targets.Group]) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    dtypes = list(dict.fromkeys(group.ours["dtype"] for group in groups if group.ours))
    figure = figure_class(figsize=(max(6.5, 4.3 * len(dtypes) + 0.6), 4.6), layout="constrained")
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    lowest, highest = math.inf, 0.0
    for axes, dtype in zip(panels, dtypes, strict=True):
        chosen = [group for group in groups if group.ours and group.ours["dtype"] == dtype]
        roof: dict[int, tuple[float, str]] = {}
        for group in chosen:
            ours = group.ours or {}
            bandwidth = ours["bytes"] / ours["floor_seconds"] / 1e9
            roof[ours["bytes"]] = max(roof.get(ours["bytes"], (0.0, "")), (bandwidth, ours["workload"]))
            axes.plot(
                ours["bytes"], ours["bytes"] / ours["seconds"] / 1e9, _MARKS[ours["memory_format"]], color=_OURS,
                markersize=8, zorder=3,
            )  # fmt: skip
            axes.annotate(
                f"{100 * ours['floor_share']:.0f}%", (ours["bytes"], ours["bytes"] / ours["seconds"] / 1e9),
                (7, -3), textcoords="offset points", size=8, color=_OURS,
            )  # fmt: skip
        points = sorted((size, *value) for size, value in roof.items())
        axes.plot([p[0] for p in points], [p[1] for p in points], "--", marker="_", markersize=11, color=_FLOOR)
        for num_bytes, bandwidth, workload in points:
            axes.annotate(workload, (num_bytes, bandwidth), (0, 6), textcoords="offset points", ha="center", size=8,
                          color=_FLOOR)  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(points[0][0] / 4, points[-1][0] * 6)  # decades, so that ticks are powers of ten
        speeds = [ours["bytes"] / ours["seconds"] / 1e9 for group in chosen if (ours := group.ours)]
        lowest, highest = min(lowest, *speeds), max(highest, *(p[1] for p in points), *speeds)
        axes.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
        axes.set_title(dtype, size=10)
        axes.set_xlabel("bytes that have to be moved")
        axes.grid(color=FAINT, linewidth=0.6)
        quiet(axes)
    panels[0].set_ylabel("GB/s")
    # Whole decades: only powers of ten are ticked.
    panels[0].set_ylim(10 ** math.floor(math.log10(lowest)), 10 ** math.ceil(math.log10(1.2 * highest)))
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    formats = {group.ours["memory_format"] for group in groups if group.ours}
    handles = [Line2D([], [], linestyle="--", marker="_", color=_FLOOR, label="floor: the bytes moved, nothing done")]
    for memory_format, mark in _MARKS.items():
        if memory_format in formats:
            words = "ours" if memory_format == "contiguous" else f"ours, {memory_format}"
            label = f"{words} (share of the floor)"
            handles.append(Line2D([], [], linestyle="", marker=mark, color=_OURS, markersize=8, label=label))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) if len(dtypes) > 1 else 1,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(_title(record, groups), x=0.01, ha="left", size=11)
    return figure


def quiet(axes: Any) -> None:
    axes.minorticks_off()
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
