"""Sets targets for the numbers, and evaluates them from a results file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Published decoders that run where the maps are, on a device.
_PUBLISHED_ON_DEVICE = ("transformers Sapiens2",)


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows that share their inputs."""

    name: str
    rows: dict[str, dict[str, Any]]  # by the row's name

    @property
    def ours(self) -> dict[str, Any] | None:
        """Our own row."""
        return next((row for row in self.rows.values() if row["role"] == "ours"), None)

    def ratio(self, row: str) -> float | None:
        """Time of a row over ours; None if it was not measured."""
        return self.rows[row]["ratio"] if row in self.rows else None


def groups_of(record: dict[str, Any]) -> list[Group]:
    """The groups of a results file, in its order."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for benchmark in record["benchmarks"]:
        groups.setdefault(benchmark["group"], {})[benchmark["extra_info"]["row"]] = benchmark["extra_info"]
    return [Group(name, rows) for name, rows in groups.items()]


def over_floor(group: Group) -> float | None:
    """Our time over that of moving the bytes."""
    ours = group.ours
    return ours["seconds"] / ours["floor_seconds"] if ours and ours["floor_seconds"] else None


def over_launches(group: Group) -> float | None:
    """Our time over that of two empty kernels and of moving the bytes."""
    ours = group.ours
    if not ours or not ours["floor_seconds"] or not ours["overhead_seconds"]:
        return None
    return ours["seconds"] / (2 * ours["overhead_seconds"] + ours["floor_seconds"])


def host_microseconds(group: Group) -> float | None:
    """Host time of our call."""
    ours = group.ours
    return 1e6 * ours["host_seconds"] if ours and ours["host_seconds"] else None


def over(*rows: str) -> Callable[[Group], float | None]:
    """Time of the fastest of these rows over ours."""

    def ratio(group: Group) -> float | None:
        return min((value for row in rows if (value := group.ratio(row)) is not None), default=None)

    return ratio


@dataclasses.dataclass(frozen=True)
class Target:
    """A number that groups are measured by. Fields that are None take every group.

    Attributes:
        what: Where it applies, in words.
        wanted: The target, in words.
        device: "cpu" or "cuda".
        number: Of a group; None where it was not measured.
        limit: Of the number.
        at_most: Whether the number must not be above the limit, or not below it.
        unit: Behind the number.
    """

    what: str
    wanted: str
    device: str
    number: Callable[[Group], float | None]
    limit: float
    at_most: bool
    unit: str = " x"
    operations: tuple[str, ...] | None = ("decode",)
    workloads: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    memory_format: str | None = "contiguous"
    values: str | None = "blobs"
    variant: str | None = "darkpose"

    def applies(self, group: Group) -> bool:
        """True if a group has to meet it."""
        row = group.ours
        return row is not None and all(
            (
                self.operations is None or row["operation"] in self.operations,
                self.workloads is None or row["workload"] in self.workloads,
                self.dtypes is None or row["dtype"] in self.dtypes,
                self.memory_format is None or row["memory_format"] == self.memory_format,
                self.values is None or row["values"] == self.values,
                self.variant is None or row["variant"] == self.variant,
            )
        )

    def is_hit(self, number: float) -> bool:
        """True if a group's number is good enough."""
        return number <= self.limit if self.at_most else number >= self.limit


_PRECISIONS = ("float32", "float16")
_LOSSES = ("gaussian_nll forward + backward",)
_HEATMAP_MSE = ("heatmap_mse forward + backward",)
_EVERYTHING: dict[str, Any] = {"operations": None, "memory_format": None, "values": None, "variant": None}

TARGETS: tuple[Target, ...] = (
    Target(
        "decode W2, W3, W5, float32 and float16", "<= 1.10 x reading the maps once", "cuda", over_floor, 1.10,
        at_most=True, workloads=("W2", "W3", "W5"), dtypes=_PRECISIONS,
    ),
    Target(
        "decode W2 channels_last", "<= 1.5 x reading the maps once", "cuda", over_floor, 1.5,
        at_most=True, workloads=("W2",), memory_format="channels_last",
    ),
    Target(
        "decode W1, W4", "<= 2 empty kernels + the floor", "cuda", over_launches, 1.0,
        at_most=True, workloads=("W1", "W4"), unit=" x that",
    ),
    Target(
        "host cost of a decode call", "<= 30 us", "cuda", host_microseconds, 30.0,
        at_most=True, unit=" us", **{**_EVERYTHING, "operations": ("decode",)},
    ),
    Target(
        "gaussian_nll forward + backward W1, W2", "<= 1.15 x writing the gradients once", "cuda", over_floor, 1.15,
        at_most=True, operations=_LOSSES, workloads=("W1", "W2"), dtypes=_PRECISIONS, values=None, variant=None,
    ),
    Target(
        "heatmap_mse forward + backward W2, W3", "<= 1.25 x reading the maps twice and writing them once", "cuda",
        over_floor, 1.25, at_most=True, operations=_HEATMAP_MSE, workloads=("W2", "W3"), dtypes=_PRECISIONS,
        values=None, variant=None,
    ),
    Target(
        "decode against the reference", ">= 20 x as fast", "cuda", over("reference"), 20.0,
        at_most=False, memory_format=None, values=None, variant=None,
    ),
    Target(
        "decode W2, W3 against the best published decoder on the GPU", ">= 20 x as fast", "cuda",
        over(*_PUBLISHED_ON_DEVICE), 20.0, at_most=False, workloads=("W2", "W3"), variant=None,
    ),
    Target(
        "decode W2, W3 against the OpenCV loop per map", ">= 10 x as fast", "cpu", over("NumPy + OpenCV DARK loop"),
        10.0, at_most=False, workloads=("W2", "W3"),
    ),
    Target(
        "decode W1 against the OpenCV loop per map", ">= 5 x as fast", "cpu", over("NumPy + OpenCV DARK loop"),
        5.0, at_most=False, workloads=("W1",),
    ),
    Target(
        "decode W4 against the OpenCV loop per map", "not slower", "cpu", over("NumPy + OpenCV DARK loop"),
        1.0, at_most=False, workloads=("W4",),
    ),
    Target(
        "heatmap_mse forward + backward W2 against NumPy targets and torch's mse", ">= 3 x as fast", "cpu",
        over("NumPy targets + torch mse"), 3.0, at_most=False, operations=_HEATMAP_MSE, workloads=("W2",), values=None,
        variant=None,
    ),
    Target(
        "drop-ins against what they replace", "not slower", "cpu",
        over("what it replaces", "NumPy + OpenCV loop in DarkPose's place"), 1.0, at_most=False,
        **{**_EVERYTHING, "operations": ("drop-in",)},
    ),
    Target(
        "everything against the reference", "not slower", "cpu", over("reference"), 1.0, at_most=False, **_EVERYTHING,
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A target, and the numbers of a results file that meet or miss it.

    Attributes:
        target: Which.
        numbers: (group, number) of all groups that it applies to and that were measured, worst first.
    """

    target: Target
    numbers: tuple[tuple[Group, float], ...]

    @property
    def missed(self) -> tuple[tuple[Group, float], ...]:
        """List the groups that are not good enough."""
        return tuple((group, number) for group, number in self.numbers if not self.target.is_hit(number))

    @property
    def word(self) -> str:
        """ "hit", "missed" or "not measured"."""
        return "not measured" if not self.numbers else "missed" if self.missed else "hit"


def evaluate(record: dict[str, Any], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """The targets of a results file's device, and what it says about them."""
    groups = groups_of(record)
    device = record["machine_info"]["device"]
    return [Verdict(target, _numbers(target, groups)) for target in targets if target.device == device]


def _numbers(target: Target, groups: Iterable[Group]) -> tuple[tuple[Group, float], ...]:
    measured = [
        (group, number) for group in groups if target.applies(group) and (number := target.number(group)) is not None
    ]
    return tuple(sorted(measured, key=lambda pair: pair[1], reverse=target.at_most))
