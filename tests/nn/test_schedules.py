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
def test_a_checkpoint_of_the_model_resumes_the_schedule(done: int, tmp_path: Any) -> None:
    def model() -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "schedule": VarianceSchedule(2.0, 3)})

    trained, resumed = model(), model()
    for _ in range(done):
        trained["schedule"].step()
    torch.save(trained.state_dict(), tmp_path / "checkpoint.pt")
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    for _ in range(4):
        assert resumed["schedule"].step_count == trained["schedule"].step_count
        assert resumed["schedule"]() == trained["schedule"]()
        for each in (trained, resumed):
            each["schedule"].step()


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
    assert repr(VarianceSchedule(2.0, 10)) == "VarianceSchedule(fixed_log_var=2, steps=10, step_count=0)"


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


def test_bad_states() -> None:
    schedule = VarianceSchedule(0.0, 1)
    with pytest.raises(RuntimeError, match="last_epoch"):
        schedule.load_state_dict({"last_epoch": torch.tensor(1)})
    with pytest.raises(ValueError, match="step_count: got -1, expected at least 0"):
        schedule.load_state_dict({"_extra_state": torch.tensor(-1)})
    with pytest.raises(TypeError, match=r"step_count: got float 1\.5, expected an integer"):
        schedule.load_state_dict({"_extra_state": torch.tensor(1.5)})
    assert schedule.step_count == 0
