"""The declaration of a suite: what it lacks is an error, and what rows of a case share is made once."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import results, suite
from benchmarks.peers import Wrong
from benchmarks.suite import Case, Entry, Group, Suite
from benchmarks.workloads import W1, Workload

SMALL = Workload("W1", (2, 3, 4, 5), "a small one")


def case(*rows: str, group: str = "double W1", **fields: Any) -> Case:
    return Case(group, "double", SMALL, rows, "usual", **fields)


def on_both(*cases: Case) -> dict[str, tuple[Case, ...]]:
    return dict.fromkeys(suite.DEVICES, cases)


def declaration(**changes: Any) -> dict[str, Any]:
    """A suite that doubles numbers."""
    return {
        "cases": on_both(case("read only", "empty kernel", "double", "reference")),
        "inputs": lambda case, device: torch.ones(case.workload.shape, device=device),
        "function": lambda case, backend: lambda maps: maps + maps if backend == "auto" else 2 * maps,
        "compare": lambda output, group: (suite.within(0.1, "numbers are", output, group.truth), "numbers"),
        "num_bytes": lambda case: 8 * case.workload.num_elements,
        "rows": {
            "read only": suite.read_only(),
            "empty kernel": suite.empty(),
            "double": suite.ours(),
            "reference": suite.reference(note="twice", device_note="twice, on a device"),
        },
        **changes,
    }


@pytest.mark.parametrize("field", ["cases", "inputs", "function", "compare", "num_bytes", "rows"])
def test_what_a_declaration_lacks_is_an_error(field: str) -> None:
    complete = declaration()
    Suite(**complete)
    del complete[field]
    with pytest.raises(TypeError, match=field):
        Suite(**complete)


ROWS = declaration()["rows"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": {"cpu": ()}}, r"cases: got \['cpu'\], expected \['cpu', 'cuda'\]"),
        ({"rows": {"double": ROWS["double"]}}, r"double W1: got the row 'read only', expected one of \['double'\]"),
        ({"rows": {**ROWS, "fast": ROWS["reference"]}}, "rows: no case has 'fast', expected one"),
        ({"rows": {**ROWS, "double": ROWS["reference"]}}, "double W1: got no row of ours, expected one"),
        ({"rows": {**ROWS, "reference": ROWS["double"]}}, r"double W1: got \['double', 'reference'\] of ours"),
        ({"cases": on_both(case("double"), case("double"))}, "the group 'double W1' twice"),
        ({"cases": on_both(case("double", dtype="float8"))}, "got the dtype 'float8'"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suite(**declaration(**changes))


def test_rows_of_a_group_share_inputs_and_truth() -> None:
    made = []

    def inputs(case: Case, device: str) -> Tensor:
        made.append(case)
        return torch.ones(case.workload.shape, device=device)

    declared = Suite(**declaration(inputs=inputs))
    (only,) = declared.cases["cpu"]
    group = suite.group_of(declared, only, "cpu")
    assert not made
    assert group is suite.group_of(declared, only, "cpu")
    for name in declared.rows_of(only, "cpu"):
        row = declared.rows[name].make(group)
        row.compare(row.call(group.inputs[0]))
    assert len(made) == 1
    assert len(group.inputs) > 1
    assert group.truth.dtype == torch.float64


def test_a_row_is_what_was_declared() -> None:
    declared = Suite(**declaration())
    (only,) = declared.cases["cpu"]
    group = Group(declared, only, "cpu")
    row = declared.rows["double"].make(group)
    assert (row.role, row.capture, row.bytes) == ("ours", "always", 8 * 120)
    with pytest.raises(Wrong, match="numbers are off by up to 1"):
        row.compare(row.call(group.inputs[0]) + 1)
    assert declared.rows["reference"].make(group).note == "twice"
    assert declared.rows["reference"].make(Group(declared, only, "cuda")).note == "twice, on a device"


def test_a_floor_that_reads_too_little_is_an_error() -> None:
    declared = Suite(**declaration(inputs=lambda case, device: torch.rand(case.workload.shape)))
    group = Group(declared, declared.cases["cpu"][0], "cpu")
    row = declared.rows["read only"].make(group)
    assert row.bytes == 480
    with pytest.raises(AssertionError, match="does not read all of the maps"):
        row.compare(row.call(group.inputs[0]) - 1)


def test_an_identity_has_the_fields_of_the_results() -> None:
    (only,) = declaration()["cases"]["cpu"]
    assert only.identity("double") == {
        "operation": "double", "workload": "W1", "shape": [2, 3, 4, 5], "dtype": "float32",
        "memory_format": "contiguous", "values": "blobs", "variant": "usual", "row": "double",
    }  # fmt: skip
    results.check_fields(only.identity("double"), results.IDENTITY_FIELDS, "identity")
    step = Case("g", "gaussian_nll forward + backward", W1, (), "isotropic", shape=(1, 2))
    assert (step.function, step.backward, step.identity("a")["shape"]) == ("gaussian_nll", True, [1, 2])


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


def test_steps_return_gradients_of_what_requires_them() -> None:
    step = Case("g", "product forward + backward", SMALL, (), "")
    forward = Case("g", "product forward", SMALL, (), "")
    pair = Pair(torch.full((2,), 3.0, requires_grad=True), torch.full((2,), 4.0))

    def loss_of(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum()

    loss, gradient = suite.run_step(loss_of, pair, step)
    assert (loss.item(), gradient.tolist()) == (24.0, [4.0, 4.0])
    assert len(suite.run_step(loss_of, pair, forward)) == 1
    error, _ = suite.compare_step((loss, gradient), (loss, gradient * 1.001), (0.0, 0.01))
    assert error == pytest.approx(1e-3, rel=0.01)
    for output, message in (((loss * 1.1, gradient), "the loss is off by 0.1 of"), ((loss, 2 * gradient), "gradient")):
        with pytest.raises(Wrong, match=message):
            suite.compare_step(output, (loss, gradient), (0.01, 0.01))


def test_roles_are_those_of_the_results() -> None:
    with pytest.raises(ValueError, match="role: got 'winner', expected one of"):
        Entry("winner", lambda group: None)  # type: ignore[arg-type,return-value]
