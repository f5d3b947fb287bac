"""The schedule: fixed and then learned, in checkpoints and in compiled code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels.nn import VarianceSchedule

from .cases import K, make


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_schedule_is_fixed_and_then_learned(steps: int) -> None:
    schedule = VarianceSchedule(2.0, steps)
    seen = []
    for _ in range(steps + 2):
        seen.append(schedule())
        schedule.step()
    assert seen == [2.0] * steps + [None] * 2


@pytest.mark.parametrize("done", [0, 2, 3, 5])
def test_schedule_survives_a_checkpoint(done: int, tmp_path: Any) -> None:
    schedule = VarianceSchedule(2.0, 3)
    for _ in range(done):
        schedule.step()
    torch.save({"schedule": schedule.state_dict()}, tmp_path / "checkpoint.pt")
    resumed = VarianceSchedule(2.0, 3)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["schedule"])
    for _ in range(4):
        assert resumed() == schedule()
        resumed.step()
        schedule.step()


@pytest.mark.parametrize("read_inside", [False, True])
def test_schedule_recompiles_once(read_inside: bool) -> None:
    """Two graphs: with the fixed variance, and with the learned one."""
    torch._dynamo.reset()
    head, features, target = make()
    schedule = VarianceSchedule(2.0, 3)
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def loss(fixed_log_var: float | None) -> Tensor:
        return head.loss(features, target, fixed_log_var=schedule() if read_inside else fixed_log_var)

    compiled = torch.compile(loss, fullgraph=True, backend=counting)
    for step in range(7):
        actual = compiled(None if read_inside else schedule())
        torch.testing.assert_close(actual, head.loss(features, target, fixed_log_var=2.0 if step < 3 else None))
        schedule.step()
    assert len(graphs) == 2


def test_the_fixed_variance_does_not_train_the_variance() -> None:
    head, features, target = make()
    head.loss(features, target, fixed_log_var=VarianceSchedule(0.0, 1)()).backward()
    gradient = head.weight.grad
    assert gradient is not None
    assert bool((gradient[: 2 * K] != 0).any())
    assert not gradient[2 * K :].any()


def test_repr() -> None:
    assert repr(VarianceSchedule(2.0, 10)) == "VarianceSchedule(fixed_log_var=2, steps=10), 0 done"


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "fixed_log_var: got NoneType None, expected a number", (None, 3)),
        (ValueError, "fixed_log_var: got nan, expected a finite", (math.nan, 3)),
        (TypeError, "steps: got float 3.0, expected an integer", (0.0, 3.0)),
        (ValueError, "steps: got -1, expected at least 0", (0.0, -1)),
    ],
)
def test_bad_schedules(error: type[Exception], message: str, arguments: tuple[Any, Any]) -> None:
    with pytest.raises(error, match=message):
        VarianceSchedule(*arguments)
    with pytest.raises(ValueError, match=r"state_dict: got keys \['last_epoch'\], expected \['step_count'\]"):
        VarianceSchedule(0.0, 1).load_state_dict({"last_epoch": 1})
