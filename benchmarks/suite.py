"""A suite of benchmarks as a declaration: cases with their workloads, inputs, rows, and the truth.

`suites/` has a file for each, and `test_suites.py` runs them all. A suite says what is called and how outputs are
compared; inputs, rotated copies of them and the truth are made here, once for all rows of a case.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import measure, peers, results, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import MemoryFormat, Values, Workload

DEVICES = ("cpu", "cuda")
# Rows that most suites have.
READ_ONLY, EMPTY, REFERENCE, COMPILED = "read only", "empty kernel", "reference", "torch.compile of the reference"


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows that share their inputs: a group of the results.

    Attributes:
        group: Its name in the results.
        operation: What is timed: a function, and for a training step its passes.
        workload: Its shape.
        rows: Names of rows of the suite.
        variant: Of the operation: which recipe, which head.
        dtype: Of the inputs.
        memory_format: Of the inputs.
        values: What the inputs are.
        shape: In the results, by default the workload's.
    """

    group: str
    operation: str
    workload: Workload
    rows: tuple[str, ...]
    variant: str
    dtype: str = "float32"
    memory_format: MemoryFormat = "contiguous"
    values: Values = "blobs"
    shape: tuple[int, ...] | None = None

    @property
    def function(self) -> str:
        """Name of the function that is timed."""
        return self.operation.partition(" ")[0]

    @property
    def backward(self) -> bool:
        """True if the backward pass is timed as well."""
        return self.operation.endswith("backward")

    @property
    def torch_dtype(self) -> torch.dtype:
        return workloads.DTYPES[self.dtype]

    def heatmaps(self, device: str) -> Tensor:
        """Maps of the workload."""
        return workloads.make_heatmaps(self.workload, self.torch_dtype, self.memory_format, self.values, device)

    def identity(self, row: str) -> dict[str, Any]:
        """`results.IDENTITY_FIELDS` of a row."""
        fields = {name: getattr(self, name) for name in results.IDENTITY_FIELDS if name != "row"}
        shape = list(self.shape or self.workload.shape)
        return {**fields, "workload": self.workload.name, "shape": shape, "row": row}


Compare = Callable[[Any, "Group"], tuple[float | None, str]]
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of a suite.

    Attributes:
        role: One of `results.ROLES`.
        make: Returns the row of a group. May raise `peers.NotInstalled`.
    """

    role: str
    make: Callable[[Group], Row]

    def __post_init__(self) -> None:
        if self.role not in results.ROLES:
            raise ValueError(f"role: got {self.role!r}, expected one of {', '.join(results.ROLES)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """A case on a device. Inputs and truth are made when a row first asks for them, and kept for the others."""

    suite: Suite
    case: Case
    device: str

    @functools.cached_property
    def inputs(self) -> list[Any]:
        """Copies that rows rotate through."""
        inputs = self.suite.inputs(self.case, self.device)
        num_bytes = self.suite.rotated_bytes and self.suite.rotated_bytes(self.case)
        return workloads.rotated_inputs(inputs, measure.cache_bytes(self.device), num_bytes)

    @functools.cached_property
    def truth(self) -> Any:
        """The truth about the first input, which outputs are compared with."""
        return self.suite.truth(self)

    def bind(self, function: Function) -> Callable[[Any], Any]:
        """Return a function of inputs that calls this one as the suite calls all of them."""
        run, case = self.suite.run, self.case
        return function if run is None else lambda inputs: run(function, inputs, case)


def reference_in_float64(group: Group) -> Any:
    """The usual truth."""
    return group.bind(group.suite.function(group.case, "reference"))(workloads.doubled(group.inputs[0]))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Suite:
    """An operation as it is timed, and against what.

    Attributes:
        cases: Of "cpu" and of "cuda". A CPU launches no kernels: there the rows that only do that are left out.
        inputs: Makes the inputs of a case on a device: a tensor, or a tuple of tensors.
        function: Returns what is timed of a case on a backend: "auto" is ours, "reference" the definition.
        compare: Returns the largest error of an output and what it is of. Raises `Wrong`, or AssertionError where
            even the reference has to be right.
        num_bytes: That a call of a case must move.
        rows: By their names.
        truth: Returns what outputs are compared with.
        run: Calls a function, ours or a peer's, with inputs of a case. By default inputs are its one argument.
        rotated_bytes: What a call takes of the cache that rotated inputs have to leave: by default their own bytes.
        gradients: Whether autograd is on.
    """

    cases: Mapping[str, Sequence[Case]]
    inputs: Callable[[Case, str], Any]
    function: Callable[[Case, str], Function]
    compare: Compare
    num_bytes: Callable[[Case], int]
    rows: Mapping[str, Entry]
    truth: Callable[[Group], Any] = reference_in_float64
    run: Callable[[Function, Any, Case], Any] | None = None
    rotated_bytes: Callable[[Case], int] | None = None
    gradients: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless every case has rows that exist, one of them ours, and every row is in a case."""
        if tuple(self.cases) != DEVICES:
            raise ValueError(f"cases: got {list(self.cases)}, expected {list(DEVICES)}")
        for device, cases in self.cases.items():
            if twice := [group for group, count in Counter(case.group for case in cases).items() if count > 1]:
                raise ValueError(f"cases of {device}: got the group {twice[0]!r} twice, expected different ones")
            for case in cases:
                if case.dtype not in workloads.DTYPES:
                    raise ValueError(
                        f"{case.group}: got the dtype {case.dtype!r}, expected one of {list(workloads.DTYPES)}"
                    )
                if unknown := [row for row in case.rows if row not in self.rows]:
                    raise ValueError(f"{case.group}: got the row {unknown[0]!r}, expected one of {list(self.rows)}")
                if len(ours := [row for row in case.rows if self.rows[row].role == "ours"]) != 1:
                    raise ValueError(f"{case.group}: got {ours or 'no row'} of ours, expected one")
        used = {row for cases in self.cases.values() for case in cases for row in case.rows}
        if unused := [row for row in self.rows if row not in used]:
            raise ValueError(f"rows: no case has {unused[0]!r}, expected one")

    def rows_of(self, case: Case, device: str) -> list[str]:
        """Names of the rows that a case has on a device."""
        return [row for row in case.rows if device != "cpu" or self.rows[row].role != "overhead"]


@functools.lru_cache(maxsize=1)  # rows of a group follow each other
def group_of(suite: Suite, case: Case, device: str) -> Group:
    """The group of a case, and of the last one that was asked for the same object."""
    return Group(suite, case, device)


# --- rows ---------------------------------------------------------------------------------------------------


def calls(
    function: Callable[[Group], Function],
    compare: Compare | None = None,
    *,
    role: str = "peer",
    note: str | None = None,
    device_note: str | None = None,
    capture: Literal["always", "try", "never"] = "try",
    num_bytes: Callable[[Case], int] | None = None,
    is_disturbed: bool = False,
) -> Entry:
    """A row that calls something.

    Args:
        function: Returns what is called for a group. May raise `peers.NotInstalled`.
        compare: By default the suite's.
        role: As in `Row`.
        note: As in `Row`.
        device_note: Instead of `note` where the inputs are on a device.
        capture: As in `Row`.
        num_bytes: That it must move, by default the suite's.
        is_disturbed: As in `Row`.
    """

    def make(group: Group) -> Row:
        return Row(
            group.bind(function(group)),
            lambda output: (compare or group.suite.compare)(output, group),
            (num_bytes or group.suite.num_bytes)(group.case),
            role=role,
            note=note if group.device == "cpu" else device_note or note,
            capture=capture,
            is_disturbed=is_disturbed,
        )

    return Entry(role, make)


def ours() -> Entry:
    """Our own row."""
    return calls(lambda group: group.suite.function(group.case, "auto"), role="ours", capture="always")


def backend(name: str, is_disturbed: bool = False) -> Entry:
    """One of our backends, whichever "auto" takes; alone or with a busy process beside it."""
    note = "another process is busy on one core" if is_disturbed else None
    return calls(
        lambda group: group.suite.function(group.case, name), role="other", note=note, is_disturbed=is_disturbed
    )


def reference(compare: Compare | None = None, **fields: Any) -> Entry:
    """The definition, in the dtype of the inputs."""
    return calls(lambda group: group.suite.function(group.case, "reference"), compare, **fields)


def compiled(
    function: Callable[[Group], Function] = lambda group: group.suite.function(group.case, "reference"),
    compare: Compare | None = None,
    **fields: Any,
) -> Entry:
    """The definition, or another function, as torch.compile makes it."""
    return calls(
        lambda group: peers.compiled(function(group), lambda called: group.bind(called)(group.inputs[0])),
        compare,
        **fields,
    )


def read_only(maps: Callable[[Any, Case], Tensor] = lambda inputs, case: inputs, note: str | None = None) -> Entry:
    """A floor: one read of the inputs, as maps [B, K, ...]."""

    def make(group: Group) -> Row:
        return rows.read_row([maps(inputs, group.case).detach() for inputs in group.inputs], note)

    return Entry("floor", make)


def read_twice_and_write(maps: Callable[[Any, Case], Tensor]) -> Entry:
    """A floor: two reads of maps [B, K, ...] and one write of as many bytes."""

    def make(group: Group) -> Row:
        return rows.copy_row([maps(inputs, group.case).detach() for inputs in group.inputs])

    return Entry("floor", make)


def write_once(num_bytes: Callable[[Case], int], memset: bool = False) -> Entry:
    """A floor: one write of so many bytes."""
    return Entry("floor", lambda group: rows.write_row(num_bytes(group.case), len(group.inputs), group.device, memset))


def empty(num_programs: Callable[[Case], int] = lambda case: case.workload.num_maps) -> Entry:
    """A launch of so many programs that do nothing, by default one a map."""
    return Entry("overhead", lambda group: rows.empty_row(num_programs(group.case), group.device))


# --- comparisons, and training steps ------------------------------------------------------------------------


def within(bound: float, what: str, got: Tensor, expected: Tensor) -> float:
    """The largest difference; raises Wrong where it is larger than a bound."""
    error = float((got - expected).abs().max())
    if not error <= bound:
        raise Wrong(f"{what} off by up to {error:.3g}")
    return error


def within_share(bound: float, what: str, got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest number; raises Wrong where it is larger than a bound."""
    error = float((got - expected).abs_().max() / expected.abs().max())
    if not error <= bound:
        raise Wrong(f"{what} off by {error:.3g} of its largest number")
    return error


def run_step(loss_of: Callable[..., Tensor], arguments: Any, case: Case) -> tuple[Tensor, ...]:
    """The loss, and with a backward pass the gradients of all arguments that require one."""
    loss = loss_of(*arguments)
    if not case.backward:
        return (loss,)
    return loss.detach(), *torch.autograd.grad(loss, [tensor for tensor in arguments if tensor.requires_grad])


def compare_step(output: Sequence[Tensor], truth: Sequence[Tensor], bounds: tuple[float, float]) -> tuple[float, str]:
    """Compare a loss and its gradients with the truth, within a bound of the loss and one of the gradients."""
    names = ("loss", "first gradient", "second gradient", "third gradient")[: len(output)]
    errors = []
    for name, got, expected in zip(names, output, truth, strict=True):
        assert got.shape == expected.shape
        bound = bounds[name != "loss"]
        errors.append(within_share(bound, f"the {name} is", got.detach(), expected.detach()))
    return max(errors), "loss and gradients, relative to the largest of each, against the float64 reference"
